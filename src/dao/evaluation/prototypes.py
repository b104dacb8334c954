"""The baseline that a generator must beat: substitute elements into known crystals of the same anonymous formula.

Known crystals ("templates") whose cells hold the same multiset of element counts as the target (ABC3 with N = 5, say)
are candidates. Elements replace each other one-to-one among those of equal count, every such assignment being a
candidate of its own; candidates are ordered by how alike the exchanged elements are, their cells scaled to the volume
that the target's elements take in the templates, and geometric near-duplicates dropped. Nothing but the target's
composition is used, no chance enters, and a walk over 26,163 templates takes tens of milliseconds.

Shapes: M templates, G of them with the target's counts, S elements of a cell in slots ordered by count, P assignments.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dao.constants import MAX_ATOMIC_NUMBER
from dao.crystal import DEFAULT_LIMITS, Crystal
from dao.data.store import PackedCrystals
from dao.element_distances import element_distances
from dao.errors import InputError
from dao.geometry.fingerprint import BINS, fingerprint
from dao.geometry.lattice import fit_atomic_volumes, volume
from dao.prediction.substitution import DUPLICATE, MAX_ASSIGNMENTS, assignments, best_assignment

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Proposal:
    """One substituted crystal.

    Attributes:
        crystal: the target's elements on the template's sites; its volume comes from the composition alone.
        template: id of the known crystal.
        distance: how far the exchanged elements are from each other, 0 for the same elements (dimensionless).

    """

    crystal: Crystal
    template: str
    distance: float


@dataclass(frozen=True)
class _Group:
    """Templates of one multiset of counts."""

    rows: Integers  # (G,)
    elements: Integers  # (G, S) atomic numbers by rising count, then number


@dataclass(frozen=True, eq=False)
class PrototypeTable:
    """Known crystals by anonymous formula and cell size, ready for :meth:`propose`.

    Attributes:
        templates: the known crystals.
        atomic_volumes: (E,) A^3 per element fitted to them, by atomic number.
        distances: (E, E) between elements.

    Fingerprints of templates are computed when first needed and kept, about 1 kB each.

    """

    templates: PackedCrystals
    atomic_volumes: Floats
    distances: Floats
    _groups: dict[tuple[int, ...], _Group] = field(default_factory=dict, repr=False)
    _fingerprints: dict[int, Floats] = field(default_factory=dict, repr=False)

    @classmethod
    def build(cls, packed: PackedCrystals) -> PrototypeTable:
        """Sort templates by the counts in their cells and fit their elements' volumes (A^3).

        Raises:
            InputError: a template with an element beyond plutonium, or whose cell has no volume.

        """
        heavy = (packed.atomic_numbers > MAX_ATOMIC_NUMBER).nonzero()
        if len(heavy):
            name = packed.ids[int(torch.searchsorted(packed.offsets, heavy[0, 0], right=True)) - 1]
            raise InputError(f"template {name}: an element beyond atomic number {MAX_ATOMIC_NUMBER}")
        counts = packed.element_counts()
        cells = volume(packed.lattice.double())
        if not bool((cells > 0.0).all()):
            raise InputError(f"template {packed.ids[int(cells.argmin())]}: the cell has no volume")
        volumes = fit_atomic_volumes(counts, cells).numpy()
        row, element = np.nonzero(counts.numpy())
        amount = counts.numpy()[row, element].astype(np.int64)
        order = np.lexsort((element, amount, row))
        row, element, amount = row[order], element[order], amount[order]
        starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(packed)))])
        members: dict[tuple[int, ...], list[int]] = {}
        for i in range(len(packed)):
            members.setdefault(tuple(amount[starts[i] : starts[i + 1]].tolist()), []).append(i)
        groups = {}
        for key, rows in members.items():
            index = np.array(rows)
            groups[key] = _Group(index, element[starts[index][:, None] + np.arange(len(key))])
        return cls(packed, volumes, element_distances(volumes), groups)

    def propose(
        self,
        atomic_numbers: Sequence[int],
        count: int,
        *,
        exclude: Container[str] = (),
        exclude_composition: bool = False,
    ) -> list[Proposal]:
        """Up to ``count`` distinct crystals of that composition, those from the most similar elements first.

        Args:
            atomic_numbers: the elements of one cell, in any order.
            count: most proposals wanted.
            exclude: ids of templates not to use.
            exclude_composition: use no template of the very same composition.

        Raises:
            InputError: no atoms, or an element outside 1 to 94.

        """
        composition = Counter(int(number) for number in atomic_numbers)
        DEFAULT_LIMITS.check_composition(composition, "composition")
        slots = sorted((amount, number) for number, amount in composition.items())
        amounts, target = np.array([amount for amount, _ in slots]), np.array([number for _, number in slots])
        group = self._groups.get(tuple(amounts.tolist()))
        found: list[Proposal] = []
        if group is None:
            return found
        cell_volume = float(self.atomic_volumes[target] @ amounts)
        seen = np.empty((count, len(target) ** 2 * BINS))
        for row, elements, chosen, distance in self._candidates(group, target, amounts):
            if len(found) == count:
                break
            template = self.templates.ids[row]
            if template in exclude or (exclude_composition and bool((elements == target).all())):
                continue
            back = np.argsort(chosen)
            mark = self._fingerprint(row, elements)[back][:, back].ravel()
            known = seen[: len(found)]
            if (np.abs(known - mark).sum(1) < DUPLICATE * 0.5 * (known.sum(1) + mark.sum())).any():
                continue
            seen[len(found)] = mark
            found.append(Proposal(self._substitute(row, elements, target[chosen], cell_volume), template, distance))
        return found

    def _candidates(
        self, group: _Group, target: Integers, amounts: Integers
    ) -> Iterator[tuple[int, Integers, Integers, float]]:
        """Template row, its elements, the target's slot for each of them, and distance, nearest first."""
        if math.prod(math.factorial(same) for same in Counter(amounts.tolist()).values()) <= MAX_ASSIGNMENTS:
            every = assignments(amounts.tolist())
            ways = np.broadcast_to(every, (len(group.rows), *every.shape))
        else:
            ways = np.stack(
                [best_assignment(self.distances, elements, target, amounts) for elements in group.elements]
            )[:, None]
        cost = self.distances[group.elements[:, None, :], target[ways]] @ (amounts / amounts.sum())
        for flat in np.argsort(cost, axis=None, kind="stable").tolist():
            i, way = divmod(flat, cost.shape[1])
            yield int(group.rows[i]), group.elements[i], ways[i, way], float(cost[i, way])

    def _fingerprint(self, row: int, elements: Integers) -> Floats:
        if row not in self._fingerprints:
            crystal = self.templates.crystal(row)
            slots = np.argmax(crystal.atomic_numbers[:, None] == elements, axis=1)
            self._fingerprints[row] = fingerprint(slots, crystal.frac_coords, crystal.lattice)
        return self._fingerprints[row]

    def _substitute(self, row: int, elements: Integers, replacements: Integers, cell_volume: float) -> Crystal:
        crystal = self.templates.crystal(row)
        numbers = replacements[np.argmax(crystal.atomic_numbers[:, None] == elements, axis=1)]
        info: dict[str, Any] = {"template": self.templates.ids[row]}
        return Crystal(numbers, crystal.frac_coords, crystal.lattice * np.cbrt(cell_volume / crystal.volume), info=info)
