"""From a recipe's section ``optimizer`` to an optimizer and its clipping, for whichever loop steps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from dao.recipes.schema import OptimizerRecipe


def make_optimizer(groups: Iterable[Sequence[nn.Parameter]], chosen: OptimizerRecipe) -> Optimizer:
    """AdamW or Adam over groups of parameters, whose rates the caller may set apart later."""
    kind = torch.optim.AdamW if chosen.kind == "adamw" else torch.optim.Adam
    return kind(
        [{"params": group} for group in groups],
        lr=chosen.learning_rate,
        betas=chosen.betas,
        weight_decay=chosen.weight_decay,
        fused=True,
    )


def clip_gradients(parameters: Sequence[nn.Parameter], chosen: OptimizerRecipe) -> Tensor:
    """Clip gradients in place as the recipe says; returns their norm before, on the CPU."""
    if chosen.gradient_clip_kind == "norm":
        return nn.utils.clip_grad_norm_(parameters, chosen.gradient_clip).detach().cpu()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients).detach().cpu()
    nn.utils.clip_grad_value_(parameters, chosen.gradient_clip)
    return norm
