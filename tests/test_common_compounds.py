"""The textbook structures of benchmarks/common_compounds.py are what they are called."""

import pytest
from common_compounds import COMPOUNDS

from dao.crystal import Crystal
from dao.geometry.cells import SYMPREC, space_group


@pytest.mark.parametrize("formula", COMPOUNDS)
def test_a_textbook_structure_has_its_formula_and_space_group(formula: str) -> None:
    symbol, structure = COMPOUNDS[formula]
    assert structure.composition.reduced_formula == formula
    assert space_group(Crystal.from_structure(structure), SYMPREC)[1] == symbol
