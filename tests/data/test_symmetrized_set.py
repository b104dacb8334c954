"""Training sets in standard settings: packing, the file they are kept in, and what travels in a batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from symmetric_toys import KINDS, same_structure, symmetric_crystal, symmetric_set
from toys import toy, toy_crystals

import dao.data.symmetrized as module
from dao.crystal import Crystal, CrystalBatch
from dao.data.labels import LABEL_SYMPREC
from dao.data.store import PackedCrystals, pack_crystals
from dao.data.symmetrized import (
    in_subgroups,
    pack_symmetric,
    subgroup_sets,
    symmetrized_set,
    with_freed,
    without_symmetry,
)
from dao.errors import InputError
from dao.geometry.subgroups import in_subgroup, small_subgroups
from dao.geometry.symmetrized import symmetrized
from dao.geometry.wyckoff import site_table, wyckoff_index

BROKEN = Crystal([17, 11, 11], [[0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 1e-6]], 3.0 * np.eye(3), "broken")


def packed_toys() -> PackedCrystals:
    packed = pack_crystals([*toy_crystals()[:6], BROKEN])
    energies = torch.arange(len(packed)) / 7
    return replace(packed, labels={"energy": energies}, columns={"row": np.arange(len(packed))})


def same(one: PackedCrystals, other: PackedCrystals) -> bool:
    assert one.sites is not None
    assert other.sites is not None
    pairs = [(one.sites, other.sites), *((one.labels[name], other.labels[name]) for name in one.labels)]
    pairs += [
        (getattr(one, name), getattr(other, name)) for name in ("atomic_numbers", "frac_coords", "lattice", "offsets")
    ]
    return (
        one.ids == other.ids and one.labels.keys() == other.labels.keys() and all(torch.equal(*pair) for pair in pairs)
    )


def refuse(*_: Any) -> Any:
    raise AssertionError("read from the file, not made again")


def test_crystals_keep_their_names_and_columns_and_get_sites() -> None:
    crystals, notes = packed_toys(), list[str]()
    made = symmetrized_set(crystals, note=notes.append)
    assert notes == ["1 crystals have no space group at 0.1 A and are trained on without symmetry"]
    assert made.ids == crystals.ids
    assert made.columns["row"].tolist() == list(range(7))
    assert made.labels["energy"].tolist() == crystals.labels["energy"].tolist()
    table = site_table()
    assert made.sites is not None
    assert bool((made.sites > 0).all())
    positions = table.position[made.sites.numpy()]
    for i in range(6):
        described = symmetrized(crystals.crystal(i), LABEL_SYMPREC)
        assert int(made.labels["space_group"][i]) == described.space_group
        atoms = slice(int(made.offsets[i]), int(made.offsets[i + 1]))
        wanted = [wyckoff_index(described.space_group, one.letter) for one in described.positions() for _ in one.maps]
        assert positions[atoms].tolist() == wanted
        assert made.crystal(i).counts == crystals.crystal(i).counts
        assert made.crystal(i).volume == pytest.approx(crystals.crystal(i).volume, rel=1e-5)


def test_a_crystal_without_a_group_keeps_its_cell_in_space_group_1() -> None:
    crystals = packed_toys()
    made = symmetrized_set(crystals)
    assert int(made.labels["space_group"][6]) == 1
    kept = made.crystal(6)
    assert kept.atomic_numbers.tolist() == [11, 11, 17]
    np.testing.assert_allclose(kept.lattice, BROKEN.lattice, atol=1e-6)
    np.testing.assert_allclose(kept.frac_coords, BROKEN.frac_coords[[1, 2, 0]], atol=1e-6)
    assert made.sites is not None
    assert made.sites[-3:].tolist() == [1, 1, 1]
    described = without_symmetry(BROKEN)
    assert described.orbits == ((11, "a"), (11, "a"), (17, "a"))


def test_supercells_shrink() -> None:
    cell = toy("cscl", ("Cs", "Cl"), 4.1)
    coords = np.concatenate([cell.frac_coords * [1, 1, 0.5], cell.frac_coords * [1, 1, 0.5] + [0, 0, 0.5]])
    double = Crystal(np.tile(cell.atomic_numbers, 2), coords, np.diag([1.0, 1.0, 2.0]) @ cell.lattice)
    made = symmetrized_set(pack_crystals([double, cell]))
    assert made.num_atoms.tolist() == [2, 2]
    torch.testing.assert_close(made.lattice[0], made.lattice[1])


def test_what_was_made_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, crystals = tmp_path / "deep" / "set.safetensors", packed_toys()
    made = symmetrized_set(crystals, cache)
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
    assert same(made, symmetrized_set(crystals))
    monkeypatch.setattr(module, "symmetrized", refuse)
    again = symmetrized_set(crystals, cache)
    assert same(made, again)
    assert again.columns["row"].tolist() == list(range(7))
    # labels are the crystals' own, never the file's
    other = replace(crystals, labels={"energy": crystals.labels["energy"] + 1})
    assert symmetrized_set(other, cache).labels["energy"].tolist() == other.labels["energy"].tolist()


def _other_coordinates(crystals: PackedCrystals) -> PackedCrystals:
    return replace(crystals, frac_coords=(crystals.frac_coords + 0.01) % 1.0)


def _other_lattices(crystals: PackedCrystals) -> PackedCrystals:
    return replace(crystals, lattice=crystals.lattice * 1.01)


def _other_elements(crystals: PackedCrystals) -> PackedCrystals:
    return replace(crystals, atomic_numbers=crystals.atomic_numbers + 1)


def _other_cuts(crystals: PackedCrystals) -> PackedCrystals:
    offsets = crystals.offsets.clone()
    offsets[1] += 1
    return replace(crystals, offsets=offsets)


@pytest.mark.parametrize("change", [_other_coordinates, _other_lattices, _other_elements, _other_cuts])
def test_a_file_of_other_crystals_is_replaced(change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "symmetrized", lambda crystal, _: without_symmetry(crystal))
    cache = tmp_path / "set.safetensors"
    symmetrized_set(packed_toys(), cache)
    other = change(packed_toys())
    made = symmetrized_set(other, cache)
    monkeypatch.setattr(module, "symmetrized", refuse)
    assert same(made, symmetrized_set(other, cache))
    assert made.num_atoms.tolist() == other.num_atoms.tolist()
    torch.testing.assert_close(made.lattice, other.lattice)


def test_files_of_older_code_and_broken_ones_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "symmetrized", lambda crystal, _: without_symmetry(crystal))
    cache = tmp_path / "set.safetensors"
    made = symmetrized_set(packed_toys(), cache)
    for content in (b"", b"no safetensors", cache.read_bytes()[:-20]):
        cache.write_bytes(content)
        assert same(made, symmetrized_set(packed_toys(), cache))
        assert len(cache.read_bytes()) > 20
    before = cache.read_bytes()
    monkeypatch.setattr(module, "CACHE_VERSION", module.CACHE_VERSION + 1)
    symmetrized_set(packed_toys(), cache)
    assert cache.read_bytes() != before


def test_sites_travel_with_their_atoms() -> None:
    packed = symmetric_set((62, 225, 2))
    assert packed.sites is not None
    batch = packed.batch(torch.tensor([2, 0]), pad_to=20)
    assert batch.sites is not None
    counts = packed.num_atoms.tolist()
    pieces = packed.sites.split(counts)
    for row, i in enumerate((2, 0)):
        assert batch.sites[row, : counts[i]].tolist() == pieces[i].tolist()
        assert not batch.sites[row, counts[i] :].any()
    assert batch.sites.dtype == torch.int64
    assert batch.labels["space_group"].tolist() == [2, 62]
    chosen = packed.select(torch.tensor([1, 2]))
    assert chosen.sites is not None
    assert chosen.sites.tolist() == [*pieces[1].tolist(), *pieces[2].tolist()]
    for moved in (packed.to("cpu"), batch.to("cpu")):
        original = packed if isinstance(moved, PackedCrystals) else batch
        assert moved.sites is not None
        assert original.sites is not None
        assert torch.equal(moved.sites, original.sites)
    assert pack_crystals(toy_crystals()[:2]).batch(torch.tensor([0, 1])).sites is None
    assert CrystalBatch.from_crystals(toy_crystals()[:2]).to("cpu").sites is None


def test_free_coordinates_can_be_told_from_a_batch() -> None:
    """So coordinates must not be reduced to the cell: a map's inverse would not know by how many cells."""
    rng = np.random.default_rng(3)
    made = [symmetric_crystal(group, rng) for group in KINDS]
    packed = pack_symmetric(made, pack_crystals([one.crystal() for one in made]))
    assert packed.sites is not None
    table = site_table()
    sites = packed.sites.numpy()
    offset = packed.frac_coords.double().numpy() - table.offsets[sites]
    free = np.einsum("aij,aj->ai", np.linalg.pinv(table.maps[sites]), offset)
    wanted = [np.repeat(one.free_coords, [p.multiplicity for p in one.positions()], axis=0) for one in made]
    np.testing.assert_allclose(free, np.concatenate(wanted), atol=2e-6)


def test_the_same_crystals_without_their_symmetry_come_after_them() -> None:
    crystals = packed_toys()
    symmetric = symmetrized_set(crystals)
    both = with_freed(symmetric, crystals)
    count = len(crystals)
    assert len(both) == 2 * count
    assert same(both.select(torch.arange(count)), symmetric)
    freed = both.select(torch.arange(count, 2 * count))
    assert freed.labels["space_group"].tolist() == [1] * count
    assert freed.labels["energy"].tolist() == crystals.labels["energy"].tolist()
    assert freed.columns["row"].tolist() == list(range(count))
    assert freed.sites is not None
    assert freed.sites.unique().tolist() == [site_table().first[wyckoff_index(1, "a")]]
    for i in range(count):
        assert freed.crystal(i).frac_coords.tolist() == crystals.crystal(i).frac_coords.tolist()
        assert freed.crystal(i).atomic_numbers.tolist() == crystals.crystal(i).atomic_numbers.tolist()


def test_the_same_crystals_in_small_subgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in one that its group has, space group 1 where there is none; other draws are others."""
    crystals = packed_toys()
    symmetric = symmetrized_set(crystals)
    drawn = in_subgroups(symmetric, 0, tmp_path / "drawn.safetensors")
    assert drawn.ids == crystals.ids
    assert drawn.columns["row"].tolist() == list(range(len(crystals)))
    for i, group in enumerate(symmetric.labels["space_group"].tolist()):
        assert int(drawn.labels["space_group"][i]) in (small_subgroups(group) or {1})
        assert drawn.crystal(i).counts == crystals.crystal(i).counts
        if group > 1:
            assert same_structure(drawn.crystal(i), symmetric.crystal(i))
    others = [in_subgroups(symmetric, seed) for seed in range(1, 4)]
    assert len({tuple(one.labels["space_group"].tolist()) for one in others}) == 3

    groups = symmetric.labels["space_group"].tolist()
    unlucky, asked = max(groups), Counter[str]()

    def failing(crystal: Crystal, space_group: int, kept: tuple[int, ...]) -> Any:
        """At the first kind of each crystal, and at all of one group."""
        asked[crystal.name] += 1
        if asked[crystal.name] == 1 or space_group == unlucky:
            raise InputError("no such subgroup")
        return in_subgroup(crystal, space_group, kept)

    monkeypatch.setattr(module, "in_subgroup", failing)
    notes: list[str] = []
    (fallen,) = subgroup_sets(symmetric, 1, tmp_path, notes.append)
    lost = 0
    for group, kind in zip(groups, fallen.labels["space_group"].tolist(), strict=True):
        kinds = small_subgroups(group)
        free = group == unlucky or len(kinds) <= 1
        assert kind == 1 if free else kind in kinds
        lost += free and bool(kinds)
    assert lost >= 1
    assert notes[1] == f"{lost} descriptions in subgroups were not found: these crystals are shown without symmetry"

    monkeypatch.setattr(module, "in_subgroup", refuse)
    assert same(in_subgroups(symmetric, 0, tmp_path / "drawn.safetensors"), drawn)
    monkeypatch.undo()
    # another draw is not read from the file of the first
    assert not same(in_subgroups(symmetric, 1, tmp_path / "drawn.safetensors"), drawn)
