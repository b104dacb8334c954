"""What relaxation needs of a potential: energy, forces and stress of many crystals at once.

Shapes: B crystals, N atoms (padded).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dao.crystal import CrystalBatch
from dao.geometry.lattice import volume


@dataclass(frozen=True)
class EnergyForcesStress:
    """Energies and their derivatives.

    Attributes:
        energy: (B,) of the whole cell, eV.
        forces: (B, N, 3) cartesian, eV/A, 0 on padding.
        stress: (B, 3, 3) symmetric, eV/A^3: derivative by strain over volume, positive under tension (ASE's sign).

    """

    energy: Float[Tensor, " b"]
    forces: Float[Tensor, "b n 3"]
    stress: Float[Tensor, "b 3 3"]


@runtime_checkable
class Potential(Protocol):
    """Anything that can be relaxed on; the results for a crystal must not depend on the others of its batch."""

    def energy_forces_stress(self, batch: CrystalBatch) -> EnergyForcesStress:
        """Energy, forces and stress of every crystal, on the batch's device and in its precision or another."""
        ...


def differentiate(energy: Callable[[CrystalBatch], Tensor], batch: CrystalBatch) -> EnergyForcesStress:
    """Forces and stress of an energy of whole cells (B,), in eV, that is a differentiable function of the batch.

    A strain moves atoms and lattice together: fractional coordinates stay, L becomes L (1 + e), so that dE/de is
    L^T dE/dL. It is symmetrised, as an energy that does not see rotations leaves no antisymmetric part but rounding.
    """
    with torch.enable_grad():
        coords = batch.frac_coords.detach().clone().requires_grad_()
        lattice = batch.lattice.detach().clone().requires_grad_()
        value = energy(replace(batch, frac_coords=coords, lattice=lattice))
        by_coords, by_lattice = torch.autograd.grad(value.sum(), [coords, lattice])
    lattice = lattice.detach()
    # x = f L, so dE/df = dE/dx L^T
    forces = -torch.linalg.solve(lattice, by_coords.mT).mT
    virial = lattice.mT @ by_lattice
    stress = 0.5 * (virial + virial.mT) / volume(lattice)[:, None, None]
    return EnergyForcesStress(value.detach(), forces * batch.mask[..., None], stress)
