"""How well energies agree with labels: errors, order, and whether the stable crystals are told from the others.

M crystals; labels and energies are in eV/atom. Every figure comes with its 95 % percentile bootstrap interval over
crystals. A figure that is not defined (a rank correlation of a constant, the AUC of one class) is nan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int

from dao.constants import STABLE_E_ABOVE_HULL
from dao.evaluation.metrics import SIZE_EDGES, Bootstrap
from dao.evaluation.scores import Interval

LABEL_EDGES = (0.0, 0.02, STABLE_E_ABOVE_HULL, 0.2, 0.5)
"""Upper ends, each included, of the bins of the true label; the last bin is open."""

RESAMPLES = 1000

Values = Float64[np.ndarray, " m"]
Statistic = Callable[[Values], float]
"""A figure of M weights: how often each crystal counts."""


@dataclass(frozen=True)
class Agreement:
    """Of M energies with their labels.

    Attributes:
        mae: mean absolute error, eV/atom.
        rmse: root mean square error, eV/atom.
        bias: mean of energy less label, eV/atom.
        spearman: rank correlation, ties at their middle rank.
        r2: 1 - squared errors over squared deviations of the labels from their mean (coefficient of determination).

    """

    mae: Interval
    rmse: Interval
    bias: Interval
    spearman: Interval
    r2: Interval


@dataclass(frozen=True)
class Stability:
    """Telling crystals at most ``STABLE_E_ABOVE_HULL`` above the hull, the stable ones, from the others by energy.

    Attributes:
        precision: share of stable ones among those whose energy says so.
        recall: share of the stable ones whose energy says so.
        f1: harmonic mean of the two.
        auc: share of the pairs of a stable crystal and another in which the stable one's energy is lower, ties half;
            0.5 for a constant.

    """

    precision: Interval
    recall: Interval
    f1: Interval
    auc: Interval


@dataclass(frozen=True)
class Group:
    """Errors of some of the crystals; figures are None where there are no crystals."""

    name: str
    crystals: int
    mae: Interval | None
    bias: Interval | None


def agreement(labels: Values, energies: Values, bootstrap: Bootstrap) -> Agreement:
    """Errors and correlations of M energies; the same bootstrap makes the intervals of several methods comparable."""
    errors = energies - labels
    squares = errors**2

    def rmse(weights: Values) -> float:
        return float(np.sqrt(weights @ squares / weights.sum()))

    def r2(weights: Values) -> float:
        deviations = weights @ (labels - weights @ labels / weights.sum()) ** 2
        return float(1.0 - weights @ squares / deviations) if deviations > 0 else float("nan")

    return Agreement(
        mae=bootstrap.mean(np.abs(errors)),
        rmse=bootstrap.of(rmse),
        bias=bootstrap.mean(errors),
        spearman=bootstrap.of(spearman(labels, energies)),
        r2=bootstrap.of(r2),
    )


def stability(labels: Values, energies: Values, bootstrap: Bootstrap) -> Stability:
    """Precision, recall, F1 and AUC of "stable"."""
    stable, called = labels <= STABLE_E_ABOVE_HULL, energies <= STABLE_E_ABOVE_HULL
    return Stability(
        precision=bootstrap.of(_share(stable, called)),
        recall=bootstrap.of(_share(called, stable)),
        f1=bootstrap.of(_f1(stable, called)),
        auc=bootstrap.of(auc(stable, -energies)),
    )


def by_label(labels: Values, energies: Values, seed: int) -> list[Group]:
    """Errors by bins of the true label; every bin is there, an empty one without figures."""
    bins = np.searchsorted(LABEL_EDGES, labels)
    return groups(label_names(), bins, energies - labels, seed)


def label_names() -> list[str]:
    """Of the bins of the true label."""
    inner = [f"{low:g} to {high:g}" for low, high in pairwise(LABEL_EDGES)]
    return [f"≤ {LABEL_EDGES[0]:g}", *inner, f"> {LABEL_EDGES[-1]:g}"]


def by_atoms(num_atoms: Int[np.ndarray, " m"], labels: Values, energies: Values, seed: int) -> list[Group]:
    """Errors by number of atoms in the cell, sizes that occur only."""
    names = [f"{low}-{high - 1}" for low, high in pairwise(SIZE_EDGES)]
    bins = np.searchsorted(SIZE_EDGES, num_atoms, side="right") - 1
    found = groups([*names, f"{SIZE_EDGES[-1]} and more"], bins, energies - labels, seed)
    return [group for group in found if group.crystals]


def groups(names: Sequence[str], bins: Int[np.ndarray, " m"], errors: Values, seed: int) -> list[Group]:
    """Mean absolute and mean error of each of the named groups; ``bins`` says to which a crystal belongs."""
    found = []
    for place, name in enumerate(names):
        own = errors[bins == place]
        if own.size:
            bootstrap = Bootstrap(own.size, RESAMPLES, seed)
            found.append(Group(name, own.size, bootstrap.mean(np.abs(own)), bootstrap.mean(own)))
        else:
            found.append(Group(name, 0, None, None))
    return found


class Ranks:
    """Middle ranks of M values, for any weights of them."""

    def __init__(self, values: Values) -> None:
        _, self._group = np.unique(values, return_inverse=True)

    def __call__(self, weights: Values) -> Values:
        """(M,) weight of all smaller values and half the weight of the equal ones."""
        weight = np.bincount(self._group, weights)
        return (np.cumsum(weight) - weight / 2)[self._group]


def spearman(first: Values, second: Values) -> Statistic:
    """Spearman's rank correlation; nan where either is constant."""
    rank_first, rank_second = Ranks(first), Ranks(second)

    def statistic(weights: Values) -> float:
        x, y = rank_first(weights), rank_second(weights)
        total = weights.sum()
        # the mean middle rank is half the total weight
        x, y = x - total / 2, y - total / 2
        scale = np.sqrt((weights @ x**2) * (weights @ y**2))
        return float(weights @ (x * y) / scale) if scale > 0 else float("nan")

    return statistic


def auc(positive: Bool[np.ndarray, " m"], scores: Values) -> Statistic:
    """Area under the receiver operating characteristic (Mann-Whitney); nan with one class only."""
    ranks = Ranks(scores)

    def statistic(weights: Values) -> float:
        own = weights * positive
        yes, no = own.sum(), weights.sum() - own.sum()
        if not yes * no > 0:
            return float("nan")
        # of the rank of a positive, the part below other positives sums up to yes^2 / 2
        return float((own @ ranks(weights) - yes**2 / 2) / (yes * no))

    return statistic


def _share(part: Bool[np.ndarray, " m"], whole: Bool[np.ndarray, " m"]) -> Statistic:
    both = (part & whole).astype(np.float64)

    def statistic(weights: Values) -> float:
        total = weights @ whole
        return float(weights @ both / total) if total > 0 else float("nan")

    return statistic


def _f1(stable: Bool[np.ndarray, " m"], called: Bool[np.ndarray, " m"]) -> Statistic:
    both, either = (stable & called).astype(np.float64), stable.astype(np.float64) + called

    def statistic(weights: Values) -> float:
        total = weights @ either
        return float(2 * (weights @ both) / total) if total > 0 else float("nan")

    return statistic
