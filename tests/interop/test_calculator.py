from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from toys import tiny_predictor

from dao.crystal import Crystal, CrystalBatch
from dao.errors import InputError
from dao.interop.calculator import PredictorCalculator


@pytest.fixture
def atoms() -> Any:  # ASE's methods carry no types
    made: Any = bulk("NaCl", "rocksalt", a=5.4) * (1, 1, 2)
    made.rattle(0.1, seed=1)
    made.set_cell(made.cell.array @ (np.eye(3) + 0.03 * np.arange(9).reshape(3, 3) / 9), scale_atoms=True)
    made.calc = PredictorCalculator(tiny_predictor().double())
    return made


def test_forces_and_stress_have_ase_s_order_and_sign(atoms: Any) -> None:
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    stress = atoms.get_stress()
    assert np.abs(stress[3:]).min() > 1e-6  # the order matters
    np.testing.assert_allclose(stress, calculate_numerical_stress(atoms, eps=1e-5), atol=1e-6)


def test_the_energy_is_above_the_hull_times_atoms(atoms: Any) -> None:
    batch = CrystalBatch.from_crystals([Crystal.from_atoms(atoms)])
    energy = float(tiny_predictor().energy(batch).detach()[0])
    assert atoms.get_potential_energy() == pytest.approx(4 * energy, rel=1e-5)
    assert atoms.calc.results["e_above_hull"] == pytest.approx(energy, rel=1e-5)
    assert "no total energy" in str(PredictorCalculator.__doc__)


def test_weights_are_loaded_by_folder_and_molecules_refused(atoms: Any, tmp_path: Path) -> None:
    tiny_predictor().save(tmp_path / "weights")
    energy = atoms.get_potential_energy()
    atoms.calc = PredictorCalculator(tmp_path / "weights")
    assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-4)
    molecule: Any = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], calculator=PredictorCalculator(tmp_path / "weights"))
    with pytest.raises(InputError, match="no cell of three independent vectors"):
        molecule.get_potential_energy()
