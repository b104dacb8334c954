"""The small interface behind which diffusion and flow stand: noise a crystal, score a prediction, take a reverse step.

Time t runs from 0 = data to 1 = noise for every process. A network never sees a process: it is handed to
:meth:`Process.step` as a function ``denoise(state, t) -> Prediction``.

Shapes: B crystals, N atoms (padded), K numbers of the lattice representation (9 or 6).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dao.processes.config import SamplerSettings
from dao.processes.representations import LatticeRepresentation
from dao.processes.symmetry import Symmetry


@dataclass(frozen=True)
class State:
    """A batch of crystals on their way: coordinates on the torus and the lattice in its representation."""

    frac_coords: Float[Tensor, "b n 3"]
    lattice: Float[Tensor, "b k"]
    symmetry: Symmetry | None = None
    """What a symmetric process keeps; None for the others."""

    @property
    def known_symmetry(self) -> Symmetry:
        """The symmetry, where the process is a symmetric one."""
        assert self.symmetry is not None  # noqa: S101 -- a slip of ours, never of a user's
        return self.symmetry


@dataclass(frozen=True)
class Prediction:
    """What a network says of a state, in its shapes; the meaning (noise, score, velocity) is the process's."""

    frac_coords: Float[Tensor, "b n 3"]
    lattice: Float[Tensor, "b k"]
    space_group_logits: Float[Tensor, "b s"] | None = None
    energy: Float[Tensor, " b"] | None = None
    """A predictor's standardised energy of the noised crystals."""
    error: Float[Tensor, " b"] | None = None
    """How far off that energy is expected to be, in the same units, from a predictor that says so."""
    auxiliary: Float[Tensor, " b"] | None = None
    """Standardised second label of a predictor that has one."""


LEAST_DATA = 0.1
"""Least share of the data in a state (1 - t of the flow, sqrt(alpha_bar) of diffusion) for which guidance by an
intermediate energy is followed in full: below it, the error of the energy's gradient would outweigh the gradient."""

Denoiser = Callable[[State, Tensor], Prediction]


@dataclass(frozen=True)
class Noised:
    """A training example: the noised state, its time (B,), and what the network should have said."""

    state: State
    time: Float[Tensor, " b"]
    target: Prediction


@dataclass(frozen=True)
class Losses:
    """Weighted sum and its parts, each the mean over crystals of a per-crystal mean of squares."""

    total: Float[Tensor, ""]
    frac_coords: Float[Tensor, ""]
    lattice: Float[Tensor, ""]


@runtime_checkable
class NoiseSource(Protocol):
    """Random numbers for a batch; the sampler's source gives each crystal a stream of its own."""

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers of shape (B, *shape)."""
        ...

    def uniform(self, *shape: int) -> Tensor:
        """Numbers uniform in [0, 1) of shape (B, *shape)."""
        ...


class Process(nn.Module, ABC):
    """Forward noising, training target and reverse steps of one generative process."""

    name: str
    methods: tuple[str, ...]
    """Samplers, the default first."""
    coordinate_unit: float = 1.0
    """Root mean square of what a network is asked to say of the coordinates; of the lattice it is of order one."""

    def __init__(self, representation: LatticeRepresentation) -> None:
        super().__init__()
        self.representation = representation

    @abstractmethod
    def noised(
        self, clean: State, time: Float[Tensor, " b"], atomic_numbers: Tensor, mask: Tensor, noise: NoiseSource
    ) -> Noised:
        """Noise clean crystals to ``time`` (B,) in [0, 1]: the noised state and its training target."""

    @abstractmethod
    def loss(self, prediction: Prediction, noised: Noised, mask: Bool[Tensor, "b n"]) -> Losses:
        """Loss of a prediction for a noised batch."""

    @abstractmethod
    def prior(self, mask: Bool[Tensor, "b n"], noise: NoiseSource, symmetry: Symmetry | None = None) -> State:
        """The state at t = 1, within ``symmetry`` where the process keeps one."""

    def calmed(self, prior: State, settings: SamplerSettings) -> State:
        """A draw of the prior, as a sampler starts from it: with as little noise as the settings say."""
        del settings
        return prior

    @abstractmethod
    def times(self, steps: int) -> list[float]:
        """``steps`` + 1 falling times from 1, or near it, down to 0."""

    @abstractmethod
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
        """One reverse step from ``t`` to ``t_next`` < ``t``."""

    @abstractmethod
    def clean(self, said: Prediction, state: State, t: float, mask: Bool[Tensor, "b n"]) -> State:
        """The state at t = 0 that ``said`` points to from ``state`` at ``t``: the mean of what may lie behind it."""

    @abstractmethod
    def guidance_scales(self, t: float, *, of_clean: bool) -> tuple[float, float]:
        """What is added to a prediction of coordinates and of the lattice at ``t`` for a unit gradient of the energy.

        Of the intermediate energy at ``t``, or ``of_clean`` of the energy of :meth:`clean`'s crystal; derived in
        :mod:`dao.processes.guidance`.
        """

    @abstractmethod
    def evaluations_per_step(self, method: str) -> int:
        """Network evaluations that one step of that sampler costs."""


def masked_squares(difference: Float[Tensor, "b n 3"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Mean square over the atoms and axes of each crystal."""
    weight = mask.to(difference.dtype)
    return (difference.square().sum(-1) * weight).sum(1) / (3.0 * weight.sum(1))


def full_time(t: float, like: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """The same time for every crystal of a batch."""
    return torch.full((like.shape[0],), t, dtype=like.dtype, device=like.device)
