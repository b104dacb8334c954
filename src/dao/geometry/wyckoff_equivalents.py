"""One name for assignments that differ by the choice of origin or axes alone.

In rock salt either element may be said to sit on a: the Euclidean normaliser of Fm-3m exchanges a and b. Of all such
descriptions the lexicographically least one stands for all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib import resources

from dao.geometry.wyckoff import wyckoff_positions


@cache
def letter_exchanges(space_group: int) -> tuple[dict[str, str], ...]:
    """How the Euclidean normaliser maps a group's letters, the identity first."""
    letters = [position.letter for position in wyckoff_positions(space_group)]
    rows = _table().get(str(space_group), [])
    return tuple(dict(zip(letters, row, strict=True)) for row in ("".join(letters), *rows))


@cache
def _table() -> dict[str, list[str]]:
    text = resources.files("dao.geometry").joinpath("wyckoff_equivalents.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def canonical_orbits(space_group: int, orbits: Iterable[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    """The least of all equivalent descriptions: sorted by element, then letter (a first, A last).

    Args:
        space_group: 1 to 230.
        orbits: element and Wyckoff letter of each.

    """
    given = tuple(orbits)
    return min(
        (
            sorted_orbits((element, moved[letter]) for element, letter in given)
            for moved in letter_exchanges(space_group)
        ),
        key=_order,
    )


def sorted_orbits(orbits: Iterable[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    """By element, then letter in the order of the International Tables."""
    return tuple(sorted(orbits, key=lambda orbit: (orbit[0], orbit[1] == "A", orbit[1])))


def _order(orbits: tuple[tuple[int, str], ...]) -> list[tuple[int, bool, str]]:
    return [(element, letter == "A", letter) for element, letter in orbits]
