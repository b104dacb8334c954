"""Crystals near the labelled ones: the same in another setting, and deformed ones with the energy an elastic solid has.

Labels are of relaxed crystals only. A network that has seen no others finds no minimum at them: its energies rise
with the volume, and relaxation runs to its bounds. What a deformed crystal lies above its minimum is not in the data,
but its size is known well enough to say on which side the minimum lies: bulk modulus times volume per atom varies far
less from solid to solid than the modulus (Anderson & Nafe, 1965), and so do the forces that hold an atom in its place.

Shapes: B crystals, N atoms (padded).
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dao.crystal import CrystalBatch
from dao.geometry.torus import remove_mean, wrap
from dao.processes.base import NoiseSource

BULK = 11.0
"""Bulk modulus times volume per atom, eV: median of AFLOW's 4,905 crystals (middle half: 8.1 to 14.5)."""

SHEAR = 5.1
"""Shear modulus times volume per atom, eV; likewise (3.4 to 7.1)."""

SPRING = 5.0
"""Force constant of an atom in its place, eV/A^2: 50 u at an Einstein frequency of 5 THz."""

LARGEST_DILATION = 0.15
"""Largest standard deviation of the logarithm of the volume."""

LARGEST_SHEAR = 0.04
"""Largest standard deviation of the entries of the strain."""

LARGEST_RATTLE = 0.2
"""Largest standard deviation of a displacement along an axis, A."""


def deformed(
    batch: CrystalBatch, rows: Bool[Tensor, " b"], noise: NoiseSource
) -> tuple[CrystalBatch, Float[Tensor, " b"]]:
    """Strain and rattle some crystals; also the energy (eV/atom) that this costs an elastic solid, 0 for the others.

    Dilation, shear and rattle are normal with amplitudes of their own, uniform for each crystal.
    """
    dilation, shear, rattle = (noise.uniform(3) * rows[:, None]).unbind(-1)
    log_volume = LARGEST_DILATION * dilation * noise.normal()
    strain = noise.normal(3, 3)
    strain = (strain + strain.mT) / 2.0**0.5
    strain = strain - strain.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * torch.eye(3).to(strain)
    strain = (LARGEST_SHEAR * shear)[:, None, None] * strain
    weight = batch.mask.to(batch.frac_coords.dtype)
    displacement = remove_mean(noise.normal(batch.mask.shape[1], 3), weight) * weight[..., None]
    displacement = (LARGEST_RATTLE * rattle)[:, None, None] * displacement

    moved = batch.frac_coords + torch.linalg.solve(batch.lattice.mT, displacement.mT).mT
    deformation = torch.linalg.matrix_exp(strain + (log_volume / 3.0)[:, None, None] * torch.eye(3).to(strain))
    energy = (
        0.5 * BULK * log_volume.square()
        + SHEAR * strain.square().sum((-2, -1))
        + 0.5 * SPRING * displacement.square().sum((-2, -1)) / batch.num_atoms
    )
    frac_coords = wrap(moved) * batch.mask[..., None]
    return replace(batch, frac_coords=frac_coords, lattice=batch.lattice @ deformation), energy


def other_setting(batch: CrystalBatch, noise: NoiseSource) -> CrystalBatch:
    """Every crystal with its cell vectors in random order, half of them inverted: the same energy.

    The network does not know that these are the same crystal.
    """
    draw = noise.uniform(2)
    device = draw.device
    orders = torch.tensor(list(itertools.permutations(range(3))), device=device)
    order = orders[(draw[:, 0] * len(orders)).long()]
    inverted = (draw[:, 1] < 0.5)[:, None, None]
    frac_coords = batch.frac_coords.gather(2, order[:, None].expand_as(batch.frac_coords))
    lattice = batch.lattice.gather(1, order[..., None].expand_as(batch.lattice))
    frac_coords = torch.where(inverted, -frac_coords, frac_coords)
    return replace(batch, frac_coords=wrap(frac_coords) * batch.mask[..., None], lattice=lattice)
