"""The most probable assignments of a composition: beam search over space groups and orbits.

All compositions and all their groups advance together, one orbit a step; keys and values of the orbits chosen before
are kept. A beam is dropped once ``count`` complete assignments are more probable, since it can only lose probability.

Shapes: B compositions, R beams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dao.data.symmetry_batch import (
    NO_NEIGHBOURS,
    Orbits,
    SymmetryBatch,
    SymmetrySequence,
    composition_sequence,
    symmetry_batch,
)
from dao.data.symmetry_memory import SymmetryMemory
from dao.geometry.wyckoff import check_space_group, wyckoff_positions
from dao.geometry.wyckoff_assignments import PartialAssignment, allowed_letters
from dao.networks.symmetry import SymmetryPrior, agreeing, next_letters, votes_of_positions

MIN_BEAMS = 32
"""Beams kept a composition and step where few assignments are asked for."""


@dataclass(frozen=True)
class SymmetryProposal:
    """One complete assignment.

    Attributes:
        space_group: 1 to 230.
        orbits: element and Wyckoff letter of each, by rising atomic number, then letter.
        probability: given the composition.

    """

    space_group: int
    orbits: Orbits
    probability: float


@dataclass(frozen=True)
class _Beam:
    """Orbits chosen so far for one composition in one space group."""

    owner: int
    """Row of the composition."""
    elements: tuple[int, ...]
    partial: PartialAssignment
    log_probability: float
    orbits: tuple[tuple[int, int], ...] = ()
    """Slot of the element and index of the position in the group, of each orbit."""
    parent: int = 0
    """Row of the step before, whose keys and values it goes on from."""

    @property
    def slot(self) -> int:
        """Element of the next orbit."""
        return len(self.elements) - len(self.partial.remaining)

    def with_orbit(self, position: int, log_probability: float, parent: int) -> _Beam:
        orbits = (*self.orbits, (self.slot, position))
        return _Beam(self.owner, self.elements, self.partial.with_orbit(position), log_probability, orbits, parent)

    def completed(self) -> _Beam | None:
        """With all its orbits, where there is no choice left."""
        beam = self
        while not beam.partial.complete:
            choices = allowed_letters(beam.partial)
            if choices.bit_count() > 1:
                return None
            beam = beam.with_orbit(choices.bit_length() - 1, self.log_probability, self.parent)
        return beam

    def proposal(self) -> SymmetryProposal:
        group = self.partial.space_group
        positions = wyckoff_positions(group)
        orbits = tuple((self.elements[slot], positions[index].letter) for slot, index in self.orbits)
        return SymmetryProposal(group, orbits, float(np.exp(self.log_probability)))


@torch.no_grad()
def propose(
    model: SymmetryPrior,
    compositions: Sequence[Mapping[int, int]],
    count: int,
    memory: SymmetryMemory | None = None,
    *,
    space_group: int | None = None,
) -> list[list[SymmetryProposal]]:
    """Up to ``count`` assignments of each composition, the most probable first.

    Args:
        model: in evaluation mode.
        compositions: atoms of each element (atomic number) in a primitive cell.
        count: most assignments wanted of each.
        memory: known assignments to look similar compositions up in. With one, probabilities are those of a mixture:
            a share (``unaided_share`` of the model's configuration) comes from the model without it, the rest in equal
            parts from the model with each of the memory's parts.
        space_group: assignments of this one alone, with their probabilities given it: those of all of them add up
            to 1. None for a composition that it cannot hold.

    Raises:
        InputError: no such space group.

    """
    if space_group is not None:
        check_space_group(space_group)
    if not compositions:
        return []
    parts: list[tuple[float, list[list[SymmetryProposal]]]] = []
    for share, near in shares_of(model, memory):
        sequences = sequences_of(compositions, near)
        groups = None if space_group is None else [space_group] * len(sequences)
        parts.append((share, search(model, sequences, symmetry_batch(sequences), count, groups)))
    if len(parts) == 1:
        return parts[0][1]
    return [_mixed([(share, found[i]) for share, found in parts], count) for i in range(len(compositions))]


def sequences_of(compositions: Sequence[Mapping[int, int]], memory: SymmetryMemory | None) -> list[SymmetrySequence]:
    """Compositions of unknown symmetry, with what the memory holds of similar ones."""
    return [
        composition_sequence(one, NO_NEIGHBOURS if memory is None else memory.neighbours(one)) for one in compositions
    ]


def shares_of(model: SymmetryPrior, memory: SymmetryMemory | None) -> list[tuple[float, SymmetryMemory | None]]:
    """What the mixture of :func:`propose` is of: shares that add up to 1, and the memory of each, None without."""
    if memory is None:
        return [(1.0, None)]
    unaided, parts = model.config.unaided_share, memory.parts()
    shares: list[tuple[float, SymmetryMemory | None]] = [((1.0 - unaided) / len(parts), part) for part in parts]
    return [(share, part) for share, part in (*shares, (unaided, None)) if share > 0.0]


def _mixed(parts: Sequence[tuple[float, Sequence[SymmetryProposal]]], count: int) -> list[SymmetryProposal]:
    """The ``count`` most probable of the parts' mixture; what one of them lacks has 0 there."""
    mixed: dict[tuple[int, Orbits], float] = {}
    for weight, proposals in parts:
        for one in proposals:
            key = (one.space_group, one.orbits)
            mixed[key] = mixed.get(key, 0.0) + weight * one.probability
    best = sorted(mixed.items(), key=lambda item: -item[1])[:count]
    return [SymmetryProposal(group, orbits, probability) for (group, orbits), probability in best]


def search(
    model: SymmetryPrior,
    sequences: Sequence[SymmetrySequence],
    batch: SymmetryBatch,
    count: int,
    space_groups: Sequence[int] | None,
    least_beams: int = MIN_BEAMS,
) -> list[list[SymmetryProposal]]:
    """The ``count`` most probable assignments of each sequence, or of it within its space group.

    Args:
        model: in evaluation mode.
        sequences: compositions.
        batch: of them.
        count: most assignments wanted of each.
        space_groups: one of each; probabilities are given it. None: of all groups.
        least_beams: kept a sequence and step, where ``count`` does not need more.

    """
    encoded, mask = model.encode(batch)
    contexts = model.contexts(encoded)
    finished = _Finished(len(sequences), count, least_beams)
    beams: list[_Beam] = []
    logits = model.group_logits(encoded, batch).double()
    if space_groups is None:
        log_groups = functional.log_softmax(logits, dim=-1)
    else:
        asked = torch.tensor(space_groups)[:, None]
        possible = batch.groups.gather(1, asked)
        log_groups = torch.full_like(logits, -torch.inf)
        log_groups.scatter_(1, asked, torch.where(possible, 0.0, -torch.inf).to(logits))
    for owner, sequence in enumerate(sequences):
        for group, log_probability in _best(log_groups[owner], finished.width):
            start = PartialAssignment(group, sequence.counts)
            beams.append(_Beam(owner, sequence.elements, start, log_probability, parent=owner))
    beams = finished.take(beams)
    while beams:
        parents = torch.tensor([beam.parent for beam in beams])
        groups = torch.tensor([beam.partial.space_group for beam in beams])
        tokens = _tokens(model, encoded, beams, groups)
        contexts = [(k[parents], v[parents]) for k, v in contexts]
        mask = torch.cat([mask[parents], torch.ones_like(parents, dtype=torch.bool)[:, None]], dim=1)
        features, contexts = model.decode(tokens, contexts, mask[:, None])
        allowed = torch.tensor([[allowed_letters(beam.partial)] for beam in beams])
        logits = model.position_logits(features, groups, allowed, _votes(batch, beams, groups))[:, 0]
        log_letters = functional.log_softmax(logits.double(), dim=-1)
        total = log_letters + torch.tensor([beam.log_probability for beam in beams], dtype=torch.float64)[:, None]
        children: list[_Beam] = []
        for _, own in groupby(range(len(beams)), key=lambda row: beams[row].owner):
            rows = list(own)
            for choice, log_probability in _best(total[rows[0] : rows[-1] + 1].flatten(), finished.width):
                row, position = rows[choice // total.shape[1]], choice % total.shape[1]
                children.append(beams[row].with_orbit(position, log_probability, row))
        beams = finished.take(children)
    return [[beam.proposal() for beam in best] for best in finished.best]


def _best(log_probabilities: Tensor, most: int) -> list[tuple[int, float]]:
    """Index and value of the largest entries, the largest first, those that are possible."""
    values, order = log_probabilities.sort(descending=True, stable=True)
    possible = min(most, int(torch.isfinite(values).sum()))
    return list(zip(order[:possible].tolist(), values[:possible].tolist(), strict=True))


def _tokens(model: SymmetryPrior, encoded: Tensor, beams: Sequence[_Beam], groups: Tensor) -> Tensor:
    """(R, 1, D) what the decoder is told of each beam's next orbit."""
    last = torch.tensor([beam.orbits[-1] if beam.orbits else (0, 0) for beam in beams])
    begun = torch.tensor([bool(beam.orbits) for beam in beams])
    return model.orbit_tokens(
        encoded[torch.tensor([beam.owner for beam in beams])],
        groups,
        slots=torch.tensor([[beam.slot] for beam in beams]),
        remaining=torch.tensor([[beam.partial.remaining[0]] for beam in beams]),
        previous=(model.positions_of_group[groups, last[:, 1]] * begun)[:, None],
        previous_slots=last[:, :1],
    )


def _votes(batch: SymmetryBatch, beams: Sequence[_Beam], groups: Tensor) -> Tensor:
    """(R, 1, 27, C) what neighbours that agree with a beam's orbits so far have next; all beams have as many orbits."""
    owners = torch.tensor([beam.owner for beam in beams])
    # the next one is unknown, and not looked at
    chosen = torch.tensor([[*(position for _, position in beam.orbits), -1] for beam in beams])
    letters = batch.neighbour_letters[owners]
    agrees = agreeing(batch.neighbour_groups[owners] == groups[:, None], letters, chosen)[..., -1:]
    return votes_of_positions(
        batch.neighbour_distances[owners], agrees, next_letters(letters, chosen.shape[1])[..., -1:]
    )


class _Finished:
    """The best complete assignments of each composition so far."""

    def __init__(self, compositions: int, count: int, least_beams: int) -> None:
        self.count = count
        self.width = max(least_beams, 2 * count)
        self.best: list[list[_Beam]] = [[] for _ in range(compositions)]

    def take(self, beams: Sequence[_Beam]) -> list[_Beam]:
        """Keep what is complete; returns what is not and may still come among the best."""
        unfinished = []
        for beam in beams:
            complete = beam.completed()
            if complete is None:
                unfinished.append(beam)
            else:
                self.best[beam.owner].append(complete)
        for best in self.best:
            best.sort(key=lambda beam: -beam.log_probability)
            del best[self.count :]
        return [beam for beam in unfinished if beam.log_probability > self._least(beam.owner)]

    def _least(self, owner: int) -> float:
        best = self.best[owner]
        return best[-1].log_probability if len(best) == self.count else -np.inf
