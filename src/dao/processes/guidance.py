"""Guided sampling: crystals drawn not from q(M) but from p(M) ~ q(M) exp(-s E(M)) (paper section 4.5, Algorithm 1).

With q_t the generator's density at time t and E_t(M_t) = -log E[exp(-E(M)) | M_t] the intermediate energy, which the
predictor learns, the guided score is (eq. 11)

    grad log p_t = grad log q_t - s grad E_t,    s = 1 exact for E_t, other strengths sharpen or soften.

:func:`guided` changes what a network says of a state so that it stands for p_t, and no process need know of it.

**Diffusion.** The network says the lattice's noise, -sqrt(1 - alpha_bar) times its score, and the coordinates' score
over its scale: both follow from eq. 11 as it stands. Algorithm 1 prints the gradient times the variance of the
posterior of one step instead. For neighbouring steps that is the same to first order; for jumps over many steps only
the score's form gives the mean of the clean crystal that p has (Tweedie's formula). The corrector, which Algorithm 1
leaves alone, walks in the same guided density here.

**Flow, lattice.** x_t = (1 - t) x_0 + t e with normal e, so that the score is -E[e | x_t] / t, and the velocity
u = E[e - x_0 | x_t] = -(x_t + t score) / (1 - t). The guided velocity is therefore u + s t / (1 - t) grad E_t.

**Near pure noise** grad E_t vanishes with the data's share of the state, in truth but not in a network, and is divided
by that share on the way to the clean lattice: ``dao.processes.base.LEAST_DATA`` bounds the division for both processes.

**Flow, coordinates.** x_t = x_0 + t d on the torus. With uniform noise d is uniform in a box, whose edges have no
score. The approximation: d is taken for a normal of the same variance w = 1/12 that is independent of x_0 (the
assignment by element makes this untrue, too). Then the score is -u / (t w), as of any noise that is added, and the
guided velocity u + s t w grad E_t.

**Energies of clean crystals.** Noised states that keep a symmetry are nothing a predictor was trained on, and no more
are those of another process or lattice representation; a target value has no intermediate energy. There E_t(x_t) is
approximated by E_0 of the clean crystal x^ that the generator sees behind x_t, and its gradient by J grad E_0(x^). In
truth J = dx^/dx_t; it is replaced by what follows without differentiating the generator from data of unit variance
for the lattice numbers (Gaussian data: J = a / (a^2 + b^2) for x_t = a x_0 + b e), and for coordinates by the length of
the noise's first Fourier coefficient, which falls from 1 without noise to 0 where the noise is uniform.

**Symmetry.** A symmetric flow's noise lives in the free coordinates and the free lattice numbers, so the gradient is
taken with respect to these: pulled back from every atom of an orbit, summed, and expanded again.

**Bound.** For each crystal the addition is at most as large (root mean square) as what the network says on average,
direction kept: an energy's gradient at two atoms in one place must not decide a walk.

Shapes: B crystals, N atoms (padded), K numbers of the lattice representation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dao.crystal import CrystalBatch
from dao.errors import InputError
from dao.processes.base import Denoiser, Prediction, Process, State
from dao.processes.config import ProcessConfig

LARGEST_METRIC = 1e8
"""A^2; of cells beyond no energy is asked."""


@runtime_checkable
class Objective(Protocol):
    """What guidance lowers: any differentiable number of a crystal, in units in which 1 is a usual difference."""

    def knows_noise_of(self, process: ProcessConfig) -> bool:
        """Whether :meth:`value` is trained on crystals noised by that process, or else on clean ones only."""
        ...

    def value(self, batch: CrystalBatch, time: float) -> Tensor:
        """(B,) for crystals noised to ``time`` (0: clean), a crystal's independent of the others of its batch."""
        ...

    def record(self) -> dict[str, Any]:
        """What the value depends on, as JSON: samples made by another are not mixed."""
        ...


@dataclass(frozen=True)
class Guidance:
    """An objective and how strongly it is followed.

    Attributes:
        objective: what to lower.
        strength: s of eq. 11; 0 is no guidance, a negative one raises the objective.

    Raises:
        InputError: a strength that is not finite.

    """

    objective: Objective
    strength: float

    def __post_init__(self) -> None:
        """Check the strength."""
        if not math.isfinite(self.strength):
            raise InputError(f"guidance strength must be a finite number, got {self.strength:g}")

    def record(self) -> dict[str, Any]:
        """What guided samples depend on, as JSON."""
        return {"strength": self.strength, **self.objective.record()}


def guided(
    guidance: Guidance,
    denoise: Denoiser,
    process: Process,
    decode: Callable[[State], CrystalBatch],
    mask: Bool[Tensor, "b n"],
    *,
    intermediate: bool,
) -> Denoiser:
    """What the network says, changed so that walking back by it draws from the guided density.

    Args:
        guidance: objective and strength.
        denoise: the network.
        process: its process.
        decode: from a state to the crystals that the objective sees; differentiable.
        mask: (B, N) the real atoms.
        intermediate: the objective is asked of the noised crystals, else of the clean ones behind them.

    """

    def walk(state: State, time: Tensor) -> Prediction:
        said = denoise(state, time)
        t = float(time[0])
        at = state if intermediate else process.clean(said, state, t, mask)
        by_coords, by_lattice = gradients(guidance.objective, decode, at, t if intermediate else 0.0)
        if state.symmetry is not None:
            by_coords = state.symmetry.along_free(by_coords)
            by_lattice = state.symmetry.project_lattice(by_lattice)
        coords_scale, lattice_scale = process.guidance_scales(t, of_clean=not intermediate)
        coords = guidance.strength * coords_scale * by_coords * mask[..., None]
        lattice = guidance.strength * lattice_scale * by_lattice
        return replace(
            said,
            frac_coords=said.frac_coords + bounded(coords, 3.0 * mask.sum(1).to(coords.dtype), process.coordinate_unit),
            lattice=said.lattice + bounded(lattice, torch.full_like(lattice[:, 0], lattice.shape[1]), 1.0),
        )

    return walk


def gradients(
    objective: Objective, decode: Callable[[State], CrystalBatch], state: State, time: float
) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b k"]]:
    """Gradient of the objective by fractional coordinates and lattice numbers, through whatever ``decode`` does."""
    with torch.enable_grad():
        coords = state.frac_coords.detach().clone().requires_grad_()
        lattice = state.lattice.detach().clone().requires_grad_()
        batch = decode(replace(state, frac_coords=coords, lattice=lattice))
        # early on, a cell may be so large that nothing can be said of it: there the generator walks on alone
        metric = batch.lattice @ batch.lattice.mT
        sound = (metric.abs() < LARGEST_METRIC).all(-1).all(-1) & coords.isfinite().all(-1).all(-1)
        cell = torch.where(sound[:, None, None], batch.lattice, torch.eye(3).to(metric))
        atoms = torch.where(sound[:, None, None], batch.frac_coords, torch.zeros_like(coords))
        value = objective.value(replace(batch, lattice=cell, frac_coords=atoms), time)
        by_coords, by_lattice = torch.autograd.grad(
            value.sum(), [coords, lattice], allow_unused=True, materialize_grads=True
        )
    # ... or so flat
    return (
        torch.nan_to_num(by_coords, nan=0.0, posinf=0.0, neginf=0.0),
        torch.nan_to_num(by_lattice, nan=0.0, posinf=0.0, neginf=0.0),
    )


def bounded(change: Float[Tensor, "b ..."], count: Float[Tensor, " b"], limit: float) -> Float[Tensor, "b ..."]:
    """Each crystal's ``change``, shortened where its root mean square over ``count`` numbers is above ``limit``."""
    size = (change.flatten(1).square().sum(1) / count).sqrt()
    factor = limit / size.clamp_min(limit)
    return change * factor.view(-1, *[1] * (change.dim() - 1))
