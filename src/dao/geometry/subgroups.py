"""A crystal seen with less symmetry than it has: its description in a small subgroup of its space group.

A rutile is a crystal of P4_2/mnm, and as well one of P-1, Cm or C2 with more free coordinates. Subgroups here keep all
lattice translations (they are translationengleich), so the primitive cell stays the same.

Shapes: G operations of a group modulo lattice translations, N atoms of the primitive cell.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from dao.crystal import Crystal
from dao.errors import InputError
from dao.geometry.symmetrized import SymmetricCrystal, symmetrized
from dao.geometry.symmetry import TRUSTED_SYMPREC
from dao.geometry.wyckoff import operations

SMALL = 4
"""Most operations of a small subgroup: point groups -1, 2, m, 2/m, 222, mm2, 4, -4 and 3."""

_MARKER = 118
"""Element of the points that tell a subgroup's operations from the others. No crystal of any data set has it."""

_GENERIC = np.array([0.41421356, 0.83095189, 0.23606798])
"""A point far from all symmetry elements."""


@cache
def small_subgroups(space_group: int) -> dict[int, list[tuple[int, ...]]]:
    """The proper subgroups of 2 to :data:`SMALL` operations, one of each class of conjugates, by their space group.

    Each is given by its rows of :func:`operations`. Conjugates describe one and the same crystal alike.

    Raises:
        InputError: no such group.

    """
    from moyopy import SpaceGroup, enumerate_translationengleiche_subgroups

    rotations, translations = operations(space_group)
    classes = enumerate_translationengleiche_subgroups(rotations.astype(int).tolist(), translations.tolist())
    found: dict[int, list[tuple[int, ...]]] = {}
    for subgroup in (one.representative for one in classes):
        kept = subgroup.operations
        if 2 <= len(kept.rotations) <= min(SMALL, len(rotations) - 1):
            kind = SpaceGroup(kept.rotations, kept.translations).number
            found.setdefault(kind, []).append(tuple(sorted(subgroup.operation_indices)))
    return dict(sorted(found.items()))


def in_subgroup(crystal: Crystal, space_group: int, kept: tuple[int, ...]) -> SymmetricCrystal:
    """Describe a crystal by some of its operations alone, in the standard setting of the group that they make.

    Points on a general position of the subgroup are added, the group of all is looked up, and they are left out again:
    so cell, origin and letters are chosen as for crystals that have no other symmetry.

    Args:
        crystal: in the primitive cell of its group's standard setting, as ``SymmetricCrystal.crystal`` gives it.
        space_group: 1 to 230.
        kept: rows of :func:`operations` that make a group, as :func:`small_subgroups` gives them.

    Raises:
        InputError: moyo does not find the subgroup.

    """
    rotations, translations = (one[list(kept)] for one in operations(space_group))
    marked = Crystal(
        np.append(crystal.atomic_numbers, np.full(len(kept), _MARKER)),
        np.concatenate([crystal.frac_coords, rotations @ _GENERIC + translations]),
        crystal.lattice,
        crystal.material_id,
    )
    found = symmetrized(marked, TRUSTED_SYMPREC)  # it has them to rounding
    own = [i for i, (element, _) in enumerate(found.orbits) if element != _MARKER]
    orbits = tuple(found.orbits[i] for i in own)
    described = SymmetricCrystal(found.space_group, orbits, found.free_coords[own], found.lattice)
    if len(operations(found.space_group)[0]) != len(kept) or len(found.orbits) != len(own) + 1:
        raise InputError(f"{crystal.name}: moyo finds another group than the subgroup of {len(kept)} operations")
    return described
