from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dao.networks.config import SPACE_GROUPS
from dao.networks.heads import CoordinateHead, EnergyHead, InvariantLatticeHead, MatrixLatticeHead, SpaceGroupHead

WIDTH = 12
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def crystal_features(dtype: torch.dtype) -> Tensor:
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@DTYPES
def test_coordinates_are_zero_on_padding(dtype: torch.dtype) -> None:
    head = CoordinateHead(WIDTH).to(dtype)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    out = head(torch.randn(2, 3, WIDTH, dtype=dtype), mask)
    assert out.shape == (2, 3, 3)
    assert out.dtype == dtype
    assert not out[~mask].any()
    assert out[mask].all()
    assert sum(parameter.numel() for parameter in head.parameters()) == 3 * WIDTH


@DTYPES
def test_matrix_lattice_turns_with_the_lattice(dtype: torch.dtype) -> None:
    head = MatrixLatticeHead(WIDTH).to(dtype)
    features, lattice = crystal_features(dtype), torch.randn(5, 3, 3, dtype=dtype)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=dtype))
    out = head(features, lattice)
    assert out.shape == (5, 9)
    torch.testing.assert_close(head(features, lattice @ turn), (out.unflatten(-1, (3, 3)) @ turn).flatten(1))
    # rows are combinations of the lattice vectors
    phi = head.linear(features).unflatten(-1, (3, 3))
    torch.testing.assert_close(out.unflatten(-1, (3, 3))[0, 1], sum(phi[0, 1, i] * lattice[0, i] for i in range(3)))


@DTYPES
@pytest.mark.parametrize("hidden", [None, 8])
def test_invariant_lattice_ignores_the_lattice(hidden: int | None, dtype: torch.dtype) -> None:
    head = InvariantLatticeHead(WIDTH, hidden).to(dtype)
    features = crystal_features(dtype)
    out = head(features, torch.randn(5, 3, 3, dtype=dtype))
    assert out.shape == (5, 6)
    assert out.dtype == dtype
    torch.testing.assert_close(head(features, torch.randn(5, 3, 3, dtype=dtype)), out)


@DTYPES
def test_energy(dtype: torch.dtype) -> None:
    out = EnergyHead(WIDTH, 8).to(dtype)(crystal_features(dtype))
    assert out.shape == (5,)
    assert out.dtype == dtype


@DTYPES
def test_space_group_zero_is_never_the_answer(dtype: torch.dtype) -> None:
    head = SpaceGroupHead(WIDTH, 8, SPACE_GROUPS).to(dtype)
    logits = head(1e4 * crystal_features(dtype))
    assert logits.shape == (5, 231)
    assert logits.dtype == dtype
    assert logits.isfinite().all()
    assert (torch.softmax(logits, dim=-1)[:, 0] == 0).all()


def test_what_losses_are_taken_of_stays_in_float32_under_autocast() -> None:
    features = crystal_features(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert EnergyHead(WIDTH, 8)(features).dtype == torch.float32
        assert SpaceGroupHead(WIDTH, 8, SPACE_GROUPS)(features).dtype == torch.float32
        lattice = torch.eye(3).expand(5, 3, 3)
        assert MatrixLatticeHead(WIDTH)(features, lattice).dtype == torch.bfloat16
