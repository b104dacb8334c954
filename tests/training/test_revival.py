from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toys import tiny_network, toy_crystals

from dao.data.store import pack_crystals
from dao.model_config import PropertyConfig
from dao.networks.config import CSPNetConfig
from dao.networks.crysformer import Crysformer
from dao.processes.config import ProcessConfig
from dao.property_model import PropertyPredictor
from dao.training.revival import revive

PACKED = pack_crystals(toy_crystals())
SAMPLE = PACKED.batch(torch.arange(30))
OTHERS = PACKED.batch(torch.arange(30, 50))

DEAD = ("0.attention", "1.feed_forward")


@pytest.fixture
def model() -> PropertyPredictor:
    """A predictor two of whose sublayers are shut out."""
    torch.manual_seed(0)
    network = replace(tiny_network(space_groups=False), conditioning="scale_shift", contacts=4)
    made = PropertyPredictor(PropertyConfig(network=network, process=ProcessConfig(), label="x"))
    made.process.representation.fit(PACKED.lattice, PACKED.element_counts())
    with torch.no_grad():
        made.get_parameter("network.atom_and_time.bias").fill_(10.0)
        for name in DEAD:
            weight = made.get_parameter(f"network.blocks.{name}_residual.gate.weight")
            weight.zero_()
            weight[0, : network.width] = 50.0
    return made


def gradients(model: PropertyPredictor) -> dict[str, float]:
    model.zero_grad()
    model(OTHERS).square().sum().backward()
    return {
        name: float(parameter.grad.abs().sum())
        for name, parameter in model.network.named_parameters()
        if parameter.grad is not None
    }


LAST = ("blocks.0.attention.output.weight", "blocks.0.contact.output.weight", "blocks.1.feed_forward.2.weight")
"""Of the dead ones."""


def test_dead_sublayers_learn_again_and_hardly_change_what_is_computed(model: PropertyPredictor) -> None:
    before = gradients(model)
    assert [before[name] for name in LAST] == [0.0, 0.0, 0.0]
    with torch.no_grad():
        said = model(OTHERS)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    assert revive(model, SAMPLE) == list(DEAD)
    with torch.no_grad():
        assert float((model(OTHERS) - said).abs().max()) < 0.3 * float(said.abs().mean())
    after = gradients(model)
    assert all(after[name] > 0 for name in LAST)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, kept[name])}
    gates = {f"network.blocks.{name}_residual.gate.weight" for name in DEAD}
    assert changed == gates | {f"network.{name}" for name in LAST} | {
        "network.blocks.0.attention.output.bias",
        "network.blocks.1.feed_forward.2.bias",
    }
    # nothing is dead any more, and no hook is left behind
    assert revive(model, SAMPLE) == []


def test_living_networks_are_left_alone() -> None:
    torch.manual_seed(0)
    network = replace(tiny_network(space_groups=False), conditioning="scale_shift")
    config = PropertyConfig(network=network, process=ProcessConfig(), label="x")
    made = PropertyPredictor(config)
    made.process.representation.fit(PACKED.lattice, PACKED.element_counts())
    assert isinstance(made.network, Crysformer)
    assert revive(made, SAMPLE) == []
    other = PropertyPredictor(replace(config, network=CSPNetConfig(width=16, blocks=1)))
    assert revive(other, SAMPLE) == []
