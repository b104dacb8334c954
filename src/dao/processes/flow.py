"""Riemannian flow matching on lattice and torus (DESIGN 4.2; Miller et al., FlowMM, 2024; Chen & Lipman, 2024).

x_t runs along geodesics from the data (t = 0) to noise (t = 1): coordinates on the torus from uniform noise, lattice
numbers along straight lines from a standard normal. The network predicts the velocity dx/dt; a common translation of
all atoms is no information, so its mean is removed from target and prediction alike.

Shapes: B crystals, N atoms (padded), K numbers a lattice.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dao.errors import InputError
from dao.geometry.torus import exp_map, log_map, remove_mean, wrap
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
from dao.processes.symmetry import Symmetry

UNIFORM_VARIANCE = 1.0 / 12.0
"""Mean square of a coordinate of the log map between independent uniform points: what predicting zero would cost."""


class Flow(Process):
    """Geodesic flow matching with velocity scaling at sampling."""

    name = "flow"
    methods = METHODS["flow"]
    coordinate_unit = UNIFORM_VARIANCE**0.5

    def __init__(
        self,
        representation: LatticeRepresentation,
        *,
        coordinate_weight: float = 1.0,
        lattice_weight: float = 1.0,
        assignment: Literal["none", "element"] = "element",
    ) -> None:
        """Set the loss weights and how noise is paired with data.

        Args:
            representation: how the lattice is seen.
            coordinate_weight: weight of the coordinate loss, whose unit is the loss of predicting zero.
            lattice_weight: weight of the lattice loss (per standardised number).
            assignment: ``element`` pairs the noise with the data atoms of each element so that the sum of squared
                torus distances is least (equal atoms are interchangeable, so shorter paths cost nothing); ``none``
                pairs at random.

        """
        super().__init__(representation)
        if assignment not in ("none", "element"):
            msg = f"flow assignment {assignment!r} is not one of 'none', 'element'"
            raise InputError(msg)
        self.coordinate_weight = coordinate_weight
        self.lattice_weight = lattice_weight
        self.assignment = assignment

    def noised(
        self, clean: State, time: Float[Tensor, " b"], atomic_numbers: Tensor, mask: Tensor, noise: NoiseSource
    ) -> Noised:
        """The point at ``time`` on the geodesic to a draw of the prior, and the velocity there."""
        end = self.prior(mask, noise)
        end_coords = end.frac_coords
        if self.assignment == "element":
            end_coords = assign_by_element(clean.frac_coords, end_coords, atomic_numbers)
        displacement = log_map(clean.frac_coords, end_coords)
        frac_coords = exp_map(clean.frac_coords, time[:, None, None] * displacement)
        velocity = end.lattice - clean.lattice
        target = Prediction(remove_mean(displacement, mask.to(displacement.dtype)), velocity)
        return Noised(State(frac_coords, clean.lattice + time[:, None] * velocity), time, target)

    def loss(self, prediction: Prediction, noised: Noised, mask: Bool[Tensor, "b n"]) -> Losses:
        """Mean square error of the velocities."""
        velocity = remove_mean(prediction.frac_coords, mask.to(prediction.frac_coords.dtype))
        coords = masked_squares(velocity - noised.target.frac_coords, mask).mean() / UNIFORM_VARIANCE
        lattice = (prediction.lattice - noised.target.lattice).square().mean()
        return Losses(self.coordinate_weight * coords + self.lattice_weight * lattice, coords, lattice)

    def prior(self, mask: Bool[Tensor, "b n"], noise: NoiseSource, symmetry: Symmetry | None = None) -> State:
        """Uniform coordinates, standard normal lattice numbers."""
        del symmetry
        coords = noise.uniform(mask.shape[1], 3) * mask[..., None]
        return State(coords, noise.normal(self.representation.dimension))

    def times(self, steps: int) -> list[float]:
        """Even steps."""
        return [1.0 - i / steps for i in range(steps)] + [0.0]

    def evaluations_per_step(self, method: str) -> int:
        """One for Euler, two for midpoint."""
        return 2 if method == "midpoint" else 1

    def clean(self, said: Prediction, state: State, t: float, mask: Bool[Tensor, "b n"]) -> State:
        """Straight back along the velocity, which is all the way on a straight path."""
        velocity = remove_mean(said.frac_coords, mask.to(state.frac_coords.dtype))
        return replace(state, frac_coords=state.frac_coords - t * velocity, lattice=state.lattice - t * said.lattice)

    def guidance_scales(self, t: float, *, of_clean: bool) -> tuple[float, float]:
        """For coordinates t w and for the lattice t / (1 - t), times J where the energy is the clean crystal's."""
        return flow_guidance_scales(t, of_clean=of_clean)

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
        """Follow the velocity back from ``t`` to ``t_next``, by Euler's or the midpoint rule."""
        del noise
        weight = mask.to(state.frac_coords.dtype)
        dt = t - t_next

        def move(origin: State, at: State, time: float, length: float) -> State:
            v = denoise(at, full_time(time, at.lattice))
            coords_scale = velocity_scale(settings.coordinate_velocity_scale, time, dt)
            lattice_scale = velocity_scale(settings.lattice_velocity_scale, time, dt)
            return State(
                wrap(origin.frac_coords - length * coords_scale * remove_mean(v.frac_coords, weight)) * mask[..., None],
                origin.lattice - length * lattice_scale * v.lattice,
            )

        if settings.method == "midpoint":
            half = move(state, state, t, dt / 2.0)
            return move(state, half, t - dt / 2.0, dt)
        return move(state, state, t, dt)


def flow_guidance_scales(t: float, *, of_clean: bool) -> tuple[float, float]:
    """What guidance adds to the velocities of coordinates and lattice (:mod:`dao.processes.guidance`)."""
    if not of_clean:
        return t * UNIFORM_VARIANCE, t / max(1.0 - t, LEAST_DATA)
    # t d is uniform in a box of width t, whose first Fourier coefficient is sin(pi t) / (pi t)
    return math.sin(math.pi * t) / math.pi * UNIFORM_VARIANCE, t / ((1.0 - t) ** 2 + t**2)


def velocity_scale(s: float, t: float, dt: float) -> float:
    """1 + s (1 - t), but no more than takes a step of ``dt`` to where a straight path would end.

    On a straight path x - x_0 = t v, so a step of more than t v passes the data: unbounded, a large ``s`` makes the
    last 1 + s steps swing around it. The midpoint rule's half step, too, is bounded by the whole ``dt``: were it to
    reach the data, the velocity found there would be zero, and the step would go nowhere.
    """
    return min(1.0 + s * (1.0 - t), max(1.0, t / dt))


def assign_by_element(
    frac_coords: Float[Tensor, "b n 3"], noise: Float[Tensor, "b n 3"], atomic_numbers: Int[Tensor, "b n"]
) -> Float[Tensor, "b n 3"]:
    """Reorder the noise of each crystal, within each element, to the least sum of squared torus distances.

    The common translation is free too (the target's mean is removed): the noise is first shifted by the circular mean
    of its offsets from the data. Hungarian assignment per crystal on the CPU, about 15 microseconds each.
    """
    offset = (2.0 * torch.pi) * (noise - frac_coords)
    real = (atomic_numbers > 0)[..., None]
    shift = torch.atan2((offset.sin() * real).sum(1), (offset.cos() * real).sum(1)) / (2.0 * torch.pi)
    noise = wrap(noise - shift[:, None]) * real
    cost = log_map(frac_coords[:, :, None], noise[:, None]).square().sum(-1)
    cost = cost + 1e3 * (atomic_numbers[:, :, None] != atomic_numbers[:, None])
    table = cost.cpu().numpy()
    order = np.stack([linear_sum_assignment(one)[1] for one in table])
    return noise.gather(1, torch.from_numpy(order).to(noise.device)[..., None].expand(-1, -1, 3))
