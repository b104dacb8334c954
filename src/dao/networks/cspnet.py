"""CSPNet: the message-passing network of DiffCSP and, with two changes, of FlowMM.

Every atom receives the mean of a message from each atom of the cell, itself included; a message is a two-layer
perceptron of both atoms' features, the lattice, and sines and cosines of the difference of their coordinates. Invariant
to rotation and reflection of the lattice and to translation of the atoms, equivariant to their order. Sources: Jiao et
al., "Crystal structure prediction by joint equivariant diffusion" (DiffCSP, 2023), section 4.2; Miller et al., "FlowMM"
(2024), which shows the network the standardised lattice numbers in place of L L^T, and the number of atoms.

Shapes: B crystals, N atoms (padded), D width, F frequencies, W = 6F waves, G lattice numbers of an edge.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from dao.constants import MAX_ATOMIC_NUMBER
from dao.networks.config import COUNT_FEATURES, LATTICE_FEATURES, CSPNetConfig
from dao.networks.edges import gram_features
from dao.networks.embeddings import count_embedding, fourier_features, sinusoidal_embedding


class CSPLayer(nn.Module):
    """Messages along all edges, their mean, and a residual update of the atoms (DiffCSP, eqs. 7 to 9)."""

    def __init__(self, width: int, lattice_numbers: int, waves: int) -> None:
        super().__init__()
        self.split = (width, width, lattice_numbers, waves)
        self.norm = nn.LayerNorm(width)
        self.edge_in = nn.Linear(sum(self.split), width)
        self.edge_out = nn.Linear(width, width)
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(
        self,
        nodes: Float[Tensor, "b n d"],
        lattice: Float[Tensor, "b g"],
        waves: Float[Tensor, "b n n w"],
        share: Float[Tensor, "b n"],
    ) -> Float[Tensor, "b n d"]:
        """One layer; ``share`` is 1 / number of atoms for atoms and 0 for padding."""
        h = self.norm(nodes)
        # edge_in of (h_i, h_j, lattice, waves_ij), of which only the last needs a product for each pair
        w_i, w_j, w_lattice, w_waves = self.edge_in.weight.split(self.split, dim=-1)
        receivers = functional.linear(h, w_i, self.edge_in.bias) + functional.linear(lattice, w_lattice)[:, None]
        edges = functional.linear(waves, w_waves) + receivers[:, :, None] + functional.linear(h, w_j)[:, None]
        messages = functional.silu(self.edge_out(functional.silu(edges)))  # (B, N, N, D)
        mean = torch.einsum("bijd,bj->bid", messages, share.to(messages.dtype))
        return nodes + self.node(torch.cat([h, mean.to(h.dtype)], dim=-1))


class CSPNet(nn.Module):
    """Trunk with the interface of :class:`~dao.networks.crysformer.Crysformer`."""

    def __init__(self, config: CSPNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.atom = nn.Embedding(MAX_ATOMIC_NUMBER + 1, width)
        self.atom_and_time = nn.Linear(width + config.time_features, width)
        lattice_numbers = 9 if config.edge_lattice == "gram" else LATTICE_FEATURES
        lattice_numbers += COUNT_FEATURES if config.atom_count else 0
        self.blocks = nn.ModuleList(
            CSPLayer(width, lattice_numbers, 6 * config.frequencies) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width)

    @property
    def crystal_width(self) -> int:
        """Width of the crystal features: the pooled nodes."""
        return self.config.width

    def forward(
        self,
        atomic_numbers: Int[Tensor, "b n"],
        frac_coords: Float[Tensor, "b n 3"],
        lattice: Float[Tensor, "b 3 3"],
        lattice_features: Float[Tensor, "b 6"],
        time: Float[Tensor, " b"],
        mask: Bool[Tensor, "b n"],
        space_group: Int[Tensor, " b"] | None = None,
        wyckoff: Int[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b d"]]:
        """Node features (B, N, D) and their mean over atoms (B, D).

        Args:
            atomic_numbers: element of each atom, 0 = padding.
            frac_coords: fractional coordinates.
            lattice: row vectors, A.
            lattice_features: rotation-free numbers of the lattice, of order one; used with ``edge_lattice="numbers"``.
            time: 0 = data to 1 = noise.
            mask: true for atoms, false for padding.
            space_group: accepted so that all networks are called alike, and ignored.
            wyckoff: likewise.

        """
        del space_group, wyckoff
        with torch.autocast(frac_coords.device.type, enabled=False):
            numbers = lattice_features if self.config.edge_lattice == "numbers" else gram_features(lattice, "raw")
            waves = edge_waves(frac_coords, self.config.frequencies)
        if self.config.atom_count:
            counts = count_embedding(mask.sum(1), COUNT_FEATURES, frac_coords.dtype)
            numbers = torch.cat([numbers, counts], dim=-1)
        share = mask.to(frac_coords.dtype)
        share = share / share.sum(1, keepdim=True).clamp_min(1.0)

        time_features = sinusoidal_embedding(time, self.config.time_features)
        atoms = self.atom(atomic_numbers)
        nodes = self.atom_and_time(torch.cat([atoms, time_features[:, None].expand(-1, atoms.shape[1], -1)], dim=-1))
        for block in self.blocks:
            nodes = block(nodes, numbers, waves, share)
        nodes = self.norm(nodes)
        return nodes, (nodes * share.to(nodes.dtype)[..., None]).sum(1)


def edge_waves(frac_coords: Float[Tensor, "b n 3"], frequencies: int) -> Float[Tensor, "b n n w"]:
    """Sines, then cosines, of 2 pi k (f_j - f_i) for k < F and three axes; entry (b, i, j)."""
    sin, cos = fourier_features(frac_coords, frequencies)
    sin_i, cos_i, sin_j, cos_j = sin[:, :, None], cos[:, :, None], sin[:, None], cos[:, None]
    return torch.cat([sin_j * cos_i - cos_j * sin_i, cos_j * cos_i + sin_j * sin_i], dim=-1)
