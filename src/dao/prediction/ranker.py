"""The learned ranker: how likely is each candidate of a composition to be the known crystal?

A linear model reads what is known of a candidate: how often it was found, how near its prototype is and what crystals
of like elements say, how plausible its structure and how probable its symmetry is, its energy and volume, how much it
resembles the others.
A softmax over the list turns scores into shares, which order it; a logistic model of share and list turns these into
probabilities, which are shown as the candidates' confidence and have the same order. There is one set of weights for
each situation (samples, prototypes or both; with or without what networks say), so that whatever there is is ranked by
what it is worth. Inference is plain NumPy from a JSON file; ``benchmarks/ranker.py`` trains it.

Shapes: C candidates of one composition, F features.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
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
from dao.prediction.files import write_text
from dao.prediction.ranking import Candidate, neighbourhoods

Floats = npt.NDArray[np.float64]

FORMAT = "dao ranker 2"

ALIKE = (0.15, 0.3, 0.6)
"""Differences of two neighbourhoods (0 to 2) at which one crystal counts 1/e for the other."""

NEAR = (0.02, 0.06)
"""Distances of elements beyond the nearest prototype's at which a prototype counts 1/e."""

LOG_ATOMS = "log atoms"
"""The feature of the cell's size, the same for all candidates of a list."""

OF_ALL = (
    *(LOG_ATOMS, "elements", "log candidates"),
    *("largest share", "disorder", "least element distance", "most votes"),
)
"""Features of the list, the same for all of its candidates: they change no order, but how sure one can be."""

OF_SYMMETRY = frozenset({"symmetry probability", "log share of symmetry probability"})
"""Features that a generator's symmetry prior is asked for."""

SUREST = 1000.0
"""Odds of the surest candidate against all others."""

TINY = 1e-10
"""Probability of a symmetry below which it does not matter how small it is."""

SAME_SCORE = 6
"""Decimals to which scores are compared: rounding must not decide a rank."""


def _column(candidates: Sequence[Candidate], read: Callable[[Candidate], float | None]) -> Floats:
    """(C,) a number of each candidate, nan where it has none."""
    return np.array([math.nan if (value := read(one)) is None else value for one in candidates], dtype=float)


def _lowest(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.min()) if len(known) else math.nan


def _highest(values: Floats) -> float:
    return -_lowest(-values)


def _places(values: Floats) -> Floats:
    """(C,) place of each value, the smallest 0, nan where it is unknown."""
    places = np.full(len(values), math.nan)
    order = [i for i in np.argsort(values, kind="stable").tolist() if math.isfinite(values[i])]
    places[order] = np.arange(len(order))
    return places


def asked_size(candidate: Candidate) -> int:
    """Atoms of the cell in which a candidate was asked for."""
    return candidate.asked_atoms or candidate.num_atoms


def features(candidates: Sequence[Candidate], atomic_volumes: Floats) -> dict[str, Floats]:
    """(C,) values of each feature by name, nan where unknown.

    Args:
        candidates: C of one composition, of any source, at least one.
        atomic_volumes: (E,) A^3 per element, by atomic number.

    """
    marks = neighbourhoods([one.crystal for one in candidates])
    apart = np.abs(marks[:, None] - marks[None]).sum(-1)
    alike = {reach: np.nan_to_num(np.exp(-apart / reach)) for reach in ALIKE}
    energy = _column(candidates, lambda one: one.e_above_hull)
    volume = np.log(
        _column(candidates, lambda one: one.crystal.volume / float(atomic_volumes[one.crystal.atomic_numbers].sum()))
    )
    samples, kinds = _of_samples(candidates, alike), _of_prototypes(candidates, alike)
    weights = np.nan_to_num(np.exp(samples["log share of samples"])) + np.nan_to_num(
        np.exp(kinds[f"log nearness {NEAR[0]:g}"])
    )
    usual = float(weights @ volume / weights.sum()) if weights.sum() > 0 else float(np.median(volume))
    plausibility = _column(candidates, lambda one: one.plausibility)
    odds = plausibility - _highest(plausibility)
    symmetry = np.maximum(_column(candidates, lambda one: one.log_symmetry), math.log(TINY))
    own = {
        "plausibility below highest": np.clip(odds, -20.0, 0.0),
        "log share of plausibility": np.clip(odds - np.log(np.nansum(np.exp(odds)) or 1.0), -20.0, 0.0),
        "most plausible": np.where(np.isfinite(odds), odds == 0.0, math.nan),
        "symmetry probability": np.exp(symmetry),
        "log share of symmetry probability": np.clip(
            symmetry - math.log(max(float(np.nansum(np.exp(symmetry))), TINY)), math.log(TINY), 0.0
        ),
        "in both": kinds["proposed"] * samples["found"],
        "log votes for space group": np.log(_column(candidates, lambda one: one.space_group_share) + 1e-3),
        "energy": np.clip(energy, -0.2, 1.0),
        "energy over lowest": np.clip(energy - _lowest(energy), 0.0, 1.0),
        "expected error": np.clip(_column(candidates, lambda one: one.e_above_hull_error), 0.0, 0.5),
        "volume": np.clip(np.abs(volume), 0.0, 1.0),
        "volume off the usual": np.clip(np.abs(volume - usual), 0.0, 1.0),
        "log symmetry": np.log(_column(candidates, lambda one: len(operations(one.space_group_number)[0]))),
        "no symmetry": _column(candidates, lambda one: one.space_group_number <= 2),
        # among several cell sizes a smaller one may have found it too; the weights were fitted to lists of one size
        "smaller than asked for": np.log(
            _column(candidates, lambda one: max(one.asked_atoms or 0, one.num_atoms) / one.num_atoms)
        ),
        "closest contact": _column(candidates, lambda one: _contact(one, atomic_volumes)),
    }
    of_all = {
        LOG_ATOMS: math.log(max(map(asked_size, candidates))),
        "elements": float(len(candidates[0].crystal.counts)),
        "log candidates": math.log(len(candidates)),
    }
    return samples | kinds | own | {name: np.full(len(candidates), value) for name, value in of_all.items()}


def _of_samples(candidates: Sequence[Candidate], alike: Mapping[float, Floats]) -> dict[str, Floats]:
    """What the generator says; all unknown without samples."""
    total = max(one.samples for one in candidates)
    share = _column(candidates, lambda one: one.count / total if total else None)
    known = np.full(len(candidates), 1.0 if total else math.nan)
    return {
        "found": (share > 0) * known,
        "log share of samples": np.log(share + 0.5 / max(total, 1)),
        "share over largest": share / max(_highest(share), 1e-9),
        "most often found": (share == _highest(share)) * known,
        **{f"like the samples {reach:g}": np.log(near @ share + 0.02) for reach, near in alike.items()},
        "largest share": _highest(share) * known,
        "disorder": -np.sum(share * np.log(np.maximum(share, 1e-9))) * known,
    }


def _of_prototypes(candidates: Sequence[Candidate], alike: Mapping[float, Floats]) -> dict[str, Floats]:
    """What known crystals of like elements say; all unknown where none was proposed."""
    distance = _column(candidates, lambda one: one.prototype_distance)
    votes = _column(candidates, lambda one: one.prototype_share)
    proposed = np.isfinite(distance)
    known = np.full(len(candidates), 1.0 if proposed.any() else math.nan)
    shares = {reach: np.nan_to_num(np.exp(-(distance - _lowest(distance)) / reach)) * known for reach in NEAR}
    shares = {reach: share / share.sum() for reach, share in shares.items()}
    of_near = {f"log nearness {reach:g}": np.log(share + 0.01) for reach, share in shares.items()}
    for width, near in alike.items():
        of_near |= {
            f"like the nearest {reach:g} {width:g}": np.log(near @ share + 0.01) for reach, share in shares.items()
        }
        of_near[f"like the votes {width:g}"] = np.log(near @ (np.nan_to_num(votes) * known) + 1e-3)
    places = _places(distance)
    return of_near | {
        "proposed": proposed * known,
        "nearest": (places == 0) * known,
        "log place": np.log1p(places),
        "element distance": distance,
        "log element distance": np.log(distance + 0.01),
        "log element distance over least": np.log((distance + 0.01) / (_lowest(distance) + 0.01)),
        "log members": np.log(_column(candidates, lambda one: one.prototype_members)),
        "log votes": np.log(votes + 1e-4),
        "least element distance": _lowest(distance) * known,
        "most votes": _highest(votes) * known,
    }


def _contact(one: Candidate, atomic_volumes: Floats) -> float:
    """Shortest distance in units of the mean atom's size, at most 1.5."""
    size = float(np.cbrt(atomic_volumes[one.crystal.atomic_numbers].mean()))
    return min(min_distance(one.crystal) / size, 1.5)


def situation(candidates: Sequence[Candidate]) -> str:
    """What is known of a list: which weights are to be used.

    Args:
        candidates: of one composition, at least one.

    """
    sampled = any(one.count for one in candidates)
    proposed = any(one.prototype_distance is not None for one in candidates)
    energies = any(one.e_above_hull is not None and math.isfinite(one.e_above_hull) for one in candidates)
    sources = "both" if sampled and proposed else "prototypes" if proposed else "generator"
    return f"{sources} with energies" if energies else sources


SITUATIONS = tuple(
    f"{sources}{known}" for sources in ("generator", "prototypes", "both") for known in ("", " with energies")
)
"""All that :func:`situation` can say."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A linear model whose shares of a list order it, and a logistic one that says how sure it is.

    Attributes:
        mean: (F,) of each feature over the training lists, which stands for what is not known.
        slope: (F,) of the score with each feature.
        sharpness: of the logit with the logarithm of a candidate's share, not negative.
        lead: of the logit with minus the logarithm of all others' share together, not negative; one of the two is
            positive.
        level: (F,) of the logit with each feature of the list (:data:`OF_ALL`), 0 for the others.
        bias: of the logit.

    """

    mean: Floats
    slope: Floats
    sharpness: float
    lead: float
    level: Floats
    bias: float

    def log_shares(self, table: Floats) -> Floats:
        """(C,) logarithm of each candidate's share of its list, from (C, F) features."""
        return self._log_shares(self._off(table))

    def logits(self, table: Floats) -> Floats:
        """(C,) logits of being right, from (C, F) features."""
        off = self._off(table)
        own = self._log_shares(off)
        order = self.sharpness * own + self.lead * log_odds_of_others(own)
        return np.asarray(order + off @ self.level + self.bias)

    def _log_shares(self, off: Floats) -> Floats:
        score = off @ self.slope
        return np.asarray(score - score.max() - np.log(np.exp(score - score.max()).sum()))

    def _off(self, table: Floats) -> Floats:
        off = table - self.mean
        return np.asarray(np.where(np.isfinite(off), off, 0.0))


def log_odds_of_others(log_shares: Floats) -> Floats:
    """(C,) minus the logarithm of the share that all others have together: the larger the surer.

    At most log(:data:`SUREST`), so that a list of one candidate is finite.
    """
    return np.asarray(-np.log(np.maximum(1.0 - np.exp(log_shares), 1.0 / SUREST)))


@dataclass(frozen=True, eq=False)
class Ranker:
    """A trained ranker.

    Attributes:
        names: F features.
        weights: by situation, all of :data:`SITUATIONS`.
        atomic_volumes: (E,) A^3 per element.
        record: what it was trained on and how good it is, plain JSON.

    """

    names: tuple[str, ...]
    weights: Mapping[str, Weights]
    atomic_volumes: Floats
    record: dict[str, Any]

    @property
    def asks_symmetry(self) -> bool:
        """Whether it looks at how probable symmetries are."""
        return not OF_SYMMETRY.isdisjoint(self.names)

    def scores(self, candidates: Sequence[Candidate]) -> Floats:
        """(C,) logit of each candidate's probability to match the known crystal at the benchmark's tolerances."""
        return self._scores(candidates, features(candidates, self.atomic_volumes))

    def _scores(self, candidates: Sequence[Candidate], known: Mapping[str, Floats]) -> Floats:
        return self.weights[situation(candidates)].logits(np.stack([known[name] for name in self.names], axis=1))

    def rank(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates of one composition with their confidence, the likeliest first; equal ones stay as they were."""
        if not candidates:
            return []
        known = features(candidates, self.atomic_volumes)
        scores = np.clip(self._scores(candidates, known), -30.0, 30.0)
        if len({asked_size(one) for one in candidates}) > 1:
            # trained on lists of one cell size: of several, that of the likeliest counts, which moves all alike
            likeliest = candidates[int(scores.argmax())]
            known[LOG_ATOMS] = np.full(len(candidates), math.log(asked_size(likeliest)))
            scores = np.clip(self._scores(candidates, known), -30.0, 30.0)
        order = np.argsort(-np.round(scores, SAME_SCORE), kind="stable").tolist()
        confidence = 1.0 / (1.0 + np.exp(-scores))
        return [
            replace(candidates[i], rank=rank, confidence=float(confidence[i])) for rank, i in enumerate(order, start=1)
        ]

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of all that its scores depend on."""
        return hashlib.sha256(json.dumps(self._plain()).encode()).hexdigest()[:16]

    def _plain(self) -> dict[str, Any]:
        weights = {
            name: {
                "mean": one.mean.tolist(),
                "slope": one.slope.tolist(),
                "sharpness": one.sharpness,
                "lead": one.lead,
                "level": one.level.tolist(),
                "bias": one.bias,
            }
            for name, one in self.weights.items()
        }
        return {"names": list(self.names), "weights": weights, "atomic_volumes": self.atomic_volumes.tolist()}

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: it cannot be written.

        """
        text = json.dumps({"format": FORMAT, "record": self.record, **self._plain()})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text + "\n")
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
            if whole["format"] != FORMAT:
                raise InputError(f"{path}: not a ranker ({FORMAT})")
            weights = {
                name: Weights(
                    _floats(one["mean"]),
                    _floats(one["slope"]),
                    float(one["sharpness"]),
                    float(one["lead"]),
                    _floats(one["level"]),
                    float(one["bias"]),
                )
                for name, one in whole["weights"].items()
            }
            names = tuple(map(str, whole["names"]))
            one = cls(names, weights, _floats(whole["atomic_volumes"]), dict(whole["record"]))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            raise InputError(f"{path}: not a ranker ({FORMAT})") from None
        one._check(path)
        return one

    def _check(self, path: Path) -> None:
        """Refuse numbers that do not fit each other.

        Raises:
            InputError: says which.

        """
        if set(self.weights) != set(SITUATIONS):
            raise InputError(f"{path}: weights are not of {', '.join(SITUATIONS)}")
        for name, one in self.weights.items():
            shapes = {one.mean.shape, one.slope.shape, one.level.shape}
            numbers = [*one.mean, *one.slope, *one.level, one.sharpness, one.lead, one.bias]
            keeps_order = min(one.sharpness, one.lead) >= 0 < max(one.sharpness, one.lead)
            if shapes != {(len(self.names),)} or not np.isfinite(numbers).all() or not keeps_order:
                raise InputError(f"{path}: weights of {name!r} are not {len(self.names)} finite numbers")
        volumes = self.atomic_volumes
        if volumes.shape != (MAX_ATOMIC_NUMBER + 1,) or not (np.isfinite(volumes) & (volumes >= 0)).all():
            raise InputError(f"{path}: atomic_volumes are not {MAX_ATOMIC_NUMBER + 1} volumes")


def _floats(values: Any) -> Floats:  # noqa: ANN401 -- what JSON holds
    return np.array(values, dtype=np.float64)
