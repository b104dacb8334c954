"""Space group and Wyckoff positions of a batch, as what they leave free: of coordinates, of the cell, of velocities.

The atoms of an orbit follow its free coordinates u by ``frac_coords[i] = maps[i] @ u + offsets[i]``
(:mod:`dao.geometry.wyckoff`); the cell is that of the group's standard setting, and the logarithm of its conventional
metric lies in a linear space (DiffCSP++, Jiao et al. 2024, section 4.1): equal diagonal entries for equal axes, zero
or constant off-diagonal ones for fixed angles.

Shapes: B crystals, N atoms (padded), T rows of the site table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from dao.geometry.wyckoff import SPACE_GROUPS, operations, primitive_cell, site_table
from dao.processes.representations import HEXAGONAL


@cache
def lattice_freedom(space_group: int) -> tuple[Float64[np.ndarray, "6 6"], Float64[np.ndarray, " 6"]]:
    """Projector onto the free directions of ``log_metric`` of the conventional cell, and its fixed entries."""
    average, fixed = np.zeros((6, 6)), np.zeros(6)
    equal = {range(75, 195): (0, 1), range(195, 231): (0, 1, 2)}
    axes = next((axes for groups, axes in equal.items() if space_group in groups), ())
    for axis in range(3):
        same = axes if axis in axes else (axis,)
        average[axis, list(same)] = 1.0 / len(same)
    if space_group <= 2:
        average[3:, 3:] = np.eye(3)
    elif space_group <= 15:  # unique axis b: beta is free, entry 13
        average[4, 4] = 1.0
    if 143 <= space_group <= 194:
        fixed[3] = HEXAGONAL
    return average, fixed


@cache
def polar_directions(space_group: int) -> Float64[np.ndarray, "3 3"]:
    """Projector onto the translations (of the primitive cell) that the group leaves free: the mean of its rotations."""
    mean: Float64[np.ndarray, "3 3"] = operations(space_group)[0].mean(0)
    return mean


@dataclass(frozen=True)
class Symmetry:
    """What the groups of a batch leave free.

    Attributes:
        space_group: (B,) 1 to 230.
        position: (B, N) Wyckoff position of each atom (``wyckoff_index``; 0 = padding).
        first: (B, N) slot of the first atom of each atom's orbit.
        maps: (B, N, 3, 3), zero on padding.
        inverse: (B, N, 3, 3) pseudo-inverses of the maps.
        least_squares: (B, N, 3, 3) pseudo-inverse of the sum of map^T map over the atom's orbit.
        offsets: (B, N, 3)
        cell: (B, 3, 3) primitive cell in units of the conventional one.
        free_lattice: (B, 6, 6) and
        fixed_lattice: (B, 6): see :func:`lattice_freedom`.
        polar: (B, 3, 3): see :func:`polar_directions`.

    """

    space_group: Int[Tensor, " b"]
    position: Int[Tensor, "b n"]
    first: Int[Tensor, "b n"]
    maps: Float[Tensor, "b n 3 3"]
    inverse: Float[Tensor, "b n 3 3"]
    least_squares: Float[Tensor, "b n 3 3"]
    offsets: Float[Tensor, "b n 3"]
    cell: Float[Tensor, "b 3 3"]
    free_lattice: Float[Tensor, "b 6 6"]
    fixed_lattice: Float[Tensor, "b 6"]
    polar: Float[Tensor, "b 3 3"]

    def of_orbit(self, per_atom: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """For each atom, the row of the first atom of its orbit."""
        return per_atom.gather(1, self.first[..., None].expand(-1, -1, 3))

    def expand(self, free: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Fractional coordinates of free coordinates (equal within an orbit), not reduced to the cell."""
        return apply(self.maps, free) + self.offsets

    def free_coords(self, frac_coords: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Free coordinates of coordinates that :meth:`expand` made."""
        return apply(self.inverse, frac_coords - self.offsets)

    def project(self, velocity: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """The nearest velocity (least squares) that keeps every atom on its position and every orbit together."""
        return apply(self.maps, apply(self.least_squares, self._pulled_back(velocity)))

    def along_free(self, gradient: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Move of the atoms when each free coordinate moves by the derivative with respect to it (chain rule)."""
        return apply(self.maps, self._pulled_back(gradient))

    def _pulled_back(self, per_atom: Tensor) -> Tensor:
        """Sum of map^T times the vectors of an orbit's atoms, for each of them."""
        pulled = apply(self.maps.mT, per_atom)
        index = self.first[..., None].expand(-1, -1, 3)
        return torch.zeros_like(pulled).scatter_add(1, index, pulled).gather(1, index)

    def project_lattice(self, numbers: Float[Tensor, "b 6"]) -> Float[Tensor, "b 6"]:
        """The nearest change of the conventional cell's log-metric that keeps the crystal system."""
        return apply(self.free_lattice, numbers)


def apply(matrix: Float[Tensor, "*#b k k"], vector: Float[Tensor, "*#b k"]) -> Float[Tensor, "*b k"]:
    """Matrix times vector over a batch."""
    # products of 3 or 6 numbers: faster so than as batched matrix products, and no business of autocast
    return (matrix * vector[..., None, :]).sum(-1)


class SymmetryTable(nn.Module):
    """The site table and the groups' lattices as tensors, from which a batch gathers its own. Nothing is saved."""

    def __init__(self) -> None:
        super().__init__()
        table = site_table()
        maps = torch.tensor(table.maps)
        maps[0] = 0.0  # padding stays where it is
        count = len(table.first)
        position = torch.from_numpy(table.position)
        squares = torch.zeros(count, 3, 3, dtype=maps.dtype).index_add_(0, position, maps.mT @ maps)
        numbers = range(1, SPACE_GROUPS + 1)
        freedom = [lattice_freedom(number) for number in numbers]
        tensors = {
            "maps": maps,
            "inverse": torch.linalg.pinv(maps),
            "least_squares": torch.linalg.pinv(squares)[position],
            "offsets": torch.from_numpy(table.offsets),
            # row 0: an unknown group, as if there were none
            "cell": torch.from_numpy(np.stack([np.eye(3), *(primitive_cell(number) for number in numbers)])),
            "free_lattice": torch.from_numpy(np.stack([np.eye(6), *(free for free, _ in freedom)])),
            "fixed_lattice": torch.from_numpy(np.stack([np.zeros(6), *(fixed for _, fixed in freedom)])),
            "polar": torch.from_numpy(np.stack([np.eye(3), *(polar_directions(number) for number in numbers)])),
        }
        for name, value in tensors.items():
            self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("position", position, persistent=False)
        self.register_buffer("image", torch.from_numpy(table.image), persistent=False)

    maps: Tensor
    inverse: Tensor
    least_squares: Tensor
    offsets: Tensor
    cell: Tensor
    free_lattice: Tensor
    fixed_lattice: Tensor
    polar: Tensor
    position: Tensor
    image: Tensor

    def of_batch(self, sites: Int[Tensor, "b n"], space_group: Int[Tensor, " b"]) -> Symmetry:
        """Symmetry of crystals whose atoms come orbit by orbit, each on its row of the site table (0 = padding)."""
        slots = torch.arange(sites.shape[1], device=sites.device)
        begins = (self.image[sites] == 0) | (sites == 0)
        first = torch.where(begins, slots, torch.zeros_like(slots)).cummax(1).values
        return Symmetry(
            space_group=space_group,
            position=self.position[sites],
            first=first,
            maps=self.maps[sites],
            inverse=self.inverse[sites],
            least_squares=self.least_squares[sites],
            offsets=self.offsets[sites],
            cell=self.cell[space_group],
            free_lattice=self.free_lattice[space_group],
            fixed_lattice=self.fixed_lattice[space_group],
            polar=self.polar[space_group],
        )
