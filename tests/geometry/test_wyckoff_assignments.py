from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dao.geometry.wyckoff import SPACE_GROUPS, wyckoff_positions
from dao.geometry.wyckoff_assignments import PartialAssignment, allowed_letters, fits, fitting_space_groups

GROUPS = st.integers(1, SPACE_GROUPS)
COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple)


def bits(number: int) -> list[int]:
    return [i for i in range(number.bit_length()) if number >> i & 1]


def brute_force(group: int, counts: tuple[int, ...]) -> set[tuple[tuple[int, ...], ...]]:
    """Every assignment, by trying positions without looking ahead."""
    positions = wyckoff_positions(group)

    def element(left: int, first: int, used: frozenset[int]) -> Iterator[tuple[tuple[int, ...], frozenset[int]]]:
        if left == 0:
            yield (), used
            return
        for i in range(first, len(positions)):
            fixed = positions[i].degrees == 0
            if positions[i].multiplicity <= left and not (fixed and i in used):
                after = used | {i} if fixed else used
                for rest, last in element(left - positions[i].multiplicity, i, after):
                    yield (i, *rest), last

    def every(remaining: tuple[int, ...], used: frozenset[int]) -> Iterator[tuple[tuple[int, ...], ...]]:
        if not remaining:
            yield ()
            return
        for mine, after in element(remaining[0], 0, used):
            for rest in every(remaining[1:], after):
                yield (mine, *rest)

    return set(every(counts, frozenset()))


def walks(
    partial: PartialAssignment, chosen: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[tuple[int, int], ...]]:
    if partial.complete:
        yield chosen
        return
    choices = bits(allowed_letters(partial))
    assert choices, "a dead end"
    for choice in choices:
        yield from walks(partial.with_orbit(choice), (*chosen, (len(partial.remaining), choice)))


SMALL = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple).filter(lambda counts: sum(counts) <= 5)
TELLING = st.sampled_from([12, 62, 139, 166, 194, 205, 216, 221, 225, 227, 229, 230])


@given(TELLING, SMALL)
@settings(max_examples=40)
def test_walks_are_all_the_assignments_there_are(group: int, counts: tuple[int, ...]) -> None:
    expected = {
        tuple((len(counts) - slot, i) for slot, mine in enumerate(one) for i in mine)
        for one in brute_force(group, counts)
    }
    assert fits(group, counts) == bool(expected)
    if expected:
        found = list(walks(PartialAssignment(group, counts)))
        assert len(found) == len(set(found))
        assert set(found) == expected


@given(GROUPS, COUNTS, st.randoms(use_true_random=False))
def test_a_walk_never_comes_to_a_dead_end(group: int, counts: tuple[int, ...], random: object) -> None:
    if not fits(group, counts):
        assert allowed_letters(PartialAssignment(group, counts)) == 0
        return
    positions = wyckoff_positions(group)
    partial, used = PartialAssignment(group, counts), []
    while not partial.complete:
        choice = random.choice(bits(allowed_letters(partial)))  # type: ignore[attr-defined]
        used.append(choice)
        partial = partial.with_orbit(choice)
    assert sum(positions[i].multiplicity for i in used) == sum(counts)
    fixed = [i for i in used if positions[i].degrees == 0]
    assert len(fixed) == len(set(fixed))


@given(COUNTS, st.randoms(use_true_random=False))
def test_the_order_of_elements_does_not_matter_for_what_fits(counts: tuple[int, ...], random: object) -> None:
    shuffled = list(counts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    groups = fitting_space_groups(counts)
    assert fitting_space_groups(tuple(shuffled)) == groups
    assert [fits(number, counts) for number in range(1, SPACE_GROUPS + 1)] == list(groups)
    assert groups[0]


@pytest.mark.parametrize(
    ("group", "counts", "possible"),
    [
        (225, (1, 1), True),  # rock salt: a and b
        (225, (1, 1, 1), False),  # a and b hold one atom each, and no other position does
        (225, (1, 1, 2), True),  # Heusler
        (227, (1,), False),
        (227, (2,), True),  # diamond
        (221, (1, 1, 3), True),  # perovskite
        (230, (1,), False),
    ],
)
def test_known_structures(group: int, counts: tuple[int, ...], possible: bool) -> None:  # noqa: FBT001
    assert fits(group, counts) is possible


def test_letters_of_one_element_do_not_fall() -> None:
    partial = PartialAssignment(225, (1, 3)).with_orbit(1).with_orbit(2)
    assert bits(allowed_letters(partial)) == []
    partial = PartialAssignment(221, (4,)).with_orbit(2)
    assert bits(allowed_letters(partial)) == []
    assert bits(allowed_letters(PartialAssignment(221, (4,)))) == [0, 1]
