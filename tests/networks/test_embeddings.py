from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dao.networks.embeddings import (
    ELEMENT_FEATURES,
    count_embedding,
    element_features,
    fourier_features,
    sinusoidal_embedding,
)

DTYPES = st.sampled_from([torch.float32, torch.float64])


def test_element_features_are_the_cgcnn_table() -> None:
    table = element_features()
    assert table.shape == (95, ELEMENT_FEATURES)
    assert not table[0].any()
    assert set(table.unique().tolist()) == {0.0, 1.0}
    # group, period, electronegativity, radius, valence electrons, ionisation, affinity, block and volume: at most one
    # bin of each, and those of an element that has no value for a property are empty
    groups = [19, 7, 10, 10, 12, 10, 10, 4, 10]
    assert sum(groups) == ELEMENT_FEATURES
    assert all(part.sum(-1).max() <= 1 for part in table.split(groups, dim=-1))
    # hydrogen and iron: group (0 for lanthanides and actinides), then period, valence electrons and block from 0
    for number, expected in ((1, (1, 0, 0, 0)), (26, (8, 3, 7, 2)), (92, (0, 6, 1, 3))):
        parts = table[number].split(groups)
        assert tuple(int(parts[i].argmax()) for i in (0, 1, 4, 7)) == expected


def test_pairs_of_elements_that_share_their_features() -> None:
    """Why a network may add a vector of its own per element (``element_embedding``)."""
    table = element_features()[1:]
    shared = [(i + 1, j + 1) for i, j in combinations(range(94), 2) if torch.equal(table[i], table[j])]
    assert shared == [(57, 58), (62, 64), (67, 68), (90, 93)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.integers(2, 20), DTYPES)
def test_time_embedding(times: list[float], half: int, dtype: torch.dtype) -> None:
    embedded = sinusoidal_embedding(torch.tensor(times, dtype=dtype), 2 * half)
    assert embedded.shape == (len(times), 2 * half)
    assert embedded.dtype == dtype
    torch.testing.assert_close(
        embedded[:, :half] ** 2 + embedded[:, half:] ** 2, torch.ones(len(times), half).to(dtype)
    )
    # the fastest feature turns 1000 radians over the unit of time, the slowest a ten-thousandth of that
    for time, row in zip(times, embedded.tolist(), strict=True):
        assert row[0] == pytest.approx(math.sin(1000 * time), abs=2e-4)
        assert row[half - 1] == pytest.approx(math.sin(0.1 * time), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embedding_of_the_number_of_atoms(dtype: torch.dtype) -> None:
    counts = torch.arange(1, 53)
    embedded = count_embedding(counts, 32, dtype)
    assert embedded.dtype == dtype
    torch.testing.assert_close(embedded[:, 0], torch.sin(counts.to(dtype)))
    assert torch.pdist(embedded).min() > 0.05  # every number of atoms looks different


@given(st.integers(1, 16), st.integers(0, 10**6), st.integers(-3, 3), DTYPES)
def test_fourier_features(frequencies: int, seed: int, cells: int, dtype: torch.dtype) -> None:
    coords = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)
    sin, cos = fourier_features(coords, frequencies)
    assert sin.shape == cos.shape == (2, 3, 3 * frequencies)
    assert sin.dtype == cos.dtype == dtype
    expected = [math.sin(2 * math.pi * k * x) for x in coords[1, 2].tolist() for k in range(frequencies)]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(sin[1, 2], torch.tensor(expected, dtype=dtype), atol=tolerance, rtol=0.0)
    for one, other in zip(fourier_features(coords + cells, frequencies), (sin, cos), strict=True):
        torch.testing.assert_close(one, other, atol=30 * tolerance, rtol=0.0)  # periodic
