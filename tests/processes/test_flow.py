from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, permutations
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dao.geometry.torus import log_map, remove_mean, wrap
from dao.processes.base import Denoiser, NoiseSource, Prediction, State
from dao.processes.config import SamplerSettings
from dao.processes.flow import Flow, assign_by_element, velocity_scale
from dao.processes.representations import REPRESENTATIONS

Noise = Callable[..., NoiseSource]
Method = Literal["euler", "midpoint"]


def flow(lattice: str = "log_metric", **options: float) -> Flow:
    return Flow(REPRESENTATIONS[lattice](), **{"assignment": "none", **options})  # type: ignore[arg-type]


def crystal(copies: int, numbers: int = 6) -> tuple[State, Tensor, Tensor]:
    """Copies of one crystal of three atoms and one place of padding, its atomic numbers and mask."""
    coords = torch.tensor([[0.1, 0.5, 0.97], [0.3, 0.0, 0.6], [0.8, 0.2, 0.5], [0, 0, 0]], dtype=torch.float64)
    lattice = torch.linspace(-1.0, 2.0, numbers, dtype=torch.float64)
    elements = torch.tensor([[11, 17, 17, 0]]).expand(copies, 4)
    return State(coords.expand(copies, 4, 3), lattice.expand(copies, numbers)), elements, elements > 0


def walk(process: Flow, denoise: Denoiser, state: State, mask: Tensor, how: SamplerSettings) -> State:
    for t, t_next in pairwise(process.times(how.steps)):
        state = process.step(denoise, state, t, t_next, mask, Silent(), how)
    return state


class Silent:
    """Walking back from noise to data draws no random numbers."""

    def normal(self, *shape: int) -> Tensor:
        raise NotImplementedError

    def uniform(self, *shape: int) -> Tensor:
        raise NotImplementedError


# --- forward --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_forward_marginals(t: float, noise: Noise) -> None:
    """Seeds are fixed; the bounds are 5 standard errors of each estimate."""
    copies = 10_000
    clean, elements, mask = crystal(copies)
    noised = flow().noised(clean, torch.full((copies,), t, dtype=torch.float64), elements, mask, noise(copies))
    lattice = noised.state.lattice
    assert ((lattice.mean(0) - (1 - t) * clean.lattice[0]).abs() <= 5 * t / math.sqrt(copies) + 1e-12).all()
    assert ((lattice.var(0) - t**2).abs() <= 5 * t**2 * math.sqrt(2 / copies) + 1e-12).all()
    spread = log_map(clean.frac_coords, noised.state.frac_coords)[:, :3]
    assert (spread.abs() <= t / 2 + 1e-12).all()
    for k in (1, 2, 3):
        # displacements are uniform on a segment of length t
        mean = complex(torch.exp(2j * math.pi * k * spread).mean())
        assert abs(mean - np.sinc(k * t)) <= 5 / math.sqrt(spread.numel()) + 1e-12 if t else mean == pytest.approx(1)
    share = np.histogram(spread.numpy(), np.linspace(-t / 2 - 1e-9, t / 2 + 1e-9, 9))[0] / spread.numel()
    if t:
        assert (np.abs(share - 1 / 8) < 5 * math.sqrt(1 / 8 / spread.numel())).all()


@pytest.mark.parametrize("assignment", ["none", "element"])
def test_target_is_the_velocity_of_the_path(assignment: Literal["none", "element"], noise: Noise) -> None:
    clean, elements, mask = crystal(50)
    process = Flow(REPRESENTATIONS["matrix"](), assignment=assignment)
    clean = State(clean.frac_coords, torch.linspace(-2, 5, 9, dtype=torch.float64).expand(50, 9))
    t, dt = noise(50, 1).uniform() * 0.9, 1e-3
    here, there = (process.noised(clean, time, elements, mask, noise(50)) for time in (t, t + dt))
    moved = log_map(here.state.frac_coords, there.state.frac_coords) / dt
    torch.testing.assert_close(remove_mean(moved, mask.double()), here.target.frac_coords, rtol=0, atol=1e-9)
    velocity = (there.state.lattice - here.state.lattice) / dt
    torch.testing.assert_close(velocity, here.target.lattice, rtol=0, atol=1e-9)
    assert torch.equal(here.time, t)


def test_loss_forgets_translations_and_its_unit_is_predicting_zero(noise: Noise) -> None:
    copies = 20_000
    clean, elements, mask = crystal(copies)
    process = flow(coordinate_weight=3.0, lattice_weight=0.5)
    noised = process.noised(clean, noise(copies, 1).uniform(), elements, mask, noise(copies))
    zero = Prediction(torch.zeros_like(noised.target.frac_coords), torch.zeros_like(noised.target.lattice))
    losses = process.loss(zero, noised, mask)
    # uniform displacements, less their mean over three atoms
    assert float(losses.frac_coords) == pytest.approx(2 / 3, abs=0.01)
    assert float(losses.total) == pytest.approx(3 * float(losses.frac_coords) + 0.5 * float(losses.lattice))
    shifted = Prediction(noised.target.frac_coords + 0.3, noised.target.lattice)
    assert float(process.loss(shifted, noised, mask).total) == pytest.approx(0.0, abs=1e-20)


def test_padding_is_zero_and_costs_nothing(noise: Noise) -> None:
    clean, elements, mask = crystal(4)
    assignments: tuple[Literal["none", "element"], ...] = ("none", "element")
    for assignment in assignments:
        process = Flow(REPRESENTATIONS["log_metric"](), assignment=assignment)
        noised = process.noised(clean, torch.full((4,), 0.7).double(), elements, mask, noise(4))
        prior = process.prior(mask, noise(4))
        for coords in (noised.state.frac_coords, noised.target.frac_coords, prior.frac_coords):
            assert (coords[~mask] == 0).all()
            assert (coords[mask] != 0).all()
        wild = Prediction(torch.where(mask[..., None], noised.target.frac_coords, 1e6), noised.target.lattice)
        assert float(process.loss(wild, noised, mask).total) == pytest.approx(0.0, abs=1e-20)
        unpadded = process.noised(
            State(clean.frac_coords[:, :3], clean.lattice),
            torch.full((4,), 0.7).double(),
            elements[:, :3],
            mask[:, :3],
            Without(noise(4)),
        )
        torch.testing.assert_close(unpadded.state.frac_coords, noised.state.frac_coords[:, :3], rtol=0, atol=1e-12)
        torch.testing.assert_close(unpadded.target.frac_coords, noised.target.frac_coords[:, :3], rtol=0, atol=1e-12)


class Without:
    """The numbers that a padded batch would draw, less those of the padding."""

    def __init__(self, source: NoiseSource) -> None:
        self.source = source

    def normal(self, *shape: int) -> Tensor:
        return self.source.normal(*shape)

    def uniform(self, *shape: int) -> Tensor:
        return self.source.uniform(4, 3)[:, : shape[0]]


# --- pairing noise with atoms ---------------------------------------------------------------------------------------


def pairing(seed: int, sizes: list[int], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random crystals of those sizes, from three elements, padded to ``width``; noise for them."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(1, 4, (len(sizes), width), generator=generator)
    numbers = numbers * (torch.arange(width) < torch.tensor(sizes)[:, None])
    coords, noise = torch.rand(2, len(sizes), width, 3, generator=generator, dtype=torch.float64)
    real = (numbers > 0)[..., None]
    return coords * real, noise * real, numbers


def shifted(coords: Tensor, noise: Tensor, numbers: Tensor) -> Tensor:
    """The noise of one crystal less the circular mean of its offsets from the atoms, in their order."""
    real = numbers > 0
    turns = torch.exp(2j * math.pi * (noise - coords))[real].sum(0).angle() / (2 * math.pi)
    return wrap(noise - turns)[real]


def cost(coords: Tensor, noise: Tensor) -> float:
    return float(log_map(coords, noise).square().sum())


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_assignment_permutes_within_elements_and_never_costs_more(seed: int, sizes: list[int]) -> None:
    coords, noise, numbers = pairing(seed, sizes, 9)
    assigned = assign_by_element(coords, noise, numbers)
    assert (assigned[numbers == 0] == 0).all()
    for i, size in enumerate(sizes):
        before, after = shifted(coords[i], noise[i], numbers[i]), assigned[i, :size]
        for element in (1, 2, 3):
            chosen = numbers[i, :size] == element
            one, other = (points[chosen][points[chosen][:, 0].argsort()] for points in (before, after))
            torch.testing.assert_close(log_map(one, other), torch.zeros_like(one), rtol=0, atol=1e-12)
        assert cost(coords[i, :size], after) <= cost(coords[i, :size], before) + 1e-12


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_assignment_is_the_best_of_all(seed: int, size: int) -> None:
    coords, noise, numbers = pairing(seed, [size], 5)
    points, kinds = shifted(coords[0], noise[0], numbers[0]), numbers[0, :size]
    best = min(
        cost(coords[0, :size], points[list(order)])
        for order in permutations(range(size))
        if torch.equal(kinds[list(order)], kinds)
    )
    assigned = assign_by_element(coords, noise, numbers)
    assert cost(coords[0, :size], assigned[0, :size]) == pytest.approx(best, abs=1e-12)


def test_assignment_brings_noise_closer(noise: Noise) -> None:
    numbers = torch.ones(200, 8, dtype=torch.long)
    coords, end = noise(200).uniform(8, 3), noise(200, 1).uniform(8, 3)
    far = remove_mean(log_map(coords, end), torch.ones(200, 8).double())
    near = remove_mean(log_map(coords, assign_by_element(coords, end, numbers)), torch.ones(200, 8).double())
    assert float(near.square().mean()) < 0.6 * float(far.square().mean())


# --- back -----------------------------------------------------------------------------------------------------------


def test_evaluations() -> None:
    process = flow()
    assert process.times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    asked: list[float] = []

    def denoise(state: State, time: Tensor) -> Prediction:
        asked.append(float(time[0]))
        return Prediction(torch.zeros_like(state.frac_coords), torch.zeros_like(state.lattice))

    clean, _, mask = crystal(2)
    methods: tuple[Method, ...] = ("euler", "midpoint")
    assert process.methods == methods
    for method in methods:
        asked.clear()
        walk(process, denoise, clean, mask, SamplerSettings(steps=2, method=method))
        assert len(asked) == 2 * process.evaluations_per_step(method)
        assert asked == ([1.0, 0.5] if method == "euler" else [1.0, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("method", ["euler", "midpoint"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, 20.0])
def test_a_fixed_crystal_is_recovered(method: Method, steps: int, scale: float, noise: Noise) -> None:
    """Paths to one crystal are straight, so any number of steps is exact, up to a translation of the whole."""
    process = flow()
    clean, _, mask = crystal(20)

    def denoise(state: State, time: Tensor) -> Prediction:
        t = time[:, None]
        # E[noise - data | state] and, for coordinates, log map over t; a common drift must be taken out by the step
        coords = log_map(clean.frac_coords, state.frac_coords) / t[..., None] + 0.3
        return Prediction(coords, (state.lattice - clean.lattice) / t)

    how = SamplerSettings(steps=steps, method=method, coordinate_velocity_scale=scale, lattice_velocity_scale=scale)
    end = walk(process, denoise, process.prior(mask, noise(20)), mask, how)
    apart = log_map(clean.frac_coords, end.frac_coords)
    relative = log_map(apart[:, :1].expand(-1, 3, -1), apart[:, :3])
    torch.testing.assert_close(relative, torch.zeros_like(relative), rtol=0, atol=1e-9)
    torch.testing.assert_close(end.lattice, clean.lattice, rtol=0, atol=1e-9)
    assert (end.frac_coords[~mask] == 0).all()


@given(st.floats(0, 20), st.floats(0, 1), st.floats(1e-3, 1))
def test_velocity_is_scaled_towards_the_data_but_never_past_it(s: float, t: float, dt: float) -> None:
    scale = velocity_scale(s, t, dt)
    assert 1 <= scale <= 1 + s * (1 - t)
    assert scale == 1 + s * (1 - t) or scale * dt <= max(t, dt) + 1e-12
    assert velocity_scale(0.0, t, dt) == 1


WEIGHTS, CENTRES, WIDTHS = (0.3, 0.7), (0.2, 0.65), (0.04, 0.08)
LATTICE_MEAN, LATTICE_DEVIATION = 1.0, 0.5


def mixture(state: State, time: Tensor) -> Prediction:
    """Exact velocities where x_2 - x_1 follows a mixture of two wrapped normals and lattice numbers a normal.

    With w the difference of the two displacements (triangular on [-1, 1]) and r = r_0 + t w, the velocity of r is
    E[w | r], an average over w with weights (1 - |w|) p(r - t w).
    """
    t = float(time[0])
    weight, centre, width = (torch.tensor(v, dtype=torch.float64).repeat(7) for v in (WEIGHTS, CENTRES, WIDTHS))
    centre = centre + torch.arange(-3, 4).repeat_interleave(2)
    w = torch.linspace(-1, 1, 101, dtype=torch.float64)
    r = wrap(state.frac_coords[:, 1] - state.frac_coords[:, 0])
    start = (r[..., None] - t * w)[..., None]
    log_density = torch.logsumexp((weight / width).log() - ((start - centre) / width).square() / 2, dim=-1)
    chance = torch.softmax(log_density + (1 - w.abs()).clamp_min(1e-30).log(), dim=-1)
    half = 0.5 * (chance * w).sum(-1)
    slope = (t - (1 - t) * LATTICE_DEVIATION**2) / ((1 - t) ** 2 * LATTICE_DEVIATION**2 + t**2)
    lattice = -LATTICE_MEAN + slope * (state.lattice - (1 - t) * LATTICE_MEAN)
    return Prediction(torch.stack([-half, half], dim=1), lattice)


@pytest.mark.parametrize(("method", "steps"), [("euler", 100), ("midpoint", 25)])
def test_a_mixture_is_recovered(method: Method, steps: int) -> None:
    """From evenly spread starts, so that nothing is random; tolerance 0.015 for steps of finite length."""
    copies = 50
    process = flow()
    first = torch.linspace(0, 1, copies, dtype=torch.float64)[:, None].expand(copies, 3)
    apart = ((torch.arange(copies * 3) + 0.5) / (copies * 3)).double().reshape(3, copies).T
    quantiles = (torch.arange(copies, dtype=torch.float64) + 0.5) / copies
    normal = math.sqrt(2) * torch.erfinv(2 * quantiles - 1)
    prior = State(torch.stack([first, wrap(first + apart)], dim=1), normal[:, None].expand(copies, 6))
    end = walk(process, mixture, prior, torch.ones(copies, 2).bool(), SamplerSettings(steps=steps, method=method))
    between = end.frac_coords[:, 1] - end.frac_coords[:, 0]
    errors = []
    for k in (1, 2, 3):
        exact = sum(
            weight * np.exp(2j * np.pi * k * centre - 2 * (np.pi * k * width) ** 2)
            for weight, centre, width in zip(WEIGHTS, CENTRES, WIDTHS, strict=True)
        )
        errors.append(abs(complex(torch.exp(2j * math.pi * k * between).mean()) - exact))
    assert max(errors) < 0.015
    torch.testing.assert_close(
        end.lattice[:, 0], LATTICE_MEAN + LATTICE_DEVIATION * normal, rtol=0, atol=0.01 * float(normal.max())
    )


def smooth(state: State, time: Tensor) -> Prediction:
    """A velocity with a known solution: dr/dt = 0.3 sin(2 pi r) (1 + t) for r = x_2 - x_1, and dl/dt = l^2."""
    r = state.frac_coords[:, 1] - state.frac_coords[:, 0]
    half = 0.15 * torch.sin(2 * math.pi * r) * (1 + time[:, None])
    return Prediction(torch.stack([-half + 0.7, half + 0.7], dim=1), state.lattice.square())


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2)])
def test_error_falls_at_the_order_of_the_method(method: Method, order: int) -> None:
    process = flow()
    generator = torch.Generator().manual_seed(0)
    prior = State(
        torch.rand(20, 2, 3, generator=generator, dtype=torch.float64),
        0.5 * torch.rand(20, 6, generator=generator, dtype=torch.float64),
    )
    mask = torch.ones(20, 2, dtype=torch.bool)
    turned = torch.tan(math.pi * (prior.frac_coords[:, 1] - prior.frac_coords[:, 0])) * math.exp(-0.9 * math.pi)
    r_exact, l_exact = torch.atan(turned) / math.pi, 1 / (1 / prior.lattice + 1)
    counts = [16, 32, 64]
    errors = np.empty((2, len(counts)))
    for i, steps in enumerate(counts):
        end = walk(process, smooth, prior, mask, SamplerSettings(steps=steps, method=method))
        r = end.frac_coords[:, 1] - end.frac_coords[:, 0]
        errors[:, i] = [
            float(log_map(r_exact, r).square().mean().sqrt()),
            float((end.lattice - l_exact).square().mean().sqrt()),
        ]
    for error in errors:
        slope = -np.polyfit(np.log(counts), np.log(error), 1)[0]
        assert slope == pytest.approx(order, abs=0.2)
