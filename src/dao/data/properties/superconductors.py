"""Superconductors with known structures (SC-s of paper section 2.5: the ordered ones of SuperCon3D) and their folds.

What is learned is the natural logarithm of the critical temperature in K. The paper calls its errors "MAE (logK)"; that
this is the natural one follows from their size: on decadic logarithms the mean of all labels is off by 0.47 only.

Two splits, drawn once (``tools/supercon_folds.py``) and kept in ``supercon_folds.json``: crystals at random, as the
paper does, and whole chemical systems (sets of elements) together, so that no compound of a test crystal's elements is
trained on. Either puts each crystal into one of ten parts; fold k is tested on parts 2k and 2k + 1. The first member of
its ensemble validates on the next part, the second on the one after that, and so on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dao.data.locate import file_in_folder
from dao.data.properties.base import Benchmark, Fold, PropertyData
from dao.data.store import PackedCrystals, read_packed
from dao.errors import InputError

FILE = "supercon3d.parquet"
LABEL = "ln_tc"
UNIT = "ln(K)"

RANDOM, GROUPED = "supercon_tc", "supercon_tc_grouped"
"""The two benchmarks."""

FOLDS = 5
PARTS = 2 * FOLDS

TEMPERATURE, FORMULA, FAMILY = "tc", "formula", "family"
"""Columns of the file: K, as published, and its kind of superconductor."""


@cache
def _published() -> dict[str, Any]:
    text = (files("dao.data.properties") / "supercon_folds.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def digest(ids: Sequence[str]) -> str:
    """Which crystals these are, in whatever order."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def folds_of_parts(parts: Sequence[int]) -> list[Fold]:
    """The five folds of crystals that are each in one of ten parts."""
    part = torch.tensor(parts)

    def rows(numbers: Sequence[int]) -> Int[Tensor, " _"]:
        return torch.isin(part, torch.tensor(numbers)).nonzero()[:, 0]

    folds = []
    for k in range(FOLDS):
        test = [2 * k, 2 * k + 1]
        others = [(2 * k + 2 + i) % PARTS for i in range(PARTS - 2)]
        folds.append(Fold(str(k), rows(others), None, rows(test), validations=tuple(rows([one]) for one in others)))
    return folds


def parts_of(ids: Sequence[str], split: str, file: Path) -> list[int]:
    """The part that each crystal was put into.

    Raises:
        InputError: these are other crystals than those that were split.

    """
    known = _published()
    if digest(ids) != known["ids"]:
        raise InputError(f"{file}: {len(ids)} crystals, and the folds are of {known['crystals']} others")
    digits = dict(zip(sorted(ids), known[split], strict=True))
    return [int(digits[one]) for one in ids]


def temperatures_of(values: Sequence[Any], names: Sequence[str], file: Path) -> list[float]:
    """The values of a column as critical temperatures, K.

    Raises:
        InputError: the first that is not positive, or no number.

    """
    for value, name in zip(values, names, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{file}: {name}: no critical temperature but {value!r}")
        # written so that a NaN is refused too
        if not 0.0 < value < np.inf:
            raise InputError(f"{file}: {name}: a critical temperature of {value:g} K")
    return [float(value) for value in values]


def label_temperatures(packed: PackedCrystals, file: Path) -> None:
    """Add the label :data:`LABEL` to crystals with the columns :data:`TEMPERATURE` and :data:`FORMULA`.

    Raises:
        InputError: a temperature that is none, or no formula.

    """
    for name, formula in zip(packed.ids, packed.columns[FORMULA].tolist(), strict=True):
        if not isinstance(formula, str):
            raise InputError(f"{file}: {name}: no formula but {formula!r}")
    temperatures = temperatures_of(packed.columns[TEMPERATURE].tolist(), packed.ids, file)
    packed.labels[LABEL] = torch.tensor(np.log(temperatures), dtype=torch.float32)


def read_superconductors(file: Path) -> PackedCrystals:
    """SC-s with the label :data:`LABEL` and the columns of the file.

    Raises:
        InputError: missing, malformed, or a temperature or formula that is none.

    """
    packed = read_packed(file, columns=(TEMPERATURE, FORMULA, FAMILY))
    label_temperatures(packed, file)
    return packed


def _read(benchmark: Benchmark, file: Path) -> PropertyData:
    packed = read_superconductors(file)
    parts = parts_of(packed.ids, "random" if benchmark.name == RANDOM else "grouped", file)
    return benchmark.data(packed, folds_of_parts(parts), file)


def _benchmark(name: str, split: str) -> Benchmark:
    return Benchmark(
        name=name,
        label=LABEL,
        title=f"natural logarithm of the critical temperature in K, folds {split}",
        unit=UNIT,
        files=(FILE,),
        source="SuperCon3D's ordered crystals, in the uniform layout",
        read=_read,
    )


def property_data(name: str, folder: Path | None = None) -> PropertyData:
    """One of the two benchmarks, from a folder other than ``$DAO_DATA`` where one is given.

    Raises:
        InputError: the file is missing or malformed, or the folder is none.

    """
    benchmark = next(one for one in BENCHMARKS if one.name == name)
    return benchmark.load() if folder is None else benchmark.read(benchmark, file_in_folder(FILE, folder))


BENCHMARKS = (_benchmark(RANDOM, "at random"), _benchmark(GROUPED, "by chemical system"))
