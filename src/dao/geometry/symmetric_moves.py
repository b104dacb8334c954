"""Moves of a crystal that keep its space group: displacements of its atoms and strains of its cell, projected.

An operation of the group takes atom i to atom p(i) and turns directions by R. Displacements u keep the operation if
u_p(i) = R u_i, and a strain S does if S = R S R^T; the mean over the group projects on those that keep all of them. A
gradient so projected is the gradient within the symmetric subspace, whether or not the energy has the symmetry.

Shapes: N atoms (padded), G operations, B crystals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from dao.crystal import Crystal
from dao.errors import InputError
from dao.geometry.symmetry import symmetry_operations


@final
class SymmetricMoves:
    """Projections for a batch of crystals, found once. What has no symmetry is returned as it came, bit by bit.

    The crystals are not symmetrised: whatever is off by less than the tolerance stays off as it is, and neither grows
    nor shrinks, so that energies remain those of the crystals that were given. Rotations are those of the nearest
    lattice that has the symmetry; they are exactly orthogonal, and so is the projection.
    """

    def __init__(self, crystals: Sequence[Crystal], symprec: float) -> None:
        """Look up the operations of each crystal within ``symprec`` (A).

        A crystal for which none can be determined (coinciding atoms, say) has none to keep.
        """
        width = 3 * max((one.num_atoms for one in crystals), default=0)
        found = [_projections(one, symprec) for one in crystals]
        # where the projections of each crystal are; -1: nowhere, as it has no symmetry
        self._place = torch.full((len(crystals),), -1)
        has = [i for i, one in enumerate(found) if one is not None]
        self._place[has] = torch.arange(len(has))
        self._atoms = torch.zeros(len(has), width, width, dtype=torch.float64)
        self._cell = torch.zeros(len(has), 9, 9, dtype=torch.float64)
        for place, one in enumerate(one for one in found if one is not None):
            atoms, cell = one
            self._atoms[place, : len(atoms), : len(atoms)] = torch.from_numpy(atoms)
            self._cell[place] = torch.from_numpy(cell)

    def displacements(self, moves: Float[Tensor, "b n 3"], rows: Tensor) -> Float[Tensor, "b n 3"]:
        """Displacements of, or forces on, the atoms of the crystals with those indices, in Cartesian axes."""
        return self._projected(self._atoms, moves, rows)

    def strains(self, strains: Float[Tensor, "b 3 3"], rows: Tensor) -> Float[Tensor, "b 3 3"]:
        """Strains or stresses of the cells of the crystals with those indices, in Cartesian axes."""
        return self._projected(self._cell, strains, rows)

    def _projected(self, table: Tensor, moves: Tensor, rows: Tensor) -> Tensor:
        place = self._place[rows]
        has = (place >= 0).nonzero()[:, 0]
        if len(has) == 0:
            return moves
        mine = moves[has]
        return moves.index_copy(0, has, (table[place[has]] @ mine.flatten(1)[..., None]).view_as(mine))


def _projections(
    crystal: Crystal, symprec: float
) -> tuple[Float64[np.ndarray, "n3 n3"], Float64[np.ndarray, "9 9"]] | None:
    """Projections of displacements, atom by atom, and of strains; None: nothing but the identity."""
    try:
        rotations, translations = symmetry_operations(crystal, symprec)
    except InputError:
        return None
    if len(rotations) <= 1:
        return None
    count, atoms = len(rotations), np.arange(crystal.num_atoms)
    displacements = np.zeros((crystal.num_atoms, 3, crystal.num_atoms, 3))
    strains = np.zeros((9, 9))
    turns = _cartesian(crystal.lattice, rotations)
    for rotation, translation, turn in zip(rotations, translations, turns, strict=True):
        images = _images(crystal, rotation, translation)
        if (np.sort(images) != atoms).any():  # atoms closer to each other than the tolerance
            return None
        displacements[images, :, atoms, :] += turn / count
        strains += np.kron(turn, turn) / count
    return displacements.reshape(3 * len(atoms), 3 * len(atoms)), strains


def _cartesian(
    lattice: Float64[np.ndarray, "3 3"], rotations: Int64[np.ndarray, "g 3 3"]
) -> Float64[np.ndarray, "g 3 3"]:
    """Orthogonal matrices of the rotations, in the lattice's axes or very nearly so."""
    metric = np.einsum("gji,jk,gkl->il", rotations, lattice @ lattice.T, rotations) / len(rotations)
    # the lattice L with that metric that is nearest: L0 D with D symmetric, D^2 = L0^-1 metric L0^-T
    inverse = np.linalg.inv(lattice)
    values, vectors = np.linalg.eigh(inverse @ metric @ inverse.T)
    nearest = lattice @ (vectors * np.sqrt(values)) @ vectors.T
    made: Float64[np.ndarray, "g 3 3"] = nearest.T @ rotations @ np.linalg.inv(nearest.T)
    return made


def _images(
    crystal: Crystal, rotation: Int64[np.ndarray, "3 3"], translation: Float64[np.ndarray, " 3"]
) -> Int64[np.ndarray, " n"]:
    """Which atom each atom is taken to."""
    difference = (crystal.frac_coords @ rotation.T + translation)[:, None] - crystal.frac_coords
    square = (((difference - np.rint(difference)) @ crystal.lattice) ** 2).sum(-1)
    other = crystal.atomic_numbers[:, None] != crystal.atomic_numbers
    return np.where(other, np.inf, square).argmin(1)
