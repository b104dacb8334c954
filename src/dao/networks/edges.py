"""Pair geometry of Crysformer without pair features: what attention needs of e_ij, from numbers per atom.

The edge feature between atoms i and j (paper eq. 5) is

    e_ij = LayerNorm(r_ij),   r_ij = [L L^T (9), sin 2 pi k (f_j - f_i) (3F), cos 2 pi k (f_j - f_i) (3F)],   k < F,

LayerNorm and the linear map W that follows it split into three parts, none of which needs r_ij itself:

- **Mean.** W (r_ij - mean_ij) = W' r_ij, where W' is W less the mean of its columns (:class:`InvariantAttention`).
- **Deviation.** The variance is (|L L^T|^2 + 3F) / (9 + 6F) - mean_ij^2, because sin^2 + cos^2 = 1, and the sum over
  r_ij that gives the mean is an inner product of per-atom numbers: one N x N map for all heads and blocks.
- **Waves.** With z_j = exp(2 pi i k f_j), 3F complex numbers an atom, the waves of a pair are the real and imaginary
  parts of phi_ij = z_j conj(z_i). Attention uses them in two ways, which are derivatives of one trilinear form,

      T = sum over i, j, h of p_ihj x_ih . W_h phi_ij = sum over i, j, h of p_ihj <u_ih z_i, z_j>,   u_ih = W_h^T x_ih,

  with respect to p (logits: x are queries) and with respect to x (values: p are attention weights). Turning u_ih by the
  phases of atom i, or turning sum_j p_ihj z_j back by them, takes N products with W in place of N^2.

Shapes: B crystals, N atoms (padded), H heads, K width of a head, F frequencies, E = 9 + 6F edge features, W = 6F waves
(complex numbers as adjacent pairs: cos, sin).
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
    """z = exp(2 pi i k f) of each atom as pairs (cos, sin)."""
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
    waves = torch.stack([cos, sin], dim=-1).flatten(-2)
    # the sum over the waves of pair ij: all ones, turned by atom i, against the waves of atom j
    summed = torch.stack([cos - sin, cos + sin], dim=-1).flatten(-2) @ waves.mT
    mean = (summed + gram.sum(-1)[:, None, None]) / features
    mean_square = ((gram**2).sum(-1) + sin.shape[-1]) / features
    # never near zero: k = 0 gives each edge three sines of 0 and three cosines of 1
    variance = (mean_square[:, None, None] - mean**2).clamp_min(0.0)
    return EdgeGeometry(gram, waves, (variance + epsilon).rsqrt())


def wave_logits(
    x: Float[Tensor, "b n h k"], weight: Float[Tensor, "h k w"], waves: Float[Tensor, "b n w"]
) -> Float[Tensor, "b n h n"]:
    """x_ih . W_h phi_ij for all pairs: entry (b, i, h, j)."""
    if torch.compiler.is_compiling():
        weight, waves = _halves(weight), _halves(waves)
        return _against_waves(_turn(_to_waves(x, weight), waves), waves)
    logits: Tensor = _WaveLogits.apply(x, weight, waves)  # type: ignore[no-untyped-call]
    return logits


def wave_values(
    p: Float[Tensor, "b n h n"], weight: Float[Tensor, "h k w"], waves: Float[Tensor, "b n w"]
) -> Float[Tensor, "b n h k"]:
    """W_h sum_j p_ihj phi_ij for all atoms: entry (b, i, h, :)."""
    if torch.compiler.is_compiling():
        weight, waves = _halves(weight), _halves(waves)
        return _from_waves(_turn(_gather(p, waves), waves, back=True), weight)
    values: Tensor = _WaveValues.apply(p, weight, waves)  # type: ignore[no-untyped-call]
    return values


class _WaveLogits(torch.autograd.Function):
    """dT / dp. Keeps its arguments only, where autograd would keep 6F H numbers an atom and block."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, waves: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, waves)
        return _against_waves(_turn(_to_waves(x, weight), waves), waves)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch types it so
        x, weight, waves = ctx.saved_tensors
        _, *gradients = _form_gradients(grad, x, weight, waves, of_p=False, of_waves=ctx.needs_input_grad[2])
        return tuple(gradients)


class _WaveValues(torch.autograd.Function):
    """dT / dx. Keeps its arguments only, and gathers once more on the way back."""

    @staticmethod
    def forward(ctx: FunctionCtx, p: Tensor, weight: Tensor, waves: Tensor) -> Tensor:
        ctx.save_for_backward(p, weight, waves)
        return _from_waves(_turn(_gather(p, waves), waves, back=True), weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch types it so
        p, weight, waves = ctx.saved_tensors
        of_p, _, *gradients = _form_gradients(p, grad, weight, waves, of_x=False, of_waves=ctx.needs_input_grad[2])
        return (of_p, *gradients)


def _form_gradients(
    p: Tensor, x: Tensor, weight: Tensor, waves: Tensor, *, of_p: bool = True, of_x: bool = True, of_waves: bool = True
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor | None]:
    """Derivatives of T with respect to p, x, the weight and the waves (as atom i, and as atom j)."""
    gathered = _gather(p, waves)
    grad_p = grad_waves = None
    if of_p or of_waves:
        u = _to_waves(x, weight)
        as_atom_i = _complex_product(gathered, u, conjugate=True).sum(2) if of_waves else None
        turned = _turn(u, waves)
        if as_atom_i is not None:
            grad_waves = as_atom_i + p.flatten(1, 2).mT @ turned.flatten(1, 2)
        if of_p:
            grad_p = _against_waves(turned, waves)
    turned_back = _turn(gathered, waves, back=True)
    grad_x = _from_waves(turned_back, weight) if of_x else None
    return grad_p, grad_x, torch.einsum("bnhk,bnhw->hkw", x, turned_back), grad_waves


def _halves(pairs: Tensor) -> Tensor:
    """From (cos, sin) pairs to all cosines, then all sines, the layout under ``torch.compile``.

    The compiler knows no complex numbers, fuses the real formulas, and chooses itself what to keep for the way back.
    """
    return pairs.unflatten(-1, (-1, 2)).mT.flatten(-2)


def _to_waves(x: Tensor, weight: Tensor) -> Tensor:
    """u_ih = W_h^T x_ih: (B, N, H, K) -> (B, N, H, W)."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.einsum("bnhk,hkw->bnhw", x, weight)
    # the same product, written where the next one reads it without a copy
    u = x.new_empty(*x.shape[:3], weight.shape[-1])
    torch.bmm(x.flatten(0, 1).transpose(0, 1), weight, out=u.flatten(0, 1).transpose(0, 1))
    return u


def _from_waves(t: Tensor, weight: Tensor) -> Tensor:
    """W_h t_ih: (B, N, H, W) -> (B, N, H, K)."""
    return torch.einsum("bnhw,hkw->bnhk", t, weight)


def _against_waves(t: Tensor, waves: Tensor) -> Tensor:
    """t_ih . z_j, heads in the rows of one product: (B, N, H, W) -> (B, N, H, N)."""
    return (t.flatten(1, 2) @ waves.mT).unflatten(1, t.shape[1:3])


def _gather(p: Tensor, waves: Tensor) -> Tensor:
    """Sum over j of p_ihj z_j: (B, N, H, N) -> (B, N, H, W)."""
    return (p.flatten(1, 2) @ waves).unflatten(1, p.shape[1:3])


def _turn(t: Tensor, waves: Tensor, *, back: bool = False) -> Tensor:
    """t_ih z_i, or t_ih conj(z_i) for ``back``: (B, N, H, W). Without autograd it may overwrite t."""
    waves = waves[:, :, None]
    if torch.compiler.is_compiling():
        (x, y), (c, s) = t.chunk(2, dim=-1), waves.chunk(2, dim=-1)
        s = -s if back else s
        return torch.cat([x * c - y * s, x * s + y * c], dim=-1)
    return _complex_product(t, waves, conjugate=back, in_place=not torch.is_grad_enabled())


def _complex_product(a: Tensor, b: Tensor, *, conjugate: bool, in_place: bool = False) -> Tensor:
    """``a`` times ``b`` or its conjugate, complex numbers being pairs in the last axis; ``a`` may be overwritten."""
    exact = torch.promote_types(a.dtype, torch.float32)  # there are no complex numbers of 16 bits
    product, factor = (torch.view_as_complex(pairs.unflatten(-1, (-1, 2)).to(exact)) for pairs in (a, b))
    factor = factor.conj() if conjugate else factor
    product = product.mul_(factor) if in_place else product * factor
    return torch.view_as_real(product).to(a.dtype).flatten(-2)
