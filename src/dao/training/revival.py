"""Sublayers that trained weights no longer use, made trainable again.

A gated residual mixes a sublayer's input x and output y by alpha x + (1 - alpha) y (paper eq. 7). Where alpha has
become 1 for all atoms, y is lost and no gradient reaches the sublayer: training cannot bring it back, and 8 to 9 of 12
sublayers of weights trained with the paper's gate end like that (docs/experiments.md). In a network whose gates have a
way past them (``network.gate = "bypassed"``) such a sublayer begins anew: its gate stays shut, and the way past it is
as wide as x is large, so that y, zero at first, is soon heard beside it. What the network computes does not change.

Shapes: B crystals, N atoms (padded), D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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

SHUT = 20.0
"""Logit of a gate that is 1 in float32, and stays so."""

SUBLAYERS = ("attention", "feed_forward")


@dataclass
class GateState:
    """What a gate did: the largest share of atoms that it let y in for, at any time, and the largest RMS of x."""

    live: float = 0.0
    scale: float = 0.0


@torch.no_grad()
def gate_states(model: CrystalModel, sample: CrystalBatch) -> dict[str, GateState]:
    """How the gates of a Crysformer respond to clean crystals and to scrambled ones, by ``block.sublayer``."""
    if not isinstance(model.network, Crysformer) or model.network.config.gate == "none":
        return {}
    states: dict[str, GateState] = {}
    handles = []
    for number, block in enumerate(model.network.blocks):
        for name in SUBLAYERS:
            gate: GatedResidual = getattr(block, f"{name}_residual")
            states[f"{number}.{name}"] = state = GateState()
            handles.append(gate.register_forward_pre_hook(_watch(gate, state, sample)))
    random = torch.rand(sample.frac_coords.shape, generator=torch.Generator().manual_seed(0)).to(sample.frac_coords)
    try:
        for time in TIMES:
            for crystals in (sample, replace(sample, frac_coords=random)):
                model.crystal_features(crystals, time)
    finally:
        for handle in handles:
            handle.remove()
    return states


def _watch(
    gate: GatedResidual, state: GateState, sample: CrystalBatch
) -> Callable[[nn.Module, tuple[Tensor, Tensor]], None]:
    def look(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        state.live = max(state.live, float((gate.alpha(*inputs)[sample.mask] < DEAD).double().mean()))
        state.scale = max(state.scale, float(inputs[0][sample.mask].square().mean().sqrt()))

    return look


def revive(model: CrystalModel, sample: CrystalBatch) -> list[str]:
    """Begin dead sublayers anew, as seen on some clean crystals; returns their names (``block.sublayer``)."""
    dead = {key: state.scale for key, state in gate_states(model, sample).items() if state.live <= LEAST_SHARE}
    for key, scale in dead.items():
        number, name = key.split(".")
        assert isinstance(model.network, Crysformer)  # noqa: S101 -- nothing else has gates
        block = model.network.blocks[int(number)]
        assert isinstance(block, CrysformerBlock)  # noqa: S101 -- a Crysformer has no other
        _begin_anew(block, name, scale)
    return list(dead)


@torch.no_grad()
def _begin_anew(block: CrysformerBlock, name: str, scale: float) -> None:
    is_attention = name == "attention"
    norm = block.attention_norm if is_attention else block.feed_forward_norm
    sublayer = [block.attention, block.contact] if is_attention else [block.feed_forward]
    for part in (norm, *sublayer):
        for module in () if part is None else part.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
    outputs = [block.attention.output] if is_attention else [block.feed_forward[-1]]
    if is_attention and block.contact is not None:
        outputs.append(block.contact.output)
    for layer in outputs:
        for parameter in layer.parameters():
            parameter.zero_()
    if block.modulation is not None:  # scale and shift of the attention's input come first, then the feed-forward's
        for numbers in (block.modulation.weight, block.modulation.bias):
            numbers.unflatten(0, (2, -1))[0 if is_attention else 1].zero_()
    gate: GatedResidual = getattr(block, f"{name}_residual")
    assert gate.gate is not None  # noqa: S101 -- only gates that have a way past them come here
    assert gate.bypass is not None  # noqa: S101
    gate.gate.weight.zero_()
    gate.gate.bias.fill_(SHUT)
    gate.bypass.fill_(scale)
