"""Batches of similar size: shuffle, sort within a window, cut, shuffle the batches; no Python loop per crystal.

Shapes: B crystals of a batch, N atoms (padded).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dao.crystal import CrystalBatch
from dao.data.store import PackedCrystals


@dataclass
class BucketLoader:
    """Endless epochs of size-bucketed batches over packed crystals; its position is two integers, so it resumes.

    Each epoch draws one permutation, sorts it by size within windows of ``window`` batches and cuts it into batches,
    which come in random order. Batches are padded to a multiple of ``pad_multiple`` atoms, so there are few shapes.

    With ``shares`` the crystals are there 1 + len(shares) times, one after the other and each time described otherwise:
    an epoch sees each of them once, those shares of them by their second description, their third, and so on.
    """

    crystals: PackedCrystals
    batch_size: int
    seed: int
    window: int = 8
    pad_multiple: int = 2
    shares: tuple[float, ...] = ()
    epoch: int = 0
    position: int = 0
    """Next batch of the epoch."""

    def __post_init__(self) -> None:
        """Precompute what every epoch needs."""
        self.batch_size = min(self.batch_size, self.num_crystals)
        self._sizes = self.crystals.num_atoms.cpu()
        self._order: list[Tensor] | None = None

    @property
    def num_crystals(self) -> int:
        """Crystals in an epoch."""
        return len(self.crystals) // (1 + len(self.shares))

    @property
    def batches_per_epoch(self) -> int:
        """Full batches; the remainder of a permutation waits for another epoch's."""
        return self.num_crystals // self.batch_size

    def _epoch_batches(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.num_crystals, generator=generator)[: self.batches_per_epoch * self.batch_size]
        if self.shares:
            below = torch.tensor(self.shares).flip(0).cumsum(0)
            drawn = torch.rand(len(order), generator=generator)[:, None]
            order = order + self.num_crystals * (drawn < below).sum(1)
        batches: list[Tensor] = []
        for piece in order.split(self.window * self.batch_size):
            batches += piece[self._sizes[piece].argsort(stable=True)].split(self.batch_size)
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def __iter__(self) -> Iterator[CrystalBatch]:
        """Yield batches from the current position on, without end."""
        while True:
            if self._order is None:
                self._order = self._epoch_batches()
            while self.position < len(self._order):
                indices = self._order[self.position]
                self.position += 1
                largest = int(self._sizes[indices].max())
                pad_to = -(-largest // self.pad_multiple) * self.pad_multiple
                yield self.crystals.batch(indices.to(self.crystals.offsets.device), pad_to)
            self.epoch, self.position, self._order = self.epoch + 1, 0, None

    def state_dict(self) -> dict[str, int]:
        """Where the loader is."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go back to where a loader was."""
        self.epoch, self.position, self._order = state["epoch"], state["position"], None
