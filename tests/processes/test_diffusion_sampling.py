from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusion_reference import (
    ALPHA_BAR,
    BETA,
    CODE,
    PAPER,
    SIGMA,
    Noise,
    T,
    characteristic,
    crystal,
    diffusion,
    walk,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dao.geometry.torus import log_map, wrapped_normal_score
from dao.processes.base import Denoiser, Prediction, State
from dao.processes.config import SamplerSettings
from dao.processes.diffusion import Diffusion


def test_network_is_asked_at_the_times_of_each_order() -> None:
    _, _, mask = crystal(2)
    process = diffusion()
    asked: list[float] = []

    def denoise(state: State, time: Tensor) -> Prediction:
        asked.append(float(time[0]))
        assert (time == time[0]).all()
        return Prediction(torch.zeros_like(state.frac_coords), torch.zeros_like(state.lattice))

    for settings in (CODE, PAPER):
        walk(
            process,
            denoise,
            State(torch.zeros(2, 3, 3), torch.zeros(2, 9)),
            mask,
            Silent(),
            settings.updated(steps=2),
        )
    code, paper = asked[:4], asked[4:]
    assert code == pytest.approx([0.75, 0.75, 0.25, 0.25])
    # time 0 is never trained, and there the corrector's step is zero
    assert paper == pytest.approx([0.75, 0.25, 0.25])
    assert process.evaluations_per_step("predictor-corrector") == 2


class Silent:
    """No noise: what remains is the mean of a step."""

    def normal(self, *shape: int) -> Tensor:
        return torch.zeros(2, *shape)

    def uniform(self, *shape: int) -> Tensor:
        return torch.zeros(2, *shape)


class Unit:
    """Noise of one everywhere: what it adds is the standard deviation of a step."""

    def normal(self, *shape: int) -> Tensor:
        return torch.ones(2, *shape, dtype=torch.float64)

    def uniform(self, *shape: int) -> Tensor:
        return torch.ones(2, *shape, dtype=torch.float64)


@pytest.mark.parametrize("step", [1, 2, 400, 1000])
@pytest.mark.parametrize("noisy", [False, True])
def test_neighbouring_steps_are_those_of_algorithm_1(step: int, *, noisy: bool) -> None:
    clean, _, mask = crystal(2)
    lattice_noise, normalised = clean.lattice / 7, mask[..., None] * (clean.frac_coords - 0.4)
    process = diffusion()
    scale = float(process.score_scale[step])

    def denoise(state: State, time: Tensor) -> Prediction:
        assert float(time[0]) == pytest.approx(step / T)
        return Prediction(normalised.expand_as(state.frac_coords), lattice_noise)

    done = process.step(
        denoise,
        clean,
        step / T,
        (step - 1) / T,
        mask,
        Unit() if noisy else Silent(),
        CODE.updated(corrector_step=0.0),
    )
    z = float(noisy and step > 1)
    alpha, beta, bar, bar_next = 1 - BETA[step], BETA[step], ALPHA_BAR[step], ALPHA_BAR[step - 1]
    lattice = (clean.lattice - beta / math.sqrt(1 - bar) * lattice_noise) / math.sqrt(alpha)
    lattice = lattice + z * math.sqrt(beta * (1 - bar_next) / (1 - bar))
    torch.testing.assert_close(done.lattice, lattice, rtol=1e-9, atol=1e-9)
    now, after = SIGMA[step], SIGMA[step - 1]
    coords = clean.frac_coords + (now**2 - after**2) * scale * normalised
    coords = coords + z * after * math.sqrt(now**2 - after**2) / now
    torch.testing.assert_close(log_map(done.frac_coords, coords)[mask], torch.zeros(4, 3).double(), rtol=0, atol=1e-8)
    assert (done.frac_coords[~mask] == 0).all()


@given(st.integers(1, 1000), st.integers(0, 999))
def test_a_jump_draws_from_the_posterior_given_the_data(now: int, after: int) -> None:
    """By Bayes' rule, for a network that sees the data: of q(x_s | x_0) and q(x_t | x_s), both normal."""
    if after >= now:
        return
    clean, _, mask = crystal(2)
    bar, bar_after = ALPHA_BAR[now], ALPHA_BAR[after]
    process = diffusion()
    state = State(clean.frac_coords, torch.linspace(-2, 2, 9, dtype=torch.float64).expand(2, 9))

    def denoise(here: State, time: Tensor) -> Prediction:
        del time
        epsilon = (here.lattice - math.sqrt(bar) * clean.lattice) / math.sqrt(1 - bar)
        return Prediction(torch.zeros_like(here.frac_coords), epsilon)

    settings = CODE.updated(corrector_step=0.0)
    mean, moved = (
        process.step(denoise, state, now / T, after / T, mask, source, settings).lattice
        for source in (Silent(), Unit())
    )
    ratio = bar / bar_after
    if after == 0:
        torch.testing.assert_close(mean, clean.lattice, rtol=0, atol=1e-6)
        return
    precision = ratio / (1 - ratio) + 1 / (1 - bar_after)
    weighted = math.sqrt(ratio) / (1 - ratio) * state.lattice + math.sqrt(bar_after) / (1 - bar_after) * clean.lattice
    torch.testing.assert_close(mean, weighted / precision, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moved - mean, torch.full_like(mean, precision**-0.5), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("step", [2, 400, 1000])
def test_corrector_is_a_langevin_step(step: int) -> None:
    clean, _, mask = crystal(2)
    process = diffusion()
    size = 1e-5 * (SIGMA[step] / SIGMA[1]) ** 2

    def denoise(state: State, time: Tensor) -> Prediction:
        del time
        return Prediction(0.1 * torch.ones_like(state.frac_coords), torch.full_like(state.lattice, torch.nan))

    scale = float(process.score_scale[step])
    for source, z in ((Silent(), 0.0), (Unit(), 1.0)):
        done = process._correct(denoise, clean, step, mask, source, 1e-5, last=False)
        expected = clean.frac_coords + 0.1 * size * scale + z * math.sqrt(2 * size)
        apart = log_map(done.frac_coords, expected)[mask]
        torch.testing.assert_close(apart, torch.zeros_like(apart), rtol=0, atol=1e-8)
        assert (done.frac_coords[~mask] == 0).all()
        assert torch.equal(done.lattice, clean.lattice)


@pytest.mark.parametrize("settings", [CODE, PAPER], ids=["corrector first", "predictor first"])
def test_the_step_to_the_data_adds_no_noise(settings: SamplerSettings) -> None:
    clean, _, mask = crystal(2)
    process = diffusion()

    def denoise(state: State, time: Tensor) -> Prediction:
        # blind to the state: a noise added before would come through
        return Prediction(torch.ones_like(state.frac_coords), time[:, None].expand(2, 9))

    for t in (0.001, 0.01):
        silent, noisy = (process.step(denoise, clean, t, 0.0, mask, source, settings) for source in (Silent(), Unit()))
        assert torch.equal(silent.lattice, noisy.lattice)
        assert torch.equal(silent.frac_coords, noisy.frac_coords)


# --- recovery of known targets, with the exact answer in the network's place ----------------------------------------


def fixed_crystal(process: Diffusion, clean: State) -> Denoiser:
    """All data are one crystal: the score of one wrapped normal an atom."""

    def denoise(state: State, time: Tensor) -> Prediction:
        step = round(float(time[0]) * T)
        offset = log_map(clean.frac_coords, state.frac_coords)
        score = wrapped_normal_score(offset, torch.tensor(SIGMA[step])) / process.score_scale[step]
        epsilon = (state.lattice - math.sqrt(ALPHA_BAR[step]) * clean.lattice) / math.sqrt(1 - ALPHA_BAR[step])
        return Prediction(score, epsilon)

    return denoise


@pytest.mark.parametrize("lattice", ["matrix", "log_metric"])
@pytest.mark.parametrize("settings", [CODE, PAPER], ids=["corrector first", "predictor first"])
@pytest.mark.parametrize("steps", [5, 1000])
def test_a_fixed_crystal_is_recovered(lattice: str, settings: SamplerSettings, steps: int, noise: Noise) -> None:
    process = diffusion(lattice)
    clean, _, mask = crystal(8, process.representation.dimension)
    prior = process.prior(mask, noise(8))
    end = walk(process, fixed_crystal(process, clean), prior, mask, noise(8, 1), settings.updated(steps=steps))
    torch.testing.assert_close(end.lattice, clean.lattice, rtol=0, atol=1e-6)
    apart = log_map(clean.frac_coords, end.frac_coords)
    torch.testing.assert_close(apart, torch.zeros_like(apart), rtol=0, atol=1e-6)


WEIGHTS, CENTRES, WIDTHS = (0.3, 0.7), (0.2, 0.65), (0.04, 0.08)
LATTICE_MEAN, LATTICE_DEVIATION = 5.0, 1.0


def mixture(process: Diffusion) -> Denoiser:
    """Coordinates from a mixture of two wrapped normals, lattice numbers from a normal: all scores are known."""
    # every image of either normal is one term
    weight, centre, width = (torch.tensor(v, dtype=torch.float64).repeat(7) for v in (WEIGHTS, CENTRES, WIDTHS))
    centre = centre + torch.arange(-3, 4).repeat_interleave(2)

    def denoise(state: State, time: Tensor) -> Prediction:
        step = round(float(time[0]) * T)
        variance = width**2 + SIGMA[step] ** 2
        offset = state.frac_coords[..., None] - centre
        share = torch.softmax((weight / variance.sqrt()).log() - offset.square() / (2 * variance), dim=-1)
        score = -(share * offset / variance).sum(-1) / process.score_scale[step]
        bar = ALPHA_BAR[step]
        spread = bar * LATTICE_DEVIATION**2 + 1 - bar
        return Prediction(score, math.sqrt(1 - bar) * (state.lattice - math.sqrt(bar) * LATTICE_MEAN) / spread)

    return denoise


def mixture_characteristic(k: int) -> complex:
    return complex(
        sum(
            w * np.exp(2j * np.pi * k * c - 2 * (np.pi * k * s) ** 2)
            for w, c, s in zip(WEIGHTS, CENTRES, WIDTHS, strict=True)
        )
    )


@pytest.mark.parametrize("settings", [CODE, PAPER], ids=["corrector first", "predictor first"])
def test_a_mixture_is_recovered(settings: SamplerSettings, noise: Noise) -> None:
    """Tolerance: 0.01 for 100 steps and 4 standard errors, seeds being fixed."""
    copies = 4000
    process = diffusion()
    mask = torch.ones(copies, 2, dtype=torch.bool)
    prior = process.prior(mask, noise(copies))
    end = walk(process, mixture(process), prior, mask, noise(copies, 1), settings.updated(steps=100))
    for k in (1, 2, 3, 4):
        error = abs(characteristic(end.frac_coords, k) - mixture_characteristic(k))
        assert error < 0.01 + 4 / math.sqrt(end.frac_coords.numel())
    assert float(end.lattice.mean()) == pytest.approx(LATTICE_MEAN, abs=0.03)
    # steps of finite length lose some variance: 2 % here
    assert float(end.lattice.std()) == pytest.approx(LATTICE_DEVIATION, rel=0.03)


def test_few_steps_forgive_an_imperfect_network(noise: Noise) -> None:
    """See Diffusion.times: in even steps from T itself the same error would give a spread of 8.5."""
    copies = 4000
    process = diffusion()
    mask = torch.ones(copies, 1, dtype=torch.bool)
    perfect, wrong = mixture(process), noise(copies, 9).normal(9)

    def imperfect(state: State, time: Tensor) -> Prediction:
        said = perfect(state, time)
        return Prediction(said.frac_coords, said.lattice * (1 + 0.02 * wrong))

    spreads = [
        float(
            walk(
                process, denoise, process.prior(mask, noise(copies)), mask, noise(copies, 1), CODE.updated(steps=20)
            ).lattice.std()
        )
        for denoise in (perfect, imperfect)
    ]
    assert spreads[0] == pytest.approx(0.9, abs=0.03)
    assert spreads[1] == pytest.approx(spreads[0], abs=0.01)


@pytest.mark.parametrize("settings", [CODE, PAPER], ids=["corrector first", "predictor first"])
def test_padding_and_batch_mates_change_no_step(settings: SamplerSettings) -> None:
    process = diffusion()
    clean, _, mask = crystal(2)

    class Fixed:
        """The same noise for an atom, whatever stands beside it."""

        def __init__(self, rows: int, width: int) -> None:
            self.generator = torch.Generator().manual_seed(0)
            self.rows, self.width = rows, width

        def normal(self, *shape: int) -> Tensor:
            full = torch.randn(2, *((3, 3) if len(shape) == 2 else shape), generator=self.generator)
            return full[: self.rows, : self.width] if len(shape) == 2 else full[: self.rows]

        uniform = normal

    def run(rows: int, width: int) -> State:
        part = State(clean.frac_coords[:rows, :width], clean.lattice[:rows])
        denoise = fixed_crystal(process, part)
        start = State((part.frac_coords + 0.2) % 1.0 * mask[:rows, :width, None], part.lattice + 1.0)
        return walk(process, denoise, start, mask[:rows, :width], Fixed(rows, width), settings.updated(steps=10))

    wide, narrow = run(2, 3), run(1, 2)
    assert (wide.frac_coords[~mask] == 0).all()
    torch.testing.assert_close(wide.frac_coords[:1, :2], narrow.frac_coords, rtol=0, atol=1e-12)
    torch.testing.assert_close(wide.lattice[:1], narrow.lattice, rtol=0, atol=1e-12)
