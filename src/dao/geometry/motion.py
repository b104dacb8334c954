"""How far a crystal moved: the same atoms in the same order, in two cells that differ little.

Rotations and shifts of the whole crystal do not count. Shapes: N atoms.
"""

from __future__ import annotations

import numpy as np

from dao.crystal import Crystal


def rms_displacement(before: Crystal, after: Crystal) -> float:
    """RMS distance in A by which the atoms moved, in the frame of the first cell, less their mean displacement."""
    moved = after.frac_coords - before.frac_coords
    # a common shift may carry some of the atoms, not all, over the cell's edge
    moved = moved - moved[0]
    moved -= np.rint(moved)
    moved = (moved - moved.mean(0)) @ before.lattice
    return float(np.sqrt((moved**2).sum(1).mean()))


def largest_strain(before: Crystal, after: Crystal) -> float:
    """Largest relative change of a length by the change of the cell: its largest principal strain."""
    # the singular values of a deformation do not know of rotations
    stretch = np.linalg.svd(np.linalg.solve(before.lattice, after.lattice), compute_uv=False)
    return float(np.abs(stretch - 1.0).max())


def volume_change(before: Crystal, after: Crystal) -> float:
    """Relative change of the volume."""
    return after.volume / before.volume - 1.0
