"""The crystals that a prediction is scored against: a benchmark's split, or any file of known crystals.

Nothing is left out: unlike training data, the targets are all that the file holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dao.crystal import Crystal
from dao.data.store import SPLIT, column_names, in_split, pack_crystals, read_packed
from dao.data.uniform import find_source, is_parquet
from dao.errors import InputError
from dao.evaluation.scores import UNSEEN

NAMES = {"mp20": "MP-20 (reconstructed, 97.3 %)", "mpts52": "MPTS-52"}
"""What reports call the benchmark files."""

PUBLISHED = {"mp20": "MP-20", "mpts52": "MPTS-52"}
"""Which published figures stand beside them."""

EXACT = "exact"
"""Column of crystals that are the benchmark's own structure, where others are a newer release of the same entry."""

BEYOND = "beyond prototypes"
"""Targets that none of the prototype substitutions matches (DESIGN 5)."""


@dataclass(frozen=True)
class Targets:
    """M crystals to predict.

    Attributes:
        name: of the data, for reports.
        benchmark: key into the published figures, or "".
        crystals: M of them, each with an id.
        total: how many the split has, of which these are the chosen ones.
        split: its name, or "".
        subsets: name -> (M,) members, such as "exact".
        choice: which these are of the split, in words, or "" for all.

    """

    name: str
    benchmark: str
    crystals: tuple[Crystal, ...]
    total: int
    split: str
    subsets: dict[str, npt.NDArray[np.bool_]]
    choice: str = ""

    @property
    def ids(self) -> tuple[str, ...]:
        """Material ids."""
        return tuple(crystal.name for crystal in self.crystals)

    @property
    def compositions(self) -> list[tuple[int, ...]]:
        """Sorted atomic numbers of each cell: all that a generator is told."""
        return [tuple(sorted(crystal.atomic_numbers.tolist())) for crystal in self.crystals]

    def select(self, rows: Iterable[int], choice: str = "a selection") -> Targets:
        """Those targets alone; ``choice`` says in words which they are."""
        index = np.fromiter(rows, dtype=np.int64)
        subsets = {name: members[index] for name, members in self.subsets.items()}
        chosen = tuple(self.crystals[i] for i in index.tolist())
        return replace(self, crystals=chosen, subsets=subsets, choice=choice)

    def fingerprint(self) -> str:
        """Short hash of all structures in their order."""
        return crystals_fingerprint(self.crystals)


def crystals_fingerprint(crystals: Iterable[Crystal | None]) -> str:
    """Short hash of structures in their order; None counts as one."""
    digest = hashlib.sha256()
    for crystal in crystals:
        if crystal is None:
            digest.update(b"-")
            continue
        digest.update(str(crystal.num_atoms).encode())
        for array in (crystal.atomic_numbers, crystal.frac_coords, crystal.lattice):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def find_data(name_or_path: str) -> Path:
    """A benchmark of the data folder by name (``mp20``), or a file or folder by path.

    Raises:
        InputError: neither.

    """
    try:
        return find_source(name_or_path)
    except InputError as error:
        raise InputError(f"--data {error}") from None


def test_split(path: Path) -> str | None:
    """``test`` for a Parquet file that has splits; None for one without, and for every other kind."""
    if is_parquet(path) and SPLIT in column_names(path):
        return "test"
    return None


def load_targets(
    path: Path, *, split: str | None = None, count: int | None = None, seed: int = 0, max_atoms: int | None = None
) -> Targets:
    """Read the targets: all of a split, or the fixed random ``count`` of it that ``seed`` draws, in the file's order.

    Args:
        path: whatever :func:`dao.data.sources.read_crystals` knows.
        split: value of the column ``split``; None takes every row.
        count: how many; None or too many takes all.
        seed: of the draw; the same seed gives every method the same crystals.
        max_atoms: leave larger cells out.

    Raises:
        InputError: unreadable, no such split, no crystals, or two with the same id.

    """
    import torch

    if is_parquet(path):
        columns = (EXACT,) if EXACT in column_names(path) else ()
        packed = read_packed(path, split=split, columns=columns, max_atoms=max_atoms)
    else:
        packed = pack_crystals(_read(path, split, max_atoms))
    total = len(packed)
    chosen = torch.arange(total)
    if count is not None:
        chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    packed = packed.select(chosen)
    if len(set(packed.ids)) < len(packed):
        raise InputError(f"{path}: several crystals share an id")
    subsets = {}
    if EXACT in packed.columns:
        exact = packed.columns[EXACT].astype(bool)
        if not exact.all():
            subsets[EXACT] = exact
    return Targets(
        name=NAMES.get(path.stem, path.name),
        benchmark=PUBLISHED.get(path.stem, ""),
        crystals=tuple(packed.crystal(i) for i in range(len(packed))),
        total=total,
        split=split or "",
        subsets=subsets,
        choice="" if len(packed) == total else "a fixed random subset",
    )


def _read(path: Path, split: str | None, max_atoms: int | None) -> list[Crystal]:
    from dao.data.sources import read_crystals

    crystals = list(read_crystals(path))
    if split is not None and any(SPLIT in crystal.info for crystal in crystals):
        crystals = [crystal for crystal in crystals if crystal.info.get(SPLIT) == split]
    elif split is not None:
        raise InputError(f"{path} has no {SPLIT!r} column")
    if max_atoms is not None:
        crystals = [crystal for crystal in crystals if crystal.num_atoms <= max_atoms]
    if not crystals:
        raise InputError(f"{path} has no crystals{in_split(split)}")
    return crystals


def read_prototypes(path: Path) -> dict[str, list[float | None]]:
    """What ``benchmarks/prototype_baseline.py --out`` wrote.

    Raises:
        InputError: unreadable, or something else.

    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {name: [_distance(one) for one in _list(own)] for name, own in record.items()}
    except OSError as error:
        raise InputError(f"--prototypes {path}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InputError(f"--prototypes {path}: not a mapping of material ids to RMS distances") from None


def _list(value: Any) -> list[Any]:  # noqa: ANN401 -- what JSON holds
    if not isinstance(value, list):
        raise TypeError
    return value


def _distance(value: Any) -> float | None:  # noqa: ANN401 -- what JSON holds
    if value is None:
        return None
    if isinstance(value, bool | str) or not 0.0 <= float(value) < np.inf:
        raise ValueError
    return float(value)


def with_prototypes(targets: Targets, prototypes: Mapping[str, Sequence[float | None]]) -> Targets:
    """The targets with their subset "beyond prototypes".

    Raises:
        InputError: a target was not tried.

    """
    untried = [name for name in targets.ids if name not in prototypes]
    if untried:
        raise InputError(f"--prototypes: {len(untried)} of the targets were not tried, such as {untried[0]}")
    beyond = np.array([all(one is None for one in prototypes[name]) for name in targets.ids])
    return replace(targets, subsets={**targets.subsets, BEYOND: beyond})


def with_unseen(targets: Targets, training: Sequence[Crystal], *, workers: int = 1, seconds: float = 10.0) -> Targets:
    """The targets with their subset "unseen".

    Args:
        targets: M targets.
        training: what the model has seen; a crystal of it that a target matches at the benchmark's tolerances, or that
            shares a target's id, makes the target a seen one.
        workers: processes.
        seconds: time limit of a comparison; a target whose comparison takes longer counts as seen.

    """
    from dao.evaluation.matching import match_pairs, reduced_composition

    rows: dict[Any, list[int]] = {}
    for row, crystal in enumerate(training):
        rows.setdefault(reduced_composition(crystal), []).append(row)
    pairs = [
        (row, target)
        for target, crystal in enumerate(targets.crystals)
        for row in rows.get(reduced_composition(crystal), ())
    ]
    ids = {crystal.material_id for crystal in training if crystal.material_id is not None}
    unseen = np.array([crystal.material_id not in ids for crystal in targets.crystals])
    for match in match_pairs(training, targets.crystals, pairs, workers=workers, seconds=seconds):
        if match.rms is not None or match.timed_out:
            unseen[match.reference] = False
    return replace(targets, subsets={**targets.subsets, UNSEEN: unseen})
