"""Heads that read the trunk's features (paper section 4.2, "Noise and Energy Heads").

Shapes: B crystals, N atoms (padded), D width, C crystal features.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

LEAST_ERROR = 1e-3
"""Least expected error, in standard deviations of the energies."""


class CoordinateHead(nn.Module):
    """Three numbers an atom, in fractional coordinates: noise, score or velocity, as the process defines it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3, bias=False)

    def forward(self, nodes: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n 3"]:
        """Zero on padding."""
        return self.linear(nodes) * mask[..., None]


class MatrixLatticeHead(nn.Module):
    """A 3x3 combination of the lattice vectors, equivariant to their rotation: phi(h) L (paper: L phi(h), columns)."""

    def __init__(self, crystal_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(crystal_width, 9, bias=False)

    def forward(self, crystal: Float[Tensor, "b c"], lattice: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 9"]:
        """Nine numbers: the noise of the row-vector lattice, flattened."""
        return (self.linear(crystal).unflatten(-1, (3, 3)).to(lattice.dtype) @ lattice).flatten(1)


class InvariantLatticeHead(nn.Module):
    """Six rotation-free numbers, for lattices in ``log_metric`` form: linear, or two layers where ``hidden`` is set."""

    def __init__(self, crystal_width: int, hidden: int | None) -> None:
        super().__init__()
        self.layers: nn.Module = nn.Linear(crystal_width, 6)
        if hidden is not None:
            self.layers = nn.Sequential(nn.Linear(crystal_width, hidden), nn.SiLU(), nn.Linear(hidden, 6))

    def forward(self, crystal: Float[Tensor, "b c"], lattice: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 6"]:
        """Six numbers; ``lattice`` is accepted so that both lattice heads are called alike."""
        return torch.as_tensor(self.layers(crystal)).to(lattice.dtype)


class EnergyHead(nn.Module):
    """One number a crystal by a two-layer perceptron."""

    def __init__(self, crystal_width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(crystal_width, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, crystal: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
        """Standardised energy, in float32 at least: losses and gradients are taken of it."""
        energy = torch.as_tensor(self.layers(crystal)).squeeze(-1)
        return energy.to(torch.promote_types(energy.dtype, torch.float32))


class ErrorHead(nn.Module):
    """How far off the energy is expected to be: one positive number a crystal by a two-layer perceptron."""

    def __init__(self, crystal_width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(crystal_width, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, crystal: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
        """Expected absolute error, float32 at least, bounded away from zero."""
        said = torch.as_tensor(self.layers(crystal)).squeeze(-1)
        return LEAST_ERROR + functional.softplus(said.to(torch.promote_types(said.dtype, torch.float32)))


class SpaceGroupHead(nn.Module):
    """Logits of the space group (index = number; index 0, unknown, is never the answer)."""

    def __init__(self, crystal_width: int, hidden: int, space_groups: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(crystal_width, hidden), nn.SiLU(), nn.Linear(hidden, space_groups + 1))

    def forward(self, crystal: Float[Tensor, "b c"]) -> Float[Tensor, "b s"]:
        """(B, 231) logits."""
        logits = torch.as_tensor(self.layers(crystal))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.index_fill(-1, torch.zeros(1, dtype=torch.long, device=logits.device), -1e9)
