"""Crystals packed into a few tensors: all atoms of all crystals end to end, so that a batch is one gather.

Shapes: M crystals, A atoms of all of them, B crystals of a batch, N atoms (padded).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dao.constants import MAX_ATOMIC_NUMBER
from dao.crystal import Crystal, CrystalBatch
from dao.errors import InputError

_STRUCTURE_COLUMNS = ("material_id", "atomic_numbers", "frac_coords", "lattice", "num_atoms")


@dataclass(frozen=True)
class PackedCrystals:
    """Many crystals in memory (or on a GPU), 13 bytes an atom and 36 a crystal."""

    atomic_numbers: Int[Tensor, " a"]
    frac_coords: Float[Tensor, "a 3"]
    lattice: Float[Tensor, "m 3 3"]
    offsets: Int[Tensor, " m1"]
    """Where each crystal's atoms start; one more entry than crystals."""
    ids: tuple[str, ...]
    columns: dict[str, np.ndarray[Any, Any]]
    """Columns of the file by name, one value a crystal."""
    labels: dict[str, Tensor] = field(default_factory=dict)
    """What batches carry besides the crystals, one number a crystal: space groups, energies."""

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
        )

    def select(self, indices: Int[Tensor, " b"]) -> PackedCrystals:
        """Those crystals alone, in that order."""
        counts = self.num_atoms[indices]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        within = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(counts)
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
        )

    def element_counts(self) -> Float[Tensor, "m e"]:
        """Atoms of each element (column = atomic number) in each crystal."""
        counts = torch.zeros(len(self), MAX_ATOMIC_NUMBER + 1)
        crystal = torch.arange(len(self)).repeat_interleave(self.num_atoms)
        counts.index_put_((crystal, self.atomic_numbers.long()), torch.ones(len(crystal)), accumulate=True)
        return counts

    def crystal(self, index: int) -> Crystal:
        """One crystal in double precision."""
        atoms = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Crystal(
            atomic_numbers=self.atomic_numbers[atoms].numpy().astype(np.int64),
            frac_coords=self.frac_coords[atoms].double().numpy(),
            lattice=self.lattice[index].double().numpy(),
            material_id=self.ids[index],
        )


def pack_crystals(crystals: Iterable[Crystal]) -> PackedCrystals:
    """Pack crystals that come one by one (from CSV, folders, extxyz)."""
    items = list(crystals)
    if not items:
        msg = "no crystals to pack"
        raise InputError(msg)
    counts = np.array([len(c.atomic_numbers) for c in items])
    return PackedCrystals(
        atomic_numbers=torch.from_numpy(np.concatenate([c.atomic_numbers for c in items]).astype(np.uint8)),
        frac_coords=torch.from_numpy(np.concatenate([c.frac_coords for c in items]).astype(np.float32)),
        lattice=torch.from_numpy(np.stack([c.lattice for c in items]).astype(np.float32)),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
        ids=tuple(c.material_id or str(i) for i, c in enumerate(items)),
        columns={},
    )


def read_packed(
    path: Path, *, split: str | None = None, columns: Sequence[str] = (), max_atoms: int | None = None
) -> PackedCrystals:
    """Read a Parquet file of the uniform layout (docs/conventions.md) straight into tensors.

    Args:
        path: the file.
        split: keep rows whose column ``split`` has this value.
        columns: labels to keep.
        max_atoms: drop larger crystals.

    Raises:
        InputError: the file is missing, not Parquet, lacks a column, or holds no such row.

    """
    try:
        names = pq.read_schema(path).names
        wanted = [*_STRUCTURE_COLUMNS, *columns, *(["split"] if split is not None else [])]
        missing = [name for name in wanted if name not in names]
        if missing:
            msg = f"{path} lacks column {missing[0]!r}"
            raise InputError(msg)
        table = pq.read_table(path, columns=wanted)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        msg = f"cannot read {path} as Parquet: {str(error).splitlines()[0]}"
        raise InputError(msg) from error
    if split is not None:
        table = table.filter(pc.equal(table["split"], split))
    if max_atoms is not None:
        table = table.filter(pc.less_equal(table["num_atoms"], max_atoms))
    if table.num_rows == 0:
        msg = f"{path} has no rows" + (f" of split {split!r}" if split is not None else "")
        raise InputError(msg)
    table = table.combine_chunks()

    def flat(name: str) -> np.ndarray[Any, Any]:
        return np.asarray(pc.list_flatten(table[name]).to_numpy())

    counts = table["num_atoms"].to_numpy().astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    coords, numbers = flat("frac_coords"), flat("atomic_numbers")
    if len(numbers) != offsets[-1] or len(coords) != 3 * offsets[-1]:
        msg = f"{path}: num_atoms does not agree with the lengths of atomic_numbers and frac_coords"
        raise InputError(msg)
    return PackedCrystals(
        atomic_numbers=torch.from_numpy(numbers.astype(np.uint8)),
        frac_coords=torch.from_numpy(coords.astype(np.float32).reshape(-1, 3)),
        lattice=torch.from_numpy(flat("lattice").astype(np.float32).reshape(-1, 3, 3)),
        offsets=torch.from_numpy(offsets),
        ids=tuple(table["material_id"].to_pylist()),
        columns={name: table[name].to_numpy(zero_copy_only=False) for name in columns},
    )
