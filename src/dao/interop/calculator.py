"""DAO-P as an ASE calculator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from dao.crystal import CrystalBatch
from dao.interop.ase import from_atoms
from dao.models import Predictor
from dao.weights import DEFAULT_PREDICTOR


class PredictorCalculator(Calculator):
    """Energy, forces and stress of a predictor (:class:`dao.models.Predictor`) for ASE.

    **The energy is no total energy.** It is the predicted energy above the convex hull times the number of atoms (eV).
    At one composition it differs from the total energy by a constant, so that structures of one composition may be
    compared, relaxed and moved; differences between compositions are no reaction energies. Forces (eV/A) and stress
    (eV/A^3, ASE's order xx, yy, zz, yz, xz, xy and sign: positive under tension) are its derivatives. ``results`` also
    holds ``e_above_hull`` (eV/atom).

    **Give primitive Niggli cells** (:func:`dao.geometry.cells.primitive`), which predictors are trained on: the same
    crystal in another cell, such as a supercell, has another energy by the atom.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 -- ASE's own declaration

    def __init__(
        self,
        predictor: Predictor | Path | str = DEFAULT_PREDICTOR,
        **settings: Any,  # noqa: ANN401 -- likewise
    ) -> None:
        """Take a predictor, or weights to load one from (:meth:`dao.models.Predictor.load`).

        Raises:
            InputError: the weights cannot be loaded.

        """
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self.predictor = predictor if isinstance(predictor, Predictor) else Predictor.load(predictor)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results``; ASE calls this.

        Raises:
            InputError: no crystal (no cell, not periodic in three directions, an unknown element).

        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        crystal = from_atoms(self.atoms)  # type: ignore[arg-type]
        batch = CrystalBatch.from_crystals([crystal], dtype=torch.float64)
        made = self.predictor.energy_forces_stress(batch)
        energy = float(made.energy[0])
        stress = made.stress[0].double().cpu().numpy()
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "e_above_hull": energy / crystal.num_atoms,
            "forces": made.forces[0].double().cpu().numpy(),
            "stress": stress[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)],
        }
