"""The factored network equals the explicit one, and keeps the symmetries of a crystal."""

from __future__ import annotations

import itertools
from typing import Literal

import crysformer_reference as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dao.geometry.torus import wrap
from dao.model_config import GeneratorConfig
from dao.models import Generator
from dao.networks.config import CrysformerConfig
from dao.networks.crysformer import Crysformer
from dao.processes.base import State
from dao.processes.config import ProcessConfig
from dao.processes.representations import LogMetricLattice

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@st.composite
def networks(draw: st.DrawFn) -> CrysformerConfig:
    heads = draw(st.sampled_from([1, 2, 4]))
    scale_shift = draw(st.booleans())
    return CrysformerConfig(
        width=heads * draw(st.sampled_from([4, 8, 12])),
        blocks=draw(st.integers(1, 3)),
        heads=heads,
        frequencies=draw(st.sampled_from([1, 2, 5, 16])),
        time_features=draw(st.sampled_from([4, 16])),
        gram=draw(st.sampled_from(["raw", "normalized"])),
        conditioning="scale_shift" if scale_shift else "none",
        element_embedding=draw(st.booleans()),
        space_groups=scale_shift and draw(st.booleans()),
        gate=draw(st.sampled_from(["raw", "normalized", "bypassed", "none"])),
    )


def crystals(sizes: list[int], seed: int, dtype: torch.dtype, pad: int = 0) -> Inputs:
    """Random crystals of those sizes, of cells about 3 A long, padded by ``pad`` more than the largest."""
    generator = torch.Generator().manual_seed(seed)
    count, width = len(sizes), max(sizes) + pad
    mask = torch.arange(width) < torch.tensor(sizes)[:, None]
    numbers = torch.randint(1, 95, (count, width), generator=generator) * mask
    coords = torch.rand(count, width, 3, generator=generator, dtype=torch.float64) * mask[..., None]
    lattice = 3.0 * torch.eye(3, dtype=torch.float64) + 0.5 * torch.randn(
        count, 3, 3, generator=generator, dtype=torch.float64
    )
    features = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    time = torch.rand(count, generator=generator, dtype=torch.float64)
    group = torch.randint(0, 231, (count,), generator=generator)
    return numbers, coords.to(dtype), lattice.to(dtype), features.to(dtype), time.to(dtype), mask, group


def network(config: CrysformerConfig, seed: int, dtype: torch.dtype) -> Crysformer:
    """Random weights everywhere, also where training starts from zero or one."""
    torch.manual_seed(seed)
    model = Crysformer(config)
    for parameter in model.parameters():
        if parameter.ndim == 1 or not parameter.any():
            torch.nn.init.normal_(parameter, float(parameter.detach().mean()), 0.3)
    return model.to(dtype)


def both(model: Crysformer, inputs: Inputs) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Node and crystal features and the gradients of one number made of them, factored and explicit."""
    results = []
    mask = inputs[5]
    edge_map = dict(model.named_parameters())["blocks.0.attention.edge.weight"]
    for form in (model, lambda *arguments: reference.crysformer(model, *arguments)):
        coords, lattice = inputs[1].clone().requires_grad_(), inputs[2].clone().requires_grad_()
        nodes, crystal = form(inputs[0], coords, lattice, *inputs[3:])
        nodes = nodes * mask[..., None]
        weights = torch.linspace(-1, 1, nodes.shape[-1], dtype=nodes.dtype)
        total = (nodes * weights).sum() / nodes.shape[1] + crystal.square().mean()
        gradients = torch.autograd.grad(total, [coords, lattice, edge_map])
        results.append((nodes, crystal, *gradients))
    return results[0], results[1]


@given(networks(), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 2), st.integers(0, 10**6))
@settings(max_examples=60)
def test_factored_is_explicit_in_float64(config: CrysformerConfig, sizes: list[int], pad: int, seed: int) -> None:
    factored, explicit = both(network(config, seed, torch.float64), crystals(sizes, seed, torch.float64, pad))
    for one, other in zip(factored, explicit, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@given(networks(), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 2), st.integers(0, 10**6))
@settings(max_examples=60)
def test_factored_is_explicit_in_float32(config: CrysformerConfig, sizes: list[int], pad: int, seed: int) -> None:
    inputs = crystals(sizes, seed, torch.float32, pad)
    model = network(config, seed, torch.float32)
    factored, explicit = model(*inputs), reference.crysformer(model, *inputs)
    for one, other in zip(factored, explicit, strict=True):
        real = inputs[5][..., None] if one.ndim == 3 else torch.ones(1)
        torch.testing.assert_close(one * real, other * real, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("atoms", [1, 16, 40])
def test_factored_is_explicit_at_the_papers_width_and_frequencies(atoms: int) -> None:
    config = CrysformerConfig(blocks=2)
    inputs = crystals([atoms, max(1, atoms - 3)], atoms, torch.float32)
    model = network(config, 0, torch.float32)
    for one, other in zip(model(*inputs), reference.crysformer(model, *inputs), strict=True):
        real = inputs[5][..., None] if one.ndim == 3 else torch.ones(1)
        torch.testing.assert_close(one * real, other * real, atol=1e-4, rtol=1e-4)


def test_base_has_the_papers_number_of_parameters() -> None:
    """DAO-G: trunk, coordinate head and lattice head (the energy head of DAO-P would add 0.15 M)."""
    base = CrysformerConfig()
    generator = Generator(GeneratorConfig(network=base, process=ProcessConfig(kind="diffusion", lattice="matrix")))
    assert generator.parameters_count == 25_194_258


def rotation(seed: int) -> Tensor:
    """A random orthogonal matrix, proper or not."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


@given(networks(), st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(0, 10**6))
@settings(max_examples=40)
def test_symmetries_of_the_trunk(config: CrysformerConfig, sizes: list[int], seed: int) -> None:
    model = network(config, seed, torch.float64)
    numbers, coords, lattice, features, time, mask, group = crystals(sizes, seed, torch.float64)
    nodes, crystal = model(numbers, coords, lattice, features, time, mask, group)
    real = mask[..., None]

    def same(nodes_: Tensor, crystal_: Tensor) -> None:
        torch.testing.assert_close(nodes_ * real, nodes * real, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(crystal_, crystal, atol=1e-9, rtol=1e-9)

    # rotation and reflection of the lattice
    same(*model(numbers, coords, lattice @ rotation(seed), features, time, mask, group))
    # translation of all atoms, wrapped
    shift = torch.rand(len(sizes), 1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    same(*model(numbers, wrap(coords + shift) * real, lattice, features, time, mask, group))
    # padding
    padded = crystals(sizes, seed, torch.float64)
    more = torch.nn.functional.pad
    wide = model(
        more(numbers, (0, 3)), more(coords, (0, 0, 0, 3)), lattice, features, time, more(mask, (0, 3)), padded[6]
    )
    same(wide[0][:, : mask.shape[1]], wide[1])
    # batch-mates
    for i, size in enumerate(sizes):
        alone = model(
            numbers[i : i + 1, :size],
            coords[i : i + 1, :size],
            lattice[i : i + 1],
            features[i : i + 1],
            time[i : i + 1],
            mask[i : i + 1, :size],
            group[i : i + 1],
        )
        torch.testing.assert_close(alone[0][0], nodes[i, :size], atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(alone[1][0], crystal[i], atol=1e-9, rtol=1e-9)
    # order of atoms
    width = mask.shape[1]
    order = torch.stack(
        [
            torch.cat([torch.randperm(size, generator=torch.Generator().manual_seed(seed)), torch.arange(size, width)])
            for size in sizes
        ]
    )
    moved = model(
        numbers.gather(1, order),
        coords.gather(1, order[..., None].expand(-1, -1, 3)),
        lattice,
        features,
        time,
        mask,
        group,
    )
    torch.testing.assert_close(
        moved[0] * real,
        nodes.gather(1, order[..., None].expand_as(nodes)) * real,
        atol=1e-9,
        rtol=1e-9,
    )
    torch.testing.assert_close(moved[1], crystal, atol=1e-9, rtol=1e-9)


def test_the_output_is_not_constant() -> None:
    """What the symmetry tests compare does depend on elements, coordinates, lattice, time and space group."""
    config = CrysformerConfig(
        width=16, blocks=2, heads=2, frequencies=4, time_features=8, conditioning="scale_shift", space_groups=True
    )
    model = network(config, 0, torch.float64)
    inputs = list(crystals([4, 4], 0, torch.float64))
    _, crystal = model(*inputs)
    other = crystals([4, 4], 1, torch.float64)
    for position in (0, 1, 2, 3, 4, 6):
        changed = [*inputs[:position], other[position], *inputs[position + 1 :]]
        assert (model(*changed)[1] - crystal).abs().max() > 1e-6


@pytest.mark.parametrize(("kind", "lattice_kind"), [("diffusion", "matrix"), ("flow", "log_metric")])
@pytest.mark.parametrize("seed", range(4))
def test_symmetries_of_the_generators_prediction(
    kind: Literal["diffusion", "flow"], lattice_kind: Literal["matrix", "log_metric"], seed: int
) -> None:
    config = CrysformerConfig(width=16, blocks=2, heads=2, frequencies=4, time_features=8)
    torch.manual_seed(seed)
    process = ProcessConfig(kind=kind, lattice=lattice_kind)
    model = Generator(GeneratorConfig(network=config, process=process)).double()
    numbers, coords, lattice, _, time, mask, _ = crystals([3, 5], seed, torch.float64)
    representation = model.process.representation
    if lattice_kind == "log_metric":
        assert isinstance(representation, LogMetricLattice)
        representation.atomic_volumes.fill_(9.0)[0] = 0.0
    turn = rotation(seed)
    state = State(coords, representation.encode(lattice, numbers))
    turned = State(coords, representation.encode(lattice @ turn, numbers))
    one, other = model(numbers, mask, state, time), model(numbers, mask, turned, time)
    torch.testing.assert_close(other.frac_coords, one.frac_coords, atol=1e-9, rtol=1e-9)
    expected = one.lattice
    if lattice_kind == "matrix":  # equivariant: the noise turns with the lattice
        expected = (one.lattice.unflatten(-1, (3, 3)) @ turn).flatten(1)
    torch.testing.assert_close(other.lattice, expected, atol=1e-9, rtol=1e-9)
    assert not one.frac_coords[~mask].any()


@pytest.mark.parametrize(("atoms", "gram"), list(itertools.product([1, 2], ["raw", "normalized"])))
def test_degenerate_crystals_give_finite_gradients(atoms: int, gram: Literal["raw", "normalized"]) -> None:
    config = CrysformerConfig(width=8, blocks=2, heads=2, frequencies=3, time_features=4, gram=gram)
    model = network(config, 0, torch.float64)
    coords = torch.zeros(1, atoms, 3, dtype=torch.float64, requires_grad=True)
    lattice = (3.0 * torch.eye(3, dtype=torch.float64))[None].requires_grad_()
    numbers = torch.full((1, atoms), 8)
    zeros = torch.zeros(1, 6, dtype=torch.float64)
    nodes, _ = model(numbers, coords, lattice, zeros, zeros[:, 0], numbers > 0)
    nodes.square().sum().backward()
    for value in (nodes, coords.grad, lattice.grad):
        assert value is not None
        assert torch.isfinite(value).all()


def test_derivatives_are_right_to_second_order() -> None:
    """Forces are derivatives, and guidance differentiates through them: both against finite differences."""
    config = CrysformerConfig(width=8, blocks=1, heads=2, frequencies=3, time_features=4)
    model = network(config, 0, torch.float64)
    numbers, coords, lattice, features, time, mask, _ = crystals([3, 2], 5, torch.float64)

    def energy(coords: Tensor, lattice: Tensor) -> Tensor:
        return torch.as_tensor(model(numbers, coords, lattice, features, time, mask)[1].square().sum())

    arguments = (coords.requires_grad_(), lattice.requires_grad_())
    assert torch.autograd.gradcheck(energy, arguments)
    assert torch.autograd.gradgradcheck(energy, arguments)
