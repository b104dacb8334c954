"""DAO-P as a model of torch-sim (``pip install '.[torch-sim]'``).

Shapes: B systems, A atoms of all of them, N atoms (padded).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_sim import SimState
from torch_sim.models.interface import ModelInterface

from dao.crystal import CrystalBatch
from dao.errors import InputError
from dao.geometry.torus import wrap
from dao.models import Predictor


class TorchSimPredictor(ModelInterface):  # type: ignore[misc]  # torch-sim may not be installed
    """Energy, forces and stress of a predictor for torch-sim, in its units (eV, A) and signs.

    **The energy is no total energy** but the predicted energy above the hull times the number of atoms, and depends on
    the cell that describes a crystal: see
    :class:`dao.interop.calculator.PredictorCalculator`.
    """

    def __init__(self, predictor: Predictor) -> None:
        """Take a predictor; device and precision are its own."""
        super().__init__()
        self.predictor = predictor
        self._device, self._dtype = predictor.energy_mean.device, predictor.energy_mean.dtype
        self._compute_stress = self._compute_forces = True
        self._memory_scales_with = "n_atoms"

    def forward(self, state: SimState | dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:  # noqa: ANN401 -- torch-sim's
        """``energy`` (B,) eV, ``forces`` (A, 3) eV/A and ``stress`` (B, 3, 3) eV/A^3 of the systems.

        Raises:
            InputError: a system that is not periodic in three directions.

        """
        del kwargs
        if isinstance(state, dict):
            state = SimState(**state, masses=torch.ones_like(state["positions"][:, 0]))
        if not bool(torch.as_tensor(state.pbc).all()):
            raise InputError("torch-sim state: the predictor needs systems that are periodic in three directions")
        system, lattice = state.system_idx, state.row_vector_cell
        counts = torch.bincount(system, minlength=len(lattice))
        slot = torch.arange(len(system), device=system.device) - (counts.cumsum(0) - counts)[system]
        numbers = torch.zeros(len(counts), int(counts.max()), dtype=torch.long, device=system.device)
        numbers[system, slot] = state.atomic_numbers.long()
        coords = torch.zeros(*numbers.shape, 3, dtype=lattice.dtype, device=system.device)
        coords[system, slot] = wrap(torch.linalg.solve(lattice.mT[system], state.positions))
        made = self.predictor.energy_forces_stress(CrystalBatch(numbers, coords, lattice, counts))
        return {"energy": made.energy, "forces": made.forces[system, slot], "stress": made.stress}
