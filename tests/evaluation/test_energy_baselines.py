from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toys import toy_crystals, write_parquet

from dao.errors import InputError
from dao.evaluation.energy_baselines import (
    LINEAR,
    MEAN,
    MEDIAN,
    SAME_COMPOSITION,
    ZERO,
    TrainingSet,
    baselines,
    load_training_set,
)

CRYSTALS = toy_crystals()
# AB, A2B2 (the same reduced composition), AB2, A, none of them with the fourth element
KNOWN = np.array([[1, 1, 0, 0], [2, 2, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0]], dtype=np.int32)
LABELS = np.array([0.3, 0.1, 0.5, 0.2])


def test_constants_and_the_lowest_label_of_the_composition() -> None:
    asked = np.array([[3, 3, 0, 0], [2, 4, 0, 0], [0, 0, 1, 0]], dtype=np.int32)
    found, known = baselines(asked, TrainingSet("set", KNOWN, LABELS, 0))
    assert known == 2
    assert found[ZERO].tolist() == [0.0] * 3
    assert found[MEAN] == pytest.approx([0.275] * 3)
    assert found[MEDIAN] == pytest.approx([0.25] * 3)
    assert found[SAME_COMPOSITION] == pytest.approx([0.1, 0.5, 0.25])


def test_a_linear_law_of_the_fractions_is_found() -> None:
    counts = np.random.default_rng(0).integers(1, 6, size=(20_000, 3)).astype(np.int32)
    counts = np.concatenate([counts, np.zeros((20_000, 1), dtype=np.int32)], axis=1)
    law = np.array([0.1, -0.2, 0.7, 5.0])
    training = TrainingSet("set", counts, counts / counts.sum(1, keepdims=True) @ law, 0)
    asked = np.array([[4, 0, 0, 0], [1, 1, 2, 0]], dtype=np.int32)
    # the penalty of 1 is small beside 20,000 crystals
    assert baselines(asked, training)[0][LINEAR] == pytest.approx([0.1, 0.325], abs=2e-3)
    # an element that was never seen has no slope
    unseen = baselines(np.array([[0, 0, 0, 3]], dtype=np.int32), training)[0][LINEAR]
    assert abs(unseen[0] - training.labels.mean()) < 0.5


def test_without_a_training_set_there_is_only_zero() -> None:
    assert list(baselines(KNOWN, None)[0]) == [ZERO]


def test_what_is_evaluated_is_not_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "pool.parquet"
    labels = [None if i % 4 == 0 else 0.01 * i for i in range(len(CRYSTALS))]
    write_parquet(path, CRYSTALS, split=["train"] * 40 + ["val"] * 10, e_above_hull=labels)
    evaluated = {crystal.name for crystal in CRYSTALS[:8]}
    found = load_training_set(path, split=None, label="e_above_hull", evaluated=evaluated)
    assert found.shared == 6
    assert found.labels.tolist() == [round(0.01 * i, 6) for i in range(8, 40) if i % 4]
    assert found.counts.sum(1).tolist() == [CRYSTALS[i].num_atoms for i in range(8, 40) if i % 4]
    assert len(load_training_set(path, split="val", label="e_above_hull", evaluated=()).labels) == 7
    with pytest.raises(InputError, match="no crystal with a label 'e_above_hull' besides the evaluated ones"):
        load_training_set(path, split="val", label="e_above_hull", evaluated={one.name for one in CRYSTALS})
