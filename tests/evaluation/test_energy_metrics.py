"""Each figure against a value worked out by hand, and weights against crystals that are really there so often."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from dao.evaluation.energy_metrics import (
    agreement,
    auc,
    by_atoms,
    by_label,
    groups,
    spearman,
    stability,
)
from dao.evaluation.metrics import UNKNOWN, Bootstrap

WEIGHTS = np.array([2.0, 0.0, 1.0, 3.0, 1.0, 2.0])
TIMES = WEIGHTS.astype(int)
FIRST = np.array([0.0, 0.0, 1.0, 2.0, 2.0, 5.0])
SECOND = np.array([1.0, 9.0, 1.0, 0.5, 3.0, 3.0])


def test_errors_of_a_planted_set() -> None:
    labels = np.array([0.0, 1.0, 2.0, 3.0])
    found = agreement(labels, labels + np.array([0.1, -0.1, 0.1, 0.3]), Bootstrap(4, 200, 0))
    assert found.mae.value == pytest.approx(0.15)
    assert found.bias.value == pytest.approx(0.1)
    assert found.rmse.value == pytest.approx(0.03**0.5)
    assert found.r2.value == pytest.approx(1 - 0.12 / 5.0)
    assert found.spearman.value == pytest.approx(1.0)
    for one in (found.mae, found.bias, found.rmse, found.r2):
        assert one.low < one.value < one.high


def test_a_constant_has_errors_but_no_order() -> None:
    labels = np.array([0.0, 0.1, 0.2, 0.3])
    found = agreement(labels, np.full(4, 0.15), Bootstrap(4, 200, 0))
    assert found.mae.value == pytest.approx(0.1)
    assert found.r2.value == pytest.approx(0.0)
    assert np.isnan(found.spearman.value)
    # labels that are all the same explain nothing
    assert np.isnan(agreement(np.full(4, 0.1), labels, Bootstrap(4, 200, 0)).r2.value)


def test_rank_correlation_is_scipys_with_ties_and_weights() -> None:
    statistic = spearman(FIRST, SECOND)
    assert statistic(np.ones(6)) == pytest.approx(spearmanr(FIRST, SECOND).statistic)
    repeated = spearmanr(np.repeat(FIRST, TIMES), np.repeat(SECOND, TIMES)).statistic
    assert statistic(WEIGHTS) == pytest.approx(repeated)


def test_auc_counts_pairs_and_ties_half() -> None:
    positive = np.array([True, True, True, False, False])
    scores = np.array([3.0, 2.0, 1.0, 2.0, 0.0])
    assert auc(positive, scores)(np.ones(5)) == pytest.approx(4.5 / 6)
    # the first one twice: two more pairs won
    assert auc(positive, scores)(np.array([2.0, 1.0, 1.0, 1.0, 1.0])) == pytest.approx(6.5 / 8)
    assert auc(positive, np.zeros(5))(np.ones(5)) == pytest.approx(0.5)
    assert np.isnan(auc(positive, scores)(np.array([1.0, 1.0, 1.0, 0.0, 0.0])))


def test_stable_or_not() -> None:
    labels, energies = np.array([0.0, 0.08, 0.081, 0.5]), np.array([0.0, 0.2, 0.08, 0.6])
    found = stability(labels, energies, Bootstrap(4, 200, 0))
    # called stable: the first and the third; stable: the first and the second
    assert [one.value for one in (found.precision, found.recall, found.f1)] == [0.5, 0.5, 0.5]
    assert found.auc.value == pytest.approx(0.75)
    assert found.auc.low < 0.75 < found.auc.high


def test_one_class_only() -> None:
    bootstrap = Bootstrap(3, 100, 0)
    every = stability(np.array([0.0, 0.01, 0.02]), np.array([0.0, 0.1, 0.0]), bootstrap)
    assert every.recall.value == pytest.approx(2 / 3)
    assert every.precision.value == 1.0
    assert every.auc == UNKNOWN
    none = stability(np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.1, 0.9]), bootstrap)
    assert none == type(none)(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)


def test_bins_of_the_label_hold_their_upper_end() -> None:
    labels = np.array([-0.1, 0.0, 0.02, 0.08, 0.0801, 0.7])
    energies = labels + np.array([0.1, -0.3, 0.5, -0.6, 0.7, 0.8])
    found = {one.name: one for one in by_label(labels, energies, seed=0)}
    assert {name: one.crystals for name, one in found.items()} == {
        "≤ 0": 2,
        "0 to 0.02": 1,
        "0.02 to 0.08": 1,
        "0.08 to 0.2": 1,
        "0.2 to 0.5": 0,
        "> 0.5": 1,
    }
    first, empty, alone = found["≤ 0"], found["0.2 to 0.5"], found["0.02 to 0.08"]
    assert first.mae is not None
    assert first.bias is not None
    assert (first.mae.value, first.bias.value) == pytest.approx((0.2, -0.1))
    assert (empty.mae, empty.bias) == (None, None)
    assert alone.bias is not None
    assert (alone.bias.low, alone.bias.high) == pytest.approx((-0.6, -0.6))


def test_sizes_that_occur() -> None:
    found = by_atoms(np.array([1, 4, 5, 60]), np.zeros(4), np.array([0.1, 0.3, -0.2, 0.4]), seed=0)
    assert [(one.name, one.crystals) for one in found] == [("1-4", 2), ("5-8", 1), ("53 and more", 1)]
    assert [one.mae.value for one in found if one.mae] == pytest.approx([0.2, 0.2, 0.4])


def test_groups_without_members_stay() -> None:
    found = groups(["no doubts", "doubts"], np.zeros(3, dtype=np.int64), np.array([0.1, -0.1, 0.3]), seed=0)
    assert [one.crystals for one in found] == [3, 0]


def test_a_bootstrap_of_any_figure_is_that_of_the_mean() -> None:
    values = np.array([0.3, 0.1, 0.2, 0.9])
    bootstrap = Bootstrap(4, 300, 3)
    mean, any_figure = bootstrap.mean(values), bootstrap.of(lambda weights: float(weights @ values / weights.sum()))
    assert (mean.value, mean.low, mean.high) == pytest.approx((any_figure.value, any_figure.low, any_figure.high))
