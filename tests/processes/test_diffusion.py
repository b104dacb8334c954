from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dao.errors import InputError
from dao.geometry.torus import log_map, wrapped_normal_log_density, wrapped_normal_score
from dao.processes.base import Denoiser, NoiseSource, Prediction, State
from dao.processes.config import SamplerSettings
from dao.processes.diffusion import Diffusion
from dao.processes.representations import REPRESENTATIONS

Noise = Callable[..., NoiseSource]
CODE, PAPER = SamplerSettings(steps=1000), SamplerSettings(steps=1000, corrector_first=False)
T = 1000

# the schedules once more, from their formulae
COSINE = np.cos(np.pi / 2 * (np.arange(T + 1) / T + 0.008) / 1.008) ** 2
BETA = np.concatenate([[0], np.clip(1 - COSINE[1:] / COSINE[:-1], 1e-4, 0.9999)])
ALPHA_BAR = np.cumprod(1 - BETA)
SIGMA = np.concatenate([[0], 0.005 * 100 ** (np.arange(T) / (T - 1))])


@cache
def diffusion(lattice: str = "matrix", **options: float) -> Diffusion:
    return Diffusion(REPRESENTATIONS[lattice](), **options).double()  # type: ignore[arg-type]


def crystal(copies: int, numbers: int = 9) -> tuple[State, Tensor, Tensor]:
    """Copies of one crystal of two atoms and one place of padding, its atomic numbers and mask."""
    coords = torch.tensor([[0.1, 0.5, 0.97], [0.3, 0.0, 0.6], [0, 0, 0]], dtype=torch.float64)
    lattice = torch.linspace(-2.0, 6.0, numbers, dtype=torch.float64)
    elements = torch.tensor([[11, 17, 0]]).expand(copies, 3)
    return State(coords.expand(copies, 3, 3), lattice.expand(copies, numbers)), elements, elements > 0


def at(step: int, copies: int) -> Tensor:
    return torch.full((copies,), step / T, dtype=torch.float64)


def characteristic(x: Tensor, k: int) -> complex:
    return complex(torch.exp(2j * math.pi * k * x).mean())


def walk(
    process: Diffusion, denoise: Denoiser, state: State, mask: Tensor, noise: NoiseSource, settings: SamplerSettings
) -> State:
    for t, t_next in pairwise(process.times(settings.steps)):
        state = process.step(denoise, state, t, t_next, mask, noise, settings)
    return state


# --- time -----------------------------------------------------------------------------------------------------------


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


# --- a step back ----------------------------------------------------------------------------------------------------


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
