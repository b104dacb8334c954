"""Lists of candidates: what is right is what pymatgen says, and nothing is copied from the crystal itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plausibility_toys import toy_table
from toys import toy, toy_crystals, toy_energies, write_parquet

import dao.training.plausibility_lists
from dao.crystal import Crystal
from dao.errors import InputError
from dao.evaluation.matching import matcher
from dao.geometry.cells import is_niggli
from dao.recipes.schema import PlausibilitySource
from dao.training.plausibility_lists import CandidateLists, candidate_lists, read_sources

TRAIN = [crystal for i, crystal in enumerate(toy_crystals()) if i % 10 not in {3, 7}]


def silent(text: str) -> None:
    del text


def source(path: Path, **changes: Any) -> dict[str, PlausibilitySource]:
    return {"toys": PlausibilitySource.model_validate({"file": "toys.parquet", "table": str(path), **changes})}


def made(out: Path, table: Path, data: Path, note: Callable[[str], None] = silent, **changes: Any) -> CandidateLists:
    return candidate_lists(read_sources(source(table, **changes), data, 0, note), out, progress=False, note=note)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_table(tmp_path_factory.mktemp("table") / "toys.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists")


@pytest.fixture(scope="module")
def lists(folder: Path, table: Path, toy_file: Path) -> CandidateLists:
    return made(folder, table, toy_file)


def composition(crystal: Crystal) -> tuple[int, ...]:
    return tuple(sorted(crystal.atomic_numbers.tolist()))


def of(lists: CandidateLists, number: int) -> list[tuple[Crystal, bool]]:
    rows = range(*lists.offsets[number : number + 2].tolist())
    return [(lists.crystals.crystal(row), bool(lists.right[row])) for row in rows]


def test_what_is_right_is_what_pymatgen_says(lists: CandidateLists, table: Path, toy_file: Path) -> None:
    (known,) = read_sources(source(table), toy_file, 0, silent)
    # of AB2 there is one prototype with one way to put elements on it, and no choice
    targets = [crystal for crystal in map(known.crystals.crystal, range(len(TRAIN))) if crystal.num_atoms != 3]
    assert len(lists) == len(targets)
    for number, target in enumerate(targets):
        candidates = of(lists, number)
        assert 2 <= len(candidates) <= 3
        for candidate, right in candidates:
            assert composition(candidate) == composition(target)
            assert is_niggli(candidate)
            assert right == (matcher().get_rms_dist(candidate.to_structure(), target.to_structure()) is not None)
        assert 0 < sum(right for _, right in candidates) < len(candidates)
    assert set(lists.sizes.tolist()) == {2, 5}


def test_nothing_is_proposed_from_the_own_composition(tmp_path: Path) -> None:
    cscl, tlcl = toy("cscl", ("Cs", "Cl"), 4.1, "CsCl"), toy("cscl", ("Tl", "Cl"), 3.8, "TlCl")
    gaas, inp = toy("zincblende", ("Ga", "As"), 5.65, "GaAs"), toy("zincblende", ("In", "P"), 5.9, "InP")
    table = toy_table(tmp_path / "table.safetensors", [cscl, gaas, inp])
    write_parquet(tmp_path / "toys.parquet", [cscl, tlcl, gaas], split=["train"] * 3)
    notes: list[str] = []
    lists = made(tmp_path / "out", table, tmp_path, notes.append)
    # the table's only CsCl is this crystal itself: only zinc blende is proposed for it, which is wrong
    assert notes == ["toys: 2 of 3 crystals have both right and wrong candidates"]
    assert {composition(of(lists, number)[0][0]) for number in range(2)} == {composition(tlcl), composition(gaas)}


def test_made_lists_are_read_and_a_broken_file_is_gone_on_with(
    tmp_path: Path, folder: Path, lists: CandidateLists, table: Path, toy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = folder.glob("lists-*.jsonl")
    lines = whole.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + len(TRAIN)
    # killed while the twelfth line was written
    (tmp_path / whole.name).write_bytes(b"".join(lines[:12]) + lines[12][:20])
    line, calls = dao.training.plausibility_lists._line, []

    def counted(target: Crystal, *arguments: Any) -> list[Any]:
        calls.append(target.material_id)
        return line(target, *arguments)

    monkeypatch.setattr(dao.training.plausibility_lists, "_line", counted)
    again = made(tmp_path, table, toy_file)
    assert len(calls) == len(TRAIN) - 11
    assert (tmp_path / whole.name).read_bytes() == whole.read_bytes()
    assert again.digest == lists.digest
    calls.clear()
    # fewer crystals are the first of them
    fewer = made(tmp_path, table, toy_file, count=20)
    assert not calls
    assert fewer.digest != lists.digest
    assert of(fewer, 0)[0][0].frac_coords.tolist() == of(lists, 0)[0][0].frac_coords.tolist()
    # other proposals are other lists, beside the first ones
    made(tmp_path, table, toy_file, proposals=2, count=5)
    assert len(calls) == 5
    assert len(list(tmp_path.glob("lists-*.jsonl"))) == 2


def test_a_batch_shows_the_first_ones_and_one_that_is_right(lists: CandidateLists) -> None:
    one, other = [number for number in range(len(lists)) if len(of(lists, number)) == 3][:2]
    marks = lists.right.copy()
    marks[lists.offsets[one] : lists.offsets[one] + 3] = (False, False, True)
    marks[lists.offsets[other] : lists.offsets[other] + 3] = (True, False, True)
    marked = replace(lists, right=marks)
    shown = marked.batch(np.array([one, other]), 2)
    assert shown.places.tolist() == [[0, 1], [2, 3]]
    assert shown.first.tolist() == [0, 0, 2, 2]
    assert shown.right.tolist() == [False, True, True, False]
    expected = [of(lists, one)[i][0] for i in (0, 2)] + [of(lists, other)[i][0] for i in (0, 1)]
    for i, crystal in enumerate(expected):
        np.testing.assert_allclose(shown.crystals.lattice[i], crystal.lattice, rtol=1e-6)
    wide = marked.batch(np.array([one]), 5)
    assert wide.places.tolist() == [[0, 1, 2, -1, -1]]


def test_sizes_and_energies(tmp_path: Path, table: Path) -> None:
    energies = toy_energies(toy_crystals())
    write_parquet(tmp_path / "toys.parquet", toy_crystals(), e_above_hull=energies)
    (known,) = read_sources(source(table, min_atoms=3, max_atoms=4), tmp_path, 0, silent)
    assert set(known.crystals.num_atoms.tolist()) == {3}
    (known,) = read_sources(source(table, max_e_above_hull=0.05), tmp_path, 0, silent)
    expected = {
        crystal.material_id
        for i, (crystal, energy) in enumerate(zip(toy_crystals(), energies, strict=True))
        if i % 10 not in {3, 7} and (energy is None or energy <= 0.05)
    }
    assert set(known.crystals.ids) == expected
    assert len(expected) < len(TRAIN)
    (other,) = read_sources(source(table, max_e_above_hull=0.05), tmp_path, 1, silent)
    assert other.crystals.ids != known.crystals.ids
    for changes, message in (
        ({"min_atoms": 8}, r"has no crystal of 8 to 20 atoms$"),
        ({"train_split": "nowhere"}, "nowhere"),
        ({"table": "nowhere"}, "neither a shipped table of prototypes"),
    ):
        with pytest.raises(InputError, match=message):
            read_sources(source(table, **changes), tmp_path, 0, silent)
    write_parquet(tmp_path / "toys.parquet", toy_crystals(), e_above_hull=[1.0] * len(energies))
    with pytest.raises(InputError, match=r"no crystal of 1 to 20 atoms and at most 0\.5 eV/atom above the hull$"):
        read_sources(source(table, max_e_above_hull=0.5), tmp_path, 0, silent)


def test_several_files_need_a_folder(tmp_path: Path, table: Path, toy_file: Path) -> None:
    two = source(table) | {"more": PlausibilitySource(file="more.parquet", table=str(table))}
    with pytest.raises(InputError, match="the recipe reads several files, give the folder that holds them"):
        read_sources(two, toy_file, 0, silent)
    with pytest.raises(InputError, match=r"more\.parquet: no such file$"):
        read_sources(two, toy_file.parent, 0, silent)
    write_parquet(tmp_path / "toys.parquet", toy_crystals())
    write_parquet(tmp_path / "more.parquet", toy_crystals()[:10])
    assert [one.name for one in read_sources(two, tmp_path, 0, silent)] == ["toys", "more"]


def test_nothing_to_learn_from(tmp_path: Path, table: Path, toy_file: Path) -> None:
    with pytest.raises(InputError, match="there is nothing to learn from"):
        made(tmp_path, table, toy_file, min_atoms=3, max_atoms=4)
