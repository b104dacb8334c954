"""Guidance where the guided density is known: normal data, and energies that tilt them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from symmetric_toys import double_table, symmetric_set
from torch import Tensor

from dao.crystal import CrystalBatch
from dao.errors import InputError
from dao.geometry.torus import log_map, wrapped_normal_score
from dao.processes.base import NoiseSource, Prediction, Process, State
from dao.processes.config import ProcessConfig, SamplerSettings
from dao.processes.diffusion import Diffusion
from dao.processes.flow import UNIFORM_VARIANCE, Flow
from dao.processes.guidance import Guidance, Objective, bounded, gradients, guided
from dao.processes.representations import MatrixLattice

Noise = Callable[..., NoiseSource]

COPIES = 1500
WIDTH = 0.05
"""Standard deviation of the coordinates' data, about 1/2; lattice numbers are standard normal."""

FLOW, DIFFUSION = Flow(MatrixLattice()), Diffusion(MatrixLattice(), timesteps=100)


def decode(state: State) -> CrystalBatch:
    copies, atoms = state.frac_coords.shape[:2]
    numbers = torch.full((copies, atoms), 11)
    return CrystalBatch(numbers, state.frac_coords, state.lattice.reshape(-1, 3, 3), torch.full((copies,), atoms))


class Tilt:
    """a x the lattice's numbers + b x the coordinates; of noised crystals the exact intermediate energy's gradient."""

    def __init__(self, process: Process, lattice: float, coords: float) -> None:
        self.process, self.lattice, self.coords = process, lattice, coords

    def knows_noise_of(self, process: ProcessConfig) -> bool:
        raise NotImplementedError

    def record(self) -> dict[str, Any]:
        return {"tilt": self.lattice}

    def value(self, batch: CrystalBatch, time: float) -> Tensor:
        kept_lattice, kept_coords = 1.0, 1.0  # d E[x_0 | x_t] / d x_t
        if time > 0 and isinstance(self.process, Diffusion):
            now = round(time * self.process.timesteps)
            kept_lattice = self.process._alpha_bar[now] ** 0.5
            kept_coords = WIDTH**2 / (WIDTH**2 + self.process._sigma[now] ** 2)
        elif time > 0:
            kept_lattice = (1.0 - time) / ((1.0 - time) ** 2 + time**2)
            kept_coords = WIDTH**2 / (WIDTH**2 + UNIFORM_VARIANCE * time**2)
        tilted = self.lattice * kept_lattice * batch.lattice.sum((1, 2))
        return tilted + self.coords * kept_coords * batch.frac_coords.sum((1, 2))


def denoise(process: Process, state: State, time: Tensor) -> Prediction:
    """What a perfect network says of the data."""
    t = float(time[0])
    offset = log_map(torch.full_like(state.frac_coords, 0.5), state.frac_coords)
    if isinstance(process, Diffusion):
        now = round(t * process.timesteps)
        width = torch.tensor(math.hypot(WIDTH, process._sigma[now]), dtype=torch.float64)
        score = wrapped_normal_score(offset, width)
        noise = math.sqrt(1.0 - process._alpha_bar[now]) * state.lattice
        return Prediction(score / process._score_scale[now], noise)
    lattice = (2.0 * t - 1.0) / ((1.0 - t) ** 2 + t**2) * state.lattice
    return Prediction(t * UNIFORM_VARIANCE / (WIDTH**2 + UNIFORM_VARIANCE * t**2) * offset, lattice)


def walk(process: Process, objective: Objective, strength: float, noise: Noise, *, intermediate: bool) -> State:
    mask = torch.ones(COPIES, 2, dtype=torch.bool)
    source = noise(COPIES, 1)
    state = process.prior(mask, source)
    by = guided(
        Guidance(objective, strength),
        lambda state, time: denoise(process, state, time),
        process,
        decode,
        mask,
        intermediate=intermediate,
    )
    how = SamplerSettings(steps=60)
    for t, t_next in pairwise(process.times(how.steps)):
        state = process.step(by, state, t, t_next, mask, source, how)
    return state


@pytest.mark.parametrize("intermediate", [True, False], ids=["noised", "clean"])
@pytest.mark.parametrize("process", [FLOW, DIFFUSION], ids=["flow", "diffusion"])
def test_lattices_follow_the_tilted_density(process: Process, noise: Noise, *, intermediate: bool) -> None:
    """q = N(0, 1) and E = a x give p = N(-s a, 1), for s and a apart."""
    for strength, tilt in ((1.0, 0.4), (-2.0, 0.25)):
        end = walk(process, Tilt(process, tilt, 0.0), strength, noise, intermediate=intermediate).lattice
        error = 5.0 / math.sqrt(end.numel())
        assert float(end.mean()) == pytest.approx(-strength * tilt, abs=error + 0.05 * abs(strength * tilt))
        assert float(end.std()) == pytest.approx(1.0, abs=0.05)


def test_coordinates_of_diffusion_follow_the_tilted_density(noise: Noise) -> None:
    """q = N(1/2, w^2) and E = b x give p = N(1/2 - s b w^2, w^2)."""
    for strength in (1.0, -0.5):
        end = walk(DIFFUSION, Tilt(DIFFUSION, 0.0, 15.0), strength, noise, intermediate=True).frac_coords
        assert float(end.mean()) == pytest.approx(0.5 - strength * 15.0 * WIDTH**2, abs=5.0 * WIDTH / 90.0)
        assert float(end.std()) == pytest.approx(WIDTH, rel=0.1)


@pytest.mark.parametrize("intermediate", [True, False], ids=["noised", "clean"])
def test_coordinates_of_the_flow_go_the_right_way(noise: Noise, *, intermediate: bool) -> None:
    """An energy that falls along one atom's axis less than along the other's; the common translation is no move."""

    class First(Tilt):
        def value(self, batch: CrystalBatch, time: float) -> Tensor:
            return super().value(batch, time) * 0.0 + 6.0 * (batch.frac_coords[:, 0, 0] - batch.frac_coords[:, 1, 0])

    ends = [walk(FLOW, First(FLOW, 0.0, 0.0), s, noise, intermediate=intermediate).frac_coords for s in (0.0, 1.0)]
    apart = [log_map(end[:, 1], end[:, 0]).mean(0) for end in ends]
    assert float(apart[1][0]) < float(apart[0][0]) - 0.01
    assert float((apart[1] - apart[0])[1:].abs().max()) < 1e-9


def test_bounded() -> None:
    change = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    made = bounded(change, torch.full((3,), 2.0), 1.0)
    assert made[0].tolist() == pytest.approx([0.6 * 2**0.5, 0.8 * 2**0.5])
    assert torch.equal(made[1:], change[1:])


def test_cells_of_which_nothing_can_be_said_are_left_alone() -> None:
    class Logarithm(Tilt):
        def value(self, batch: CrystalBatch, time: float) -> Tensor:  # noqa: ARG002 -- as the protocol has it
            assert bool(batch.lattice.isfinite().all())
            return torch.linalg.det(batch.lattice).log() + batch.frac_coords.sum((1, 2))

    lattice = torch.eye(3).flatten().repeat(5, 1)
    lattice[1], lattice[2], lattice[3, :3] = 1e30, float("nan"), 0.0
    coords, numbers = gradients(Logarithm(FLOW, 0.0, 0.0), decode, State(torch.zeros(5, 2, 3), lattice), 0.0)
    assert bool(coords.isfinite().all())
    assert not bool(numbers[1:4].any())
    assert not bool(coords[1:3].any())
    torch.testing.assert_close(numbers[[0, 4]], torch.eye(3).flatten().repeat(2, 1))


def test_gradient_by_the_free_coordinates() -> None:
    """Chain rule through the maps, by autograd."""
    packed = symmetric_set((12, 62, 139, 166, 194, 216, 225))
    batch = packed.batch(torch.arange(7))
    assert batch.sites is not None
    symmetry = double_table().of_batch(batch.sites, batch.labels["space_group"])
    draw = torch.Generator().manual_seed(0)
    pull = torch.randn(batch.frac_coords.shape, generator=draw, dtype=torch.float64)
    free = symmetry.free_coords(batch.frac_coords.double()).requires_grad_()
    (by_free,) = torch.autograd.grad((symmetry.expand(symmetry.of_orbit(free)) * pull).sum(), free)
    moved = symmetry.along_free(pull)
    expected = symmetry.expand(symmetry.of_orbit(by_free)) - symmetry.offsets
    torch.testing.assert_close(moved, expected, atol=1e-9, rtol=1e-9)
    # along the orbit already: projecting changes nothing
    torch.testing.assert_close(symmetry.project(moved), moved, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_strengths_are_finite(strength: float) -> None:
    with pytest.raises(InputError, match="guidance strength must be a finite number"):
        Guidance(Tilt(FLOW, 1.0, 1.0), strength)
