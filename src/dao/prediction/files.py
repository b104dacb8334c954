"""Files of a prediction: candidates when they are known. Nothing is ever left half written."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dao.errors import InputError
from dao.prediction.ranking import Candidate

FAILURES = "failures.json"


def write_candidates(folder: Path, candidates: Sequence[Candidate]) -> None:
    """Write ``candidates.json``, ``.csv`` and ``.extxyz`` and one CIF a candidate; files of a longer list are removed.

    Raises:
        InputError: the folder cannot be written.

    """
    from ase.io import write

    names = [cif_name(candidate) for candidate in candidates]
    records = [{**candidate.record(), "cif": name} for candidate, name in zip(candidates, names, strict=True)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("[0-9][0-9][0-9]*_*.cif"):
            if old.name not in names:
                old.unlink()
        for candidate, name in zip(candidates, names, strict=True):
            write_text(folder / name, cif_text(candidate))
        full = [
            {**record, "structure": candidate.structure.as_dict()}
            for record, candidate in zip(records, candidates, strict=True)
        ]
        write_text(folder / "candidates.json", json.dumps(full, indent=1) + "\n")
        table = io.StringIO()
        writer = csv.DictWriter(table, records[0] if records else ["rank"])
        writer.writeheader()
        writer.writerows(records)
        write_text(folder / "candidates.csv", table.getvalue())
        atoms = []
        for candidate, record in zip(candidates, records, strict=True):
            one = candidate.crystal.to_atoms()
            one.info.update({key: value for key, value in record.items() if value is not None})
            atoms.append(one)
        frames = io.StringIO()
        if atoms:
            write(frames, atoms, format="extxyz")
        write_text(folder / "candidates.extxyz", frames.getvalue())
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


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


def write_text(path: Path, text: str) -> None:
    """Write a file under another name first, so that it is whole or not there."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
