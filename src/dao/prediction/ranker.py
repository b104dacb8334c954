"""The learned ranker: how likely is each candidate of a composition to be the known crystal?

A small network reads what is known of a candidate (how often it was found, what its prototype and its energy say, how
much it resembles the others) and gives one score; the list is ordered by it. What is not known of a candidate, or of a
whole list because a source or the predictor is missing, counts as average. Inference is plain NumPy from a JSON file;
``benchmarks/ranker.py`` trains it.

Shapes: C candidates of one composition, F features, H hidden units.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dao.constants import MAX_ATOMIC_NUMBER
from dao.errors import InputError
from dao.geometry.cells import min_distance
from dao.geometry.wyckoff import operations
from dao.prediction.ranking import Candidate, neighbourhoods

Floats = npt.NDArray[np.float64]

FORMAT = "dao ranker 1"

ALIKE = 0.3
"""Difference of two neighbourhoods (0 to 2) at which one crystal counts 1/e for the other."""

SAME_SCORE = 6
"""Decimals to which scores are compared: rounding must not decide a rank."""


@dataclass(frozen=True, eq=False)
class _List:
    """The candidates of one composition, and what several features need of them."""

    candidates: Sequence[Candidate]
    atomic_volumes: Floats

    def column(self, read: Callable[[Candidate], float | None]) -> Floats:
        """(C,) a number of each candidate, nan where it has none."""
        return np.array([math.nan if (value := read(one)) is None else value for one in self.candidates], dtype=float)


def _log(values: Floats, floor: float) -> Floats:
    return np.log(values + floor)


def _lowest(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.min()) if len(known) else math.nan


def _highest(values: Floats) -> float:
    return -_lowest(-values)


def features(candidates: Sequence[Candidate], atomic_volumes: Floats) -> dict[str, Floats]:
    """(C,) values of each feature by name, nan where unknown.

    Args:
        candidates: C of one composition, of any source, at least one.
        atomic_volumes: (E,) A^3 per element, by atomic number.

    """
    every = _List(candidates, atomic_volumes)
    nothing = np.full(len(candidates), math.nan)

    share = every.column(lambda one: one.count / one.samples if one.samples else None)
    samples = float(max(one.samples for one in candidates))
    kind = every.column(lambda one: one.prototype_share)
    distance = every.column(lambda one: one.prototype_distance)
    energy = every.column(lambda one: one.e_above_hull)
    error = every.column(lambda one: one.e_above_hull_error)
    volume = np.log(
        every.column(lambda one: one.crystal.volume / float(atomic_volumes[one.crystal.atomic_numbers].sum()))
    )
    proposed = np.isfinite(distance)

    marks = neighbourhoods([one.crystal for one in candidates])
    apart = np.abs(marks[:, None] - marks[None]).sum(-1)
    alike = np.exp(-apart / ALIKE)
    weights = np.nan_to_num(share) + np.nan_to_num(kind)
    usual = float(weights @ volume / weights.sum()) if weights.sum() > 0 else float(np.median(volume))

    own: dict[str, Floats] = {
        "found": nothing if samples == 0 else (share > 0).astype(float),
        "log share of samples": _log(share, 0.5 / max(samples, 1.0)),
        "share over largest": share / max(_highest(share), 1e-9) if samples else nothing,
        "like the samples": nothing if samples == 0 else _log(alike @ np.nan_to_num(share), 0.02),
        "proposed": proposed.astype(float),
        "in both": (proposed & (np.nan_to_num(share) > 0)).astype(float),
        "element distance": distance,
        "element distance over nearest": distance - _lowest(distance),
        "log members": np.log(every.column(lambda one: one.prototype_members)),
        "log share of votes": _log(kind, 1e-4),
        "like the prototypes": _log(alike @ np.nan_to_num(kind), 1e-3) if proposed.any() else nothing,
        "log votes for space group": _log(every.column(lambda one: one.space_group_share), 1e-3),
        "energy": np.clip(energy, -0.2, 1.0),
        "energy over lowest": np.clip(energy - _lowest(energy), 0.0, 1.0),
        "expected error": np.clip(error, 0.0, 0.5),
        "no energy": every.column(lambda one: float(one.e_above_hull is not None and math.isnan(one.e_above_hull))),
        "volume": np.clip(np.abs(volume), 0.0, 1.0),
        "volume off the usual": np.clip(np.abs(volume - usual), 0.0, 1.0),
        "log symmetry": np.log(every.column(lambda one: len(operations(one.space_group_number)[0]))),
        "no symmetry": every.column(lambda one: float(one.space_group_number <= 2)),
        "smaller than asked for": np.log(every.column(lambda one: (one.asked_atoms or one.num_atoms) / one.num_atoms)),
        "closest contact": every.column(lambda one: _contact(one, atomic_volumes)),
    }
    entropy = -np.nansum(share * np.log(np.maximum(share, 1e-9))) if samples else math.nan
    both = proposed.any() and samples > 0
    of_all = {
        "log atoms": math.log(max(one.asked_atoms or one.num_atoms for one in candidates)),
        "elements": float(len(candidates[0].crystal.counts)),
        "log candidates": math.log(len(candidates)),
        "largest share": _highest(share),
        "entropy": float(entropy),
        "nearest": _lowest(distance),
        "largest share of votes": _highest(kind),
        "sources": float(both),
        "samples": float(samples > 0),
        "energies": float(np.isfinite(energy).any()),
    }
    return own | {name: np.full(len(candidates), value) for name, value in of_all.items()}


def _contact(one: Candidate, atomic_volumes: Floats) -> float:
    """Shortest distance in units of the mean atom's size, at most 1.5."""
    size = float(np.cbrt(atomic_volumes[one.crystal.atomic_numbers].mean()))
    return min(min_distance(one.crystal) / size, 1.5)


@dataclass(frozen=True, eq=False)
class Ranker:
    """A trained ranker.

    Attributes:
        names: F features.
        mean: (F,) of each over the training lists.
        scale: (F,) its standard deviation.
        linear: (F,) weights.
        hidden: (H, F + 1) weights and bias of the hidden units.
        output: (H + 1,) their weights, and the bias of the score.
        calibration: slope and offset that turn the score into the logit of a probability.
        atomic_volumes: (E,) A^3 per element.
        record: what it was trained on and how good it is, plain JSON.

    """

    names: tuple[str, ...]
    mean: Floats
    scale: Floats
    linear: Floats
    hidden: Floats
    output: Floats
    calibration: tuple[float, float]
    atomic_volumes: Floats
    record: dict[str, Any]

    def table(self, candidates: Sequence[Candidate]) -> Floats:
        """(C, F) standardised features; what is not known is 0, the average."""
        known = features(candidates, self.atomic_volumes)
        raw = np.stack([known[name] for name in self.names], axis=1)
        return np.nan_to_num((raw - self.mean) / self.scale, nan=0.0, posinf=0.0, neginf=0.0)

    def scores(self, candidates: Sequence[Candidate]) -> Floats:
        """(C,) scores, the higher the likelier."""
        table = self.table(candidates)
        return score(table, self.linear, self.hidden, self.output)

    def confidence(self, scores: Floats) -> Floats:
        """(C,) probability of each score's candidate to match the known crystal at the benchmark's tolerances."""
        slope, offset = self.calibration
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(slope * scores + offset, -30.0, 30.0))))

    def rank(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates of one composition with their confidence, the likeliest first; equal ones stay as they were."""
        if not candidates:
            return []
        scores = self.scores(candidates)
        order = np.argsort(-np.round(scores, SAME_SCORE), kind="stable").tolist()
        confidence = self.confidence(scores)
        return [
            replace(candidates[i], rank=rank, confidence=float(confidence[i])) for rank, i in enumerate(order, start=1)
        ]

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of all that its scores depend on."""
        digest = hashlib.sha256(" ".join((*self.names, *map(repr, self.calibration))).encode())
        for name in _ARRAYS:
            digest.update(getattr(self, name).tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: it cannot be written.

        """
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        whole = {
            "format": FORMAT,
            "record": self.record,
            "names": list(self.names),
            "calibration": list(self.calibration),
            **arrays,
        }
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(whole) + "\n", encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None

    @classmethod
    def load(cls, path: Path) -> Ranker:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: missing, or no such file.

        """
        try:
            whole = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise InputError(f"{path}: not JSON") from None
        try:
            if whole["format"] != FORMAT:
                raise InputError(f"{path}: not a ranker ({FORMAT})")
            arrays = {name: np.array(whole[name], dtype=np.float64) for name in _ARRAYS}
            slope, offset = map(float, whole["calibration"])
            one = cls(
                names=tuple(map(str, whole["names"])),
                calibration=(slope, offset),
                record=dict(whole["record"]),
                **arrays,
            )
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{path}: not a ranker ({FORMAT})") from None
        one._check(path)
        return one

    def _check(self, path: Path) -> None:
        """Refuse numbers that do not fit each other.

        Raises:
            InputError: says which.

        """
        count, units = len(self.names), len(self.hidden)
        shapes = {
            "mean": (count,),
            "scale": (count,),
            "linear": (count,),
            "hidden": (units, count + 1),
            "output": (units + 1,),
            "atomic_volumes": (MAX_ATOMIC_NUMBER + 1,),
        }
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values.shape != shape or not np.isfinite(values).all():
                raise InputError(f"{path}: {name} is not {shape} finite numbers")
        if not (self.scale > 0).all() or not (self.atomic_volumes[1:] > 0).all():
            raise InputError(f"{path}: a scale or volume that is not above 0")


_ARRAYS = ("mean", "scale", "linear", "hidden", "output", "atomic_volumes")


def score(table: Floats, linear: Floats, hidden: Floats, output: Floats) -> Floats:
    """(C,) scores of (C, F) standardised features: a linear map plus that of H hidden units (tanh)."""
    units = np.tanh(table @ hidden[:, :-1].T + hidden[:, -1])
    return np.asarray(table @ linear + units @ output[:-1] + output[-1])
