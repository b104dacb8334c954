"""Benchmarks of properties by name, one module a source, and anyone's own file of labelled crystals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dao.errors import InputError

if TYPE_CHECKING:
    from dao.data.properties.base import Benchmark, Fold, PropertyData
    from dao.model_config import Scale


def benchmarks() -> dict[str, Benchmark]:
    """Every benchmark by its name."""
    from dao.data.properties import aflow, jarvis, matbench, materials_project, superconductors

    modules = (matbench, jarvis, materials_project, aflow, superconductors)
    return {one.name: one for module in modules for one in module.BENCHMARKS}


def load_property(
    name_or_path: str,
    *,
    target: str | None = None,
    scale: Scale = "linear",
    unit: str = "",
    random_folds: int = 5,
    seed: int = 0,
) -> PropertyData:
    """A benchmark by its name, or a file or folder whose column or key ``target`` is the property.

    Args:
        name_or_path: see :func:`benchmarks`; else whatever :func:`dao.data.training_set.load_packed` reads.
        target: needed of a file alone. Crystals without a number there are left out.
        scale: on which it is learned; a benchmark's is fixed, as is its unit.
        unit: of the target.
        random_folds: in how many a file is divided that has no column ``split`` (train, val, test).
        seed: of that division.

    Raises:
        InputError: no such benchmark or file, no target, or too few crystals.

    """
    known = benchmarks()
    if name_or_path in known:
        benchmark = known[name_or_path]
        if target not in (None, benchmark.label):
            raise InputError(f"--target {target!r}: the target of {name_or_path} is {benchmark.label!r}")
        return benchmark.load()
    path = Path(name_or_path)
    if not path.exists():
        raise InputError(f"--data {name_or_path!r}: neither a file or folder nor one of {', '.join(known)}")
    if target is None:
        raise InputError(f"--data {name_or_path!r} is a file: say by --target which column is the property")
    return _own_file(path, target, scale, unit, random_folds, seed)


def _own_file(path: Path, target: str, scale: Scale, unit: str, random_folds: int, seed: int) -> PropertyData:
    from dao.data.properties.base import PropertyData, labelled, split_fold
    from dao.data.store import SPLIT
    from dao.data.training_set import load_packed
    from dao.geometry.cells import reduced

    notes: list[str] = []
    packed = load_packed(path, labels=(target,), note=notes.append)
    rows = packed.labels[target].isfinite().nonzero()[:, 0].tolist()
    if len(rows) < len(packed):
        notes.append(f"{path}: {len(packed) - len(rows)} crystals without a number {target!r} are left out")
    crystals = labelled([reduced(packed.crystal(row)) for row in rows], packed.labels[target][rows].tolist(), target)
    folds: Sequence[Fold]
    if SPLIT in packed.columns:
        folds = [split_fold(packed.columns[SPLIT].astype(str)[rows], path)]
    else:
        folds = _random_folds(len(rows), random_folds, seed, path)
    return PropertyData(
        name=path.stem,
        label=target,
        unit=unit,
        scale=scale,
        crystals=crystals,
        folds=tuple(folds),
        file=path,
        notes=tuple(notes),
    )


def _random_folds(count: int, folds: int, seed: int, path: Path) -> list[Fold]:
    import torch

    from dao.data.properties.base import Fold

    if count < 2 * folds:
        raise InputError(f"{path}: {count} labelled crystals are too few for {folds} folds")
    fold_of = torch.randperm(count, generator=torch.Generator().manual_seed(seed)) % folds
    return [Fold(str(i), (fold_of != i).nonzero()[:, 0], None, (fold_of == i).nonzero()[:, 0]) for i in range(folds)]
