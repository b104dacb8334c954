"""Match rates, RMSE, cRMSE and METRe of a crystal structure prediction run, with bootstrap intervals.

Nothing is matched here: :class:`dao.evaluation.scores.Scores` holds what the matcher found; the rest is counting.
M targets (test crystals), K samples each. RMS distances are pymatgen's, dimensionless, in units of (V/N)^(1/3);
nan means no match. Rates lie in [0, 1].

Conventions (published code differs, so each metric says which it follows):

- *unfiltered* match rate within k: share of targets that any of their first k samples matches (benchmark tolerances).
- *filtered*: the target and the sample must both be valid (SMACT composition and 0.5 A); an invalid target stays in the
  denominator. DiffCSP's 1-shot code counts so; its 20-shot code looks at the sample only, which we do not copy.
- *strict*: unfiltered, at pymatgen's default tolerances (stol 0.3, ltol 0.2, angle_tol 5).
- *RMSE*: mean over matched targets of the smallest RMS distance among the first k samples (DiffCSP). It says nothing
  about misses, so it never stands alone.
- *cRMSE*: the same over all targets, a miss counting as stol = 0.5 (Martirosyan et al. 2025, arXiv 2509.12178).
- *METRe* ("match everyone to reference", same paper): a target is found if any of the first k samples of any target of
  its reduced formula matches it, so polymorphs that swap places are no misses.

Best of k picks by the ground truth: for k > 1 these are coverage. :func:`ranked_row` uses no truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64, Int

from dao.constants import MATCHER_STOL
from dao.errors import InputError
from dao.evaluation.scores import EVERY, Interval, Row, Scores

SIZE_EDGES = (1, 5, 9, 13, 17, 21, 31, 53)
"""First number of atoms of each size group; the last group is open."""

UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))
"""What was not measured, or is not defined (an RMSE without a match)."""


def rows(
    scores: Scores,
    ks: Sequence[int] = (1, 5, 20),
    subsets: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Row]:
    """Metrics of each subset within each k.

    The targets of a subset are resampled once for all its metrics and ks, so that these vary together. An empty subset
    gets no row, nor does a k above the number of samples.

    Args:
        scores: M targets, K samples each.
        ks: samples a target, each >= 1.
        subsets: which, in order; None means "all", then each of ``scores.subsets``.
        resamples: bootstrap resamples of the targets.
        seed: of the bootstrap.

    Raises:
        InputError: a k below 1 or a subset that is not there.

    """
    table = []
    for subset in [EVERY, *scores.subsets] if subsets is None else subsets:
        members = scores.members(subset)
        if members.any():
            bootstrap = Bootstrap(int(members.sum()), resamples, seed)
            table += [_row(scores, members, subset, k, bootstrap) for k in ks if k <= scores.samples]
    return table


def ranked_row(scores: Scores, subset: str = EVERY, resamples: int = 1000, seed: int = 0) -> Row | None:
    """Metrics of ranked top-1: one candidate a target, the one our own ranking puts first; no truth is used.

    Filtered, strict and METRe figures are nan or None: of the ranked candidate only its benchmark RMS distance is kept.

    Returns:
        A row with k = 1; None if nothing was ranked or the subset is empty.

    Raises:
        InputError: no such subset.

    """
    members = scores.members(subset)
    if scores.ranked is None or not members.any():
        return None
    found = scores.ranked[members]
    bootstrap = Bootstrap(found.size, resamples, seed)
    return Row(
        subset=subset,
        k=1,
        crystals=found.size,
        unfiltered=bootstrap.rate(found),
        filtered=UNKNOWN,
        strict=UNKNOWN,
        rmse=bootstrap.rmse(found),
        rmse_filtered=UNKNOWN,
        crmse=bootstrap.crmse(found),
    )


def by_size(
    scores: Scores, k: int, edges: Sequence[int] = SIZE_EDGES, subset: str = EVERY, resamples: int = 1000, seed: int = 0
) -> list[tuple[str, Row]]:
    """A row for each group of cell sizes that has targets, labelled "1-4", "5-8", ... and "≥ 53".

    Args:
        scores: M targets, K samples each.
        k: samples a target.
        edges: first number of atoms of each group, rising; the last group is open.
        subset: which targets.
        resamples: bootstrap resamples of the targets.
        seed: of the bootstrap.

    Raises:
        InputError: no such subset, k outside 1 to K, or a target smaller than the first group.

    """
    members = scores.members(subset)
    if np.any(scores.num_atoms[members] < edges[0]):
        raise InputError(f"scores: a target has fewer than {edges[0]} atoms, the first size group")
    groups = []
    for first, after in zip(edges, [*edges[1:], None], strict=True):
        inside = scores.num_atoms >= first
        label = f"≥ {first}"
        if after is not None:
            inside &= scores.num_atoms < after
            label = f"{first}-{after - 1}" if after - 1 > first else str(first)
        groups.append((label, inside & members))
    return _grouped(scores, k, groups, resamples, seed)


def by_elements(
    scores: Scores, k: int, subset: str = EVERY, resamples: int = 1000, seed: int = 0
) -> list[tuple[str, Row]]:
    """A row for each number of different elements that has targets, labelled "1", "2", ...; see :func:`by_size`."""
    members = scores.members(subset)
    groups = [(str(n), (scores.num_elements == n) & members) for n in np.unique(scores.num_elements).tolist()]
    return _grouped(scores, k, groups, resamples, seed)


def curve(
    scores: Scores, subset: str = EVERY, *, filtered: bool = False
) -> tuple[Int[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """(K,) numbers of samples 1 to K, and the (K,) match rates within them; nan for an empty subset.

    Raises:
        InputError: no such subset.

    """
    members = scores.members(subset)
    found = (~np.isnan(scores.allowed() if filtered else scores.rms))[members]
    ks = np.arange(1, scores.samples + 1)
    if not members.any():
        return ks, np.full(ks.shape, np.nan)
    return ks, np.logical_or.accumulate(found, axis=1).mean(axis=0)


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and its sample standard deviation (n - 1; nan for a single seed)."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class SeedRow:
    """First-try metrics over several seeds of the same targets; the spread is that between seeds, not between targets.

    Attributes:
        subset: its name.
        seeds: how many.
        crystals: targets in the subset.
        unfiltered: match rate in [0, 1].
        filtered: match rate in [0, 1].
        rmse: over matched targets, unfiltered.

    """

    subset: str
    seeds: int
    crystals: int
    unfiltered: Spread
    filtered: Spread
    rmse: Spread


def over_seeds(runs: Sequence[Scores], subset: str = EVERY) -> SeedRow:
    """First-try metrics of runs that differ in their seed only, as mean and standard deviation.

    Raises:
        InputError: no runs, runs of different targets, no such subset or an empty one.

    """
    if not runs:
        raise InputError("scores: no runs to average over seeds")
    for number, run in enumerate(runs):
        if run.ids != runs[0].ids or not np.array_equal(run.members(subset), runs[0].members(subset)):
            raise InputError(f"scores: run {number} has other targets than run 0")
    members = runs[0].members(subset)
    if not members.any():
        raise InputError(f"scores: subset {subset!r} is empty")
    first = [run.best(1)[members] for run in runs]
    allowed = [run.best(1, filtered=True)[members] for run in runs]
    return SeedRow(
        subset=subset,
        seeds=len(runs),
        crystals=int(members.sum()),
        unfiltered=_spread([float((~np.isnan(found)).mean()) for found in first]),
        filtered=_spread([float((~np.isnan(found)).mean()) for found in allowed]),
        rmse=_spread([_mean(found[~np.isnan(found)]) for found in first]),
    )


class Bootstrap:
    """Figures of M targets and their 95 % percentile intervals, all from the same R resamples of the targets.

    Args:
        targets: M >= 1.
        resamples: R >= 1; R x M counts are held in memory (72 MB for 9,000 targets and 1,000 resamples).
        seed: of the resamples.

    """

    def __init__(self, targets: int, resamples: int, seed: int) -> None:
        drawn = np.random.default_rng(seed).integers(targets, size=(resamples, targets))
        drawn += targets * np.arange(resamples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=resamples * targets)
        # how often each resample holds each target: sums over resamples are then one matrix product
        self._counts = counts.reshape(resamples, targets).astype(np.float64)

    def mean(self, values: npt.NDArray[np.float64]) -> Interval:
        """Mean of M values, none of them nan."""
        return self._ratio(values, np.ones(values.shape))

    def _ratio(self, above: npt.NDArray[np.float64], below: npt.NDArray[np.float64]) -> Interval:
        if not below.any():
            return UNKNOWN
        total = self._counts @ below
        # a resample without a single match has no RMSE
        kept = total > 0
        value = float(above.sum() / below.sum())
        if not kept.any():  # few resamples, and one match
            return Interval(value, math.nan, math.nan)
        low, high = np.percentile((self._counts @ above)[kept] / total[kept], [2.5, 97.5]).tolist()
        return Interval(value, low, high)

    def of(self, statistic: Callable[[Float64[np.ndarray, " m"]], float]) -> Interval:
        """Any figure of M weights, how often each target is there; resamples in which it is nan are left out."""
        value = statistic(np.ones(self._counts.shape[1]))
        drawn = np.array([statistic(weights) for weights in self._counts])
        drawn = drawn[~np.isnan(drawn)]
        if math.isnan(value) or not drawn.size:
            return UNKNOWN
        low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
        return Interval(value, low, high)

    def rate(self, found: npt.NDArray[np.float64]) -> Interval:
        """Share of targets with a match (not nan)."""
        return self.mean((~np.isnan(found)).astype(np.float64))

    def rmse(self, found: npt.NDArray[np.float64]) -> Interval:
        """Mean over matched targets."""
        return self._ratio(np.nan_to_num(found), (~np.isnan(found)).astype(np.float64))

    def crmse(self, found: npt.NDArray[np.float64]) -> Interval:
        """Mean over all targets, a miss counting as stol."""
        return self.mean(np.nan_to_num(found, nan=MATCHER_STOL))


def _row(scores: Scores, members: npt.NDArray[np.bool_], subset: str, k: int, bootstrap: Bootstrap) -> Row:
    found = scores.best(k)[members]
    allowed = scores.best(k, filtered=True)[members]
    everyone = scores.everyone[k][members] if k in scores.everyone else None
    return Row(
        subset=subset,
        k=k,
        crystals=found.size,
        unfiltered=bootstrap.rate(found),
        filtered=bootstrap.rate(allowed),
        strict=bootstrap.rate(scores.best(k, strict=True)[members]),
        rmse=bootstrap.rmse(found),
        rmse_filtered=bootstrap.rmse(allowed),
        crmse=bootstrap.crmse(found),
        metre=None if everyone is None else bootstrap.rate(everyone),
        metre_crmse=None if everyone is None else bootstrap.crmse(everyone),
    )


def _grouped(
    scores: Scores, k: int, groups: Sequence[tuple[str, npt.NDArray[np.bool_]]], resamples: int, seed: int
) -> list[tuple[str, Row]]:
    return [
        (label, _row(scores, members, label, k, Bootstrap(int(members.sum()), resamples, seed)))
        for label, members in groups
        if members.any()
    ]


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"))
