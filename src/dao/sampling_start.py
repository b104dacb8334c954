"""Walks of a symmetric flow that begin from a crystal, noised within its symmetry, instead of from noise alone.

The time at which a walk begins says how much of the crystal is kept: at 0 all of it, at 1 its space group and occupied
Wyckoff positions alone.

Shapes: B crystals, N atoms (padded), K orbits of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dao.errors import InputError
from dao.geometry.symmetrized import SymmetricCrystal
from dao.geometry.wyckoff import primitive_cell
from dao.processes.base import NoiseSource, Process, State, full_time
from dao.processes.representations import ConventionalLogMetricLattice
from dao.processes.symmetry import Symmetry


@dataclass(frozen=True)
class Start:
    """Where a walk begins.

    Attributes:
        crystal: its orbits sorted by element.
        time: that it is noised to, over 0 and up to 1.

    Raises:
        InputError: another time.

    """

    crystal: SymmetricCrystal
    time: float

    def __post_init__(self) -> None:
        """Check the time."""
        if not 0.0 < self.time <= 1.0:
            raise InputError(f"a walk starts at a time over 0 (data) and up to 1 (noise), not at {self.time:g}")


def started(
    process: Process,
    starts: Sequence[Start],
    symmetry: Symmetry,
    atomic_numbers: Int[Tensor, "b n"],
    mask: Bool[Tensor, "b n"],
    noise: NoiseSource,
) -> State:
    """The crystals noised to their time, which is one for all of them.

    Args:
        process: that keeps symmetry.
        starts: B of them.
        symmetry: theirs.
        atomic_numbers: 0 = padding.
        mask: which are atoms.
        noise: of the samples.

    """
    representation = process.representation
    assert isinstance(representation, ConventionalLogMetricLattice)  # noqa: S101 -- that of all symmetric processes
    free = torch.zeros(*mask.shape, 3, dtype=torch.float64)
    lattices = torch.zeros(len(starts), 3, 3, dtype=torch.float64)
    for i, start in enumerate(starts):
        sizes = torch.tensor([position.multiplicity for position in start.crystal.positions()])
        coords = torch.from_numpy(start.crystal.free_coords).repeat_interleave(sizes, dim=0)
        free[i, : len(coords)] = coords
        lattices[i] = torch.from_numpy(primitive_cell(start.crystal.space_group) @ start.crystal.lattice)
    cell = symmetry.cell
    numbers = representation.encode_primitive(lattices.to(cell), atomic_numbers, cell)
    clean = State(symmetry.expand(free.to(cell)), numbers, symmetry)
    return process.noised(clean, full_time(starts[0].time, numbers), atomic_numbers, mask, noise).state


def times_from(times: list[float], starts: Sequence[Start]) -> list[float]:
    """Those of a whole walk, from the starts' time on if there are any: steps stay as long as they were."""
    if not starts:
        return times
    return [starts[0].time, *(time for time in times if time < starts[0].time)]
