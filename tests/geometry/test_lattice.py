from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pymatgen.core import Lattice
from torch import Tensor

from dao.geometry.lattice import (
    composition_volume,
    fit_atomic_volumes,
    lattice_from_log_metric,
    lattice_from_parameters,
    lattice_parameters,
    log_metric,
    shift_log_volume,
    symmetric_to_vector,
    vector_to_symmetric,
    volume,
)


def arrays(shape: tuple[int, ...], bound: float) -> st.SearchStrategy[Tensor]:
    return hnp.arrays(np.float64, shape, elements=st.floats(-bound, bound, width=32)).map(torch.from_numpy)


@st.composite
def lattices(draw: st.DrawFn) -> Tensor:
    """Two row-vector lattices, of either hand; diagonally dominant, so never flat."""
    shape = torch.eye(3, dtype=torch.float64) + draw(arrays((2, 3, 3), 0.3125))
    hand = draw(st.sampled_from([-1.0, 1.0]))
    return torch.as_tensor(hand * draw(st.floats(2.0, 20.0)) * shape)


@st.composite
def rotations(draw: st.DrawFn) -> Tensor:
    """A rotation, from a quaternion, or a rotation with a reflection."""
    w, x, y, z = (q := draw(arrays((4,), 1.0).filter(lambda q: float(q.norm()) > 0.1))) / q.norm()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return draw(st.sampled_from([-1.0, 1.0])) * torch.tensor(rows, dtype=torch.float64)


def metric(lattice: Tensor) -> Tensor:
    return lattice @ lattice.mT


@given(lattices(), rotations())
def test_log_metric_does_not_see_rotation_or_reflection(lattice: Tensor, rotation: Tensor) -> None:
    torch.testing.assert_close(log_metric(lattice @ rotation), log_metric(lattice), atol=1e-10, rtol=0)


@given(lattices())
def test_lattice_from_log_metric_has_the_same_metric(lattice: Tensor) -> None:
    symmetric = lattice_from_log_metric(log_metric(lattice))
    torch.testing.assert_close(symmetric, symmetric.mT)
    torch.testing.assert_close(metric(symmetric), metric(lattice), atol=1e-9, rtol=1e-9)


@given(arrays((3, 6), 1.0))
def test_log_metric_undoes_lattice_from_log_metric(k: Tensor) -> None:
    torch.testing.assert_close(log_metric(lattice_from_log_metric(k)), k, atol=1e-8, rtol=0)


@given(lattices())
def test_volume_is_the_exponential_of_the_trace(lattice: Tensor) -> None:
    torch.testing.assert_close(log_metric(lattice)[..., :3].sum(-1).exp(), volume(lattice))
    a, b, c = lattice.unbind(-2)
    torch.testing.assert_close(volume(lattice), (torch.linalg.cross(a, b) * c).sum(-1).abs())


@given(lattices())
def test_parameters_round_trip(lattice: Tensor) -> None:
    lengths, angles = lattice_parameters(lattice)
    again = lattice_from_parameters(lengths, angles)
    torch.testing.assert_close(metric(again), metric(lattice), atol=1e-8, rtol=1e-8)
    again_lengths, again_angles = lattice_parameters(again)
    torch.testing.assert_close(again_lengths, lengths)
    torch.testing.assert_close(again_angles, angles, atol=1e-6, rtol=0)


@given(lattices())
def test_parameters_are_those_of_pymatgen(lattice: Tensor) -> None:
    lengths, angles = lattice_parameters(lattice)
    for one, length, angle in zip(lattice.numpy(), lengths, angles, strict=True):
        np.testing.assert_allclose(Lattice(one).parameters, torch.cat([length, angle]).numpy(), rtol=1e-8)


def test_known_cell() -> None:
    lattice = lattice_from_parameters(torch.tensor([3.0, 3.0, 5.0]), torch.tensor([90.0, 90.0, 120.0]))
    expected = torch.tensor([[3.0, 0, 0], [-1.5, 1.5 * math.sqrt(3), 0], [0, 0, 5.0]])
    torch.testing.assert_close(lattice, expected, atol=1e-5, rtol=0)
    cubic = log_metric(torch.eye(3) * 4.0)
    torch.testing.assert_close(cubic, torch.tensor([math.log(4.0)] * 3 + [0.0] * 3))


@given(arrays((2, 6), 5.0))
def test_six_numbers_make_a_symmetric_matrix(vector: Tensor) -> None:
    matrix = vector_to_symmetric(vector)
    assert torch.equal(matrix, matrix.mT)
    assert torch.equal(symmetric_to_vector(matrix), vector)


@given(lattices(), arrays((2,), 2.0))
def test_shift_log_volume_changes_the_volume_alone(lattice: Tensor, shift: Tensor) -> None:
    moved = lattice_from_log_metric(shift_log_volume(log_metric(lattice), shift))
    torch.testing.assert_close(volume(moved), volume(lattice) * shift.exp())
    scale = (shift / 3).exp()[:, None, None]
    torch.testing.assert_close(metric(moved), metric(scale * lattice), atol=1e-9, rtol=1e-9)


def test_gradients_pass_where_eigenvalues_coincide() -> None:
    cubic = torch.tensor([1.3, 1.3, 1.3, 0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lattice_from_log_metric, (cubic,))


@pytest.mark.parametrize("split", [0.0, 1e-9, 1e-5, 4e-4, 6e-4, 0.1])
def test_gradients_of_log_metric(split: float) -> None:
    """Eigenvalues that coincide, nearly do, and do not."""
    lattice = torch.diag(torch.tensor([4.0, 4.0 * (1 + split), 4.0 * (1 + 3 * split)], dtype=torch.float64))
    turn = torch.linalg.qr(torch.arange(9.0, dtype=torch.float64).reshape(3, 3).cos())[0]
    assert torch.autograd.gradcheck(log_metric, ((turn.mT @ lattice @ turn).requires_grad_(),))
    lattice.requires_grad_()
    back = lattice_from_log_metric(log_metric(lattice))
    (gradient,) = torch.autograd.grad((back @ back.mT).sum(), lattice)
    (expected,) = torch.autograd.grad((lattice @ lattice.mT).sum(), lattice)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


def planted(crystals: int, volumes: Tensor) -> tuple[Tensor, Tensor]:
    """Random compositions of three elements each, and the volumes that exactly add up."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(crystals, len(volumes), dtype=torch.float64)
    for row in counts:
        row[torch.randperm(len(volumes), generator=generator)[:3]] = torch.randint(
            1, 6, (3,), generator=generator
        ).double()
    return counts, counts @ volumes


def test_planted_volumes_are_recovered() -> None:
    truth = torch.linspace(5.0, 45.0, 20, dtype=torch.float64)
    counts, volumes = planted(2000, truth)
    torch.testing.assert_close(fit_atomic_volumes(counts, volumes, strength=1e-9), truth, rtol=1e-8, atol=0)
    torch.testing.assert_close(fit_atomic_volumes(counts, volumes), truth, rtol=0.02, atol=0)
    noisy = volumes * torch.exp(0.05 * torch.randn(2000, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(fit_atomic_volumes(counts, noisy), truth, rtol=0.05, atol=0)
    single = fit_atomic_volumes(counts.float(), volumes.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), fit_atomic_volumes(counts, volumes), rtol=1e-5, atol=0)


def test_unseen_elements_take_the_mean_volume_of_an_atom() -> None:
    counts, volumes = planted(50, torch.linspace(5.0, 45.0, 20, dtype=torch.float64))
    counts = torch.cat([counts, torch.zeros(50, 2, dtype=torch.float64)], dim=1)
    fitted = fit_atomic_volumes(counts, volumes)
    torch.testing.assert_close(fitted[-2:], (volumes.sum() / counts.sum()).expand(2), rtol=1e-14, atol=0)


@pytest.mark.parametrize("strength", [0.3, 1.0, 5.0])
def test_strength_counts_crystals_of_one_element_and_mean_density(strength: float) -> None:
    # elements 0 and 1 alone in their crystals, 9 and 11 A^3 an atom, so that the mean is 10
    counts = torch.tensor([[2.0, 0], [2.0, 0], [2.0, 0], [0, 6.0]], dtype=torch.float64)
    volumes = torch.tensor([18.0, 18.0, 18.0, 66.0], dtype=torch.float64)
    weight = torch.tensor([3 * (10 / 9) ** 2, (10 / 11) ** 2], dtype=torch.float64)
    own = torch.tensor([9.0, 11.0], dtype=torch.float64)
    expected = (weight * own + strength * 10.0) / (weight + strength)
    torch.testing.assert_close(fit_atomic_volumes(counts, volumes, strength=strength), expected)


def test_no_atom_is_smaller_than_a_cubic_angstrom() -> None:
    # additive volumes would need -2 A^3 for the second element
    counts = torch.tensor([[1.0, 0], [1.0, 4.0]], dtype=torch.float64).repeat(20, 1)
    volumes = torch.tensor([20.0, 12.0], dtype=torch.float64).repeat(20)
    assert float(fit_atomic_volumes(counts, volumes)[1]) == 1.0


def test_composition_volume_ignores_padding() -> None:
    volumes = torch.tensor([0.0, 2.0, 10.0])
    assert composition_volume(volumes, torch.tensor([[1, 2, 2], [1, 0, 0]])).tolist() == [22.0, 2.0]


def test_second_derivatives_of_log_metric_are_refused() -> None:
    """They would be wrong: the backward pass treats the eigenvalues as constants."""
    lattice = torch.diag(torch.tensor([4.0, 5.0, 6.0])).requires_grad_()
    (gradient,) = torch.autograd.grad(log_metric(lattice).square().sum(), lattice, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
