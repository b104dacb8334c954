"""How a process sees the lattice: as the 3x3 matrix of the paper, or as six standardised rotation-free numbers.

Shapes: B crystals, N atoms (padded), K numbers a lattice.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dao.constants import MAX_ATOMIC_NUMBER
from dao.geometry.lattice import (
    composition_volume,
    fit_atomic_volumes,
    lattice_from_log_metric,
    log_metric,
    shift_log_volume,
    volume,
)

HEXAGONAL = -math.log(3.0) / 4.0
"""Entry 12 of log(L L^T) / 2 of a lattice with two equal axes at 120 degrees."""

FIXED_TOLERANCE = 1e-4
"""Off-diagonal entries so near to what a crystal system fixes are taken for fixed."""

LEAST_DEVIATION = 0.01
"""Smallest unit of a standardised lattice number: 1 % of a length; over MP-20 the numbers deviate by 0.14 to 0.28."""


class LatticeRepresentation(nn.Module, ABC):
    """Encodes lattices to K numbers and back; what it fits on the training set is saved with the model."""

    name: str
    dimension: int

    @abstractmethod
    def encode(self, lattice: Float[Tensor, "b 3 3"], atomic_numbers: Int[Tensor, "b n"]) -> Float[Tensor, "b k"]:
        """Numbers of row-vector lattices (A)."""

    @abstractmethod
    def decode(self, numbers: Float[Tensor, "b k"], atomic_numbers: Int[Tensor, "b n"]) -> Float[Tensor, "b 3 3"]:
        """Row-vector lattices (A) of those numbers."""

    @abstractmethod
    def features(self, numbers: Float[Tensor, "b k"], atomic_numbers: Int[Tensor, "b n"]) -> Float[Tensor, "b 6"]:
        """Six rotation-free numbers of order one that describe the lattice to the network."""

    def fit(self, lattice: Float[Tensor, "m 3 3"], element_counts: Float[Tensor, "m e"]) -> None:
        """Fit scalers on the training lattices; ``element_counts`` (M, 95) holds atoms of each element per crystal."""
        del lattice, element_counts


class MatrixLattice(LatticeRepresentation):
    """The 3x3 lattice as it is, as in the paper: nothing is fitted."""

    name = "matrix"
    dimension = 9

    def encode(self, lattice: Tensor, atomic_numbers: Tensor) -> Tensor:
        """Flatten."""
        del atomic_numbers
        return lattice.flatten(1)

    def decode(self, numbers: Tensor, atomic_numbers: Tensor) -> Tensor:
        """Unflatten."""
        del atomic_numbers
        return numbers.reshape(-1, 3, 3)

    def features(self, numbers: Tensor, atomic_numbers: Tensor) -> Tensor:
        """Entries of L L^T in units of 10 A^2 (noised lattices may be singular, so no logarithm)."""
        lattice = self.decode(numbers, atomic_numbers)
        gram = lattice @ lattice.mT
        return gram[..., (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)] / 10.0


class LogMetricLattice(LatticeRepresentation):
    """``log_metric`` less the volume expected from the composition, standardised over the training set.

    The diagonal of K is reduced by (1/3) log V0, where V0 sums a volume per element fitted to the training set, so that
    only the cell's shape and a small correction of its volume are left to predict.
    """

    name = "log_metric"
    dimension = 6

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("atomic_volumes", torch.zeros(MAX_ATOMIC_NUMBER + 1))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("deviation", torch.ones(6))

    atomic_volumes: Tensor
    mean: Tensor
    deviation: Tensor

    def fit(self, lattice: Tensor, element_counts: Tensor) -> None:
        """Least squares for the volumes per element, then mean and deviation of each number.

        A number that does not vary (every crystal cubic, or a single crystal) gets the deviation ``LEAST_DEVIATION``.
        """
        volumes = fit_atomic_volumes(element_counts[:, 1:], volume(lattice))
        self.atomic_volumes[1:] = volumes.to(self.atomic_volumes)
        log_volume = torch.log(element_counts.to(self.atomic_volumes) @ self.atomic_volumes)
        numbers = shift_log_volume(log_metric(lattice.double()), -log_volume.double())
        self.mean.copy_(numbers.mean(0))
        self.deviation.copy_(numbers.std(0, correction=0).clamp_min(LEAST_DEVIATION))

    def _log_volume(self, atomic_numbers: Tensor) -> Tensor:
        return torch.log(composition_volume(self.atomic_volumes, atomic_numbers))

    def encode(self, lattice: Tensor, atomic_numbers: Tensor) -> Tensor:
        """Standardised log-metric relative to the composition's volume."""
        return (shift_log_volume(log_metric(lattice), -self._log_volume(atomic_numbers)) - self.mean) / self.deviation

    def decode(self, numbers: Tensor, atomic_numbers: Tensor) -> Tensor:
        """The symmetric lattice of those numbers."""
        return lattice_from_log_metric(
            shift_log_volume(numbers * self.deviation + self.mean, self._log_volume(atomic_numbers))
        )

    def features(self, numbers: Tensor, atomic_numbers: Tensor) -> Tensor:
        """The numbers themselves."""
        del atomic_numbers
        return numbers


class ConventionalLogMetricLattice(LogMetricLattice):
    """``log_metric`` of the conventional cell, whose crystal system leaves a linear space of it free.

    Equal axes must stay equal numbers and right angles zero, so the three diagonal numbers share one mean and one
    deviation, and the off-diagonal ones a deviation about zero. The volume, the sum of the diagonal, follows from the
    composition far better than shapes do: it has a deviation of its own, or noise of the shapes' size would drown it.
    Numbers belong to conventional cells here; lattices outside are primitive, ``primitive = cell @ conventional``.
    """

    name = "conventional_log_metric"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("volume_deviation", torch.ones(()))

    volume_deviation: Tensor
    """Of the mean of the three diagonal numbers, times sqrt(3): one unit of it is one unit of a diagonal direction."""

    def fit(self, lattice: Tensor, element_counts: Tensor) -> None:
        """Volumes per element, then scalers, from lattices that are conventional and counts of conventional cells."""
        volumes = fit_atomic_volumes(element_counts[:, 1:], volume(lattice))
        self.atomic_volumes[1:] = volumes.to(self.atomic_volumes)
        log_volume = torch.log(element_counts.to(self.atomic_volumes) @ self.atomic_volumes)
        numbers = shift_log_volume(log_metric(lattice.double()), -log_volume.double())
        diagonal, angles = numbers[:, :3], numbers[:, 3:]
        free = angles[(angles.abs() > FIXED_TOLERANCE) & ((angles - HEXAGONAL).abs() > FIXED_TOLERANCE)]
        spread = free.square().mean().sqrt() if len(free) else torch.zeros(())
        self.mean[:3], self.mean[3:] = diagonal.mean(), 0.0
        along, across = 3.0**0.5 * diagonal.mean(1), diagonal - diagonal.mean(1, keepdim=True)
        self.volume_deviation.copy_(along.std(correction=0).clamp_min(LEAST_DEVIATION))
        # two of three directions are left for the shape
        self.deviation[:3] = across.square().sum(1).mean().div(2.0).sqrt().clamp_min(LEAST_DEVIATION)
        self.deviation[3:] = spread.clamp_min(LEAST_DEVIATION)

    def encode_primitive(self, lattice: Tensor, atomic_numbers: Tensor, cell: Tensor) -> Tensor:
        """Numbers of the conventional cells of primitive row-vector lattices (A)."""
        conventional = torch.linalg.solve(cell, lattice)
        k = shift_log_volume(log_metric(conventional), self._cell_shift(atomic_numbers, cell))
        return self._volume_scaled((k - self.mean) / self.deviation, self.deviation[0] / self.volume_deviation)

    def decode_primitive(self, numbers: Tensor, atomic_numbers: Tensor, cell: Tensor) -> Tensor:
        """Primitive row-vector lattices (A) of those numbers."""
        numbers = self._volume_scaled(numbers, self.volume_deviation / self.deviation[0])
        k = shift_log_volume(numbers * self.deviation + self.mean, -self._cell_shift(atomic_numbers, cell))
        return cell @ lattice_from_log_metric(k)

    @staticmethod
    def _volume_scaled(numbers: Tensor, factor: Tensor) -> Tensor:
        """The mean of the diagonal numbers times ``factor``, their differences as they are."""
        shift = torch.zeros_like(numbers)
        shift[..., :3] = (factor - 1.0) * numbers[..., :3].mean(-1, keepdim=True)
        return numbers + shift

    def _cell_shift(self, atomic_numbers: Tensor, cell: Tensor) -> Tensor:
        return volume(cell).log() - self._log_volume(atomic_numbers)


REPRESENTATIONS: dict[str, type[LatticeRepresentation]] = {
    representation.name: representation
    for representation in (MatrixLattice, LogMetricLattice, ConventionalLogMetricLattice)
}
