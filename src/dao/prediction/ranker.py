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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dao.constants import MAX_ATOMIC_NUMBER
from dao.errors import InputError
from dao.prediction.files import write_text
from dao.prediction.ranker_features import LOG_ATOMS, OF_SYMMETRY, asked_size, features
from dao.prediction.ranking import Candidate

Floats = npt.NDArray[np.float64]

FORMAT = "dao ranker 2"

SUREST = 1000.0
"""Odds of the surest candidate against all others."""

SAME_SCORE = 6
"""Decimals to which scores are compared: rounding must not decide a rank."""


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
