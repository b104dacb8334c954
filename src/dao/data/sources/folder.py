"""Crystals from CIF and POSCAR files, one by one or a folder of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dao.crystal import Crystal
from dao.data.sources.cif import parse_cif
from dao.data.sources.failures import OnError, read_text, reading
from dao.errors import InputError
from dao.interop.pymatgen import from_structure

_SUFFIXES = (".cif", ".vasp", ".poscar")


def is_structure_file(path: Path) -> bool:
    """Whether the name is one of ``*.cif``, ``*.vasp``, ``*.poscar``, ``POSCAR*``, ``CONTCAR*``."""
    return path.suffix.lower() in _SUFFIXES or path.name.startswith(("POSCAR", "CONTCAR"))


def read_structure_file(path: Path | str) -> list[Crystal]:
    """Crystals of one CIF (one for each block that holds a structure) or POSCAR (one), named after the file.

    Raises:
        InputError: missing, empty, binary, malformed, disordered, or (POSCAR) without element symbols.

    """
    file = Path(path)
    text = read_text(file)
    if file.suffix.lower() == ".cif":
        return parse_cif(text, str(file), file.stem)
    return [_parse_poscar(text, file)]


def read_folder(path: Path | str, *, on_error: OnError | None = None) -> Iterator[Crystal]:
    """Crystals of a folder's CIF and POSCAR files, sorted by file name; folders inside are not entered.

    Args:
        path: the folder.
        on_error: called for an unreadable file, which is then skipped; without it such a file raises.

    Raises:
        InputError: at once for a missing folder or one without such files; while iterating for an unreadable file.

    """
    folder = Path(path)
    with reading(str(folder)):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is no folder")
        files = sorted(file for file in folder.iterdir() if is_structure_file(file) and file.is_file())
    if not files:
        raise InputError(f"{folder}: no *.cif, *.vasp, *.poscar, POSCAR* or CONTCAR* file")
    return _crystals(files, on_error)


def _crystals(files: list[Path], on_error: OnError | None) -> Iterator[Crystal]:
    for file in files:
        try:
            crystals = read_structure_file(file)
        except InputError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        yield from crystals


def _parse_poscar(text: str, file: Path) -> Crystal:
    from pymatgen.io.vasp.inputs import Poscar

    name = file.stem if file.suffix.lower() in _SUFFIXES else file.name
    with reading(str(file), name):
        _check_poscar_counts(text)
        poscar = Poscar.from_str(text, read_velocities=False)
        if not poscar.true_names:
            # pymatgen would call them H, He, Li, ...
            raise InputError("gives no element symbols (VASP 4 format)")
        return from_structure(poscar.structure, name)


def _check_poscar_counts(text: str) -> None:
    """Refuse counts of more atoms than the file has lines: the parser builds its lists before it reads the atoms."""
    lines = text.splitlines()
    in_counts = False
    for line in lines[5:]:
        try:
            counts = [int(token) for token in line.split("!")[0].split("#")[0].split()]
        except ValueError:
            if in_counts:
                return
            continue
        in_counts = in_counts or bool(counts)
        if sum(counts) > len(lines) or any(count < 0 for count in counts):
            raise InputError(f"claims {max(counts)} atoms of one element in a file of {len(lines)} lines")
