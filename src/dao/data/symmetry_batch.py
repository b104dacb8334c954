"""Space groups and Wyckoff positions of crystals as sequences that the symmetry prior learns, padded into batches.

Shapes: B crystals, S elements of a cell (padded), T orbits (padded).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dao.errors import InputError
from dao.geometry.wyckoff import wyckoff_index, wyckoff_positions
from dao.geometry.wyckoff_assignments import PartialAssignment, allowed_letters, fitting_space_groups

Orbits = tuple[tuple[int, str], ...]
"""Element and Wyckoff letter of each orbit, by rising atomic number, then letter (a first, A last)."""


MAX_NEIGHBOURS = 24
"""Most similar compositions that are looked at."""

MAX_NEIGHBOUR_ORBITS = 32
"""Orbits of a neighbour beyond are not looked at."""


@dataclass(frozen=True)
class SymmetryLabel:
    """What the prior predicts of one crystal.

    Attributes:
        space_group: 1 to 230.
        orbits: of the standardised primitive cell.

    """

    space_group: int
    orbits: Orbits

    def composition(self) -> dict[int, int]:
        """Atoms of each element in the primitive cell, by rising atomic number.

        Raises:
            InputError: no such space group or letter.

        """
        multiplicities = _multiplicities(self.space_group)
        counts: Counter[int] = Counter()
        for element, letter in self.orbits:
            if letter not in multiplicities:
                raise InputError(f"space group {self.space_group} has no Wyckoff position {letter!r}")
            counts[element] += multiplicities[letter]
        return dict(sorted(counts.items()))


@cache
def _multiplicities(space_group: int) -> dict[str, int]:
    """Atoms of each position in the primitive cell, by letter."""
    return {position.letter: position.multiplicity for position in wyckoff_positions(space_group)}


@dataclass(frozen=True)
class Neighbours:
    """Assignments of chemically similar compositions, their elements exchanged for the target's; nearest first.

    Attributes:
        space_groups: K of them.
        distances: between the exchanged elements.
        letters: of each, its orbits as indices of positions in the group, in the order of the target's elements.

    """

    space_groups: tuple[int, ...]
    distances: tuple[float, ...]
    letters: tuple[tuple[int, ...], ...]


NO_NEIGHBOURS = Neighbours((), (), ())


@dataclass(frozen=True)
class SymmetrySequence:
    """A label as choices, each among what is possible.

    Attributes:
        elements: by rising atomic number.
        counts: atoms of each in the primitive cell.
        space_group: 1 to 230.
        slots: of each orbit, which element it is of.
        remaining: of each orbit, atoms of its element still to place before it.
        letters: of each orbit, its position as index in the group (0 = a).
        allowed: of each orbit, bits of the positions it could have had.
        neighbours: what is known of similar compositions.

    """

    elements: tuple[int, ...]
    counts: tuple[int, ...]
    space_group: int
    slots: tuple[int, ...]
    remaining: tuple[int, ...]
    letters: tuple[int, ...]
    allowed: tuple[int, ...]
    neighbours: Neighbours = NO_NEIGHBOURS


def symmetry_sequence(label: SymmetryLabel, neighbours: Neighbours = NO_NEIGHBOURS) -> SymmetrySequence:
    """Turn a label into choices; forced ones at its end are left out, since nothing is learned from them.

    Raises:
        InputError: orbits that are out of order or share a position without free coordinates.

    """
    composition = label.composition()
    elements = tuple(composition)
    partial = PartialAssignment(label.space_group, tuple(composition.values()))
    first = wyckoff_index(label.space_group, "a")
    slots, remaining, letters, allowed = [], [], [], []
    for element, letter in label.orbits:
        slot = len(elements) - len(partial.remaining)
        choices, position = allowed_letters(partial), wyckoff_index(label.space_group, letter) - first
        if element != elements[slot] or not choices >> position & 1:
            raise InputError(f"space group {label.space_group}: no such orbits: {label.orbits}")
        slots.append(slot)
        remaining.append(partial.remaining[0])
        letters.append(position)
        allowed.append(choices)
        partial = partial.with_orbit(position)
    while allowed and allowed[-1].bit_count() == 1:
        for choice in (slots, remaining, letters, allowed):
            choice.pop()
    return SymmetrySequence(
        elements=elements,
        counts=tuple(composition.values()),
        space_group=label.space_group,
        slots=tuple(slots),
        remaining=tuple(remaining),
        letters=tuple(letters),
        allowed=tuple(allowed),
        neighbours=neighbours,
    )


def composition_sequence(composition: Mapping[int, int], neighbours: Neighbours = NO_NEIGHBOURS) -> SymmetrySequence:
    """A composition whose symmetry is unknown."""
    elements = tuple(sorted(composition))
    return SymmetrySequence(
        elements, tuple(composition[element] for element in elements), 0, (), (), (), (), neighbours
    )


@dataclass(frozen=True)
class SymmetryBatch:
    """Sequences side by side; see :class:`SymmetrySequence`. Padding is 0, -1 for letters and infinity for distances.

    Attributes:
        elements: (B, S).
        counts: (B, S).
        groups: (B, 231) which space groups can hold the composition; column 0 is false.
        space_group: (B,) 0 = unknown.
        slots: (B, T).
        remaining: (B, T).
        letters: (B, T).
        allowed: (B, T) bits.
        neighbour_groups: (B, K).
        neighbour_distances: (B, K).
        neighbour_letters: (B, K, N).

    """

    elements: Int[Tensor, "b s"]
    counts: Int[Tensor, "b s"]
    groups: Bool[Tensor, "b g"]
    space_group: Int[Tensor, " b"]
    slots: Int[Tensor, "b t"]
    remaining: Int[Tensor, "b t"]
    letters: Int[Tensor, "b t"]
    allowed: Int[Tensor, "b t"]
    neighbour_groups: Int[Tensor, "b k"]
    neighbour_distances: Float[Tensor, "b k"]
    neighbour_letters: Int[Tensor, "b k n"]

    def __len__(self) -> int:
        """Crystals."""
        return len(self.space_group)

    def rows(self, index: Int[Tensor, " k"]) -> SymmetryBatch:
        """Some of the crystals, with as little padding as they need."""
        elements, letters = self.elements[index], self.letters[index]
        s, t = (max(1, int((x > least).sum(1).max())) for x, least in ((elements, 0), (letters, -1)))
        return SymmetryBatch(
            elements=elements[:, :s],
            counts=self.counts[index, :s],
            groups=self.groups[index],
            space_group=self.space_group[index],
            slots=self.slots[index, :t],
            remaining=self.remaining[index, :t],
            letters=letters[:, :t],
            allowed=self.allowed[index, :t],
            neighbour_groups=self.neighbour_groups[index],
            neighbour_distances=self.neighbour_distances[index],
            neighbour_letters=self.neighbour_letters[index],
        )

    def without_neighbours(self, hidden: Bool[Tensor, " b"]) -> SymmetryBatch:
        """The same crystals, ``hidden`` ones as if nothing similar were known."""
        return replace(
            self,
            neighbour_groups=self.neighbour_groups.masked_fill(hidden[:, None], 0),
            neighbour_distances=self.neighbour_distances.masked_fill(hidden[:, None], torch.inf),
            neighbour_letters=self.neighbour_letters.masked_fill(hidden[:, None, None], -1),
        )


def symmetry_batch(sequences: Sequence[SymmetrySequence]) -> SymmetryBatch:
    """Pad sequences to a batch."""

    def padded(rows: list[tuple[int, ...]], value: int = 0) -> Tensor:
        longest = max(1, *(len(row) for row in rows)) if rows else 1
        return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])

    groups = torch.zeros(len(sequences), MAX_NEIGHBOURS, dtype=torch.long)
    distances = torch.full((len(sequences), MAX_NEIGHBOURS), torch.inf)
    longest = max((len(row) for one in sequences for row in one.neighbours.letters), default=1)
    longest = min(longest, MAX_NEIGHBOUR_ORBITS)
    letters = torch.full((len(sequences), MAX_NEIGHBOURS, longest), -1, dtype=torch.int8)
    for i, one in enumerate(sequences):
        near = one.neighbours
        count = min(len(near.space_groups), MAX_NEIGHBOURS)
        groups[i, :count] = torch.tensor(near.space_groups[:count], dtype=torch.long)
        distances[i, :count] = torch.tensor(near.distances[:count])
        rows = [[*row[:longest], *[-1] * (longest - len(row))] for row in near.letters[:count]]
        letters[i, :count] = torch.tensor(rows, dtype=torch.int8).reshape(count, longest)
    return SymmetryBatch(
        elements=padded([one.elements for one in sequences]),
        counts=padded([one.counts for one in sequences]),
        groups=torch.tensor([(False, *fitting_space_groups(one.counts)) for one in sequences]),
        space_group=torch.tensor([one.space_group for one in sequences]),
        slots=padded([one.slots for one in sequences]),
        remaining=padded([one.remaining for one in sequences]),
        letters=padded([one.letters for one in sequences], -1),
        allowed=padded([one.allowed for one in sequences]),
        neighbour_groups=groups,
        neighbour_distances=distances,
        neighbour_letters=letters,
    )
