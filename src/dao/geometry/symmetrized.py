"""A crystal as its space group sees it: occupied Wyckoff positions, their free coordinates, and the cell.

Shapes: K orbits, N atoms of the primitive cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from dao.errors import InputError
from dao.geometry.symmetry import standard_cell
from dao.geometry.wyckoff import WyckoffPosition, primitive_cell, primitive_coordinates, wyckoff_positions

if TYPE_CHECKING:
    from dao.crystal import Crystal

MATCH_TOLERANCE = 1e-3
"""Fractional distance within which an atom of a symmetrised cell must lie on its Wyckoff position."""


@dataclass(frozen=True, eq=False)
class SymmetricCrystal:
    """A crystal in its group's standard setting.

    Attributes:
        space_group: 1 to 230.
        orbits: (element, Wyckoff letter) of each orbit, sorted by element, then letter.
        free_coords: (K, 3) free coordinates of each orbit in [0, 1), zero where the position has fewer.
        lattice: (3, 3) row vectors of the conventional cell in A.

    """

    space_group: int
    orbits: tuple[tuple[int, str], ...]
    free_coords: Float64[np.ndarray, "k 3"]
    lattice: Float64[np.ndarray, "3 3"]

    def positions(self) -> tuple[WyckoffPosition, ...]:
        """The position of each orbit."""
        known = {one.letter: one for one in wyckoff_positions(self.space_group)}
        return tuple(known[letter] for _, letter in self.orbits)

    def crystal(self, material_id: str | None = None) -> Crystal:
        """The primitive cell, its atoms orbit by orbit."""
        from dao.crystal import Crystal

        positions = self.positions()
        return Crystal(
            np.repeat([number for number, _ in self.orbits], [one.multiplicity for one in positions]),
            np.concatenate([one.expand(free) for one, free in zip(positions, self.free_coords, strict=True)]),
            primitive_cell(self.space_group) @ self.lattice,
            material_id,
        )


def symmetrized(crystal: Crystal, symprec: float) -> SymmetricCrystal:
    """Describe a crystal by its space group within ``symprec`` (A), symmetrised and reduced to its primitive cell.

    Raises:
        InputError: moyo finds no group, or a standard cell that does not fit the group's Wyckoff positions.

    """
    cell = standard_cell(crystal, symprec)
    coords = cell.frac_coords @ primitive_coordinates(cell.number).T
    sites = [(int(z), letter) for z, letter in zip(cell.atomic_numbers, cell.letters, strict=True)]
    known = {one.letter: one for one in wyckoff_positions(cell.number)}
    order = {letter: i for i, letter in enumerate(known)}
    orbits, free_coords = [], []
    for site in sorted(set(sites), key=lambda one: (one[0], order[one[1]])):
        position = known[site[1]]
        left = coords[[one == site for one in sites]]
        while len(left):
            free, off = position.free_coordinates(left)
            image = position.expand(free)
            difference = left[:, None] - image
            distance = np.abs(difference - difference.round()).max(-1)
            near = distance.min(1) < MATCH_TOLERANCE
            if off > MATCH_TOLERANCE or not bool((distance.min(0) < MATCH_TOLERANCE).all()):
                raise InputError(f"{crystal.name}: atoms off Wyckoff position {site[1]} of space group {cell.number}")
            orbits.append(site)
            free_coords.append(free)
            left = left[~near]
    return SymmetricCrystal(cell.number, tuple(orbits), np.array(free_coords), cell.lattice)
