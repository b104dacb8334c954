from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pymatgen.core import DummySpecies, Lattice, Species, Structure

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


def cscl(*species: object) -> Structure:
    return Structure(Lattice.cubic(4.12), list(species), [[0, 0, 0], [0.5, 0.5, 0.5]])


@given(crystals())
def test_round_trip_from_crystal(crystal: Crystal) -> None:
    back = Crystal.from_structure(crystal.to_structure())
    np.testing.assert_array_equal(back.atomic_numbers, crystal.atomic_numbers)
    np.testing.assert_allclose(back.lattice, crystal.lattice, rtol=0, atol=1e-12)
    np.testing.assert_allclose(back.frac_coords, crystal.frac_coords, rtol=0, atol=1e-12)
    assert (back.material_id, back.info) == (crystal.material_id, crystal.info)


@given(crystals())
def test_round_trip_from_structure(crystal: Crystal) -> None:
    structure = crystal.to_structure()
    back = Crystal.from_structure(structure).to_structure()
    assert back == structure
    np.testing.assert_allclose(back.cart_coords, crystal.cart_coords, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("numbers", "formula", "reduced"),
    [([22, 8, 8, 38, 8], "Sr1 Ti1 O3", "SrTiO3"), ([17, 11] * 4, "Na4 Cl4", "NaCl"), ([18], "Ar1", "Ar")],
)
def test_formulas_are_those_of_pymatgen(numbers: list[int], formula: str, reduced: str) -> None:
    crystal = Crystal(numbers, np.random.default_rng(0).random((len(numbers), 3)), np.eye(3) * 6)
    assert (crystal.formula, crystal.reduced_formula) == (formula, reduced)


def test_coordinates_outside_the_cell_are_wrapped() -> None:
    structure = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [-0.5, 1.5, 2.5]])
    np.testing.assert_allclose(Crystal.from_structure(structure).frac_coords[1], 0.5)


def test_oxidation_states_and_site_properties_are_stripped() -> None:
    structure = cscl("Cs+", Species("Cl", -1))
    structure.add_site_property("magmom", [0.0, 1.0])
    crystal = Crystal.from_structure(structure)
    assert crystal.atomic_numbers.tolist() == [55, 17]
    assert crystal.info == {}


def test_given_name_wins_over_the_stored_one() -> None:
    structure = cscl("Cs", "Cl")
    structure.properties = {"material_id": 22865, "note": "x"}
    assert Crystal.from_structure(structure, "mine").material_id == "mine"
    assert Crystal.from_structure(structure).material_id == "22865"
    assert structure.properties == {"material_id": 22865, "note": "x"}


@pytest.mark.parametrize("isotope", ["D", "T", Species("D", 1)])
def test_isotopes_are_hydrogen_and_said_to_be(isotope: object) -> None:
    crystal = Crystal.from_structure(cscl("Li", isotope))
    assert crystal.atomic_numbers.tolist() == [3, 1]
    assert crystal.info["warnings"] == ["deuterium or tritium read as hydrogen"]
    assert "warnings" not in Crystal.from_structure(cscl("Li", "H")).info


@pytest.mark.parametrize(
    ("species", "says"),
    [
        ({"Na": 0.5, "K": 0.5}, "site 2 is disordered or partly occupied"),
        ({"Na": 0.5}, "site 2 is disordered or partly occupied"),
        (DummySpecies("X"), "site 2 holds X.*, which is no element"),
        (DummySpecies("Q", 2), "site 2 holds Q.*, which is no element"),
    ],
)
def test_refused_sites(species: object, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        Crystal.from_structure(cscl("Cl", species), "icsd-1")
    assert str(error.value).startswith("icsd-1: ")
    assert "\n" not in str(error.value)


def test_slabs_are_refused() -> None:
    lattice = Lattice(np.eye(3) * 4, pbc=(True, True, False))
    with pytest.raises(InputError, match="periodic in 2 of 3 directions"):
        Crystal.from_structure(Structure(lattice, ["Cu"], [[0, 0, 0]]))
