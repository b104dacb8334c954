"""Crystals from JSON: pymatgen's ``Structure.as_dict()`` or our uniform keys, in a list, a mapping or one a line.

A structure is ``{"lattice": {"matrix": ...}, "sites": [{"species": [{"element", "occu"}], "abc": ...}, ...]}`` or
``{"atomic_numbers": (N,), "frac_coords": (N, 3), "lattice": (3, 3) rows in A}``, bare or as the ``structure`` of a
record (``candidates.json`` of ``dao predict``, pymatgen's entries), which may have a ``material_id``. A mapping goes
from material id to a structure or a list of them. A record with a ``failure`` and no structure is a failed sample.

Only these keys are looked at. pymatgen's own ``from_dict`` decodes site properties by importing whatever module they
name, which is why it is not used here.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from dao.crystal import Crystal
from dao.data.sources.failures import OnError, existing_file, reading
from dao.data.sources.items import Item, crystals_of
from dao.elements import ATOMIC_NUMBERS
from dao.errors import InputError

SUFFIXES = (".json", ".json.gz", ".jsonl", ".jsonl.gz")

_LARGEST_FILE = 4_000_000_000
"""Characters of a file, decompressed."""

_LARGEST_LINE = 20_000_000
"""Characters of one line of a JSON lines file."""

_ISOTOPES = {"D": 1, "T": 1}
_ID = "material_id"


def read_json(path: Path | str, *, on_error: OnError | None = None) -> Iterator[Crystal]:
    """Crystals of a ``.json`` or ``.jsonl`` file, plain or ``.gz``, in its order.

    Args:
        path: the file.
        on_error: called for an unreadable structure, which is then skipped; without it such a structure raises.

    Raises:
        InputError: at once for a missing or empty file; while iterating for one larger than 4 GB or not JSON, and for a
            malformed structure (file and entry or line, counted from 1).

    """
    return crystals_of(json_items(path), on_error)


def json_items(path: Path | str) -> Iterator[Item]:
    """See :func:`read_json`; an unreadable structure keeps its place.

    Raises:
        InputError: as there, but not for one structure.

    """
    return _items(existing_file(path))


def _items(file: Path) -> Iterator[Item]:
    stem = file.name.split(".")[0]
    records = _lines(file) if ".jsonl" in file.name.lower() else _entries(file)
    number = 0
    for number, (where, material_id, record) in enumerate(records, start=1):
        stated = material_id if material_id is not None else _stated_id(record)
        name = stated if stated is not None else f"{stem}-{number}"
        try:
            with reading(where, name):
                if isinstance(record, InputError):
                    raise record
                crystal = crystal_of_record(record, name)
        except InputError as error:
            yield Item.unreadable(where, stated, error)
            continue
        yield Item(where, stated, crystal)
    if number == 0:
        raise InputError(f"{file}: holds no structure")


_Record = tuple[str, str | None, Any]
"""Where it is, the material id of a mapping, and what JSON gave, or the error in its place."""


def _open(file: Path) -> TextIOWrapper:
    if file.suffix.lower() == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig")
    return file.open(encoding="utf-8-sig")


def _entries(file: Path) -> Iterator[_Record]:
    with reading(str(file)), _open(file) as stream:
        text = stream.read(_LARGEST_FILE + 1)
        if len(text) > _LARGEST_FILE:
            raise InputError(f"larger than {_LARGEST_FILE / 1e9:g} GB")
        content = json.loads(text)
    del text
    if isinstance(content, dict) and not _is_record(content):
        for key, value in content.items():
            records = value if isinstance(value, list) else [value]
            for number, record in enumerate(records, start=1):
                yield f"{file}, {key!r}" + (f", entry {number}" if len(records) > 1 else ""), key, record
        return
    if not isinstance(content, dict | list):
        raise InputError(f"{file}: neither a list nor a mapping of structures")
    for number, record in enumerate(content if isinstance(content, list) else [content], start=1):
        yield f"{file}, entry {number}", None, record


def _lines(file: Path) -> Iterator[_Record]:
    number, left = 0, _LARGEST_FILE
    with reading(str(file)):
        stream = _open(file)
    with stream:
        while True:
            number += 1
            with reading(f"{file}, line {number}"):
                line = stream.readline(_LARGEST_LINE + 1)
                left -= len(line)
                if len(line) > _LARGEST_LINE or left < 0:
                    raise InputError(f"the line or the file is too large ({_LARGEST_LINE / 1e6:g} MB, 4 GB)")
            if not line:
                return
            if line.strip():
                yield f"{file}, line {number}", None, _parsed(line, f"{file}, line {number}")


def _parsed(line: str, where: str) -> Any:  # noqa: ANN401 - JSON is anything
    try:
        with reading(where):
            return json.loads(line)
    except InputError as error:
        return error


def _is_record(content: dict[str, Any]) -> bool:
    return any(isinstance(content.get(key), kind) for key, kind in (("sites", list), ("atomic_numbers", list))) or (
        isinstance(content.get("structure"), dict) and "sites" in content["structure"]
    )


def _stated_id(record: Any) -> str | None:  # noqa: ANN401 - JSON is anything
    if not isinstance(record, dict):
        return None
    places = [record, record.get("structure"), record.get("properties")]
    places += [place.get("properties") for place in places[1:2] if isinstance(place, dict)]
    for place in places:
        if isinstance(place, dict) and isinstance(place.get(_ID), str | int):
            return str(place[_ID])
    return None


def crystal_of_record(record: Any, name: str) -> Crystal:  # noqa: ANN401 - JSON is anything
    """The crystal of one record, called ``name``.

    Raises:
        InputError: disordered, failed, or of neither form; what is malformed raises whatever it raises.

    """
    structure = record.get("structure", record) if isinstance(record, dict) else record
    if not isinstance(structure, dict):
        raise InputError(f"no structure but {type(structure).__name__}")
    if "sites" in structure:
        return _of_pymatgen(structure, name)
    if "atomic_numbers" in structure and "failure" not in structure:
        return Crystal(structure["atomic_numbers"], structure["frac_coords"], structure["lattice"], material_id=name)
    if "failure" in structure:
        raise InputError(str(structure["failure"]) or "failed")
    raise InputError("has neither 'sites' (pymatgen) nor 'atomic_numbers'")


def _of_pymatgen(structure: dict[str, Any], name: str) -> Crystal:
    lattice = structure["lattice"]
    if not all(lattice.get("pbc") or (True,)):
        raise InputError("not periodic in three directions")
    numbers = [_atomic_number(site["species"], index) for index, site in enumerate(structure["sites"], start=1)]
    return Crystal(numbers, [site["abc"] for site in structure["sites"]], lattice["matrix"], material_id=name)


def _atomic_number(species: list[dict[str, Any]], index: int) -> int:
    if len(species) != 1 or abs(float(species[0]["occu"]) - 1.0) > 1e-8:
        raise InputError(f"site {index} is disordered or partly occupied")
    symbol = species[0]["element"]
    number = ATOMIC_NUMBERS.get(symbol) or _ISOTOPES.get(symbol)
    if number is None:
        raise InputError(f"site {index} holds {symbol!r}, which is no element up to Pu")
    return number
