"""``dao evaluate stability`` from end to end: samples of an untrained generator, judges whose answers are known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.calculators.calculator import Calculator
from toys import listing, tiny_generator, tiny_predictor, toy, toy_crystals, write_parquet

from dao.cli import main
from dao.crystal import Crystal
from dao.evaluation.stability_run import chosen_rows
from dao.interop.foundation import FOUNDATIONS, Foundation
from dao.prediction.energies import predict_energies

# two of one composition, so that samples must be told apart by more than that
TRUE = [*toy_crystals()[:6], toy("cscl", ("Na", "Cl"), 3.4, "mp-cscl"), toy("zincblende", ("Na", "Cl"), 5.8, "mp-zb")]
LARGEST = 25.0
"""A^3/atom, beyond which the judge knows nothing."""
OTHERS = [toy("rocksalt", ("K", "Br"), 6.6, "unasked")]


def planted(volume: float) -> float:
    """Energy by volume, eV/atom (A^3/atom), up to some size."""
    if volume > LARGEST:
        raise RuntimeError("falls apart")
    return volume / 50.0


class ByVolume(Calculator):
    """A judge whose answers can be told by hand; it can be stopped after some of them."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 -- ASE's own declaration
    left = 10**9

    def calculate(self, atoms: Any = None, *_: Any, **__: Any) -> None:
        if ByVolume.left == 0:
            raise KeyboardInterrupt
        ByVolume.left -= 1
        volume = atoms.get_volume() / len(atoms)
        pressure = -len(atoms) / 50.0 / len(atoms)
        stress = np.array([1.0, 1, 1, 0, 0, 0]) * -pressure
        energy = len(atoms) * planted(volume)
        self.results = {"energy": energy, "forces": np.zeros((len(atoms), 3)), "stress": stress}


@pytest.fixture(autouse=True)
def _judges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FOUNDATIONS, "volume", Foundation("ase", "planted", lambda _: ByVolume()))  # type: ignore[no-untyped-call]
    monkeypatch.setattr(ByVolume, "left", 10**9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of two samples a target and, in ``predictor``, judge one."""
    made = tmp_path_factory.mktemp("place")
    tiny_generator().save(made / "weights")
    tiny_predictor().save(made / "predictor")
    write_parquet(made / "mp20.parquet", [*OTHERS, *TRUE], split=["val"] + ["test"] * len(TRUE))
    given = ["--weights", made / "weights", "--data", made / "mp20.parquet", "--device", "cpu", "--k", "1,2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dao.evaluation.run.write_figures", lambda *_, **__: {})
        arguments = ["evaluate", "csp", *map(str, given), "--quiet", "--no-ranked", "--out", str(made / "csp")]
        assert main(arguments) == 0
    return made


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    given = ["--data", str(folder / "mp20.parquet"), "--calculator", "volume", "--predictor", str(folder / "predictor")]
    return [
        "evaluate",
        "stability",
        str(folder / "csp"),
        *given,
        "--device",
        "cpu",
        "--quiet",
        "--out",
        str(out),
        *more,
    ]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def samples_of(folder: Path) -> list[list[Crystal | None]]:
    """From the file itself: the first target of a composition has replica 0, the second 1."""
    known: dict[Any, Crystal | None] = {}
    for line in map(json.loads, (folder / "csp" / "samples-0.jsonl").read_text().splitlines()[1:]):
        numbers = tuple(line["atomic_numbers"])
        made = None if "failure" in line else Crystal(list(numbers), line["frac_coords"], line["lattice"])
        known[numbers, line.get("replica", 0), line["index"]] = made
    table, seen = [], set()
    for one in TRUE:
        numbers = tuple(sorted(one.atomic_numbers.tolist()))
        table.append([known[numbers, int(numbers in seen), index] for index in range(2)])
        seen.add(numbers)
    return table


def test_both_judges_say_what_can_be_worked_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = main(arguments(folder, out, "--format", "json"))
    printed, err = capsys.readouterr()
    results = read(out / "stability.json")
    table = samples_of(folder)
    assert any(one is None or one.volume_per_atom > LARGEST for row in table for one in row), (
        "nothing fails: a dull test"
    )
    # by volume, against the reference
    above, left_out = np.full((len(TRUE), 2), np.inf), []
    for i, (true, row) in enumerate(zip(TRUE, table, strict=True)):
        if true.volume_per_atom > LARGEST:
            left_out.append(i)
        for j, one in enumerate(row):
            if one is not None and one.volume_per_atom <= LARGEST:
                above[i, j] = (one.volume_per_atom - true.volume_per_atom) / 50
    kept = [i for i in range(len(TRUE)) if i not in left_out]
    assert code == (3 if left_out else 0)
    # by the predictor
    model = tiny_predictor()
    energy = np.full((len(TRUE), 2), np.inf)
    for i, row in enumerate(table):
        for j, one in enumerate(row):
            if one is not None:
                energy[i, j] = predict_energies(model, [one])[0]
    references = np.array(predict_energies(model, TRUE))
    rows = {(line["judge"].split()[0], line["k"]): line for line in results["rows"]}
    assert list(rows) == [("DAO-P", 1), ("DAO-P", 2), ("DAO-P", None), ("volume", 1), ("volume", 2)]
    for k in (1, 2):
        one = rows["DAO-P", k]
        assert one["stable"]["value"] == pytest.approx((energy[:, :k] <= 0.08).mean())
        assert one["energy"]["value"] == pytest.approx(np.median(energy[:, :k]), abs=1e-5)
        assert one["lower"]["value"] == pytest.approx((energy[:, :k] - references[:, None] < -0.001).mean())
        two = rows["volume", k]
        assert two["targets"] == len(kept)
        assert two["stable"]["value"] == pytest.approx((above[kept, :k] <= 0.08).mean())
        assert two["lower"]["value"] == pytest.approx((above[kept, :k] < -0.001).mean())
        assert two["without_energy"] == np.isinf(above[kept, :k]).sum()
        if np.isfinite(np.median(above[kept, :k])):
            assert two["energy"]["value"] == pytest.approx(np.median(above[kept, :k]), abs=1e-5)
        first, second = energy[kept, :k] <= 0.08, above[kept, :k] <= 0.08
        (both,) = [line for line in results["agreement"] if line["k"] == k]
        assert both["both"] == (first & second).sum()
        assert both["first_only"] == (first & ~second).sum()
        assert both["second_only"] == (~first & second).sum()
        assert both["neither"] == (~first & ~second).sum()
    assert rows["DAO-P", None]["stable"]["value"] == pytest.approx((references <= 0.08).mean())
    # what failed is said
    failures = read(out / "failures.json")
    assert {one["reason"] for one in failures} == {"RuntimeError: falls apart"}
    assert f"{len(failures)} structures got no energy" in err
    assert "Traceback" not in err
    assert len(json.loads(printed)) == 5
    page = (out / "stability.md").read_text()
    assert "Agreement" in page
    assert "volume" in page


def test_stopped_and_gone_on_it_ends_with_the_same_files(folder: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    code = main(arguments(folder, whole, "--relax", "3"))
    name = "energies-volume-relax-3.jsonl"
    complete = (whole / name).read_bytes().splitlines()
    for calls in (5, 20):
        ByVolume.left = calls
        assert main(arguments(folder, out, "--relax", "3")) == 130
        lines = (out / name).read_bytes().splitlines()
        assert complete[: len(lines)] == lines
        assert 1 < len(lines) < len(complete)
        assert not (out / "stability.json").exists()
        # what a kill in the middle of writing leaves
        with (out / name).open("ab") as stream:
            stream.write(complete[-1][:20])
    ByVolume.left = 10**9
    assert main(arguments(folder, out, "--relax", "3")) == code
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }
    # and a finished one asks the potential nothing
    ByVolume.left = 0
    before = listing([out])
    assert main(arguments(folder, out, "--relax", "3")) == code
    assert listing([out]) == before
    relaxed = [line for line in read(out / "stability.json")["rows"] if "relaxed by at most 3 steps" in line["judge"]]
    assert [line["k"] for line in relaxed] == [1, 2]
    known = {(row, index): record["relaxed"] for row, index, record in map(json.loads, complete[1:])}
    above = [
        np.inf if known.get((row, index)) is None else known[row, index] - known[row, -1]
        for row in range(len(TRUE))
        for index in range(2)
        if known[row, -1] is not None
    ]
    assert relaxed[1]["stable"]["value"] == pytest.approx((np.array(above) <= 0.08).mean())
    assert relaxed[1]["energy"]["value"] == pytest.approx(np.median(above))
    given = [line for line in read(out / "stability.json")["rows"] if "as given" in line["judge"]]
    assert relaxed[1]["energy"] != given[1]["energy"]


def test_fewer_targets_and_samples_use_the_same_energies(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    few = ["--count", "3", "--samples", "1"]
    main(arguments(folder, out, *few))
    first = (out / "energies-volume.jsonl").read_bytes()
    assert len(first.splitlines()) <= 1 + 6
    assert len(read(out / "stability.json")["judged"]["ids"]) == 3
    assert {line["k"] for line in read(out / "stability.json")["rows"]} == {1, None}
    main(arguments(folder, out))
    assert (out / "energies-volume.jsonl").read_bytes().startswith(first)
    lines = (out / "energies-volume.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines))


def test_subsets_are_random_and_nested() -> None:
    chosen = [chosen_rows(50, count) for count in (5, 20, 50)]
    assert set(chosen[0]) < set(chosen[1]) < set(chosen[2])
    assert chosen[2] == chosen_rows(50, None) == list(range(50))
    assert chosen[1] == sorted(chosen[1]) != list(range(20))


def test_a_run_against_itself_differs_in_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "evaluation"
    main(arguments(folder, other / "stability"))
    main(arguments(folder, tmp_path / "out", "--against", str(other)))
    differing = read(tmp_path / "out" / "stability.json")["differences"]
    assert len(differing) == 4
    assert all(line[key] == {"value": 0, "low": 0, "high": 0} for line in differing for key in ("stable", "match"))
    assert "+0.0 (+0.0 to +0.0)" in (tmp_path / "out" / "stability.md").read_text()
    (other / "stability" / "stability.json").write_text('{"judged": {"ids": 3}}')
    capsys.readouterr()
    for path, told in ((other, "not what dao evaluate stability writes"), (tmp_path / "none", "holds no stability")):
        assert main(arguments(folder, tmp_path / "refused", "--against", str(path))) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--calculator", "vasp"], "calculator 'vasp': unknown; there are: chgnet"),
        (["--calculator", "absent"], "needs the package no-such-package-of-anybody"),
        (["--predictor", "@/weights"], "generator"),
        (["--split", "val"], "give the --data and --split it was of"),
        (["--data", "@/nowhere"], "--data"),
        (["--samples", "3"], "--samples 3: the evaluation has 2"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    told: str,
) -> None:
    monkeypatch.setitem(FOUNDATIONS, "absent", Foundation("no-such-package-of-anybody", "none", lambda _: None))
    before = listing([folder])
    assert main(arguments(folder, tmp_path / "out", *(one.replace("@", str(folder)) for one in more))) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err
    assert not (tmp_path / "out").exists()
    assert listing([folder]) == before


def test_folders_that_are_no_finished_evaluation(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(broken: Path) -> str:
        arguments_of = arguments(folder, tmp_path / "out")
        arguments_of[2] = str(broken)
        assert main(arguments_of) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert not (tmp_path / "out").exists()
        return str(err)

    assert "holds no results" in refused(tmp_path / "nothing")
    shutil.copytree(folder / "csp", broken := tmp_path / "csp")
    lines = (broken / "samples-0.jsonl").read_bytes().splitlines(keepends=True)
    (broken / "samples-0.jsonl").write_bytes(b"".join(lines[:-1]))
    assert "lacks samples" in refused(broken)
    (broken / "scores.json").write_text("[")
    assert "not JSON" in refused(broken)
    (broken / "scores.json").unlink()
    assert "run dao evaluate csp to its end" in refused(broken)
    (broken / "evaluation.jsonl").write_text('{"made_by": {"file": "x", "content": "y", "targets": "z"}}\n')
    assert "keeps no samples" in refused(broken)
    (broken / "evaluation.jsonl").write_text('{"made_by": {"seed": "one"}}\n')
    assert "not a file of results" in refused(broken)


def test_without_any_judge(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dao.weights.shipped", dict)
    given = [str(folder / "csp"), "--data", str(folder / "mp20.parquet"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", "stability", *given]) == 2
    assert "none are shipped" in capsys.readouterr().err
    # one of the two is enough
    main(["evaluate", "stability", *given, "--calculator", "volume", "--quiet", "--device", "cpu"])
    assert {line["judge"].split()[0] for line in read(tmp_path / "out" / "stability.json")["rows"]} == {"volume"}
    assert "DAO-P" not in capsys.readouterr().out


def test_a_potential_that_knows_no_reference(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: float) -> float:
        raise ValueError("no parameters")

    monkeypatch.setitem(globals(), "planted", broken)
    assert main(arguments(folder, tmp_path / "out")) == 2
    assert "no reference crystal has an energy; the first reason: ValueError: no parameters" in capsys.readouterr().err
