"""Sublayers that a pretrained Crysformer no longer uses, made trainable again.

A gated residual mixes x and a sublayer's y by alpha x + (1 - alpha) y (paper eq. 7). Where alpha has become 1 for all
atoms, y is lost and no gradient reaches the sublayer: training can never bring it back. Nine of the twelve sublayers
of the shipped predictor are like that (docs/properties.md). Here such a sublayer starts anew: its output is set to
zero, and its gate to one that keeps nearly all of x, so that what the network computes hardly changes.

Shapes: B crystals, N atoms (padded), D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dao.crystal import CrystalBatch
from dao.networks.crysformer import Crysformer, CrysformerBlock, GatedResidual
from dao.property_model import PropertyPredictor

DEAD = 0.999
"""A gate above this keeps its sublayer out."""

LEAST_SHARE = 0.01
"""A sublayer is dead if its gate lets it in for no larger share of the atoms of a sample."""

LOGIT = 3.0
"""Of the new gates: alpha is about 0.95."""

_RIDGE = 1e-3


@torch.no_grad()
def revive(model: PropertyPredictor, sample: CrystalBatch) -> list[str]:
    """Begin dead sublayers anew, as seen on some crystals at t = 0; returns their names."""
    if not isinstance(model.network, Crysformer):
        return []
    revived: list[str] = []
    handles = []
    for number, block in enumerate(model.network.blocks):
        assert isinstance(block, CrysformerBlock)  # noqa: S101 -- a Crysformer has no other
        for name in ("attention", "feed_forward"):
            gate: GatedResidual = getattr(block, f"{name}_residual")
            hook = _hook(gate, _last_layers(block, name), sample.mask, f"{number}.{name}", revived)
            handles.append(gate.register_forward_pre_hook(hook))
    try:
        model(sample)
    finally:
        for handle in handles:
            handle.remove()
    return revived


def _last_layers(block: CrysformerBlock, name: str) -> list[nn.Linear]:
    """Linear maps whose sum is a sublayer's output."""
    if name == "feed_forward":
        return [layer for layer in block.feed_forward if isinstance(layer, nn.Linear)][-1:]
    contact = (
        [] if block.contact is None else [layer for layer in block.contact.modules() if isinstance(layer, nn.Linear)]
    )
    return [block.attention.output, *contact[-1:]]


def _hook(
    gate: GatedResidual, last: list[nn.Linear], mask: Bool[Tensor, "b n"], name: str, revived: list[str]
) -> Callable[..., tuple[Tensor, Tensor] | None]:
    def begin_anew(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
        x, y = inputs
        alpha = torch.sigmoid(gate.gate(torch.cat([x, y, x - y], dim=-1)))[mask]
        if float((alpha < DEAD).double().mean()) > LEAST_SHARE:
            return None
        for layer in last:
            layer.weight.zero_()
            if layer.bias is not None:
                layer.bias.zero_()
        gate.gate.weight.zero_()
        gate.gate.weight[0, : x.shape[-1]] = _constant(x[mask])
        revived.append(name)
        return x, torch.zeros_like(y)

    return begin_anew


def _constant(nodes: Float[Tensor, "m d"]) -> Float[Tensor, " d"]:
    """The map of D numbers to one that is nearest to ``LOGIT`` for all of M atoms."""
    values = nodes.double()
    scale = values.square().mean()
    normal = values.T @ values / len(values) + _RIDGE * scale * torch.eye(values.shape[1], device=values.device)
    return torch.linalg.solve(normal, LOGIT * values.mean(0)).to(nodes.dtype)
