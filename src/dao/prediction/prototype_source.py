"""Which crystals a table of prototypes is built from, and what its record says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dao.data.store import PackedCrystals, column_names
from dao.data.training_set import load_packed
from dao.data.uniform import is_parquet
from dao.errors import InputError

E_ABOVE_HULL = "e_above_hull"

Source = tuple[Path, tuple[str, ...]]


def read_known(
    path: Path, splits: tuple[str, ...], leave_out: Sequence[Source] = (), max_e_above_hull: float | None = None
) -> tuple[PackedCrystals, dict[str, Any]]:
    """The crystals, and a record of where they come from and how many were left out why.

    Args:
        path: crystals of any kind.
        splits: keep those of one of these splits; all if there are none.
        leave_out: crystals whose ids are not used.
        max_e_above_hull: eV/atom; crystals of unknown energy are kept.

    Raises:
        InputError: unreadable, or nothing is left.

    """
    labels = (E_ABOVE_HULL,) if max_e_above_hull is not None else ()
    refused: list[str] = []
    crystals = _of_splits(path, splits, labels, refused)
    keep = np.ones(len(crystals), dtype=bool)
    # neither folders nor, where the first crystal left out is named, ids
    notes = [text.removeprefix(f"{path}: ").partition(" (")[0] for text in refused]
    record: dict[str, Any] = {"source": path.name, "splits": list(splits), "read": len(crystals), "notes": notes}
    for other, of in leave_out:
        ids = set(_of_splits(other, of, (), []).ids)
        shared = np.array([name in ids for name in crystals.ids])
        record.setdefault("left_out", []).append(
            {"source": other.name, "splits": list(of), "by_id": int((shared & keep).sum())}
        )
        keep &= ~shared
    if max_e_above_hull is not None:
        high = crystals.labels[E_ABOVE_HULL].numpy() > max_e_above_hull
        record |= {"max_e_above_hull": max_e_above_hull, "too_high": int((high & keep).sum())}
        keep &= ~high
    if not keep.any():
        raise InputError(f"{path}: no crystal is left to build prototypes from")
    return (crystals if keep.all() else crystals.select(torch.from_numpy(keep.nonzero()[0]))), record


def _of_splits(path: Path, splits: tuple[str, ...], labels: tuple[str, ...], notes: list[str]) -> PackedCrystals:
    if not splits:
        return load_packed(path, labels=labels, note=notes.append)
    if len(splits) == 1:
        return load_packed(path, split=splits[0], labels=labels, note=notes.append)
    if not is_parquet(path):
        raise InputError(f"{path}: several splits can be read of Parquet files only")
    from dao.data.store import SPLIT, read_packed

    if SPLIT not in column_names(path):
        raise InputError(f"{path} has no {SPLIT!r} column")
    every = read_packed(path, columns=(SPLIT, *labels))
    rows = torch.from_numpy(np.isin(every.columns[SPLIT].astype(str), splits).nonzero()[0])
    if len(rows) == 0:
        raise InputError(f"{path} has no rows of splits {', '.join(splits)}")
    chosen = every.select(rows)
    for label in labels:
        chosen.labels[label] = torch.from_numpy(chosen.columns[label].astype(np.float32))
    return chosen
