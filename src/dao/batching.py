"""Batches of crystals of like sizes, and what a network says of crystals batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from torch import Tensor

from dao.crystal import Crystal, CrystalBatch
from dao.geometry.cells import reduced

T = TypeVar("T")

ATOMS_PER_BATCH = 4096
"""Padded atoms of a batch, unless its size is given; larger ones are no faster on a CPU."""


def batches(crystals: Sequence[Crystal], batch_size: int | None) -> Iterator[list[int]]:
    """Places of crystals, those of like sizes together, cut as by :func:`of_like_sizes`."""
    return of_like_sizes([crystal.num_atoms for crystal in crystals], batch_size)


def of_like_sizes(sizes: Sequence[int], batch_size: int | None) -> Iterator[list[int]]:
    """Places of ``sizes`` by rising size, ``batch_size`` or about :data:`ATOMS_PER_BATCH` padded atoms at a time."""
    batch: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        size = sizes[i]
        if batch and (len(batch) == batch_size or (batch_size is None and (len(batch) + 1) * size > ATOMS_PER_BATCH)):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def said_of(
    crystals: Sequence[Crystal],
    say: Callable[[CrystalBatch], Sequence[T]],
    like: Tensor,
    *,
    batch_size: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[T]:
    """What a network says of each crystal, in their order; batches change nothing beyond rounding.

    Args:
        crystals: in whatever cell; the network sees primitive Niggli cells.
        say: of a batch, one answer a crystal.
        like: a tensor of the network's type, on its device.
        batch_size: crystals a batch; by number of atoms if not given.
        advance: told how many crystals are done, batch by batch.

    """
    cells = [reduced(crystal) for crystal in crystals]
    made: dict[int, T] = {}
    for places in batches(cells, batch_size):
        batch = CrystalBatch.from_crystals([cells[i] for i in places], dtype=like.dtype).to(like.device)
        made.update(zip(places, say(batch), strict=True))
        if advance is not None:
            advance(len(places))
    return [made[i] for i in range(len(cells))]
