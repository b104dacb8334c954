"""Crystals from extended XYZ files, by ASE, one frame at a time."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import TextIO

from dao.crystal import Crystal
from dao.data.sources.failures import OnError, existing_file, reading
from dao.errors import InputError
from dao.interop.ase import from_atoms

_RESULTS = ("energy", "free_energy")


def read_extxyz(path: Path | str, *, on_error: OnError | None = None) -> Iterator[Crystal]:
    """Crystals of an extended XYZ file; the comment line's keys (and ``energy``) go to ``info``.

    Args:
        path: the file.
        on_error: called for an unreadable frame, which is then skipped; without it such a frame raises. A frame whose
            length is wrong ends the file, since nothing tells where the next one begins.

    Raises:
        InputError: at once for a missing or empty file; while iterating for a malformed or torn frame, or one without a
            periodic cell (file and frame, counted from 1).

    """
    return _crystals(existing_file(path), on_error)


def _crystals(file: Path, on_error: OnError | None) -> Iterator[Crystal]:
    frames = _frames(file)
    number = 0
    while True:
        number += 1
        where = f"{file}, frame {number}"
        try:
            with reading(where):
                frame = next(frames, None)
            if frame is None:
                return
            crystal = _crystal(frame, where, f"{file.stem}-{number}")
        except InputError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        yield crystal


def _frames(file: Path) -> Iterator[str]:
    first = True
    with file.open(encoding="utf-8") as stream:
        while header := stream.readline():
            if not header.strip():
                _check_rest_is_blank(stream)
                if first:
                    raise InputError("is blank")
                return
            first = False
            try:
                num_atoms = int(header)
            except ValueError as error:
                raise InputError("does not start with its number of atoms") from error
            if num_atoms < 1:
                raise InputError(f"has {num_atoms} atoms")
            # line by line: a false number of atoms must cost no more than the file has
            lines = [header]
            for line in stream:
                lines.append(line)
                if len(lines) == num_atoms + 2:
                    break
            if len(lines) < num_atoms + 2:
                raise InputError(f"claims {num_atoms} atoms, the file ends after {max(0, len(lines) - 2)}")
            yield "".join(lines)


def _check_rest_is_blank(stream: TextIO) -> None:
    if any(line.strip() for line in stream):
        raise InputError("has an empty line instead of its number of atoms")


def _crystal(frame: str, where: str, name: str) -> Crystal:
    from ase.io.extxyz import read_xyz

    with reading(where, name):
        (atoms,) = read_xyz(StringIO(frame), slice(None))
        if len(atoms) > 1 and not atoms.positions.any():
            # what ASE makes of a Properties key without a readable pos
            raise InputError("has no positions")
        stored = atoms.info.get("material_id")
        if stored is not None:
            name = str(stored)
        if atoms.calc is not None:
            results = atoms.calc.results
            atoms.info.update({key: float(results[key]) for key in _RESULTS if key in results})
        return from_atoms(atoms, name)
