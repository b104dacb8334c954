"""What can be said of an energy without looking at the structure, beside which a predictor's errors stand.

M crystals of the training set, all labelled, E columns of elements (column = atomic number); energies in eV/atom.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int

from dao.data.store import PackedCrystals
from dao.data.training_set import load_packed
from dao.errors import InputError

RIDGE = 1.0
"""Penalty on the squared coefficients of element fractions: enough for elements that few crystals have."""

ZERO, MEAN, MEDIAN = "0", "training mean", "training median"
LINEAR, SAME_COMPOSITION = "linear in element fractions", "same composition in training"

Counts = Int[np.ndarray, "m e"]


@dataclass(frozen=True)
class TrainingSet:
    """Compositions and labels of what baselines are fitted to.

    Attributes:
        name: of the file, for reports.
        counts: (M, E) atoms of each element in the cell.
        labels: (M,) eV/atom.
        shared: how many crystals were left out because their id is among the evaluated ones.

    """

    name: str
    counts: Counts
    labels: Float64[np.ndarray, " m"]
    shared: int


def load_training_set(path: Path, *, split: str | None, label: str, evaluated: Collection[str]) -> TrainingSet:
    """The labelled crystals of a training set, without those that are evaluated.

    Args:
        path: whatever :func:`dao.data.training_set.load_packed` reads.
        split: of it; None: "train", or everything where it has no splits.
        label: its column.
        evaluated: ids of the evaluated crystals, whose labels a baseline must not know.

    Raises:
        InputError: unreadable, no such split or label, or nothing left.

    """
    packed = load_packed(path, split=split or "train", split_optional=split is None, labels=(label,))
    labels = rounded_labels(packed, label)
    shared = np.array([name in evaluated for name in packed.ids])
    kept = np.isfinite(labels) & ~shared
    if not kept.any():
        raise InputError(f"--train {path}: no crystal with a label {label!r} besides the evaluated ones")
    counts = element_counts(packed)
    return TrainingSet(path.name, counts[kept], labels[kept], int((np.isfinite(labels) & shared).sum()))


def rounded_labels(packed: PackedCrystals, label: str) -> Float64[np.ndarray, " m"]:
    """(M,) labels, eV/atom; a microelectronvolt is finer than any, and undoes what float32 adds to 0.2."""
    return np.round(packed.labels[label].double().cpu().numpy(), 6)


def element_counts(packed: PackedCrystals) -> Counts:
    """(M, E) atoms of each element in each cell."""
    return packed.element_counts().to(torch.int32).cpu().numpy()


def baselines(counts: Counts, training: TrainingSet | None) -> tuple[dict[str, Float64[np.ndarray, " n"]], int]:
    """Energies of N crystals by each baseline, and for how many the training set has the composition.

    Args:
        counts: (N, E) their atoms of each element.
        training: None leaves only the baseline 0.

    """
    zero = {ZERO: np.zeros(len(counts))}
    if training is None:
        return zero, 0
    known = lowest_labels(training)
    median = float(np.median(training.labels))
    lowest = [known.get(key) for key in reduced_keys(counts)]
    constants = {MEAN: float(training.labels.mean()), MEDIAN: median}
    return {
        **zero,
        **{name: np.full(len(counts), value) for name, value in constants.items()},
        LINEAR: linear(training, counts),
        SAME_COMPOSITION: np.array([median if one is None else one for one in lowest]),
    }, sum(one is not None for one in lowest)


def linear(training: TrainingSet, counts: Counts) -> Float64[np.ndarray, " n"]:
    """Ridge regression on element fractions with a free constant, as fitted to the training set."""
    known = _fractions(training.counts)
    middle, mean = known.mean(0), training.labels.mean()
    centred = known - middle
    normal = centred.T @ centred + RIDGE * np.eye(centred.shape[1])
    slopes = np.linalg.solve(normal, centred.T @ (training.labels - mean))
    return np.asarray(mean + (_fractions(counts) - middle) @ slopes, dtype=np.float64)


def lowest_labels(training: TrainingSet) -> dict[bytes, float]:
    """The least label of each reduced composition, by :func:`reduced_keys`."""
    lowest: dict[bytes, float] = {}
    for key, label in zip(reduced_keys(training.counts), training.labels.tolist(), strict=True):
        lowest[key] = min(label, lowest.get(key, label))
    return lowest


def reduced_keys(counts: Counts) -> list[bytes]:
    """One key a crystal, the same for the same reduced composition."""
    return [row.tobytes() for row in counts // np.gcd.reduce(counts, axis=1, keepdims=True)]


def _fractions(counts: Counts) -> Float64[np.ndarray, "m e"]:
    return np.asarray(counts / counts.sum(1, keepdims=True), dtype=np.float64)
