"""Critical temperatures of structures, and of compositions by way of their predicted structures: ``dao tc``.

Shapes: E members of the ensemble, M structures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dao.crystal import Crystal
from dao.data.properties.superconductors import GROUPED, LABEL
from dao.device import choose_device
from dao.errors import InputError
from dao.geometry.cells import reduced
from dao.prediction.energies import Structures, csv_text, doubts
from dao.prediction.files import write_failures, write_text
from dao.prediction.properties import PropertyEnsemble, load_ensemble
from dao.prediction.ranking import Candidate
from dao.property_model import PropertyPredictor
from dao.superconductors.cross_validation import CHOSEN, chosen_members, read_chosen
from dao.weights import TC, shipped_tc

ENSEMBLE = "ensemble.json"
"""Beside the folders ``member-*`` of an ensemble that ships: its errors in cross-validation."""

WARNINGS = (
    "trained on superconductors alone: anything gets a critical temperature, whether it is a superconductor or not",
    "of 1,016 crystals in its training set 13 are cuprates and 12 iron-based: little is known of these families",
    "pressure, doping, disorder and magnetism are not known to it; hydrides in its training set are under pressure",
)
"""What no critical temperature can do without."""

LOW_CONFIDENCE = 0.3
"""If no candidate of a formula has as much, most likely none of them is right."""


@dataclass(frozen=True)
class TcEnsemble:
    """Predictors of the logarithm of critical temperatures.

    Attributes:
        predictors: one or more.
        error: mean absolute error of ln Tc on crystals that were not trained on, at random; None: not known.
        grouped_error: the same on crystals of chemical systems of which none was trained on.

    """

    predictors: PropertyEnsemble
    error: float | None
    grouped_error: float | None = None

    def warnings(self) -> list[str]:
        """What to say beside every result."""
        parts = [
            f"a factor of {np.exp(error):.1f} either way {of}"
            for error, of in (
                (self.error, "of compounds with relatives in the training set"),
                (self.grouped_error, "of new chemical systems"),
            )
            if error is not None
        ]
        first = [f"typical error: {', '.join(parts)} (cross-validation on superconductors)"] if parts else []
        return [*first, *WARNINGS]


def load_tc(source: str | None, device: str) -> TcEnsemble:
    """The ensemble that ships (None or its name), a run of ``dao superconductors train``, or weights for :data:`LABEL`.

    Raises:
        InputError: no such weights or device, or weights of another property.

    """
    shipped = shipped_tc() if source in (None, TC) else None
    folder = shipped or (None if source is None else Path(source))
    error = grouped_error = None
    if folder is None:
        raise InputError("no weights for critical temperatures ship with this installation: give --weights FOLDER")
    if (folder / CHOSEN).is_file():
        every = [member for members in chosen_members(folder) for member in members]
        chosen = read_chosen(folder)
        ensemble = _members(str(folder), every, device)
        error, grouped_error = (None, chosen["mae"]) if chosen["data"] == GROUPED else (chosen["mae"], None)
    elif members := sorted(path.parent for path in folder.glob("member-*/config.json")):
        ensemble = _members(str(folder), members, device)
        error, grouped_error = (_recorded_error(folder / ENSEMBLE, key) for key in ("random", "grouped"))
    else:
        ensemble = load_ensemble(str(source), device)
    for member in ensemble.members:
        if member.config.label != LABEL:
            raise InputError(f"{ensemble.source}: predicts {member.config.label}, and {LABEL} is needed")
    return TcEnsemble(ensemble, error, grouped_error)


def _members(source: str, folders: Sequence[Path], device: str) -> PropertyEnsemble:
    chosen = choose_device(device)
    return PropertyEnsemble(source, tuple(PropertyPredictor.load(folder, device=chosen) for folder in folders))


def _recorded_error(file: Path, split: str) -> float | None:
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))[split]["mae"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def structure_records(
    ensemble: TcEnsemble, structures: Structures, *, batch_size: int | None = None
) -> list[dict[str, Any]]:
    """One record a structure: ``tc`` (K), and ``tc_low`` and ``tc_high``, one standard deviation over the members."""
    values = ensemble.predictors.predict(structures.crystals, batch_size=batch_size).numpy()
    return [
        {
            "input": file,
            "structure": crystal.name,
            "formula": crystal.reduced_formula,
            "num_atoms": crystal.num_atoms,
            "rank": None,
            "space_group": None,
            "confidence": None,
            **_temperatures(values[:, [place]]),
            "doubts": _doubts(ensemble, crystal, values[:, place]),
        }
        for place, (crystal, file) in enumerate(zip(structures.crystals, structures.files, strict=True))
    ]


def formula_records(ensemble: TcEnsemble, formula: str, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """One record a candidate, the best first, after one of them all.

    Candidates count by the confidence in them, where it is known; the spread of them all is over candidates and
    members.

    Raises:
        InputError: there is no candidate.

    """
    if not candidates:
        raise InputError(f"formula {formula!r}: no structure was predicted, and so no critical temperature")
    values = ensemble.predictors.predict([one.crystal for one in candidates]).numpy()
    records = [
        {
            "input": formula,
            "structure": f"candidate {one.rank}",
            "formula": one.formula,
            "num_atoms": one.crystal.num_atoms,
            "rank": one.rank,
            "space_group": one.space_group,
            "confidence": None if one.confidence is None else round(one.confidence, 4),
            **_temperatures(values[:, [place]]),
            "doubts": _doubts(ensemble, one.crystal, values[:, place]),
        }
        for place, one in enumerate(candidates)
    ]
    weights = np.array([1.0 if one.confidence is None else max(one.confidence, 1e-3) for one in candidates])
    every = dict.fromkeys(records[0]) | {
        "input": formula,
        "structure": f"all {len(candidates)} candidates",
        "formula": candidates[0].formula,
        **_temperatures(values, weights),
        "doubts": _unlikely(candidates),
    }
    return [every, *records]


def _unlikely(candidates: Sequence[Candidate]) -> str:
    """A warning where no candidate has much confidence; empty if one has, or none has any."""
    known = [one.confidence for one in candidates if one.confidence is not None]
    if not known or max(known) >= LOW_CONFIDENCE:
        return ""
    return f"largest confidence {max(known):.2f}: likely none of these is right"


def _temperatures(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64] | None = None
) -> dict[str, float | None]:
    """Of (E, M) logarithms: K at their mean, and one standard deviation below and above; weights are of structures."""
    share = np.ones(values.shape[1]) if weights is None else weights
    every = np.broadcast_to(share / share.sum() / len(values), values.shape)
    mean = float((every * values).sum())
    spread = float(np.sqrt((every * (values - mean) ** 2).sum()))
    alone = values.size == 1
    return {
        "tc": _rounded(mean),
        "tc_low": None if alone else _rounded(mean - spread),
        "tc_high": None if alone else _rounded(mean + spread),
    }


def _rounded(logarithm: float) -> float:
    return float(f"{np.exp(logarithm):.3g}")


def _doubts(ensemble: TcEnsemble, crystal: Crystal, values: npt.NDArray[np.float64]) -> str:
    """In what a structure, or what is said of it (M logarithms), is unlike what the members were trained on."""
    said = doubts(ensemble.predictors.members[0], reduced(crystal))
    highest = max(member.config.trust.energy[1] for member in ensemble.predictors.members)
    beyond = f"above every critical temperature it has seen ({np.exp(highest):.0f} K)"
    return "; ".join(part for part in (said, beyond if values.mean() > highest else "") if part)


def write_temperatures(
    out: Path, records: Sequence[dict[str, Any]], warnings: Sequence[str], failures: Sequence[dict[str, Any]]
) -> None:
    """Write ``tc.csv``, ``tc.json`` (with the warnings), and ``failures.json`` where there are any.

    Raises:
        InputError: the folder cannot be written.

    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if records:
            write_text(out / "tc.csv", csv_text(records))
        write_text(out / "tc.json", json.dumps({"warnings": list(warnings), "records": list(records)}, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    write_failures(out, failures)
