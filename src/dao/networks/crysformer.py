"""Crysformer: a transformer over the atoms of a crystal that sees pair geometry without building pair features.

Paper section 4.2. The network is invariant to rotation and reflection of the lattice and to translation of the atoms,
and equivariant to their order. The edge feature between atoms i and j is

    e_ij = LayerNorm([L L^T (9), sin 2 pi k (f_j - f_i) (3F), cos 2 pi k (f_j - f_i) (3F)]),   k = 0 .. F-1

and one linear map of it, W e_ij, is added to both keys and values (eq. 6). It is never materialised: with per-atom
s = sin 2 pi k f and c = cos 2 pi k f, sin(theta_j - theta_i) = s_j c_i - c_j s_i and cos(theta_j - theta_i) = c_j c_i +
s_j s_i, so inner products with e_ij are inner products of a query rotated by atom i with atom j's own (s_j, c_j), and
weighted sums over j are rotated back. The LayerNorm's mean over e_ij is such an inner product too, and its variance
follows from sin^2 + cos^2 = 1. Time and memory grow as N^2 + N D^2, not N^2 (9 + 6F).
``tests/networks`` holds the explicit form against this one.

Shape legend: B crystals, N atoms (padded), D width, H heads, K = D / H, F frequencies, E = 9 + 6F edge features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from dao.networks.config import COUNT_FEATURES, LATTICE_FEATURES, SPACE_GROUPS, CrysformerConfig
from dao.networks.embeddings import (
    ELEMENT_FEATURES,
    count_embedding,
    element_features,
    fourier_features,
    sinusoidal_embedding,
)


@dataclass(frozen=True)
class EdgeGeometry:
    """What the blocks need to know of all pairs, per atom wherever possible."""

    gram: Float[Tensor, "b 9"]
    sin: Float[Tensor, "b n f"]
    cos: Float[Tensor, "b n f"]
    inverse_deviation: Float[Tensor, "b n n"]


def gram_features(lattice: Float[Tensor, "b 3 3"], kind: str) -> Float[Tensor, "b 9"]:
    """L L^T flattened: in A^2 (``raw``), or in units of V^(2/3) (``normalized``)."""
    gram = lattice @ lattice.mT
    if kind == "normalized":
        gram = gram / torch.linalg.det(lattice).abs().clamp_min(1e-6)[:, None, None] ** (2.0 / 3.0)
    return gram.flatten(1)


def edge_geometry(
    frac_coords: Float[Tensor, "b n 3"], gram: Float[Tensor, "b 9"], frequencies: int, epsilon: float
) -> EdgeGeometry:
    """Per-atom Fourier features and the LayerNorm statistics of every edge, from the identities of the module head."""
    sin, cos = fourier_features(frac_coords, frequencies)
    features = 9 + 2 * sin.shape[-1]
    # sum over all sines and cosines of edge ij: the all-ones query, rotated by atom i
    summed = (cos + sin) @ sin.mT + (cos - sin) @ cos.mT
    mean = (summed + gram.sum(-1)[:, None, None]) / features
    second_moment = ((gram**2).sum(-1) + sin.shape[-1]) / features
    variance = (second_moment[:, None, None] - mean**2).clamp_min(0.0)
    return EdgeGeometry(gram, sin, cos, (variance + epsilon).rsqrt())


class InvariantAttention(nn.Module):
    """Multi-head attention whose keys and values carry W e_ij (paper eq. 6), without materialising e_ij."""

    def __init__(self, width: int, heads: int, frequencies: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.edge = nn.Linear(9 + 6 * frequencies, width)
        self.output = nn.Linear(width, width)

    def folded_edge_map(
        self, edge_norm: nn.LayerNorm
    ) -> tuple[Float[Tensor, "h k 9"], Float[Tensor, "h k f"], Float[Tensor, "h k f"], Float[Tensor, " d"]]:
        """The linear map of the raw edge features with the LayerNorm folded in: its parts for Gram, sin, cos; its bias.

        Scale and shift join the map and its bias. Taking the mean over features from e_ij is taking the mean over
        columns from the map, so that only the division by the deviation is left to do for each pair.
        """
        weight = self.edge.weight * edge_norm.weight
        weight = (weight - weight.mean(-1, keepdim=True)).unflatten(0, (self.heads, -1))
        bias = self.edge.bias + self.edge.weight @ edge_norm.bias
        waves = (weight.shape[-1] - 9) // 2
        gram, sin, cos = weight.split([9, waves, waves], dim=-1)
        return gram, sin, cos, bias

    def forward(
        self,
        nodes: Float[Tensor, "b n d"],
        edges: EdgeGeometry,
        edge_norm: nn.LayerNorm,
        key_bias: Float[Tensor, "b 1 1 n"],
    ) -> Float[Tensor, "b n d"]:
        """Attend. ``key_bias`` is 0 for atoms and -inf for padding."""
        q, k, v = self.query_key_value(nodes).unflatten(-1, (3 * self.heads, -1)).chunk(3, dim=2)  # (B, N, H, K)
        w_gram, w_sin, w_cos, bias = self.folded_edge_map(edge_norm)
        sin, cos = edges.sin[:, :, None], edges.cos[:, :, None]  # (B, N, 1, 3F): of the querying atom i
        inverse_deviation = edges.inverse_deviation[:, :, None]  # (B, N, 1, N)
        lattice = torch.einsum("hke,be->bhk", w_gram, edges.gram)[:, None]  # the part of W e_ij that all pairs share

        q = q * q.shape[-1] ** -0.5
        # W^T q_i, turned by atom i, against the waves of atom j
        a_sin, a_cos = torch.einsum("bnhk,hkf->bnhf", q, w_sin), torch.einsum("bnhk,hkf->bnhf", q, w_cos)
        turned_sin = torch.addcmul(a_sin * cos, a_cos, sin).flatten(1, 2)
        turned_cos = torch.addcmul(a_cos * cos, a_sin, sin, value=-1).flatten(1, 2)
        shared = (q * lattice).sum(-1, keepdim=True).flatten(1, 2)
        edge_logits = torch.baddbmm(torch.baddbmm(shared, turned_sin, edges.sin.mT), turned_cos, edges.cos.mT)
        logits = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)).transpose(1, 2) + key_bias  # (B, N, H, N)
        logits = torch.addcmul(logits, edge_logits.unflatten(1, (-1, self.heads)), inverse_deviation)
        attention = torch.softmax(logits, dim=-1)

        # sum over j of a_ij W e_ij: gather the waves of all atoms j, turn them back by atom i, then apply W once
        scaled = attention * inverse_deviation
        gathered_sin = (scaled.flatten(1, 2) @ edges.sin).unflatten(1, (-1, self.heads))
        gathered_cos = (scaled.flatten(1, 2) @ edges.cos).unflatten(1, (-1, self.heads))
        turned_sin = torch.addcmul(gathered_sin * cos, gathered_cos, sin, value=-1)
        turned_cos = torch.addcmul(gathered_cos * cos, gathered_sin, sin)
        values = (attention.transpose(1, 2) @ v.transpose(1, 2)).transpose(1, 2)
        values = torch.addcmul(values, scaled.sum(-1, keepdim=True), lattice)
        values = values + torch.einsum("bnhf,hkf->bnhk", turned_sin, w_sin)
        values = values + torch.einsum("bnhf,hkf->bnhk", turned_cos, w_cos)
        return self.output(values.flatten(2) + bias)


class GatedResidual(nn.Module):
    """alpha x + (1 - alpha) y with one learned alpha per node (paper eq. 7)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(3 * width, 1, bias=False)

    def forward(self, x: Float[Tensor, "b n d"], y: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Mix the sublayer's output ``y`` into its input ``x``."""
        # the map of (x, y, x - y) is one map of x plus one of y: no concatenation
        w_x, w_y, w_difference = self.gate.weight.chunk(3, dim=-1)
        logit = functional.linear(x, w_x + w_difference) + functional.linear(y, w_y - w_difference)
        return torch.lerp(y, x, torch.sigmoid(logit).to(x.dtype))


class CrysformerBlock(nn.Module):
    """Gated residuals around pre-norm attention and a pre-norm feed-forward (paper eqs. 8 and 9)."""

    def __init__(self, config: CrysformerConfig) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = InvariantAttention(width, config.heads, config.frequencies)
        self.attention_residual = GatedResidual(width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.feed_forward_residual = GatedResidual(width)
        self.modulation = nn.Linear(width, 4 * width) if config.conditioning == "scale_shift" else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        nodes: Float[Tensor, "b n d"],
        edges: EdgeGeometry,
        edge_norm: nn.LayerNorm,
        key_bias: Float[Tensor, "b 1 1 n"],
        condition: Float[Tensor, "b d"] | None,
    ) -> Float[Tensor, "b n d"]:
        """One block; ``condition`` scales and shifts the normalised inputs where the network has a modulation."""
        attention_input = self.attention_norm(nodes)
        if self.modulation is not None and condition is not None:
            scale_a, shift_a, scale_f, shift_f = self.modulation(condition)[:, None].chunk(4, dim=-1)
            attention_input = attention_input * (1 + scale_a) + shift_a
        nodes = self.attention_residual(nodes, self.attention(attention_input, edges, edge_norm, key_bias))
        feed_forward_input = self.feed_forward_norm(nodes)
        if self.modulation is not None and condition is not None:
            feed_forward_input = feed_forward_input * (1 + scale_f) + shift_f
        return self.feed_forward_residual(nodes, self.feed_forward(feed_forward_input))


class Crysformer(nn.Module):
    """The trunk that generator and predictor share: atoms, geometry and time in, node and crystal features out."""

    def __init__(self, config: CrysformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.register_buffer("element_features", element_features(), persistent=False)
        self.atom = nn.Linear(ELEMENT_FEATURES, width)
        self.element = nn.Embedding(self.element_features.shape[0], width) if config.element_embedding else None
        self.atom_and_time = nn.Linear(width + config.time_features, width)
        self.edge_norm = nn.LayerNorm(9 + 6 * config.frequencies)
        self.condition: nn.Module | None = None
        if config.conditioning == "scale_shift":
            self.condition = nn.Sequential(
                nn.Linear(config.time_features + LATTICE_FEATURES + COUNT_FEATURES, width),
                nn.SiLU(),
                nn.Linear(width, width),
            )
        # entry 0: unknown
        self.space_group = nn.Embedding(SPACE_GROUPS + 1, width) if config.space_groups else None
        self.blocks = nn.ModuleList(CrysformerBlock(config) for _ in range(config.blocks))

    element_features: Tensor

    @property
    def crystal_width(self) -> int:
        """Width of the crystal features: the pooled nodes, and the conditioning vector where there is one."""
        return self.config.width * (2 if self.condition is not None else 1)

    def forward(
        self,
        atomic_numbers: Int[Tensor, "b n"],
        frac_coords: Float[Tensor, "b n 3"],
        lattice: Float[Tensor, "b 3 3"],
        lattice_features: Float[Tensor, "b 6"],
        time: Float[Tensor, " b"],
        mask: Bool[Tensor, "b n"],
        space_group: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b c"]]:
        """Node features (B, N, D) and crystal features (B, C).

        Args:
            atomic_numbers: element of each atom, 0 = padding.
            frac_coords: fractional coordinates.
            lattice: row vectors, A.
            lattice_features: rotation-free numbers of the lattice, of order one; unused without conditioning.
            time: 0 = data to 1 = noise.
            mask: true for atoms, false for padding.
            space_group: number 1-230 or 0 = unknown (the default); ignored by networks that do not condition on it.

        """
        gram = gram_features(lattice, self.config.gram)
        with torch.autocast(frac_coords.device.type, enabled=False):
            edges = edge_geometry(frac_coords, gram, self.config.frequencies, self.edge_norm.eps)
        key_bias = torch.zeros_like(mask, dtype=frac_coords.dtype).masked_fill(~mask, -torch.inf)[:, None, None]

        time_features = sinusoidal_embedding(time, self.config.time_features)
        atoms = self.atom(self.element_features.to(frac_coords.dtype)[atomic_numbers])
        if self.element is not None:
            atoms = atoms + self.element(atomic_numbers)
        nodes = self.atom_and_time(torch.cat([atoms, time_features[:, None].expand(-1, atoms.shape[1], -1)], dim=-1))
        condition = None
        if self.condition is not None:
            counts = count_embedding(mask.sum(1), COUNT_FEATURES).to(frac_coords.dtype)
            condition = self.condition(torch.cat([time_features, lattice_features, counts], dim=-1))
            if self.space_group is not None:
                known = torch.zeros_like(mask[:, 0], dtype=torch.long) if space_group is None else space_group
                condition = condition + self.space_group(known)
            condition = functional.silu(condition)
        for block in self.blocks:
            nodes = block(nodes, edges, self.edge_norm, key_bias, condition)

        weight = mask.to(nodes.dtype)[..., None]
        pooled = (nodes * weight).sum(1) / weight.sum(1)
        return nodes, pooled if condition is None else torch.cat([pooled, condition.to(pooled.dtype)], dim=-1)
