"""Any source of crystals as a Parquet file of the uniform layout.

Columns: ``material_id`` str, ``atomic_numbers`` list (N), ``frac_coords`` list (3N, row-major), ``lattice`` list (9:
three row vectors, A), ``num_atoms``, and any labels.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dao.crystal import Crystal
from dao.data.locate import data_folder
from dao.data.shards import shard_files
from dao.data.sources import read_crystals
from dao.data.sources.failures import reading
from dao.errors import InputError

COLUMNS = ("material_id", "atomic_numbers", "frac_coords", "lattice", "num_atoms")
"""Which every such file has."""


def find_source(name_or_path: str) -> Path:
    """A file or folder by path, or a Parquet file of the data folder by name (``mp_pool``).

    Raises:
        InputError: neither.

    """
    path, named = Path(name_or_path), data_folder() / f"{name_or_path}.parquet"
    with suppress(OSError):  # a name that no file can have
        if path.exists():
            return path
        if named.is_file():
            return named
    raise InputError(f"{name_or_path!r}: neither a file or folder nor {named} (set DAO_DATA)")


def is_parquet(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() == ".parquet" and not path.is_dir()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        InputError: unreadable.

    """
    with reading(str(path)), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def as_parquet(source: Path) -> Iterator[Path]:
    """The source itself if it is Parquet, or a temporary file with the same crystals, which are then held in memory.

    Of shards the file has every column.

    Raises:
        InputError: unreadable.

    """
    if is_parquet(source):
        yield source
        return
    shards = shard_files(source)
    if shards:
        with reading(str(source)):
            table = pq.read_table(shards)
    else:
        table = table_with_labels(list(read_crystals(source)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{source.stem}.parquet"
        pq.write_table(table, path)
        yield path


def table_with_labels(crystals: Sequence[Crystal]) -> pa.Table:
    """Crystals in the uniform layout, with those labels that are scalars."""
    columns: dict[str, pa.Array] = {
        "material_id": pa.array([one.name for one in crystals], pa.string()),
        "atomic_numbers": pa.array([one.atomic_numbers for one in crystals], pa.list_(pa.uint8())),
        "frac_coords": pa.array(
            [one.frac_coords.ravel().astype(np.float32) for one in crystals], pa.list_(pa.float32())
        ),
        "lattice": pa.array([one.lattice.ravel().astype(np.float32) for one in crystals], pa.list_(pa.float32())),
        "num_atoms": pa.array([one.num_atoms for one in crystals], pa.int32()),
    }
    for name in sorted({key for one in crystals for key in one.info} - set(columns)):
        values = [_scalar(one.info.get(name)) for one in crystals]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1:
            kind: type = float if kinds == {int, float} else str
            values = [None if value is None else kind(value) for value in values]
        if kinds:
            columns[name] = pa.array(values)
    return pa.table(columns)


def _scalar(value: Any) -> Any:  # noqa: ANN401 -- labels are anything
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str) else None
