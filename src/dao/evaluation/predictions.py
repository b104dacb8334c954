"""Generated crystals of any tool, each assigned to the reference crystal it was generated for.

A prediction belongs to a reference by material id (a column, a frame's ``material_id``, a key, or a file name such as
``mp-1234.cif`` or ``mp-1234_3.cif``) or by order: the first K predictions belong to the first reference, the next K to
the second, and so on. What cannot be read keeps its place as a sample that failed.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, repeat
from math import gcd
from pathlib import Path
from typing import Literal

from dao.crystal import Crystal
from dao.data.sources import read_crystals, read_csv, read_extxyz, read_parquet, read_structure_file
from dao.data.sources.ase_db import ase_db_items
from dao.data.sources.failures import existing_file, reading
from dao.data.sources.folder import is_structure_file
from dao.data.sources.items import Item, only
from dao.data.sources.structures_json import SUFFIXES as JSON_SUFFIXES
from dao.data.sources.structures_json import json_items
from dao.data.sources.zip import natural_order, zip_items
from dao.errors import InputError

Key = Literal["auto", "id", "order"]

_ID = "material_id"
_SAMPLE_NUMBER = re.compile(r"[-_][0-9]+$")
_STRUCTURE_SUFFIXES = (".cif", ".vasp", ".poscar")
_PICKLED = (".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class Prediction:
    """One generated crystal.

    Attributes:
        target: row of the reference it was generated for.
        index: which sample of that reference, from 0.
        crystal: None where there is nothing to match (unreadable, or of another composition).
        failure: why there is none, else empty.

    """

    target: int
    index: int
    crystal: Crystal | None
    failure: str = ""


@dataclass(frozen=True)
class Failure:
    """What could not be scored: ``where`` (file and row, frame or member) and the ``reason``."""

    where: str
    reason: str


@dataclass(frozen=True)
class PredictionSet:
    """Predictions by rising target and index, failed ones among them; and everything worth telling the user.

    References without a prediction do not appear in ``predictions``: they count as no match.
    """

    predictions: list[Prediction]
    failures: list[Failure]


def read_predictions(
    path: Path | str, references: Sequence[Crystal], *, key: Key = "auto", samples_per_target: int | None = None
) -> PredictionSet:
    """Read generated crystals and assign them to ``references``.

    Kinds: extended XYZ, a folder or ZIP of CIFs (in natural order of names: ``gen_2`` before ``gen_10``), CSV with a
    ``cif`` column, Parquet in our columns, JSON or JSON lines of pymatgen structures, ASE databases, one CIF or POSCAR.

    Args:
        path: the file or folder.
        references: the true crystals, M of them.
        key: ``id``, ``order``, or ``auto``: by id where at least one id is a reference's, else by order.
        samples_per_target: K. By order, M K predictions are expected (None: any multiple of M). By id, at most K
            predictions of a reference are taken, in the order of the file (None: all).

    Returns:
        The predictions. One that is unreadable, or whose reduced composition is not its reference's, has no crystal. It
        is among the failures, as are predictions that belong to no reference and those beyond K.

    Raises:
        InputError: nothing readable, an unknown kind, no id that is a reference's, references that share an id, a
            number of predictions that does not fit, or an order in which no composition is right.

    """
    if not references:
        raise InputError("no reference crystals to score predictions against")
    if samples_per_target is not None and samples_per_target < 1:
        raise InputError(f"{samples_per_target} samples per target: at least 1")
    items = list(_items(Path(path)))
    if not any(item.crystal for item in items):
        reason = f"; the first is {items[0].where}: {items[0].reason}" if items else ""
        raise InputError(f"{path}: none of {len(items)} predictions can be read{reason}")
    rows = {reference.material_id: row for row, reference in enumerate(references) if reference.material_id is not None}
    targets = [_row(item.material_id, rows) for item in items]
    known = any(target is not None for target in targets)
    if key == "id" and not known:
        raise InputError(f"{path}: no prediction has the material id of a reference")
    if key == "order" or not known:
        _check_count(path, items, len(references), samples_per_target)
        return _by_order(path, items, references)
    shared = [name for name, times in Counter(one.material_id for one in references).items() if name and times > 1]
    if shared:
        raise InputError(f"{len(shared)} material ids are shared by several references, such as {shared[0]!r}")
    return _by_id(items, targets, references, samples_per_target)


def _row(material_id: str | None, rows: dict[str, int]) -> int | None:
    if material_id is None or material_id in rows:
        return None if material_id is None else rows[material_id]
    return rows.get(_SAMPLE_NUMBER.sub("", material_id))


def _check_count(path: Path | str, items: Sequence[Item], num_targets: int, samples_per_target: int | None) -> None:
    expected = None if samples_per_target is None else samples_per_target * num_targets
    if len(items) != expected if expected is not None else len(items) % num_targets:
        wanted = f"a multiple of {num_targets}" if expected is None else str(expected)
        broken = next((f"; unreadable is {item.where}: {item.reason}" for item in items if item.crystal is None), "")
        raise InputError(
            f"{path}: {len(items)} predictions for {num_targets} references; by order, {wanted} are needed{broken}"
        )


def _by_order(path: Path | str, items: Sequence[Item], references: Sequence[Crystal]) -> PredictionSet:
    samples = len(items) // len(references)
    predictions, failures = [], []
    for place, item in enumerate(items):
        target, index = divmod(place, samples)
        predictions.append(_prediction(item, target, index, references[target]))
        if predictions[-1].crystal is None:
            failures.append(Failure(item.where, predictions[-1].failure))
    if not any(prediction.crystal for prediction in predictions):
        raise InputError(
            f"{path}: no prediction has the composition of its reference; by order, the {samples} of the first"
            " reference come first, then those of the second"
        )
    return PredictionSet(predictions, failures)


def _by_id(
    items: Sequence[Item], targets: Sequence[int | None], references: Sequence[Crystal], samples_per_target: int | None
) -> PredictionSet:
    predictions, failures = [], []
    seen: Counter[int] = Counter()
    for item, target in zip(items, targets, strict=True):
        if target is None:
            reason = f"{item.material_id!r} is no reference's id" if item.material_id is not None else "has no id"
            failures.append(Failure(item.where, f"{item.reason}; {reason}" if item.reason else reason))
            continue
        index = seen[target]
        if index == samples_per_target:
            failures.append(Failure(item.where, f"beyond {samples_per_target} samples of {item.material_id}"))
            continue
        seen[target] += 1
        predictions.append(_prediction(item, target, index, references[target]))
        if predictions[-1].crystal is None:
            failures.append(Failure(item.where, predictions[-1].failure))
    return PredictionSet(sorted(predictions, key=lambda one: (one.target, one.index)), failures)


def _prediction(item: Item, target: int, index: int, reference: Crystal) -> Prediction:
    if item.crystal is None:
        return Prediction(target, index, None, item.reason)
    if _reduced(item.crystal) != _reduced(reference):
        reason = f"has the composition {item.crystal.reduced_formula} instead of {reference.reduced_formula}"
        return Prediction(target, index, None, reason)
    return Prediction(target, index, item.crystal)


def _reduced(crystal: Crystal) -> dict[int, int]:
    divisor = gcd(*crystal.counts.values())
    return {number: atoms // divisor for number, atoms in crystal.counts.items()}


# what the file holds, place by place


def _items(path: Path) -> Iterator[Item]:
    """One item for each place of the file, with the id that the file itself states."""
    if path.is_dir():
        return _of_folder(path)
    if is_structure_file(path):
        return _of_files([existing_file(path)])
    for suffix, items in _KINDS.items():
        if path.name.lower().endswith(suffix):
            return items(path)
    if path.suffix.lower() in _PICKLED:
        raise InputError(f"{path}: pickled data is never opened; docs/scoring-other-tools.md says how to convert it")
    # absent or of no known kind: the message of all readers
    return (Item(str(path), None, crystal) for crystal in read_crystals(path))


def _of_folder(folder: Path) -> Iterator[Item]:
    with reading(str(folder)):
        # macOS leaves a ._x.cif beside each x.cif on disks of other systems
        files = [file for file in folder.iterdir() if is_structure_file(file) and not file.name.startswith(".")]
    if not files:
        raise InputError(f"{folder}: no *.cif, *.vasp, *.poscar, POSCAR* or CONTCAR* file")
    return _of_files(sorted(files, key=lambda file: natural_order(file.name)))


def _of_files(files: Iterable[Path]) -> Iterator[Item]:
    for file in files:
        name = file.stem if file.suffix.lower() in _STRUCTURE_SUFFIXES else file.name
        try:
            with reading(str(file)):
                crystal = only(read_structure_file(file))
        except InputError as error:
            yield Item.unreadable(str(file), name, error)
            continue
        yield Item(str(file), name, crystal)


def _of_table(
    path: Path,
    read: Callable[..., Iterator[Crystal]],
    ids: Callable[[Path], Iterator[str | None]],
    unit: str,
    first: int,
) -> Iterator[Item]:
    """Crystals and errors in the order in which the reader gives them, beside the ids, which a second pass reads."""
    held: list[Crystal | InputError] = []
    for crystal in read(path, on_error=held.append):
        held.append(crystal)  # noqa: PERF402 - extend() must not meet the errors that are appended meanwhile
    for number, (one, material_id) in enumerate(zip(held, chain(ids(path), repeat(None)), strict=False), start=first):
        where = f"{path}, {unit} {number}"
        if isinstance(one, InputError):
            yield Item.unreadable(where, material_id, one)
        else:
            yield Item(where, material_id, one)


def _csv_ids(file: Path) -> Iterator[str | None]:
    with file.open(encoding="utf-8-sig", newline="") as stream, suppress(csv.Error, UnicodeDecodeError):
        for row in csv.DictReader(stream, restkey="", strict=True):
            yield (row.get(_ID) or "").strip() or None


def _extxyz_ids(file: Path) -> Iterator[str | None]:
    from ase.io.extxyz import key_val_str_to_dict

    with file.open(encoding="utf-8") as stream, suppress(ValueError):
        for header in stream:
            num_atoms = int(header)
            found = None
            with suppress(InputError), reading(str(file)):
                found = key_val_str_to_dict(next(stream, "")).get(_ID)  # type: ignore[no-untyped-call]
            yield None if found is None else str(found)
            for _ in islice(stream, num_atoms):
                pass


def _parquet_ids(file: Path) -> Iterator[str | None]:
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    if _ID in parquet.schema_arrow.names:
        for batch in parquet.iter_batches(columns=[_ID]):
            yield from (None if value is None else str(value) for value in batch.column(_ID).to_pylist())


_KINDS: dict[str, Callable[[Path], Iterator[Item]]] = {
    **dict.fromkeys(JSON_SUFFIXES, json_items),
    ".zip": zip_items,
    ".db": ase_db_items,
    ".csv": partial(_of_table, read=read_csv, ids=_csv_ids, unit="row", first=1),
    ".extxyz": partial(_of_table, read=read_extxyz, ids=_extxyz_ids, unit="frame", first=1),
    ".xyz": partial(_of_table, read=read_extxyz, ids=_extxyz_ids, unit="frame", first=1),
    ".parquet": partial(_of_table, read=read_parquet, ids=_parquet_ids, unit="row", first=0),
}
"""By the end of the file's name; rows and frames are counted as in the readers' own messages."""
