"""Pair geometry of Crysformer without pair features: what attention needs of e_ij, from numbers per atom.

The edge feature between atoms i and j (paper eq. 5) is

    e_ij = LayerNorm(r_ij),   r_ij = [L L^T (9), sin 2 pi k (f_j - f_i) (3F), cos 2 pi k (f_j - f_i) (3F)],   k < F,

LayerNorm and the linear map W that follows it split into three parts, none of which needs r_ij itself:

- **Mean.** W (r_ij - mean_ij) = W' r_ij, where W' is W less the mean of its columns (:class:`InvariantAttention`).
- **Deviation.** The variance is (|L L^T|^2 + 3F) / (9 + 6F) - mean_ij^2, because sin^2 + cos^2 = 1, and the sum over
  r_ij that gives the mean is an inner product of per-atom numbers: one N x N map for all heads and blocks.
- **Waves.** With s = sin 2 pi k f and c = cos 2 pi k f of each atom, the waves of a pair are

      phi_ij = [s_j c_i - c_j s_i, c_j c_i + s_j s_i],

  the waves of atom j turned back by the phases of atom i. Attention uses them in two ways, which are derivatives of one
  trilinear form, T = sum over i, j, h of p_ihj x_ih . W_h phi_ij: with respect to p (logits: x are queries) and with
  respect to x (values: p are attention weights). Turning W_h^T x_ih forwards, or the gathered sum_j p_ihj (s_j, c_j)
  back, by atom i's phases replaces N^2 products with W by N.

Shapes: B crystals, N atoms (padded), H heads, K width of a head, F frequencies, E = 9 + 6F edge features, W = 6F waves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx

from dao.networks.embeddings import fourier_features


@dataclass(frozen=True)
class EdgeGeometry:
    """All pairs of a batch of crystals, shared by every block."""

    gram: Float[Tensor, "b 9"]
    """L L^T."""
    waves: Float[Tensor, "b n w"]
    """Sines, then cosines, of 2 pi k f of each atom."""
    inverse_deviation: Float[Tensor, "b n n"]
    """1 / standard deviation over the features of each raw edge."""


def gram_features(lattice: Float[Tensor, "b 3 3"], kind: str) -> Float[Tensor, "b 9"]:
    """L L^T flattened: in A^2 (``raw``), or in units of V^(2/3) (``normalized``)."""
    gram = lattice @ lattice.mT
    if kind == "normalized":
        gram = gram / torch.linalg.det(lattice).abs().clamp_min(1e-6)[:, None, None] ** (2.0 / 3.0)
    return gram.flatten(1)


def edge_geometry(
    frac_coords: Float[Tensor, "b n 3"], gram: Float[Tensor, "b 9"], frequencies: int, epsilon: float
) -> EdgeGeometry:
    """Waves of every atom, and the LayerNorm's statistics of every edge by the identities above."""
    sin, cos = fourier_features(frac_coords, frequencies)
    features = gram.shape[-1] + 2 * sin.shape[-1]
    waves = torch.cat([sin, cos], dim=-1)
    # sum over the waves of pair ij: all ones, turned by atom i, against the waves of atom j
    summed = torch.cat([cos + sin, cos - sin], dim=-1) @ waves.mT
    mean = (summed + gram.sum(-1)[:, None, None]) / features
    mean_square = ((gram**2).sum(-1) + sin.shape[-1]) / features
    # never near zero: k = 0 gives each edge three sines of 0 and three cosines of 1
    variance = (mean_square[:, None, None] - mean**2).clamp_min(0.0)
    return EdgeGeometry(gram, waves, (variance + epsilon).rsqrt())


def wave_logits(
    x: Float[Tensor, "b n h k"], weight: Float[Tensor, "h k w"], waves: Float[Tensor, "b n w"]
) -> Float[Tensor, "b n h n"]:
    """x_ih . W_h phi_ij for all pairs: entry (b, i, h, j)."""
    logits: Tensor = _WaveLogits.apply(x, weight, waves)
    return logits


def wave_values(
    p: Float[Tensor, "b n h n"], weight: Float[Tensor, "h k w"], waves: Float[Tensor, "b n w"]
) -> Float[Tensor, "b n h k"]:
    """W_h sum_j p_ihj phi_ij for all atoms: entry (b, i, h, :)."""
    values: Tensor = _WaveValues.apply(p, weight, waves)
    return values


class _WaveLogits(torch.autograd.Function):
    """dT / dp. Keeps its arguments only: autograd would keep H 6F numbers an atom and block."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, waves: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, waves)
        return _against_waves(_turn(_to_waves(x, weight), waves), waves)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, waves = ctx.saved_tensors
        gathered = _gather(grad, waves)
        back = _turn(gathered, waves, -1)
        grad_waves = _waves_gradient(grad, _to_waves(x, weight), gathered, waves) if ctx.needs_input_grad[2] else None
        return _from_waves(back, weight), _weight_gradient(x, back), grad_waves


class _WaveValues(torch.autograd.Function):
    """dT / dx. Keeps its arguments only, and gathers once more on the way back."""

    @staticmethod
    def forward(ctx: FunctionCtx, p: Tensor, weight: Tensor, waves: Tensor) -> Tensor:
        ctx.save_for_backward(p, weight, waves)
        return _from_waves(_turn(_gather(p, waves), waves, -1), weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        p, weight, waves = ctx.saved_tensors
        spread = _to_waves(grad, weight)
        grad_p = _against_waves(_turn(spread, waves), waves)
        gathered = _gather(p, waves)
        grad_weight = _weight_gradient(grad, _turn(gathered, waves, -1))
        return grad_p, grad_weight, _waves_gradient(p, spread, gathered, waves) if ctx.needs_input_grad[2] else None


def _to_waves(x: Tensor, weight: Tensor) -> Tensor:
    """W_h^T x_ih: (B, N, H, K) -> (B, N, H, W)."""
    return torch.einsum("bnhk,hkw->bnhw", x, weight)


def _from_waves(t: Tensor, weight: Tensor) -> Tensor:
    """W_h t_ih: (B, N, H, W) -> (B, N, H, K)."""
    return torch.einsum("bnhw,hkw->bnhk", t, weight)


def _weight_gradient(x: Tensor, t: Tensor) -> Tensor:
    """Sum over atoms of x_ih t_ih^T: (H, K, W)."""
    return torch.einsum("bnhk,bnhw->hkw", x, t)


def _against_waves(t: Tensor, waves: Tensor) -> Tensor:
    """t_ih . (s_j, c_j), heads in the rows of one product: (B, N, H, W) -> (B, N, H, N)."""
    return (t.flatten(1, 2) @ waves.mT).unflatten(1, t.shape[1:3])


def _gather(p: Tensor, waves: Tensor) -> Tensor:
    """Sum over j of p_ihj (s_j, c_j): (B, N, H, N) -> (B, N, H, W)."""
    return (p.flatten(1, 2) @ waves).unflatten(1, p.shape[1:3])


def _turn(t: Tensor, waves: Tensor, direction: int = 1) -> Tensor:
    """Turn (B, N, H, W) by the phases of each atom: forwards, or with ``direction`` -1 back."""
    t_sin, t_cos = t.chunk(2, dim=-1)
    sin, cos = waves[:, :, None].chunk(2, dim=-1)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.cat([t_sin * cos + direction * t_cos * sin, t_cos * cos - direction * t_sin * sin], dim=-1)
    # the same, three times fewer passes over the largest tensors of the network
    turned = torch.empty(t.shape, dtype=t.dtype, device=t.device)
    turned_sin, turned_cos = turned.chunk(2, dim=-1)
    torch.mul(t_sin, cos, out=turned_sin).addcmul_(t_cos, sin, value=direction)
    torch.mul(t_cos, cos, out=turned_cos).addcmul_(t_sin, sin, value=-direction)
    return turned


def _waves_gradient(p: Tensor, spread: Tensor, gathered: Tensor, waves: Tensor) -> Tensor:
    """dT / dwaves of ``spread`` = W^T x and ``gathered`` = sum_j p_ihj (s_j, c_j): as atom j, and as atom i."""
    as_j = p.flatten(1, 2).mT @ _turn(spread, waves).flatten(1, 2)
    spread_sin, spread_cos = spread.chunk(2, dim=-1)
    gathered_sin, gathered_cos = gathered.chunk(2, dim=-1)
    by_sin = (spread_cos * gathered_sin - spread_sin * gathered_cos).sum(2)
    by_cos = (spread_sin * gathered_sin + spread_cos * gathered_cos).sum(2)
    return as_j + torch.cat([by_sin, by_cos], dim=-1)
