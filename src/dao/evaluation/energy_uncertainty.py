"""Whether a predictor knows how wrong it is: its expected errors against its actual ones.

M crystals; expected and actual errors are absolute, in eV/atom. Crystals of equal expected error have no order, so
each counts with the mean actual error of them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from dao.evaluation.energy_metrics import RESAMPLES, Ranks, Statistic, Values, spearman
from dao.evaluation.metrics import Bootstrap
from dao.evaluation.scores import Interval

CALIBRATION_BINS = 10
SHARES = (0.10, 0.25, 0.50)
"""Of the crystals, those that the predictor is surest of."""


@dataclass(frozen=True)
class CalibrationBin:
    """Some crystals of like expected error: its mean, and that of the actual errors, eV/atom."""

    crystals: int
    expected: float
    observed: Interval


@dataclass(frozen=True)
class Surest:
    """MAE (eV/atom) of a share of the crystals: the surest ones, any, and those that are least wrong (oracle)."""

    share: float
    mae: Interval
    random: float
    oracle: float


@dataclass(frozen=True)
class Uncertainty:
    """How good expected errors are.

    Attributes:
        factor: mean actual over mean expected error; 1 if calibrated, above if too sure.
        spearman: rank correlation of expected and actual error.
        bins: of equal count, by rising expected error; see :func:`calibration`.
        surest: MAE of the surest crystals.
        area: under the sparsification curve: MAE of the k surest crystals, averaged over k = 1 to M, eV/atom.
        area_random: the same in random order, which is the MAE.
        area_oracle: the same in the order of the actual errors.
        gain: (area_random - area) / (area_random - area_oracle): 0 for random order, 1 for the oracle's.

    """

    factor: Interval
    spearman: Interval
    bins: list[CalibrationBin]
    surest: list[Surest]
    area: float
    area_random: float
    area_oracle: float
    gain: float


def uncertainty(expected: Values, actual: Values, seed: int) -> Uncertainty:
    """Every figure of M expected errors, with 95 % bootstrap intervals over crystals."""
    bootstrap = Bootstrap(len(actual), RESAMPLES, seed)
    mean = float(actual.mean())

    def factor(weights: Values) -> float:
        total = weights @ expected
        return float(weights @ actual / total) if total > 0 else float("nan")

    every = np.ones(len(actual))
    surest = [
        Surest(
            share,
            bootstrap.of(surest_mae(expected, actual, share)),
            mean,
            surest_mae(actual, actual, share)(every),
        )
        for share in SHARES
    ]
    area, oracle = (float(sparsification(order, actual).mean()) for order in (expected, actual))
    return Uncertainty(
        factor=bootstrap.of(factor),
        spearman=bootstrap.of(spearman(expected, actual)),
        bins=calibration(expected, actual, seed),
        surest=surest,
        area=area,
        area_random=mean,
        area_oracle=oracle,
        gain=(mean - area) / (mean - oracle) if mean > oracle else float("nan"),
    )


def calibration(expected: Values, actual: Values, seed: int) -> list[CalibrationBin]:
    """Ten bins of equal count by rising expected error; equal ones stay together, so that a bin may be left out."""
    place = np.floor(CALIBRATION_BINS * Ranks(expected)(np.ones(len(expected))) / len(expected))
    bins = []
    for number in range(CALIBRATION_BINS):
        own = place == number
        if own.any():
            observed = Bootstrap(int(own.sum()), RESAMPLES, seed).mean(actual[own])
            bins.append(CalibrationBin(int(own.sum()), float(expected[own].mean()), observed))
    return bins


def sparsification(expected: Values, actual: Values) -> Float64[np.ndarray, " m"]:
    """(M,) MAE of the k crystals of least expected error, k = 1 to M."""
    ordered = _tied_means(expected, actual)[np.argsort(expected, kind="stable")]
    return np.cumsum(ordered) / np.arange(1, len(ordered) + 1)


def surest_mae(expected: Values, actual: Values, share: float) -> Statistic:
    """MAE of that share of the crystals, the one at its end counting with what is left of the share."""
    order = np.argsort(expected, kind="stable")
    _, group = np.unique(expected[order], return_inverse=True)
    ordered = actual[order]

    def statistic(weights: Values) -> float:
        own = weights[order]
        total = np.bincount(group, own)
        sums = np.bincount(group, own * ordered)
        taken = np.clip(share * total.sum() - (np.cumsum(total) - total), 0.0, total)
        # of a group of equals, the part that is taken has the group's mean
        means = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
        return float(taken @ means / taken.sum())

    return statistic


def _tied_means(expected: Values, actual: Values) -> Values:
    _, group = np.unique(expected, return_inverse=True)
    return np.asarray((np.bincount(group, actual) / np.bincount(group))[group], dtype=np.float64)
