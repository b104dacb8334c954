"""What a training step minimises.

Shapes: B crystals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dao.crystal import CrystalBatch
from dao.models import Generator
from dao.processes.base import NoiseSource

UNKNOWN_SHARE = 0.3
"""Share of crystals whose space group is hidden from the network: it also works without, and learns to say it."""

PRIOR_SHARE = 0.5
"""Share of those that are pure noise (t = 1), where the space group must be told from the composition alone."""

SPACE_GROUP_WEIGHT = 0.1
"""Weight of the cross-entropy (nats, of the hidden ones) beside the process's losses."""


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
