"""Sublayers that trained weights no longer use, made trainable again.

A gated residual mixes a sublayer's input x and output y by alpha x + (1 - alpha) y (paper eq. 7). Where alpha has
become 1 for all atoms, y is lost and no gradient reaches the sublayer: training cannot bring it back, and 8 to 9 of 12
sublayers of weights trained with the paper's gate end like that (docs/experiments.md). In a network whose gates have a
way past them (``network.gate = "bypassed"``) such a sublayer begins anew, with random weights; the way past begins at
zero, so that what the network computes hardly changes at first.

Shapes: B crystals, N atoms (padded), D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from dao.crystal import CrystalBatch
from dao.models import CrystalModel
from dao.networks.crysformer import Crysformer, CrysformerBlock, GatedResidual

DEAD = 0.999
"""A gate above this keeps its sublayer out."""

LEAST_SHARE = 0.01
"""A sublayer is dead if its gate lets it in for no larger share of the atoms of a sample."""

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""At which gates are looked at, with true and with random coordinates."""

SUBLAYERS = ("attention", "feed_forward")


@torch.no_grad()
def live_shares(model: CrystalModel, sample: CrystalBatch) -> dict[str, float]:
    """Share of atoms whose gate lets a sublayer in, the largest over all times, by ``block.sublayer``.

    At clean crystals and scrambled ones; of a Crysformer with gates, else there are none.
    """
    if not isinstance(model.network, Crysformer) or model.network.config.gate == "none":
        return {}
    shares: dict[str, float] = {}
    handles = []
    for number, block in enumerate(model.network.blocks):
        for name in SUBLAYERS:
            gate: GatedResidual = getattr(block, f"{name}_residual")
            handles.append(gate.register_forward_pre_hook(_watch(gate, f"{number}.{name}", shares, sample)))
    random = torch.rand(sample.frac_coords.shape, generator=torch.Generator().manual_seed(0)).to(sample.frac_coords)
    try:
        for time in TIMES:
            for crystals in (sample, replace(sample, frac_coords=random)):
                model.crystal_features(crystals, time)
    finally:
        for handle in handles:
            handle.remove()
    return shares


def _watch(
    gate: GatedResidual, name: str, shares: dict[str, float], sample: CrystalBatch
) -> Callable[[nn.Module, tuple[Tensor, Tensor]], None]:
    def look(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        share = float((gate.alpha(*inputs)[sample.mask] < DEAD).double().mean())
        shares[name] = max(shares.get(name, 0.0), share)

    return look


def revive(model: CrystalModel, sample: CrystalBatch) -> list[str]:
    """Begin dead sublayers anew, as seen on some clean crystals; returns their names (``block.sublayer``)."""
    dead = [key for key, share in live_shares(model, sample).items() if share <= LEAST_SHARE]
    for key in dead:
        number, name = key.split(".")
        assert isinstance(model.network, Crysformer)  # noqa: S101 -- nothing else has gates
        block = model.network.blocks[int(number)]
        assert isinstance(block, CrysformerBlock)  # noqa: S101 -- a Crysformer has no other
        _begin_anew(block, name)
    return dead


@torch.no_grad()
def _begin_anew(block: CrysformerBlock, name: str) -> None:
    is_attention = name == "attention"
    norm = block.attention_norm if is_attention else block.feed_forward_norm
    sublayer = [block.attention, block.contact] if is_attention else [block.feed_forward]
    for part in (norm, *sublayer):
        for module in () if part is None else part.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
    if block.modulation is not None:  # scale and shift of the attention's input come first, then the feed-forward's
        for numbers in (block.modulation.weight, block.modulation.bias):
            numbers.unflatten(0, (2, -1))[0 if is_attention else 1].zero_()
