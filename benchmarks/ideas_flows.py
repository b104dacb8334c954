"""Training targets, times and lattice representations that ``benchmarks/ideas.py`` measures.

A class that wins moves to ``src/dao`` as it is. Shapes: B crystals, N atoms (padded).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dao.geometry.lattice import fit_atomic_volumes, lattice_from_parameters, lattice_parameters, log_metric, volume
from dao.geometry.torus import exp_map, log_map, remove_mean, wrap
from dao.models import Generator
from dao.processes.base import Losses, Noised, NoiseSource, Prediction, State, full_time, masked_squares
from dao.processes.flow import UNIFORM_VARIANCE, Flow, assign_by_element, velocity_scale
from dao.processes.representations import LEAST_DEVIATION, LogMetricLattice

if TYPE_CHECKING:
    from dao.processes.base import Denoiser
    from dao.processes.config import SamplerSettings


LEAST_TIME = 0.05


class DataPrediction(Generator):
    """The heads say how far the data are and what the clean lattice is; the loss is of the velocities that follow."""

    def forward(
        self, atomic_numbers: Tensor, mask: Tensor, state: State, time: Tensor, space_group: Tensor | None = None
    ) -> Prediction:
        clean = super().forward(atomic_numbers, mask, state, time, space_group)
        t = time.clamp_min(LEAST_TIME)
        return Prediction(
            clean.frac_coords / t[:, None, None],
            (state.lattice - clean.lattice) / t[:, None],
            clean.space_group_logits,
        )


class DataLossFlow(Flow):
    """Trains on errors of the data instead of the velocity: weight 3 t^2 (mean 1)."""

    def loss(self, prediction: Prediction, noised: Noised, mask: Tensor) -> Losses:
        if not self.training:
            return super().loss(prediction, noised, mask)
        velocity = remove_mean(prediction.frac_coords, mask.to(prediction.frac_coords.dtype))
        weight = 3.0 * noised.time.square()
        coords = (weight * masked_squares(velocity - noised.target.frac_coords, mask)).mean() / UNIFORM_VARIANCE
        lattice = (weight[:, None] * (prediction.lattice - noised.target.lattice).square()).mean()
        return Losses(self.coordinate_weight * coords + self.lattice_weight * lattice, coords, lattice)


class TimedFlow(Flow):
    """Training times drawn as ``quantile(u)`` instead of u; pure noise (t = 1) stays."""

    quantile: Callable[[Tensor], Tensor]

    def noised(self, clean: State, time: Tensor, atomic_numbers: Tensor, mask: Tensor, noise: NoiseSource) -> Noised:
        if self.training:
            time = torch.where(time < 1.0, self.quantile(time).clamp(0.0, 1.0), time)
        return super().noised(clean, time, atomic_numbers, mask, noise)


def logit_normal(u: Tensor) -> Tensor:
    return torch.sigmoid(2.0**0.5 * torch.erfinv((2.0 * u - 1.0).clamp(-0.999999, 0.999999)))


def near_data(u: Tensor) -> Tensor:
    """Density falling as t^(-1/3): mean time 0.4."""
    return u**1.5


def near_noise(u: Tensor) -> Tensor:
    return 1.0 - (1.0 - u) ** 1.5


class MeanKeptFlow(Flow):
    """Target and prediction keep the common translation of all atoms."""

    def noised(self, clean: State, time: Tensor, atomic_numbers: Tensor, mask: Tensor, noise: NoiseSource) -> Noised:
        end = self.prior(mask, noise)
        end_coords = end.frac_coords
        if self.assignment == "element":
            end_coords = assign_by_element(clean.frac_coords, end_coords, atomic_numbers)
        displacement = log_map(clean.frac_coords, end_coords) * mask[..., None]
        velocity = end.lattice - clean.lattice
        state = State(
            exp_map(clean.frac_coords, time[:, None, None] * displacement), clean.lattice + time[:, None] * velocity
        )
        return Noised(state, time, Prediction(displacement, velocity))

    def loss(self, prediction: Prediction, noised: Noised, mask: Tensor) -> Losses:
        coords = masked_squares(prediction.frac_coords - noised.target.frac_coords, mask).mean() / UNIFORM_VARIANCE
        lattice = (prediction.lattice - noised.target.lattice).square().mean()
        return Losses(self.coordinate_weight * coords + self.lattice_weight * lattice, coords, lattice)

    def step(
        self,
        denoise: Denoiser,
        state: State,
        t: float,
        t_next: float,
        mask: Tensor,
        noise: NoiseSource,
        settings: SamplerSettings,
    ) -> State:
        del noise
        v = denoise(state, full_time(t, state.lattice))
        length = (t - t_next) * velocity_scale(settings.coordinate_velocity_scale, t, t - t_next)
        return State(
            wrap(state.frac_coords - length * v.frac_coords) * mask[..., None],
            state.lattice - (t - t_next) * v.lattice,
        )


# --- lattice ---------------------------------------------------------------------------------------------------------


class WithoutVolume(LogMetricLattice):
    """``log_metric`` standardised as it is: the composition says nothing of the volume."""

    def fit(self, lattice: Tensor, element_counts: Tensor) -> None:
        del element_counts
        numbers = log_metric(lattice.double())
        self.mean.copy_(numbers.mean(0))
        self.deviation.copy_(numbers.std(0, correction=0).clamp_min(LEAST_DEVIATION))

    def _log_volume(self, atomic_numbers: Tensor) -> Tensor:
        return torch.zeros(atomic_numbers.shape[0], device=atomic_numbers.device)


class LengthsAndAngles(LogMetricLattice):
    """Logarithms of the lengths less (1/3) log V0, and the angles in degrees, standardised."""

    def fit(self, lattice: Tensor, element_counts: Tensor) -> None:
        volumes = fit_atomic_volumes(element_counts[:, 1:], volume(lattice))
        self.atomic_volumes[1:] = volumes.to(self.atomic_volumes)
        log_volume = torch.log(element_counts.to(self.atomic_volumes) @ self.atomic_volumes)
        numbers = self._numbers(lattice, log_volume).double()
        self.mean.copy_(numbers.mean(0))
        self.deviation.copy_(numbers.std(0, correction=0).clamp_min(LEAST_DEVIATION))

    @staticmethod
    def _numbers(lattice: Tensor, log_volume: Tensor) -> Tensor:
        lengths, angles = lattice_parameters(lattice)
        return torch.cat([lengths.log() - log_volume[:, None] / 3.0, angles], dim=-1)

    def encode(self, lattice: Tensor, atomic_numbers: Tensor) -> Tensor:
        return (self._numbers(lattice, self._log_volume(atomic_numbers)) - self.mean) / self.deviation

    def decode(self, numbers: Tensor, atomic_numbers: Tensor) -> Tensor:
        numbers = numbers * self.deviation + self.mean
        lengths = (numbers[:, :3].clamp(-3.0, 3.0) + self._log_volume(atomic_numbers)[:, None] / 3.0).exp()
        # between such angles a cell with angles of the data always exists, and nearly always one of noise
        lattice = lattice_from_parameters(lengths, numbers[:, 3:].clamp(45.0, 135.0))
        floor = torch.zeros_like(lattice)
        floor[:, 2, 2] = (0.1 * lengths[:, 2] - lattice[:, 2, 2]).clamp_min(0.0)
        return lattice + floor
