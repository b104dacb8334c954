"""The torus [0, 1)^3 on which fractional coordinates live, and the wrapped normal distribution on it.

All functions act element by element, so any shape is accepted. The wrapped normal's infinite sum over lattice
translations is truncated to ``IMAGES`` terms on either side of the offset reduced to [-1/2, 1/2]. The density then
integrates to erf((IMAGES + 1/2) / (sqrt(2) sigma)) and, relative to its sum, lacks less than twice
exp(-IMAGES (IMAGES + 1) / (2 sigma^2)) at any point: 1.4e-12 at sigma = 1 and 5e-49 at 0.5 (the paper's largest). A
larger sigma, uniform to 6e-9, is rejected rather than computed badly.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

IMAGES = 7
"""Periodic images on either side that the wrapped normal sums over."""

MAX_SIGMA = 1.0
"""Largest standard deviation (in cell units) for which the truncated sum is accurate; see the module docstring."""


def wrap(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Fractional coordinates reduced to [0, 1)."""
    wrapped = x - x.floor()
    # x = -1e-9 rounds up to exactly 1 in float32
    return torch.where(wrapped >= 1.0, torch.zeros_like(wrapped), wrapped)


def log_map(origin: Float[Tensor, "*#s"], target: Float[Tensor, "*#s"]) -> Float[Tensor, "*#s"]:
    """Shortest displacement from ``origin`` to ``target`` (broadcast) on the torus, each component in [-1/2, 1/2]."""
    difference = target - origin
    return difference - difference.round()


def exp_map(origin: Float[Tensor, "*s"], displacement: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The point reached from ``origin`` by ``displacement``, in [0, 1)."""
    return wrap(origin + displacement)


def _shifted(x: Tensor) -> Tensor:
    """Offsets from the periodic images of the mean, on a new last axis; ``x`` is reduced to [-1/2, 1/2] first."""
    images = torch.arange(-IMAGES, IMAGES + 1, dtype=x.dtype, device=x.device)
    return (x - x.round())[..., None] + images


def _check_sigma(sigma: Tensor) -> None:
    if bool((sigma > MAX_SIGMA).any()) or bool((sigma <= 0).any()):
        msg = f"wrapped normal needs 0 < sigma <= {MAX_SIGMA}, got {float(sigma.min()):g} to {float(sigma.max()):g}"
        raise ValueError(msg)


def wrapped_normal_log_density(x: Float[Tensor, "*s"], sigma: Float[Tensor, "*#s"]) -> Float[Tensor, "*s"]:
    """Log density at offset ``x`` from the mean of a wrapped normal on [0, 1) (paper eq. 2).

    Raises:
        ValueError: ``sigma`` outside (0, MAX_SIGMA].

    """
    _check_sigma(sigma)
    exponent = -(_shifted(x) ** 2) / (2.0 * sigma[..., None] ** 2)
    return torch.logsumexp(exponent, dim=-1) - torch.log(sigma) - 0.5 * math.log(2.0 * math.pi)


def wrapped_normal_score(x: Float[Tensor, "*s"], sigma: Float[Tensor, "*#s"]) -> Float[Tensor, "*s"]:
    """Derivative of :func:`wrapped_normal_log_density` with respect to ``x``.

    Raises:
        ValueError: ``sigma`` outside (0, MAX_SIGMA].

    """
    _check_sigma(sigma)
    shifted = _shifted(x)
    weights = torch.softmax(-(shifted**2) / (2.0 * sigma[..., None] ** 2), dim=-1)
    return -(weights * shifted).sum(-1) / sigma**2


def remove_mean(displacement: Float[Tensor, "b n 3"], mask: Float[Tensor, "b n"]) -> Float[Tensor, "b n 3"]:
    """Displacements less their mean over the real atoms (mask 1), zero on padding (mask 0): no overall translation."""
    mean = (displacement * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    return (displacement - mean) * mask[..., None]
