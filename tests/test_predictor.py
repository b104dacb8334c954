from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from toys import tiny_generator, tiny_predictor, toy_crystals

from dao.crystal import CrystalBatch
from dao.errors import InputError
from dao.geometry.lattice import volume
from dao.geometry.torus import wrap
from dao.model_config import PredictorConfig
from dao.models import Generator, Predictor

KINDS = [("flow", "log_metric"), ("flow", "matrix"), ("diffusion", "log_metric"), ("diffusion", "matrix")]


def crystals(sizes: list[int], seed: int = 0) -> CrystalBatch:
    """Random crystals of those sizes in float64."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    noise = torch.randn(len(sizes), 3, 3, generator=draw, dtype=torch.float64)
    return CrystalBatch(
        atomic_numbers=torch.randint(1, 95, mask.shape, generator=draw) * mask,
        frac_coords=torch.rand(*mask.shape, 3, generator=draw, dtype=torch.float64) * mask[..., None],
        lattice=4.0 * torch.eye(3, dtype=torch.float64) + 0.4 * noise,
        num_atoms=mask.sum(1),
    )


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def model(request: pytest.FixtureRequest) -> Predictor:
    return tiny_predictor(*request.param).double()


@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(0, 10**6), st.sampled_from([0.0, 0.4]))
@settings(max_examples=25)
def test_symmetries_of_the_energy(model: Predictor, sizes: list[int], seed: int, time: float) -> None:
    batch = crystals(sizes, seed)
    energy = model.energy(batch, time).detach()
    assert bool(energy.isfinite().all())
    draw = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=draw, dtype=torch.float64))
    same(model.energy(replace(batch, lattice=batch.lattice @ q), time), energy)
    shift = torch.rand(len(sizes), 1, 3, generator=draw, dtype=torch.float64)
    moved = wrap(batch.frac_coords + shift) * batch.mask[..., None]
    same(model.energy(replace(batch, frac_coords=moved), time), energy)
    # the order of atoms
    order = torch.stack([torch.cat([torch.randperm(n), torch.arange(n, max(sizes))]) for n in sizes])
    shuffled = replace(
        batch,
        atomic_numbers=batch.atomic_numbers.gather(1, order),
        frac_coords=batch.frac_coords.gather(1, order[..., None].expand(-1, -1, 3)),
    )
    same(model.energy(shuffled, time), energy)
    # padding, and the others of the batch
    padded = replace(
        batch,
        atomic_numbers=torch.nn.functional.pad(batch.atomic_numbers, (0, 3)),
        frac_coords=torch.nn.functional.pad(batch.frac_coords, (0, 0, 0, 3)),
    )
    same(model.energy(padded, time), energy)
    alone = CrystalBatch(batch.atomic_numbers[:1], batch.frac_coords[:1], batch.lattice[:1], batch.num_atoms[:1])
    same(model.energy(alone, time), energy[:1])


def test_the_energy_sees_what_it_should(model: Predictor) -> None:
    """The symmetry tests would pass on a constant."""
    batch = crystals([4, 3])
    energy = model.energy(batch)
    coords = batch.frac_coords.clone()
    coords[:, 0] += 0.1
    for other in (
        replace(batch, lattice=1.1 * batch.lattice),
        replace(batch, frac_coords=coords),
        replace(batch, atomic_numbers=batch.atomic_numbers.clamp_max(20)),
    ):
        assert float((model.energy(other) - energy).detach().abs().min()) > 1e-6
    assert float((model.energy(batch, 0.5) - energy).detach().abs().min()) > 1e-6


def central(model: Predictor, batch: CrystalBatch, change: Any, step: float = 1e-4) -> Tensor:
    """Central difference (B,) of the cells' energies, of fourth order."""
    energies = [batch.num_atoms * model.energy(change(k * step)).detach() for k in (-2, -1, 1, 2)]
    return (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)


@pytest.mark.parametrize("cubic", [False, True])
def test_forces_and_stress_are_finite_differences(model: Predictor, *, cubic: bool) -> None:
    batch = crystals([4, 2, 1], seed=3)
    if cubic:  # coinciding eigenvalues of the metric
        batch = replace(batch, lattice=4.0 * torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    made = model.energy_forces_stress(batch)
    same(made.energy, batch.num_atoms * model.energy(batch).detach())
    assert float(made.forces.abs().max()) > 1e-4
    assert float(made.stress.abs().max()) > 1e-5
    inverse = torch.linalg.inv(batch.lattice)
    for atom in range(4):
        for axis in range(3):

            def move(step: float, atom: int = atom, axis: int = axis) -> CrystalBatch:
                coords = batch.frac_coords.clone()
                coords[:, atom] += step * inverse[:, axis]
                return replace(batch, frac_coords=coords * batch.mask[..., None])

            torch.testing.assert_close(-central(model, batch, move), made.forces[:, atom, axis], atol=1e-6, rtol=0)
    for i in range(3):
        for j in range(i, 3):
            strain = torch.zeros(3, 3, dtype=torch.float64)
            strain[i, j] = strain[j, i] = 1.0 if i == j else 0.5

            def stretch(step: float, strain: Tensor = strain) -> CrystalBatch:
                return replace(batch, lattice=batch.lattice @ (torch.eye(3, dtype=torch.float64) + step * strain))

            found = central(model, batch, stretch) / volume(batch.lattice)
            torch.testing.assert_close(found, made.stress[:, i, j], atol=1e-6, rtol=0)
    same(made.stress, made.stress.mT)
    # no net force
    torch.testing.assert_close(made.forces.sum(1), torch.zeros(3, 3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_forces_come_without_gradients_being_on(model: Predictor) -> None:
    batch = crystals([3, 2])
    with torch.no_grad():
        made = model.energy_forces_stress(batch)
    assert bool(made.forces.any())
    assert not made.energy.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_scaler_gives_energies_their_unit() -> None:
    model = tiny_predictor(beta=2.0)
    batch = CrystalBatch.from_crystals(toy_crystals()[:5])
    with torch.no_grad():
        said = model(batch.atomic_numbers, batch.mask, model.encode(batch), torch.zeros(5)).energy
        expected = model.energy_mean + model.energy_deviation * said / 2.0
        torch.testing.assert_close(model.energy(batch), expected)
    energies = torch.tensor([0.1, float("nan"), 0.3])
    model.fit_energies({"e_above_hull": energies})
    assert float(model.energy_mean) == pytest.approx(0.2)
    assert float(model.energy_deviation) == pytest.approx(0.1)
    with pytest.raises(InputError, match="no crystal of the training set has a label 'e_above_hull'"):
        model.fit_energies({"e_above_hull": energies[1:2]})


@pytest.mark.parametrize(("kind", "lattice"), KINDS)
def test_round_trip_is_exact(kind: Any, lattice: Any, tmp_path: Path) -> None:
    model = tiny_predictor(kind, lattice)
    model.save(tmp_path / "one")
    loaded = Predictor.load(tmp_path / "one")
    assert loaded.config == replace(model.config, parameters=model.parameters_count)
    assert loaded.fingerprint == model.fingerprint
    batch = CrystalBatch.from_crystals(toy_crystals()[:6])
    with torch.no_grad():
        assert torch.equal(loaded.energy(batch), model.energy(batch))
    half = tmp_path / "half"
    model.save(half, dtype=torch.bfloat16)
    assert load_file(half / "model.safetensors")["energy_mean"].dtype == torch.float32


def test_neither_model_is_the_other(tmp_path: Path) -> None:
    tiny_predictor().save(tmp_path / "predictor")
    tiny_generator().save(tmp_path / "generator")
    with pytest.raises(InputError, match="holds a predictor, and a generator is needed"):
        Generator.load(tmp_path / "predictor")
    with pytest.raises(InputError, match="holds a generator, and a predictor is needed"):
        Predictor.load(tmp_path / "generator")
    path = tmp_path / "predictor" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta": -1.0}))
    with pytest.raises(InputError, match="predictor beta must be positive"):
        Predictor.load(tmp_path / "predictor")


def test_a_predictor_knows_no_symmetry() -> None:
    generator = tiny_generator(space_groups=True)
    with pytest.raises(InputError, match="works without known symmetry"):
        PredictorConfig(network=generator.config.network, process=generator.config.process)
