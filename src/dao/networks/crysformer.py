"""Crysformer: a transformer over the atoms of a crystal that sees pair geometry without building pair features.

Paper section 4.2, top to bottom: invariant attention (eq. 6), gated residual (eq. 7), block (eqs. 8 and 9), trunk. The
network is invariant to rotation and reflection of the lattice and to translation of the atoms, and equivariant to their
order. Keys and values carry a linear map of the edge feature e_ij (eq. 5), which is never built:
:mod:`dao.networks.edges` has the identities, so that time and memory grow as N^2 + N D^2, not as
N^2 D (6F + 9). ``tests/crysformer_reference.py`` is the explicit form, and equal to this one.

Shapes: B crystals, N atoms (padded), D width, H heads, K = D / H, F frequencies, E = 9 + 6F edge features,
W = 6F waves, C crystal features.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from dao.geometry.wyckoff import WYCKOFF_POSITIONS
from dao.networks.config import COUNT_FEATURES, LATTICE_FEATURES, SPACE_GROUPS, CrysformerConfig, Gate
from dao.networks.contacts import ContactConvolution, contacts
from dao.networks.edges import EdgeGeometry, edge_geometry, gram_features, wave_logits, wave_values
from dao.networks.embeddings import ELEMENT_FEATURES, count_embedding, element_features, sinusoidal_embedding


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
    ) -> tuple[Float[Tensor, "h k 9"], Float[Tensor, "h k w"], Float[Tensor, " d"]]:
        """W with the LayerNorm folded in, all but its division by the deviation: for L L^T, for the waves, and a bias.

        Scale and shift of the norm join the map and its bias. To take the mean over features from every edge is to take
        the mean over its columns from the map.
        """
        weight = self.edge.weight * edge_norm.weight
        weight = (weight - weight.mean(-1, keepdim=True)).unflatten(0, (self.heads, -1))
        gram, sines_cosines = weight[..., :9], weight[..., 9:].unflatten(-1, (2, -1))
        return gram, sines_cosines.flip(-2).mT.flatten(-2), self.edge.bias + self.edge.weight @ edge_norm.bias

    def forward(
        self,
        nodes: Float[Tensor, "b n d"],
        edges: EdgeGeometry,
        edge_norm: nn.LayerNorm,
        key_bias: Float[Tensor, "b 1 1 n"],
    ) -> Float[Tensor, "b n d"]:
        """Attend. ``key_bias`` is 0 for atoms and hugely negative for padding."""
        q, k, v = self.query_key_value(nodes).unflatten(-1, (3 * self.heads, -1)).chunk(3, dim=2)  # (B, N, H, K)
        q = q * q.shape[-1] ** -0.5
        w_gram, w_waves, bias = self.folded_edge_map(edge_norm)
        w_waves, waves = w_waves.to(q.dtype), edges.waves.to(q.dtype)  # one dtype also under autocast
        lattice = torch.einsum("hke,be->bhk", w_gram, edges.gram)[:, None]  # the part of W e_ij that all pairs share
        inverse_deviation = edges.inverse_deviation[:, :, None]  # (B, N, 1, N)

        # <q_i, k_j + W e_ij>
        edge_logits = wave_logits(q, w_waves, waves) + (q * lattice).sum(-1, keepdim=True)  # (B, N, H, N)
        logits = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)).transpose(1, 2) + key_bias
        attention = torch.softmax(torch.addcmul(logits, inverse_deviation, edge_logits), dim=-1)

        # sum over j of a_ij (v_j + W e_ij)
        scaled = attention * inverse_deviation
        values = (attention.transpose(1, 2) @ v.transpose(1, 2)).transpose(1, 2)
        edge_values = wave_values(scaled.to(q.dtype), w_waves, waves) + scaled.sum(-1, keepdim=True) * lattice
        return self.output((values + edge_values).flatten(2) + bias)


class GatedResidual(nn.Module):
    """alpha x + (1 - alpha) y with one learned alpha per node (paper eq. 7).

    The paper's gate reads x and y as they are. Nothing holds their norm, and where it grows the sigmoid saturates:
    alpha is 1, the sublayer is skipped, and no gradient ever brings it back. ``normalized``: the gate reads them at
    unit variance. ``bypassed``: y is also added past the gate, scaled by a learned number per feature that begins at 0
    (as in ReZero, arXiv:2003.04887), so that no gate can cut a sublayer off. ``none``: x + y, as in most transformers.
    """

    def __init__(self, width: int, kind: Gate = "raw") -> None:
        super().__init__()
        self.gate = None if kind == "none" else nn.Linear(3 * width, 1, bias=False)
        self.norm = nn.LayerNorm(width, elementwise_affine=False) if kind == "normalized" else None
        self.bypass = nn.Parameter(torch.zeros(width)) if kind == "bypassed" else None

    def alpha(self, x: Float[Tensor, "b n d"], y: Float[Tensor, "b n d"]) -> Float[Tensor, "b n 1"]:
        """Share of ``x`` that is kept."""
        assert self.gate is not None  # noqa: S101 -- not asked for where there is none
        # the map of (x, y, x - y) is one map of x plus one of y: no concatenation
        w_x, w_y, w_difference = self.gate.weight.chunk(3, dim=-1)
        read_x, read_y = (x, y) if self.norm is None else (self.norm(x), self.norm(y))
        logit = functional.linear(read_x, w_x + w_difference) + functional.linear(read_y, w_y - w_difference)
        return torch.sigmoid(logit)

    def forward(self, x: Float[Tensor, "b n d"], y: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Mix the sublayer's output ``y`` into its input ``x``."""
        if self.gate is None:
            return x + y
        mixed = torch.lerp(y, x, self.alpha(x, y).to(x.dtype))
        return mixed if self.bypass is None else torch.addcmul(mixed, y, self.bypass.to(y.dtype))


class CrysformerBlock(nn.Module):
    """Gated residuals around pre-norm attention and a pre-norm feed-forward (paper eqs. 8 and 9)."""

    def __init__(self, config: CrysformerConfig) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = InvariantAttention(width, config.heads, config.frequencies)
        self.contact = ContactConvolution(width, config.contacts) if config.contacts else None
        self.attention_residual = GatedResidual(width, config.gate)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.feed_forward_residual = GatedResidual(width, config.gate)
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
        neighbours: Float[Tensor, "b r n n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """One block; ``condition`` scales and shifts the normalised inputs where the network has a modulation.

        Messages along ``neighbours``, where the network has contacts, join those of the attention.
        """
        attention_input = self.attention_norm(nodes)
        if self.modulation is not None and condition is not None:
            scale_a, shift_a, scale_f, shift_f = self.modulation(condition)[:, None].chunk(4, dim=-1)
            attention_input = attention_input * (1 + scale_a) + shift_a
        message = self.attention(attention_input, edges, edge_norm, key_bias)
        if self.contact is not None and neighbours is not None:
            message = message + self.contact(attention_input, neighbours)
        nodes = self.attention_residual(nodes, message)
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
        # entry 0: padding
        self.wyckoff = nn.Embedding(WYCKOFF_POSITIONS + 1, width) if config.wyckoff_positions else None
        self.blocks = nn.ModuleList(CrysformerBlock(config) for _ in range(config.blocks))
        self.final_norm = nn.LayerNorm(width) if config.final_norm else None

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
        wyckoff: Int[Tensor, "b n"] | None = None,
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
            wyckoff: Wyckoff position of each atom (``wyckoff_index``), 0 = padding or unknown; likewise.

        """
        with torch.autocast(frac_coords.device.type, enabled=False):
            gram = gram_features(lattice, self.config.gram)
            edges = edge_geometry(frac_coords, gram, self.config.frequencies, self.edge_norm.eps)
            neighbours = None
            if self.config.contacts:
                neighbours = contacts(frac_coords, lattice, mask, self.config.contacts)
        # finite, so that a slot of the batch without any atom gives no NaN; exp() of it is exactly 0 elsewhere
        hidden = torch.finfo(frac_coords.dtype).min
        key_bias = torch.zeros_like(mask, dtype=frac_coords.dtype).masked_fill(~mask, hidden)[:, None, None]

        time_features = sinusoidal_embedding(time, self.config.time_features)
        atoms = self.atom(self.element_features.to(frac_coords.dtype)[atomic_numbers])
        if self.element is not None:
            atoms = atoms + self.element(atomic_numbers)
        if self.wyckoff is not None and wyckoff is not None:
            atoms = atoms + self.wyckoff(wyckoff)
        nodes = self.atom_and_time(torch.cat([atoms, time_features[:, None].expand(-1, atoms.shape[1], -1)], dim=-1))
        condition = None
        if self.condition is not None:
            counts = count_embedding(mask.sum(1), COUNT_FEATURES, frac_coords.dtype)
            condition = self.condition(torch.cat([time_features, lattice_features, counts], dim=-1))
            if self.space_group is not None:
                known = torch.zeros_like(mask[:, 0], dtype=torch.long) if space_group is None else space_group
                condition = condition + self.space_group(known)
            condition = functional.silu(condition)
        for block in self.blocks:
            nodes = block(nodes, edges, self.edge_norm, key_bias, condition, neighbours)
        if self.final_norm is not None:
            nodes = self.final_norm(nodes)

        weight = mask.to(nodes.dtype)[..., None]
        pooled = (nodes * weight).sum(1) / weight.sum(1).clamp_min(1.0)
        return nodes, pooled if condition is None else torch.cat([pooled, condition.to(pooled.dtype)], dim=-1)
