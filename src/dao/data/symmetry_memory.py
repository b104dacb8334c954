"""Known assignments by composition: what similar compositions do, for the symmetry prior to look up.

Two compositions are compared where they hold the same multiset of counts; elements replace each other one-to-one among
those of equal count, and the distance is the mean over the elements of how unlike they are, weighted by
count^:data:`COUNT_POWER`.

Shapes: M labels, N orbits of all of them, G labels with the target's counts, S elements of a cell in slots ordered by
count, W ways to exchange, E = 95 elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import islice, permutations, product
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dao.constants import MAX_ATOMIC_NUMBER
from dao.data.symmetry_batch import MAX_NEIGHBOURS, Neighbours, SymmetryLabel
from dao.errors import InputError
from dao.geometry.wyckoff import SPACE_GROUPS, wyckoff_positions
from dao.geometry.wyckoff_equivalents import canonical_orbits

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

MAX_WAYS = 120
"""Ways to exchange elements tried a composition: five elements of equal count."""

COUNT_POWER = 1.0 / 3.0
"""Learned on leave-one-out votes of MP-20 train, where 0.24 to 0.34 came out: a few atoms decide as much as many."""


FURTHER = "further."
"""Beginning of the names of a further memory's tensors."""


@dataclass(frozen=True, eq=False)
class SymmetryMemory:
    """Labels of known crystals, ready for :meth:`neighbours`.

    Attributes:
        labels: of the known crystals.
        distances: (E, E) between elements, by atomic number.
        further: of another set of crystals, to be asked besides: in one set alone, what is near may be crowded out.

    """

    labels: Sequence[SymmetryLabel]
    distances: Floats
    _groups: dict[tuple[int, ...], tuple[Integers, Integers]] = field(repr=False)
    """By counts: (G,) rows of the labels and (G, S) elements."""
    further: SymmetryMemory | None = None

    def parts(self) -> tuple[SymmetryMemory, ...]:
        """Itself and what it is to be asked with."""
        return (self,) if self.further is None else (self, *self.further.parts())

    @classmethod
    def build(cls, labels: Sequence[SymmetryLabel], distances: Floats) -> SymmetryMemory:
        """Sort labels by the counts in their cells."""
        members: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
        for row, label in enumerate(labels):
            counts, elements = _slots(label.composition())
            members.setdefault(counts, []).append((row, elements))
        groups = {
            counts: (np.array([row for row, _ in some]), np.array([elements for _, elements in some]))
            for counts, some in members.items()
        }
        return cls(labels, distances, groups)

    def neighbours(self, composition: Mapping[int, int], *, exclude: int | None = None) -> Neighbours:
        """The nearest known assignments, at most :data:`MAX_NEIGHBOURS`; none where no cell has these counts.

        Args:
            composition: atoms of each element in a primitive cell.
            exclude: row not to use: the crystal itself, in training.

        """
        counts, target = _slots(composition)
        if counts not in self._groups:
            return Neighbours((), (), ())
        rows, elements = self._groups[counts]
        ways = np.array(list(islice(_exchanges(counts), MAX_WAYS)))
        weights = np.array(counts, dtype=np.float32) ** COUNT_POWER
        weights /= weights.sum()
        slots = np.array(target)
        cost = np.zeros((len(rows), len(ways)), dtype=np.float32)
        for slot, weight in enumerate(weights):
            cost += weight * self.distances[elements[:, slot, None], slots[ways[:, slot]]]
        if exclude is not None:
            cost[rows == exclude] = np.inf
        flat = cost.ravel()
        nearest = np.arange(len(flat))
        if len(flat) > MAX_NEIGHBOURS:
            nearest = np.flatnonzero(flat <= np.partition(flat, MAX_NEIGHBOURS - 1)[MAX_NEIGHBOURS - 1])
        nearest = nearest[np.argsort(flat[nearest], kind="stable")][:MAX_NEIGHBOURS]
        nearest = nearest[np.isfinite(flat[nearest])]
        groups, letters = [], []
        for i, way in zip(*np.divmod(nearest, len(ways)), strict=True):
            label = self.labels[int(rows[i])]
            exchanged = dict(zip(elements[i].tolist(), slots[ways[way]].tolist(), strict=True))
            orbits = canonical_orbits(label.space_group, ((exchanged[z], letter) for z, letter in label.orbits))
            groups.append(label.space_group)
            letters.append(tuple(position for _, position in _indexed(SymmetryLabel(label.space_group, orbits))))
        return Neighbours(tuple(groups), tuple(flat[nearest].tolist()), tuple(letters))

    def to_tensors(self) -> dict[str, Tensor]:
        """Which assignments are known, each once, sorted: no crystal's name, geometry, number or place in its set.

        Returns:
            ``space_groups`` (M,) uint8; ``offsets`` (M + 1,) int32 into the orbits, whose ``elements`` (N,) uint8 are
            atomic numbers and ``positions`` (N,) uint8 indices in the group (0 = a); ``distances`` (E, E) float32. The
            names of those of a further memory begin with :data:`FURTHER`.

        """
        further = {} if self.further is None else self.further.to_tensors()
        return self._tensors | {FURTHER + name: value for name, value in further.items()}

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        distinct = {(label.space_group, _indexed(label)) for label in self.labels}
        groups, orbits = zip(*sorted(distinct), strict=True) if distinct else ((), ())
        every = [orbit for one in orbits for orbit in one]
        return {
            "space_groups": torch.tensor(groups, dtype=torch.uint8),
            "offsets": torch.tensor(np.cumsum([0, *map(len, orbits)]), dtype=torch.int32),
            "elements": torch.tensor([element for element, _ in every], dtype=torch.uint8),
            "positions": torch.tensor([position for _, position in every], dtype=torch.uint8),
            "distances": torch.from_numpy(self.distances).float().contiguous(),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> SymmetryMemory:
        """The inverse of :meth:`to_tensors`, for tensors that a file holds.

        Raises:
            InputError: tensors missing, of another type or shape, or with values that describe no assignments.

        """
        own = {name: value for name, value in tensors.items() if not name.startswith(FURTHER)}
        if len(own) < len(tensors):
            rest = {name.removeprefix(FURTHER): value for name, value in tensors.items() if name.startswith(FURTHER)}
            first = cls.from_tensors(own)
            both = replace(first, further=cls.from_tensors(rest))
            both.__dict__["_tensors"] = first._tensors  # noqa: SLF001 -- replacing forgets what was known
            return both
        _check_types(tensors)
        groups, offsets, elements, positions = (
            tensors[name].numpy().astype(np.int64) for name in ("space_groups", "offsets", "elements", "positions")
        )
        if offsets[0] != 0 or offsets[-1] != len(elements) or (np.diff(offsets) < 1).any():
            raise InputError("symmetry memory: offsets do not divide the orbits")
        if ((groups < 1) | (groups > SPACE_GROUPS)).any():
            raise InputError(f"symmetry memory: a space group is outside 1 to {SPACE_GROUPS}")
        if ((elements < 1) | (elements > MAX_ATOMIC_NUMBER)).any():
            raise InputError(f"symmetry memory: an element is outside 1 to {MAX_ATOMIC_NUMBER}")
        sizes = np.array([0, *(len(wyckoff_positions(number)) for number in range(1, SPACE_GROUPS + 1))])
        if (positions >= sizes[np.repeat(groups, np.diff(offsets))]).any():
            raise InputError("symmetry memory: a space group has no such Wyckoff position")
        distances = tensors["distances"].numpy()
        if not (np.isfinite(distances).all() and (distances >= 0.0).all()):
            raise InputError("symmetry memory: distances between elements must be finite and not negative")
        packed = _Packed(groups, offsets, elements, positions)
        memory = cls(packed, distances, packed.by_counts())
        # a file's own tensors are what it would be saved as
        memory.__dict__["_tensors"] = dict(tensors)
        return memory


@dataclass(frozen=True, eq=False)
class _Packed(Sequence[SymmetryLabel]):
    """Labels as a file holds them, each made when it is looked at: of 80,000 a prediction needs a few hundred."""

    groups: Integers
    offsets: Integers
    elements: Integers
    positions: Integers

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, index: int) -> SymmetryLabel: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[SymmetryLabel]: ...

    def __getitem__(self, index: int | slice) -> SymmetryLabel | Sequence[SymmetryLabel]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        group, orbits = int(self.groups[index]), slice(self.offsets[index], self.offsets[index + 1])
        letters = _letters(group)
        pairs = zip(self.elements[orbits].tolist(), self.positions[orbits].tolist(), strict=True)
        return SymmetryLabel(group, tuple((element, letters[position]) for element, position in pairs))

    def by_counts(self) -> dict[tuple[int, ...], tuple[Integers, Integers]]:
        """Rows and slots of the labels by their counts, as :meth:`SymmetryMemory.build` sorts them."""
        if len(self) == 0:
            return {}
        owner = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        order = np.lexsort((self.elements, owner))
        owner, elements, positions = owner[order], self.elements[order], self.positions[order]
        multiplicities = _multiplicity_table()[self.groups[owner], positions]
        first = np.flatnonzero(np.r_[True, (np.diff(owner) != 0) | (np.diff(elements) != 0)])
        counts, owner, elements = np.add.reduceat(multiplicities, first), owner[first], elements[first]
        order = np.lexsort((elements, counts, owner))
        counts, owner, elements = counts[order], owner[order], elements[order]
        slots = np.bincount(owner, minlength=len(self))
        starts = np.cumsum(slots) - slots
        found: dict[tuple[int, ...], tuple[Integers, Integers]] = {}
        for size in np.unique(slots).tolist():
            rows = np.flatnonzero(slots == size)
            index = starts[rows, None] + np.arange(size)
            kinds, kind = np.unique(counts[index], axis=0, return_inverse=True)
            by_kind = np.argsort(kind.ravel(), kind="stable")
            ends = np.cumsum(np.bincount(kind.ravel(), minlength=len(kinds)))
            for one, members in zip(kinds.tolist(), np.split(by_kind, ends[:-1]), strict=True):
                found[tuple(one)] = rows[members], elements[index[members]]
        return found


@cache
def _multiplicity_table() -> Integers:
    """(231, 27) atoms of each group's positions in a primitive cell."""
    every = [wyckoff_positions(number) for number in range(1, SPACE_GROUPS + 1)]
    table = np.zeros((SPACE_GROUPS + 1, max(map(len, every))), dtype=np.int64)
    for number, known in enumerate(every, start=1):
        table[number, : len(known)] = [position.multiplicity for position in known]
    return table


_TYPES = {
    "space_groups": (torch.uint8, 1),
    "offsets": (torch.int32, 1),
    "elements": (torch.uint8, 1),
    "positions": (torch.uint8, 1),
    "distances": (torch.float32, 2),
}
"""Type and rank of every tensor that a memory is saved as."""


def _check_types(tensors: Mapping[str, Tensor]) -> None:
    wrong = sorted(tensors.keys() ^ _TYPES.keys())
    if wrong:
        raise InputError(f"symmetry memory: tensor {wrong[0]!r} is {'missing' if wrong[0] in _TYPES else 'unknown'}")
    for name, (kind, rank) in _TYPES.items():
        if tensors[name].dtype != kind or tensors[name].ndim != rank:
            raise InputError(f"symmetry memory: {name!r} must be {kind} with {rank} axes")
    size = MAX_ATOMIC_NUMBER + 1
    if tensors["distances"].shape != (size, size):
        raise InputError(f"symmetry memory: 'distances' must be {size} x {size}")
    if len(tensors["offsets"]) != len(tensors["space_groups"]) + 1:
        raise InputError("symmetry memory: 'offsets' must be one longer than 'space_groups'")
    if len(tensors["elements"]) != len(tensors["positions"]):
        raise InputError("symmetry memory: 'elements' and 'positions' must be of one length")


@cache
def _letters(space_group: int) -> tuple[str, ...]:
    return tuple(position.letter for position in wyckoff_positions(space_group))


def _indexed(label: SymmetryLabel) -> tuple[tuple[int, int], ...]:
    """Element and index of the position of each orbit."""
    letters = _letters(label.space_group)
    return tuple((element, letters.index(letter)) for element, letter in label.orbits)


def _slots(composition: Mapping[int, int]) -> tuple[tuple[int, ...], list[int]]:
    """Counts in rising order, and the elements they are of."""
    slots = sorted((count, element) for element, count in composition.items())
    return tuple(count for count, _ in slots), [element for _, element in slots]


def _exchanges(counts: Sequence[int]) -> Iterator[list[int]]:
    """Every way to give the target's slots to those of another composition, among equal counts."""
    blocks = [[slot for slot, other in enumerate(counts) if other == count] for count in sorted(set(counts))]
    for way in product(*(permutations(block) for block in blocks)):
        yield [slot for block in way for slot in block]
