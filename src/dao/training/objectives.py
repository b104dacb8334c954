"""What a training step minimises.

Shapes: B crystals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from dao.crystal import CrystalBatch
from dao.models import Generator, Predictor
from dao.processes.base import Noised, NoiseSource, Prediction, State
from dao.training.deformations import deformed, other_setting

if TYPE_CHECKING:
    from dao.recipes.schema import EnergyRecipe

UNKNOWN_SHARE = 0.3
"""Share of crystals whose space group is hidden from the network: it also works without, and learns to say it."""

PRIOR_SHARE = 0.5
"""Share of those that are pure noise (t = 1), where the space group must be told from the composition alone."""

SPACE_GROUP_WEIGHT = 0.1
"""Weight of the cross-entropy (nats, of the hidden ones) beside the process's losses."""

LARGEST_EXPONENT = 4.0
"""Exponent up to which the energy loss is exponential; exp(4) is 55 times the Boltzmann factor of the mean energy."""

HUBER_WIDTH = 0.1
"""Error of a clean energy, in standard deviations, from which on its loss grows linearly."""


@dataclass(frozen=True)
class Objective:
    """The loss to minimise and its parts, for the log."""

    total: Float[Tensor, ""]
    parts: dict[str, Tensor]


def generator_objective(model: Generator, batch: CrystalBatch, noise: NoiseSource) -> Objective:
    """The process's losses (paper eqs. 3 and 4), and the space group's cross-entropy where the network predicts it."""
    exact = torch.autocast(batch.lattice.device.type, enabled=False)  # geometry and targets are not rounded
    time = noise.uniform()
    space_group = None
    hidden = torch.ones_like(time, dtype=torch.bool)
    if model.space_group_head is not None:  # else none is known, or always (a symmetric process)
        draw = noise.uniform()
        hidden = draw < UNKNOWN_SHARE
        time = torch.where(draw < UNKNOWN_SHARE * PRIOR_SHARE, torch.ones_like(time), time)
        space_group = batch.labels["space_group"].masked_fill(hidden, 0)
    with exact:
        noised = model.process.noised(model.encode(batch), time, batch.atomic_numbers, batch.mask, noise)
    prediction = model(batch.atomic_numbers, batch.mask, noised.state, noised.time, space_group)
    with exact:
        losses = model.process.loss(prediction, noised, batch.mask)
    parts = {"coordinates": losses.frac_coords, "lattice": losses.lattice}
    total = losses.total
    if prediction.space_group_logits is not None:
        each = functional.cross_entropy(prediction.space_group_logits, batch.labels["space_group"], reduction="none")
        parts["space_group"] = (each * hidden).sum() / hidden.sum().clamp_min(1)
        total = total + SPACE_GROUP_WEIGHT * parts["space_group"]
    return Objective(total, parts)


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x) up to ``LARGEST_EXPONENT``, and its tangent beyond: once differentiable, increasing, never overflowing."""
    below = x.clamp_max(LARGEST_EXPONENT).exp()
    # relu, not clamp_min: at the bound itself only one of the two may have a slope
    return below * (1.0 + (x - LARGEST_EXPONENT).relu())


def exponential_energy_loss(energy: Float[Tensor, " b"], label: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """|exp(-f) - exp(-beta E_0)|^2 of each crystal (paper section 4.4), bounded so that its gradient stays finite.

    Over the crystals that a noised one may have been, its mean is least at f = -log E[exp(-beta E_0) | M_t], the
    intermediate energy. Bounding: beta E_0 counts as no less than -``LARGEST_EXPONENT``, and exp(-f) goes on along its
    tangent where f is below that. The mean of the bounded targets is then within the part of the curve that is still
    exponential, and as the continued curve increases, the minimiser is where it was; an f far too low is pulled back
    by a gradient that grows linearly. On the other side exp(-f) vanishes, which is harmless to the arithmetic, but
    energies that are all large look alike to this loss.

    Args:
        energy: f, a predictor's energy.
        label: beta E_0, standardised.

    """
    return (bounded_exp(-energy) - label.clamp_min(-LARGEST_EXPONENT).neg().exp()).square()


def predictor_objective(model: Predictor, batch: CrystalBatch, noise: NoiseSource, recipe: EnergyRecipe) -> Objective:
    """The process's losses of the noised crystals, and the energy's of noised and clean ones (paper section 4.4).

    A share of the batch, exact and drawn anew each time, stays clean (DESIGN 4.3). Crystals without a label take part
    in the noise losses alone.
    """
    exact = torch.autocast(batch.lattice.device.type, enabled=False)  # geometry and targets are not rounded
    time = noise.uniform()
    # one crystal at least is noised: there is no mean of noise losses over none
    place = noise.uniform().argsort().argsort()
    clean_count = min(round(recipe.clean_share * len(batch)), len(batch) - 1)
    clean = place < clean_count
    with exact:
        if recipe.other_settings:
            batch = other_setting(batch, noise)
        strain_energy = torch.zeros_like(time)
        if recipe.deformed_share:
            batch, strain_energy = deformed(batch, place < round(recipe.deformed_share * clean_count), noise)
        origin = model.encode(batch)
        noised = model.process.noised(origin, time, batch.atomic_numbers, batch.mask, noise)
    state = State(
        torch.where(clean[:, None, None], origin.frac_coords, noised.state.frac_coords),
        torch.where(clean[:, None], origin.lattice, noised.state.lattice),
    )
    time = torch.where(clean, torch.zeros_like(noised.time), noised.time)
    prediction = model(batch.atomic_numbers, batch.mask, state, time)
    with exact:
        losses = model.process.loss(*_rows(prediction, noised, ~clean), batch.mask[~clean])
        labels = batch.labels[model.config.label] + strain_energy
        known = labels.isfinite()
        label = model.config.beta * (labels.nan_to_num() - model.energy_mean) / model.energy_deviation
        assert prediction.energy is not None  # noqa: S101 -- a predictor always has one
        energy = exponential_energy_loss(prediction.energy, label)
        error = (prediction.energy - label).abs()
    parts = {
        "coordinates": losses.frac_coords,
        "lattice": losses.lattice,
        "energy": _mean(energy, known),
        "clean": _mean(_huber(prediction.energy, label), known & clean),
        "clean_mae": _mean(error * model.energy_deviation / model.config.beta, known & clean),
    }
    total = losses.total + recipe.weight * parts["energy"] + recipe.clean_weight * parts["clean"]
    if prediction.error is not None:
        parts["errors"] = _mean(absolute_error_loss(prediction.error, error.detach()), known & clean)
        total = total + parts["errors"]
    if prediction.auxiliary is not None and model.config.auxiliary is not None:
        second = (batch.labels[model.config.auxiliary] - model.auxiliary_mean) / model.auxiliary_deviation
        parts["auxiliary"] = _mean(
            _huber(prediction.auxiliary, second.nan_to_num()), second.isfinite() & clean & (strain_energy == 0)
        )
        total = total + recipe.auxiliary_weight * parts["auxiliary"]
    return Objective(total, parts)


def _huber(said: Float[Tensor, " b"], label: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    return functional.huber_loss(said, label, reduction="none", delta=HUBER_WIDTH) / HUBER_WIDTH


def absolute_error_loss(expected: Float[Tensor, " b"], error: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """|e| / c + log c, whose mean is least where c is the mean absolute error (Laplace's likelihood)."""
    return error / expected + expected.log()


def _rows(prediction: Prediction, noised: Noised, rows: Bool[Tensor, " b"]) -> tuple[Prediction, Noised]:
    target = Prediction(noised.target.frac_coords[rows], noised.target.lattice[rows])
    state = State(noised.state.frac_coords[rows], noised.state.lattice[rows])
    said = Prediction(prediction.frac_coords[rows], prediction.lattice[rows])
    return said, Noised(state, noised.time[rows], target)


def _mean(values: Float[Tensor, " b"], rows: Bool[Tensor, " b"]) -> Float[Tensor, ""]:
    """Mean over some crystals, zero over none."""
    return torch.where(rows, values, torch.zeros_like(values)).sum() / rows.sum().clamp_min(1)
