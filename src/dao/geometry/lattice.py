"""Lattices: three row vectors in Angstrom, their parameters, and the six rotation-free numbers ``log_metric``.

``K = log(L L^T) / 2`` (matrix logarithm) is symmetric and does not change under rotation or reflection of ``L``; its
trace is ``log V``. Its six independent entries are ordered (11, 22, 33, 12, 13, 23) everywhere.

Shapes: B crystals, E elements.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

_ROWS = (0, 1, 2, 0, 0, 1)
_COLUMNS = (0, 1, 2, 1, 2, 2)


def volume(lattice: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Cell volume in A^3 (always positive) of row-vector lattices in A."""
    determinant: Tensor = torch.linalg.det(lattice)
    return determinant.abs()


def lattice_parameters(lattice: Float[Tensor, "*b 3 3"]) -> tuple[Float[Tensor, "*b 3"], Float[Tensor, "*b 3"]]:
    """Lengths (a, b, c) in A and angles (alpha, beta, gamma) in degrees of row-vector lattices."""
    lengths = lattice.norm(dim=-1)
    unit = lattice / lengths[..., None]
    cosines = torch.stack([(unit[..., i, :] * unit[..., j, :]).sum(-1) for i, j in ((1, 2), (0, 2), (0, 1))], dim=-1)
    return lengths, torch.rad2deg(torch.acos(cosines.clamp(-1.0, 1.0)))


def lattice_from_parameters(lengths: Float[Tensor, "*b 3"], angles: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Row-vector lattice with a along x and b in the xy plane, from lengths in A and angles in degrees."""
    a, b, c = lengths.unbind(-1)
    cos_alpha, cos_beta, cos_gamma = torch.cos(torch.deg2rad(angles)).unbind(-1)
    sin_gamma = torch.sin(torch.deg2rad(angles[..., 2]))
    zero = torch.zeros_like(a)
    c_x = c * cos_beta
    c_y = c * (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    c_z = (c**2 - c_x**2 - c_y**2).clamp_min(0.0).sqrt()
    rows = (
        torch.stack([a, zero, zero], dim=-1),
        torch.stack([b * cos_gamma, b * sin_gamma, zero], dim=-1),
        torch.stack([c_x, c_y, c_z], dim=-1),
    )
    return torch.stack(rows, dim=-2)


def symmetric_to_vector(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 6"]:
    """Six independent entries (11, 22, 33, 12, 13, 23) of a symmetric 3x3 matrix."""
    return matrix[..., _ROWS, _COLUMNS]


def vector_to_symmetric(vector: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 3 3"]:
    """Symmetric 3x3 matrix from its entries (11, 22, 33, 12, 13, 23)."""
    order = torch.tensor([[0, 3, 4], [3, 1, 5], [4, 5, 2]], device=vector.device)
    return vector[..., order]


def log_metric(lattice: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 6"]:
    """``log(L L^T) / 2`` as six numbers: invariant to rotation and reflection of the row-vector lattice (A).

    Differentiable once, also where eigenvalues coincide (a cubic cell).
    """
    logarithm: Tensor = _HalfLogarithm.apply(lattice @ lattice.mT)  # type: ignore[no-untyped-call]
    return symmetric_to_vector(logarithm)


class _HalfLogarithm(torch.autograd.Function):
    """log(A) / 2 of symmetric positive matrices, whose derivative divides by no difference of eigenvalues.

    Differentiating ``eigh`` itself gives NaN where eigenvalues coincide, though the logarithm is smooth there: its
    derivative in the eigenbasis is an entry-wise product with the divided differences (Daleckii and Krein, 1965).
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:  # noqa: ANN401 -- torch's context
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(eigenvalues, vectors)
        return (vectors * (0.5 * eigenvalues.log())[..., None, :]) @ vectors.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        eigenvalues, vectors = ctx.saved_tensors
        # (log a - log b) / (a - b) = log1p(x) / (b x) with x = a / b - 1, by its series where x is small
        x = eigenvalues[..., :, None] / eigenvalues[..., None, :] - 1.0
        small = x.abs() < 1e-3
        series = 1.0 - x * (1 / 2 - x * (1 / 3 - x * (1 / 4 - x * (1 / 5 - x / 6))))
        quotient = torch.where(small, series, torch.log1p(x) / torch.where(small, torch.ones_like(x), x))
        symmetric = 0.5 * (gradient + gradient.mT)
        inner = (vectors.mT @ symmetric @ vectors) * (0.5 * quotient / eigenvalues[..., None, :])
        return vectors @ inner @ vectors.mT


def lattice_from_log_metric(k: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 3 3"]:
    """The symmetric lattice ``exp(K)`` in A, which has the metric that ``k`` describes (differentiable)."""
    lattice: Tensor = torch.linalg.matrix_exp(vector_to_symmetric(k))
    return lattice


def shift_log_volume(k: Float[Tensor, "*b 6"], log_volume: Float[Tensor, "*b"]) -> Float[Tensor, "*b 6"]:
    """Add ``log_volume`` to the trace of ``K``: multiplies the cell volume by ``exp(log_volume)``, keeps its shape."""
    shift = torch.zeros_like(k)
    shift[..., :3] = (log_volume / 3.0)[..., None]
    return k + shift


def fit_atomic_volumes(
    counts: Float[Tensor, "b e"], volumes: Float[Tensor, " b"], *, strength: float = 0.3
) -> Float[Tensor, " e"]:
    """Volume per element (A^3) whose sums over each cell fit the cell volumes best, in relative error.

    Ridge regression towards the mean volume per atom: an element seen in few crystals stays near it, and an unseen one
    takes it exactly. No volume is below 1 A^3.

    Args:
        counts: atoms of each element in each crystal.
        volumes: cell volumes in A^3.
        strength: how many crystals the pull towards the mean is worth, each of one element alone and of mean density;
            must be positive.

    """
    counts, target = counts.double(), volumes.double()
    mean = target.sum() / counts.sum()
    # in units of the mean volume per atom, a crystal of one element alone and of mean density is a row with a single 1
    design = counts * (mean / target)[:, None]
    ridge = strength * torch.eye(counts.shape[1], dtype=counts.dtype, device=counts.device)
    correction: Tensor = torch.linalg.solve(design.T @ design + ridge, design.T @ (1.0 - design.sum(1)))
    return (mean * (1.0 + correction)).clamp_min(1.0).to(volumes.dtype)


def composition_volume(atomic_volumes: Float[Tensor, " e"], atomic_numbers: Int[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """Sum of the per-element volumes (A^3) over a cell; entry 0 of ``atomic_volumes`` belongs to padding and is 0."""
    return atomic_volumes[atomic_numbers].sum(-1)
