"""How many predictions are stable, by two judges: our predictor, and a potential that knows nothing of it.

- *DAO-P*: the predicted energy above the hull is at most 0.08 eV/atom. Not to be its only judge: a generator that is
  guided by a predictor, or ranked by it, is drawn to that predictor's errors too.
- *a foundation potential*: the energy is at most 0.08 eV/atom above that of the target's reference crystal by the same
  potential, single points or both relaxed. It says nothing of the hull: the reference itself is taken for stable.

M targets, K samples each, energies in eV/atom. A prediction without an energy (no crystal, or the judge failed on it)
counts as infinitely high, so as not stable. A target whose reference has no energy is left out of that judge's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dao.constants import STABLE_E_ABOVE_HULL
from dao.errors import InputError
from dao.evaluation.metrics import Bootstrap
from dao.evaluation.scores import Interval

LOWER_BY = 0.001
"""A prediction counts as lower than the reference from so many eV/atom on: less is rounding and cell settings."""

RESAMPLES = 1000

_HUGE, _LARGEST = 1e12, 1e4
"""Stand-in for infinity, and the largest energy that is none; eV/atom."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """One judge's energies.

    Attributes:
        judge: its name, with versions: judgements of the same name may be compared.
        energy: (M, K) what is held against 0.08: above the hull, or above the reference; inf = none.
        difference: (M, K) to the reference crystal by this judge; inf = none.
        reference: (M,) energies above the hull of the references, None for a judge that has no hull.
        judged: (M,) targets whose reference has an energy; the others are in no figure.

    """

    judge: str
    energy: npt.NDArray[np.float64]
    difference: npt.NDArray[np.float64]
    reference: npt.NDArray[np.float64] | None
    judged: npt.NDArray[np.bool_]

    @property
    def stable(self) -> npt.NDArray[np.bool_]:
        """(M, K)."""
        return self.energy <= STABLE_E_ABOVE_HULL

    @property
    def lower(self) -> npt.NDArray[np.bool_]:
        """(M, K) lower than the reference."""
        return self.difference < -LOWER_BY

    def to_json(self) -> dict[str, Any]:
        """Lists, with null for what is missing."""
        return {
            "energy": _to_lists(self.energy),
            "difference": _to_lists(self.difference),
            "reference": None if self.reference is None else _to_lists(self.reference),
            "judged": self.judged.tolist(),
        }

    @classmethod
    def from_json(cls, judge: str, record: Mapping[str, Any]) -> Judgement:
        """What :meth:`to_json` made.

        Raises:
            ValueError, KeyError, TypeError: it did not.

        """
        energy, difference = _from_lists(record["energy"]), _from_lists(record["difference"])
        judged = np.array(record["judged"], dtype=bool)
        if energy.ndim != 2 or difference.shape != energy.shape or judged.shape != energy.shape[:1]:
            raise ValueError(judge)
        reference = None if record["reference"] is None else _from_lists(record["reference"])
        return cls(judge, energy, difference, reference, judged)


@dataclass(frozen=True)
class StabilityRow:
    """Figures of the first k samples of each target by one judge, or of the references.

    Attributes:
        judge: its name.
        k: samples a target; None for the reference crystals.
        targets: that were judged.
        stable: share of the predictions that are stable.
        energy: median of what is held against the threshold, eV/atom; infinite where most have none.
        lower: share of the predictions that are lower than their reference; None for the references.
        match: share of the predictions that match their target, benchmark tolerances; None for the references.
        without_energy: predictions without one.

    """

    judge: str
    k: int | None
    targets: int
    stable: Interval
    energy: Interval
    lower: Interval | None
    match: Interval | None
    without_energy: int


@dataclass(frozen=True)
class Agreement:
    """Predictions by what two judges say of them; of the targets that both judged."""

    first: str
    second: str
    k: int
    both: int
    first_only: int
    second_only: int
    neither: int


@dataclass(frozen=True)
class Difference:
    """Shares of one run less those of another, of the same targets and by the same judge; intervals are of pairs."""

    judge: str
    k: int
    targets: int
    stable: Interval
    lower: Interval
    match: Interval


def stability_rows(one: Judgement, matched: npt.NDArray[np.bool_]) -> list[StabilityRow]:
    """Figures of the first sample, of all samples, and of the references where they have an energy above the hull.

    Args:
        one: M targets, K samples.
        matched: (M, K) the prediction matches its target.

    """
    members = one.judged
    if not members.any():
        return []
    bootstrap = Bootstrap(int(members.sum()), RESAMPLES, 0)
    rows = [
        StabilityRow(
            judge=one.judge,
            k=k,
            targets=int(members.sum()),
            stable=bootstrap.mean(_share(one.stable, k)[members]),
            energy=median(one.energy[members, :k], bootstrap),
            lower=bootstrap.mean(_share(one.lower, k)[members]),
            match=bootstrap.mean(_share(matched, k)[members]),
            without_energy=int(np.isinf(one.energy[members, :k]).sum()),
        )
        for k in _ks(one)
    ]
    if one.reference is not None:
        known = one.reference[members]
        stable = bootstrap.mean((known <= STABLE_E_ABOVE_HULL).astype(np.float64))
        rows.append(StabilityRow(one.judge, None, known.size, stable, median(known, bootstrap), None, None, 0))
    return rows


def median(values: npt.NDArray[np.float64], bootstrap: Bootstrap) -> Interval:
    """Median of (M,) or of all (M, K) values; infinite ones count as such."""
    # the interval is interpolated, which infinities do not survive
    finite = np.nan_to_num(values, posinf=_HUGE)
    found = bootstrap.of(lambda weights: float(np.median(np.repeat(finite, weights.astype(np.int64), axis=0))))
    return Interval(*(np.inf if one > _LARGEST else one for one in (found.value, found.low, found.high)))


def agreement(first: Judgement, second: Judgement) -> list[Agreement]:
    """How often two judges say the same, of the first samples and of all."""
    members = first.judged & second.judged
    found = []
    for k in _ks(first) if members.any() else ():
        one, other = first.stable[members, :k], second.stable[members, :k]
        counts = [int(pairs.sum()) for pairs in (one & other, one & ~other, ~one & other, ~one & ~other)]
        found.append(Agreement(first.judge, second.judge, k, *counts))
    return found


@dataclass(frozen=True, eq=False)
class Judged:
    """All that a comparison with another run needs.

    Attributes:
        targets: fingerprint of all targets of the evaluation.
        ids: M of them, those that were judged.
        matched: (M, K).
        judgements: by judge.

    """

    targets: str
    ids: tuple[str, ...]
    matched: npt.NDArray[np.bool_]
    judgements: tuple[Judgement, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_json` reads it back."""
        return {
            "targets": self.targets,
            "ids": list(self.ids),
            "matched": self.matched.tolist(),
            "judgements": {one.judge: one.to_json() for one in self.judgements},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Judged:
        """What :meth:`to_json` made.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it did not.

        """
        judgements = tuple(Judgement.from_json(str(name), own) for name, own in record["judgements"].items())
        matched = np.array(record["matched"], dtype=bool)
        ids = tuple(str(name) for name in record["ids"])
        if any(one.energy.shape != matched.shape for one in judgements) or matched.shape[0] != len(ids):
            raise ValueError(record["targets"])
        return cls(str(record["targets"]), ids, matched, judgements)


def differences(ours: Judged, theirs: Judged) -> list[Difference]:
    """Ours less theirs by each judge of both, on the targets that were judged in both.

    Raises:
        InputError: other targets, or no judge in common.

    """
    if ours.targets != theirs.targets:
        raise InputError("--against: an evaluation of other targets")
    others = {one.judge: one for one in theirs.judgements}
    places = {name: place for place, name in enumerate(theirs.ids)}
    shared = [place for place, name in enumerate(ours.ids) if name in places]
    same = [places[ours.ids[place]] for place in shared]
    found = []
    for one in ours.judgements:
        if (other := others.get(one.judge)) is None:
            continue
        members = one.judged[shared] & other.judged[same]
        mine, yours = np.array(shared)[members], np.array(same)[members]
        if not members.any():
            continue
        bootstrap = Bootstrap(int(members.sum()), RESAMPLES, 0)
        for k in sorted({*_ks(one)} & {*_ks(other)}):
            pairs = [
                (one.stable, other.stable),
                (one.lower, other.lower),
                (ours.matched, theirs.matched),
            ]
            made = [bootstrap.mean(_share(a, k)[mine] - _share(b, k)[yours]) for a, b in pairs]
            found.append(Difference(one.judge, k, int(members.sum()), *made))
    if not found:
        raise InputError("--against: no target was judged by the same judge in both runs")
    return found


def _share(what: npt.NDArray[np.bool_], k: int) -> npt.NDArray[np.float64]:
    """(M,) of the first k samples of each target."""
    return what[:, :k].mean(axis=1, dtype=np.float64)


def _ks(one: Judgement) -> Sequence[int]:
    return sorted({1, one.energy.shape[1]})


def _to_lists(values: npt.NDArray[np.float64]) -> list[Any]:
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return list(plain.tolist())


def _from_lists(values: list[Any]) -> npt.NDArray[np.float64]:
    found = np.array(values, dtype=np.float64)  # NumPy takes None, JSON's null, for nan
    return np.where(np.isnan(found), np.inf, found)
