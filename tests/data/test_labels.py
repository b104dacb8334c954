from __future__ import annotations

import numpy as np
from toys import toy, toy_crystals

from dao.crystal import Crystal
from dao.data.labels import cell_frequencies, space_group_labels
from dao.data.store import pack_crystals

GROUPS = {"rocksalt": 225, "zincblende": 216, "cscl": 221, "fluorite": 225, "perovskite": 221}


def test_space_groups_of_known_prototypes() -> None:
    crystals = toy_crystals()
    expected = [GROUPS[str(crystal.material_id).partition("-")[0]] for crystal in crystals]
    assert space_group_labels(pack_crystals(crystals)).tolist() == expected


def test_small_distortions_do_not_count() -> None:
    perovskite = toy("perovskite", ("Sr", "Ti", "O"), 3.9)
    rng = np.random.default_rng(0)
    moved = [
        Crystal(perovskite.atomic_numbers, perovskite.frac_coords + size * rng.normal(size=(5, 3)), perovskite.lattice)
        for size in (0.002, 0.1)
    ]
    assert space_group_labels(pack_crystals(moved)).tolist() == [221, 1]


def test_where_there_is_no_symmetry_to_find_it_is_1() -> None:
    coincident = Crystal([11, 11], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], np.eye(3) * 4)
    assert space_group_labels(pack_crystals([coincident])).tolist() == [1]


def test_cells_are_counted_by_formula_units() -> None:
    copper, carbon = (
        toy("cscl", ("Na", "Cl"), 3.5),
        Crystal([6] * 4, np.random.default_rng(0).random((4, 3)), np.eye(3)),
    )
    double = Crystal([11, 11, 17, 17], np.random.default_rng(1).random((4, 3)), 4 * np.eye(3))
    packed = pack_crystals([copper, double, copper, carbon, toy("perovskite", ("Sr", "Ti", "O"), 3.9)])
    assert cell_frequencies(packed) == {"1": {"4": 1}, "2": {"1": 2, "2": 1}, "5": {"1": 1}}
