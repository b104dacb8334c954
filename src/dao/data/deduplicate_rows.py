"""What becomes of the rows of a set that is deduplicated, and what they are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from dao.crystal import Crystal
from dao.data.sources import read_crystals, read_parquet
from dao.data.uniform import is_parquet
from dao.errors import InputError

ENERGY = "e_above_hull"
"""Column in eV/atom."""

_SPLIT = "split"


class Fate(IntEnum):
    """What becomes of a row; the first that applies."""

    KEPT = 0
    NUM_ATOMS = 1
    E_ABOVE_HULL = 2
    NO_ENERGY = 3
    ID = 4
    STRUCTURE = 5
    TIMED_OUT = 6
    REPEATED = 7


@dataclass(frozen=True)
class References:
    """A benchmark whose crystals may not be trained on."""

    name: str
    crystals: tuple[Crystal, ...]


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which crystals are wanted at all.

    Attributes:
        min_atoms: of the cell.
        max_atoms: of the cell; None for no limit.
        max_e_above_hull: eV/atom, inclusive; None for no limit.
        keep_unknown: keep crystals without an energy above hull where there is a limit on it.

    """

    min_atoms: int = 1
    max_atoms: int | None = None
    max_e_above_hull: float | None = None
    keep_unknown: bool = False

    def fate(self, crystal: Crystal) -> Fate:
        """KEPT, or why not.

        Raises:
            InputError: an energy that is no number.

        """
        if crystal.num_atoms < self.min_atoms or (self.max_atoms is not None and crystal.num_atoms > self.max_atoms):
            return Fate.NUM_ATOMS
        if self.max_e_above_hull is None:
            return Fate.KEPT
        energy = _energy(crystal)
        if math.isnan(energy):
            return Fate.KEPT if self.keep_unknown else Fate.NO_ENERGY
        return Fate.KEPT if energy <= self.max_e_above_hull else Fate.E_ABOVE_HULL


def _energy(crystal: Crystal) -> float:
    value = crystal.info.get(ENERGY)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InputError(f"{crystal.name}: {ENERGY} is no number but {value!r}")
    return math.nan if value is None else float(value)


@dataclass(frozen=True)
class Report:
    """How many rows went where: every row in one of the drops, or out.

    Attributes:
        settings: what it was done with.
        rows_in: of the source.
        dropped: rows by fate.
        rows_out: written.
        references: of each set its name, its crystals, and the rows of ``dropped`` by id, structure and time that it
            alone would have had dropped; a row may count in several sets.

    """

    settings: dict[str, Any]
    rows_in: int
    dropped: dict[str, int]
    rows_out: int
    references: list[dict[str, str | int]]


def read_references(path: Path, splits: Sequence[str] = ()) -> References:
    """All crystals of a file or folder, or those of some splits of it.

    Raises:
        InputError: unreadable, no such split, or no crystals.

    """
    name = path.stem + (f":{','.join(splits)}" if splits else "")
    if is_parquet(path):
        crystals = [one for split in splits or (None,) for one in read_parquet(path, split)]
    else:
        crystals = list(read_crystals(path))
        for split in splits:
            if not any(one.info.get(_SPLIT) == split for one in crystals):
                raise InputError(f"{path}: no crystal has {_SPLIT} {split!r}")
        crystals = [one for one in crystals if not splits or one.info[_SPLIT] in splits]
    if not crystals:
        raise InputError(f"{path}: holds no crystals")
    return References(name, tuple(crystals))
