"""Crystals as things to draw: atoms (those on the cell's faces repeated), bonds and the cell, in A.

Every scene has **a** along x and **b** in the plane of x and y, so that two cells of one crystal are drawn alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float64, Int64

from dao.crystal import Crystal
from dao.trajectory import Trajectory

ON_FACE = 0.02
"""Fractional coordinates this near to 0 or 1 lie on a face of the cell, and their atoms are drawn on both."""

BOND_STRETCH = 1.25
"""Bonds join atoms that are no farther apart than this times the nearest distance of either."""

LONGEST_BOND = 3.4
"""A; the longest bonds drawn are those of heavy halides."""

SPHERE_SCALE = 0.42
"""Radius of a drawn sphere by covalent radius: atoms show, and what lies behind them too."""

METALLOIDS = frozenset((5, 14, 32, 33, 51, 52, 84))
NONMETALS = frozenset((1, 2, *range(6, 11), *range(15, 19), *range(34, 37), 53, 54, 85, 86)) | METALLOIDS
"""Atomic numbers. Bonds are drawn where one of the two atoms is among them: metals among themselves have too many."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A crystal to draw.

    Attributes:
        atomic_numbers: (M,) of each drawn atom.
        places: (M, 3) cartesian, A.
        lattice: (3, 3) rows, A.
        bonds: (K, 2) numbers of the atoms joined.

    """

    atomic_numbers: Int64[np.ndarray, " m"]
    places: Float64[np.ndarray, "m 3"]
    lattice: Float64[np.ndarray, "3 3"]
    bonds: Int64[np.ndarray, "k 2"]


def scene(crystal: Crystal) -> Scene:
    """The cell as it is, with every atom on its faces, edges and corners."""
    which, shifts = _drawn(crystal.frac_coords)
    lattice = upright(crystal.lattice)
    numbers = crystal.atomic_numbers[which]
    places = (crystal.frac_coords[which] + shifts) @ lattice
    return Scene(numbers, places, lattice, _bonds(numbers, places, nearest(crystal)[which]))


def scenes(walk: Trajectory) -> list[Scene]:
    """The states of a walk: the atoms that the last is drawn with, followed back along unbroken paths.

    Bonds are those of the last state in all of them.
    """
    final = walk.crystals[-1]
    which, shifts = _drawn(final.frac_coords)
    numbers = final.atomic_numbers[which]
    paths = [final.frac_coords]
    for crystal in reversed(walk.crystals[:-1]):
        # the nearest image to where the atom is next
        step = crystal.frac_coords - paths[-1]
        paths.append(paths[-1] + step - np.rint(step))
    made: list[Scene] = []
    bonds = np.zeros((0, 2), dtype=np.int64)
    for coords, crystal in zip(paths, reversed(walk.crystals), strict=True):
        lattice = upright(crystal.lattice)
        places = (coords[which] + shifts) @ lattice
        if not made:
            bonds = _bonds(numbers, places, nearest(final)[which])
        made.append(Scene(numbers, places, lattice, bonds))
    return made[::-1]


def upright(lattice: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """The same cell, turned so that **a** lies along x and **b** in the plane of x and y; its handedness is kept."""
    turned: Float64[np.ndarray, "3 3"] = np.linalg.qr(lattice.T).R.T
    # signs of a and b are a matter of rotation, that of c then of handedness
    turned = turned * np.where(turned.diagonal() < 0, -1.0, 1.0)
    if np.linalg.det(lattice) < 0:
        turned[:, 2] *= -1.0
    return turned


def element_colour(number: int) -> tuple[float, float, float]:
    """Red, green and blue (0 to 1) by Jmol's convention."""
    from ase.data.colors import jmol_colors

    red, green, blue = jmol_colors[number]
    return float(red), float(green), float(blue)


def element_radius(number: int) -> float:
    """Of the drawn sphere, A."""
    from ase.data import covalent_radii

    return SPHERE_SCALE * float(covalent_radii[number])


def nearest(crystal: Crystal) -> Float64[np.ndarray, " n"]:
    """Distance in A from each atom to its nearest neighbour, periodic images included (exact for reduced cells)."""
    images = np.array(list(product((-1.0, 0.0, 1.0), repeat=3)))
    difference = crystal.frac_coords[None, :] - crystal.frac_coords[:, None]
    difference -= np.rint(difference)
    distances = np.linalg.norm((difference[:, :, None] + images) @ crystal.lattice, axis=-1)
    distances[distances < 1e-6] = np.inf  # the atom itself
    return np.asarray(distances.min((1, 2)), dtype=np.float64)


def _drawn(coords: Float64[np.ndarray, "n 3"]) -> tuple[Int64[np.ndarray, " m"], Float64[np.ndarray, "m 3"]]:
    """Number of the atom behind each drawn one, and by how many cells it is shifted."""
    which: list[int] = []
    shifts: list[Sequence[float]] = []
    for i, place in enumerate(coords):
        options = [(0.0, 1.0) if x < ON_FACE else (-1.0, 0.0) if x > 1.0 - ON_FACE else (0.0,) for x in place]
        for shift in product(*options):
            which.append(i)
            shifts.append(shift)
    return np.array(which, dtype=np.int64), np.array(shifts, dtype=np.float64)


def _bonds(
    numbers: Int64[np.ndarray, " m"], places: Float64[np.ndarray, "m 3"], closest: Float64[np.ndarray, " m"]
) -> Int64[np.ndarray, "k 2"]:
    distances = np.linalg.norm(places[:, None] - places[None, :], axis=-1)
    reach = np.minimum(np.minimum(closest[:, None], closest[None, :]) * BOND_STRETCH, LONGEST_BOND)
    nonmetal = np.isin(numbers, list(NONMETALS))
    joined = (distances < reach) & (nonmetal[:, None] | nonmetal[None, :])
    first, second = np.nonzero(np.triu(joined, k=1))
    return np.stack([first, second], axis=1).astype(np.int64)


def drawn_cell(cif: str) -> Crystal:
    """The cell of a CIF text, so that what is drawn is what is downloaded."""
    from pymatgen.core import Structure

    with warnings.catch_warnings():
        # of coordinates that are snapped to thirds
        warnings.simplefilter("ignore")
        return Crystal.from_structure(Structure.from_str(cif, fmt="cif"))
