"""Files of a prediction: the candidates in each format. Nothing is ever left half written."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dao.errors import InputError
from dao.prediction.formats import DEFAULT_FORMATS
from dao.prediction.ranking import Candidate

FAILURES, CANDIDATES = "failures.json", "candidates.json"


def write_candidates(
    folder: Path, candidates: Sequence[Candidate], formats: Sequence[str] = DEFAULT_FORMATS
) -> list[dict[str, Any]]:
    """Write the candidates in these formats; structure files of a longer list or another format are removed.

    Args:
        folder: of the formula; made if need be.
        candidates: the best first.
        formats: of :data:`dao.prediction.formats.FORMATS`.

    Returns:
        The records, with the names of their files: what ``candidates.json`` holds beside the structures.

    Raises:
        InputError: the folder cannot be written.

    """
    naming = {name: name_of for name, name_of in STRUCTURE_NAMES.items() if name in formats}
    records = [{**one.record(), **{name: name_of(one) for name, name_of in naming.items()}} for one in candidates]
    wanted = {record[name] for record in records for name in naming}
    lists: dict[str, Callable[[Sequence[Candidate], Sequence[dict[str, Any]]], str]] = {
        "json": _json_text,
        "csv": _csv_text,
        "extxyz": _extxyz_text,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in ("[0-9][0-9][0-9]*_*.cif", "POSCAR-[0-9][0-9][0-9]*_*"):
            for old in folder.glob(pattern):
                if old.name not in wanted:
                    old.unlink()
        for name, name_of in naming.items():
            for one in candidates:
                write_text(folder / name_of(one), STRUCTURE_TEXTS[name](one))
        for name, text_of in lists.items():
            path = folder / f"candidates.{name}"
            if name in formats:
                write_text(path, text_of(candidates, records))
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    return records


def _json_text(candidates: Sequence[Candidate], records: Sequence[dict[str, Any]]) -> str:
    """With the structures of the primitive cells, as pymatgen writes them."""
    full = [
        {**record, "structure": candidate.structure.as_dict()}
        for record, candidate in zip(records, candidates, strict=True)
    ]
    return json.dumps(full, indent=1) + "\n"


def _csv_text(candidates: Sequence[Candidate], records: Sequence[dict[str, Any]]) -> str:
    del candidates
    table = io.StringIO()
    writer = csv.DictWriter(table, records[0] if records else ["rank"])
    writer.writeheader()
    writer.writerows(records)
    return table.getvalue()


def _extxyz_text(candidates: Sequence[Candidate], records: Sequence[dict[str, Any]]) -> str:
    """The primitive cells, with the records beside them."""
    from ase.io import write

    atoms = []
    for candidate, record in zip(candidates, records, strict=True):
        one = candidate.crystal.to_atoms()
        one.info.update({key: value for key, value in record.items() if value is not None})
        atoms.append(one)
    frames = io.StringIO()
    if atoms:
        write(frames, atoms, format="extxyz")
    return frames.getvalue()


def write_failures(folder: Path, failures: Sequence[dict[str, Any]]) -> None:
    """Write which formulas got no candidate, and why; where there are none, remove the file of an earlier run.

    Raises:
        InputError: the folder cannot be written.

    """
    try:
        if failures:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / FAILURES, json.dumps(failures, indent=1) + "\n")
        else:
            (folder / FAILURES).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


def cif_name(candidate: Candidate) -> str:
    """File name of a candidate's CIF, e.g. ``001_Pm-3m.cif``."""
    return f"{candidate.rank:03d}_{candidate.space_group.replace('/', '-')}.cif"


def poscar_name(candidate: Candidate) -> str:
    """File name of a POSCAR, e.g. ``POSCAR-001_Pm-3m``: VESTA, ASE and pymatgen know it by its beginning."""
    return f"POSCAR-{candidate.rank:03d}_{candidate.space_group.replace('/', '-')}"


def poscar_text(candidate: Candidate) -> str:
    """VASP's POSCAR of the primitive cell, the elements by rising electronegativity."""
    from pymatgen.io.vasp import Poscar

    said = f"{candidate.formula} {candidate.space_group} ({candidate.space_group_number}), rank {candidate.rank}, DAO"
    with warnings.catch_warnings():
        # of elements without an electronegativity
        warnings.simplefilter("ignore")
        return f"{Poscar(candidate.structure, comment=said, sort_structure=True).get_str().rstrip()}\n"


def cif_text(candidate: Candidate) -> str:
    """CIF of the symmetrised conventional cell; of the cell as sampled where no symmetry was found."""
    from pymatgen.io.cif import CifWriter
    from pymatgen.symmetry.analyzer import SymmetryUndeterminedError

    with warnings.catch_warnings():
        # of elements without an electronegativity, and of spglib's interface
        warnings.simplefilter("ignore")
        if candidate.symprec is not None:
            try:
                # the cell is symmetrised already: a tight tolerance only writes its symmetry down
                return str(CifWriter(candidate.structure, symprec=1e-3))
            except SymmetryUndeterminedError:
                pass
        return str(CifWriter(candidate.structure))


STRUCTURE_NAMES = {"cif": cif_name, "poscar": poscar_name}
STRUCTURE_TEXTS = {"cif": cif_text, "poscar": poscar_text}
"""Formats of one file a candidate: how the files are called, and what they hold."""


def write_text(path: Path, text: str) -> None:
    """Write a file under another name first, so that it is whole or not there."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
