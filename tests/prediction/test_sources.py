from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from toys import toy, toy_crystals, write_parquet

from dao.crystal import Crystal
from dao.data.store import pack_crystals
from dao.elements import ATOMIC_NUMBERS
from dao.errors import InputError
from dao.evaluation.candidates import check_table
from dao.prediction import sources
from dao.prediction.proposals import merged, proposed, with_proposals
from dao.prediction.prototype_build import build_table
from dao.prediction.prototypes import Proposer
from dao.prediction.ranking import Candidate, rank_by_recurrence
from dao.prediction.sources import Sources, choose_sources

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "toys.safetensors"
    build_table(pack_crystals(toy_crystals()), {"source": "toys", "splits": []}).save(path)
    return path


def generated(*crystals: Crystal) -> list[Candidate]:
    samples = [(1, i, one) for i, one in enumerate(crystals)]
    return rank_by_recurrence("NaCl", 2, samples, total=len(samples), source="generator")


def test_both_sources_in_turns_each_crystal_once(table: Path) -> None:
    cell = {1: (ATOMIC_NUMBERS["Na"], ATOMIC_NUMBERS["Cl"])}
    own = proposed(Proposer.load(table), "NaCl", cell, 20, samples=5)
    assert [one.rank for one in own] == [1, 2, 3]
    assert {one.space_group for one in own} == {"Fm-3m", "F-43m", "Pm-3m"}
    assert {one.source for one in own} == {"prototype"}
    assert own[0].prototype == "NaCl"
    assert {one.formula_units for one in own} == {1}
    second = next(one for one in own if one.space_group == "F-43m")
    zincblende = toy("zincblende", ("Na", "Cl"), 6.1)
    strange = Crystal([11, 17], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.3]], 3.0 * np.diag([1.0, 1.0, 2.3]))
    others = generated(zincblende, zincblende, zincblende, strange, strange)
    both = merged(others, own)
    assert [one.rank for one in both] == [1, 2, 3, 4]
    # the generator's first is one of the prototypes', and moves up to the second place
    assert [both[0].source, both[1].source] == ["prototype", "both"]
    assert both[1].space_group == "F-43m"
    assert (both[1].count, both[1].sample_indices) == (3, ((1, 0), (1, 1), (1, 2)))
    # the prototype's geometry, at a volume between both
    assert np.array_equal(both[1].crystal.frac_coords, second.crystal.frac_coords)
    low, high = sorted([second.volume_per_atom, zincblende.volume_per_atom])
    assert low < both[1].volume_per_atom < high
    assert sorted(one.source for one in both) == ["both", "generator", "prototype", "prototype"]
    for alone, kept in ((merged(others, []), others), (merged([], own), own)):
        assert [one.record() for one in alone] == [one.record() for one in kept]
    assert {one.record()["prototype"] for one in others} == {None}


def test_known_crystals_of_the_same_elements_say_the_volume(table: Path) -> None:
    """A crystal of those elements in that structure has been measured; a sample is off by some per cent."""
    proposal = proposed(Proposer.load(table), "NaCl", {1: (11, 17)}, 20, samples=5)[0]
    assert (proposal.space_group, proposal.prototype_distance) == ("Fm-3m", 0.0)
    (sample,) = generated(toy("rocksalt", ("Na", "Cl"), 6.2))
    logs = {}
    for distance in (0.0, 0.001, 0.1, 3.0, None):
        (both,) = merged([sample], [replace(proposal, prototype_distance=distance)])
        assert (both.source, both.judged_volume) == ("both", proposal.volume_per_atom)
        apart = np.log(sample.volume_per_atom / proposal.volume_per_atom)
        logs[distance] = np.log(sample.volume_per_atom / both.volume_per_atom) / apart
    assert logs[0.0] == pytest.approx(1.0)
    assert 1.0 > logs[0.001] > 0.5 > logs[0.1] > 0.2 > logs[3.0] >= 0.0
    assert logs[None] == pytest.approx(0.0, abs=1e-9)


def test_of_both_geometries_the_more_symmetric_is_kept(table: Path) -> None:
    """At the same tolerance: what samples have only at a looser one may be a true distortion of the prototype."""
    cubic = toy("perovskite", ("Sr", "Ti", "O"), 3.9)
    coords = cubic.frac_coords.copy()
    coords[cubic.atomic_numbers == 22, 2] += 0.01
    polar = Crystal(cubic.atomic_numbers, coords, cubic.lattice * [1.0, 1.0, 1.01])
    cell = {1: tuple(cubic.atomic_numbers.tolist())}
    proposal = proposed(Proposer.load(table), "SrTiO3", cell, 1)[0]
    low, high = generated(polar)[0], generated(cubic)[0]
    assert (high.space_group, high.symprec) == ("Pm-3m", 0.01)
    distorted = replace(proposal, crystal=polar, space_group="P4mm", space_group_number=99)
    (both,) = merged([replace(high, count=3)], [distorted])
    assert (both.source, both.space_group, both.space_group_number, both.count) == ("both", "Pm-3m", 221, 3)
    assert np.array_equal(both.crystal.frac_coords, high.crystal.frac_coords)
    assert (both.prototype, both.prototype_distance) == (proposal.prototype, proposal.prototype_distance)
    (both,) = merged([replace(high, symprec=0.1)], [distorted])
    assert (both.space_group, both.symprec) == ("P4mm", 0.01)
    (both,) = merged([replace(low, space_group="P4mm", space_group_number=99, symprec=0.01)], [proposal])
    assert both.space_group == "Pm-3m"
    assert np.array_equal(both.crystal.frac_coords, proposal.crystal.frac_coords)


def test_votes_are_counted_once_for_both_sources(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    votes = Proposer.space_group_votes

    def counting(self: Proposer, numbers: Sequence[int], **options: bool) -> npt.NDArray[np.float64]:
        counted.append(len(numbers))
        return votes(self, numbers, **options)

    monkeypatch.setattr(Proposer, "space_group_votes", counting)
    proposer, cells = Proposer.load(table), {1: (11, 17), 2: (11, 11, 17, 17)}
    found = with_proposals(generated(), proposer, "NaCl", cells, Sources(table=table), samples=0)
    assert counted == [2, 4]
    assert [one.space_group for one in found][:1] == ["Fm-3m"]
    assert sum({one.space_group: one.space_group_share or 0.0 for one in found}.values()) == pytest.approx(1.0)
    own = with_proposals(
        generated(), proposer, "NaCl", {1: (11, 17)}, Sources(exclude_same_composition=True), samples=0
    )
    assert {one.prototype for one in own} & {"NaCl"} == set()


def test_choice_of_sources(table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "TABLES", tmp_path)
    assert choose_sources(None) == Sources()
    assert choose_sources(None, table).names == "generator,prototypes"
    assert choose_sources("prototypes", table) == Sources(generator=False, table=table)
    with pytest.raises(InputError, match="neither a shipped table"):
        choose_sources("prototypes")
    main, more = tmp_path / "pool.safetensors", tmp_path / "aflow.safetensors"
    main.write_bytes(table.read_bytes())
    assert choose_sources(None) == Sources(table=main)
    more.write_bytes(table.read_bytes())
    (tmp_path / "other.safetensors").write_bytes(table.read_bytes())
    assert choose_sources(None) == Sources(table=main, also=(more,))
    assert choose_sources(None, supplement=False) == Sources(table=main)
    assert choose_sources(None, "aflow") == Sources(table=more)
    assert choose_sources(None, f"aflow,{table}") == Sources(table=more, also=(table,))
    with pytest.raises(InputError, match="'nothing': neither a shipped table"):
        choose_sources(None, "aflow,nothing")
    assert choose_sources("generator") == Sources()
    for bad in ("", "guess", "generator,guess"):
        with pytest.raises(InputError, match="sources"):
            choose_sources(bad)
    with pytest.raises(InputError, match="not among them"):
        choose_sources("generator", table)


def test_build_list_and_predict(run: Run, tmp_path: Path) -> None:
    write_parquet(tmp_path / "known.parquet", toy_crystals())
    code, _, said = run("prototypes", "build", "known.parquet:train", "--out", "known.safetensors")
    assert code == 0
    assert "5 prototypes of 40 crystals" in said
    code, out, _ = run("prototypes", "list", "--table", "known.safetensors", "--format", "json")
    listed = json.loads(out)
    assert code == 0
    assert listed["record"]["splits"] == ["train"]
    assert len(listed["prototypes"]) == 5
    code, out, _ = run("prototypes", "list", "NaCl", "--table", "known.safetensors", "--cells", "1")
    assert code == 0
    assert "Fm-3m" in out
    arguments = ("--sources", "prototypes", "--table", "known.safetensors", "--cells", "1", "--quiet")
    code, out, _ = run("predict", "SrTiO3", *arguments, "--format", "json")
    assert code == 0
    # and titanium on the large site
    record, _ = json.loads(out)
    assert (record["source"], record["space_group"], record["count"]) == ("prototype", "Pm-3m", 0)
    assert list((tmp_path / "predictions" / "SrTiO3").glob("*.cif"))
    two = (
        "predict",
        "NaCl",
        "--sources",
        "prototypes",
        "--table",
        "known.safetensors,aflow",
        "--cells",
        "1",
        "--quiet",
    )
    first, second = run(*two), run(*two)
    assert (first[0], first[1].count("Fm-3m")) == (0, 1)
    assert second == first
    # an anonymous formula that the table does not have
    code, _, said = run("predict", "Li3N", *arguments)
    assert code == 3
    assert "1 formula got no candidate" in said
    assert "no prototype" in (tmp_path / "predictions" / "failures.json").read_text(encoding="utf-8")


def test_left_out_by_id(run: Run, tmp_path: Path) -> None:
    write_parquet(tmp_path / "known.parquet", toy_crystals())
    command = (
        "prototypes",
        "build",
        "known.parquet",
        "--leave-out",
        "known.parquet:val,test",
        "--out",
        "t.safetensors",
    )
    code, _, said = run(*command)
    assert code == 0
    assert "of 40 crystals" in said
    code, out, _ = run("prototypes", "list", "--table", "t.safetensors", "--format", "json")
    (left_out,) = json.loads(out)["record"]["left_out"]
    assert left_out == {"source": "known.parquet", "splits": ["val", "test"], "by_id": 10}


def test_evaluation_of_prototypes(run: Run, tmp_path: Path) -> None:
    write_parquet(tmp_path / "known.parquet", toy_crystals())
    assert run("prototypes", "build", "known.parquet:train", "--out", "t.safetensors", "--quiet")[0] == 0
    command = ["evaluate", "csp", "--sources", "prototypes", "--table", "t.safetensors", "--data", "known.parquet"]
    command += ["--split", "test", "--k", "1,3", "--quiet", "--format", "json", "--out", "out"]
    code, out, _ = run(*command)
    assert code == 0
    rows = {row["k"]: row for row in json.loads(out)}
    assert rows["3"]["unfiltered"].startswith("100.0")
    assert rows["1"]["unfiltered"] == rows["ranked"]["unfiltered"]
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "5 of 40 crystals of known.parquet (train)" in report
    # the same command does nothing twice, and another table is another evaluation
    assert run(*command)[1] == out
    assert run("prototypes", "build", "known.parquet:val", "--out", "t.safetensors", "--quiet")[0] == 0
    code, _, said = run(*command)
    assert code == 2
    assert "made with another prototypes" in said
    for source in ("known.parquet", "known.parquet:train,test"):
        assert run("prototypes", "build", source, "--out", "t.safetensors", "--quiet")[0] == 0
        code, _, said = run(*command[:-1], "new")
        assert code == 2
        assert "was built from the crystals of known.parquet of split test" in said
    # other crystals may be the same: only a record that they were left out will do
    write_parquet(tmp_path / "others.parquet", toy_crystals())
    for given, good in (((), False), (("known.parquet:train",), False), (("known.parquet:test",), True)):
        options = [part for one in given for part in ("--leave-out", one)]
        assert run("prototypes", "build", "others.parquet", *options, "--out", "t.safetensors", "--quiet")[0] == 0
        code, _, said = run(*command[:-1], "others")
        assert code == (0 if good else 2)
        assert good or "record does not say that the crystals of known.parquet of split test were left out" in said
        assert good or said.count("\n") == 1


@pytest.mark.parametrize(
    ("table", "data", "split", "good"),
    [
        ("pool", "mp20", "test", True),
        ("pool", "mp20", "val", True),
        ("pool", "mpts52", "test", True),
        ("pool", "mp20", "train", False),
        ("pool", "mpts52", "train", False),
        ("pool", "mine", None, False),
        ("mp20", "mp20", "test", True),
        ("mp20", "mp20", "train", False),
        ("mp20", "mp20", None, False),
        ("mp20", "mpts52", "test", False),
        ("aflow", "mp20", "test", False),
    ],
)
def test_what_shipped_tables_may_be_scored_on(table: str, data: str, split: str | None, good: bool) -> None:  # noqa: FBT001
    path = sources.shipped_tables()[table]
    with nullcontext() if good else pytest.raises(InputError, match=rf"^--table \S+{table}.safetensors: "):
        check_table(path, Path(f"{data}.parquet"), split)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prototypes", "build", "nothing.parquet", "--out", "t.safetensors"), "neither a file"),
        (("prototypes", "build", "nothing.parquet", "--out", "t.json"), "something.safetensors"),
        (("prototypes", "list", "--table", "nothing"), "neither a shipped table"),
        (("predict", "NaCl", "--sources", "guess"), "--sources 'guess'"),
        (("evaluate", "csp", "--sources", "prototypes", "--table", "nothing"), "neither a shipped table"),
    ],
)
def test_bad_input_is_refused_in_a_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, said = run(*arguments)
    assert code == 2
    assert message in said
    assert said.count("\n") == 1
