"""Train the learned ranker on lists of benchmarks/ranker_lists.py, and say by cross-validation what it is worth.

Run: python benchmarks/ranker.py --mp20 LISTS [LISTS ...] --mpts52 LISTS [LISTS ...] --out src/dao/weights/ranker

Crystals of one chemical system are in one of five folds; every figure is of lists whose fold the ranker had not seen.
Each target is a list three times (generator alone, prototypes alone, both), with what networks say and without. What is
learned, for each of these situations, is a linear score whose softmax over a list gives the candidates that match the
true crystal the largest share (a list weighs one), and a logistic model of shares and lists for the confidence (a
candidate weighs one); both with a ridge.

Printed: match rates of the first 1, 5 and 20 candidates by every order, with 95 % bootstrap intervals over targets; how
often candidates of a given confidence are right; by how much the first match falls when a feature is shuffled. Written:
ranker.json and, beside it, figures.md with what was printed.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ranker_lists import Lists, read_lists
from scipy.optimize import minimize

from dao.evaluation.metrics import Bootstrap
from dao.prediction.prototype_table import PrototypeTable
from dao.prediction.ranker import Ranker, Weights, log_odds_of_others
from dao.prediction.ranker_features import OF_ALL, features
from dao.prediction.ranking import COUNT_WEIGHT, Candidate, rank_by_energy
from dao.prediction.sources import resolve_table

Floats = npt.NDArray[np.float64]
Order = Callable[["Problem"], npt.NDArray[np.int64]]

FOLDS = 5
SOURCES = ("generator", "prototypes", "both")
KS = (1, 5, 20)
ENERGIES = (
    *("energy", "energy over lowest", "expected error"),
    *("plausibility below highest", "log share of plausibility", "most plausible"),
)
"""Features that are unknown without the networks that judge."""
RIDGE = 10.0
LIST_RIDGE = 1e-2
ITERATIONS = 15
BINS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)


@dataclass(frozen=True, eq=False)
class Problem:
    """One list that is to be ordered.

    Attributes:
        owner: number of the target within its benchmark.
        benchmark: ``mp20`` or ``mpts52``.
        fold: of its chemical system.
        sources: what its candidates are of.
        raw: (C, F) features, nan where unknown.
        right: (C,) which candidates match.
        candidates: C of them, in turns.

    """

    owner: int
    benchmark: str
    fold: int
    sources: str
    raw: Floats
    right: npt.NDArray[np.bool_]
    candidates: list[Candidate]


def fold_of(elements: Sequence[int]) -> int:
    """Of a chemical system."""
    return int(hashlib.sha256(bytes(elements)).hexdigest(), 16) % FOLDS


def problems_of(lists: Sequence[Lists], benchmark: str, volumes: Floats) -> list[Problem]:
    """Each list of each of the sources."""
    found = []
    for owner, one in enumerate(lists):
        for sources in SOURCES:
            candidates, rms = one.candidates(sources)
            if not candidates:
                continue
            known = features(candidates, volumes)
            raw = np.stack([known[name] for name in known], axis=1)
            problem = Problem(owner, benchmark, fold_of(one.elements), sources, raw, np.isfinite(rms), candidates)
            found.append(problem)
    return found


def fit(problems: Sequence[Problem], names: Sequence[str], *, energies: bool) -> Weights:
    """Slopes by the listwise loss, then the logistic loss of shares and lists; each with a ridge."""
    raw = np.concatenate([one.raw for one in problems])
    if not energies:
        raw[:, [names.index(name) for name in ENERGIES]] = math.nan
    right = np.concatenate([one.right for one in problems]).astype(float)
    first = np.cumsum([0, *(len(one.raw) for one in problems[:-1])])
    known = np.isfinite(raw)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, raw, 0.0).sum(0) / count
    off = np.where(known, raw - mean, 0.0)
    scale = np.sqrt((off**2).sum(0) / count)
    # what never changes, or is never known, says nothing
    usable = scale > 1e-6
    scale = np.where(usable, scale, 1.0)
    table = off / scale * usable
    slope = listwise(table, right, first)
    of_all = np.isin(names, OF_ALL)
    own = np.log(np.maximum(shares(table @ slope, first), 1e-30))
    order = np.column_stack([own, log_odds_of_others(own)])
    logits = np.column_stack([order, table[:, of_all], np.ones(len(table))])
    fitted = logistic(logits, right)
    for column in (0, 1):
        if fitted[column] < 0:  # it would change the order
            logits[:, column] = 0.0
            fitted = logistic(logits, right)
    every = np.zeros(len(names))
    every[of_all] = fitted[2:-1]
    sharpness, lead, bias = map(float, (*fitted[:2], fitted[-1]))
    return Weights(mean, slope / scale * usable, sharpness, lead, every / scale * usable, bias)


def shares(scores: Floats, first: npt.NDArray[np.int64], weights: Floats | None = None) -> Floats:
    """Softmax of the scores within each list; with 0 and 1 as weights, of those of weight 1 alone."""
    lengths = np.diff([*first, len(scores)])
    weighed = np.ones(len(scores)) if weights is None else weights
    own = np.where(weighed > 0, scores, -np.inf)
    top = np.repeat(np.maximum.reduceat(own, first), lengths)
    powers = np.exp(own - np.where(np.isfinite(top), top, 0.0))
    return np.asarray(powers / np.repeat(np.maximum(np.add.reduceat(powers, first), 1e-300), lengths))


def listwise(table: Floats, right: Floats, first: npt.NDArray[np.int64]) -> Floats:
    """(F,) slopes that minimise -log of the right ones' share, over lists that hold right and wrong ones."""
    lengths = np.diff([*first, len(table)])
    found = np.add.reduceat(right, first)
    mixed = (found > 0) & (found < lengths)
    counts = np.repeat(mixed.astype(float), lengths) / mixed.sum()

    def loss(slope: Floats) -> tuple[float, Floats]:
        every, good = shares(table @ slope, first), shares(table @ slope, first, right)
        share = np.add.reduceat(every * right, first)
        value = -np.log(np.maximum(share[mixed], 1e-300)).sum() / mixed.sum()
        gradient = table.T @ (counts * (every - good))
        return value + LIST_RIDGE * slope @ slope, gradient + 2 * LIST_RIDGE * slope

    return np.asarray(minimize(loss, np.zeros(table.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x)


def logistic(table: Floats, right: Floats) -> Floats:
    """(F,) slopes of the logistic loss by Newton's method; the last column, which is 1, has no ridge."""
    ridge = np.diag([*[RIDGE] * (table.shape[1] - 1), 0.0])
    weights = np.zeros(table.shape[1])
    for _ in range(ITERATIONS):
        chance = 1.0 / (1.0 + np.exp(-np.clip(table @ weights, -30.0, 30.0)))
        curvature = (table * (chance * (1.0 - chance))[:, None]).T @ table + ridge
        weights += np.linalg.solve(curvature, table.T @ (right - chance) - ridge @ weights)
    return weights


def fit_all(problems: Sequence[Problem], names: Sequence[str]) -> dict[str, Weights]:
    """Of every situation."""
    return {
        f"{sources}{known}": fit([one for one in problems if one.sources == sources], names, energies=bool(known))
        for sources in SOURCES
        for known in ("", " with energies")
    }


def by_recurrence(one: Problem) -> npt.NDArray[np.int64]:
    """The most recurrent first, else in turns."""
    return np.argsort([-each.count for each in one.candidates], kind="stable")


def by_energy(weight: float) -> Order:
    """As ``rank_by_energy`` does."""

    def order(one: Problem) -> npt.NDArray[np.int64]:
        numbered = [replace(each, rank=i) for i, each in enumerate(one.candidates)]
        place = {id(each.crystal): i for i, each in enumerate(numbered)}
        return np.array([place[id(each.crystal)] for each in rank_by_energy(numbered, weight)])

    return order


def in_turns(one: Problem) -> npt.NDArray[np.int64]:
    """As :func:`~dao.prediction.proposals.merged` leaves them."""
    return np.arange(len(one.candidates))


def learned(folds: Sequence[dict[str, Weights]], known: str = " with energies") -> Order:
    """By the weights that have not seen the list's fold."""

    def order(one: Problem) -> npt.NDArray[np.int64]:
        return np.argsort(-folds[one.fold][one.sources + known].logits(one.raw), kind="stable")

    return order


def hits(problems: Sequence[Problem], targets: int, order: Order) -> Floats:
    """(M, 3) whether one of the first 1, 5 and 20 candidates matches; targets without a list have none."""
    found = np.zeros((targets, len(KS)))
    for one in problems:
        ordered = one.right[order(one)]
        found[one.owner] = [ordered[:k].any() for k in KS]
    return found


def table_of(problems: Sequence[Problem], targets: int, folds: Sequence[dict[str, Weights]]) -> list[str]:
    """Match rates in per cent, by sources and order, with 95 % intervals."""
    bootstrap = Bootstrap(targets, 1000, 0)
    orders: dict[str, Order] = {
        "recurrence": by_recurrence,
        "energy": by_energy(0.0),
        f"E - {COUNT_WEIGHT:g} log(count)": by_energy(COUNT_WEIGHT),
        "in turns (prototypes: most similar first)": in_turns,
        "learned, without energies": learned(folds, ""),
        "learned": learned(folds),
    }
    lines = ["| sources | order | first | within 5 | within 20 |", "|---|---|---|---|---|"]
    for sources in SOURCES:
        own = [one for one in problems if one.sources == sources]
        for name, order in orders.items():
            if sources == "prototypes" and name in ("recurrence", f"E - {COUNT_WEIGHT:g} log(count)"):
                continue
            found = hits(own, targets, order)
            cells = []
            for column in found.T:
                share = bootstrap.mean(column)
                cells.append(f"{100 * share.value:.1f} ({100 * share.low:.1f}-{100 * share.high:.1f})")
            lines.append(f"| {sources} | {name} | {' | '.join(cells)} |")
        some = sum(one.right.any() for one in own) / targets
        lines.append(f"| {sources} | a judge who knows | {100 * some:.1f} | | |")
    return lines


def reliability(problems: Sequence[Problem], folds: Sequence[dict[str, Weights]]) -> list[str]:
    """How often candidates of a given held-out confidence are right: all of them, and the first of each list."""
    lines = [
        "| confidence | candidates | mean | right | first candidates | mean | right |",
        "|---|---|---|---|---|---|---|",
    ]
    said, right, first = [], [], []
    for one in problems:
        scores = folds[one.fold][f"{one.sources} with energies"].logits(one.raw)
        said.append(1.0 / (1.0 + np.exp(-scores)))
        right.append(one.right)
        first.append(np.arange(len(scores)) == scores.argmax())
    chance, hit, leads = np.concatenate(said), np.concatenate(right), np.concatenate(first)
    for low, high in pairwise(BINS):
        within = (chance >= low) & (chance < high)
        cells = []
        for chosen in (within, within & leads):
            number = int(chosen.sum())
            means = (chance[chosen].mean(), hit[chosen].mean()) if number else (math.nan, math.nan)
            cells += [f"{number}", *(f"{100 * value:.1f} %" if number else "" for value in means)]
        lines.append(f"| {100 * low:.0f}-{100 * high:.0f} % | {' | '.join(cells)} |")
    return lines


def importance(
    problems: Sequence[Problem], targets: int, folds: Sequence[dict[str, Weights]], names: Sequence[str]
) -> list[str]:
    """Standardised slopes and what shuffling a feature over all candidates costs, in points of the first match."""
    own = [one for one in problems if one.sources == "both"]
    raw = np.concatenate([one.raw for one in own])
    before = hits(own, targets, learned(folds))[:, 0].mean()
    random, losses = np.random.default_rng(0), []
    ends = np.cumsum([len(one.raw) for one in own])[:-1]
    for column in range(len(names)):
        mixed = raw.copy()
        mixed[:, column] = random.permutation(mixed[:, column])
        shuffled = [replace(one, raw=part) for one, part in zip(own, np.split(mixed, ends), strict=True)]
        losses.append(100 * (before - hits(shuffled, targets, learned(folds))[:, 0].mean()))
    slopes = np.mean([fold["both with energies"].slope for fold in folds], axis=0) * np.nanstd(raw, axis=0)
    lines = ["| feature | slope per standard deviation | shuffled: points lost at the first |", "|---|---|---|"]
    chosen = np.argsort(-np.array(losses), kind="stable")[:12]
    return lines + [f"| {names[i]} | {slopes[i]:+.2f} | {losses[i]:.1f} |" for i in chosen.tolist()]


def main() -> None:
    """Print the figures and write the ranker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mp20", type=Path, nargs="+", required=True)
    parser.add_argument("--mpts52", type=Path, nargs="*", default=[])
    parser.add_argument("--volumes", default="mp20", help="table of prototypes whose volumes per element are used")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    volumes = PrototypeTable.load(resolve_table(options.volumes)).atomic_volumes
    given = {"mp20": read_lists(options.mp20), "mpts52": read_lists(options.mpts52)}
    problems = [one for name, lists in given.items() for one in problems_of(lists, name, volumes)]
    names = tuple(features(problems[0].candidates, volumes))
    folds = [fit_all([one for one in problems if one.fold != fold], names) for fold in range(FOLDS)]
    lines = []
    for benchmark, lists in given.items():
        for samples, proposals in ((20, 20), (10, 10)) if lists else ():
            few = [one.within(samples, proposals) for one in lists]
            own = problems_of(few, benchmark, volumes)
            lines += [f"\n{benchmark}, {len(lists)} validation crystals, {samples} samples and {proposals} proposals\n"]
            lines += table_of(own, len(lists), folds)
            if samples == 20:
                both = [one for one in own if one.sources == "both"]
                lines += [f"\n{benchmark}: confidence, both sources\n", *reliability(both, folds)]
                lines += [f"\n{benchmark}: features, both sources\n", *importance(own, len(lists), folds, names)]
    print("\n".join(lines))
    record: dict[str, Any] = {
        "targets": {name: len(lists) for name, lists in given.items()},
        "split": "val",
        "folds": FOLDS,
        "ridge": RIDGE,
    }
    Ranker(names, fit_all(problems, names), volumes, record).save(options.out / "ranker.json")
    (options.out / "figures.md").write_text("\n".join(lines).strip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
