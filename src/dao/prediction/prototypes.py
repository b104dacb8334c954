"""Crystals proposed for a composition: its elements on the sites of known prototypes of the same anonymous formula.

Elements replace each other one-to-one among those of equal count, every such assignment being a candidate of its own;
candidates are ordered by how alike the elements are to those that the prototype was seen with, and geometric
near-duplicates are dropped. Nothing but the composition is used, and no chance enters.

Shapes: G prototypes with the target's counts, M element sets of all of them, S slots, P assignments.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dao.crystal import DEFAULT_LIMITS, Crystal
from dao.element_distances import element_distances
from dao.geometry.fingerprint import BINS, fingerprint
from dao.geometry.wyckoff import SPACE_GROUPS
from dao.prediction.prototype_table import Counts, Prototype, PrototypeTable
from dao.prediction.substitution import DUPLICATE, MAX_ASSIGNMENTS, assignments, best_assignment

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NEAR = 0.02
"""Distance at which a neighbour of :data:`NEIGHBOURS` weighs half of what one of the same elements does."""

NEIGHBOURS = 5
"""Element sets of a prototype whose volumes say how far it is from the per-element volumes."""

VOLUME_RATIOS = (0.25, 2.5)
"""Bounds of a proposal's volume, in units of what its elements say: 99.9 % of MP-20's crystals are below 2.4, and what
is far beyond is a layer or a molecule in a box of nothing, a single known crystal of its kind."""

VOTE_REACH = 0.1
"""Distance of elements at which a known crystal's vote for its own structure has fallen to 1/e."""


@dataclass(frozen=True)
class Proposal:
    """One proposed crystal.

    Attributes:
        crystal: the target's elements on the prototype's sites.
        prototype: its number in the table.
        space_group: 1 to 230.
        like: elements of the most similar known crystal, in the order of the slots.
        amounts: atoms on each slot.
        distance: how far the target's elements are from those, 0 for the same elements (dimensionless).
        members: known crystals of that prototype, whatever their elements.
        votes: of all known crystals of that prototype, each exp(-distance / :data:`VOTE_REACH`), and of those dropped
            as near-duplicates of it.

    """

    crystal: Crystal
    prototype: int
    space_group: int
    like: tuple[int, ...]
    amounts: Counts
    distance: float
    members: int = 1
    votes: float = 0.0


@dataclass(frozen=True)
class _Group:
    """Prototypes of one multiset of counts, their element sets end to end."""

    numbers: Integers  # (G,)
    elements: Integers  # (M, S)
    members: Integers  # (M,)
    first: Integers  # (G,) first set of each


@dataclass(frozen=True)
class _Ways:
    """Every way to put a target's elements on the prototypes of its counts."""

    group: _Group
    ways: Integers  # (G, P, S) the target's slot for each of a prototype's
    costs: Floats  # (G, P) distance to the nearest set
    votes: Floats  # (G, P)


@dataclass(frozen=True, eq=False)
class Proposer:
    """A table ready for :meth:`propose`."""

    table: PrototypeTable
    distances: Floats
    _groups: dict[Counts, _Group] = field(default_factory=dict, repr=False)
    _known: dict[int, tuple[Prototype, Floats]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, table: PrototypeTable) -> Proposer:
        """With the distance between elements that the table's volumes complete."""
        return cls(table, element_distances(table.atomic_volumes))

    @classmethod
    def load(cls, path: Path, *more: Path) -> Proposer:
        """Of the table in a file, and of those in more files.

        Raises:
            InputError: no such file, or no table.

        """
        table = PrototypeTable.load(path)
        for other in more:
            table = table.joined(PrototypeTable.load(other))
        return cls.of(table)

    def propose(
        self, atomic_numbers: Sequence[int], count: int, *, exclude_same_composition: bool = False
    ) -> list[Proposal]:
        """Up to ``count`` distinct crystals of that composition, those from the most similar elements first.

        Args:
            atomic_numbers: the elements of one primitive cell, in any order.
            count: most proposals wanted.
            exclude_same_composition: do as if crystals of this very composition had not been seen.

        Raises:
            InputError: no atoms, or an element outside 1 to 94.

        """
        target, amounts = _slots(atomic_numbers)
        group = self._group(tuple(amounts.tolist()))
        found: list[Proposal] = []
        if group is None:
            return found
        every = self._ways(group, target, amounts, exclude_same_composition)
        seen = np.empty((count, len(target) ** 2 * BINS))
        votes: list[float] = []
        for number, way, nearest, own in _nearest_first(every):
            if len(found) == count:
                break
            prototype, mark = self._prototype(number)
            back = np.argsort(way)
            turned = mark[back][:, back].ravel()
            known = seen[: len(found)]
            alike = np.abs(known - turned).sum(1) < DUPLICATE * 0.5 * (known.sum(1) + turned.sum())
            if alike.any():
                votes[int(alike.argmax())] += own
                continue
            seen[len(found)] = turned
            votes.append(own)
            elements = target[way]
            costs = self._costs(prototype.elements, elements, amounts, exclude_same_composition)
            volume = float(self.table.atomic_volumes[elements] @ amounts) * _volume_ratio(prototype, costs)
            found.append(
                Proposal(
                    prototype.crystal(elements, volume),
                    number,
                    prototype.space_group,
                    tuple(prototype.elements[int(costs.argmin())].tolist()),
                    tuple(amounts.tolist()),
                    nearest,
                    int(prototype.members.sum()),
                )
            )
        return [replace(one, votes=own) for one, own in zip(found, votes, strict=True)]

    def space_group_votes(self, atomic_numbers: Sequence[int], *, exclude_same_composition: bool = False) -> Floats:
        """(231,) votes (see :class:`Proposal`) of known crystals for each space group, by its number.

        Args:
            atomic_numbers: as :meth:`propose`.
            exclude_same_composition: likewise.

        Raises:
            InputError: likewise.

        """
        votes = np.zeros(SPACE_GROUPS + 1)
        target, amounts = _slots(atomic_numbers)
        group = self._group(tuple(amounts.tolist()))
        if group is not None:
            own = self._ways(group, target, amounts, exclude_same_composition).votes.sum(1)
            np.add.at(votes, self.table.arrays["space_group"][group.numbers], own)
        return votes

    def _costs(self, sets: Integers, elements: Integers, amounts: Integers, exclude_same: bool) -> Floats:  # noqa: FBT001
        """(M,) distance of element sets to the elements on the same slots; infinite for the same composition."""
        costs = self.distances[sets, elements] @ (amounts / amounts.sum())
        return np.where(_same(sets, elements, amounts), np.inf, costs) if exclude_same else costs

    def _ways(self, group: _Group, target: Integers, amounts: Integers, exclude_same: bool) -> _Ways:  # noqa: FBT001
        same = _same(group.elements, target, amounts) if exclude_same else None
        if math.prod(math.factorial(equal) for equal in Counter(amounts.tolist()).values()) <= MAX_ASSIGNMENTS:
            every = assignments(amounts.tolist())
            cost = self.distances[group.elements[:, None, :], target[every]] @ (amounts / amounts.sum())  # (M, P)
            if same is not None:
                cost[same] = np.inf
            nearest = np.minimum.reduceat(cost, group.first, axis=0)  # (G, P)
            ways = np.broadcast_to(every, (*nearest.shape, len(target)))
        else:
            best = np.stack([best_assignment(self.distances, own, target, amounts) for own in group.elements])
            cost = self.distances[group.elements, target[best]] @ (amounts / amounts.sum())
            if same is not None:
                cost[same] = np.inf
            last = np.append(group.first[1:], len(cost))
            least = np.array([a + cost[a:b].argmin() for a, b in zip(group.first, last, strict=True)])
            nearest, ways, cost = cost[least][:, None], best[least][:, None], cost[:, None]
        votes = np.add.reduceat(group.members[:, None] * np.exp(-cost / VOTE_REACH), group.first, axis=0)
        return _Ways(group, ways, nearest, votes)

    def _group(self, counts: Counts) -> _Group | None:
        if counts not in self._groups:
            numbers = self.table.groups.get(counts)
            if numbers is None:
                return None
            sets = [self.table.sets(number) for number in numbers.tolist()]
            first = np.concatenate([[0], np.cumsum([len(one) for one in sets])[:-1]])
            members = np.concatenate([self.table.members(number) for number in numbers.tolist()])
            self._groups[counts] = _Group(numbers, np.concatenate(sets), members, first)
        return self._groups[counts]

    def _prototype(self, number: int) -> tuple[Prototype, Floats]:
        """With its fingerprint by slots."""
        if number not in self._known:
            prototype = self.table.prototype(number)
            # slots as elements, which are distinct
            crystal = prototype.crystal(np.arange(1, len(prototype.amounts) + 1), float(prototype.amounts.sum()))
            mark = fingerprint(crystal.atomic_numbers - 1, crystal.frac_coords, crystal.lattice)
            self._known[number] = prototype, mark
        return self._known[number]


def _slots(atomic_numbers: Sequence[int]) -> tuple[Integers, Integers]:
    """(S,) elements of a cell and (S,) atoms of each, the rarest first.

    Raises:
        InputError: no atoms, or an element outside 1 to 94.

    """
    composition = Counter(int(number) for number in atomic_numbers)
    DEFAULT_LIMITS.check_composition(composition, "composition")
    slots = sorted((amount, number) for number, amount in composition.items())
    return np.array([number for _, number in slots]), np.array([amount for amount, _ in slots])


def _nearest_first(every: _Ways) -> Iterator[tuple[int, Integers, float, float]]:
    """Prototype, the target's slot for each of its slots, distance to the nearest set, and votes."""
    for flat in np.argsort(every.costs, axis=None, kind="stable").tolist():
        i, way = divmod(flat, every.costs.shape[1])
        if math.isinf(every.costs[i, way]):
            return
        yield int(every.group.numbers[i]), every.ways[i, way], float(every.costs[i, way]), float(every.votes[i, way])


def _same(sets: Integers, elements: Integers, amounts: Integers) -> npt.NDArray[np.bool_]:
    """(M,) which sets are of the same composition as these elements, whichever slots of equal count they are on."""
    key = amounts * 1000
    return np.asarray((np.sort(sets + key, axis=1) == np.sort(elements + key)).all(1))


def _volume_ratio(prototype: Prototype, costs: Floats) -> float:
    """By how much crystals of this prototype with the most similar elements are larger than their elements say.

    Those of the same elements, where there are any, say it alone.
    """
    own = costs == 0.0
    if own.any():
        return float(np.clip(np.exp(np.log(prototype.volume_ratios[own]).mean()), *VOLUME_RATIOS))
    nearest = np.argsort(costs, kind="stable")[:NEIGHBOURS]
    nearest = nearest[np.isfinite(costs[nearest])]
    weights = prototype.members[nearest] / (NEAR + costs[nearest])
    ratio = np.exp(weights @ np.log(prototype.volume_ratios[nearest]) / weights.sum())
    return float(np.clip(ratio, *VOLUME_RATIOS))
