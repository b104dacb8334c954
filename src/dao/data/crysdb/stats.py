"""What is in a CrysDB: sources, stability, energies, volumes, sizes and elements (Figure 2 of the paper)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dao.constants import MAX_ATOMIC_NUMBER, STABLE_E_ABOVE_HULL
from dao.data.shards import SOURCE, shard_files
from dao.data.sources.failures import reading
from dao.elements import SYMBOLS
from dao.errors import InputError

ENERGY_EDGES = np.round(np.linspace(0.0, 1.0, 26), 10)
"""eV/atom, 0.04 apart, so that two bars are the stable ones; the last bar holds all above."""

VOLUME_EDGES = np.linspace(0.0, 1500.0, 31)
"""A^3 of the cell, where most of the paper's crystals are; the last bar holds all above."""

_NEEDED = ("atomic_numbers", "lattice", "num_atoms")
_ENERGY = "e_above_hull"


@dataclass(frozen=True)
class SourceStats:
    """Crystals of one source, those of known energy above the hull, and the stable ones (at most 0.08 eV/atom)."""

    source: str
    crystals: int
    known: int
    stable: int


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; what lies beyond them is in the first and last bar."""

    edges: list[float]
    counts: list[int]
    largest: float | None


@dataclass(frozen=True)
class Stats:
    """Of all crystals.

    Attributes:
        sources: the largest first.
        e_above_hull: eV/atom, of those that are known.
        volume: A^3 of the cells.
        num_atoms: number of crystals by atoms in the cell.
        elements: number of crystals by symbol of an element in them, by rising atomic number.

    """

    sources: list[SourceStats]
    e_above_hull: Histogram
    volume: Histogram
    num_atoms: dict[int, int]
    elements: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """For files and programs."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """A row a source for a table, and one of all; shares in percent of known energies."""
        total = SourceStats(
            "all",
            sum(one.crystals for one in self.sources),
            sum(one.known for one in self.sources),
            sum(one.stable for one in self.sources),
        )
        some = [*self.sources, total] if len(self.sources) > 1 else self.sources
        return [{**asdict(one), "stable": 100 * one.stable / one.known if one.known else None} for one in some]


def describe(path: Path) -> Stats:
    """Read shards, or one Parquet file of the uniform layout.

    Raises:
        InputError: unreadable, no crystals, or none of our layout.

    """
    files = shard_files(path) or [path]
    parts = []
    for file in files:
        with reading(str(file)):
            names = pq.read_schema(file).names
            missing = [name for name in _NEEDED if name not in names]
            if missing:
                raise InputError(f"no column {missing[0]!r}")
            wanted = [*_NEEDED, *(name for name in (SOURCE, _ENERGY) if name in names)]
            parts.append(_part(pq.read_table(file, columns=wanted), file))
    atoms = np.concatenate([part.atoms for part in parts])
    if not atoms.size:
        raise InputError(f"{path}: no crystals")
    energies = np.concatenate([part.energies for part in parts])
    sources = np.concatenate([part.sources for part in parts])
    volumes = np.concatenate([part.volumes for part in parts])
    elements = np.sum([part.elements for part in parts], axis=0)
    known = ~np.isnan(energies)
    found = []
    for name in np.unique(sources):
        rows = sources == name
        stable = int((energies[rows] <= STABLE_E_ABOVE_HULL).sum())
        found.append(SourceStats(str(name), int(rows.sum()), int(known[rows].sum()), stable))
    sizes, counts = np.unique(atoms, return_counts=True)
    return Stats(
        sources=sorted(found, key=lambda one: (-one.crystals, one.source)),
        e_above_hull=_histogram(energies[known], ENERGY_EDGES),
        volume=_histogram(volumes, VOLUME_EDGES),
        num_atoms={int(size): int(count) for size, count in zip(sizes, counts, strict=True)},
        elements={SYMBOLS[number]: int(elements[number]) for number in np.flatnonzero(elements)},
    )


@dataclass(frozen=True)
class _Part:
    """Of the M crystals of one file.

    Attributes:
        atoms: (M,) in the cell.
        volumes: (M,) of the cell in A^3.
        energies: (M,) above the hull in eV/atom; NaN where unknown.
        sources: (M,) names.
        elements: (E,) crystals with each element (index = atomic number).

    """

    atoms: npt.NDArray[np.int64]
    volumes: npt.NDArray[np.float64]
    energies: npt.NDArray[np.float64]
    sources: npt.NDArray[Any]
    elements: npt.NDArray[np.int64]


def _part(table: pa.Table, file: Path) -> _Part:
    rows = table.num_rows
    lengths = pc.list_value_length(table["atomic_numbers"]).to_numpy(zero_copy_only=False).astype(np.int64)
    numbers = pc.list_flatten(table["atomic_numbers"]).to_numpy().astype(np.int64)
    if numbers.size and not (numbers.min() >= 1 and numbers.max() <= MAX_ATOMIC_NUMBER):
        raise InputError("an element beyond plutonium")
    pairs = np.unique(np.stack([np.arange(rows).repeat(lengths), numbers]), axis=1)
    lattice = pc.list_flatten(table["lattice"]).to_numpy().astype(np.float64).reshape(rows, 3, 3)
    energies = np.full(rows, np.nan)
    if _ENERGY in table.column_names:
        energies = table[_ENERGY].cast(pa.float64()).to_numpy(zero_copy_only=False)
    names: Sequence[str | None] = [None] * rows
    if SOURCE in table.column_names:
        names = table[SOURCE].to_pylist()
    return _Part(
        atoms=table["num_atoms"].to_numpy().astype(np.int64),
        volumes=np.abs(np.linalg.det(lattice)),
        energies=energies,
        sources=np.array([file.stem if name is None else str(name) for name in names], dtype=np.str_),
        elements=np.bincount(pairs[1], minlength=MAX_ATOMIC_NUMBER + 1),
    )


def _histogram(values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> Histogram:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return Histogram(edges.tolist(), counts.tolist(), float(values.max()) if values.size else None)


def write_stats(stats: Stats, folder: Path) -> None:
    """Write ``stats.json`` into a folder, which is made if absent.

    Raises:
        InputError: the folder cannot be written.

    """
    part = folder / ".stats.json.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(stats.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(folder / "stats.json")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
