from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core.structure_matcher import StructureMatcher
from toys import toy, toy_crystals

from dao.crystal import Crystal
from dao.evaluation.matching import Pair, rms_distance, rms_distances

TRUE = toy_crystals()[::5]


def moved(crystal: Crystal, seed: int, amount: float) -> Crystal:
    rng = np.random.default_rng(seed)
    coords = crystal.frac_coords + amount * rng.uniform(-1, 1, (crystal.num_atoms, 3)) + rng.random(3)
    lattice = crystal.lattice @ (np.eye(3) + amount * rng.uniform(-1, 1, (3, 3)))
    order = rng.permutation(crystal.num_atoms)
    return Crystal(crystal.atomic_numbers[order], coords[order], lattice)


PAIRS: list[Pair] = [
    *((moved(crystal, i, 0.02 * (i % 6)), crystal) for i, crystal in enumerate(TRUE)),
    (None, TRUE[0]),
    (toy("rocksalt", ("Na", "Cl"), 5.6), toy("cscl", ("Na", "Cl"), 3.5)),
    (toy("rocksalt", ("Na", "Cl"), 5.6), toy("rocksalt", ("K", "Cl"), 6.3)),
    # cells are scaled to equal volume
    (toy("rocksalt", ("Na", "Cl"), 8.0), toy("rocksalt", ("Na", "Cl"), 5.6)),
]


def test_agrees_with_pymatgen() -> None:
    judge = StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10)
    found = rms_distances(PAIRS)
    assert 5 < sum(distance is not None for distance in found) < len(PAIRS)
    for (predicted, true), distance in zip(PAIRS, found, strict=True):
        expected = None if predicted is None else judge.get_rms_dist(predicted.to_structure(), true.to_structure())
        assert distance == (None if expected is None else pytest.approx(expected[0], abs=1e-12))


def test_what_does_not_match() -> None:
    assert rms_distance((None, TRUE[0])) is None
    assert rms_distances(PAIRS[-3:-1]) == [None, None]


def test_the_same_crystal_is_at_distance_zero() -> None:
    assert rms_distance((TRUE[0], TRUE[0])) == pytest.approx(0, abs=1e-7)
    assert rms_distance(PAIRS[-1]) == pytest.approx(0, abs=1e-7)


def test_a_pool_gives_the_same() -> None:
    # to rounding: arrays that came through a pipe lie otherwise in memory
    for pooled, here in zip(rms_distances(iter(PAIRS), workers=2), rms_distances(PAIRS), strict=True):
        assert pooled == (None if here is None else pytest.approx(here, abs=1e-12))
    assert rms_distances([]) == []
