"""Files of a prediction: samples as they come, candidates when they are known. Nothing is ever left half written.

``samples.jsonl`` begins with a line that says by what it was made; a torn last line (a kill) is dropped on reading.
"""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dao.crystal import Crystal
from dao.errors import InputError
from dao.prediction.ranking import Candidate
from dao.sampling import Sample, SampleRequest

FAILURES = "failures.json"


class SampleFile:
    """``samples.jsonl`` in a formula's folder: finished samples, appended and flushed batch by batch."""

    def __init__(self, folder: Path, signature: dict[str, Any]) -> None:
        """Name the folder and what its samples must have been made by; nothing is written yet."""
        self.folder = folder
        self.path = folder / "samples.jsonl"
        self._signature = signature

    def read(self) -> dict[SampleRequest, Sample]:
        """Samples that an earlier run finished; a torn last line is cut off the file.

        Raises:
            InputError: the samples were made by other weights or settings, or the file is not one of ours.

        """
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: is no folder")
        if not self.path.exists():
            return {}
        try:
            raw = self.path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}") from None
        whole = raw[: raw.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            samples = [_from_line(line) for line in lines[1:]]
            signature = dict(lines[0]["made_by"]) if lines else self._signature
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(f"{self.path}: not a file of samples") from None
        if signature != self._signature:
            differing = [key for key in self._signature if signature.get(key) != self._signature[key]]
            raise InputError(
                f"{self.folder} holds samples made with another {' and '.join(differing) or 'setting'}:"
                " choose another --out, or remove that folder"
            )
        if len(whole) < len(raw):
            try:
                os.truncate(self.path, len(whole))
            except OSError as error:
                raise InputError(f"{self.path}: cannot be written ({error.strerror})") from None
        return {one.request: one for one in samples}

    def append(self, samples: Sequence[Sample]) -> None:
        """Add finished samples and flush them to the disk.

        Raises:
            InputError: the folder cannot be written.

        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists() or self.path.stat().st_size == 0
            with self.path.open("a", encoding="utf-8") as stream:
                if new:
                    stream.write(json.dumps({"made_by": self._signature}) + "\n")
                stream.writelines(json.dumps(_to_line(one)) + "\n" for one in samples)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror})") from None


def _to_line(one: Sample) -> dict[str, Any]:
    line: dict[str, Any] = {"atomic_numbers": one.request.atomic_numbers, "index": one.request.index}
    if one.request.space_group is not None:
        line["space_group"] = one.request.space_group
    if one.crystal is None:
        return line | {"failure": one.failure}
    return line | {"lattice": one.crystal.lattice.tolist(), "frac_coords": one.crystal.frac_coords.tolist()}


def _from_line(line: dict[str, Any]) -> Sample:
    numbers = tuple(int(number) for number in line["atomic_numbers"])
    request = SampleRequest(numbers, int(line["index"]), line.get("space_group"))
    if "failure" in line:
        return Sample(request, None, str(line["failure"]))
    crystal = Crystal(np.array(numbers), np.array(line["frac_coords"]), np.array(line["lattice"]))
    return Sample(request, crystal)


def write_candidates(folder: Path, candidates: Sequence[Candidate]) -> None:
    """Write ``candidates.json``, ``.csv`` and ``.extxyz`` and one CIF a candidate; files of a longer list are removed.

    Raises:
        InputError: the folder cannot be written.

    """
    from ase.io import write

    names = [f"{candidate.rank:03d}_{_file_name(candidate.space_group)}.cif" for candidate in candidates]
    records = [{**candidate.record(), "cif": name} for candidate, name in zip(candidates, names, strict=True)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("[0-9][0-9][0-9]*_*.cif"):
            if old.name not in names:
                old.unlink()
        for candidate, name in zip(candidates, names, strict=True):
            _replace(folder / name, _cif(candidate))
        full = [
            {**record, "structure": candidate.structure.as_dict()}
            for record, candidate in zip(records, candidates, strict=True)
        ]
        _replace(folder / "candidates.json", json.dumps(full, indent=1) + "\n")
        table = io.StringIO()
        writer = csv.DictWriter(table, records[0] if records else ["rank"])
        writer.writeheader()
        writer.writerows(records)
        _replace(folder / "candidates.csv", table.getvalue())
        atoms = []
        for candidate, record in zip(candidates, records, strict=True):
            one = candidate.crystal.to_atoms()
            one.info.update({key: value for key, value in record.items() if value is not None})
            atoms.append(one)
        frames = io.StringIO()
        if atoms:
            write(frames, atoms, format="extxyz")
        _replace(folder / "candidates.extxyz", frames.getvalue())
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
            _replace(folder / FAILURES, json.dumps(failures, indent=1) + "\n")
        else:
            (folder / FAILURES).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


def _cif(candidate: Candidate) -> str:
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


def _file_name(symbol: str) -> str:
    return symbol.replace("/", "-")


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
