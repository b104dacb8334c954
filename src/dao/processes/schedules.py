"""Noise schedules of the diffusion process (paper section 4.1; Jiao et al., DiffCSP, 2023), as tables in float64.

Entry t of a table belongs to step t = 0 ... T and entry 0 to the data, which carry no noise.

Shapes: S = T + 1 steps, Q points of a quadrature.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dao.geometry.torus import wrapped_normal_log_density, wrapped_normal_score

COSINE_OFFSET = 0.008
"""s of the cosine schedule (Nichol & Dhariwal, 2021): keeps the first steps from being too small."""

BETA_RANGE = (1e-4, 0.9999)
"""Bounds of one step's variance: without the upper one the last step would divide by zero."""

QUADRATURE_POINTS = 256
TAIL = 12.0
"""Where the quadrature of a narrow wrapped normal ends, in standard deviations."""


def cosine_alpha_bar(timesteps: int) -> Float[Tensor, " s"]:
    """Share of the data's variance left at each step: cos^2(pi/2 (t/T + s)/(1 + s)), its betas clipped, entry 0 = 1."""
    t = torch.linspace(0.0, 1.0, timesteps + 1, dtype=torch.float64)
    ideal = torch.cos(0.5 * math.pi * (t + COSINE_OFFSET) / (1.0 + COSINE_OFFSET)).square()
    beta = (1.0 - ideal[1:] / ideal[:-1]).clamp(*BETA_RANGE)
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1.0 - beta, dim=0)])


def geometric_sigma(timesteps: int, sigma_min: float, sigma_max: float) -> Float[Tensor, " s"]:
    """Standard deviation of the coordinates (cell units): ``sigma_min`` at step 1, ``sigma_max`` at T, 0 at 0."""
    exponents = torch.linspace(math.log(sigma_min), math.log(sigma_max), timesteps, dtype=torch.float64)
    return torch.cat([torch.zeros(1, dtype=torch.float64), exponents.exp()])


def mean_square_score(sigma: Float[Tensor, " s"]) -> Float[Tensor, " s"]:
    """E (d log p / dx)^2 of the wrapped normal: 1 / lambda_t of the paper's eq. 4, for float64 ``sigma`` in (0, 1].

    The paper estimates it by Monte Carlo. Here it is a trapezoid sum, over the whole period where the density is wide
    and over 12 standard deviations either side where it is narrow; the integrand is smooth and periodic, or vanishes at
    both ends, so that the sum is exact to rounding.
    """
    half = (TAIL * sigma).clamp(max=0.5)
    points = torch.linspace(-1.0, 1.0, QUADRATURE_POINTS + 1, dtype=sigma.dtype)[:-1]
    x, sigma = half[:, None] * points, sigma[:, None]
    integrand = wrapped_normal_score(x, sigma).square() * wrapped_normal_log_density(x, sigma).exp()
    return integrand.mean(-1) * 2.0 * half
