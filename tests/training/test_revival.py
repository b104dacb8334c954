"""Dead sublayers begin anew where gates have a way past them, and what the network says does not change by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toys import tiny_generator, tiny_predictor, tiny_recipe, toy_crystals

from dao.data.store import pack_crystals
from dao.errors import InputError
from dao.models import CrystalModel, read_config
from dao.networks.config import CrysformerConfig
from dao.networks.crysformer import Crysformer, CrysformerBlock, GatedResidual
from dao.recipes.schema import Recipe
from dao.training.fit import train
from dao.training.initial import load_initial_weights
from dao.training.revival import live_shares

DEAD = ("0.feed_forward", "1.attention")
PACKED = pack_crystals(toy_crystals())
SAMPLE = PACKED.batch(torch.arange(len(PACKED)))


def gate_of(model: CrystalModel, key: str) -> GatedResidual:
    assert isinstance(model.network, Crysformer)
    number, name = key.split(".")
    gate = getattr(model.network.blocks[int(number)], f"{name}_residual")
    assert isinstance(gate, GatedResidual)
    return gate


@torch.no_grad()
def saturated(model: CrystalModel) -> CrystalModel:
    """The model with two sublayers that no atom uses: gates that read a large feature and nothing else."""
    assert isinstance(model.network, Crysformer)
    model.network.atom_and_time.bias[0] = 200.0
    for key in live_shares(model, SAMPLE):
        gate = gate_of(model, key).gate
        assert gate is not None
        gate.weight.zero_()
        gate.weight[0, 0] = 20.0 if key in DEAD else 0.0
    return model


def bypassed(model: CrystalModel) -> CrystalModel:
    assert isinstance(model.config.network, CrysformerConfig)
    network = replace(model.config.network, gate="bypassed")
    return type(model)(replace(model.config, network=network)).eval()


@pytest.mark.parametrize("make", [tiny_generator, tiny_predictor])
def test_dead_sublayers_begin_anew_and_nothing_changes(make: Callable[[], CrystalModel], tmp_path: Path) -> None:
    old = saturated(make())
    assert [key for key, share in live_shares(old, SAMPLE).items() if share == 0.0] == list(DEAD)
    old.save(tmp_path / "old")
    new = bypassed(old)
    history = load_initial_weights(new, str(tmp_path / "old"), PACKED)
    assert history.endswith("gates given a way past them, begun anew: 0.feed_forward, 1.attention")
    for time in (0.0, 0.7):
        torch.testing.assert_close(new.crystal_features(SAMPLE, time), old.crystal_features(SAMPLE, time))
    before, after = old.network.state_dict(), new.network.state_dict()
    assert not torch.allclose(before["blocks.0.feed_forward.0.weight"], after["blocks.0.feed_forward.0.weight"])
    assert torch.equal(before["blocks.1.feed_forward.0.weight"], after["blocks.1.feed_forward.0.weight"])
    # of the modulation only the half of the sublayer that begins anew
    own, other = after["blocks.1.modulation.weight"].chunk(2)
    assert not own.any()
    assert torch.equal(other, before["blocks.1.modulation.weight"].chunk(2)[1])
    # and it learns: first how much of it passes, then all of it
    bypass = gate_of(new, "1.attention").bypass
    assert bypass is not None
    new.crystal_features(SAMPLE, 0.7).square().sum().backward()
    assert bypass.grad is not None
    assert bool(bypass.grad.any())
    with torch.no_grad():
        bypass.fill_(0.1)
    new.crystal_features(SAMPLE, 0.7).square().sum().backward()
    gradient = output_of(new).grad
    assert gradient is not None
    assert bool(gradient.any())


def test_no_gradient_comes_through_a_closed_gate() -> None:
    model = saturated(tiny_generator())
    model.crystal_features(SAMPLE, 0.7).square().sum().backward()
    gradient = output_of(model).grad
    assert gradient is not None
    assert not gradient.any()


def output_of(model: CrystalModel) -> Tensor:
    """Last parameter of a dead sublayer."""
    assert isinstance(model.network, Crysformer)
    block = model.network.blocks[1]
    assert isinstance(block, CrysformerBlock)
    return block.attention.output.weight


def test_training_goes_on_from_weights_of_the_papers_gate(toy_file: Path, tmp_path: Path) -> None:
    def fit(name: str, **changes: object) -> Path:
        recipe = Recipe.model_validate(tiny_recipe(crystals=32, **changes))
        train(recipe, out=tmp_path / name, data=toy_file, device="cpu", progress=False)
        return tmp_path / name / "last"

    old = fit("old")
    new = fit("new", initial_weights=str(old), network={"gate": "bypassed"})
    assert "begun anew: no sublayer" in read_config(new).training["pretraining"]
    fit("again", initial_weights=str(new), network={"gate": "bypassed"})
    with pytest.raises(InputError, match="another network"):
        fit("back", initial_weights=str(new))
    with pytest.raises(InputError, match="another network"):
        fit("wider", initial_weights=str(old), network={"gate": "bypassed", "width": 32})
