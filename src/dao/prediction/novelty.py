"""How new a candidate is: the nearest crystal of a table of prototypes, and how far from it the candidate is.

Arrangements are compared by their fingerprints (:mod:`dao.geometry.fingerprint`), which know neither cells nor volumes,
at the tolerance that decides which crystals are one prototype. Elements play no part but in naming the nearest crystal.
Every prototype with the same counts of atoms is compared with, whatever its space group: of the shipped tables that are
at most 837, whose fingerprints take a quarter of a second, once.

Shapes: G prototypes with the candidate's counts, S slots, P assignments of the elements to them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dao.crystal import Crystal
from dao.geometry.fingerprint import BINS, fingerprint
from dao.prediction.prototype_table import PrototypeTable, formula_of
from dao.prediction.ranking import Candidate
from dao.prediction.substitution import DUPLICATE, MAX_ASSIGNMENTS, assignments

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

Reading = Literal["known crystal", "known kind", "new arrangement"]


@dataclass(frozen=True)
class Novelty:
    """How new a crystal is.

    Attributes:
        reading: ``known crystal`` where this arrangement is known with these elements on these sites, ``known kind``
            where it is with others, else ``new arrangement``.
        like: the nearest known crystal as a formula; None where none has these counts of atoms.
        space_group: its space group.
        distance: how far the arrangements are from each other: share of an atom's neighbours that are elsewhere, of
            another element or at another distance, 0 to 2; infinite where there is no nearest one.

    """

    reading: Reading
    like: str | None = None
    space_group: int | None = None
    distance: float = math.inf

    def record(self) -> dict[str, Any]:
        """As plain JSON, which has no infinity."""
        return {
            "novelty": self.reading,
            "nearest_known": self.like,
            "nearest_known_space_group_number": self.space_group,
            "distance_to_known": round(self.distance, 4) if math.isfinite(self.distance) else None,
        }


@dataclass(frozen=True, eq=False)
class KnownKinds:
    """A table of prototypes, ready to be compared with."""

    table: PrototypeTable
    distances: Floats
    """(E, E) between elements (:mod:`dao.element_distances`)."""
    _marks: dict[int, Floats] = field(default_factory=dict, repr=False)

    def novelty(self, crystal: Crystal) -> Novelty:
        """How new a crystal in a primitive cell is."""
        slots = sorted((amount, number) for number, amount in crystal.counts.items())
        amounts, elements = np.array([amount for amount, _ in slots]), np.array([number for _, number in slots])
        numbers = self.table.groups.get(tuple(amounts.tolist()), np.array([], dtype=np.int64)).tolist()
        if not numbers:
            return Novelty("new arrangement")
        place = {int(number): slot for slot, number in enumerate(elements)}
        mark = fingerprint(
            np.array([place[int(z)] for z in crystal.atomic_numbers]), crystal.frac_coords, crystal.lattice
        )
        known = np.stack([self._mark(number) for number in numbers])
        scale = 0.5 * (known.sum(1) + mark.sum())
        size = math.prod(math.factorial(same) for same in Counter(amounts.tolist()).values())
        ways = assignments(amounts.tolist()) if size <= MAX_ASSIGNMENTS else np.arange(len(amounts))[None]
        apart = np.stack([np.abs(known - mark[way][:, way].ravel()).sum(1) / scale for way in ways])  # (P, G)
        nearest = float(apart.min())
        same = nearest < DUPLICATE
        # in rock salt either element may be said to sit on either slot: of all that fit, the most alike elements
        fitting = np.argwhere(apart < DUPLICATE if same else apart == nearest).tolist()
        found = [(*self._most_alike(numbers[g], elements[ways[p]], amounts), numbers[g]) for p, g in fitting]
        cost, like, number = min(found)
        reading: Reading = "known crystal" if same and cost == 0.0 else "known kind" if same else "new arrangement"
        group = int(self.table.arrays["space_group"][number])
        return Novelty(reading, formula_of(like, amounts.tolist()), group, nearest)

    def _most_alike(self, number: int, elements: Integers, amounts: Integers) -> tuple[float, tuple[int, ...]]:
        """Distance to the nearest element set of a prototype, and that set."""
        sets = self.table.sets(number)
        costs = self.distances[sets, elements] @ (amounts / amounts.sum())
        nearest = int(costs.argmin())
        return float(costs[nearest]), tuple(sets[nearest].tolist())

    def _mark(self, number: int) -> Floats:
        """(S S BINS,) fingerprint by slots."""
        if number not in self._marks:
            one = self.table.prototype(number)
            # slots as elements, which are distinct
            crystal = one.crystal(np.arange(1, len(one.amounts) + 1), float(one.amounts.sum()))
            mark = fingerprint(crystal.atomic_numbers - 1, crystal.frac_coords, crystal.lattice)
            self._marks[number] = mark.reshape(len(one.amounts) ** 2 * BINS)
        return self._marks[number]


def with_novelty(candidates: Sequence[Candidate], known: KnownKinds) -> list[Candidate]:
    """The candidates with how new each is; one of a known kind has the crystal that it is like, whatever its source."""
    said = [known.novelty(one.crystal) for one in candidates]
    return [
        replace(
            one,
            novelty=new,
            prototype=one.prototype or (new.like if new.reading != "new arrangement" else None),
        )
        for one, new in zip(candidates, said, strict=True)
    ]
