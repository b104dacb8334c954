from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition as PymatgenComposition
from pymatgen.core import Element

from dao.elements import ATOMIC_NUMBERS, ELECTRONEGATIVITY, SYMBOLS
from dao.errors import InputError
from dao.prediction.composition import (
    AUTO_MAX_ATOMS,
    MAX_ATOMS,
    Composition,
    parse_cells,
    parse_formula,
    read_formula_file,
)

counts = st.dictionaries(st.integers(1, 94), st.integers(1, 24), min_size=1, max_size=6)


@st.composite
def bracketed_formulas(draw: st.DrawFn, depth: int = 2) -> str:
    """Formulas with nested brackets, e.g. ``Ca(OH)2`` or ``K3[Fe(CN)6]``."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        if depth and draw(st.booleans()):
            opening, closing = draw(st.sampled_from([("(", ")"), ("[", "]")]))
            body = opening + draw(bracketed_formulas(depth=depth - 1)) + closing
        else:
            body = draw(st.sampled_from(SYMBOLS[1:]))
        count = draw(st.integers(1, 3))
        parts.append(body + (str(count) if count > 1 else draw(st.sampled_from(["", "1"]))))
    return "".join(parts)


def pymatgen_counts(composition: Composition) -> dict[Element, int]:
    return {Element.from_Z(z): n for z, n in zip(composition.atomic_numbers, composition.amounts, strict=True)}


@pytest.mark.filterwarnings("ignore:No Pauling electronegativity")
def test_element_table_is_pymatgens() -> None:
    assert len(SYMBOLS) == len(ELECTRONEGATIVITY) == 95
    for number, symbol in enumerate(SYMBOLS[1:], start=1):
        element = Element.from_Z(number)
        assert symbol == element.symbol
        assert ATOMIC_NUMBERS[symbol] == number
        assert ELECTRONEGATIVITY[number] == (element.X if symbol not in {"He", "Ne", "Ar"} else float("inf"))


@given(counts)
@pytest.mark.filterwarnings("ignore:No Pauling electronegativity")
def test_reduced_formula_is_pymatgens_and_reads_back(amounts: dict[int, int]) -> None:
    composition = Composition.from_counts(amounts)
    reference = PymatgenComposition({Element.from_Z(number): amount for number, amount in amounts.items()})
    assert composition.reduced_formula == reference.reduced_formula
    assert parse_formula(reference.formula) == composition
    assert parse_formula(composition.reduced_formula) == composition
    assert PymatgenComposition(pymatgen_counts(composition)).reduced_formula == str(composition)


@given(bracketed_formulas())
@pytest.mark.filterwarnings("ignore:No Pauling electronegativity")
def test_brackets_mean_what_they_mean_to_pymatgen(formula: str) -> None:
    reference = PymatgenComposition(formula)
    if reference.num_atoms > MAX_ATOMS or len(formula) > 200:
        with pytest.raises(InputError):
            parse_formula(formula)
    else:
        assert parse_formula(formula).reduced_formula == reference.reduced_formula


@given(counts, st.integers(1, 6))
def test_numbers_of_a_cell(amounts: dict[int, int], units: int) -> None:
    composition = Composition.from_counts(amounts)
    numbers = composition.numbers_for(units)
    assert list(numbers) == sorted(numbers)
    assert len(numbers) == units * composition.num_atoms
    found = Counter(numbers)
    assert {n: found[n] * sum(amounts.values()) for n in found} == {n: c * len(numbers) for n, c in amounts.items()}


@given(st.text(max_size=250) | st.text(alphabet="NaClOH()[]{}0123456789.·* +-eE", max_size=40))
def test_any_text_is_a_composition_or_one_line_of_complaint(text: str) -> None:
    try:
        composition = parse_formula(text)
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - both outcomes are right
    else:
        assert 1 <= composition.num_atoms <= MAX_ATOMS


@pytest.mark.parametrize(
    ("typed", "meant", "atoms"),
    [
        ("SrTiO3", "SrTiO3", 5),
        ("SrTiO₃", "SrTiO3", 5),
        (" Sr1 Ti1 O3 ", "SrTiO3", 5),
        ("Sr2Ti2O6", "SrTiO3", 5),
        ("Ca(OH)2", "Ca(HO)2", 5),
        ("K4[Fe(CN)6]", "K4Fe(CN)6", 17),
        ("CuSO4·5H2O", "CuH10SO9", 21),
        ("CuSO4 * 5H2O", "CuH10SO9", 21),
        ("CaSO4·0.5H2O", "Ca2H2S2O9", 15),
        ("Li0.5CoO2", "Li(CoO2)2", 7),
        ("Pb(Zr0.5Ti0.5)O3", "TiZrPb2O6", 10),
        ("O", "O2", 2),
        ("NaO", "Na2O2", 4),
        ("C", "C", 1),
    ],
)
def test_formulas_as_people_type_them(typed: str, meant: str, atoms: int) -> None:
    composition = parse_formula(typed)
    assert sorted(Counter(composition.numbers_for(1))) == list(composition.atomic_numbers)
    assert composition == parse_formula(meant)
    assert composition.num_atoms == atoms


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("", "empty formula"),
        ("  ", "empty formula"),
        ("XxO2", "formula 'XxO2': unknown element 'Xx'"),
        ("srtio3", "did you mean SrTiO3?"),
        ("NaCL", "did you mean NaCl?"),
        ("Sio2", "did you mean SiO2"),
        ("co2", "did you mean Co2 or CO2?"),
        ("Li0", "count of Li is zero"),
        ("Li0.0O", "count of Li is zero"),
        ("Na(Cl)0", "count of a bracket is zero"),
        ("Li02", "starts with a zero"),
        ("C1000000000", "1e+09 atoms, more than the limit of 512"),
        ("C1000000000000", "1e+12 atoms, more than the limit of 512"),
        ("((C999)999)999", "more than the limit of 512"),
        ("C" + "9" * 400, "401 characters"),
        ("C" + "9" * 190, "more than the limit of 512"),
        ("NaCl1e999", "counts like 1e3 are not accepted"),
        ("D2O", "'D' is an isotope, not an element: write H"),
        ("T2O", "'T' is an isotope"),
        ("AmO2", "element 'Am' is not supported (H to Pu are)"),
        ("Fe3+", "charges are not part of a formula"),
        ("2NaCl", "a number comes before the first element"),
        ("NaCl GaAs", "a space inside"),
        ("Na 2", "a space inside"),
        ("NaCl)", "unmatched ')'"),
        ("(NaCl]", "unmatched ']'"),
        ("(NaCl", "missing ')'"),
        ("(" * 150, "missing ')'"),
        ("Na()2", "empty brackets"),
        ("NaCl·", "one side of the hydrate sign"),
        ("CuSO4.5H2O", "write '*' for a hydrate"),
        ("Na0.333333Cl", "become whole only in 1e+06 formula units"),
        ("NaCl;ls", "unexpected ';' at character 5"),
        ("Na\x00Cl", r"'Na\x00Cl': unexpected '\x00'"),
        ("ＮａＣｌ", "unexpected 'Ｎ'"),
        ("S٣", "unexpected '٣'"),
    ],
)
def test_bad_formulas_say_what_and_where(typed: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_formula(typed)
    assert complaint in str(caught.value)
    assert len(str(caught.value)) < 250


def test_atom_limit_can_be_lowered() -> None:
    assert parse_formula("SrTiO3", max_atoms=5).num_atoms == 5
    with pytest.raises(InputError, match="5 atoms, more than the limit of 4"):
        parse_formula("SrTiO3", max_atoms=4)


@pytest.mark.parametrize(
    ("amounts", "complaint"), [({}, "at least one"), ({95: 1}, "95 is not"), ({0: 1}, "0 is not"), ({8: 0}, "at least")]
)
def test_counts_are_checked(amounts: dict[int, int], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Composition.from_counts(amounts)


@pytest.mark.parametrize(
    ("formula", "cells", "max_atoms", "expected"),
    [
        ("SrTiO3", "auto", None, (1, 2, 3, 4)),
        ("SrTiO3", " AUTO ", 12, (1, 2)),
        ("SrTiO3", "auto", 100, (1, 2, 3, 4)),
        ("Li3Fe2(PO4)3", "auto", None, (1,)),
        ("CuSO4·5H2O", "auto", None, (1,)),
        ("SrTiO3", "4,1, 4", None, (4, 1)),
        ("SrTiO3", "8", None, (8,)),
    ],
)
def test_cells(formula: str, cells: str, max_atoms: int | None, expected: tuple[int, ...]) -> None:
    assert parse_cells(cells, parse_formula(formula), max_atoms) == expected


def test_auto_cells_go_as_far_as_the_weights_were_trained() -> None:
    phosphate = parse_formula("LiFePO4")
    assert parse_cells("auto", phosphate, trained=52) == (1, 2, 3, 4)
    assert parse_cells("auto", phosphate, trained=20) == (1, 2)
    assert parse_cells("auto", phosphate, 14, trained=52) == (1, 2)
    assert parse_cells("5", phosphate, trained=20) == (5,)


@given(counts)
def test_auto_cells_always_offer_one_formula_unit(amounts: dict[int, int]) -> None:
    composition = Composition.from_counts(amounts)
    cells = parse_cells("auto", composition)
    assert cells[0] == 1
    assert max(cells) * composition.num_atoms <= max(AUTO_MAX_ATOMS, composition.num_atoms)


@pytest.mark.parametrize(
    ("cells", "max_atoms", "complaint"),
    [
        ("0", None, "write 'auto' or"),
        ("-1", None, "write 'auto' or"),
        ("", None, "write 'auto' or"),
        ("1,,2", None, "write 'auto' or"),
        ("1.5", None, "write 'auto' or"),
        ("9" * 100_000, None, "write 'auto' or"),
        ("103", None, "515 atoms, more than the limit of 512"),
        ("999999999", 10_000, "more than the limit of 512"),
        ("1,3", 10, "3 formula units of SrTiO3 are 15 atoms, more than the limit of 10"),
        ("auto", 4, "one formula unit of SrTiO3 has 5 atoms, more than the limit of 4"),
    ],
)
def test_bad_cells(cells: str, max_atoms: int | None, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_cells(cells, parse_formula("SrTiO3"), max_atoms)
    assert complaint in str(caught.value)
    assert len(str(caught.value)) < 250


def test_formula_file(tmp_path: Path) -> None:
    file = tmp_path / "formulas.txt"
    file.write_text("# perovskites\nSrTiO3  # cubic\n\n  BaTiO₃\n", encoding="utf-8")
    assert [str(composition) for composition in read_formula_file(file)] == ["SrTiO3", "BaTiO3"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"SrTiO3\n\nXxO2\n", "formulas.txt line 3: formula 'XxO2': unknown element 'Xx'"),
        (b"\xef\xbb\xbfNaCl\nNa Cl2 x\nLi0\nQ\n", "formulas.txt line 2: formula 'Na Cl2 x': a space inside"),
        (b"Li0\nNaCl\nQ\nJ\n", "line 1: formula 'Li0': count of Li is zero (bad too: lines 3, 4)"),
        (b"# nothing\n", "formulas.txt: holds no formula"),
        (b"\xff\xfe\x00", "formulas.txt: not a UTF-8 text file"),
        (None, "formulas.txt: No such file or directory"),
    ],
)
def test_bad_formula_files(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    file = tmp_path / "formulas.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_formula_file(file)
    assert complaint in str(caught.value)
