"""Do common oxidation states of a composition's elements balance? Said as a hint, never asked for.

Which states are common, pymatgen says; rarer ones are those of SMACT 2.6 (:mod:`dao.smact`). As in SMACT, cations must
be less electronegative than anions. One cation may have two neighbouring states side by side (Fe3O4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from dao.elements import ELECTRONEGATIVITY, SYMBOLS
from dao.prediction.composition import Composition
from dao.smact import smact_elements

States = tuple[int, ...]
"""Oxidation states of one element, mostly one."""


@dataclass(frozen=True)
class ChargeHint:
    """What oxidation states say of a composition.

    Attributes:
        states: of each element by rising electronegativity, ``Sr(2+) Ti(4+) O(2-)``; empty where none balance.
        words: for people.

    """

    states: str
    words: str


@lru_cache(maxsize=256)
def charge_hint(composition: Composition) -> ChargeHint:
    """Say whether charges balance."""
    counts = dict(zip(composition.atomic_numbers, composition.amounts, strict=True))
    if len(counts) == 1:
        return ChargeHint("", "one element: no charges to balance")
    if all(smact_elements()[number - 1].metal for number in counts):
        return ChargeHint("", "metals only: no charges to balance")
    common = {number: _common(number) for number in counts}
    found = _balanced(counts, common, list(counts))
    if found:
        return ChargeHint(found, f"{found}: charge balanced")
    # of one element also what is rarer: with more, nearly everything balances
    for number in counts:
        known = {**common, number: smact_elements()[number - 1].oxidation_states}
        found = _balanced(counts, known, [number])
        if found:
            return ChargeHint(found, f"{found}: balanced by a less common oxidation state")
    return ChargeHint(
        "", "no balanced assignment of common oxidation states: fine for alloys, unusual for oxides and salts"
    )


def _common(number: int) -> States:
    from pymatgen.core import Element

    return tuple(int(state) for state in Element.from_Z(number).common_oxidation_states)


def _balanced(counts: Mapping[int, int], known: Mapping[int, States], mixing: Sequence[int]) -> str:
    """The balanced states in words, those of one state an element first, of small charges first; empty if none are.

    Elements of ``mixing`` may, one of them at a time, have two.
    """
    single: dict[int, list[States]] = {number: [(state,) for state in states] for number, states in known.items()}
    found = _smallest(counts, single)
    if found is None:
        mixed = (_smallest(counts, {**single, number: list(_pairs(known[number]))}) for number in sorted(mixing))
        found = min((one for one in mixed if one is not None), default=None)
    if found is None:
        return ""
    order = sorted(found[1], key=lambda item: (ELECTRONEGATIVITY[item[0]], SYMBOLS[item[0]]))
    return " ".join(f"{SYMBOLS[number]}({','.join(map(_signed, states))})" for number, states in order)


def _pairs(states: States) -> Iterable[States]:
    """Neighbouring positive ones: anions of two charges are rather bonded to each other."""
    return pairwise(sorted(state for state in states if state > 0))


def _smallest(
    counts: Mapping[int, int], choices: Mapping[int, list[States]]
) -> tuple[int, tuple[tuple[int, States], ...]] | None:
    """Of all balanced choices the one of least sum of squares of the charges, and that sum.

    Some electronegativity parts cations from anions; then only the totals that can be reached matter, not every
    combination. An element of two states takes any mean between them that its number of atoms allows.
    """
    best: tuple[int, tuple[tuple[int, States], ...]] | None = None
    for highest_cation in sorted({ELECTRONEGATIVITY[number] for number in counts}):
        if math.isinf(highest_cation):
            continue
        reached: dict[int, tuple[int, tuple[tuple[int, States], ...]]] = {0: (0, ())}
        for number, count in counts.items():
            is_cation = ELECTRONEGATIVITY[number] <= highest_cation
            after: dict[int, tuple[int, tuple[tuple[int, States], ...]]] = {}
            for states in choices[number]:
                if (states[0] > 0) != is_cation:
                    continue
                for charge in _charges(states, count):
                    for total, (cost, chosen) in reached.items():
                        option = cost + count * max(state * state for state in states), (*chosen, (number, states))
                        if total + charge not in after or option < after[total + charge]:
                            after[total + charge] = option
            reached = after
        if 0 in reached and (best is None or reached[0] < best):
            best = reached[0]
    return best


def _charges(states: States, count: int) -> Iterable[int]:
    """Charges of all atoms of an element together; of two states both are there."""
    if len(states) == 1:
        return (states[0] * count,)
    low, high = states
    return range(low * (count - 1) + high, low + high * (count - 1) + 1, high - low)


def _signed(state: int) -> str:
    return f"{abs(state)}{'+' if state > 0 else '-'}"
