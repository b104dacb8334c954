"""Distances between atoms and all their periodic neighbours within a cutoff, for networks that attend by them.

Crysformer knows pairs by their fractional offset and the lattice apart from it: it must learn what a distance is, and
the same crystal in another cell is another input. Contacts say it: for each pair of atoms of the cell a few radial
functions, summed over every image within the cutoff, smooth where an image enters or leaves. They do not depend on the
choice of the cell, and hold no direction.

Shapes: B crystals, N atoms (padded), D width, R radial functions, P pairs of a crystal and a lattice translation.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

CUTOFF = 5.0
"""Distance (A) from which on there is no contact."""

CLOSEST = 0.8
"""Distance (A) of the first radial function's centre."""

LARGEST_REACH = 3
"""Lattice translations to either side that are searched at most: exact for cells at least 2 A high."""

SCALE = 0.25
"""Makes a usual sum over neighbours one."""


def contacts(
    frac_coords: Float[Tensor, "b n 3"], lattice: Float[Tensor, "b 3 3"], mask: Bool[Tensor, "b n"], radial: int
) -> Float[Tensor, "b r n n"]:
    """Radial functions of each pair of atoms, summed over the images of the second one; differentiable.

    An atom's own images count, the atom itself does not.
    """
    n = frac_coords.shape[1]
    offset = frac_coords[:, None] - frac_coords[:, :, None]
    offset = ((offset - offset.round()) @ lattice[:, None]).flatten(1, 2)  # (B, N N, 3)
    neighbour, displacement = _neighbours(offset, lattice, (mask[:, :, None] & mask[:, None]).flatten(1))
    values = radial_functions(displacement.norm(dim=-1), radial)
    summed = values.new_zeros(mask.shape[0] * n * n, radial).index_add(0, neighbour, values)
    return SCALE * summed.view(-1, n, n, radial).permute(0, 3, 1, 2)


def _neighbours(
    offset: Float[Tensor, "b p 3"], lattice: Float[Tensor, "b 3 3"], pair: Bool[Tensor, "b p"]
) -> tuple[Int[Tensor, " m"], Float[Tensor, "m 3"]]:
    """Every image within the cutoff: the place of its pair in the batch, and the displacement to it (A)."""
    with torch.no_grad():
        # a height h of the cell: within the cutoff c, an offset's fractional coordinate is at most c / h
        reach = (CUTOFF * torch.linalg.inv(lattice).norm(dim=-2) + 0.5).nan_to_num(0.0).floor()
        square = offset.square().sum(-1)
        found = []
        for steps in itertools.product(range(-LARGEST_REACH, LARGEST_REACH + 1), repeat=3):
            translation = lattice.new_tensor(steps)
            crystals = (translation.abs() <= reach).all(-1).nonzero()[:, 0]
            if len(crystals) == 0:
                continue
            shift = translation @ lattice[crystals]
            # |o + s|^2 without a (P, 3) intermediate; its rounding is below the margin
            far = torch.baddbmm(square[crystals, :, None], offset[crystals], 2.0 * shift[..., None])[..., 0]
            near = (far < (CUTOFF + 0.01) ** 2 - shift.square().sum(-1, keepdim=True)) & pair[crystals]
            row, place = near.nonzero(as_tuple=True)
            found.append((crystals[row], place, translation.expand(len(row), 3)))
        crystal, place, steps_of = (torch.cat(parts) for parts in zip(*found, strict=True))
    displacement = offset[crystal, place] + (steps_of[:, None] @ lattice[crystal])[:, 0]
    distance = displacement.detach().norm(dim=-1)
    kept = (distance < CUTOFF) & (distance > 1e-3)
    return (crystal * offset.shape[1] + place)[kept], displacement[kept]


def radial_functions(distance: Float[Tensor, " m"], radial: int) -> Float[Tensor, "m r"]:
    """Gaussians whose centres are as far apart as they are wide, falling smoothly to zero at the cutoff."""
    centres = torch.linspace(CLOSEST, CUTOFF, radial, dtype=distance.dtype, device=distance.device)
    width = (CUTOFF - CLOSEST) / max(radial - 1, 1)
    envelope = 0.5 * (1.0 + torch.cos(distance * (math.pi / CUTOFF)))
    return torch.exp(-0.5 * ((distance[:, None] - centres) / width) ** 2) * envelope[:, None]


class ContactConvolution(nn.Module):
    """Sums the neighbours' features with a contact as weight, each radial function for a share of the width."""

    def __init__(self, width: int, radial: int) -> None:
        super().__init__()
        self.radial = radial
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, nodes: Float[Tensor, "b n d"], weights: Float[Tensor, "b r n n"]) -> Float[Tensor, "b n d"]:
        """Messages, to be added to those of the attention."""
        values = self.value(nodes).unflatten(-1, (self.radial, -1)).transpose(1, 2)  # (B, R, N, D / R)
        return self.output((weights.to(values.dtype) @ values).transpose(1, 2).flatten(2))
