"""What a benchmark of a property is: crystals with labels, and the splits that its publisher fixed.

Shapes: M crystals, B of them.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from dao.crystal import Crystal
from dao.data.locate import data_folder
from dao.data.sources.failures import existing_file, reading
from dao.data.store import SPLIT, PackedCrystals, pack_crystals
from dao.errors import InputError
from dao.model_config import Scale

TRAIN, VALIDATION, TEST = "train", "val", "test"
"""Values of a column that splits crystals."""

_LARGEST_FILE = 4_000_000_000
"""Bytes of a file, decompressed."""


@dataclass(frozen=True)
class Fold:
    """One split: rows of the crystals.

    Attributes:
        name: of the split.
        train: rows to train on.
        validation: rows to choose by; None where the publisher fixed none, and some of ``train`` must serve: one of
            ``validations``, or where there are none a tenth at random.
        test: rows that nothing is chosen by.
        extra: rows of the data's extra crystals to train on as well; None: none.
        validations: parts of ``train``, of which the members of an ensemble choose by one each, in turn.

    """

    name: str
    train: Int[Tensor, " b"]
    validation: Int[Tensor, " c"] | None
    test: Int[Tensor, " d"]
    extra: Int[Tensor, " e"] | None = None
    validations: tuple[Int[Tensor, " _"], ...] = ()


@dataclass(frozen=True, kw_only=True)
class PropertyData:
    """Crystals, all of them labelled, and their splits.

    Attributes:
        name: of the benchmark, or of the file.
        label: short name of the property, under which ``crystals`` carry it.
        title: what it is, in words.
        unit: of the labels; empty for a pure number.
        scale: on which it is learned.
        crystals: in primitive Niggli cells where the source is ours.
        folds: splits, at least one.
        file: where they were read.
        notes: what to say beside any result, such as how many crystals are missing.
        extra: further labelled crystals, which are trained on where a fold says so, and never validated or tested on.

    """

    name: str
    label: str
    title: str = ""
    unit: str = ""
    scale: Scale = "linear"
    crystals: PackedCrystals
    folds: tuple[Fold, ...]
    file: Path
    notes: tuple[str, ...] = ()
    extra: PackedCrystals | None = None

    @property
    def labels(self) -> Tensor:
        """(M,) in ``unit``."""
        return self.crystals.labels[self.label]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A named benchmark: what it is, and how its files are read.

    Attributes:
        name: as commands call it.
        label: short name of the property.
        title: what it is, in words.
        unit: of labels, predictions and errors.
        scale: on which it is learned.
        files: any one of these names, in the data folder or its folder ``properties``, in order of preference.
        source: where they come from, and whose they are.
        read: of this benchmark and a file.

    """

    name: str
    label: str
    title: str
    unit: str
    scale: Scale = "linear"
    files: tuple[str, ...]
    source: str
    read: Callable[[Benchmark, Path], PropertyData]

    def load(self) -> PropertyData:
        """Read it from ``$DAO_DATA``.

        Raises:
            InputError: none of its files is there, or it is malformed.

        """
        return self.read(self, self.find())

    def find(self) -> Path:
        """The first of its files that is there.

        Raises:
            InputError: none; names them and where they come from.

        """
        folder = data_folder()
        for name in self.files:
            for place in (folder / "properties", folder):
                if (place / name).is_file():
                    return place / name
        raise InputError(
            f"{self.name}: none of {', '.join(self.files)} in {folder} or {folder / 'properties'} (set DAO_DATA);"
            f" source: {self.source}"
        )

    def data(
        self, crystals: PackedCrystals, folds: Sequence[Fold], file: Path, notes: Sequence[str] = ()
    ) -> PropertyData:
        """What was read, under this benchmark's names."""
        return PropertyData(
            name=self.name,
            label=self.label,
            title=self.title,
            unit=self.unit,
            scale=self.scale,
            crystals=crystals,
            folds=tuple(folds),
            file=file,
            notes=tuple(notes),
        )


def labelled(crystals: Sequence[Crystal], values: Sequence[float], label: str) -> PackedCrystals:
    """Crystals and their labels, packed.

    Raises:
        InputError: there are none.

    """
    packed = pack_crystals(crystals)
    packed.labels[label] = torch.tensor(values, dtype=torch.float32)
    return packed


def split_fold(splits: npt.NDArray[Any], file: Path) -> Fold:
    """The one fold of a column that says ``train``, ``val`` or ``test`` of each crystal.

    Raises:
        InputError: there is nothing to train on, or nothing to test on.

    """
    rows = {name: torch.from_numpy(np.flatnonzero(splits == name)) for name in (TRAIN, VALIDATION, TEST)}
    for name in (TRAIN, TEST):
        if not len(rows[name]):
            raise InputError(f"{file}: no labelled crystal of {SPLIT} {name!r}")
    return Fold("0", rows[TRAIN], rows[VALIDATION] if len(rows[VALIDATION]) else None, rows[TEST])


def read_json_file(file: Path) -> Any:  # noqa: ANN401 - JSON is anything
    """Content of a JSON file, plain, gzipped, or the only member of a ZIP.

    Raises:
        InputError: missing, empty, larger than 4 GB or not JSON.

    """
    existing_file(file)
    with reading(str(file)):
        if file.suffix.lower() == ".zip":
            with zipfile.ZipFile(file) as archive:
                names = [name for name in archive.namelist() if name.lower().endswith(".json")]
                if len(names) != 1:
                    raise InputError(f"{file}: holds {len(names)} JSON files instead of one")
                with archive.open(names[0]) as stream:
                    raw = stream.read(_LARGEST_FILE + 1)
        elif file.suffix.lower() == ".gz":
            with gzip.open(file) as stream:
                raw = stream.read(_LARGEST_FILE + 1)
        else:
            raw = file.read_bytes()
        if len(raw) > _LARGEST_FILE:
            raise InputError(f"{file}: larger than {_LARGEST_FILE / 1e9:g} GB")
        return json.loads(raw)
