"""The parts of the pair geometry that the exactness tests of the whole network do not reach."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dao.networks.config import CrysformerConfig
from dao.networks.crysformer import Crysformer
from dao.networks.edges import edge_geometry, gram_features, wave_logits, wave_values


def problem(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (2, 4, 3, 5), p (2, 4, 3, 4), weight (3, 5, 12) and the waves (2, 4, 12) of random coordinates."""
    generator = torch.Generator().manual_seed(seed)
    x, p, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 4, 3, 5), (2, 4, 3, 4), (3, 5, 12))
    )
    coords = torch.rand(2, 4, 3, generator=generator, dtype=torch.float64)
    waves = edge_geometry(coords, torch.zeros(2, 9, dtype=torch.float64), 2, 1e-5).waves
    return x.to(dtype), p.to(dtype), weight.to(dtype), waves.to(dtype)


def pair_waves(waves: Tensor) -> Tensor:
    """cos and sin of theta_j - theta_i in pairs, (B, N, N, W)."""
    z = torch.view_as_complex(waves.unflatten(-1, (-1, 2)))
    return torch.view_as_real(z[:, None] * z[:, :, None].conj()).flatten(-2)


@given(st.integers(0, 10**6))
def test_logits_and_values_are_derivatives_of_one_form(seed: int) -> None:
    x, p, weight, waves = problem(seed)
    phi = pair_waves(waves)
    torch.testing.assert_close(wave_logits(x, weight, waves), torch.einsum("bihk,hkw,bijw->bihj", x, weight, phi))
    torch.testing.assert_close(wave_values(p, weight, waves), torch.einsum("bihj,hkw,bijw->bihk", p, weight, phi))


@pytest.mark.parametrize("of_waves", [False, True])
def test_derivatives(*, of_waves: bool) -> None:
    x, p, weight, waves = (tensor.requires_grad_() for tensor in problem(0))
    waves.requires_grad_(of_waves)
    for function, argument in ((wave_logits, x), (wave_values, p)):
        assert torch.autograd.gradcheck(function, (argument, weight, waves))
        assert torch.autograd.gradgradcheck(function, (argument, weight, waves))


def test_arguments_are_left_alone() -> None:
    tensors = [tensor.requires_grad_() for tensor in problem(0)]
    before = [tensor.detach().clone() for tensor in tensors]
    x, p, weight, waves = tensors
    (wave_logits(x, weight, waves).sum() + wave_values(p, weight, waves).square().sum()).backward()
    for tensor, kept in zip(tensors, before, strict=True):
        assert torch.equal(tensor, kept)


def test_the_compilers_formulas_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, p, weight, waves = (tensor.requires_grad_() for tensor in problem(0))

    def results() -> list[Tensor]:
        out = [wave_logits(x, weight, waves), wave_values(p, weight, waves)]
        return [*out, *torch.autograd.grad([one.square().sum() for one in out], [x, p, weight, waves])]

    eager = results()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for one, other in zip(results(), eager, strict=True):
        torch.testing.assert_close(one, other)


def test_sixteen_bits_are_multiplied_in_float32() -> None:
    x, p, weight, waves = problem(0)
    low = [tensor.bfloat16() for tensor in (x, p, weight, waves)]
    for function, exact, rounded in ((wave_logits, x, low[0]), (wave_values, p, low[1])):
        out = function(rounded, *low[2:])
        assert out.dtype == torch.bfloat16
        expected = function(exact, weight, waves)
        assert (out.double() - expected).norm() < 0.01 * expected.norm()


@given(st.sampled_from([1, 2, 3, 128]), st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 30.0]))
def test_deviation_is_that_of_the_raw_edges(frequencies: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    coords = torch.rand(2, 3, 3, generator=generator, dtype=torch.float64)
    gram = gram_features(scale * torch.randn(2, 3, 3, generator=generator, dtype=torch.float64), "raw")
    geometry = edge_geometry(coords, gram, frequencies, 1e-5)
    raw = torch.cat([gram[:, None, None].expand(2, 3, 3, 9), pair_waves(geometry.waves)], dim=-1)
    torch.testing.assert_close(geometry.inverse_deviation, (raw.var(-1, correction=0) + 1e-5).rsqrt())


def test_normalized_gram_has_no_unit_and_survives_flat_cells() -> None:
    lattice = torch.randn(3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(gram_features(7.0 * lattice, "normalized"), gram_features(lattice, "normalized"))
    torch.testing.assert_close(gram_features(7.0 * lattice, "raw"), 49.0 * gram_features(lattice, "raw"))
    for flat in (torch.zeros(1, 3, 3), torch.ones(1, 3, 3), torch.tensor([[[3.0, 0, 0], [0, 3, 0], [0, 0, 0]]])):
        flat.requires_grad_()
        gram = gram_features(flat, "normalized")
        (gradient,) = torch.autograd.grad(gram.sum(), flat)
        assert gram.isfinite().all()
        assert gradient.isfinite().all()


def trunk(**changes: int) -> Crysformer:
    torch.manual_seed(0)
    sizes = {"width": 32, "blocks": 2, "heads": 4, "frequencies": 8, "time_features": 8} | changes
    return Crysformer(CrysformerConfig(**sizes))  # type: ignore[arg-type] # only the sizes, which are integers


def batch(sizes: list[int], width: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(width) < torch.tensor(sizes)[:, None]
    lattice = 4.0 * torch.eye(3) + 0.3 * torch.randn(len(sizes), 3, 3, generator=generator)
    numbers = torch.randint(1, 95, mask.shape, generator=generator) * mask
    coords = torch.rand(*mask.shape, 3, generator=generator)
    return numbers, coords, lattice, torch.zeros(len(sizes), 6), torch.rand(len(sizes), generator=generator), mask


def test_autocast_rounds_and_no_more() -> None:
    """Phases, metric and deviations are kept in float32: bfloat16 would turn the fastest waves at random."""
    model, inputs = trunk(frequencies=128), batch([5, 3], 5)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            nodes, _ = model(*inputs)
        nodes[inputs[-1]].float().square().sum().backward()
        (gradient,) = (p.grad for n, p in model.named_parameters() if n == "blocks.0.attention.edge.weight")
        assert gradient is not None
        gradients.append((nodes[inputs[-1]].detach().float(), gradient))
    for exact, rounded in zip(*gradients, strict=True):
        assert (rounded - exact).norm() < 0.03 * exact.norm()


def test_a_slot_without_atoms_is_finite_and_changes_no_other() -> None:
    model, inputs = trunk(), batch([4, 0, 2], 4)
    nodes, crystal = model(*inputs)
    crystal.square().sum().backward()
    assert nodes.isfinite().all()
    assert crystal.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    alone, _ = model(*(tensor[[0, 2]] for tensor in inputs))
    torch.testing.assert_close(alone, nodes[[0, 2]])


def test_padding_gets_and_gives_no_gradient() -> None:
    model, inputs = trunk(), list(batch([4, 2], 4))
    coords, mask = inputs[1].requires_grad_(), inputs[-1]
    model(*inputs)[1].square().sum().backward()
    assert coords.grad is not None
    assert (coords.grad[~mask] == 0).all()
    assert (coords.grad[mask].abs().sum(-1) > 0).all()


def test_equal_atoms_in_one_place_stay_equal() -> None:
    """Padding's own features are finite, and a duplicated atom is seen twice but alike."""
    model = trunk()
    numbers, coords, lattice, features, time, mask = batch([3], 3)
    coords = coords[:, [0, 1, 1]].requires_grad_()
    nodes, crystal = model(numbers[:, [0, 1, 1]], coords, lattice, features, time, mask)
    torch.testing.assert_close(nodes[0, 1], nodes[0, 2])
    (gradient,) = torch.autograd.grad(crystal.square().sum(), coords)
    assert gradient.isfinite().all()
