"""Crysformer with every e_ij written out (paper section 4.2): the form that ``dao.networks.crysformer`` must equal.

It borrows the parameters of a :class:`Crysformer` and none of its code. The benchmark times it too, so it is
vectorised, computes the edge features once for all blocks, and keeps nothing alive that the formulas do not ask for.

Shapes: B crystals, N atoms (padded), D width, H heads, K = D / H, F frequencies, E = 9 + 6F edge features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from dao.networks.crysformer import Crysformer, CrysformerBlock, GatedResidual, InvariantAttention


def sinusoids(numbers: Tensor, features: int) -> Tensor:
    """(B, T): sines, then cosines of the numbers (B,) over wavelengths 2 pi to 2 pi 10^4 in geometric progression."""
    half = features // 2
    rates = torch.tensor([10_000.0 ** (-n / (half - 1)) for n in range(half)], dtype=numbers.dtype)
    return torch.cat([(numbers[:, None] * rates).sin(), (numbers[:, None] * rates).cos()], dim=-1)


def edge_features(model: Crysformer, frac_coords: Tensor, lattice: Tensor) -> Tensor:
    """e_ij of eq. 5, (B, N, N, E): LayerNorm of L L^T and of sin, cos of 2 pi k (f_j - f_i), self-loops included."""
    atoms = frac_coords.shape[1]
    metric = torch.einsum("bxc,byc->bxy", lattice, lattice)
    if model.config.gram == "normalized":
        a, b, c = lattice.unbind(1)
        volume = (a * torch.linalg.cross(b, c)).sum(-1).abs()
        metric = metric / volume[:, None, None] ** (2 / 3)
    difference = frac_coords[:, None, :, :] - frac_coords[:, :, None, :]
    k = torch.arange(model.config.frequencies, dtype=frac_coords.dtype)
    theta = (2 * math.pi * difference[..., None] * k).flatten(-2)
    raw = torch.cat([metric.flatten(1)[:, None, None].expand(-1, atoms, atoms, -1), theta.sin(), theta.cos()], dim=-1)
    norm = model.edge_norm
    return functional.layer_norm(raw, raw.shape[-1:], norm.weight, norm.bias, norm.eps)


def attention(layer: InvariantAttention, nodes: Tensor, edges: Tensor, mask: Tensor, *, lean: bool) -> Tensor:
    """z_i of eq. 6, (B, N, D): W e_ij is part of the key and of the value that atom j shows to atom i.

    As written, with k_ij and v_ij; ``lean`` distributes the products over k_j + W e_ij and v_j + W e_ij, which saves
    two tensors of pairs.
    """
    q, k, v = (part.unflatten(-1, (layer.heads, -1)) for part in layer.query_key_value(nodes).chunk(3, dim=-1))
    edge = layer.edge(edges).unflatten(-1, (layer.heads, -1))  # (B, N, N, H, K)
    if lean:
        logits = torch.einsum("bihk,bjhk->bijh", q, k) + torch.einsum("bihk,bijhk->bijh", q, edge)
    else:
        logits = torch.einsum("bihk,bijhk->bijh", q, k[:, None] + edge)
    logits = (logits / math.sqrt(q.shape[-1])).masked_fill(~mask[:, None, :, None], -math.inf)
    weight = torch.softmax(logits, dim=2)
    if lean:
        z = torch.einsum("bijh,bjhk->bihk", weight, v) + torch.einsum("bijh,bijhk->bihk", weight, edge)
    else:
        z = torch.einsum("bijh,bijhk->bihk", weight, v[:, None] + edge)
    return functional.linear(z.flatten(2), layer.output.weight, layer.output.bias)


def gated_residual(layer: GatedResidual, x: Tensor, y: Tensor) -> Tensor:
    """Eq. 7, and the variants of ``CrysformerConfig.gate``."""
    if layer.gate is None:
        return x + y
    read_x, read_y = x, y
    if layer.norm is not None:
        read_x, read_y = (functional.layer_norm(each, each.shape[-1:]) for each in (x, y))
    alpha = torch.sigmoid(layer.gate(torch.cat([read_x, read_y, read_x - read_y], dim=-1)))
    mixed = alpha * x + (1 - alpha) * y
    return mixed if layer.bypass is None else mixed + layer.bypass * y


def block(
    layer: CrysformerBlock, nodes: Tensor, edges: Tensor, mask: Tensor, condition: Tensor | None, *, lean: bool
) -> Tensor:
    """Eqs. 8 and 9; where there is a condition (B, D), the input of each sublayer becomes (1 + scale) x + shift."""

    def modulate(x: Tensor, sublayer: int) -> Tensor:
        if layer.modulation is None:
            return x
        assert condition is not None
        width = x.shape[-1]
        numbers = layer.modulation(condition)[:, None, 2 * width * sublayer : 2 * width * (sublayer + 1)]
        return (1 + numbers[..., :width]) * x + numbers[..., width:]

    attended = attention(layer.attention, modulate(layer.attention_norm(nodes), 0), edges, mask, lean=lean)
    nodes = gated_residual(layer.attention_residual, nodes, attended)
    fed = layer.feed_forward(modulate(layer.feed_forward_norm(nodes), 1))
    return gated_residual(layer.feed_forward_residual, nodes, fed)


def crysformer(
    model: Crysformer,
    atomic_numbers: Tensor,
    frac_coords: Tensor,
    lattice: Tensor,
    lattice_features: Tensor,
    time: Tensor,
    mask: Tensor,
    space_group: Tensor | None = None,
    *,
    lean: bool = False,
) -> tuple[Tensor, Tensor]:
    """The arguments and results of :meth:`Crysformer.forward`: node features (B, N, D), crystal features (B, C)."""
    edges = edge_features(model, frac_coords, lattice)
    times = sinusoids(1000 * time, model.config.time_features)
    atoms = model.atom(model.element_features[atomic_numbers])
    if model.element is not None:
        atoms = atoms + model.element(atomic_numbers)
    nodes = model.atom_and_time(torch.cat([atoms, times[:, None].expand(-1, atoms.shape[1], -1)], dim=-1))
    condition = None
    if model.condition is not None:
        condition = model.condition(torch.cat([times, lattice_features, sinusoids(mask.sum(1).to(times), 32)], dim=-1))
        if model.space_group is not None:
            unknown = torch.zeros(len(mask), dtype=torch.long)
            condition = condition + model.space_group(unknown if space_group is None else space_group)
        condition = functional.silu(condition)
    for layer in model.blocks:
        assert isinstance(layer, CrysformerBlock)
        nodes = block(layer, nodes, edges, mask, condition, lean=lean)
    pooled = torch.stack([crystal[real].mean(0) for crystal, real in zip(nodes, mask, strict=True)])
    return nodes, pooled if condition is None else torch.cat([pooled, condition], dim=-1)
