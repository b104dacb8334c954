"""What is dropped is compared with pymatgen's own answers; what is kept, with the source, column by column."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core.structure_matcher import StructureMatcher
from toys import listing, toy, toy_crystals, write_parquet

from dao.crystal import Crystal
from dao.data import deduplicate as module
from dao.data.deduplicate import Filters, References, deduplicate, read_references
from dao.data.training_set import load_packed
from dao.errors import InputError
from dao.evaluation import matching

NACL = toy("rocksalt", ("Na", "Cl"), 5.6, "mp-1")
SRTIO3 = toy("perovskite", ("Sr", "Ti", "O"), 3.9, "mp-2")
CAF2 = toy("fluorite", ("Ca", "F"), 5.5, "mp-3")
FIRST, SECOND = References("first", (NACL, SRTIO3)), References("second", (CAF2, NACL))


def changed(crystal: Crystal, material_id: str, amount: float = 0.0, seed: int = 0) -> Crystal:
    """Moved, turned, with its atoms in another order and every atom displaced by ``amount`` A."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    steps = rng.normal(size=(crystal.num_atoms, 3))
    steps *= amount / np.linalg.norm(steps, axis=1, keepdims=True)
    coords = crystal.frac_coords + steps @ np.linalg.inv(crystal.lattice) + rng.random(3)
    order = rng.permutation(crystal.num_atoms)
    return Crystal(crystal.atomic_numbers[order], coords[order], crystal.lattice @ turn, material_id)


def supercell(crystal: Crystal, material_id: str) -> Crystal:
    return Crystal.from_structure(crystal.to_structure().make_supercell([[2, 0, 0], [1, 1, 0], [0, 0, 1]]), material_id)


POOL = {
    "id": toy("cscl", ("Li", "F"), 2.5, "mp-1"),
    "perturbed": changed(SRTIO3, "a", 0.05),
    "turned": changed(NACL, "b"),
    "supercell": supercell(SRTIO3, "c"),
    "swollen": toy("rocksalt", ("Na", "Cl"), 6.0, "d"),
    "relabelled": changed(CAF2, "e"),
    "polymorph": toy("cscl", ("Na", "Cl"), 3.4, "f"),
    "other polymorph": toy("zincblende", ("Na", "Cl"), 6.0, "g"),
    "other formula": toy("rocksalt", ("K", "Cl"), 6.3, "h"),
    "multiple": toy("perovskite", ("Ca", "Ti", "O"), 3.8, "i"),
}
KEPT = ["f", "g", "h", "i"]


def written(out: Path) -> list[str]:
    return pq.read_table(out)["material_id"].to_pylist()


def pool_file(folder: Path, crystals: list[Crystal] | None = None, **columns: list[Any]) -> Path:
    path = folder / "pool.parquet"
    write_parquet(path, list(POOL.values()) if crystals is None else crystals, **columns)
    return path


def drops(**counts: int) -> dict[str, int]:
    return (
        dict.fromkeys(("num_atoms", "e_above_hull", "no_energy", "id", "structure", "timed_out", "repeated"), 0)
        | counts
    )


def test_every_planted_duplicate_goes_and_every_polymorph_stays(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.parquet"
    report = deduplicate(pool_file(tmp_path), [FIRST, SECOND], out)
    assert written(out) == KEPT
    assert (report.rows_in, report.rows_out) == (10, 4)
    assert report.dropped == drops(id=1, structure=5)
    # mp-1 is in both sets, as are its two duplicates
    assert report.references == [
        {"name": "first", "crystals": 2, "id": 1, "structure": 4, "timed_out": 0},
        {"name": "second", "crystals": 2, "id": 1, "structure": 3, "timed_out": 0},
    ]
    record = json.loads((out.parent / "out.json").read_text())
    assert record == json.loads(json.dumps(vars(report)))
    assert (record["settings"]["stol"], record["settings"]["max_atoms"]) == (0.1, None)
    assert set(listing([out.parent])) == {str(out), str(out.parent / "out.json")}


@pytest.mark.parametrize("stol", [0.1, 0.5])
def test_the_decision_is_pymatgens_at_that_tolerance(tmp_path: Path, stol: float) -> None:
    crystals = [
        changed(one, f"{i}-{j}", 0.12 * j, seed=10 * i + j)
        for i, one in enumerate((NACL, SRTIO3, CAF2))
        for j in range(12)
    ]
    deduplicate(pool_file(tmp_path, crystals), [FIRST, SECOND], tmp_path / "out.parquet", stol=stol)
    kept = set(written(tmp_path / "out.parquet"))
    judge = StructureMatcher(stol=stol, ltol=0.3, angle_tol=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = [(one.name, one.to_structure(), two.to_structure()) for one in crystals for two in (NACL, SRTIO3, CAF2)]
        near = {name for name, one, two in pairs if judge.get_rms_dist(one, two) is not None}
        fits = {name for name, one, two in pairs if judge.fit(one, two)}
    assert kept == {one.name for one in crystals} - near
    # all that Algorithm 2's own criterion drops is dropped
    assert fits <= near
    assert 3 < len(near) < len(crystals)


def test_the_looser_tolerance_drops_more(tmp_path: Path) -> None:
    pool = pool_file(tmp_path, [changed(SRTIO3, "near", 0.05), changed(SRTIO3, "farther", 0.6)])
    for stol, kept in ((0.1, ["farther"]), (0.5, [])):
        out = tmp_path / f"{stol}.parquet"
        assert deduplicate(pool, [FIRST], out, stol=stol).rows_out == len(kept)
        assert written(out) == kept


def test_only_crystals_of_one_formula_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def counted(crystals: list[Crystal], references: list[Crystal], pairs: list[tuple[int, int]], **how: Any) -> Any:
        compared.extend((crystals[i].name, references[j].name) for i, j in pairs)
        return match_pairs(crystals, references, pairs, **how)

    match_pairs = matching.match_pairs
    monkeypatch.setattr(matching, "match_pairs", counted)
    deduplicate(pool_file(tmp_path), [FIRST], tmp_path / "out.parquet", filters=Filters(max_atoms=5))
    # neither what an id drops, nor the supercell, which a filter drops, nor other formulas
    assert sorted(compared) == [("a", "mp-2"), ("b", "mp-1"), ("d", "mp-1"), ("f", "mp-1"), ("g", "mp-1")]


ENERGIES = {"low": 0.02, "at": 1.0, "high": 1.001, "null": None, "nan": math.nan}


@pytest.mark.parametrize(
    ("filters", "kept", "dropped"),
    [
        (Filters(), "low at high null nan", {}),
        (Filters(max_e_above_hull=1.0), "low at", {"e_above_hull": 1, "no_energy": 2}),
        (Filters(max_e_above_hull=1.0, keep_unknown=True), "low at null nan", {"e_above_hull": 1}),
    ],
)
def test_unknown_energies(tmp_path: Path, filters: Filters, kept: str, dropped: dict[str, int]) -> None:
    crystals = [toy("rocksalt", ("K", "Cl"), 6.3, name) for name in ENERGIES]
    pool = pool_file(tmp_path, crystals, e_above_hull=[*ENERGIES.values()])
    report = deduplicate(pool, [FIRST], tmp_path / "out.parquet", filters=filters)
    assert written(tmp_path / "out.parquet") == kept.split()
    assert report.dropped == drops(**dropped)


def test_number_of_atoms(tmp_path: Path) -> None:
    filters = Filters(min_atoms=3, max_atoms=5)
    report = deduplicate(pool_file(tmp_path), [FIRST, SECOND], tmp_path / "out.parquet", filters=filters)
    assert written(tmp_path / "out.parquet") == ["i"]
    # the crystal with a reference's id has two atoms: each row counts once
    assert report.dropped == drops(num_atoms=7, structure=2)


def test_all_columns_stay_as_they_are_and_training_reads_them(tmp_path: Path) -> None:
    source = pool_file(tmp_path, e_above_hull=[0.1 * i if i % 3 else None for i in range(len(POOL))])
    table = pq.read_table(source).append_column("note", pa.array([f"n{i}" for i in range(len(POOL))]))
    table = table.drop_columns(["split"])
    pq.write_table(table, source)
    out = tmp_path / "out.parquet"
    deduplicate(source, [FIRST, SECOND], out)
    assert pq.read_table(out).equals(table.slice(6))
    packed = load_packed(out, split="train", split_optional=True)
    assert list(packed.ids) == KEPT
    np.testing.assert_allclose(packed.crystal(3).cart_coords, POOL["multiple"].cart_coords, atol=1e-5)


def test_a_pair_without_an_answer_counts_as_a_duplicate(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    slow = Crystal(np.repeat([8, 22, 38], 4), rng.random((12, 3)), 5.5 * np.eye(3) + 0.5 * rng.random((3, 3)), "slow")
    pool = pool_file(tmp_path, [changed(slow, "s", 1.0), POOL["other formula"]])
    report = deduplicate(pool, [FIRST, References("slow", (slow,))], tmp_path / "out.parquet", seconds=1e-4)
    assert written(tmp_path / "out.parquet") == ["h"]
    assert report.dropped == drops(timed_out=1)
    assert [each["timed_out"] for each in report.references] == [0, 1]
    assert deduplicate(pool, [References("slow", (slow,))], tmp_path / "out.parquet").rows_out == 2


class StoppedError(Exception):
    pass


def stopping(after: int, compared: list[int]) -> Callable[..., Any]:
    """Compare pairs, but stop after so many answers."""
    match_pairs = matching.match_pairs

    def stand_in(*given: Any, on_match: Callable[[Any], None], **how: Any) -> Any:
        def note(match: Any) -> None:
            on_match(match)
            compared.append(match.prediction)
            if len(compared) == after:
                raise StoppedError

        return match_pairs(*given, on_match=note, **how)

    return stand_in


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, whole, out = pool_file(tmp_path), tmp_path / "whole.parquet", tmp_path / "out.parquet"
    everything = deduplicate(source, [FIRST, SECOND], whole)
    compared: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(matching, "match_pairs", stopping(4, compared))
        with pytest.raises(StoppedError):
            deduplicate(source, [FIRST, SECOND], out)
    assert not out.exists()
    lines = (tmp_path / "out.parquet.work" / "comparisons.jsonl").read_text().splitlines()
    finished = len(lines) - 1
    assert 2 <= finished < 7
    compared.clear()
    monkeypatch.setattr(matching, "match_pairs", stopping(-1, compared))
    assert deduplicate(source, [FIRST, SECOND], out) == everything
    assert len(set(compared)) == 7 - finished
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.parquet.work").exists()


def test_other_filters_find_the_comparisons_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, work = pool_file(tmp_path), tmp_path / "work"
    deduplicate(source, [FIRST], tmp_path / "all.parquet", work=work)
    expected = deduplicate(source, [FIRST], tmp_path / "alone.parquet", filters=Filters(max_atoms=2))
    monkeypatch.setattr(matching, "match_pairs", lambda *_, **__: pytest.fail("compared"))
    found = deduplicate(source, [FIRST], tmp_path / "few.parquet", filters=Filters(max_atoms=2), work=work)
    assert found == expected
    assert (tmp_path / "few.parquet").read_bytes() == (tmp_path / "alone.parquet").read_bytes()
    before = listing([tmp_path])
    with pytest.raises(InputError, match="made with another stol"):
        deduplicate(source, [FIRST], tmp_path / "few.parquet", stol=0.5, work=work)
    with pytest.raises(InputError, match="made with another references"):
        deduplicate(source, [SECOND], tmp_path / "few.parquet", work=work)
    assert listing([tmp_path]) == before


def test_workers_and_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pool_file(tmp_path)
    deduplicate(source, [FIRST, SECOND], tmp_path / "one.parquet")
    deduplicate(source, [FIRST, SECOND], tmp_path / "two.parquet", workers=2)
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    deduplicate(source, [FIRST, SECOND], tmp_path / "few.parquet")
    assert pq.read_table(tmp_path / "one.parquet").equals(pq.read_table(tmp_path / "few.parquet"))
    for name in ("two.parquet", "two.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("two", "one")).read_bytes()


def test_a_failed_write_leaves_the_older_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = pool_file(tmp_path), tmp_path / "out.parquet"
    deduplicate(source, [FIRST], out)
    before = listing([tmp_path])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    with pytest.raises(InputError, match="cannot be written \\(No space left"):
        deduplicate(source, [FIRST, SECOND], out, work=tmp_path / "work")
    after = listing([tmp_path])
    assert {name: after[name] for name in before} == before
    assert not list(tmp_path.glob(".*"))


def test_other_kinds_of_sources(tmp_path: Path) -> None:
    frames = []
    for one in POOL.values():
        atoms = one.to_structure().to_ase_atoms()
        atoms.calc = None
        atoms.info = {"material_id": one.name, "tc": 1.5, "kind": "toy"} | ({"n": 3} if one.name != "f" else {})
        frames.append(atoms)
    ase.io.write(tmp_path / "pool.extxyz", frames, format="extxyz")
    ase.io.write(tmp_path / "train.extxyz", frames[2:3], format="extxyz")
    deduplicate(tmp_path / "pool.extxyz", [FIRST, SECOND], tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["material_id"].to_pylist() == KEPT
    assert table["n"].to_pylist() == [None, 3, 3, 3]
    assert (table["tc"].to_pylist(), table["kind"].to_pylist()) == ([1.5] * 4, ["toy"] * 4)
    assert load_packed(tmp_path / "out.parquet").ids == tuple(KEPT)
    # and as references
    (tmp_path / "out2.parquet").unlink(missing_ok=True)
    references = read_references(tmp_path / "train.extxyz")
    report = deduplicate(pool_file(tmp_path), [references], tmp_path / "out2.parquet")
    assert report.dropped == drops(id=1, structure=1)


def test_references_are_those_of_the_splits(tmp_path: Path) -> None:
    crystals = toy_crystals()[:10]
    write_parquet(tmp_path / "toys.parquet", crystals)
    found = read_references(tmp_path / "toys.parquet", ("val", "test"))
    assert found.name == "toys:val,test"
    assert {one.name for one in found.crystals} == {crystals[3].name, crystals[7].name}
    assert len(read_references(tmp_path / "toys.parquet").crystals) == 10
    with pytest.raises(InputError, match="no row has split 'nope'"):
        read_references(tmp_path / "toys.parquet", ("val", "nope"))


@pytest.mark.parametrize(
    ("columns", "filters", "message"),
    [
        ({}, Filters(max_e_above_hull=1.0), "no column 'e_above_hull'"),
        ({"e_above_hull": ["low"] * 10}, Filters(max_e_above_hull=1.0), "e_above_hull is no number but 'low'"),
        ({}, Filters(min_atoms=11), "no crystal passes the filters"),
        ({"lattice": [[1.0] * 9] * 9 + [[1.0] * 6]}, Filters(), "row 9.*lattice"),
        ({"frac_coords": [[math.nan] * 3 * one.num_atoms for one in POOL.values()]}, Filters(), "row 0.*frac_coords"),
    ],
)
def test_bad_sources_leave_nothing(
    tmp_path: Path, columns: dict[str, list[Any]], filters: Filters, message: str
) -> None:
    source = pool_file(tmp_path, **columns)
    before = listing([tmp_path])
    with pytest.raises(InputError, match=message):
        deduplicate(source, [FIRST], tmp_path / "out.parquet", filters=filters)
    assert listing([tmp_path]) == before


def test_benchmark_crystals_go_by_id_and_by_structure(tmp_path: Path, data_dir: Path) -> None:
    table = pq.read_table(data_dir / "mp20.parquet", filters=[("split", "=", "test")]).slice(0, 30)
    pq.write_table(table, tmp_path / "named.parquet")
    names = pa.array([f"x-{i}" for i in range(len(table))])
    pq.write_table(table.set_column(0, "material_id", names), tmp_path / "renamed.parquet")
    references = [read_references(data_dir / "mp20.parquet", ("test",))]
    named = deduplicate(tmp_path / "named.parquet", references, tmp_path / "1.parquet")
    assert named.dropped == drops(id=30)
    renamed = deduplicate(tmp_path / "renamed.parquet", references, tmp_path / "2.parquet")
    assert renamed.dropped == drops(structure=30)
    assert written(tmp_path / "2.parquet") == []
