from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dao.processes.base import NoiseSource


class SeededNoise:
    """One double-precision stream for a whole batch."""

    def __init__(self, batch: int, seed: int = 0) -> None:
        self.batch = batch
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.batch, *shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.batch, *shape, generator=self.generator, dtype=torch.float64)


@pytest.fixture
def noise() -> Callable[..., NoiseSource]:
    """``noise(batch, seed)``: the same numbers for the same seed."""
    return SeededNoise
