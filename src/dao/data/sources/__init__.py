"""Readers of crystals from files, one module a kind; :func:`read_crystals` picks by the name.

They raise :class:`~dao.errors.InputError` with file and row for anything malformed or disordered, and do not judge the
rest: callers apply :meth:`dao.crystal.Crystal.validate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from dao.crystal import Crystal
from dao.data.shards import shard_files
from dao.data.sources.ase_db import read_ase_db
from dao.data.sources.csv import read_csv
from dao.data.sources.extxyz import read_extxyz
from dao.data.sources.failures import OnError
from dao.data.sources.folder import is_structure_file, read_folder, read_structure_file
from dao.data.sources.parquet import read_parquet
from dao.data.sources.structures_json import SUFFIXES as JSON_SUFFIXES
from dao.data.sources.structures_json import read_json
from dao.data.sources.zip import read_zip
from dao.errors import InputError

__all__ = [
    "read_ase_db",
    "read_crystals",
    "read_csv",
    "read_extxyz",
    "read_folder",
    "read_json",
    "read_parquet",
    "read_structure_file",
    "read_zip",
]


_READERS: dict[str, Callable[..., Iterator[Crystal]]] = {
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".extxyz": read_extxyz,
    ".xyz": read_extxyz,
    **dict.fromkeys(JSON_SUFFIXES, read_json),
    ".zip": read_zip,
    ".db": read_ase_db,
}
"""By the end of the file's name."""


def read_crystals(path: Path | str, *, on_error: OnError | None = None) -> Iterator[Crystal]:
    """Crystals of a file, of a folder of CIF and POSCAR files, or of a folder of shards.

    Files may be Parquet, CSV, extended XYZ, CIF, POSCAR, JSON or JSON lines (also gzipped), a ZIP of CIFs, or an ASE
    database.

    Args:
        path: what to read; the kind follows from the name.
        on_error: called for an unreadable row, frame or file, which is then skipped; without it that raises.

    Raises:
        InputError: missing, of no known kind, or malformed.

    """
    file = Path(path)
    if file.is_dir():
        shards = shard_files(file)
        if shards:
            return chain.from_iterable(read_parquet(shard, on_error=on_error) for shard in shards)
        return read_folder(file, on_error=on_error)
    if is_structure_file(file):
        return iter(read_structure_file(file))
    for suffix, read in _READERS.items():
        if file.name.lower().endswith(suffix):
            return read(file, on_error=on_error)
    if not file.exists():
        raise InputError(f"{file}: no such file or folder")
    raise InputError(f"{file}: unknown kind; known are folders, .cif, .vasp, POSCAR, {', '.join(_READERS)}")
