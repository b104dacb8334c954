"""Geometric fingerprint of a crystal: who has whom as a neighbour at which distance, whatever its cell or volume.

Shapes: N atoms, S kinds of atoms ("slots").
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

REACH = 2.0
"""Radius of :func:`fingerprint` in units of (V/N)^(1/3): some 33 neighbours an atom."""

BINS = 20
"""Bins of distance in :func:`fingerprint`."""


def fingerprint(slots: Integers, frac_coords: Floats, lattice: Floats) -> Floats:
    """(S, S, BINS) neighbours an atom by pair of slots and distance, in units of (V/N)^(1/3), up to :data:`REACH`.

    Each neighbour is shared by the two bins nearest to it, so that small shifts change little.

    Args:
        slots: (N,) which of the S elements each atom is, 0 to S - 1.
        frac_coords: (N, 3).
        lattice: (3, 3) row vectors in A.

    """
    count, kinds = len(slots), int(slots.max()) + 1
    cell = lattice / np.cbrt(abs(np.linalg.det(lattice)) / count)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    reach = np.floor(REACH / heights + 0.5).astype(int)
    images = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    first, second = np.triu_indices(count)
    apart = frac_coords[first] - frac_coords[second]
    vectors = ((apart - np.rint(apart)) @ cell)[:, None, :] + images @ cell
    distances = np.sqrt(np.einsum("pix,pix->pi", vectors, vectors))
    pair, image = np.nonzero((distances < REACH) & (distances > 1e-3))
    place = distances[pair, image] * (BINS / REACH)
    lower = place.astype(int)
    share = place - lower
    # a pair of two atoms counts for each of them, an atom and its own image once
    weight = np.where(first == second, 0.5, 1.0)[pair] / count
    cells = (slots[first] * kinds + slots[second])[pair] * (BINS + 1) + lower
    size = kinds * kinds * (BINS + 1)
    table = np.bincount(cells, weight * (1.0 - share), size) + np.bincount(cells + 1, weight * share, size)
    table = table.reshape(kinds, kinds, BINS + 1)[..., :BINS]
    return table + table.transpose(1, 0, 2)
