"""Joint diffusion of lattice and coordinates (paper section 4.1 and Algorithm 1; Jiao et al., DiffCSP, 2023).

The lattice numbers follow DDPM with a cosine schedule and the network predicts their noise (eqs. 1 and 3; in ``matrix``
form the lattice is diffused as it is, in A, with unit noise). Fractional coordinates are spread by a wrapped normal of
geometric width and the network predicts its score times sqrt(lambda_t), whose mean square is one (eqs. 2 and 4).

Steps are numbered 0 (data) to T (noise), and the network's time is step / T; training sees steps 1 to T.

Shapes: B crystals, N atoms (padded), K numbers a lattice, S = T + 1 steps.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dao.errors import InputError
from dao.geometry.torus import exp_map, wrap, wrapped_normal_score
from dao.processes.base import (
    LEAST_DATA,
    Denoiser,
    Losses,
    Noised,
    NoiseSource,
    Prediction,
    Process,
    State,
    full_time,
    masked_squares,
)
from dao.processes.config import METHODS, SamplerSettings
from dao.processes.representations import LatticeRepresentation
from dao.processes.schedules import cosine_alpha_bar, geometric_sigma, mean_square_score
from dao.processes.symmetry import Symmetry

_ROUNDING = 1e-3
"""Share of a step by which a time in float32 may lie above its step."""


class Diffusion(Process):
    """DDPM for the lattice, score matching on the torus for the coordinates, predictor-corrector sampling."""

    name = "diffusion"
    methods = METHODS["diffusion"]

    sqrt_alpha_bar: Tensor
    lattice_deviation: Tensor
    sigma: Tensor
    score_scale: Tensor

    def __init__(
        self,
        representation: LatticeRepresentation,
        *,
        coordinate_weight: float = 1.0,
        lattice_weight: float = 1.0,
        timesteps: int = 1000,
        sigma_range: tuple[float, float] = (0.005, 0.5),
    ) -> None:
        """Set the loss weights and the schedules.

        Args:
            representation: how the lattice is seen.
            coordinate_weight: weight of the coordinate loss, whose unit is the loss of predicting zero.
            lattice_weight: weight of the lattice loss (per number; predicting zero costs one).
            timesteps: T.
            sigma_range: least and largest standard deviation of the wrapped normal, in cell units.

        """
        super().__init__(representation)
        self.coordinate_weight = coordinate_weight
        self.lattice_weight = lattice_weight
        self.timesteps = timesteps
        alpha_bar = cosine_alpha_bar(timesteps)
        sigma = geometric_sigma(timesteps, *sigma_range)
        scale = torch.cat([torch.ones(1, dtype=torch.float64), mean_square_score(sigma[1:]).sqrt()])
        # the sampler's arithmetic is on single numbers: Python's doubles, which need no transfer from a GPU
        self._alpha_bar: list[float] = alpha_bar.tolist()
        self._sigma: list[float] = sigma.tolist()
        self._score_scale: list[float] = scale.tolist()
        for name, table in {
            "sqrt_alpha_bar": alpha_bar.sqrt(),
            "lattice_deviation": (1.0 - alpha_bar).sqrt(),
            "sigma": sigma,
            "score_scale": scale,
        }.items():
            self.register_buffer(name, table.float(), persistent=False)

    def steps_of(self, time: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Step in 1 ... T of times in [0, 1]: ((t - 1)/T, t/T] is step t, so uniform times draw each step equally."""
        return torch.ceil(time * self.timesteps - _ROUNDING).long().clamp(1, self.timesteps)

    def noised(
        self, clean: State, time: Float[Tensor, " b"], atomic_numbers: Tensor, mask: Tensor, noise: NoiseSource
    ) -> Noised:
        """The crystals at the step of ``time``; the targets are the lattice's noise and the normalised score."""
        del atomic_numbers
        steps = self.steps_of(time)
        epsilon = noise.normal(clean.lattice.shape[1])
        lattice = self.sqrt_alpha_bar[steps][:, None] * clean.lattice + self.lattice_deviation[steps][:, None] * epsilon
        sigma, real = self.sigma[steps][:, None, None], mask[..., None]
        offset = sigma * noise.normal(mask.shape[1], 3)
        score = wrapped_normal_score(offset, sigma) / self.score_scale[steps][:, None, None]
        state = State(exp_map(clean.frac_coords, offset) * real, lattice)
        return Noised(state, steps.to(time.dtype) / self.timesteps, Prediction(score * real, epsilon))

    def loss(self, prediction: Prediction, noised: Noised, mask: Bool[Tensor, "b n"]) -> Losses:
        """Mean square errors; every crystal weighs the same, whatever its number of atoms."""
        coords = masked_squares(prediction.frac_coords - noised.target.frac_coords, mask).mean()
        lattice = (prediction.lattice - noised.target.lattice).square().mean()
        return Losses(self.coordinate_weight * coords + self.lattice_weight * lattice, coords, lattice)

    def prior(self, mask: Bool[Tensor, "b n"], noise: NoiseSource, symmetry: Symmetry | None = None) -> State:
        """Uniform coordinates, standard normal lattice numbers."""
        del symmetry
        coords = noise.uniform(mask.shape[1], 3) * mask[..., None]
        return State(coords, noise.normal(self.representation.dimension))

    def times(self, steps: int) -> list[float]:
        """The middles of ``steps`` even parts of [0, 1], rounded up to whole steps, and 0; T, T - 1, ... 0 if all.

        The prior stands in for the first middle, where little of the data is left. A long jump must not start at T
        itself: alpha_bar is 2e-10 there (T = 1000), so that the jump multiplies the network's error by 100 times its
        length in steps. Measured on a normal target: noise wrong by 2 % gives, with 20 even steps from T, lattice
        numbers spread by 8.5 instead of 1, and with these times 0.90, just as a perfect network does.

        Raises:
            InputError: more steps than the model has.

        """
        if steps > self.timesteps:
            raise InputError(f"sampler steps must be at most the {self.timesteps} of this diffusion model, got {steps}")
        middles = range(2 * steps - 1, 0, -2)
        return [-(-self.timesteps * middle // (2 * steps)) / self.timesteps for middle in middles] + [0.0]

    def evaluations_per_step(self, method: str) -> int:
        """Predictor and corrector; in the paper's order the last step saves its corrector, which would not move."""
        del method
        return 2

    def clean(self, said: Prediction, state: State, t: float, mask: Bool[Tensor, "b n"]) -> State:
        """Tweedie's formula: the noise taken out of the lattice, the coordinates moved by sigma^2 times their score."""
        now = round(t * self.timesteps)
        alpha_bar = self._alpha_bar[now]
        lattice = (state.lattice - math.sqrt(1.0 - alpha_bar) * said.lattice) / math.sqrt(alpha_bar)
        move = self._sigma[now] ** 2 * self._score_scale[now] * said.frac_coords
        return State((state.frac_coords + move) * mask[..., None], lattice)

    def guidance_scales(self, t: float, *, of_clean: bool) -> tuple[float, float]:
        """-1 / (scale of the score) for coordinates and sqrt(1 - alpha_bar) for the lattice's noise, times J."""
        now = round(t * self.timesteps)
        data, coords = math.sqrt(self._alpha_bar[now]), -1.0 / self._score_scale[now]
        lattice = math.sqrt(1.0 - self._alpha_bar[now])
        if not of_clean:
            return coords, lattice * min(1.0, data / LEAST_DATA)
        # first Fourier coefficient of the wrapped normal; a^2 + b^2 = 1
        return coords * math.exp(-2.0 * (math.pi * self._sigma[now]) ** 2), lattice * data

    def step(
        self,
        denoise: Denoiser,
        state: State,
        t: float,
        t_next: float,
        mask: Bool[Tensor, "b n"],
        noise: NoiseSource,
        settings: SamplerSettings,
    ) -> State:
        """One Langevin step of the coordinates and one ancestral step of both, in either order.

        As in the published code, correction at ``t`` and then prediction; with ``corrector_first`` off, as in the
        paper's Algorithm 1, prediction and then correction at ``t_next``. Between times that are not neighbours the
        posterior of the whole jump is drawn from. Algorithm 1 prints the corrector's step with sigma_t / sigma_1; the
        square, which Langevin dynamics needs to shake all noise levels alike, is the code's.
        """
        now, after = round(t * self.timesteps), round(t_next * self.timesteps)
        if settings.corrector_first:
            state = self._correct(denoise, state, now, mask, noise, settings.corrector_step, last=after == 0)
            return self._predict(denoise, state, now, after, mask, noise)
        state = self._predict(denoise, state, now, after, mask, noise)
        if after == 0:
            return state
        return self._correct(denoise, state, after, mask, noise, settings.corrector_step, last=False)

    def _correct(
        self,
        denoise: Denoiser,
        state: State,
        now: int,
        mask: Tensor,
        noise: NoiseSource,
        unit: float,
        *,
        last: bool,
    ) -> State:
        """Langevin step of the coordinates at one noise level; ``last``: without noise."""
        size = unit * (self._sigma[now] / self._sigma[1]) ** 2
        score = self._score_scale[now] * denoise(state, full_time(now / self.timesteps, state.lattice)).frac_coords
        move = size * score
        if not last:
            move = move + math.sqrt(2.0 * size) * noise.normal(mask.shape[1], 3)
        return State(wrap(state.frac_coords + move) * mask[..., None], state.lattice)

    def _predict(
        self, denoise: Denoiser, state: State, now: int, after: int, mask: Tensor, noise: NoiseSource
    ) -> State:
        """Draw from the posterior of step ``after`` given step ``now`` and the data that the network sees behind it."""
        said = denoise(state, full_time(now / self.timesteps, state.lattice))
        alpha_bar, alpha_bar_after = self._alpha_bar[now], self._alpha_bar[after]
        alpha = alpha_bar / alpha_bar_after
        beta = 1.0 - alpha
        lattice = (state.lattice - beta / math.sqrt(1.0 - alpha_bar) * said.lattice) / math.sqrt(alpha)
        variance, variance_after = self._sigma[now] ** 2, self._sigma[after] ** 2
        move = (variance - variance_after) * self._score_scale[now] * said.frac_coords
        if after > 0:
            lattice = lattice + math.sqrt(beta * (1.0 - alpha_bar_after) / (1.0 - alpha_bar)) * noise.normal(
                lattice.shape[1]
            )
            deviation = math.sqrt(variance_after * (variance - variance_after) / variance)
            move = move + deviation * noise.normal(mask.shape[1], 3)
        return State(wrap(state.frac_coords + move) * mask[..., None], lattice)
