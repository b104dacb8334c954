"""Crystals from ASE database files (SQLite), as P-cG-SchNet and SchNetPack write them.

Read by SQL, read-only, and only the columns that make a structure. ``ase.db.connect`` would write its tables into an
SQLite file that is none of ASE's, and decodes objects that a row names (constraints, calculators).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from dao.crystal import Crystal
from dao.data.sources.failures import OnError, existing_file, reading
from dao.data.sources.items import Item, crystals_of
from dao.errors import InputError
from dao.interop.ase import from_atoms

_ID = "material_id"


def read_ase_db(path: Path | str, *, on_error: OnError | None = None) -> Iterator[Crystal]:
    """Crystals of an ASE database in the order of its row ids; key-value pairs go to ``info``.

    Args:
        path: the ``.db`` file.
        on_error: called for an unreadable row, which is then skipped; without it such a row raises.

    Raises:
        InputError: at once for a missing file; while iterating for one that is no ASE database, and for a malformed row
            (its id) or one without a periodic cell.

    """
    return crystals_of(ase_db_items(path), on_error)


def ase_db_items(path: Path | str) -> Iterator[Item]:
    """See :func:`read_ase_db`; an unreadable row keeps its place.

    Raises:
        InputError: as there, but not for one row.

    """
    return _items(existing_file(path))


def _items(file: Path) -> Iterator[Item]:
    with reading(str(file)):
        connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    with closing(connection):
        with reading(str(file)):
            found = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE type='table' AND name='systems'")
            if not found.fetchone()[0]:
                raise InputError("is no ASE database: it has no table 'systems'")
            rows = connection.execute(
                "SELECT id, numbers, positions, cell, pbc, key_value_pairs FROM systems ORDER BY id"
            )
        while True:
            with reading(str(file)):
                row = rows.fetchone()
            if row is None:
                return
            yield _item(row, file)


def _item(row: tuple[Any, ...], file: Path) -> Item:
    where, material_id = f"{file}, row {row[0]}", None
    try:
        with reading(where):
            info = json.loads(row[5])
            stated = info.pop(_ID, None)
            material_id = None if stated is None else str(stated)
        name = material_id if material_id is not None else f"{file.stem}-{row[0]}"
        with reading(where, name):
            crystal = _crystal(row, name, info)
    except InputError as error:
        return Item.unreadable(where, material_id, error)
    return Item(where, material_id, crystal)


def _crystal(row: tuple[Any, ...], name: str, info: dict[str, Any]) -> Crystal:
    from ase import Atoms

    _, numbers, positions, cell, pbc, _ = row
    if numbers is None or cell is None:
        raise InputError("has no atoms or no cell")
    atoms = Atoms(
        np.frombuffer(numbers, "<i4"),
        positions=np.frombuffer(positions, "<f8").reshape(-1, 3),
        cell=np.frombuffer(cell, "<f8").reshape(3, 3),
        # one bit a direction
        pbc=[bool(pbc & bit) for bit in (1, 2, 4)],
    )
    atoms.info.update(info)
    return from_atoms(atoms, name)
