"""Random numbers of samples: each walk of each sample draws from a stream of its own, never from its batch's.

Shapes: B crystals of a batch, N atoms (padded).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from dao.sampling import SampleRequest


class SampleNoise:
    """Random numbers for a batch, each crystal's from its own counter-based stream.

    Shapes of two axes (N, C) are per atom: a crystal draws for its own atoms only, so padding changes nothing.
    """

    def __init__(self, requests: Sequence[SampleRequest], seed: int, like: Tensor, walk: int = 0) -> None:
        """One stream a request and walk; numbers come with the type and device of ``like``."""
        keys = [_stream_key(request, seed, walk) for request in requests]
        self._streams = [np.random.Generator(np.random.Philox(key=key)) for key in keys]
        self._counts = [len(request.atomic_numbers) for request in requests]
        self._like = like

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (B, *shape)."""
        return self._draw("standard_normal", shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), (B, *shape)."""
        drawn = self._draw("random", shape)
        # a float64 just below 1 rounds to 1 in float32
        return torch.where(drawn >= 1.0, torch.zeros_like(drawn), drawn)

    def _draw(self, method: str, shape: tuple[int, ...]) -> Tensor:
        out = np.zeros((len(self._streams), *shape))
        for row, stream, count in zip(out, self._streams, self._counts, strict=True):
            if len(shape) == 2:
                row[:count] = getattr(stream, method)((count, *shape[1:]))
            else:
                row[...] = getattr(stream, method)(shape)
        return torch.from_numpy(out).to(self._like)


def _stream_key(request: SampleRequest, seed: int, walk: int) -> int:
    text = f"{seed}|{','.join(map(str, request.atomic_numbers))}|{request.index}|{walk}"
    if request.replica:
        text += f"|{request.replica}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
