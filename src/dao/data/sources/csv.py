"""Crystals from CSV files of CDVAE and DiffCSP: columns ``cif`` (the text of a CIF), ``material_id``, and labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from dao.crystal import Crystal
from dao.data.sources.cif import parse_cif
from dao.data.sources.failures import OnError, existing_file, reading
from dao.errors import InputError

_CIF = "cif"
_ID = "material_id"


def read_csv(path: Path | str, *, on_error: OnError | None = None) -> Iterator[Crystal]:
    """Crystals of a CSV file in its order, parsed one at a time.

    Every other column goes to ``info`` under its name: numbers as float, else text; empty cells are left out, and so
    is pandas' nameless index column. Rows without ``material_id`` are called by file and row.

    Args:
        path: the file, UTF-8, with a header.
        on_error: called for a malformed row, which is then skipped; without it such a row raises. A row that is not
            even CSV ends the file.

    Raises:
        InputError: at once for a missing or empty file or no ``cif`` column; while iterating for a malformed row (file
            and row, the first below the header being row 1).

    """
    file = existing_file(path)
    with reading(str(file)), file.open(encoding="utf-8-sig", newline="") as stream:
        header = next(csv.reader(stream, strict=True), [])
    if _CIF not in header:
        raise InputError(f"{file}: no column '{_CIF}' with the text of a CIF")
    return _crystals(file, on_error)


def _crystals(file: Path, on_error: OnError | None) -> Iterator[Crystal]:
    rows = _rows(file)
    number = 0
    while True:
        number += 1
        try:
            with reading(f"{file}, row {number}"):
                row = next(rows, None)
            if row is None:
                return
            name = (row.get(_ID) or "").strip() or f"{file.stem}-{number}"
            crystal = _crystal(row, f"{file}, row {number} ({name})", name)
        except InputError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        yield crystal


def _rows(file: Path) -> Iterator[dict[str, str | None]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream, restkey="", strict=True)


def _crystal(row: dict[str, str | None], where: str, name: str) -> Crystal:
    text = row.get(_CIF)
    if not text:
        raise InputError(f"{where}: column '{_CIF}' is empty")
    crystals = parse_cif(text, where, name)
    if len(crystals) != 1:
        raise InputError(f"{where}: holds {len(crystals)} structures instead of one")
    for column, value in row.items():
        if column not in (_CIF, _ID, "", "Unnamed: 0") and value:
            crystals[0].info[column] = _number_or_text(value)
    return crystals[0]


def _number_or_text(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value
