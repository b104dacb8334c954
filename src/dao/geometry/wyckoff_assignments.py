"""Which Wyckoff positions the atoms of a composition can take: exact counting, without chemistry.

The atoms of a primitive cell are split into orbits, element by element in a fixed order, the positions of one element
in the order a, b, c, ... of the International Tables. A position without free coordinates holds one orbit a cell; all
others hold any number. :func:`allowed_letters` says which positions may come next so that all atoms still find a
place: a walk that keeps to it never comes to a dead end, and every assignment is one such walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from dao.geometry.wyckoff import SPACE_GROUPS, wyckoff_positions


@dataclass(frozen=True)
class _Group:
    """Positions of a space group, by index: 0 = a, 1 = b, ..."""

    multiplicities: tuple[int, ...]
    fixed: int
    """Bits of the positions without free coordinates."""


@dataclass(frozen=True)
class PartialAssignment:
    """Orbits chosen so far, as far as the next choice depends on them.

    Attributes:
        space_group: number, 1 to 230.
        remaining: atoms still to place of the current element and of each later one.
        first: index of the first position that the current element may still take.
        used: bits of the positions without free coordinates that are taken.

    """

    space_group: int
    remaining: tuple[int, ...]
    first: int = 0
    used: int = 0

    @property
    def complete(self) -> bool:
        """Every atom has its place."""
        return not self.remaining

    def with_orbit(self, position: int) -> PartialAssignment:
        """The current element takes that position (index in the group) once more."""
        group = _group(self.space_group)
        left = self.remaining[0] - group.multiplicities[position]
        used = self.used | (1 << position & group.fixed)
        if left == 0:
            return PartialAssignment(self.space_group, self.remaining[1:], 0, used)
        return PartialAssignment(self.space_group, (left, *self.remaining[1:]), position, used)


def allowed_letters(partial: PartialAssignment) -> int:
    """Bits of the positions (bit 0 = a) that the next orbit can take so that all atoms can still be placed."""
    # whether later elements find places does not depend on their order: sorted, they share entries of the cache
    return _allowed(
        partial.space_group, partial.remaining[0], partial.first, partial.used, _sorted(partial.remaining[1:])
    )


def fits(space_group: int, counts: Sequence[int]) -> bool:
    """Whether a primitive cell of that group can hold elements in these numbers."""
    return _fits(_sorted(counts), *_places(space_group, 0, 0))


@lru_cache(maxsize=1 << 14)
def _fitting(counts: tuple[int, ...]) -> tuple[bool, ...]:
    return tuple(fits(number, counts) for number in range(1, SPACE_GROUPS + 1))


def fitting_space_groups(counts: Sequence[int]) -> tuple[bool, ...]:
    """:func:`fits` of the groups 1 to 230."""
    return _fitting(_sorted(counts))


def _sorted(counts: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(counts, reverse=True))


@cache
def _group(space_group: int) -> _Group:
    positions = wyckoff_positions(space_group)
    return _Group(
        multiplicities=tuple(position.multiplicity for position in positions),
        fixed=sum(1 << i for i, position in enumerate(positions) if position.degrees == 0),
    )


Fixed = tuple[tuple[int, int], ...]
"""Multiplicity and number of the unused positions without free coordinates, by rising multiplicity."""


@lru_cache(maxsize=1 << 18)
def _places(space_group: int, first: int, used: int) -> tuple[Fixed, tuple[int, ...]]:
    """Unused positions without, and multiplicities of those with free coordinates, from index ``first`` on."""
    group = _group(space_group)
    fixed: dict[int, int] = {}
    free: set[int] = set()
    for i in range(first, len(group.multiplicities)):
        multiplicity = group.multiplicities[i]
        if not group.fixed >> i & 1:
            free.add(multiplicity)
        elif not used >> i & 1:
            fixed[multiplicity] = fixed.get(multiplicity, 0) + 1
    return tuple(sorted(fixed.items())), tuple(sorted(free))


@lru_cache(maxsize=1 << 20)
def _allowed(space_group: int, count: int, first: int, used: int, later: tuple[int, ...]) -> int:
    group = _group(space_group)
    bits = 0
    for i in range(first, len(group.multiplicities)):
        multiplicity, fixed = group.multiplicities[i], group.fixed >> i & 1
        if multiplicity > count or (fixed and used >> i & 1):
            continue
        taken = used | (fixed << i)
        if count == multiplicity:
            possible = _fits(later, *_places(space_group, 0, taken))
        else:
            possible = _completes(space_group, count - multiplicity, i, taken, later)
        bits |= possible << i
    return bits


@lru_cache(maxsize=1 << 20)
def _completes(space_group: int, count: int, first: int, used: int, later: tuple[int, ...]) -> bool:
    """Whether ``count`` atoms fit from position ``first`` on, and the ``later`` elements anywhere."""
    mine, my_free = _places(space_group, first, used)
    every, free = _places(space_group, 0, used)
    return any(_fits(later, _without(every, taken), free) for taken in _fillings(count, mine, my_free))


@lru_cache(maxsize=1 << 20)
def _fits(counts: tuple[int, ...], fixed: Fixed, free: tuple[int, ...]) -> bool:
    """Whether elements in these numbers find places."""
    if not counts or all(_sums(count, free) for count in counts):
        return True
    return any(_fits(counts[1:], _without(fixed, taken), free) for taken in _fillings(counts[0], fixed, free))


@lru_cache(maxsize=1 << 16)
def _fillings(count: int, fixed: Fixed, free: tuple[int, ...]) -> tuple[Fixed, ...]:
    """Every way to take fixed positions so that the rest of ``count`` atoms fits on free ones; least first."""
    if not fixed:
        return ((),) if _sums(count, free) else ()
    (multiplicity, number), rest = fixed[0], fixed[1:]
    found: list[Fixed] = []
    for taken in range(min(number, count // multiplicity) + 1):
        mine: Fixed = ((multiplicity, taken),) if taken else ()
        found += [(*mine, *others) for others in _fillings(count - taken * multiplicity, rest, free)]
    return tuple(found)


def _without(fixed: Fixed, taken: Fixed) -> Fixed:
    if not taken:
        return fixed
    gone = dict(taken)
    left = ((multiplicity, number - gone.get(multiplicity, 0)) for multiplicity, number in fixed)
    return tuple((multiplicity, number) for multiplicity, number in left if number)


@lru_cache(maxsize=1 << 16)
def _sums(count: int, free: tuple[int, ...]) -> bool:
    """Whether ``count`` is a sum of these multiplicities, each any number of times."""
    reachable = 1
    for total in range(1, count + 1):
        if any(part <= total and reachable >> (total - part) & 1 for part in free):
            reachable |= 1 << total
    return bool(reachable >> count & 1)
