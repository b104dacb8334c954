"""A relaxation by DFT in a folder of its own: what ``dao dft relax`` does."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from dao.crystal import Crystal
from dao.dft.calculators import (
    CodeName,
    DftSettings,
    EspressoCalculator,
    GpawCalculator,
    Pseudopotentials,
)
from dao.dft.relax import Ending, Iteration, RelaxationLimits, best, relax
from dao.dft.starts import Start, make_start
from dao.elements import SYMBOLS
from dao.errors import InputError
from dao.jsonl import JsonLines
from dao.prediction.files import write_failures, write_text
from dao.system import versions

ITERATIONS = "iterations.jsonl"
LOG_HEADING = "iteration  energy (eV/atom)  largest force (eV/A)  largest stress (GPa)  A^3/atom  seconds  CPU seconds"


@dataclass(frozen=True, kw_only=True)
class DftRun:
    """One relaxation: which code, by what settings, from where and how far.

    Attributes:
        code: ``gpaw`` or ``espresso``.
        settings: of each calculation.
        start: where it starts.
        limits: what is relaxed, and when it ends.
        pseudopotentials: for Quantum ESPRESSO.
        command: the program, where it is not on the path, or is started by another.

    """

    code: CodeName
    settings: DftSettings
    start: Start
    limits: RelaxationLimits
    pseudopotentials: Pseudopotentials | None = None
    command: str | None = None

    def calculator(self, folder: Path, crystal: Crystal) -> GpawCalculator | EspressoCalculator:
        """The code, ready; its own files go to the folder.

        Raises:
            InputError: it is not there, or lacks something.
            OSError: the folder cannot be written.

        """
        if self.code == "gpaw":
            return GpawCalculator(self.settings, folder, self.command)
        if self.pseudopotentials is None:
            raise InputError("Quantum ESPRESSO needs --pseudopotentials FOLDER")
        symbols = [SYMBOLS[number] for number in crystal.counts]
        return EspressoCalculator(self.settings, folder, self.pseudopotentials, symbols, self.command)

    def made_by(self, start: Crystal) -> dict[str, Any]:
        """What iterations depend on: not on the limits, so that a run may be prolonged."""
        digest = sha256()
        for array in (start.atomic_numbers, start.frac_coords, start.lattice):
            digest.update(array.tobytes())
        chosen = None if self.pseudopotentials is None else dict(self.pseudopotentials.chosen)
        return {
            "code": self.code,
            "settings": {**asdict(self.settings), "k_points": list(self.settings.k_points), "pseudopotentials": chosen},
            "cell": "fixed" if self.limits.fix_cell else "relaxed",
            "start": digest.hexdigest()[:16],
        }


def relax_to_folder(
    given: Crystal, run: DftRun, out: Path, *, on_iteration: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Relax a structure; returns the record, which is also written as ``result.json``.

    Beside it come ``iterations.jsonl`` (everything, kept as it is made: the same command goes on from there),
    ``log.txt``, ``trajectory.extxyz``, ``start.cif`` and ``relaxed.cif``, and ``failures.json`` where a calculation
    failed.

    Args:
        given: the structure of the file, with which start and result are also compared
            (:func:`dao.evaluation.matching.rms_distance`).
        run: what to do.
        out: the folder.
        on_iteration: told the lines of the log as they come.

    Raises:
        InputError: the code is missing or lacks something, the folder cannot be written, or it holds another run.

    """
    start = make_start(given, run.start)
    lines = JsonLines(out / ITERATIONS, run.made_by(start), "iterations")
    kept = lines.read(Iteration.from_line)
    try:
        calculator = run.calculator(out, start)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    on_iteration(LOG_HEADING)
    for number, one in enumerate(kept[: run.limits.iterations], start=1):
        on_iteration(log_line(number, one))
    done = list(kept)

    def keep(one: Iteration) -> None:
        lines.append([one.to_line()])
        done.append(one)
        on_iteration(log_line(len(done), one))
        _write(out, {"log.txt": _log(done), "trajectory.extxyz": _trajectory(done, start)})

    try:
        iterations, ending = relax(calculator, start, run.limits, kept=kept, keep=keep)
    finally:
        calculator.close()
    record = _record(given, start, run, iterations, ending)
    record |= {"versions": versions(), "code_versions": calculator.versions}
    texts = {"result.json": json.dumps(record, indent=1) + "\n", "start.cif": _cif(start)}
    if iterations:
        texts |= {"log.txt": _log(iterations), "trajectory.extxyz": _trajectory(iterations, start)}
        texts["relaxed.cif"] = _cif(iterations[best(iterations, ending)].crystal(start))
    _write(out, texts)
    write_failures(out, [] if ending.reason is None else [{"file": given.name, "reason": ending.reason}])
    return record


def _record(
    given: Crystal, start: Crystal, run: DftRun, iterations: Sequence[Iteration], ending: Ending
) -> dict[str, Any]:
    from dao.evaluation.matching import rms_distance

    said: dict[str, Any] = {
        "id": given.name,
        "formula": given.reduced_formula,
        "num_atoms": given.num_atoms,
        "code": run.code,
        "settings": asdict(run.settings),
        "cell": "fixed" if run.limits.fix_cell else "relaxed",
        "start": asdict(run.start),
        "outcome": ending.outcome,
        "reason": ending.reason,
        "iterations": len(iterations),
        "seconds": round(sum(one.seconds for one in iterations), 2),
        "cpu_seconds": round(sum(one.cpu_seconds for one in iterations), 2),
        "rms_of_start": rms_distance((start, given)),
    }
    if iterations:
        number = best(iterations, ending)
        one = iterations[number]
        after = one.crystal(start)
        said |= {
            "iteration": number + 1,
            "energy": round(one.energy / given.num_atoms, 6),
            "energy_of_start": round(iterations[0].energy / given.num_atoms, 6),
            "max_force": round(one.max_force, 4),
            "max_stress": round(one.max_stress, 3),
            "volume_change": round(after.volume / start.volume - 1.0, 5),
            "rms": rms_distance((after, given)),
        }
    return said


def log_line(number: int, one: Iteration) -> str:
    """One line under :data:`LOG_HEADING`."""
    atoms = len(one.positions)
    volume = abs(float(np.linalg.det(one.lattice))) / atoms
    return (
        f"{number:9d}  {one.energy / atoms:16.5f}  {one.max_force:20.3f}  {one.max_stress:20.2f}  {volume:8.3f}"
        f"  {one.seconds:7.1f}  {one.cpu_seconds:11.1f}"
    )


def _log(iterations: Sequence[Iteration]) -> str:
    rows = [log_line(number, one) for number, one in enumerate(iterations, start=1)]
    return "\n".join([LOG_HEADING, *rows]) + "\n"


def _trajectory(iterations: Sequence[Iteration], like: Crystal) -> str:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    frames = []
    for one in iterations:
        atoms = Atoms(like.atomic_numbers, positions=one.positions, cell=one.lattice, pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=one.energy, forces=one.forces, stress=one.stress)  # type: ignore[no-untyped-call]
        frames.append(atoms)
    text = io.StringIO()
    write(text, frames, format="extxyz")
    return text.getvalue()


def _cif(crystal: Crystal) -> str:
    from pymatgen.io.cif import CifWriter

    return str(CifWriter(crystal.to_structure()))


def _write(out: Path, texts: dict[str, str]) -> None:
    try:
        for name, text in texts.items():
            write_text(out / name, text)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
