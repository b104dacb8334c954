"""Readers of crystals from files, one module a kind; :func:`read_crystals` picks by the name.

They raise :class:`~dao.errors.InputError` with file and row for anything malformed or disordered, and do not judge the
rest: callers apply :meth:`dao.crystal.Crystal.validate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dao.crystal import Crystal
from dao.data.sources.csv import read_csv
from dao.data.sources.extxyz import read_extxyz
from dao.data.sources.failures import OnError
from dao.data.sources.folder import is_structure_file, read_folder, read_structure_file
from dao.data.sources.parquet import read_parquet
from dao.errors import InputError

__all__ = ["read_crystals", "read_csv", "read_extxyz", "read_folder", "read_parquet", "read_structure_file"]


def read_crystals(path: Path | str, *, on_error: OnError | None = None) -> Iterator[Crystal]:
    """Crystals of a Parquet, CSV, extended XYZ, CIF or POSCAR file, or of a folder of CIF and POSCAR files.

    Args:
        path: what to read; the kind follows from the name.
        on_error: called for an unreadable row, frame or file, which is then skipped; without it that raises.

    Raises:
        InputError: missing, of no known kind, or malformed.

    """
    file = Path(path)
    suffix = file.suffix.lower()
    if file.is_dir():
        return read_folder(file, on_error=on_error)
    if is_structure_file(file):
        return iter(read_structure_file(file))
    if suffix == ".parquet":
        return read_parquet(file, on_error=on_error)
    if suffix == ".csv":
        return read_csv(file, on_error=on_error)
    if suffix in (".extxyz", ".xyz"):
        return read_extxyz(file, on_error=on_error)
    if not file.exists():
        raise InputError(f"{file}: no such file or folder")
    raise InputError(f"{file}: unknown kind; known are folders, .cif, .vasp, POSCAR, .extxyz, .xyz, .csv and .parquet")
