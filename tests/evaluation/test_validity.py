from __future__ import annotations

import itertools
import math
import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import CUBIC, toy

from dao.crystal import Crystal
from dao.elements import ATOMIC_NUMBERS, SYMBOLS
from dao.errors import InputError
from dao.evaluation.validity import MIN_DISTANCE, valid, valid_composition, valid_structure
from dao.smact import smact_elements

# what CDVAE's smact_validity answers with SMACT 2.6 itself
COMPOUNDS = """
    NaCl SrTiO3 BaTiO3 Fe2O3 TiO2 SiO2 GaAs SiC Al2O3 CaC2 LiCoO2 LiFePO4 YBa2Cu3O7 CeO2 UO2 FeS2 Fe3C TiN LiH H2O CO2
    NH4Cl MoS2 CsPbI3 K2PtCl6 Bi2Te3 Li10GeP2S12 ClF3 SF6 PtAs2
"""
ELEMENTS_AND_ALLOYS = "Fe Xe He Pm Cu3Au NiAl Nb3Sn LaNi5 CsAu Na3Bi Cr6Os2"
NOBLE = "XeF2 KrF2"
# one state an element cannot make Fe3O4; boron has no negative state; peroxides, superoxides and odd counts
FAIL = "Fe3O4 MgB2 LaB6 SbTe NaO2 RbO2 CaF3 NaCl2 PdH La2Se Si46Ba8"
NO_ELECTRONEGATIVITY = "HeNa2 NeO ArH RnF2 PmCl3 PmFe2"


def counts_of(formula: str) -> dict[int, int]:
    return {ATOMIC_NUMBERS[symbol]: int(n or 1) for symbol, n in re.findall(r"([A-Z][a-z]?)(\d*)", formula)}


@pytest.mark.parametrize("formula", (COMPOUNDS + ELEMENTS_AND_ALLOYS + " " + NOBLE).split())
def test_compositions_that_pass(formula: str) -> None:
    assert valid_composition(counts_of(formula))


@pytest.mark.parametrize("formula", (FAIL + " " + NO_ELECTRONEGATIVITY).split())
def test_compositions_that_fail(formula: str) -> None:
    assert not valid_composition(counts_of(formula))


@pytest.mark.parametrize("formula", ["NaCl", "Fe3O4", "LaB6", "Bi2Te3"])
def test_number_of_formula_units_and_order_do_not_matter(formula: str) -> None:
    counts = counts_of(formula)
    repeated = {number: 6 * count for number, count in reversed(counts.items())}
    assert valid_composition(repeated | {ATOMIC_NUMBERS["O"]: repeated.get(8, 0)}) == valid_composition(counts)


def tries_every_combination(counts: dict[int, int]) -> bool:
    """The rule as it is defined, for compounds: slow, and obvious."""
    elements = [smact_elements()[number - 1] for number in counts]
    if len(elements) == 1 or all(element.metal for element in elements):
        return True
    scale = [element.electronegativity for element in elements]
    known = [value for value in scale if value is not None]
    if len(known) < len(scale):
        return False
    for states in itertools.product(*(element.oxidation_states for element in elements)):
        neutral = sum(state * count for state, count in zip(states, counts.values(), strict=True)) == 0
        cations = [value for value, state in zip(known, states, strict=True) if state > 0]
        anions = [value for value, state in zip(known, states, strict=True) if state < 0]
        if neutral and max(cations, default=0) < min(anions, default=math.inf):
            return True
    return False


@given(st.dictionaries(st.integers(1, 103), st.integers(1, 12), min_size=1, max_size=4))
def test_decides_as_a_search_of_every_combination(counts: dict[int, int]) -> None:
    assert valid_composition(counts) == tries_every_combination(counts)


def test_tables_are_whole() -> None:
    elements = smact_elements()
    assert len(elements) == 103
    assert elements[25].oxidation_states == (-2, -1, 1, 2, 3, 4, 5, 6)
    # SMACT 2.6's own values, not pymatgen's 1.9 and 2.36
    assert (elements[42].electronegativity, elements[73].electronegativity) == (2.1, 1.7)
    missing = {SYMBOLS[i + 1] for i in range(94) if elements[i].electronegativity is None}
    assert missing == {"He", "Ne", "Ar", "Pm", "Rn"}
    assert sum(element.metal for element in elements) == 79
    assert not any(0 in element.oxidation_states for element in elements)


def test_many_elements_take_no_time() -> None:
    numbers = [ATOMIC_NUMBERS[symbol] for symbol in ("C", "N", "Cl", "Br", "S", "Cr", "Mn", "Fe", "Mo", "Tc", "Ru")]
    draw = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(20):
        valid_composition({number: int(draw.integers(1, 32)) for number in numbers})
    # 10^10 combinations each
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, r"composition \{\}: needs positive numbers of atoms"),
        ({11: 0}, "needs positive numbers of atoms"),
        ({11: 1, 17: -1}, "needs positive numbers of atoms"),
        ({104: 1, 8: 2}, "composition: SMACT has no data on atomic number 104"),
        ({0: 1, 8: 2}, "composition: SMACT has no data on atomic number 0"),
    ],
)
def test_no_composition(counts: dict[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        valid_composition(counts)


def pair(distance: float, a: float = 4.0) -> Crystal:
    """Two atoms that far apart across the face of a cubic cell."""
    return Crystal([11, 17], [[0.05 / a, 0.0, 0.0], [(0.05 - distance) / a, 0.0, 0.0]], a * CUBIC)


def test_atoms_closer_than_half_an_angstrom() -> None:
    assert valid_structure(pair(MIN_DISTANCE + 1e-6))
    assert not valid_structure(pair(MIN_DISTANCE - 1e-6))
    assert not valid_structure(pair(0.0))


def test_own_images_do_not_count() -> None:
    assert valid_structure(Crystal([11], [[0, 0, 0]], np.diag([0.4, 5.0, 5.0])))
    # two atoms in that cell are 0.2 A apart
    assert not valid_structure(Crystal([11, 17], [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]], np.diag([0.4, 5.0, 5.0])))


def test_nearest_image_in_a_sheared_cell() -> None:
    cell = np.array([[1.0, 0.0, 0.0], [9.3, 1.0, 0.0], [0.0, 0.0, 5.0]])
    # in the cell itself they are 4.7 and 4.9 A apart; the nearest images are 0.61 and 0.46 A apart
    assert valid_structure(Crystal([11, 17], [[0.0, 0.0, 0.0], [0.0, 0.5, 0.0]], cell))
    assert not valid_structure(Crystal([11, 17], [[0.0, 0.0, 0.0], [0.7, 0.45, 0.0]], cell))


def test_volume() -> None:
    assert valid_structure(Crystal([1], [[0, 0, 0]], np.diag([0.5, 0.5, 0.401])))
    assert not valid_structure(Crystal([1], [[0, 0, 0]], np.diag([0.5, 0.5, 0.399])))


@pytest.mark.parametrize(
    "cell",
    [np.zeros((3, 3)), [[1, 0, 0], [2, 0, 0], [0, 0, 1]], [[6e5, 4e5, 1e5], [3e5, 2e5, 5e4], [0.3, 1e6, 7e5]]],
)
def test_flat_cells(cell: list[list[float]]) -> None:
    assert not valid_structure(Crystal([1, 1], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], cell))


def test_handedness_does_not_matter() -> None:
    rocksalt = toy("rocksalt", ("Na", "Cl"), 5.6)
    mirrored = Crystal(rocksalt.atomic_numbers, rocksalt.frac_coords, -rocksalt.lattice)
    assert valid_structure(rocksalt)
    assert valid_structure(mirrored)


def test_large_cells_take_no_time_and_huge_ones_are_refused() -> None:
    coords = np.random.default_rng(0).random((513, 3))
    start = time.perf_counter()
    assert not valid_structure(Crystal(np.full(512, 8), coords[:512], 20 * CUBIC))
    assert time.perf_counter() - start < 5
    with pytest.raises(InputError, match="crystal: 513 atoms in the cell, outside 1 to 512"):
        valid_structure(Crystal(np.full(513, 8), coords, 20 * CUBIC))


def test_valid_needs_both() -> None:
    assert valid(toy("rocksalt", ("Na", "Cl"), 5.6))
    assert not valid(toy("rocksalt", ("La", "B"), 5.6))
    assert not valid(toy("rocksalt", ("Na", "Cl"), 0.8))
