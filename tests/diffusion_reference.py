"""What the tests of the diffusion share: its schedules from their formulae, a crystal, and a walk back."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dao.processes.base import Denoiser, NoiseSource, State
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
