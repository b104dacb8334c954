"""Space groups and Wyckoff positions handed out to the samples of a generator that keeps symmetry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from dao.data.symmetry_batch import Orbits
from dao.device import on_cpu
from dao.errors import InputError
from dao.geometry.wyckoff import orbit_sites, wyckoff_positions
from dao.models import Generator
from dao.networks.subgroup_search import propose_in_subgroups
from dao.networks.symmetry_search import SymmetryProposal, propose
from dao.processes.config import SamplerSettings
from dao.processes.symmetry import Symmetry

if TYPE_CHECKING:
    from dao.sampling import SampleRequest

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_Asked = tuple[tuple[int, ...], int | None]
"""Atomic numbers, and the space group that is asked for, if any."""

PROPOSALS = 40
"""Assignments of Wyckoff positions that the samples of a composition share."""


HALF_FREE, STEEPNESS = 14.0, 1.4
"""A sample of the right symmetry with c free coordinates is right with probability 1 / (1 + (c / HALF_FREE)^STEEPNESS).
These and the next two are rough readings of 20 samples of each of 1,000 validation crystals (docs/experiments.md)."""

AGAIN = 0.6
"""Another sample of a symmetry is right so much less often than the first where that was wrong: part of what is wrong
is wrong for all."""

FREE_AGAIN = 0.75
"""What another sample without symmetry finds, of what the one before did."""

SUBGROUP_PROPOSALS = 2
"""Assignments taken of each kind of subgroup."""

SELDOM = 1e-3
"""At least so much of a proposal's gain is left after a sample of it, so that none is ever done with."""

FREE = -1
"""Choice of no proposal."""


class SymmetryChoice:
    """Space group and Wyckoff positions of each sample, where the generator's process keeps them.

    A sample that does not ask for its own gets one of those that the symmetry prior proposes for its composition, or
    part of one (what it proposes in small subgroups), or none (space group 1), as :func:`discoveries` says.
    """

    def __init__(self, model: Generator, settings: SamplerSettings) -> None:
        """Nothing is proposed yet."""
        # its search is made of many small steps, and made for the CPU
        self._prior = None if model.symmetry_prior is None else on_cpu(model.symmetry_prior)
        self._memory, self._table = model.symmetry_memory, model.symmetry_table
        self._settings = settings
        self._proposals: dict[_Asked, list[SymmetryProposal]] = {}
        """What the samples of a composition choose from, the likeliest whole symmetry first."""
        self._choices: dict[_Asked, tuple[list[int], Iterator[int]]] = {}

    def of_batch(self, requests: Sequence[SampleRequest], width: int) -> Symmetry | None:
        """The symmetry of a batch padded to ``width`` atoms; None for a process without."""
        if self._table is None:
            return None
        sites = np.zeros((len(requests), width), dtype=np.int64)
        groups = np.zeros(len(requests), dtype=np.int64)
        self._propose(requests)
        for i, request in enumerate(requests):
            groups[i], orbits = self._chosen(request)
            occupied = orbit_sites(int(groups[i]), [letter for _, letter in orbits])
            sites[i, : len(occupied)] = occupied
        device = self._table.maps.device
        return self._table.of_batch(torch.from_numpy(sites).to(device), torch.from_numpy(groups).to(device))

    def freedom(self, request: SampleRequest) -> int:
        """Coordinates of atoms that a sample's symmetry leaves free, once :meth:`of_batch` has given it one."""
        if self._table is None:
            return 3 * len(request.atomic_numbers)
        return free_coordinates(*self._chosen(request))

    def _propose(self, requests: Sequence[SampleRequest]) -> None:
        wanted = {(request.atomic_numbers, request.space_group) for request in requests if request.orbits is None}
        new = wanted - self._proposals.keys()
        for group in sorted({group for _, group in new}, key=lambda group: group or 0):
            compositions = sorted(numbers for numbers, asked in new if asked == group)
            assert self._prior is not None  # noqa: S101 -- check_requests has refused otherwise
            counts = [Counter(numbers) for numbers in compositions]
            wholes = propose(self._prior, counts, PROPOSALS, self._memory, space_group=group)
            parts: list[list[SymmetryProposal]] = [[] for _ in compositions]
            if group is None and self._settings.subgroup_probability > 0.0:
                parts = propose_in_subgroups(self._prior, counts, SUBGROUP_PROPOSALS, self._memory)
            for numbers, whole, part in zip(compositions, wholes, parts, strict=True):
                self._proposals[numbers, group] = self._weighed(whole, part)

    def _weighed(self, wholes: Sequence[SymmetryProposal], parts: Sequence[SymmetryProposal]) -> list[SymmetryProposal]:
        """Each assignment once, with the probability that it is the right one."""
        if not wholes:
            return []
        logits = np.log([one.probability for one in wholes]) / self._settings.space_group_temperature
        weights = np.exp(logits - logits.max())
        weighed = {
            (one.space_group, one.orbits): weight
            for one, weight in zip(wholes, (weights / weights.sum()).tolist(), strict=True)
        }
        for one in parts:
            key = one.space_group, one.orbits
            weighed[key] = weighed.get(key, 0.0) + self._settings.subgroup_probability * one.probability
        return [SymmetryProposal(*key, probability) for key, probability in weighed.items()]

    def _chosen(self, request: SampleRequest) -> tuple[int, tuple[tuple[int, str], ...]]:
        if request.orbits is not None and request.space_group is not None:
            return request.space_group, request.orbits
        asked = (request.atomic_numbers, request.space_group)
        proposals = self._proposals[asked]
        if not proposals:  # every composition fits space group 1, and an unfit one asked for is refused at once
            raise InputError(f"no Wyckoff positions found for {len(request.atomic_numbers)} atoms")
        choice = self._choice(asked, request.index)
        if choice == FREE:
            return 1, tuple((number, "a") for number in request.atomic_numbers)
        return proposals[choice].space_group, proposals[choice].orbits

    def _choice(self, asked: _Asked, index: int) -> int:
        """The same whichever samples are asked for before."""
        if asked not in self._choices:
            proposals = self._proposals[asked]
            probabilities = np.array([one.probability for one in proposals])
            freedom = np.array([free_coordinates(one.space_group, one.orbits) for one in proposals])
            free = self._settings.free_probability if asked[1] is None else 0.0
            self._choices[asked] = [], discoveries(probabilities, freedom, free)
        known, following = self._choices[asked]
        while len(known) <= index:
            known.append(next(following))
        return known[index]


def free_coordinates(space_group: int, orbits: Orbits) -> int:
    """Coordinates of atoms that a symmetry leaves free."""
    degrees = {one.letter: one.degrees for one in wyckoff_positions(space_group)}
    return sum(degrees[letter] for _, letter in orbits)


def discoveries(probabilities: Floats, freedom: Integers, free_probability: float) -> Iterator[int]:
    """Choices for one sample after the other: choice 0, then each the likeliest to find what all before missed.

    Choices count as if only one could be right: descriptions of one crystal in several subgroups are apart here.

    With probability p that a choice is the right one, and q that one sample of it is right then, its n-th sample (from
    0) finds the crystal with probability p q max((1 - q) :data:`AGAIN`, :data:`SELDOM`)^n. Where no coordinate is free,
    a second sample tells next to nothing new, and the next choice gets its turn. Samples without symmetry are one more
    choice, with ``free_probability`` :data:`FREE_AGAIN`^n.

    Args:
        probabilities: (P,) of each choice, at least one.
        freedom: (P,) its free coordinates, which q falls with.
        free_probability: of the first sample without symmetry (:data:`FREE`); 0: none.

    """
    success = 1.0 / (1.0 + (freedom / HALF_FREE) ** STEEPNESS)
    # logarithms: where all is used up, the order must not be lost
    with np.errstate(divide="ignore"):
        gains = np.log(np.append(probabilities * success, free_probability))
    again = np.log(np.append(np.maximum((1.0 - success) * AGAIN, SELDOM), FREE_AGAIN))
    choice = 0
    while True:
        yield choice if choice < len(probabilities) else FREE
        gains[choice] += again[choice]
        choice = int(gains.argmax())


def apportioned(shares: np.ndarray, index: int) -> int:
    """The choice of sample ``index`` when choices are handed out in proportion to ``shares``, the likeliest first.

    Webster's (Sainte-Lague's) method: after any number of samples each choice has had its share of them to within
    rounding, so few samples cover more than independent draws would, and the first is the likeliest.
    """
    taken = np.zeros(len(shares))
    choice = int(shares.argmax())
    for _ in range(index):
        taken[choice] += 1
        choice = int((shares / (2.0 * taken + 1.0)).argmax())
    return choice
