"""CSPNet equals its formulas written pair by pair, keeps a crystal's symmetries, and has the published sizes."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dao.errors import InputError
from dao.geometry.torus import wrap
from dao.model_config import GeneratorConfig
from dao.models import Generator
from dao.networks.config import COUNT_FEATURES, CSPNetConfig
from dao.networks.cspnet import CSPLayer, CSPNet, edge_waves
from dao.networks.embeddings import count_embedding, sinusoidal_embedding
from dao.processes.config import ProcessConfig


@st.composite
def configurations(draw: st.DrawFn) -> CSPNetConfig:
    return CSPNetConfig(
        width=draw(st.sampled_from([4, 6, 12])),
        blocks=draw(st.integers(1, 3)),
        frequencies=draw(st.sampled_from([1, 2, 5])),
        time_features=draw(st.sampled_from([4, 8])),
        edge_lattice=draw(st.sampled_from(["gram", "numbers"])),
        atom_count=draw(st.booleans()),
    )


def network(config: CSPNetConfig, seed: int) -> CSPNet:
    torch.manual_seed(seed)
    model = CSPNet(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def crystal(atoms: int, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(1, 95, (1, atoms), generator=generator)
    coords = torch.rand(1, atoms, 3, generator=generator, dtype=torch.float64)
    lattice = 3 * torch.eye(3).double() + 0.5 * torch.randn(1, 3, 3, generator=generator, dtype=torch.float64)
    features = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    return numbers, coords, lattice, features, torch.rand(1, generator=generator, dtype=torch.float64)


def run(model: CSPNet, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    numbers, *rest = inputs
    return model(numbers, *rest, numbers > 0)


def pair_by_pair(model: CSPNet, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """One crystal, one message at a time, every perceptron on the concatenation of what it sees."""
    numbers, coords, lattice, features, time = inputs
    config, atoms = model.config, numbers.shape[1]
    cell = features[0] if config.edge_lattice == "numbers" else (lattice[0] @ lattice[0].mT).flatten()
    if config.atom_count:
        cell = torch.cat([cell, count_embedding(torch.tensor([atoms]), COUNT_FEATURES, torch.float64)[0]])
    clock = sinusoidal_embedding(time, config.time_features)[0]
    h = [model.atom_and_time(torch.cat([model.atom.weight[z], clock])) for z in numbers[0]]

    def wave(i: int, j: int) -> Tensor:
        angles = [
            2 * math.pi * (coords[0, j] - coords[0, i])[axis] * k
            for axis in range(3)
            for k in range(config.frequencies)
        ]
        return torch.cat([torch.stack(angles).sin(), torch.stack(angles).cos()])

    for layer in model.blocks:
        assert isinstance(layer, CSPLayer)
        normed = [layer.norm(one) for one in h]
        new = []
        for i in range(atoms):
            messages = []
            for j in range(atoms):
                edge = functional.silu(layer.edge_in(torch.cat([normed[i], normed[j], cell, wave(i, j)])))
                messages.append(functional.silu(layer.edge_out(edge)))
            new.append(h[i] + layer.node(torch.cat([normed[i], torch.stack(messages).mean(0)])))
        h = new
    nodes = torch.stack([model.norm(one) for one in h])
    return nodes[None], nodes.mean(0)[None]


@settings(deadline=None, max_examples=25)
@given(configurations(), st.integers(1, 4), st.integers(0, 2**16))
def test_equals_its_formulas_pair_by_pair(config: CSPNetConfig, atoms: int, seed: int) -> None:
    model, inputs = network(config, seed), crystal(atoms, seed)
    for found, wanted in zip(run(model, inputs), pair_by_pair(model, inputs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=25)
@given(configurations(), st.integers(1, 5), st.integers(0, 2**16))
def test_symmetries(config: CSPNetConfig, atoms: int, seed: int) -> None:
    model = network(config, seed)
    numbers, coords, lattice, features, time = crystal(atoms, seed)
    nodes, pooled = run(model, (numbers, coords, lattice, features, time))
    generator = torch.Generator().manual_seed(seed + 1)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    order = torch.randperm(atoms, generator=generator)
    moved = wrap(coords + torch.rand(3, generator=generator, dtype=torch.float64))
    transformed = (numbers[:, order], moved[:, order], lattice @ rotation, features, time)
    found = run(model, transformed)
    torch.testing.assert_close(found[0], nodes[:, order], rtol=0, atol=1e-9)
    torch.testing.assert_close(found[1], pooled, rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(configurations(), st.integers(0, 2**16))
def test_padding_and_batch_mates_change_nothing(config: CSPNetConfig, seed: int) -> None:
    model = network(config, seed)
    small, large = crystal(2, seed), crystal(5, seed + 1)
    alone = run(model, small)
    numbers = torch.cat([functional.pad(small[0], (0, 3)), large[0]])
    coords = torch.cat([functional.pad(small[1], (0, 0, 0, 3), value=0.7), large[1]])
    together = run(model, (numbers, coords, *(torch.cat([a, b]) for a, b in zip(small[2:], large[2:], strict=True))))
    torch.testing.assert_close(together[0][:1, :2], alone[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(together[1][:1], alone[1], rtol=0, atol=1e-10)


def test_it_sees_everything_it_is_given() -> None:
    model = network(CSPNetConfig(width=8, blocks=2, frequencies=3, time_features=4), 0)
    inputs = crystal(3, 0)
    before = run(model, inputs)[1]
    for place, change in ((0, 1), (1, torch.tensor([0.1, 0, 0]) * torch.tensor([[0.0], [0], [1]])), (2, 0.3), (4, 0.1)):
        changed = [*inputs]
        changed[place] = inputs[place] + change
        assert (run(model, tuple(changed))[1] - before).abs().max() > 1e-6, place


def test_waves_of_a_pair() -> None:
    coords = torch.tensor([[[0.1, 0.2, 0.3], [0.4, 0.0, 0.9]]], dtype=torch.float64)
    waves = edge_waves(coords, 2)
    assert waves.shape == (1, 2, 2, 12)
    angles = 2 * math.pi * torch.tensor([0, 0.3, 0, -0.2, 0, 0.6], dtype=torch.float64)
    torch.testing.assert_close(waves[0, 0, 1], torch.cat([angles.sin(), angles.cos()]))


@pytest.mark.parametrize(
    ("network_config", "kind", "lattice", "parameters"),
    [
        (CSPNetConfig(), "diffusion", "matrix", 12_292_096),
        (CSPNetConfig(width=776), "diffusion", "matrix", 26_210_176),
        (CSPNetConfig(edge_lattice="numbers", atom_count=True), "flow", "log_metric", 12_379_654),
    ],
)
def test_published_sizes(
    network_config: CSPNetConfig,
    kind: Literal["flow", "diffusion"],
    lattice: Literal["log_metric", "matrix"],
    parameters: int,
) -> None:
    config = GeneratorConfig(network=network_config, process=ProcessConfig(kind=kind, lattice=lattice))
    assert Generator(config).parameters_count == parameters


def test_sizes_that_cannot_work() -> None:
    with pytest.raises(InputError, match="must be positive"):
        CSPNetConfig(blocks=0)
    with pytest.raises(InputError, match="time_features must be even"):
        CSPNetConfig(time_features=3)
