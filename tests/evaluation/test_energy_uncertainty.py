from __future__ import annotations

import numpy as np
import pytest

from dao.evaluation.energy_uncertainty import calibration, sparsification, surest_mae, uncertainty

SHUFFLED = np.random.default_rng(0).permutation(200)
EXPECTED = 0.001 * (1.0 + SHUFFLED)


def test_errors_that_are_twice_what_is_expected() -> None:
    found = uncertainty(EXPECTED, 2 * EXPECTED, seed=0)
    assert (found.factor.value, found.factor.low, found.factor.high) == pytest.approx((2.0, 2.0, 2.0))
    assert found.spearman.value == pytest.approx(1.0)
    assert [one.crystals for one in found.bins] == [20] * 10
    assert [one.expected for one in found.bins] == pytest.approx([0.0105 + 0.02 * i for i in range(10)])
    assert [one.observed.value for one in found.bins] == pytest.approx([0.021 + 0.04 * i for i in range(10)])
    # the order is the oracle's: MAE of the k surest is 0.001 (k + 1)
    assert [one.mae.value for one in found.surest] == pytest.approx([0.021, 0.051, 0.101])
    assert [one.oracle for one in found.surest] == pytest.approx([0.021, 0.051, 0.101])
    assert [one.random for one in found.surest] == pytest.approx([0.201] * 3)
    assert (found.area, found.area_oracle, found.area_random) == pytest.approx((0.1015, 0.1015, 0.201))
    assert found.gain == pytest.approx(1.0)


def test_a_constant_says_nothing() -> None:
    # sorted by their error, which an order by file would take for knowledge
    found = uncertainty(np.full(200, 0.1), np.sort(EXPECTED), seed=0)
    assert np.isnan(found.spearman.value)
    assert found.factor.value == pytest.approx(1.005)
    assert [one.crystals for one in found.bins] == [200]
    assert [one.mae.value for one in found.surest] == pytest.approx([0.1005] * 3)
    assert found.gain == pytest.approx(0.0)


def test_the_wrong_way_round_is_worse_than_chance() -> None:
    found = uncertainty(EXPECTED, 0.3 - EXPECTED, seed=0)
    assert found.spearman.value == pytest.approx(-1.0)
    assert found.gain == pytest.approx(-1.0, abs=0.02)
    assert found.area > found.area_random


def test_no_error_at_all() -> None:
    found = uncertainty(EXPECTED, np.zeros(200), seed=0)
    assert found.factor.value == 0.0
    assert np.isnan(found.gain)


def test_ties_share_their_errors() -> None:
    expected, actual = np.array([2.0, 1.0, 1.0, 3.0]), np.array([5.0, 1.0, 3.0, 0.0])
    assert sparsification(expected, actual) == pytest.approx([2.0, 2.0, 3.0, 2.25])
    assert surest_mae(expected, actual, 0.25)(np.ones(4)) == pytest.approx(2.0)
    assert surest_mae(expected, actual, 0.75)(np.ones(4)) == pytest.approx(3.0)


def test_the_last_of_a_share_counts_in_part_and_weights_as_copies() -> None:
    expected = np.array([1.0, 2.0, 3.0, 4.0])
    assert surest_mae(expected, expected, 0.1)(np.ones(4)) == pytest.approx(1.0)
    assert surest_mae(expected, expected, 0.375)(np.ones(4)) == pytest.approx((1 + 0.5 * 2) / 1.5)
    copies = np.repeat(expected, [0, 2, 1, 3])
    weighted = surest_mae(expected, expected, 0.5)(np.array([0.0, 2.0, 1.0, 3.0]))
    assert weighted == pytest.approx(surest_mae(copies, copies, 0.5)(np.ones(6)))
    assert weighted == pytest.approx(7 / 3)


def test_fewer_crystals_than_bins() -> None:
    bins = calibration(np.array([0.3, 0.1, 0.2]), np.array([0.6, 0.2, 0.4]), seed=0)
    assert [(one.crystals, one.expected, one.observed.value) for one in bins] == [
        (1, 0.1, 0.2),
        (1, 0.2, 0.4),
        (1, 0.3, 0.6),
    ]
