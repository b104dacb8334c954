"""Space groups and Wyckoff positions handed out to the samples of a generator that keeps symmetry."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from dao.errors import InputError
from dao.geometry.wyckoff import orbit_sites
from dao.models import Generator
from dao.networks.symmetry_search import SymmetryProposal, propose
from dao.processes.config import SamplerSettings
from dao.processes.symmetry import Symmetry

if TYPE_CHECKING:
    from dao.sampling import SampleRequest

PROPOSALS = 40
"""Assignments of Wyckoff positions that the samples of a composition share."""


FIRST = 5
"""Samples of a composition that all get a symmetry: they are the likeliest ones, and free ones are seldom right."""

ROUNDING = 1e-9
"""Added where shares are counted: 0.3 of ten samples are three."""


class SymmetryChoice:
    """Space group and Wyckoff positions of each sample, where the generator's process keeps them.

    A sample that does not ask for its own gets its share of those that the symmetry prior proposes for its composition;
    with a free share of 0.5, the seventh, ninth, eleventh and so on get none, and space group 1.
    """

    def __init__(self, model: Generator, settings: SamplerSettings) -> None:
        """Nothing is proposed yet."""
        self._prior, self._memory, self._table = model.symmetry_prior, model.symmetry_memory, model.symmetry_table
        self._temperature, self._free_share = settings.space_group_temperature, settings.free_share
        self._proposals: dict[tuple[tuple[int, ...], int | None], list[SymmetryProposal]] = {}

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

    def _propose(self, requests: Sequence[SampleRequest]) -> None:
        wanted = {(request.atomic_numbers, request.space_group) for request in requests if request.orbits is None}
        new = wanted - self._proposals.keys()
        for group in sorted({group for _, group in new}, key=lambda group: group or 0):
            compositions = sorted(numbers for numbers, asked in new if asked == group)
            assert self._prior is not None  # noqa: S101 -- check_requests has refused otherwise
            counts = [Counter(numbers) for numbers in compositions]
            found = propose(self._prior, counts, PROPOSALS, self._memory, space_group=group)
            for numbers, proposals in zip(compositions, found, strict=True):
                self._proposals[numbers, group] = proposals

    def _chosen(self, request: SampleRequest) -> tuple[int, tuple[tuple[int, str], ...]]:
        if request.orbits is not None and request.space_group is not None:
            return request.space_group, request.orbits
        index = request.index
        if request.space_group is None:
            before, free = (math.floor(max(0, i - FIRST) * self._free_share + ROUNDING) for i in (index, index + 1))
            if free > before:
                return 1, tuple((number, "a") for number in request.atomic_numbers)
            index -= free
        proposals = self._proposals[request.atomic_numbers, request.space_group]
        if not proposals:  # every composition fits space group 1, and an unfit one asked for is refused at once
            raise InputError(f"no Wyckoff positions found for {len(request.atomic_numbers)} atoms")
        logits = np.log([one.probability for one in proposals]) / self._temperature
        chosen = proposals[apportioned(np.exp(logits - logits.max()), index)]
        return chosen.space_group, chosen.orbits


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
