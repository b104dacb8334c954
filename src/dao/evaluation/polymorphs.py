"""Are all known structures of a composition found? Polymorph coverage (paper section 2.3.3 and Figure 3b).

Test crystals of the same composition form a group of R references; the samples of all of them (R times K) form one pool
of S samples, and a reference is hit if any sample of the pool matches it. A sample that matches two references hits
both.

Two counts are kept, because a loose matcher cannot tell some references apart:

- *as listed*: every reference is a conformation of its own, as the paper counts.
- *distinct*: references that match each other at the benchmark's tolerances are one conformation, hit if any of them
  is; chains merge too (a matches b and b matches c: one conformation). A group left with one conformation is no
  polymorph and drops out. This is the figure to quote: "as listed", one sample may hit two copies of one structure,
  which lifts the rate without any diversity.

The paper reports "several representative groups" of the MP-20 test split; here every group counts.
RMS distances are pymatgen's, dimensionless; nan means no match.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dao.errors import InputError
from dao.evaluation.metrics import Bootstrap
from dao.evaluation.scores import Interval

PAPER_ALL_HIT = {2: 0.722, 3: 0.545, 4: 0.818}
"""Conformations -> share of groups that DAO-G hits all of, at 20 samples a target (the paper's project page)."""

LARGEST = 5
"""Groups of this many conformations and more are counted together."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Polymorph:
    """One composition with two conformations or more.

    Attributes:
        formula: of the composition.
        references: which rows of the RMS table each conformation stands for; one each "as listed".
        best: smallest RMS distance of each conformation to any sample of the pool, None = not hit.
        samples: size of the pool, S.

    """

    formula: str
    references: tuple[tuple[int, ...], ...]
    best: tuple[float | None, ...]
    samples: int

    @property
    def conformations(self) -> int:
        """How many there are."""
        return len(self.best)

    @property
    def hits(self) -> int:
        """How many of them are hit."""
        return sum(one is not None for one in self.best)

    def record(self) -> dict[str, Any]:
        """Plain JSON of all that is known of it."""
        return {
            "formula": self.formula,
            "conformations": self.conformations,
            "hits": self.hits,
            "references": [list(rows) for rows in self.references],
            "best": list(self.best),
            "samples": self.samples,
        }


@dataclass(frozen=True)
class Coverage:
    """How well the groups of one number of conformations are covered.

    Attributes:
        conformations: the number; 5 stands for 5 and more, None for all groups together.
        groups: how many compositions.
        all_hit: share of groups whose conformations are all hit, with its 95 % Wilson interval.
        mean_share: mean over groups of the share of conformations hit, with its 95 % bootstrap interval over groups.

    """

    conformations: int | None
    groups: int
    all_hit: Interval
    mean_share: Interval

    @property
    def label(self) -> str:
        """What a table calls it: "2", "3", "4", "≥ 5" or "all"."""
        if self.conformations is None:
            return "all"
        return str(self.conformations) if self.conformations < LARGEST else f"≥ {LARGEST}"

    def record(self) -> dict[str, Any]:
        """Plain JSON."""
        shares = {"all_hit": self.all_hit, "mean_share": self.mean_share}
        intervals = {name: {"value": one.value, "low": one.low, "high": one.high} for name, one in shares.items()}
        return {"conformations": self.label, "groups": self.groups, **intervals}


def polymorph_groups(compositions: Sequence[Key]) -> dict[Key, tuple[int, ...]]:
    """Composition -> positions of the targets that have it, for those of two targets or more.

    Args:
        compositions: of each target; reduced formulas, or formulas of the cell to keep cell sizes apart.

    """
    places: defaultdict[Key, list[int]] = defaultdict(list)
    for place, composition in enumerate(compositions):
        places[composition].append(place)
    return {composition: tuple(found) for composition, found in places.items() if len(found) > 1}


def polymorphs(
    tables: Mapping[str, npt.NDArray[np.float64]], references: Mapping[str, npt.NDArray[np.float64]] | None = None
) -> list[Polymorph]:
    """Which conformations of each composition are hit, by formula.

    Args:
        tables: formula -> (R, S) RMS distance of each reference to each sample of the pool, nan = no match.
        references: formula -> (R, R) RMS distance between references, nan = no match, the diagonal ignored; given, the
            count is that of *distinct* conformations, otherwise conformations are those *as listed*.

    Returns:
        Compositions with two conformations or more, sorted by formula.

    Raises:
        InputError: a table that is not (R, S), or references that are missing for a formula or not (R, R).

    """
    found = []
    for formula in sorted(tables):
        table = tables[formula]
        if table.ndim != 2:
            raise InputError(f"polymorphs: {formula}: the table must have shape (R, S), got {table.shape}")
        parts: list[tuple[int, ...]] = [(row,) for row in range(len(table))]
        if references is not None:
            if formula not in references or references[formula].shape != (len(table), len(table)):
                raise InputError(f"polymorphs: {formula}: needs ({len(table)}, {len(table)}) distances of references")
            parts = _merged(~np.isnan(references[formula]))
        if len(parts) > 1:
            best = [_smallest(table[list(rows)]) for rows in parts]
            found.append(Polymorph(formula, tuple(parts), tuple(best), table.shape[1]))
    return found


def coverage(found: Sequence[Polymorph], resamples: int = 1000, seed: int = 0) -> list[Coverage]:
    """Coverage of the groups of 2, 3, 4 and >= 5 conformations, then of all; numbers without a group are left out."""
    sizes = sorted({min(one.conformations, LARGEST) for one in found})
    lines = []
    for size in [*sizes, None] if found else []:
        group = [one for one in found if size in {None, min(one.conformations, LARGEST)}]
        shares = np.array([one.hits / one.conformations for one in group])
        lines.append(
            Coverage(
                conformations=size,
                groups=len(group),
                all_hit=wilson(sum(one.hits == one.conformations for one in group), len(group)),
                mean_share=Bootstrap(len(group), resamples, seed).mean(shares),
            )
        )
    return lines


def wilson(hits: int, trials: int) -> Interval:
    """Share of trials that hit, with its 95 % Wilson score interval, which stays in [0, 1] for few trials too.

    Raises:
        InputError: no trials, or hits outside 0 to trials.

    """
    if not 0 <= hits <= trials or trials == 0:
        raise InputError(f"{hits} hits of {trials} trials have no Wilson interval")
    z = NormalDist().inv_cdf(0.975)
    share = hits / trials
    scale = 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / scale
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2) / scale
    # rounding must not push a bound past the share itself
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


def _merged(match: npt.NDArray[np.bool_]) -> list[tuple[int, ...]]:
    """Connected components of references that match, in either direction; each sorted, by first member."""
    parts: list[set[int]] = []
    for row in range(len(match)):
        linked = {row, *np.flatnonzero(match[row]).tolist()}
        for part in [part for part in parts if part & linked]:
            parts.remove(part)
            linked |= part
        parts.append(linked)
    return sorted(tuple(sorted(part)) for part in parts)


def _smallest(distances: npt.NDArray[np.float64]) -> float | None:
    matched = distances[~np.isnan(distances)]
    return float(matched.min()) if matched.size else None
