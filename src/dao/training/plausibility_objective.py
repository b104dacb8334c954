"""What a step of the judge of candidates minimises: minus the log probability that a softmax gives to the right ones.

Scores are compared within a list alone, so that a constant of the composition drops out: at the minimum they are the
log odds of being the known crystal, up to such a constant.

Shapes: B candidates, N atoms (padded), L lists, K most candidates of a list.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dao.crystal import CrystalBatch
from dao.geometry.torus import wrap
from dao.processes.base import NoiseSource
from dao.training.deformations import other_setting
from dao.training.objectives import Objective

if TYPE_CHECKING:
    from dao.recipes.schema import JitterRecipe


def listwise(scores: Float[Tensor, " b"], right: Bool[Tensor, " b"], places: Int[Tensor, "l k"]) -> Objective:
    """Mean over lists of logsumexp(all scores) - logsumexp(right scores), and how often the highest one is right.

    Args:
        scores: of candidates.
        right: which of them are; at least one a list.
        places: where each list's candidates are among the scores, -1 where there is none.

    """
    missing = places < 0
    index = places.clamp_min(0)
    all_scores = scores.float()[index].masked_fill(missing, -math.inf)
    good = right[index] & ~missing
    right_scores = all_scores.masked_fill(~good, -math.inf)
    loss = (torch.logsumexp(all_scores, 1) - torch.logsumexp(right_scores, 1)).mean()
    first = good.gather(1, all_scores.argmax(1)[:, None]).float().mean()
    return Objective(loss, {"first_right": first.detach()})


def jittered(
    batch: CrystalBatch, first: Int[Tensor, " b"], noise: NoiseSource, amplitudes: JitterRecipe
) -> CrystalBatch:
    """Candidates in another setting, at another volume, a little strained and rattled.

    Which candidate is right must not be told by how exact it is, nor a list by its volume.

    Args:
        batch: candidates.
        first: where in the batch the first candidate of the same list is.
        noise: random numbers.
        amplitudes: of everything.

    """
    if amplitudes.other_settings:
        batch = other_setting(batch, noise)
    log_volume = amplitudes.list_volume * noise.normal()[first] + amplitudes.volume * noise.normal()
    growth = torch.exp(log_volume / 3.0)[:, None, None] * torch.eye(3).to(batch.lattice)
    lattice = batch.lattice @ (growth + amplitudes.strain * noise.normal(3, 3))
    amplitude = amplitudes.displacement * noise.uniform()[:, None, None]
    displacement = amplitude * noise.normal(batch.mask.shape[1], 3) * batch.mask[..., None]
    frac_coords = batch.frac_coords + torch.linalg.solve(lattice.mT, displacement.mT).mT
    return replace(batch, lattice=lattice, frac_coords=wrap(frac_coords) * batch.mask[..., None])
