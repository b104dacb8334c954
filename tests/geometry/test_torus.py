from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from dao.geometry.torus import (
    IMAGES,
    exp_map,
    log_map,
    remove_mean,
    wrap,
    wrapped_normal_log_density,
    wrapped_normal_score,
)

SIGMAS = [0.005, 0.03, 0.1, 0.25, 0.5, 0.8, 1.0]


def double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def points(count: int, low: float, high: float) -> st.SearchStrategy[Tensor]:
    return hnp.arrays(np.float64, count, elements=st.floats(low, high)).map(torch.from_numpy)


@given(points(4, -1e3, 1e3))
def test_wrap_stays_in_the_cell_and_moves_by_whole_cells(x: Tensor) -> None:
    wrapped = wrap(x)
    assert ((wrapped >= 0) & (wrapped < 1)).all()
    torch.testing.assert_close((wrapped - x).round(), wrapped - x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrap_of_tiny_negatives_is_not_one(dtype: torch.dtype) -> None:
    tiny = -torch.logspace(-45, -1, 200, dtype=torch.float64).to(dtype)
    assert (wrap(tiny) < 1).all()


@given(points(5, 0, 1), points(5, 0, 1))
def test_log_map_is_the_shortest_way_and_exp_map_goes_it(origin: Tensor, target: Tensor) -> None:
    way = log_map(origin, target)
    assert (way.abs() <= 0.5 + 1e-12).all()
    images = target[:, None] - origin[:, None] + torch.arange(-2, 3)
    torch.testing.assert_close(way.abs(), images.abs().min(-1).values)
    arrived = exp_map(origin, way)
    torch.testing.assert_close(log_map(arrived, target), torch.zeros_like(way), atol=1e-12, rtol=0)


@given(points(3, 0, 1), points(3, -0.49, 0.49))
def test_log_map_undoes_exp_map(origin: Tensor, way: Tensor) -> None:
    torch.testing.assert_close(log_map(origin, exp_map(origin, way)), way, atol=1e-12, rtol=0)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_density_integrates_to_one(sigma: float) -> None:
    x = torch.linspace(-0.5, 0.5, 4001, dtype=torch.float64)[:-1]
    mass = wrapped_normal_log_density(x, double(sigma)).exp().mean()
    assert float(mass) == pytest.approx(1.0, abs=1e-10)
    assert float(mass) == pytest.approx(math.erf((IMAGES + 0.5) / (math.sqrt(2) * sigma)), abs=1e-13)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_truncation_is_as_small_as_stated(sigma: float) -> None:
    x = torch.linspace(-0.5, 0.5, 201, dtype=torch.float64)
    near = torch.arange(-IMAGES, IMAGES + 1)
    far = torch.cat([torch.arange(-IMAGES - 40, -IMAGES), torch.arange(IMAGES + 1, IMAGES + 41)])
    kept, missing = (torch.exp(-((x[:, None] + k) ** 2) / (2 * sigma**2)).sum(-1) for k in (near, far))
    bound = 2 * math.exp(-IMAGES * (IMAGES + 1) / (2 * sigma**2))
    assert (missing <= bound * kept).all()
    density = wrapped_normal_log_density(x, double(sigma)).exp() * sigma * math.sqrt(2 * math.pi)
    torch.testing.assert_close(density, kept + missing, atol=0, rtol=2 * bound + 1e-12)


@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.8, 1.0])
def test_density_and_score_are_those_of_the_fourier_series(sigma: float) -> None:
    """Independent of any sum over images: 1 + 2 sum_k exp(-2 pi^2 k^2 sigma^2) cos 2 pi k x."""
    x = torch.linspace(-0.5, 0.5, 101, dtype=torch.float64)
    k = torch.arange(1, 12, dtype=torch.float64)
    coefficient = 2 * torch.exp(-2 * (math.pi * k * sigma) ** 2)
    angle = 2 * math.pi * k * x[:, None]
    density = 1 + (coefficient * angle.cos()).sum(-1)
    slope = -(2 * math.pi * k * coefficient * angle.sin()).sum(-1)
    torch.testing.assert_close(wrapped_normal_log_density(x, double(sigma)).exp(), density, atol=1e-11, rtol=0)
    torch.testing.assert_close(wrapped_normal_score(x, double(sigma)), slope / density, atol=1e-11, rtol=0)


@given(points(6, -3, 3), st.floats(0.005, 1.0))
def test_score_is_the_derivative_of_the_log_density(x: Tensor, sigma: float) -> None:
    x.requires_grad_()
    (derivative,) = torch.autograd.grad(wrapped_normal_log_density(x, double(sigma)).sum(), x)
    score = wrapped_normal_score(x.detach(), double(sigma))
    torch.testing.assert_close(score, derivative, atol=1e-9 / sigma**2, rtol=1e-9)


@given(points(6, -0.5, 0.5), st.integers(-20, 20), st.floats(0.01, 1.0))
def test_density_and_score_have_period_one(x: Tensor, cells: int, sigma: float) -> None:
    for function in (wrapped_normal_log_density, wrapped_normal_score):
        moved = function(x + cells, double(sigma))
        # half a cell away the score of a narrow normal jumps: leave out offsets that rounding takes across
        inside = x.abs() < 0.5 - 1e-9
        torch.testing.assert_close(moved[inside], function(x, double(sigma))[inside], atol=1e-9 / sigma**2, rtol=1e-9)


def test_score_of_a_narrow_normal_is_the_plain_one() -> None:
    x = torch.linspace(-0.2, 0.2, 41)
    torch.testing.assert_close(wrapped_normal_score(x, torch.tensor(0.01)), -x / 0.01**2)


def test_single_precision_is_accurate() -> None:
    x = torch.linspace(-0.5, 0.5, 1001, dtype=torch.float64)
    for sigma in SIGMAS:
        exact = wrapped_normal_score(x, double(sigma))
        single = wrapped_normal_score(x.float(), torch.tensor(sigma))
        # in units of 1 / sigma, where half a cell away from a narrow normal is an unlikely place to be
        likely = x.abs() < 6 * sigma
        assert float((single.double() - exact)[likely].abs().max()) * sigma < 1e-4


@pytest.mark.parametrize("sigma", [0.0, -0.1, 1.01])
def test_other_widths_are_refused(sigma: float) -> None:
    for function in (wrapped_normal_log_density, wrapped_normal_score):
        with pytest.raises(ValueError, match="wrapped normal needs 0 < sigma <= 1"):
            function(torch.zeros(2), torch.tensor(sigma))


@given(
    hnp.arrays(np.float64, (2, 4, 3), elements=st.floats(-1, 1)).map(torch.from_numpy),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    hnp.arrays(np.float64, (2, 1, 3), elements=st.floats(-1, 1)).map(torch.from_numpy),
)
def test_remove_mean_forgets_translations_and_padding(
    displacement: Tensor, counts: tuple[int, int], shift: Tensor
) -> None:
    mask = (torch.arange(4) < torch.tensor(counts)[:, None]).double()
    centred = remove_mean(displacement, mask)
    torch.testing.assert_close(centred.sum(1), torch.zeros(2, 3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (centred[mask == 0] == 0).all()
    torch.testing.assert_close(remove_mean(displacement + shift, mask), centred, atol=1e-12, rtol=0)
    torch.testing.assert_close(remove_mean(centred, mask), centred, atol=1e-12, rtol=0)
