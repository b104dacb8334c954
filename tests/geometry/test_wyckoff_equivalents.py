from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dao.geometry.wyckoff import SPACE_GROUPS, wyckoff_positions
from dao.geometry.wyckoff_equivalents import canonical_orbits, letter_exchanges


@given(st.integers(1, SPACE_GROUPS))
def test_exchanges_form_a_group_that_keeps_multiplicity_and_freedom(group: int) -> None:
    kinds = {one.letter: (one.multiplicity, one.degrees) for one in wyckoff_positions(group)}
    exchanges = letter_exchanges(group)
    assert all(letter == moved for letter, moved in exchanges[0].items())
    for one in exchanges:
        assert all(kinds[letter] == kinds[moved] for letter, moved in one.items())
        assert sorted(one.values()) == sorted(kinds)
        for other in exchanges:
            assert {letter: one[moved] for letter, moved in other.items()} in exchanges


@given(st.integers(1, SPACE_GROUPS), st.data())
def test_equivalent_descriptions_have_one_name(group: int, data: st.DataObject) -> None:
    letters = [one.letter for one in wyckoff_positions(group)]
    orbits = data.draw(st.lists(st.tuples(st.integers(1, 94), st.sampled_from(letters)), min_size=1, max_size=5))
    moved = data.draw(st.sampled_from(letter_exchanges(group)))
    found = canonical_orbits(group, orbits)
    assert canonical_orbits(group, [(element, moved[letter]) for element, letter in orbits]) == found
    assert canonical_orbits(group, found) == found


@pytest.mark.parametrize(
    ("group", "orbits", "expected"),
    [
        (225, [(11, "b"), (17, "a")], ((11, "a"), (17, "b"))),  # rock salt
        (221, [(8, "d"), (22, "b"), (38, "a")], ((8, "c"), (22, "a"), (38, "b"))),  # perovskite
    ],
)
def test_known_structures(group: int, orbits: list[tuple[int, str]], expected: tuple[tuple[int, str], ...]) -> None:
    assert canonical_orbits(group, orbits) == expected
