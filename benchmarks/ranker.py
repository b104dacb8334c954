"""Train the learned ranker on lists of benchmarks/ranker_lists.py, and say by cross-validation what it is worth.

Run: python benchmarks/ranker.py --mp20 LISTS [LISTS ...] [--mpts52 LISTS ...] --out src/dao/weights/ranker/ranker.json

Crystals of one chemical system are in one of five folds; every figure is of lists whose fold the ranker had not seen.
Each target is a list three times (generator alone, prototypes alone, both) with energies and without, so that one
ranker serves whatever is there. What is learned is the probability of each candidate to match the true crystal, and
which of a list does.

Printed: match rates of the first 1, 5 and 20 candidates by every order, with 95 % bootstrap intervals over targets; how
often candidates of a given confidence are right; by how much the first match falls when a feature is shuffled.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ranker_lists import Lists, read_lists
from torch import Tensor
from torch.nn import functional

from dao.evaluation.metrics import Bootstrap
from dao.prediction.prototype_table import PrototypeTable
from dao.prediction.ranker import Ranker, features, score
from dao.prediction.ranking import COUNT_WEIGHT, Candidate, rank_by_energy
from dao.prediction.sources import resolve_table

Floats = npt.NDArray[np.float64]

FOLDS = 5
SOURCES = ("generator", "prototypes", "both")
KS = (1, 5, 20)
ENERGIES = ("energy", "energy over lowest", "expected error", "no energy")
"""Features that are unknown without a predictor."""

HIDDEN = 16
STEPS = 600
RATE = 0.02
DECAY = 1e-3
LISTWISE = 1.0
"""Weight of the listwise loss beside that of each candidate's own probability."""
SEEDS = 3


@dataclass(frozen=True, eq=False)
class Problem:
    """One list that is to be ordered.

    Attributes:
        owner: number of the target.
        fold: of its chemical system.
        sources: what its candidates are of.
        energies: whether they are known.
        raw: (C, F) features, nan where unknown.
        rms: (C,) RMS distance to the true crystal, nan: no match.
        candidates: C of them, in turns.

    """

    owner: int
    fold: int
    sources: str
    energies: bool
    raw: Floats
    rms: Floats
    candidates: list[Candidate]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """(C,) which candidates match."""
        return np.isfinite(self.rms)


def fold_of(elements: Sequence[int]) -> int:
    """Of a chemical system."""
    return int(hashlib.sha256(bytes(elements)).hexdigest(), 16) % FOLDS


def problems_of(
    lists: Sequence[Lists], first: int, volumes: Floats, kinds: Sequence[str] = SOURCES
) -> tuple[list[Problem], tuple[str, ...]]:
    """Every list of every kind, with energies and without; and the features' names."""
    found, names = [], ()
    for owner, one in enumerate(lists, start=first):
        for sources in kinds:
            candidates, rms = one.candidates(sources)
            if sources == "prototypes":
                candidates = [replace(each, samples=0) for each in candidates]
            elif sources == "generator":
                candidates = [replace(each, space_group_share=None) for each in candidates]
            if not candidates:
                continue
            known = features(candidates, volumes)
            names = tuple(known)
            raw = np.stack([known[name] for name in names], axis=1)
            bare = raw.copy()
            bare[:, [names.index(name) for name in ENERGIES]] = math.nan
            bare[:, names.index("energies")] = 0.0
            fold = fold_of(one.elements)
            found.append(Problem(owner, fold, sources, True, raw, rms, candidates))
            found.append(Problem(owner, fold, sources, False, bare, rms, candidates))
    return found, names


@dataclass(frozen=True, eq=False)
class Fitted:
    """Parameters of a ranker, in its standardised features."""

    mean: Floats
    scale: Floats
    linear: Floats
    hidden: Floats
    output: Floats

    def scores(self, raw: Floats) -> Floats:
        """(C,) of a list."""
        return score(np.nan_to_num((raw - self.mean) / self.scale, nan=0.0), self.linear, self.hidden, self.output)


def fit(
    problems: Sequence[Problem],
    hidden: int = HIDDEN,
    listwise: float = LISTWISE,
    decay: float = DECAY,
    steps: int = STEPS,
    seeds: int = SEEDS,
) -> Fitted:
    """Several networks of different beginnings, side by side in one."""
    every = np.concatenate([one.raw for one in problems])
    mean, scale = np.nanmean(every, axis=0), np.nanstd(every, axis=0)
    scale = np.where(scale > 1e-6, scale, 1.0)
    length = max(len(one.rms) for one in problems)
    table = np.zeros((len(problems), length, every.shape[1]), dtype=np.float32)
    mask = np.zeros((len(problems), length), dtype=bool)
    right = np.zeros((len(problems), length), dtype=bool)
    for row, one in enumerate(problems):
        count = len(one.rms)
        table[row, :count] = np.nan_to_num((one.raw - mean) / scale, nan=0.0)
        mask[row, :count] = True
        right[row, :count] = one.right
    made = [
        _fit_one(
            torch.from_numpy(table),
            torch.from_numpy(mask),
            torch.from_numpy(right),
            seed,
            hidden,
            listwise,
            decay,
            steps,
        )
        for seed in range(seeds)
    ]
    linear = np.mean([one[0] for one in made], axis=0)
    units = np.concatenate([one[1] for one in made])
    output = np.concatenate([*(one[2][:-1] / seeds for one in made), [np.mean([one[2][-1] for one in made])]])
    return Fitted(mean, scale, linear, units, output)


def _fit_one(
    table: Tensor, mask: Tensor, right: Tensor, seed: int, hidden: int, listwise: float, decay: float, steps: int
) -> tuple[Floats, Floats, Floats]:
    generator = torch.Generator().manual_seed(seed)
    count = table.shape[-1]
    linear = torch.zeros(count, requires_grad=True)
    units = (torch.randn(hidden, count + 1, generator=generator) / math.sqrt(count + 1)).requires_grad_()
    output = torch.zeros(hidden + 1, requires_grad=True)
    none = torch.zeros((), requires_grad=True)
    parameters = [linear, units, output, none]
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    target = right.float()
    some = right.any(1)
    for _ in range(steps):
        logits = table @ linear + output[-1]
        if hidden:
            logits = logits + torch.tanh(table @ units[:, :-1].T + units[:, -1]) @ output[:-1]
        own = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")[mask].sum() / len(table)
        bare = logits.masked_fill(~mask, -torch.inf)
        wanted = bare.masked_fill(~right, -torch.inf)[some]
        chosen = (torch.logsumexp(bare[some], 1) - torch.logsumexp(wanted, 1)).mean()
        loss = own + listwise * chosen + decay * sum(p.square().sum() for p in (linear, units, output[:-1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return tuple(one.detach().double().numpy() for one in (linear, units, output))


Order = Callable[[Problem], npt.NDArray[np.int64]]


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


def learned(fitted: Sequence[Fitted]) -> Order:
    """By the ranker that has not seen the list's fold."""

    def order(one: Problem) -> npt.NDArray[np.int64]:
        return np.argsort(-fitted[one.fold].scores(one.raw), kind="stable")

    return order


def hits(problems: Sequence[Problem], targets: int, order: Order) -> dict[int, Floats]:
    """k -> (M,) 1 where one of the first k candidates matches; targets without a list have none."""
    found = {k: np.zeros(targets) for k in KS}
    for one in problems:
        ordered = one.right[order(one)]
        for k in KS:
            found[k][one.owner] = float(ordered[:k].any())
    return found


def cross_validated(problems: Sequence[Problem], **how: Any) -> list[Fitted]:
    """A ranker for each fold, fitted to the others."""
    return [fit([one for one in problems if one.fold != fold], **how) for fold in range(FOLDS)]
