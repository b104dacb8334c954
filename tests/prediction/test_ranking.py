from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import StructureMatcher
from toys import toy

from dao.crystal import Crystal
from dao.geometry.cells import niggli_reduce
from dao.prediction.ranking import (
    ALIKE,
    UNLIKE,
    Candidate,
    neighbourhoods,
    rank_by_recurrence,
    read_symmetry,
    same_crystals,
)

ROCKSALT = toy("rocksalt", ("Na", "Cl"), 5.64)
CSCL = toy("cscl", ("Na", "Cl"), 3.5)
ZINCBLENDE = toy("zincblende", ("Na", "Cl"), 6.1)


def noisy(crystal: Crystal, seed: int, angstrom: float = 0.02, strain: float = 0.004) -> Crystal:
    """Atoms moved, cell strained, origin and orientation drawn: what a model makes of that crystal."""
    rng = np.random.default_rng(seed)
    moved = crystal.cart_coords + angstrom * rng.uniform(-1, 1, (crystal.num_atoms, 3))
    coords = moved @ np.linalg.inv(crystal.lattice) + rng.random(3)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    lattice = crystal.lattice @ (np.eye(3) + strain * rng.uniform(-1, 1, (3, 3))) @ rotation
    order = rng.permutation(crystal.num_atoms)
    return Crystal(crystal.atomic_numbers[order], coords[order], lattice)


def supercell(crystal: Crystal, scaling: list[list[int]]) -> Crystal:
    structure = crystal.to_structure()
    structure.make_supercell(scaling)
    return niggli_reduce(Crystal.from_structure(structure))


DOUBLE = [[1, 0, 0], [0, 1, 0], [0, 0, 2]]
CUBIC = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]


def ranked(samples: list[tuple[int, int, Crystal]]) -> list[Candidate]:
    return rank_by_recurrence("NaCl", 2, samples, total=len(samples), source="generator")


def test_two_groups_with_the_right_counts_groups_and_order() -> None:
    samples = [(1, i, noisy(CSCL, i)) for i in range(3)] + [(1, 3 + i, noisy(ROCKSALT, 10 + i)) for i in range(5)]
    first, second = ranked([samples[i] for i in (0, 3, 4, 1, 5, 6, 2, 7)])
    assert (first.rank, first.count, first.space_group, first.space_group_number) == (1, 5, "Fm-3m", 225)
    assert (second.rank, second.count, second.space_group, second.space_group_number) == (2, 3, "Pm-3m", 221)
    assert sorted(first.sample_indices) == [(1, i) for i in range(3, 8)]
    assert sorted(second.sample_indices) == [(1, i) for i in range(3)]
    for candidate, ideal in ((first, ROCKSALT), (second, CSCL)):
        assert (candidate.formula_units, candidate.num_atoms, candidate.samples) == (1, 2, 8)
        assert candidate.symprec is not None
        assert candidate.symprec > 0.01
        assert abs(candidate.volume_per_atom / ideal.volume_per_atom - 1) < 0.03
        # symmetrised: now it has the symmetry at a tight tolerance
        assert read_symmetry(candidate.crystal).symprec == 0.01
        assert isinstance(candidate.structure, Structure)


def test_the_volume_is_the_median_of_what_was_sampled_in_the_smallest_cell() -> None:
    one = ROCKSALT.volume_per_atom
    samples = [
        (1, 0, replace(ROCKSALT, lattice=ROCKSALT.lattice * 1.02 ** (1 / 3))),
        (1, 1, replace(ROCKSALT, lattice=ROCKSALT.lattice * 1.10 ** (1 / 3))),
        *((2, i, supercell(replace(ROCKSALT, lattice=ROCKSALT.lattice * 1.3), DOUBLE)) for i in range(3)),
    ]
    (candidate,) = ranked(samples)
    assert candidate.count == 5
    assert candidate.volume_per_atom == pytest.approx(1.06 * one)
    assert candidate.space_group == "Fm-3m"
    assert read_symmetry(candidate.crystal).symprec == 0.01


def test_supercells_are_the_same_candidate() -> None:
    samples = [(1, 0, noisy(ROCKSALT, 0)), (2, 0, noisy(supercell(ROCKSALT, DOUBLE), 1))]
    samples += [(4, 0, noisy(supercell(ROCKSALT, CUBIC), 2)), (2, 1, supercell(CSCL, DOUBLE))]
    first, second = ranked(samples)
    assert (first.count, first.space_group, first.num_atoms, first.formula_units) == (3, "Fm-3m", 2, 1)
    assert first.sample_indices == ((1, 0), (2, 0), (4, 0))
    assert (second.count, second.space_group, second.num_atoms) == (1, "Pm-3m", 2)


def test_groups_are_pymatgens() -> None:
    # from the same crystal to another one, by and by, so that many a pair is near the tolerances
    rng = np.random.default_rng(0)
    base = Crystal([11, 11, 17, 17, 8], rng.random((5, 3)), 4.5 * np.eye(3) + rng.uniform(-1, 1, (3, 3)))
    samples = [
        (1, i, noisy(base, i, angstrom, strain))
        for i, (angstrom, strain) in enumerate((0.15 * (i % 8), 0.03 * (i % 6)) for i in range(40))
    ]
    found = rank_by_recurrence("Na2Cl2O", 5, samples, total=len(samples), source="generator")
    groups = [[number for _, number in one.sample_indices] for one in found]
    assert sorted(number for group in groups for number in group) == list(range(40))
    assert 5 < len(groups) < 35
    assert max(map(len, groups)) > 3
    crystals = [read_symmetry(crystal).crystal for _, _, crystal in samples]
    structures = [crystal.to_structure() for crystal in crystals]
    matcher, marks = StructureMatcher(primitive_cell=False), neighbourhoods(crystals)
    for group in groups:
        assert all(matcher.fit(structures[group[0]], structures[number]) for number in group)
    for one, two in combinations(sorted(group[0] for group in groups), 2):
        if np.abs(marks[one] - marks[two]).sum() < UNLIKE:
            assert not matcher.fit(structures[one], structures[two])


def test_a_cell_that_is_none_is_like_no_other() -> None:
    flat, needle = (Crystal(ROCKSALT.atomic_numbers, ROCKSALT.frac_coords, np.diag([3.0, 3.0, c])) for c in (0.0, 1e5))
    found = ranked([(1, i, crystal) for i, crystal in enumerate([flat, ROCKSALT, needle, ROCKSALT, flat])])
    assert sorted(candidate.sample_indices for candidate in found) == [
        ((1, 0),),
        ((1, 1), (1, 3)),
        ((1, 2),),
        ((1, 4),),
    ]


def test_ties_go_to_the_smaller_cell_then_the_higher_symmetry() -> None:
    places = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.3], [0.0, 0.5, 0.1], [0.5, 0.0, 0.6]]
    larger = Crystal([11, 11, 17, 17], places, np.diag([4.0, 4.0, 7.0]))
    samples = [(2, 0, larger), (1, 0, ZINCBLENDE), (1, 1, ROCKSALT)]
    assert [candidate.space_group for candidate in ranked(samples)][:2] == ["Fm-3m", "F-43m"]
    assert ranked(samples)[2].num_atoms == 4


def test_the_order_of_samples_changes_no_count() -> None:
    samples = [
        (1, i, noisy(crystal, i)) for i, crystal in enumerate([CSCL, ROCKSALT, ZINCBLENDE, ROCKSALT, CSCL, CSCL])
    ]
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(samples))
        found = ranked([samples[i] for i in order])
        assert [(one.space_group, one.count) for one in found] == [("Pm-3m", 3), ("Fm-3m", 2), ("F-43m", 1)]


def test_without_symmetry_a_sample_stays_as_it_is() -> None:
    rng = np.random.default_rng(0)
    crystal = Crystal([11, 17, 17, 8], rng.random((4, 3)), 5 * np.eye(3) + rng.uniform(-0.5, 0.5, (3, 3)))
    (candidate,) = rank_by_recurrence("NaCl2O", 4, [(1, 0, crystal)], total=3, source="generator")
    assert (candidate.space_group, candidate.count, candidate.samples) == ("P1", 1, 3)
    assert abs(candidate.volume_per_atom - crystal.volume_per_atom) < 1e-6


def test_elements_count_atoms() -> None:
    copper = Crystal([29], [[0.0, 0.0, 0.0]], 3.6 * np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]))
    (candidate,) = rank_by_recurrence("Cu", 1, [(1, 0, copper)], total=1, source="generator")
    assert (candidate.space_group, candidate.formula_units) == ("Fm-3m", 1)
    # a formula unit that is larger than the primitive cell
    (candidate,) = rank_by_recurrence(
        "O2", 2, [(1, 0, Crystal([8], [[0.0, 0.0, 0.0]], 3 * np.eye(3)))], total=1, source="x"
    )
    assert (candidate.formula_units, candidate.num_atoms) == (1, 1)


def test_nothing_gives_nothing() -> None:
    assert ranked([]) == []


def test_records_are_plain_json() -> None:
    (candidate,) = ranked([(1, 0, ROCKSALT)])
    record = candidate.record()
    assert record["volume_per_atom"] == pytest.approx(5.64**3 / 8, abs=1e-3)
    assert (record["a"], record["alpha"]) == (pytest.approx(5.64 / 2**0.5, abs=1e-3), pytest.approx(60, abs=1e-2))
    for name in ("prototype", "prototype_distance", "prototype_members"):
        assert record.pop(name) is None
    assert {type(value) for value in record.values()} <= {int, float, str}


def test_polytypes_are_different_crystals_and_a_supercell_is_not() -> None:
    """Zincblende and wurtzite, fcc and hcp: nearly the same neighbours, and other cells."""
    edge = 5.4 / 2**0.5
    hexagonal = Lattice.hexagonal(edge, edge * (8 / 3) ** 0.5)
    wurtzite = Structure.from_spacegroup("P6_3mc", hexagonal, ["Zn", "S"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.375]])
    hcp = Structure.from_spacegroup("P6_3/mmc", hexagonal, ["Cu"], [[1 / 3, 2 / 3, 0.25]])
    fcc = Structure(Lattice.cubic(4.0).matrix @ (0.5 - 0.5 * np.eye(3)), ["Cu"], [[0, 0, 0]])
    zincblende = toy("zincblende", ("Zn", "S"), 5.4)
    for pair in ([zincblende, Crystal.from_structure(wurtzite)], [Crystal.from_structure(one) for one in (fcc, hcp)]):
        marks = neighbourhoods(pair)
        assert np.abs(marks[0] - marks[1]).sum() < ALIKE
        assert same_crystals(pair) == [[0], [1]]
    assert same_crystals([zincblende, noisy(supercell(zincblende, DOUBLE), 0, angstrom=1e-3, strain=0.0)]) == [[0, 1]]
