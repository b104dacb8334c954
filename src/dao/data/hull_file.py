"""Energies above the hull into a Parquet file: a hull a source, since energies of different calculations do not mix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt

from dao.constants import MAX_ATOMIC_NUMBER
from dao.data.hull import e_above_hull
from dao.data.shards import HULL_SOURCE, SOURCE, write_table
from dao.data.sources.failures import reading
from dao.data.uniform import as_parquet
from dao.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

FORMATION, ABOVE = "formation_energy", "e_above_hull"


class GroupReport(TypedDict):
    """What came of one hull.

    Attributes:
        group: whose energies it is of.
        phases: rows with a formation energy.
        filled: rows whose energy above the hull is new.
        compared: rows that stated one.
        mae: mean absolute difference to what they stated, eV/atom; None without any.
        median: median of it.

    """

    group: str
    phases: int
    filled: int
    compared: int
    mae: float | None
    median: float | None


def add_hull(source: Path, out: Path, *, group: str | None = None, everything: bool = False) -> list[GroupReport]:
    """Write the rows of ``source`` with ``e_above_hull`` and ``e_above_hull_source`` (``hull:`` and the group).

    Args:
        source: Parquet of the uniform layout with ``formation_energy`` (eV/atom), or a folder of shards.
        out: the file to write.
        group: column whose values have a hull each; by default ``source`` where there is such a column, else one hull.
        everything: replace energies above the hull that are known, too.

    Returns:
        What came of each hull, by name.

    Raises:
        InputError: unreadable, without formation energies, or with elements beyond plutonium.

    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with as_parquet(source) as file:
        with reading(str(source)):
            table = pq.read_table(file)
        needed = ("atomic_numbers", FORMATION, *([group] if group is not None else []))
        missing = [name for name in needed if name not in table.column_names]
        if missing:
            raise InputError(f"{source}: no column {missing[0]!r}")
        with reading(str(source)):
            counts = _element_counts(table)
            formation = table[FORMATION].cast(pa.float64()).to_numpy(zero_copy_only=False)
            formation = np.where(np.isfinite(formation), formation, np.nan)
            stated = _stated(table)
        whose = _groups(table, group)
        origin = table[HULL_SOURCE].to_pylist() if HULL_SOURCE in table.column_names else [None] * table.num_rows
        above, report = stated.copy(), []
        for name in sorted(set(whose)):
            rows = np.array([one == name for one in whose])
            if np.isnan(formation[rows]).all():
                continue
            found = np.full(len(formation), np.nan)
            found[rows] = e_above_hull(counts[rows], formation[rows])
            new = ~np.isnan(found) & (np.isnan(stated) | everything)
            above[new] = found[new]
            for row in np.flatnonzero(new):
                origin[row] = f"hull:{name}"
            off = np.abs(found - stated)
            off = off[~np.isnan(off)]
            report.append(
                GroupReport(
                    group=name,
                    phases=int((~np.isnan(formation[rows])).sum()),
                    filled=int((new & np.isnan(stated)).sum()),
                    compared=int(off.size),
                    mae=float(off.mean()) if off.size else None,
                    median=float(np.median(off)) if off.size else None,
                )
            )
        if not report:
            raise InputError(f"{source}: no row has a {FORMATION}")
        for name, column in (
            (ABOVE, pa.array(above.astype(np.float32), from_pandas=True)),
            (HULL_SOURCE, pa.array(origin, pa.string())),
        ):
            place = table.column_names.index(name) if name in table.column_names else table.num_columns
            if place < table.num_columns:
                table = table.remove_column(place)
            table = table.add_column(place, name, column)
        write_table(table, out)
    return report


def _element_counts(table: pa.Table) -> npt.NDArray[np.int64]:
    """(M, E) atoms of each element (column = atomic number)."""
    import pyarrow.compute as pc

    lengths = pc.list_value_length(table["atomic_numbers"]).to_numpy(zero_copy_only=False).astype(np.int64)
    numbers = pc.list_flatten(table["atomic_numbers"]).to_numpy().astype(np.int64)
    if not (lengths > 0).all() or numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
        raise InputError("a crystal of no atoms, or of an element beyond plutonium")
    counts = np.zeros((len(lengths), MAX_ATOMIC_NUMBER + 1), dtype=np.int64)
    np.add.at(counts, (np.arange(len(lengths)).repeat(lengths), numbers), 1)
    return counts


def _stated(table: pa.Table) -> npt.NDArray[np.float64]:
    import pyarrow as pa

    if ABOVE not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return np.array(table[ABOVE].cast(pa.float64()).to_numpy(zero_copy_only=False))


def _groups(table: pa.Table, group: str | None) -> list[str]:
    column = group or SOURCE
    if column not in table.column_names:
        return ["all"] * table.num_rows
    return [str(value) for value in table[column].to_pylist()]
