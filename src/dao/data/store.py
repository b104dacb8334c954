"""Crystals packed into a few tensors: all atoms of all crystals end to end, so that a batch is one gather.

:func:`dao.data.training_set.load_packed` reads other kinds of files and folders.

Shapes: M crystals, A atoms of all of them, B crystals of a batch, N atoms (padded).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from dao.constants import MAX_ATOMIC_NUMBER
from dao.crystal import LARGEST_VALUE, LAST_ELEMENT, Crystal, CrystalBatch
from dao.data.shards import shard_files
from dao.errors import InputError

SPLIT = "split"
"""Column that says which rows are for training, validation and test."""

_STRUCTURE_COLUMNS = ("material_id", "atomic_numbers", "frac_coords", "lattice", "num_atoms")


@dataclass(frozen=True)
class PackedCrystals:
    """Many crystals in memory (or on a GPU), 13 bytes an atom and 36 a crystal."""

    atomic_numbers: UInt8[Tensor, " a"]
    frac_coords: Float[Tensor, "a 3"]
    lattice: Float[Tensor, "m 3 3"]
    offsets: Int[Tensor, " m1"]
    """Where each crystal's atoms start; one more entry than crystals."""
    ids: tuple[str, ...]
    columns: dict[str, npt.NDArray[Any]]
    """Columns of the file by name, one value a crystal."""
    labels: dict[str, Tensor] = field(default_factory=dict)
    """What batches carry besides the crystals, one number a crystal: space groups, energies."""
    sites: Int[Tensor, " a"] | None = None
    """Row of the site table (:func:`dao.geometry.wyckoff.site_table`) of each atom; None without symmetry."""

    def __len__(self) -> int:
        """Count crystals."""
        return len(self.ids)

    @property
    def num_atoms(self) -> Int[Tensor, " m"]:
        """Atoms of each crystal."""
        return self.offsets[1:] - self.offsets[:-1]

    def to(self, device: torch.device | str) -> PackedCrystals:
        """The same crystals on another device."""
        moved = {
            name: getattr(self, name).to(device) for name in ("atomic_numbers", "frac_coords", "lattice", "offsets")
        }
        if self.sites is not None:
            moved["sites"] = self.sites.to(device)
        return replace(self, **moved, labels={name: values.to(device) for name, values in self.labels.items()})

    def batch(self, indices: Int[Tensor, " b"], pad_to: int | None = None) -> CrystalBatch:
        """The crystals at ``indices`` as one dense batch, padded to ``pad_to`` (default: the largest) atoms."""
        start, count = self.offsets[indices], self.num_atoms[indices]
        width = int(count.max()) if pad_to is None else pad_to
        slots = torch.arange(width, device=start.device)
        mask = slots < count[:, None]
        flat = torch.where(mask, start[:, None] + slots, start[:, None])
        return CrystalBatch(
            atomic_numbers=self.atomic_numbers[flat].long() * mask,
            frac_coords=self.frac_coords[flat] * mask[..., None],
            lattice=self.lattice[indices],
            num_atoms=count,
            labels={name: values[indices] for name, values in self.labels.items()},
            sites=None if self.sites is None else self.sites[flat].long() * mask,
        )

    def select(self, indices: Int[Tensor, " b"]) -> PackedCrystals:
        """Those crystals alone, in that order."""
        counts = self.num_atoms[indices]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        within = torch.arange(int(offsets[-1]), device=offsets.device) - offsets[:-1].repeat_interleave(counts)
        flat = self.offsets[indices].repeat_interleave(counts) + within
        rows = indices.cpu().numpy()
        return PackedCrystals(
            atomic_numbers=self.atomic_numbers[flat],
            frac_coords=self.frac_coords[flat],
            lattice=self.lattice[indices],
            offsets=offsets,
            ids=tuple(self.ids[i] for i in rows),
            columns={name: values[rows] for name, values in self.columns.items()},
            labels={name: values[indices] for name, values in self.labels.items()},
            sites=None if self.sites is None else self.sites[flat],
        )

    def element_counts(self) -> Float[Tensor, "m e"]:
        """Atoms of each element (column = atomic number) in each crystal."""
        device = self.offsets.device
        counts = torch.zeros(len(self), MAX_ATOMIC_NUMBER + 1, device=device)
        crystal = torch.arange(len(self), device=device).repeat_interleave(self.num_atoms)
        one = torch.ones(len(crystal), device=device)
        counts.index_put_((crystal, self.atomic_numbers.long()), one, accumulate=True)
        return counts

    def crystal(self, index: int) -> Crystal:
        """One crystal in double precision."""
        atoms = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Crystal(
            atomic_numbers=self.atomic_numbers[atoms].cpu().numpy().astype(np.int64),
            frac_coords=self.frac_coords[atoms].double().cpu().numpy(),
            lattice=self.lattice[index].double().cpu().numpy(),
            material_id=self.ids[index],
        )


def pack_crystals(crystals: Iterable[Crystal], columns: Sequence[str] = ()) -> PackedCrystals:
    """Pack crystals that come one by one (from CSV, folders, extxyz); ``columns`` are taken from their ``info``.

    Raises:
        InputError: there are none, or one lacks a column.

    """
    items = list(crystals)
    if not items:
        raise InputError("no crystals to pack")
    for name in columns:
        lacking = next((c for c in items if name not in c.info), None)
        if lacking is not None:
            raise InputError(f"{lacking.name}: no {name!r}")
    counts = np.array([len(c.atomic_numbers) for c in items])
    return PackedCrystals(
        atomic_numbers=torch.from_numpy(np.concatenate([c.atomic_numbers for c in items]).astype(np.uint8)),
        frac_coords=_wrapped(np.concatenate([c.frac_coords for c in items])),
        lattice=torch.from_numpy(np.stack([c.lattice for c in items]).astype(np.float32)),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
        ids=tuple(c.material_id or str(i) for i, c in enumerate(items)),
        columns={name: np.array([c.info[name] for c in items]) for name in columns},
    )


def joined(first: PackedCrystals, second: PackedCrystals) -> PackedCrystals:
    """Both, one after the other, with the labels, columns and sites that both have."""
    sites = None
    if first.sites is not None and second.sites is not None:
        sites = torch.cat([first.sites, second.sites])
    return PackedCrystals(
        atomic_numbers=torch.cat([first.atomic_numbers, second.atomic_numbers]),
        frac_coords=torch.cat([first.frac_coords, second.frac_coords]),
        lattice=torch.cat([first.lattice, second.lattice]),
        offsets=torch.cat([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        ids=(*first.ids, *second.ids),
        columns={
            name: np.concatenate([values, second.columns[name]])
            for name, values in first.columns.items()
            if name in second.columns
        },
        labels={
            name: torch.cat([values, second.labels[name]])
            for name, values in first.labels.items()
            if name in second.labels
        },
        sites=sites,
    )


def _wrapped(frac_coords: npt.NDArray[Any]) -> Float[Tensor, "a 3"]:
    coords = frac_coords.astype(np.float32)
    coords -= np.floor(coords)
    # a float64 just below 1 rounds to 1 in float32
    coords[coords >= 1.0] = 0.0
    return torch.from_numpy(coords)


def in_split(split: str | None) -> str:
    """Words for messages."""
    return f" of split {split!r}" if split is not None else ""


def column_names(path: Path) -> list[str]:
    """Columns of a Parquet file, or of the first shard of a folder.

    Raises:
        InputError: missing, or not Parquet.

    """
    try:
        return list(pq.read_schema(next(iter(shard_files(path)), path)).names)
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file")
    detail = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(f"cannot read {path} as Parquet: {detail}")


def read_packed(
    path: Path, *, split: str | None = None, columns: Sequence[str] = (), max_atoms: int | None = None
) -> PackedCrystals:
    """Read a Parquet file of the uniform layout, or a folder of shards, straight into tensors.

    Columns: ``material_id`` str, ``atomic_numbers`` list (N), ``frac_coords`` list (3N, row-major), ``lattice`` list
    (9: three row vectors, A), ``num_atoms``.

    Args:
        path: the file or folder.
        split: keep rows whose column ``split`` has this value.
        columns: labels to keep.
        max_atoms: drop larger crystals.

    Raises:
        InputError: the file is missing, not Parquet, lacks a column, holds no such row, or a row that is no crystal
            (wrong lengths, an unknown element, a number that is not finite).

    """
    names = column_names(path)
    wanted = list(dict.fromkeys([*_STRUCTURE_COLUMNS, *columns, *([SPLIT] if split is not None else [])]))
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(f"{path} lacks column {missing[0]!r}")
    try:
        table = pq.read_table(shard_files(path) or path, columns=wanted)
        if split is not None:
            table = table.filter(pc.equal(table[SPLIT], split))
        if max_atoms is not None:
            table = table.filter(pc.less_equal(table["num_atoms"], max_atoms))
        table = table.combine_chunks()
        if table.num_rows:
            return _pack_table(table, path, columns)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    of_size = f" of at most {max_atoms} atoms" if max_atoms is not None else ""
    raise InputError(f"{path} has no rows{in_split(split)}{of_size}")


def _pack_table(table: pa.Table, path: Path, columns: Sequence[str]) -> PackedCrystals:
    """Pack the rows of a table after checking that each is a crystal."""
    ids = tuple(str(name) for name in table["material_id"].to_pylist())

    def refuse(bad: npt.NDArray[Any], what: str) -> None:
        if bad.any():
            raise InputError(f"{path}: {ids[int(bad.argmax())]}: {what}")

    def flat(name: str, per_row: npt.NDArray[Any]) -> npt.NDArray[Any]:
        lengths = pc.fill_null(pc.list_value_length(table[name]), -1).to_numpy()
        refuse(lengths != per_row, f"{name} does not have the length that num_atoms asks for")
        values = pc.list_flatten(table[name])
        if values.null_count:
            raise InputError(f"{path}: {name} has missing values")
        return np.asarray(values.to_numpy())

    counts = pc.fill_null(table["num_atoms"], 0).to_numpy().astype(np.int64)
    refuse(counts < 1, "num_atoms is not positive")
    numbers = flat("atomic_numbers", counts)
    coords, lattice = flat("frac_coords", 3 * counts), flat("lattice", np.full_like(counts, 9))
    rows = np.arange(len(counts))
    refuse(_rows_with((numbers < 1) | (numbers > LAST_ELEMENT), rows.repeat(counts), rows), "an unknown element")
    for name, values, length in (("frac_coords", coords, 3 * counts), ("lattice", lattice, np.full_like(counts, 9))):
        # written so that a NaN is refused too
        wrong = ~(np.abs(values) <= LARGEST_VALUE)
        refuse(_rows_with(wrong, rows.repeat(length), rows), f"{name} has a value that is not finite or beyond 1e6")
    return PackedCrystals(
        atomic_numbers=torch.from_numpy(numbers.astype(np.uint8)),
        frac_coords=_wrapped(coords.reshape(-1, 3)),
        lattice=torch.from_numpy(lattice.astype(np.float32).reshape(-1, 3, 3)),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
        ids=ids,
        columns={name: table[name].to_numpy(zero_copy_only=False) for name in columns},
    )


def _rows_with(wrong: npt.NDArray[Any], row_of: npt.NDArray[Any], rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Which rows own a wrong value."""
    return np.isin(rows, row_of[wrong])
