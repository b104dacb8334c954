"""Any kind of file or folder of crystals as one packed training set, with what is no crystal left out.

Shapes: M crystals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from dao.crystal import DEFAULT_LIMITS, Crystal, Limits
from dao.data.shards import shard_files
from dao.data.store import SPLIT, PackedCrystals, column_names, in_split, pack_crystals, read_packed
from dao.data.uniform import is_parquet
from dao.errors import InputError
from dao.geometry.lattice import volume


def load_packed(
    path: Path,
    *,
    split: str | None = None,
    max_atoms: int | None = None,
    split_optional: bool = False,
    labels: tuple[str, ...] = (),
    limits: Limits = DEFAULT_LIMITS,
    note: Callable[[str], None] | None = None,
) -> PackedCrystals:
    """Read training data of any kind that :func:`dao.data.sources.read_crystals` knows; Parquet by its fast path.

    An unreadable or disordered crystal refuses the whole source. Crystals outside ``limits`` are left out; closest
    approaches are not computed for Parquet, whose writer is this project.

    Args:
        path: a Parquet, CSV, extxyz, CIF or POSCAR file, or a folder of shards or of CIF and POSCAR files.
        split: keep crystals whose column (CSV) or key (extxyz) ``split`` has this value.
        max_atoms: drop larger crystals.
        split_optional: where the source has no ``split`` at all, keep every crystal instead of refusing it.
        labels: columns or keys of numbers that batches carry, NaN where a crystal lacks one.
        limits: what counts as a crystal.
        note: told, in one line, how many crystals are outside the limits.

    Raises:
        InputError: missing, of no known kind, malformed, without ``split``, or without any crystal to keep; a
            label that no crystal has, or that is no number.

    """
    if is_parquet(path) or shard_files(path):
        has_split = SPLIT in column_names(path)
        keep = split if has_split or not split_optional else None
        columns = ((SPLIT,) if has_split else ()) + labels
        packed, reasons = read_packed(path, split=keep, columns=columns, max_atoms=max_atoms), _Refused(0, "")
    else:
        packed, reasons = _packed_source(path, _modified(path), limits, labels)
        packed = _of_split(packed, path, split, split_optional=split_optional)
        if max_atoms is not None:
            small = packed.num_atoms <= max_atoms
            if not bool(small.any()):
                raise InputError(f"{path} has no crystal of at most {max_atoms} atoms{in_split(split)}")
            packed = packed if bool(small.all()) else packed.select(small.nonzero()[:, 0])
    good = _within(packed, limits)
    if not bool(good.all()):
        first = int((~good).nonzero()[0, 0])
        reasons = _Refused(reasons.count + int((~good).sum()), reasons.first or _reason(packed.crystal(first), limits))
        if not bool(good.any()):
            raise InputError(f"{path}: no crystal is within the validity limits (the first: {reasons.first})")
        packed = packed.select(good.nonzero()[:, 0])
    packed = _labelled(packed, path, labels)
    if reasons.count and note is not None:
        note(f"{path}: {reasons.count} crystals outside the validity limits are left out (the first: {reasons.first})")
    return packed


@dataclass(frozen=True)
class _Refused:
    count: int
    first: str


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        raise InputError(f"{path}: no such file or folder") from None


@lru_cache(maxsize=2)
def _packed_source(
    path: Path, modified: int, limits: Limits, labels: tuple[str, ...]
) -> tuple[PackedCrystals, _Refused]:
    """All valid crystals of a source that is slow to parse, kept for its other split."""
    del modified
    from dao.data.sources import read_crystals

    crystals: list[Crystal] = []
    refused = _Refused(0, "")
    for crystal in read_crystals(path):
        reason = _reason(crystal, limits)
        if reason:
            refused = _Refused(refused.count + 1, refused.first or reason)
        else:
            crystals.append(crystal)
    if not crystals:
        raise InputError(f"{path}: no crystal is within the validity limits (the first: {refused.first})")
    has_split = any(SPLIT in crystal.info for crystal in crystals)
    packed = pack_crystals(crystals, (SPLIT,) if has_split else ())
    for label in labels:
        values = [crystal.info.get(label) for crystal in crystals]
        if all(value is None for value in values):
            raise InputError(f"{path} lacks column {label!r}")
        packed.columns[label] = np.array([np.nan if value in (None, "") else value for value in values])
    return packed, refused


def _labelled(packed: PackedCrystals, path: Path, labels: tuple[str, ...]) -> PackedCrystals:
    """Turn columns into labels that batches carry."""
    made = {}
    for label in labels:
        try:
            values = packed.columns[label].astype(np.float32)
        except ValueError as error:
            raise InputError(f"{path}: {label}: {error}") from None
        made[label] = torch.from_numpy(values)
    columns = {name: values for name, values in packed.columns.items() if name not in labels}
    return replace(packed, columns=columns, labels=packed.labels | made)


def _reason(crystal: Crystal, limits: Limits) -> str:
    """Why it is no valid crystal; empty if it is one."""
    try:
        crystal.validate(limits)
    except InputError as error:
        return str(error)
    return ""


def _of_split(packed: PackedCrystals, path: Path, split: str | None, *, split_optional: bool) -> PackedCrystals:
    if split is None:
        return packed
    if SPLIT not in packed.columns:
        if split_optional:
            return packed
        raise InputError(f"{path} has no {SPLIT!r} column")
    chosen = torch.from_numpy(packed.columns[SPLIT].astype(str) == split).nonzero()[:, 0]
    if len(chosen) == 0:
        raise InputError(f"{path} has no rows{in_split(split)}")
    return packed.select(chosen)


def _within(packed: PackedCrystals, limits: Limits) -> Bool[Tensor, " m"]:
    """Which crystals have known elements, a volume and cell heights within the limits; distances are not looked at."""
    lattice = packed.lattice.double()
    cell = volume(lattice)
    faces = torch.linalg.cross(lattice[:, (1, 2, 0)], lattice[:, (2, 0, 1)]).norm(dim=-1)
    height = (cell[:, None] / faces.clamp_min(1e-12)).amin(1)
    per_atom = cell / packed.num_atoms
    heavy = torch.zeros(len(packed), dtype=torch.uint8, device=cell.device).scatter_reduce(
        0,
        torch.arange(len(packed), device=cell.device).repeat_interleave(packed.num_atoms),
        packed.atomic_numbers,
        "amax",
    )
    return (
        (per_atom >= limits.min_volume_per_atom)
        & (per_atom <= limits.max_volume_per_atom)
        & (height >= limits.min_height)
        & (heavy <= limits.max_atomic_number)
        & (packed.num_atoms <= limits.max_atoms)
    )
