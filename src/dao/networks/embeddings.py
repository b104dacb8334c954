"""Embeddings of elements and of time.

Shapes: B crystals, N atoms (padded), C element features, T time features.
"""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.resources import files

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dao.constants import MAX_ATOMIC_NUMBER

ELEMENT_FEATURES = 92
"""Numbers per element in the CGCNN table: binned group, period, electronegativity, covalent radius, valence electrons,
first ionisation energy, electron affinity, block and atomic volume."""


@cache
def element_features() -> Float[Tensor, "e 92"]:
    """CGCNN's published 0/1 features of elements 1-94 by atomic number; row 0 (padding) is zero. Shape (95, 92).

    Source: Xie & Grossman, Phys. Rev. Lett. 120, 145301 (2018), in the form distributed with jarvis-tools (MIT).
    """
    table = json.loads((files("dao.networks") / "element_features.json").read_text())["features"]
    features = torch.zeros(MAX_ATOMIC_NUMBER + 1, ELEMENT_FEATURES)
    for number, bits in table.items():
        features[int(number)] = torch.tensor([float(bit) for bit in bits])
    return features


def sinusoidal_embedding(time: Float[Tensor, " b"], features: int, *, scale: float = 1000.0) -> Float[Tensor, "b t"]:
    """Sines and cosines of ``scale * time`` (time in [0, 1]) at ``features / 2`` frequencies, 1 to 1e-4."""
    half = features // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, device=time.device, dtype=time.dtype) / (half - 1))
    angles = scale * time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def fourier_features(
    frac_coords: Float[Tensor, "b n 3"], frequencies: int
) -> tuple[Float[Tensor, "b n f"], Float[Tensor, "b n f"]]:
    """Sines and cosines of 2 pi k f for k = 0 .. ``frequencies`` - 1 and three axes: two tensors (B, N, 3 F)."""
    k = torch.arange(frequencies, device=frac_coords.device, dtype=frac_coords.dtype)
    angles = (2.0 * math.pi) * (frac_coords[..., None] * k).flatten(-2)
    return angles.sin(), angles.cos()


def count_embedding(num_atoms: Int[Tensor, " b"], features: int, dtype: torch.dtype) -> Float[Tensor, "b t"]:
    """Sinusoidal embedding of the number of atoms in a cell."""
    return sinusoidal_embedding(num_atoms.to(dtype), features, scale=1.0)
