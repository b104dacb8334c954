from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from toys import toy

from dao.crystal import Crystal
from dao.geometry.motion import largest_strain, rms_displacement, volume_change

BEFORE = toy("perovskite", ("Sr", "Ti", "O"), 4.0)


def moved(shift: np.ndarray | float, deformation: np.ndarray) -> Crystal:
    return Crystal(BEFORE.atomic_numbers, BEFORE.frac_coords + shift, BEFORE.lattice @ deformation)


def test_shifts_and_rotations_are_no_motion() -> None:
    turned = moved(np.array([0.37, -0.01, 0.6]), Rotation.from_euler("xyz", [0.3, 1.1, -0.4]).as_matrix())
    assert rms_displacement(BEFORE, turned) == pytest.approx(0.0, abs=1e-12)
    assert largest_strain(BEFORE, turned) == pytest.approx(0.0, abs=1e-12)
    assert volume_change(BEFORE, turned) == pytest.approx(0.0, abs=1e-12)


def test_one_atom_that_moves_over_the_edge() -> None:
    # 0.2 A along x from 0 to -0.05: less the mean (0.04 A), one atom moved 0.16 A and four 0.04 A
    shift = np.zeros((5, 3))
    shift[0, 0] = -0.05
    expected = np.sqrt((0.16**2 + 4 * 0.04**2) / 5)
    assert rms_displacement(BEFORE, moved(shift, np.eye(3))) == pytest.approx(expected)


def test_strain_and_volume() -> None:
    stretched = moved(0.0, np.diag([1.02, 1.0, 0.95]))
    assert largest_strain(BEFORE, stretched) == pytest.approx(0.05)
    assert volume_change(BEFORE, stretched) == pytest.approx(1.02 * 0.95 - 1)
    assert rms_displacement(BEFORE, stretched) == pytest.approx(0.0, abs=1e-12)
