from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dao.geometry.torus import wrapped_normal_score
from dao.processes.schedules import cosine_alpha_bar, geometric_sigma, mean_square_score


@pytest.mark.parametrize("timesteps", [10, 100, 1000])
def test_cosine_schedule(timesteps: int) -> None:
    alpha_bar = cosine_alpha_bar(timesteps)
    assert alpha_bar.shape == (timesteps + 1,)
    assert float(alpha_bar[0]) == 1.0
    beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
    assert float(beta.min()) >= 1e-4 - 1e-12
    assert float(beta[-1]) == pytest.approx(0.9999, rel=1e-12)
    ideal = np.cos(np.pi / 2 * (np.arange(timesteps) / timesteps + 0.008) / 1.008) ** 2
    # but for the clipped steps at either end
    np.testing.assert_allclose(alpha_bar[:-1].numpy(), ideal / ideal[0], rtol=5e-4)


def test_geometric_schedule() -> None:
    sigma = geometric_sigma(1000, 0.005, 0.5)
    assert sigma[[0, 1, 1000]].tolist() == pytest.approx([0, 0.005, 0.5], rel=1e-12)
    torch.testing.assert_close(sigma[2:] / sigma[1:-1], torch.full((999,), 100 ** (1 / 999), dtype=torch.float64))
    assert geometric_sigma(1, 0.005, 0.5).tolist() == pytest.approx([0, 0.005])


def test_mean_square_score_at_its_limits() -> None:
    narrow = torch.tensor([1e-4, 0.005, 0.03, 0.06], dtype=torch.float64)
    torch.testing.assert_close(mean_square_score(narrow) * narrow**2, torch.ones_like(narrow), rtol=1e-9, atol=0)
    wide = torch.tensor([0.8, 1.0], dtype=torch.float64)
    leading = 8 * math.pi**2 * torch.exp(-4 * math.pi**2 * wide**2)
    torch.testing.assert_close(mean_square_score(wide), leading, rtol=1e-4, atol=0)


def test_mean_square_score_is_what_sampling_estimates() -> None:
    generator = torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.005, 0.05, 0.15, 0.3, 0.5], dtype=torch.float64)
    squares = wrapped_normal_score(
        sigma * torch.randn(50_000, 5, generator=generator, dtype=torch.float64), sigma
    ).square()
    error = squares.std(0) / math.sqrt(len(squares))
    assert ((squares.mean(0) - mean_square_score(sigma)).abs() < 4 * error).all()


def test_mean_square_score_has_no_seam_between_narrow_and_wide() -> None:
    # 1/24 is where the quadrature goes over to the whole period
    sigma = torch.tensor([1 / 24 - 1e-9, 1 / 24, 1 / 24 + 1e-9], dtype=torch.float64)
    values = mean_square_score(sigma) * sigma**2
    torch.testing.assert_close(values, values[1].expand(3), rtol=1e-10, atol=0)
