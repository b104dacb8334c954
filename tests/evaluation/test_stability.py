"""Counting: planted energies, compared with figures worked out by hand or by NumPy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dao.errors import InputError
from dao.evaluation.metrics import Bootstrap
from dao.evaluation.stability import Agreement, Judged, Judgement, agreement, differences, median, stability_rows

INF = float("inf")
# the last target's reference has no energy
JUDGED = np.array([True, True, True, True, False])
ENERGY = np.array([[0.08, 0.3], [0.0801, -0.2], [-0.05, INF], [INF, 0.0], [0.0, 0.0]])
DIFFERENCE = np.array([[0.02, 0.24], [-0.0005, -0.28], [-0.002, INF], [INF, -0.1], [0.0, 0.0]])
REFERENCE = np.array([0.06, 0.08, -0.03, 0.1, INF])
MATCHED = np.array([[1, 0], [0, 0], [1, 1], [0, 1], [1, 1]], dtype=bool)


def judgement(judge: str = "one", **changes: Any) -> Judgement:
    given = {"energy": ENERGY, "difference": DIFFERENCE, "reference": REFERENCE, "judged": JUDGED}
    return Judgement(judge, **(given | changes))


def judged(*judgements: Judgement, ids: str = "abcde", targets: str = "same", matched: Any = MATCHED) -> Judged:
    return Judged(targets, tuple(ids), matched, judgements)


def test_planted_counts() -> None:
    first, both, reference = stability_rows(judgement(), MATCHED)
    assert (first.k, both.k, reference.k) == (1, 2, None)
    assert first.targets == both.targets == reference.targets == 4
    # at the threshold is stable, above it is not, nor is what has no energy
    assert first.stable.value == 2 / 4
    assert both.stable.value == 4 / 8
    # half a meV is no difference
    assert first.lower is not None
    assert first.lower.value == 1 / 4
    assert both.lower is not None
    assert both.lower.value == 3 / 8
    assert first.match is not None
    assert first.match.value == 2 / 4
    assert both.match is not None
    assert both.match.value == 4 / 8
    assert (first.without_energy, both.without_energy) == (1, 2)
    assert first.energy.value == np.median([0.08, 0.0801, -0.05, INF])
    assert both.energy.value == np.median([0.08, 0.3, 0.0801, -0.2, -0.05, INF, INF, 0.0])
    assert reference.stable.value == 3 / 4
    assert reference.energy.value == pytest.approx(0.07)
    assert reference.lower is reference.match is None


def test_a_judge_without_a_hull_has_no_row_of_references() -> None:
    assert [row.k for row in stability_rows(judgement(reference=None), MATCHED)] == [1, 2]
    single = judgement(energy=ENERGY[:, :1], difference=DIFFERENCE[:, :1])
    assert [row.k for row in stability_rows(single, MATCHED[:, :1])] == [1, None]


def test_intervals_resample_targets() -> None:
    rng = np.random.default_rng(1)
    energy = rng.normal(0.08, 0.1, (40, 1)) + np.zeros((1, 5))
    one = judgement(energy=energy, difference=energy, reference=None, judged=np.ones(40, bool))
    _, many = stability_rows(one, np.zeros((40, 5), bool))
    stable = energy[:, 0] <= 0.08
    drawn = rng.integers(40, size=(4000, 40))
    # five equal samples a target are one observation, not five
    np.testing.assert_allclose(
        [many.stable.low, many.stable.high], np.percentile(stable[drawn].mean(1), [2.5, 97.5]), atol=0.03
    )
    np.testing.assert_allclose(
        [many.energy.low, many.energy.high], np.percentile(np.median(energy[drawn, 0], axis=1), [2.5, 97.5]), atol=0.02
    )


def test_medians_of_infinities_are_infinite_in_silence() -> None:
    found = median(np.array([0.0, INF, INF, INF]), Bootstrap(4, 200, 0))
    assert (found.value, found.high) == (INF, INF)


def test_agreement_is_of_targets_that_both_judged() -> None:
    other = judgement(
        "other",
        energy=np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [INF, INF], [0.0, 0.0]]),
        judged=np.array([True, True, True, True, True]),
    )
    assert agreement(judgement(), other) == [
        Agreement("one", "other", 1, both=1, first_only=1, second_only=1, neither=1),
        Agreement("one", "other", 2, both=2, first_only=2, second_only=3, neither=1),
    ]


def test_differences_are_paired_by_id() -> None:
    ours = judged(judgement(), judgement("mine alone"))
    # the same targets in another order, one of them missing; two samples become unstable
    order = [3, 1, 0, 4]
    worse = ENERGY.copy()
    worse[0, 0] = worse[3, 1] = 0.5
    theirs = judged(
        judgement(energy=worse[order], difference=DIFFERENCE[order], reference=REFERENCE[order], judged=JUDGED[order]),
        ids="dbae",
        matched=~MATCHED[order],
    )
    first, both = differences(ours, theirs)
    assert (first.judge, first.k, first.targets, both.k) == ("one", 1, 3, 2)
    assert first.stable.value == pytest.approx(1 / 3)
    assert both.stable.value == pytest.approx(2 / 6)
    assert first.lower.value == 0.0
    assert first.match.value == pytest.approx((1 - 2) / 3)
    same = differences(ours, ours)
    assert all(one.stable == one.lower == one.match for one in same)
    assert [(one.stable.low, one.stable.high) for one in same] == [(0.0, 0.0)] * 4


def test_runs_that_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="other targets"):
        differences(judged(judgement()), judged(judgement(), targets="others"))
    with pytest.raises(InputError, match="same judge"):
        differences(judged(judgement()), judged(judgement("another")))
    with pytest.raises(InputError, match="same judge"):
        differences(judged(judgement()), judged(judgement(judged=~JUDGED)))


def test_it_is_read_back_from_json() -> None:
    before = judged(judgement(), judgement("two", reference=None))
    after = Judged.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    assert (after.targets, after.ids) == (before.targets, before.ids)
    np.testing.assert_array_equal(after.matched, before.matched)
    for one, other in zip(after.judgements, before.judgements, strict=True):
        assert one.judge == other.judge
        np.testing.assert_array_equal(one.energy, other.energy)
        np.testing.assert_array_equal(one.difference, other.difference)
        np.testing.assert_array_equal(one.judged, other.judged)
        assert (one.reference is None) == (other.reference is None)
