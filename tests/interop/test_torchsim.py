from __future__ import annotations

import warnings

import pytest
import torch
from toys import tiny_predictor, toy_crystals

from dao.crystal import CrystalBatch
from dao.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch-sim imports a name that its own dependency has renamed
    torch_sim = pytest.importorskip("torch_sim")
    from torch_sim.models.interface import validate_model_outputs

    from dao.interop.torchsim import TorchSimPredictor

CPU = torch.device("cpu")


def test_torch_sim_s_own_check_passes() -> None:
    validate_model_outputs(TorchSimPredictor(tiny_predictor().double()), CPU, torch.float64)


def test_results_are_the_predictor_s() -> None:
    model = tiny_predictor().double()
    crystals = toy_crystals()[:5]
    atoms = [crystal.to_atoms() for crystal in crystals]
    for i, one in enumerate(atoms):
        one.rattle(0.1, seed=i)  # type: ignore[no-untyped-call]
    state = torch_sim.io.atoms_to_state(atoms, CPU, torch.float64)
    made = TorchSimPredictor(model)(state)
    from dao.crystal import Crystal

    batch = CrystalBatch.from_crystals([Crystal.from_atoms(one) for one in atoms], dtype=torch.float64)
    expected = model.energy_forces_stress(batch)
    torch.testing.assert_close(made["energy"], expected.energy)
    torch.testing.assert_close(made["forces"], expected.forces[batch.mask], atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(made["stress"], expected.stress, atol=1e-9, rtol=1e-7)
    state.pbc = False
    with pytest.raises(InputError, match="periodic in three directions"):
        TorchSimPredictor(model)(state)
