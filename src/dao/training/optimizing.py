"""From a recipe's section ``optimizer`` to an optimizer and its clipping, for whichever loop steps it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Numbers below 1e-38 are zero in here, on CPUs that can.

    Sharp attention makes many of them, and each costs a hundred cycles: training came to be half as fast
    (docs/experiments.md).
    """
    tiny = torch.tensor(torch.finfo(torch.float32).tiny)
    before = bool(tiny * 0.5 == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
