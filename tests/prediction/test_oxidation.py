from __future__ import annotations

import time

import pytest

from dao.prediction.composition import parse_formula
from dao.prediction.oxidation import charge_hint


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("SrTiO3", "Sr(2+) Ti(4+) O(2-): charge balanced"),
        ("NaCl", "Na(1+) Cl(1-): charge balanced"),
        ("LiFePO4", "Li(1+) Fe(2+) P(5+) O(2-): charge balanced"),
        # a cation of two states, one of them rarer in the second
        ("Fe3O4", "Fe(2+,3+) O(2-): charge balanced"),
        ("Li0.5CoO2", "Li(1+) Co(3+,4+) O(2-): balanced by a less common oxidation state"),
        ("Na2O2", "Na(1+) O(1-): balanced by a less common oxidation state"),
        # hydrogen on either side
        ("MgH2", "Mg(2+) H(1-): charge balanced"),
        ("H2O", "H(1+) O(2-): charge balanced"),
        ("Cr6Os2", "metals only: no charges to balance"),
        ("O2", "one element: no charges to balance"),
    ],
)
def test_words(formula: str, words: str) -> None:
    assert charge_hint(parse_formula(formula)).words == words


@pytest.mark.parametrize("formula", ["KO2", "Zr4Rh2O", "NaCl2", "NaHe2", "LaH10"])
def test_what_does_not_balance(formula: str) -> None:
    hint = charge_hint(parse_formula(formula))
    assert hint.states == ""
    assert hint.words.startswith("no balanced assignment of common oxidation states: fine for alloys")


def test_many_elements_and_atoms_take_no_time() -> None:
    parse = parse_formula("Li3Na5K7Mg9Ca11Sr13Ti15V17Cr19Mn21Fe23Co25Ni27Cu29Zn31O200", 512)
    charge_hint(parse_formula("SrTiO3"))
    begin = time.process_time()
    assert charge_hint(parse).words
    assert time.process_time() - begin < 5.0
