"""Crystals from the project's Parquet files: one row each, in uniform columns.

Columns: ``atomic_numbers`` list of int (N), ``frac_coords`` list of float (3N, row-major), ``lattice`` list of float
(9: three row vectors, A), optionally ``material_id`` (str) and ``num_atoms``, and any labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dao.crystal import Crystal
from dao.data.sources.failures import OnError, existing_file, reading
from dao.errors import InputError

if TYPE_CHECKING:
    from pyarrow import ListArray
    from pyarrow.parquet import ParquetFile

_ROWS_AT_ONCE = 4096
_STRUCTURE = ("atomic_numbers", "frac_coords", "lattice")
_ID = "material_id"


def read_parquet(
    path: Path | str,
    split: str | None = None,
    columns: Sequence[str] = (),
    *,
    split_column: str = "split",
    on_error: OnError | None = None,
) -> Iterator[Crystal]:
    """Crystals of a Parquet file in its order, read a few thousand rows at a time.

    Args:
        path: the file.
        split: keep rows whose ``split_column`` equals this; None keeps all.
        columns: labels to put into ``info`` (null ones too, as None).
        split_column: where the split is written.
        on_error: called for a malformed row, which is then skipped; without it such a row raises.

    Raises:
        InputError: at once for a missing or unreadable file or a missing column; while iterating for a malformed row
            (file and row, counted from 0 before any filter) and at the end for a ``split`` that no row has.

    """
    import pyarrow.parquet as pq

    file = existing_file(path)
    with reading(str(file)):
        parquet = pq.ParquetFile(file)
        present = set(parquet.schema_arrow.names)
    wanted = [*_STRUCTURE, *columns, *((split_column,) if split is not None else ())]
    missing = [column for column in wanted if column not in present]
    if missing:
        raise InputError(f"{file}: no column {', '.join(map(repr, missing))}; it has {', '.join(sorted(present))}")
    return _crystals(_rows(parquet, file, tuple(columns), split_column, split), file, on_error)


def _crystals(rows: Iterator[_Row], file: Path, on_error: OnError | None) -> Iterator[Crystal]:
    for row in rows:
        try:
            crystal = Crystal(
                row.atomic_numbers,
                _rows_of_three(row.frac_coords),
                _rows_of_three(row.lattice),
                material_id=row.name if row.name is not None else f"{file.stem}-{row.index}",
                info=row.labels,
            )
        except InputError as error:
            located = InputError(f"{file}, row {row.index}: {error}")
            if on_error is None:
                raise located from error
            on_error(located)
            continue
        yield crystal


def _rows_of_three(flat: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # any other length is left for Crystal to refuse
    return flat.reshape(-1, 3) if flat.size % 3 == 0 else flat


@dataclass(frozen=True, slots=True)
class _Row:
    index: int
    name: str | None
    atomic_numbers: npt.NDArray[Any]
    frac_coords: npt.NDArray[Any]
    lattice: npt.NDArray[Any]
    labels: dict[str, Any]


def _rows(
    parquet: ParquetFile, file: Path, labels: tuple[str, ...], split_column: str, split: str | None
) -> Iterator[_Row]:
    names = parquet.schema_arrow.names
    wanted = {*_STRUCTURE, *labels, *([split_column] if split is not None else []), *([_ID] if _ID in names else [])}
    batches = parquet.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[name for name in names if name in wanted])
    seen: set[str] = set()
    first = 0
    while True:
        with reading(str(file)):
            batch = next(batches, None)
            if batch is None:
                break
            lists = [_lists(batch.column(column)) for column in _STRUCTURE]
            scalars = {name: batch.column(name).to_pylist() for name in wanted.difference(_STRUCTURE)}
        for row in range(batch.num_rows):
            if split is not None:
                seen.add(str(scalars[split_column][row]))
                if scalars[split_column][row] != split:
                    continue
            name = scalars[_ID][row] if _ID in scalars else None
            numbers, coords, lattice = (values[offsets[row] : offsets[row + 1]] for offsets, values in lists)
            yield _Row(
                first + row,
                None if name is None else str(name),
                numbers,
                coords,
                lattice,
                {label: scalars[label][row] for label in labels},
            )
        first += batch.num_rows
    if split is not None and split not in seen:
        raise InputError(f"{file}: no row has {split_column} {split!r}; it has {', '.join(sorted(seen)) or 'no rows'}")


def _lists(column: ListArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any]]:
    """Offsets of a list column's rows, and the values of all of them; other list types become the plain one."""
    import pyarrow as pa

    plain = column.cast(pa.list_(column.type.value_type))
    return plain.offsets.to_numpy(), plain.values.to_numpy(zero_copy_only=False)
