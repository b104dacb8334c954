"""Crystals in several Parquet files of one layout: the project's uniform columns, where they come from, and energies.

The files of a folder belong together and are read in the order of their names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dao.crystal import Crystal
from dao.errors import InputError

PATTERN = "shard-*.parquet"

SOURCE, HULL_SOURCE = "source", "e_above_hull_source"
"""Columns: which database a crystal is of; where its energy above hull is from (``database``, or ``hull:`` whose)."""

LABELS = ("formation_energy", "e_above_hull", "band_gap")
"""eV/atom, eV/atom, eV; null where unknown."""

SCHEMA = pa.schema(
    [
        ("material_id", pa.string()),
        ("atomic_numbers", pa.list_(pa.uint8())),
        ("frac_coords", pa.list_(pa.float32())),
        ("lattice", pa.list_(pa.float32())),
        ("num_atoms", pa.int16()),
        (SOURCE, pa.string()),
        ("formation_energy", pa.float32()),
        ("e_above_hull", pa.float32()),
        (HULL_SOURCE, pa.string()),
        ("band_gap", pa.float32()),
    ]
)


def shard_files(folder: Path) -> list[Path]:
    """Shards of a folder in their order; none where it is no such folder."""
    return sorted(folder.glob(PATTERN)) if folder.is_dir() else []


def number(value: object) -> float | None:
    """A label as a number; None for null, NaN and what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def table_of(crystals: Sequence[Crystal]) -> pa.Table:
    """Crystals as rows of :data:`SCHEMA`; labels are taken from ``info``."""
    columns: dict[str, list[Any]] = {
        "material_id": [one.name for one in crystals],
        "atomic_numbers": [one.atomic_numbers.astype(np.uint8) for one in crystals],
        "frac_coords": [in_cell(one) for one in crystals],
        "lattice": [one.lattice.ravel().astype(np.float32) for one in crystals],
        "num_atoms": [one.num_atoms for one in crystals],
        **{name: [one.info.get(name) for one in crystals] for name in (SOURCE, HULL_SOURCE)},
        **{name: [number(one.info.get(name)) for one in crystals] for name in LABELS},
    }
    return pa.table(columns, schema=SCHEMA)


def in_cell(crystal: Crystal) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(3N,) fractional coordinates, row by row, below 1 as float32 too."""
    coords = crystal.frac_coords.ravel().astype(np.float32)
    # a float64 just below 1 rounds to 1 in float32
    coords[coords >= 1.0] = 0.0
    return coords


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file whole or not at all, through to the disk.

    Raises:
        InputError: the folder cannot be written.

    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            pq.write_table(table, stream, compression="zstd")
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written ({error.strerror})") from None


def write_shards(tables: Iterable[pa.Table], folder: Path, rows: int) -> list[dict[str, str | int]]:
    """Write tables end to end as files of ``rows`` rows; what was there before goes when all are whole.

    Returns:
        Name and rows of each file, in their order.

    Raises:
        InputError: the folder cannot be written.

    """
    written: list[dict[str, str | int]] = []
    parts: list[Path] = []
    for table in _cut(tables, rows):
        name = PATTERN.replace("*", f"{len(written):05d}")
        part = folder / f".{name}.new"
        write_table(table, part)
        parts.append(part)
        written.append({"file": name, "rows": table.num_rows})
    try:
        for part, entry in zip(parts, written, strict=True):
            part.replace(folder / str(entry["file"]))
        for stale in {file.name for file in shard_files(folder)} - {str(entry["file"]) for entry in written}:
            (folder / stale).unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    return written


def _cut(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        while count >= rows:
            whole = pa.concat_tables(waiting).combine_chunks()
            yield whole.slice(0, rows)
            waiting = [whole.slice(rows)]
            count -= rows
    if count:
        yield pa.concat_tables(waiting).combine_chunks()
