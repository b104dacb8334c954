"""Exact conversion between :class:`~dao.crystal.Crystal` and ASE's ``Atoms``.

Constraints, momenta, masses and calculators are dropped (so deuterium, which ASE knows by mass only, is hydrogen).
Atoms without a full cell, or not periodic in three directions, or partly occupied (as ASE's CIF reader marks them), are
refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dao.crystal import Crystal
from dao.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

_ID_KEY = "material_id"
_SYMMETRY_KEYS = ("spacegroup", "unit_cell", "occupancy")
"""What ASE's CIF reader leaves in ``info``: objects of its own, true of its own cell only."""


def _is_partly_occupied(atoms: Atoms) -> bool:
    # {kind: {symbol: occupancy}}, or the same as JSON would have it
    occupancy = atoms.info.get("occupancy")
    if not isinstance(occupancy, dict):
        return False
    return any(len(site) != 1 or any(abs(share - 1.0) > 1e-8 for share in site.values()) for site in occupancy.values())


def from_atoms(atoms: Atoms, material_id: str | None = None) -> Crystal:
    """Crystal with the same cell and atoms in their order.

    The name is ``material_id`` or else ``atoms.info["material_id"]``; the rest of ``atoms.info`` goes to ``info``.

    Raises:
        InputError: no or a flat cell, not periodic in three directions, partial occupancy, or an unknown element (X).

    """
    info = {key: value for key, value in atoms.info.items() if key not in _SYMMETRY_KEYS}
    stored_id = info.pop(_ID_KEY, None)
    if material_id is None and stored_id is not None:
        material_id = str(stored_id)
    name = material_id if material_id is not None else "atoms"
    if atoms.cell.rank != 3:
        raise InputError(f"{name}: has no cell of three independent vectors (a molecule or slab, not a crystal)")
    if not atoms.pbc.all():
        raise InputError(
            f"{name}: periodic in {int(atoms.pbc.sum())} of 3 directions; set atoms.pbc = True if it is a crystal"
        )
    if _is_partly_occupied(atoms):
        raise InputError(f"{name}: disordered or partly occupied")
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise InputError(f"{name}: a position or cell vector is not finite")
    return Crystal(
        atoms.numbers,
        np.linalg.solve(atoms.cell.array.T, atoms.positions.T).T,
        atoms.cell.array,
        material_id=material_id,
        info=info,
    )


def to_atoms(crystal: Crystal) -> Atoms:
    """Atoms with the same cell and atoms in the same order; ``material_id`` and ``info`` in ``atoms.info``."""
    from ase import Atoms

    info = dict(crystal.info)
    if crystal.material_id is not None:
        info[_ID_KEY] = crystal.material_id
    return Atoms(
        numbers=crystal.atomic_numbers,
        scaled_positions=crystal.frac_coords,
        cell=crystal.lattice,
        pbc=True,
        info=info,
    )
