from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusion_reference import (
    ALPHA_BAR,
    SIGMA,
    Noise,
    T,
    at,
    characteristic,
    crystal,
    diffusion,
)
from hypothesis import given
from hypothesis import strategies as st

from dao.errors import InputError
from dao.geometry.torus import log_map, wrapped_normal_log_density
from dao.processes.base import Prediction, State


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_of_the_grid_are_their_steps(dtype: torch.dtype) -> None:
    steps = torch.arange(1, T + 1)
    assert torch.equal(diffusion().steps_of(steps.to(dtype) / T), steps)


def test_uniform_times_draw_every_step_equally() -> None:
    process = diffusion(timesteps=50)
    time = (torch.arange(50_000, dtype=torch.float64) + 0.5) / 50_000
    counts = torch.bincount(process.steps_of(time), minlength=51)
    assert counts[0] == 0
    assert ((counts[1:] - 1000).abs() <= 1).all()
    assert process.steps_of(torch.tensor([0.0, 1.0])).tolist() == [1, 50]


@given(st.integers(1, 300), st.sampled_from([1, 10, 97, 250]))
def test_sampling_times(steps: int, timesteps: int) -> None:
    process = diffusion(timesteps=timesteps)
    if steps > timesteps:
        with pytest.raises(InputError, match=f"at most the {timesteps} of this diffusion model, got {steps}"):
            process.times(steps)
        return
    times = process.times(steps)
    assert len(times) == steps + 1
    assert times[-1] == 0.0
    whole = [t * timesteps for t in times]
    assert whole == pytest.approx([round(t) for t in whole])
    assert all(a - b > 0.5 for a, b in pairwise(whole))
    if steps == timesteps:
        assert times == pytest.approx([t / timesteps for t in range(timesteps, -1, -1)])


# --- forward --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 100, 500, 900, 1000])
def test_forward_marginals(step: int, noise: Noise) -> None:
    """Seeds are fixed; the bounds are 5 standard errors of each estimate."""
    copies = 20_000
    clean, elements, mask = crystal(copies)
    noised = diffusion().noised(clean, at(step, copies), elements, mask, noise(copies, step))
    lattice, variance = noised.state.lattice, 1 - ALPHA_BAR[step]
    mean = math.sqrt(ALPHA_BAR[step]) * clean.lattice[0]
    assert ((lattice.mean(0) - mean).abs() < 5 * math.sqrt(variance / copies)).all()
    assert ((lattice.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / copies)).all()
    spread = log_map(clean.frac_coords, noised.state.frac_coords)[:, :2]
    for k in (1, 2, 3):
        assert abs(characteristic(spread, k) - math.exp(-2 * (math.pi * k * SIGMA[step]) ** 2)) < 5 / math.sqrt(
            spread.numel()
        )
    middles = torch.from_numpy((np.arange(10_000) + 0.5) / 10_000 - 0.5)
    density = wrapped_normal_log_density(middles, torch.tensor(SIGMA[step])).exp().numpy()
    expected = density.reshape(10, -1).mean(1) / 10
    share = np.histogram(spread.numpy(), np.linspace(-0.5, 0.5, 11))[0] / spread.numel()
    assert (np.abs(share - expected) < 5 * np.sqrt(expected / spread.numel()) + 1e-12).all()


def test_targets_are_the_noise_and_the_normalised_derivative_of_the_log_density(noise: Noise) -> None:
    copies = 2000
    clean, elements, mask = crystal(copies)
    time = noise(copies, 1).uniform()
    process = diffusion()
    noised = process.noised(clean, time, elements, mask, noise(copies))
    steps = process.steps_of(time)
    torch.testing.assert_close(noised.time, steps / T, check_dtype=False)
    again = process.noised(clean, noised.time, elements, mask, noise(copies))
    assert torch.equal(again.state.frac_coords, noised.state.frac_coords)

    signal = torch.from_numpy(ALPHA_BAR)[steps, None]
    clean_again = (noised.state.lattice - (1 - signal).sqrt() * noised.target.lattice) / signal.sqrt()
    # single-precision tables, divided by sqrt(alpha_bar) = 1.6e-5 at T
    torch.testing.assert_close(clean_again * signal.sqrt(), clean.lattice * signal.sqrt(), atol=1e-6, rtol=0)

    sigma = process.sigma[steps][:, None, None]
    torch.testing.assert_close(sigma[:, 0, 0], torch.from_numpy(SIGMA)[steps], rtol=1e-6, atol=0)
    offset = log_map(clean.frac_coords, noised.state.frac_coords).requires_grad_()
    (derivative,) = torch.autograd.grad(wrapped_normal_log_density(offset, sigma).sum(), offset)
    normalised = derivative / process.score_scale[steps][:, None, None]
    torch.testing.assert_close(noised.target.frac_coords[:, :2], normalised[:, :2], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("step", [1, 300, 700, 1000])
def test_predicting_zero_costs_one(step: int, noise: Noise) -> None:
    copies = 20_000
    clean, elements, mask = crystal(copies)
    process = diffusion(coordinate_weight=3.0, lattice_weight=0.5)
    noised = process.noised(clean, at(step, copies), elements, mask, noise(copies, step))
    zero = Prediction(torch.zeros_like(noised.target.frac_coords), torch.zeros_like(noised.target.lattice))
    losses = process.loss(zero, noised, mask)
    assert float(losses.frac_coords) == pytest.approx(1.0, abs=0.03)
    assert float(losses.lattice) == pytest.approx(1.0, abs=0.03)
    assert float(losses.total) == pytest.approx(3 * float(losses.frac_coords) + 0.5 * float(losses.lattice))
    assert float(process.loss(noised.target, noised, mask).total) == 0.0


def test_padding_is_zero_and_costs_nothing(noise: Noise) -> None:
    clean, elements, mask = crystal(4)
    process = diffusion()
    noised = process.noised(clean, at(700, 4), elements, mask, noise(4))
    prior = process.prior(mask, noise(4))
    for coords in (noised.state.frac_coords, noised.target.frac_coords, prior.frac_coords):
        assert (coords[~mask] == 0).all()
        assert (coords[mask] != 0).all()
    wild = Prediction(torch.where(mask[..., None], noised.target.frac_coords, 1e9), noised.target.lattice)
    assert float(process.loss(wild, noised, mask).total) == 0.0
    wild_state = State(torch.where(mask[..., None], clean.frac_coords, 0.77), clean.lattice)
    assert torch.equal(
        process.noised(wild_state, at(700, 4), elements, mask, noise(4)).state.frac_coords, noised.state.frac_coords
    )


def test_prior_is_where_the_forward_process_ends(noise: Noise) -> None:
    _, _, mask = crystal(20_000)
    prior = diffusion().prior(mask, noise(20_000))
    assert prior.lattice.shape == (20_000, 9)
    assert ((prior.lattice.var(0) - 1).abs() < 0.05).all()
    assert max(abs(characteristic(prior.frac_coords[:, :2], k)) for k in (1, 2, 3)) < 5 / math.sqrt(120_000)
    assert diffusion("log_metric").prior(mask, noise(20_000)).lattice.shape == (20_000, 6)


def test_schedules_follow_from_the_configuration_and_are_not_saved() -> None:
    assert diffusion().state_dict() == {}
