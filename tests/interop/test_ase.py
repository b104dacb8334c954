from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dao.crystal import Crystal
from dao.errors import InputError


@st.composite
def crystals(draw: st.DrawFn) -> Crystal:
    n = draw(st.integers(1, 9))
    shape = draw(hnp.arrays(np.float64, (3, 3), elements=st.floats(-0.3, 0.3)))
    return Crystal(
        draw(hnp.arrays(np.int64, n, elements=st.integers(1, 118))),
        draw(hnp.arrays(np.float64, (n, 3), elements=st.floats(-2, 2))),
        draw(st.sampled_from([-1, 1])) * draw(st.floats(2.0, 9.0)) * (np.eye(3) + shape),
        material_id=draw(st.none() | st.text(min_size=1, max_size=5)),
        info={"e_above_hull": draw(st.floats(0, 1))},
    )


def distance_on_torus(first: np.ndarray, second: np.ndarray) -> float:
    difference = first - second
    return float(np.abs(difference - np.rint(difference)).max())


@given(crystals())
def test_round_trip_from_crystal(crystal: Crystal) -> None:
    atoms = crystal.to_atoms()
    assert atoms.pbc.all()
    np.testing.assert_allclose(atoms.positions, crystal.cart_coords, rtol=0, atol=1e-12)
    back = Crystal.from_atoms(atoms)
    np.testing.assert_array_equal(back.atomic_numbers, crystal.atomic_numbers)
    np.testing.assert_allclose(back.lattice, crystal.lattice, rtol=0, atol=1e-12)
    # 1e-17 below zero is 1 - 1e-17 after wrapping
    assert distance_on_torus(back.frac_coords, crystal.frac_coords) < 1e-12
    assert (back.material_id, back.info) == (crystal.material_id, crystal.info)


@given(crystals())
def test_round_trip_from_atoms(crystal: Crystal) -> None:
    atoms = crystal.to_atoms()
    back = Crystal.from_atoms(atoms).to_atoms()
    np.testing.assert_array_equal(back.numbers, atoms.numbers)
    np.testing.assert_allclose(back.cell.array, atoms.cell.array, rtol=0, atol=1e-12)
    moved = np.linalg.solve(atoms.cell.array.T, (back.positions - atoms.positions).T)
    np.testing.assert_allclose(moved, np.rint(moved), rtol=0, atol=1e-12)


def test_objects_of_ase_are_dropped_and_the_input_is_left_alone() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.info = {"material_id": "mp-30", "spacegroup": object(), "note": 3}
    crystal = Crystal.from_atoms(atoms)
    assert (crystal.material_id, crystal.info) == ("mp-30", {"note": 3})
    assert crystal.atomic_numbers.tolist() == [29] * 4
    assert set(atoms.info) == {"material_id", "spacegroup", "note"}


def slab(pbc: tuple[bool, bool, bool]) -> Atoms:
    return Atoms("Cu", cell=np.eye(3) * 4, pbc=pbc)


@pytest.mark.parametrize(
    ("atoms", "says"),
    [
        (Atoms("OH2", positions=[[0, 0, 0], [0, 0.76, 0.59], [0, -0.76, 0.59]]), "has no cell"),
        (Atoms("Cu", cell=[4, 4, 0], pbc=True), "has no cell"),
        (slab((True, True, False)), "periodic in 2 of 3 directions"),
        (slab((False, False, False)), "periodic in 0 of 3 directions"),
        (Atoms("X", cell=np.eye(3) * 4, pbc=True), "no element has atomic number 0"),
        (Atoms(cell=np.eye(3) * 4, pbc=True), "N >= 1"),
        (Atoms("Cu", positions=[[np.nan, 0, 0]], cell=np.eye(3) * 4, pbc=True), "not finite"),
        (Atoms("Cu", cell=np.eye(3) * 4, pbc=True, info={"occupancy": {"0": {"Cu": 0.5}}}), "partly occupied"),
        (Atoms("Cu", cell=np.eye(3) * 4, pbc=True, info={"occupancy": {0: {"Cu": 0.5, "Au": 0.5}}}), "partly occ"),
    ],
)
def test_refused_atoms(atoms: Atoms, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        Crystal.from_atoms(atoms, "icsd-1")
    assert str(error.value).startswith("icsd-1: ")
    assert "\n" not in str(error.value)


def test_full_occupancy_is_accepted() -> None:
    atoms = Atoms("Cu", cell=np.eye(3) * 4, pbc=True, info={"occupancy": {"0": {"Cu": 1.0}}})
    assert Crystal.from_atoms(atoms).info == {}
