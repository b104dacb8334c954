"""Crystals described by their space groups: the same structure comes back, however it was given."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from symmetric_toys import KINDS, disguised, same_structure, symmetric_crystal
from toys import FCC, toy, toy_crystals

import dao.geometry.symmetrized as module
import dao.geometry.symmetry as moyo
from dao.crystal import Crystal
from dao.errors import InputError
from dao.geometry.symmetrized import SymmetricCrystal, symmetrized
from dao.geometry.symmetry import StandardCell
from dao.geometry.wyckoff import primitive_cell, wyckoff_positions

SYMPREC = 1e-3


def orbit_counts(one: SymmetricCrystal) -> Counter[tuple[int, str]]:
    return Counter(one.orbits)


@pytest.mark.parametrize("space_group", KINDS)
def test_the_same_structure_comes_back(space_group: int) -> None:
    """Also the test of ``tests/symmetric_toys.py``: the crystals have the groups that they are made in."""
    rng = np.random.default_rng(space_group)
    made = symmetric_crystal(space_group, rng)
    crystal = made.crystal("made")
    found, hidden = (symmetrized(one, SYMPREC) for one in (crystal, disguised(crystal, rng)))
    assert found.space_group == hidden.space_group == space_group
    assert found.orbits == hidden.orbits
    assert sorted(number for number, _ in found.orbits) == sorted(number for number, _ in made.orbits)
    for one in (found, hidden):
        back = one.crystal()
        assert back.counts == crystal.counts
        assert back.volume == pytest.approx(crystal.volume, rel=1e-5)
        assert same_structure(back, crystal)


@pytest.mark.parametrize("space_group", KINDS)
def test_numbers_lie_where_they_should(space_group: int) -> None:
    found = symmetrized(symmetric_crystal(space_group, np.random.default_rng(7)).crystal(), SYMPREC)
    letters = [one.letter for one in wyckoff_positions(space_group)]
    assert list(found.orbits) == sorted(found.orbits, key=lambda one: (one[0], letters.index(one[1])))
    assert [one.letter for one in found.positions()] == [letter for _, letter in found.orbits]
    degrees = np.array([one.degrees for one in found.positions()])
    assert ((found.free_coords >= 0) & (found.free_coords < 1)).all()
    assert (found.free_coords[np.arange(3) >= degrees[:, None]] == 0).all()
    lengths = np.linalg.norm(found.lattice, axis=1)
    cosines = (found.lattice @ found.lattice.T / lengths / lengths[:, None])[[1, 0, 0], [2, 2, 1]]
    if space_group >= 195:
        assert np.ptp(lengths) < 1e-4
    elif space_group >= 75:
        assert abs(lengths[0] - lengths[1]) < 1e-4
    if space_group >= 143 and space_group < 195:
        np.testing.assert_allclose(cosines, [0, 0, -0.5], atol=1e-5)
    elif space_group > 15:
        np.testing.assert_allclose(cosines, 0.0, atol=1e-5)
    elif space_group > 2:
        np.testing.assert_allclose(cosines[[0, 2]], 0.0, atol=1e-5)


def test_the_crystal_is_named_and_its_atoms_come_orbit_by_orbit() -> None:
    made = symmetric_crystal(139, np.random.default_rng(0))
    crystal = made.crystal("mp-1")
    assert crystal.material_id == "mp-1"
    assert crystal.atomic_numbers.tolist() == [8, 8, 14, 22, 22]
    np.testing.assert_allclose(crystal.lattice, primitive_cell(139) @ made.lattice)
    assert made.crystal().material_id is None


def test_supercells_are_reduced() -> None:
    cell = toy("rocksalt", ("Na", "Cl"), 5.64)
    copies = np.array([[0, 0, 0], [0.5, 0, 0]])
    coords = np.concatenate([cell.frac_coords * [0.5, 1, 1] + shift for shift in copies])
    double = Crystal(np.tile(cell.atomic_numbers, 2), coords, np.diag([2.0, 1.0, 1.0]) @ cell.lattice)
    found = symmetrized(double, SYMPREC)
    assert (found.space_group, found.orbits) == (225, ((11, "a"), (17, "b")))
    assert found.crystal().volume == pytest.approx(cell.volume)


@pytest.mark.parametrize("kind", ["rocksalt", "zincblende", "cscl", "fluorite", "perovskite"])
def test_the_choice_among_equal_descriptions_is_the_structures_own(kind: str) -> None:
    """The lightest element has the first letter it can have, whichever atom was at the origin."""
    names = {"perovskite": ("Sr", "Ti", "O")}.get(kind, ("Na", "Cl"))
    cell = toy(kind, names, 5.0)
    rng = np.random.default_rng(1)
    expected = symmetrized(cell, SYMPREC)
    for atom in range(cell.num_atoms):
        moved = Crystal(cell.atomic_numbers, cell.frac_coords - cell.frac_coords[atom], cell.lattice)
        assert symmetrized(moved, SYMPREC).orbits == expected.orbits
    for _ in range(3):
        assert symmetrized(disguised(cell, rng), SYMPREC).orbits == expected.orbits
    assert (
        expected.orbits
        == {
            "rocksalt": ((11, "a"), (17, "b")),
            "zincblende": ((11, "a"), (17, "c")),
            "cscl": ((11, "a"), (17, "b")),
            "fluorite": ((11, "a"), (17, "c")),
            "perovskite": ((8, "c"), (22, "b"), (38, "a")),
        }[kind]
    )


def test_exchanged_elements_are_another_crystal() -> None:
    assert symmetrized(toy("rocksalt", ("Cl", "Na"), 5.0), SYMPREC).orbits == ((11, "a"), (17, "b"))
    assert symmetrized(toy("fluorite", ("Cl", "Na"), 5.0), SYMPREC).orbits == ((11, "c"), (17, "a"))


@pytest.mark.parametrize(
    ("lattice", "space_group"),
    [
        (np.eye(3), 221),
        (FCC, 225),
        (np.ones((3, 3)) / 2 - np.eye(3), 229),
        (np.diag([1.0, 1.0, 1.3]), 123),
        (np.diag([1.0, 1.2, 1.3]), 47),
        (np.array([[1.0, 0, 0], [0.2, 1.1, 0], [0.13, 0.31, 1.27]]), 2),
        (np.array([[1.0, 0, 0], [-0.5, 3**0.5 / 2, 0], [0, 0, 1.7]]), 191),
    ],
)
def test_one_atom(lattice: np.ndarray, space_group: int) -> None:
    cell = Crystal([26], [[0.3, 0.9, 0.2]], 3.0 * lattice)
    found = symmetrized(cell, SYMPREC)
    assert (found.space_group, found.orbits) == (space_group, ((26, "a"),))
    assert found.crystal().volume == pytest.approx(cell.volume)
    assert (found.free_coords == 0).all()


def test_small_displacements_are_taken_back() -> None:
    """And what is not within the tolerance is kept."""
    cell = toy("perovskite", ("Sr", "Ti", "O"), 3.9)
    coords = cell.frac_coords.copy()
    coords[1, 2] += 0.004 / 3.9
    moved = Crystal(cell.atomic_numbers, coords, cell.lattice)
    assert same_structure(symmetrized(moved, 0.01).crystal(), cell)
    assert symmetrized(moved, SYMPREC).space_group == 99


@pytest.mark.parametrize("space_group", [2, 15, 47, 62, 139, 166, 216])
def test_what_was_asked_before_changes_nothing(space_group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Normalisers are kept by group and letters; those of a cell with other axes, almost equal ones say, must do."""
    orbits = ((8, "i"), (14, "a"), (22, "b")) if space_group == 47 else None
    rng = np.random.default_rng(5)
    first, second = (symmetric_crystal(space_group, rng, orbits) for _ in range(2))
    if 16 <= space_group <= 74:
        first = SymmetricCrystal(first.space_group, first.orbits, first.free_coords, 7.0 * np.eye(3))

    def ask(crystal: Crystal) -> dict[str, Any]:
        cell = [crystal.lattice.tolist(), crystal.frac_coords.tolist(), crystal.atomic_numbers.tolist(), SYMPREC]
        return moyo.look_up([*cell, "standard"])

    monkeypatch.setattr(moyo, "_NORMALISERS", {})
    alone = ask(second.crystal())
    assert alone["number"] == space_group
    monkeypatch.setattr(moyo, "_NORMALISERS", {})
    ask(first.crystal())
    assert ask(second.crystal()) == alone


def test_atoms_many_cells_away_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """moyo's standard cells are not reduced: coordinates of -3 occur."""
    for crystal in toy_crystals()[:5]:
        expected = symmetrized(crystal, SYMPREC)

        def far(one: Crystal, symprec: float) -> StandardCell:
            cell = moyo.standard_cell(one, symprec)
            # whole primitive cells, in the axes of the conventional one
            cells = np.array([4, -3, 5]) @ primitive_cell(cell.number)
            return StandardCell(cell.number, cell.letters, cell.atomic_numbers, cell.frac_coords + cells, cell.lattice)

        with monkeypatch.context() as patch:
            patch.setattr(module, "standard_cell", far)
            found = symmetrized(crystal, SYMPREC)
        assert found.orbits == expected.orbits
        np.testing.assert_allclose(found.free_coords, expected.free_coords, atol=1e-9)


def test_cells_without_a_group_are_refused() -> None:
    twice = Crystal([11, 11], [[0.0, 0.0, 0.0], [0.0, 0.0, 1e-6]], 3.0 * np.eye(3), "twice")
    with pytest.raises(InputError, match=r"^twice: no space group at a tolerance of 0\.001 A \(.*\)$"):
        symmetrized(twice, SYMPREC)
    flat = Crystal([11], [[0, 0, 0]], np.diag([3.0, 3.0, 0.0]), "flat")
    with pytest.raises(InputError, match=r"^flat: no space group"):
        symmetrized(flat, SYMPREC)


def test_a_standard_cell_off_its_positions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(coords: list[list[float]]) -> None:
        cell = StandardCell(225, ("a", "b"), np.array([11, 17]), np.array(coords), 5.0 * np.eye(3))
        monkeypatch.setattr(module, "standard_cell", lambda *_: cell)

    crystal = toy("rocksalt", ("Na", "Cl"), 5.0, "salt")
    broken([[0, 0, 0], [0.5, 0.5, 0.5]])
    assert symmetrized(crystal, SYMPREC).space_group == 225
    broken([[0, 0, 0], [0.5, 0.5, 0.49]])
    with pytest.raises(InputError, match=r"^salt: atoms off Wyckoff position b of space group 225$"):
        symmetrized(crystal, SYMPREC)
