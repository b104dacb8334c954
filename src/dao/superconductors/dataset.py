"""What is known of superconductors: with structures (SC-s) and without (SC-ns), counted and checked.

Shapes: M crystals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from dao.data.locate import file_in_folder
from dao.data.properties.base import PropertyData
from dao.data.properties.superconductors import (
    FAMILY,
    FILE,
    FORMULA,
    TEMPERATURE,
    read_superconductors,
    temperatures_of,
)
from dao.data.sources.failures import existing_file, reading
from dao.data.store import PackedCrystals
from dao.errors import InputError
from dao.prediction.composition import Composition, parse_formula

NO_STRUCTURE_FILE = "supercon_no_structure.parquet"

LARGEST_FORMULA = 1000
"""Atoms of a formula as it is written; decimals are made whole, so that these are many."""

Key = frozenset[tuple[int, int]]


def composition_key(counts: Mapping[int, int]) -> Key:
    """Atomic numbers and amounts of the smallest formula: equal for equal compositions."""
    divisor = gcd(*counts.values())
    return frozenset((number, amount // divisor) for number, amount in counts.items())


@dataclass(frozen=True)
class Unstructured:
    """A superconductor of which the composition alone is known.

    Attributes:
        formula: as published.
        composition: what that is.
        family: kind of superconductor.
        temperature: critical, K.

    """

    formula: str
    composition: Composition
    family: str
    temperature: float


@dataclass(frozen=True, eq=False)
class Superconductors:
    """SC-s and SC-ns.

    Attributes:
        crystals: SC-s with its columns and labels.
        without_structure: SC-ns.
        doubtful: rows of SC-s whose formula is not that of their structure, with both; they are kept.
        unusable: rows of SC-ns that have no whole formula, and why; they are left out.
        common: formulas of SC-ns whose composition is in SC-s as well.

    """

    crystals: PackedCrystals
    without_structure: tuple[Unstructured, ...]
    doubtful: tuple[str, ...]
    unusable: tuple[str, ...]
    common: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path | None = None) -> Superconductors:
        """Read both files from a folder, by default ``$DAO_DATA``, or its folder ``properties``.

        Raises:
            InputError: the folder or one of them is missing, or it is malformed.

        """
        crystals = read_superconductors(file_in_folder(FILE, folder))
        others, unusable = read_unstructured(file_in_folder(NO_STRUCTURE_FILE, folder))
        known = {composition_key(crystals.crystal(row).counts) for row in range(len(crystals))}
        common = [one.formula for one in others if composition_key(_counts(one.composition)) in known]
        return cls(crystals, tuple(others), tuple(_doubtful(crystals)), tuple(unusable), tuple(common))

    def counts(self) -> dict[str, Any]:
        """What there is of it, as JSON."""
        sizes = self.crystals.num_atoms
        return {
            "structures": len(self.crystals),
            "formula_unlike_structure": list(self.doubtful),
            "atoms": {"median": int(sizes.median()), "largest": int(sizes.max())},
            "families": dict(Counter(self.crystals.columns[FAMILY].tolist()).most_common()),
            "chemical_systems": len(set(systems_of(self.crystals))),
            "without_structure": len(self.without_structure),
            "without_structure_families": dict(Counter(one.family for one in self.without_structure).most_common()),
            "without_structure_unusable": list(self.unusable),
            "in_both": list(self.common),
        }

    @property
    def temperatures(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Critical temperatures of SC-s and of SC-ns, K."""
        return (
            self.crystals.columns[TEMPERATURE].astype(np.float64),
            np.array([one.temperature for one in self.without_structure], dtype=np.float64),
        )


def _counts(composition: Composition) -> dict[int, int]:
    return dict(zip(composition.atomic_numbers, composition.amounts, strict=True))


def _doubtful(crystals: PackedCrystals) -> list[str]:
    found = []
    for row, formula in enumerate(crystals.columns[FORMULA].tolist()):
        crystal = crystals.crystal(row)
        try:
            written: Key | None = composition_key(_counts(parse_formula(formula, LARGEST_FORMULA)))
        except InputError:
            written = None
        if written != composition_key(crystal.counts):
            found.append(f"{formula} (structure: {crystal.reduced_formula})")
    return found


def read_unstructured(file: Path) -> tuple[list[Unstructured], list[str]]:
    """Superconductors without structures, and which rows are none that could be predicted, with the reason.

    Raises:
        InputError: missing, malformed or empty, no text in place of a formula or family, or a temperature that is none.

    """
    existing_file(file)
    with reading(str(file)):
        table = pq.read_table(file, columns=[FORMULA, FAMILY, TEMPERATURE]).to_pydict()
    for name in (FORMULA, FAMILY):
        for row, value in enumerate(table[name], start=1):
            if not isinstance(value, str):
                raise InputError(f"{file}: row {row}: no {name} but {value!r}")
    temperatures = temperatures_of(table[TEMPERATURE], table[FORMULA], file)
    if not temperatures:
        raise InputError(f"{file}: holds no superconductor")
    known: list[Unstructured] = []
    unusable: list[str] = []
    for formula, family, temperature in zip(table[FORMULA], table[FAMILY], temperatures, strict=True):
        try:
            composition = parse_formula(formula, LARGEST_FORMULA)
        except InputError as error:
            unusable.append(f"{formula}: {error}")
            continue
        known.append(Unstructured(formula, composition, family, temperature))
    return known, unusable


def constant_errors(data: PropertyData) -> dict[str, float]:
    """Mean absolute error of the mean and of the median of the training labels, averaged over the folds."""
    labels = data.labels.double().numpy()
    errors: dict[str, list[float]] = {"mean": [], "median": []}
    for fold in data.folds:
        known = labels[fold.train]
        for name, constant in (("mean", known.mean()), ("median", np.median(known))):
            errors[name].append(float(np.abs(labels[fold.test] - constant).mean()))
    return {name: float(np.mean(values)) for name, values in errors.items()}


def systems_of(crystals: PackedCrystals) -> list[frozenset[int]]:
    """The chemical system (set of elements) of every crystal."""
    return [frozenset(crystals.crystal(row).counts) for row in range(len(crystals))]


def compositions_of(crystals: PackedCrystals) -> list[Key]:
    """The composition of every crystal."""
    return [composition_key(crystals.crystal(row).counts) for row in range(len(crystals))]


def rows_not_in(keys: Sequence[Any], forbidden: Sequence[Any]) -> list[int]:
    """Rows whose key is not among the forbidden ones."""
    taboo = set(forbidden)
    return [row for row, key in enumerate(keys) if key not in taboo]
