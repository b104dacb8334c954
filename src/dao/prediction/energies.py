"""Energies above the hull of structures in files, and their relaxation: what ``dao energy`` and ``dao relax`` do."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dao.batching import said_of
from dao.crystal import Crystal, CrystalBatch
from dao.data.sources import read_crystals
from dao.device import choose_device
from dao.elements import SYMBOLS
from dao.errors import InputError
from dao.geometry.cells import reduced
from dao.geometry.lattice import composition_volume
from dao.jsonl import JsonLines
from dao.models import Predictor
from dao.prediction.files import write_failures, write_text
from dao.prediction.judging import ENERGY
from dao.processes.representations import LogMetricLattice
from dao.progress import CountProgress
from dao.property_model import PropertyPredictor
from dao.relaxation import RelaxationSettings, Relaxed, relax

RELAXED = "relaxed.jsonl"

_FIGURES = ("energy_before", "energy", "max_force", "iterations", "outcome")


@dataclass(frozen=True)
class Structures:
    """Crystals of one or more files, and what could not be read."""

    crystals: list[Crystal]
    files: list[str]
    """File of each crystal."""
    failures: list[dict[str, Any]]
    """``file`` and ``reason``."""


def read_structures(files: Sequence[Path]) -> Structures:
    """Every valid crystal of the files, in their order; what is broken or no crystal is among the failures.

    Raises:
        InputError: nothing is left; names the first failure.

    """
    crystals: list[Crystal] = []
    sources: list[str] = []
    failures: list[dict[str, Any]] = []
    for file in files:

        def fail(error: InputError, file: Path = file) -> None:
            failures.append({"file": str(file), "reason": str(error)})

        try:
            for crystal in read_crystals(file, on_error=fail):
                try:
                    crystal.validate()
                except InputError as error:
                    fail(error)
                    continue
                crystals.append(crystal)
                sources.append(str(file))
        except InputError as error:
            fail(error)
    if not crystals:
        reason = failures[0]["reason"] if failures else "no structure in the given files"
        raise InputError(f"nothing to compute: {reason}")
    return Structures(crystals, sources, failures)


def load_predictor(weights: Path | str, device: str) -> Predictor:
    """A predictor on a device; its results are those of any other device up to rounding.

    Raises:
        InputError: no such weights or device, or weights of a generator.

    """
    return Predictor.load(weights, device=choose_device(device))


def load_energy_predictor(weights: Path | str, device: str) -> Predictor:
    """The same, of energies above the hull alone.

    Raises:
        InputError: likewise, or it predicts another property.

    """
    model = load_predictor(weights, device)
    if model.config.label != ENERGY:
        raise InputError(f"{weights}: predicts {model.config.label}, and {ENERGY} is needed")
    return model


@dataclass(frozen=True)
class PredictedEnergy:
    """What a predictor says of a crystal.

    Attributes:
        energy: above the hull, eV/atom.
        error: how far off it is expected to be (mean absolute error), eV/atom; None: the predictor does not say.

    """

    energy: float
    error: float | None


@torch.no_grad()
def predict_with_errors(
    model: Predictor, crystals: Sequence[Crystal], *, batch_size: int | None = None, progress: bool = False
) -> list[PredictedEnergy]:
    """Energy above the hull of each crystal, in whatever cell it is given, and its expected error.

    Batches are of like sizes and change nothing beyond rounding.
    """

    def say(batch: CrystalBatch) -> list[PredictedEnergy]:
        energy, error = model.energy_and_error(batch)
        errors = [None] * len(energy) if error is None else error.tolist()
        return [PredictedEnergy(*said) for said in zip(energy.tolist(), errors, strict=True)]

    with CountProgress(len(crystals), 0, enabled=progress, what="energies") as bar:
        return said_of(crystals, say, model.energy_mean, batch_size=batch_size, advance=bar.advance)


def predict_energies(
    model: Predictor, crystals: Sequence[Crystal], *, batch_size: int | None = None, progress: bool = False
) -> list[float]:
    """The energies of :func:`predict_with_errors` alone, eV/atom."""
    said = predict_with_errors(model, crystals, batch_size=batch_size, progress=progress)
    return [one.energy for one in said]


def doubts(model: Predictor | PropertyPredictor, crystal: Crystal) -> str:
    """In what a :func:`reduced` crystal is unlike all that the predictor was trained on; empty if in nothing."""
    trust = model.config.trust
    found = []
    unseen = [SYMBOLS[number] for number in crystal.counts if number not in trust.elements]
    if unseen:
        found.append(f"no {', '.join(unseen)} in training")
    if crystal.num_atoms > trust.max_atoms:
        found.append(f"over {trust.max_atoms} atoms")
    representation = model.process.representation
    if isinstance(representation, LogMetricLattice):
        numbers = torch.from_numpy(crystal.atomic_numbers.copy())
        expected = float(composition_volume(representation.atomic_volumes.cpu(), numbers))
        low, high = trust.volume_ratio
        if not low <= crystal.volume / expected <= high:
            found.append(f"volume {crystal.volume / expected:.2f} of the expected")
    return "; ".join(found)


def energy_records(
    model: Predictor, structures: Structures, energies: Sequence[PredictedEnergy]
) -> list[dict[str, Any]]:
    """One record a structure for tables and files; ``e_above_hull`` and its expected ``error`` in eV/atom."""
    return [
        {
            "file": file,
            "id": crystal.name,
            "formula": crystal.reduced_formula,
            "num_atoms": crystal.num_atoms,
            "e_above_hull": round(said.energy, 6),
            **({} if said.error is None else {"error": round(said.error, 6)}),
            "doubts": doubts(model, reduced(crystal)),
        }
        for crystal, file, said in zip(structures.crystals, structures.files, energies, strict=True)
    ]


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """Records, all with the same keys, as CSV."""
    table = io.StringIO()
    writer = csv.DictWriter(table, records[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return table.getvalue()


def write_energies(out: Path, records: Sequence[dict[str, Any]], failures: Sequence[dict[str, Any]]) -> None:
    """Write ``energies.csv`` and ``.json``, and ``failures.json`` where there are any.

    Raises:
        InputError: the folder cannot be written.

    """
    _write(out, {"energies.csv": csv_text(records), "energies.json": json.dumps(records, indent=1) + "\n"})
    write_failures(out, failures)


def relax_to_folder(
    model: Predictor,
    structures: Structures,
    settings: RelaxationSettings,
    *,
    out: Path,
    batch_size: int | None = None,
    progress: bool = False,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Relax structures and write ``relaxed.csv``, ``.json``, ``.extxyz``, and one CIF each; returns records, failures.

    They are relaxed and written in primitive Niggli cells, of which ``num_atoms`` and ``volume_change`` are.
    Finished structures are kept in ``relaxed.jsonl``: the same command goes on where it was stopped.

    Raises:
        InputError: the folder cannot be written, or holds relaxations of other structures or by other settings.

    """
    crystals = [reduced(crystal) for crystal in structures.crystals]
    made_by = {
        "weights": model.fingerprint,
        "settings": asdict(settings),
        "structures": _digest(crystals),
    }
    lines = JsonLines(out / RELAXED, made_by, "relaxed structures")
    done = dict(lines.read(lambda line: _from_line(line, crystals)))
    left = [i for i in range(len(crystals)) if i not in done]

    with CountProgress(len(crystals), len(done), enabled=progress, what="relaxing") as bar:

        def keep(results: dict[int, Relaxed]) -> None:
            named = {left[i]: one for i, one in results.items()}
            lines.append(_to_line(i, one) for i, one in named.items())
            done.update(named)
            bar.advance(len(named))

        relax(model, [crystals[i] for i in left], settings, batch_size=batch_size, on_batch=keep)

    records: list[dict[str, Any]] = []
    failures = list(structures.failures)
    kept: list[tuple[Crystal, str]] = []
    for i, (before, file) in enumerate(zip(crystals, structures.files, strict=True)):
        one = done[i]
        if not np.isfinite(one.energy):
            failures.append({"file": file, "reason": f"{before.name}: its energy is not finite"})
            continue
        name = f"{len(kept) + 1:04d}_{re.sub(r'[^A-Za-z0-9_.-]+', '-', before.name)[:80]}.cif"
        kept.append((one.crystal, name))
        records.append(
            {
                "file": file,
                "id": before.name,
                "formula": before.reduced_formula,
                "num_atoms": before.num_atoms,
                "before": round(one.energy_before / before.num_atoms, 6),
                "e_above_hull": round(one.energy / before.num_atoms, 6),
                "volume_change": round(one.crystal.volume / before.volume - 1.0, 6),
                "max_force": round(one.max_force, 6),
                "iterations": one.iterations,
                "outcome": one.outcome,
                "doubts": doubts(model, before),
                "cif": name,
            }
        )
    if not records:
        raise InputError(f"nothing could be relaxed: {failures[0]['reason']}")
    _write_relaxed(out, kept, records)
    write_failures(out, failures)
    return records, failures


def _write_relaxed(out: Path, kept: Sequence[tuple[Crystal, str]], records: Sequence[dict[str, Any]]) -> None:
    from ase.io import write
    from pymatgen.io.cif import CifWriter

    atoms = []
    for (crystal, _), record in zip(kept, records, strict=True):
        one = crystal.to_atoms()
        one.info["e_above_hull"] = record["e_above_hull"]
        atoms.append(one)
    frames = io.StringIO()
    write(frames, atoms, format="extxyz")
    texts = {name: str(CifWriter(crystal.to_structure())) for crystal, name in kept}
    texts |= {"relaxed.csv": csv_text(records), "relaxed.json": json.dumps(records, indent=1) + "\n"}
    _write(out, texts | {"relaxed.extxyz": frames.getvalue()})


def _write(out: Path, texts: dict[str, str]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(out / name, text)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None


def _digest(crystals: Sequence[Crystal]) -> str:
    digest = sha256()
    for crystal in crystals:
        digest.update(crystal.name.encode())
        for array in (crystal.atomic_numbers, crystal.frac_coords, crystal.lattice):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _to_line(place: int, one: Relaxed) -> dict[str, Any]:
    values = {key: getattr(one, key) for key in _FIGURES}
    crystal = one.crystal
    return {"place": place, **values, "frac_coords": crystal.frac_coords.tolist(), "lattice": crystal.lattice.tolist()}


def _from_line(line: dict[str, Any], crystals: Sequence[Crystal]) -> tuple[int, Relaxed]:
    before = crystals[int(line["place"])]
    crystal = Crystal(before.atomic_numbers, line["frac_coords"], line["lattice"], before.material_id, before.info)
    values = {key: line[key] for key in _FIGURES}
    return int(line["place"]), Relaxed(crystal=crystal, **values)
