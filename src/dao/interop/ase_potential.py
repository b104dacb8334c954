"""Any ASE calculator as a potential that :mod:`dao.relaxation` can relax on.

Shapes: B crystals, N atoms (padded).
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, final

import torch

from dao.crystal import CrystalBatch
from dao.potential import EnergyForcesStress

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


@final
class AsePotential:
    """Energies, forces and stresses of crystals one after the other, in double precision on the CPU.

    A crystal that the calculator fails on, or that is none (atoms on top of each other), has the energy NaN and no
    forces: a relaxation takes the step to it back.
    """

    def __init__(self, calculator: Calculator) -> None:
        """Take a calculator of energies in eV, forces in eV/A and stress in eV/A^3."""
        self._calculator = calculator

    def energy_forces_stress(self, batch: CrystalBatch) -> EnergyForcesStress:
        """See :class:`dao.potential.Potential`."""
        crystals = batch.to_crystals()
        energy = torch.full((len(crystals),), math.nan, dtype=torch.float64)
        forces = torch.zeros(*batch.frac_coords.shape, dtype=torch.float64)
        stress = torch.zeros(len(crystals), 3, 3, dtype=torch.float64)
        for i, crystal in enumerate(crystals):
            try:
                # two atoms in one place, or a flat cell, can make a neighbour list that fills the memory
                crystal.validate()
                atoms = crystal.to_atoms()
                atoms.calc = self._calculator
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    value = float(atoms.get_potential_energy())  # type: ignore[no-untyped-call]
                    pulls = torch.as_tensor(atoms.get_forces(), dtype=torch.float64)  # type: ignore[no-untyped-call]
                    tension = atoms.get_stress(voigt=False)  # type: ignore[no-untyped-call]
            except Exception:  # noqa: BLE001, S112 -- a potential may raise anything on a structure that is no crystal
                continue
            energy[i], forces[i, : len(pulls)], stress[i] = value, pulls, torch.as_tensor(tension, dtype=torch.float64)
        return EnergyForcesStress(energy, forces, stress)
