"""Energy above the convex hull from formation energies.

The hull energy at a composition is the least energy of any mixture of phases with that composition: a linear program
over the phases of its elements. Mixtures of unary to n-ary phases only ever use phases that are themselves on the hull
of their own elements, so systems are taken by rising number of elements and what is above its hull is left out of all
larger ones; phases of one composition are the lowest of them. Programs are independent, so many are solved as one.

Shapes: M rows, E elements (column = atomic number), P phases, S systems.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from dao.errors import InputError

ON_HULL = 1e-7
"""eV/atom: a phase this close to its hull belongs to it."""

_AT_ONCE = 20_000
"""Columns of the linear programs solved together."""

_MOST_ELEMENTS = 12
"""Systems of more elements are refused: the subsets that their phases come from number 2^n."""


@dataclass(frozen=True)
class _Phase:
    """The lowest crystal of a reduced composition.

    Attributes:
        amounts: atomic number -> atom fraction.
        energy: eV/atom.

    """

    amounts: dict[int, float]
    energy: float


def e_above_hull(counts: Int[np.ndarray, "m e"], energies: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Energy above the hull of all rows with an energy; elements count as phases of formation energy 0.

    Args:
        counts: (M, E) atoms of each element in each cell.
        energies: (M,) formation energies in eV/atom; NaN where unknown.

    Returns:
        (M,) eV/atom, never negative; NaN where the energy is unknown.

    Raises:
        InputError: a crystal of too many elements.

    """
    result = np.full(len(energies), np.nan)
    known = np.flatnonzero(~np.isnan(energies))
    if not known.size:
        return result
    reduced = counts[known] // np.gcd.reduce(counts[known], axis=1, keepdims=True)
    compositions, row_of = np.unique(reduced, axis=0, return_inverse=True)
    row_of = row_of.ravel()
    lowest = np.full(len(compositions), np.inf)
    np.minimum.at(lowest, row_of, energies[known])
    hull = _hull_energies(compositions, lowest)
    result[known] = np.maximum(0.0, energies[known] - hull[row_of])
    return result


def _hull_energies(compositions: Int[np.ndarray, "p e"], lowest: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """Hull energy at each composition, of which ``lowest`` is the lowest phase."""
    present: Bool[np.ndarray, "p e"] = compositions > 0
    sizes = present.sum(axis=1)
    if sizes.max() > _MOST_ELEMENTS:
        raise InputError(f"a crystal of {sizes.max()} elements (at most {_MOST_ELEMENTS})")
    hull = lowest.copy()
    # what may take part in mixtures, by the elements it is made of
    stable: dict[tuple[int, ...], list[_Phase]] = defaultdict(list)
    for element in np.flatnonzero(present.any(axis=0)).tolist():
        stable[element,] = [_Phase({element: 1.0}, 0.0)]
    unary = sizes == 1
    hull[unary] = np.minimum(lowest[unary], 0.0)
    for place in np.flatnonzero(unary).tolist():
        pure = int(present[place].argmax())
        stable[pure,] = [_Phase({pure: 1.0}, float(hull[place]))]
    for size in range(2, int(sizes.max()) + 1):
        systems: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place in np.flatnonzero(sizes == size).tolist():
            systems[tuple(np.flatnonzero(present[place]).tolist())].append(place)
        programs = [_program(system, places, compositions, lowest, stable) for system, places in systems.items()]
        flat = [one for some in programs for one in some]
        for place, energy in zip([one.place for one in flat], _solve(flat), strict=True):
            hull[place] = min(energy, lowest[place])
        for system, places in systems.items():
            stable[system] = [
                _Phase(_fractions(compositions[place]), float(lowest[place]))
                for place in places
                if lowest[place] - hull[place] <= ON_HULL
            ]
    return hull


def _fractions(composition: Int[np.ndarray, " e"]) -> dict[int, float]:
    total = composition.sum()
    return {int(element): float(composition[element] / total) for element in np.flatnonzero(composition)}


@dataclass(frozen=True)
class _Program:
    """Least energy x . energies of x >= 0 with amounts @ x = target."""

    place: int
    amounts: Float[np.ndarray, "e p"]
    energies: Float[np.ndarray, " p"]
    target: Float[np.ndarray, " e"]


def _program(
    system: tuple[int, ...],
    places: Sequence[int],
    compositions: Int[np.ndarray, "p e"],
    lowest: Float[np.ndarray, " p"],
    stable: dict[tuple[int, ...], list[_Phase]],
) -> list[_Program]:
    """One program a composition of the system: phases of its subsystems, and all of its own."""
    subsystems = (some for size in range(1, len(system)) for some in combinations(system, size))
    smaller = [phase for some in subsystems for phase in stable.get(some, ())]
    own = compositions[places][:, system].astype(np.float64)
    own /= own.sum(axis=1, keepdims=True)
    below = np.array([[phase.amounts.get(element, 0.0) for element in system] for phase in smaller])
    amounts = np.concatenate([below, own]).T
    energies = np.concatenate([[phase.energy for phase in smaller], lowest[places]])
    return [_Program(place, amounts, energies, own[row]) for row, place in enumerate(places)]


def _solve(programs: Sequence[_Program]) -> list[float]:
    found: list[float] = []
    batch: list[_Program] = []
    columns = 0
    for one in programs:
        batch.append(one)
        columns += len(one.energies)
        if columns >= _AT_ONCE:
            found += _solve_together(batch)
            batch, columns = [], 0
    return found + (_solve_together(batch) if batch else [])


def _solve_together(programs: Sequence[_Program]) -> list[float]:
    """Independent programs as the blocks of one."""
    from scipy.optimize import linprog
    from scipy.sparse import block_diag

    energies = np.concatenate([one.energies for one in programs])
    done = linprog(
        energies,
        A_eq=block_diag([one.amounts for one in programs], format="csc"),
        b_eq=np.concatenate([one.target for one in programs]),
        method="highs",
    )
    if not done.success:
        raise RuntimeError(f"the hull's linear program was not solved: {done.message}")
    ends = np.cumsum([len(one.energies) for one in programs])
    return [float(part @ one.energies) for part, one in zip(np.split(done.x, ends[:-1]), programs, strict=True)]
