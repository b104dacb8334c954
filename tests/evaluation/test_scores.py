from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dao.constants import MATCHER_STOL
from dao.errors import InputError
from dao.evaluation.metrics import Bootstrap, by_elements, by_size, curve, over_seeds, ranked_row, rows
from dao.evaluation.scores import Interval, Scores

nan = float("nan")

# target 0: first sample matches but is not valid, second is better; 1: target not valid; 2: never matched;
# 3: matched by its second sample, too loosely for the strict column
RMS = [[0.3, 0.1, nan], [0.2, nan, nan], [nan, nan, nan], [nan, 0.4, 0.4]]
STRICT = [[nan, 0.1, nan], [0.2, nan, nan], [nan, nan, nan], [nan, nan, nan]]


def scores(**changes: Any) -> Scores:
    fields: dict[str, Any] = {
        "ids": ("a", "b", "c", "d"),
        "formulas": ("NaCl", "NaCl", "MgO", "SrTiO3"),
        "num_atoms": np.array([2, 2, 8, 60]),
        "num_elements": np.array([2, 2, 2, 3]),
        "rms": np.array(RMS),
        "strict": np.array(STRICT),
        "target_valid": np.array([True, False, True, True]),
        "sample_valid": np.array([[False, True, True], [True] * 3, [True] * 3, [True] * 3]),
        "ranked": np.array([0.1, 0.2, nan, nan]),
        "everyone": {1: np.array([0.2, 0.2, nan, nan]), 3: np.array([0.1, 0.1, nan, 0.4])},
        "subsets": {"exact": np.array([True, False, True, False]), "empty": np.zeros(4, dtype=bool)},
        "timeouts": 7,
    }
    return Scores(**(fields | changes))


def random_scores(targets: int, samples: int, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    rms = np.where(rng.random((targets, samples)) < rng.random(), rng.uniform(0, MATCHER_STOL, (targets, samples)), nan)
    return Scores(
        ids=tuple(f"id-{i}" for i in range(targets)),
        formulas=("X",) * targets,
        num_atoms=rng.integers(1, 70, targets),
        num_elements=rng.integers(1, 6, targets),
        rms=rms,
        strict=np.where(rng.random(rms.shape) < 0.7, rms, nan),
        target_valid=rng.random(targets) < 0.8,
        sample_valid=rng.random(rms.shape) < 0.8,
        ranked=rms[:, -1],
        everyone={k: np.fmin(np.fmin.reduce(rms[:, :k], axis=1), rms[0, 0]) for k in range(1, samples + 1)},
        subsets={"half": rng.random(targets) < 0.5},
    )


# built inside the test: beartype draws random numbers, which hypothesis forbids within a strategy
ANY = given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))


def values(*intervals: Interval | None) -> list[float]:
    return [one.value for one in intervals if one is not None]


def test_rows_by_hand() -> None:
    first, third = rows(scores(), ks=(1, 3), subsets=["all"])
    assert (first.subset, first.k, first.crystals) == ("all", 1, 4)
    assert values(first.unfiltered, first.filtered, first.strict) == [0.5, 0.0, 0.25]
    assert values(first.rmse, first.crmse) == pytest.approx([0.25, (0.3 + 0.2 + 0.5 + 0.5) / 4])
    assert math.isnan(first.rmse_filtered.value)
    assert values(first.metre, first.metre_crmse) == pytest.approx([0.5, (0.2 + 0.2 + 0.5 + 0.5) / 4])
    assert values(third.unfiltered, third.filtered, third.strict) == [0.75, 0.5, 0.5]
    assert values(third.rmse, third.rmse_filtered) == pytest.approx([(0.1 + 0.2 + 0.4) / 3, (0.1 + 0.4) / 2])
    assert values(third.crmse) == pytest.approx([(0.1 + 0.2 + 0.5 + 0.4) / 4])
    assert values(third.metre, third.metre_crmse) == pytest.approx([0.75, (0.1 + 0.1 + 0.5 + 0.4) / 4])


def test_all_comes_first_and_empty_subsets_and_ks_beyond_the_samples_get_no_row() -> None:
    table = rows(scores(), ks=(1, 3, 20))
    assert [(row.subset, row.k, row.crystals) for row in table] == [
        ("all", 1, 4),
        ("all", 3, 4),
        ("exact", 1, 2),
        ("exact", 3, 2),
    ]
    # the subset holds targets 0 and 2
    assert values(table[2].unfiltered, table[2].rmse) == [0.5, 0.3]


def test_metre_is_absent_where_it_was_not_measured() -> None:
    (row,) = rows(scores(), ks=(2,), subsets=["all"])
    assert row.metre is None
    assert row.metre_crmse is None


def test_invalid_target_stays_in_the_denominator() -> None:
    valid = scores(target_valid=np.ones(4, dtype=bool))
    (row,) = rows(valid, ks=(1,), subsets=["all"])
    assert row.filtered.value == 0.25
    assert row.rmse_filtered.value == 0.2


def test_ranked_row_by_hand() -> None:
    row = ranked_row(scores())
    assert row is not None
    assert values(row.unfiltered, row.rmse, row.crmse) == pytest.approx([0.5, 0.15, (0.1 + 0.2 + 0.5 + 0.5) / 4])
    assert math.isnan(row.filtered.value)
    exact = ranked_row(scores(), "exact")
    assert exact is not None
    assert (exact.subset, exact.crystals, exact.unfiltered.value) == ("exact", 2, 0.5)
    assert ranked_row(scores(ranked=None)) is None
    assert ranked_row(scores(), "empty") is None


def test_groups_by_size_and_elements() -> None:
    sizes = by_size(scores(), 3)
    assert [(label, row.crystals, row.unfiltered.value) for label, row in sizes] == [
        ("1-4", 2, 1.0),
        ("5-8", 1, 0.0),
        ("≥ 53", 1, 1.0),
    ]
    assert [label for label, _ in by_size(scores(), 1, edges=(1, 2, 3))] == ["2", "≥ 3"]
    assert [(label, row.crystals) for label, row in by_size(scores(), 1, subset="exact")] == [("1-4", 1), ("5-8", 1)]
    elements = by_elements(scores(), 3)
    assert [(label, row.crystals) for label, row in elements] == [("2", 3), ("3", 1)]
    assert elements[0][1].unfiltered.value == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="fewer than 5 atoms"):
        by_size(scores(), 1, edges=(5, 9))


def test_curve_by_hand() -> None:
    ks, rate = curve(scores())
    assert ks.tolist() == [1, 2, 3]
    assert rate.tolist() == [0.5, 0.75, 0.75]
    assert curve(scores(), filtered=True)[1].tolist() == [0.0, 0.5, 0.5]
    assert np.isnan(curve(scores(), "empty")[1]).all()


def test_over_seeds_by_hand() -> None:
    none = scores(rms=np.full((4, 3), nan))
    row = over_seeds([scores(), scores(rms=np.array(RMS)[:, ::-1])])
    assert (row.seeds, row.crystals) == (2, 4)
    # first tries: 0.3 and 0.2 of targets 0 and 1; then 0.4 of target 3
    assert row.unfiltered.mean == pytest.approx((0.5 + 0.25) / 2)
    assert row.unfiltered.deviation == pytest.approx(0.25 / math.sqrt(2))
    assert row.filtered.mean == pytest.approx((0.0 + 0.25) / 2)
    assert row.rmse.mean == pytest.approx((0.25 + 0.4) / 2)
    alone = over_seeds([none], "exact")
    assert (alone.crystals, alone.unfiltered.mean) == (2, 0.0)
    assert math.isnan(alone.unfiltered.deviation)
    assert math.isnan(alone.rmse.mean)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "no runs"),
        ([scores(), scores(ids=("a", "b", "c", "x"))], "run 1 has other targets"),
        ([scores(), scores(subsets={"exact": np.ones(4, dtype=bool)})], "run 1 has other targets"),
    ],
)
def test_over_seeds_refuses(runs: list[Scores], message: str) -> None:
    with pytest.raises(InputError, match=message):
        over_seeds(runs, "exact")
    with pytest.raises(InputError, match="empty"):
        over_seeds([scores()], "empty")


def test_bootstrap_interval_of_a_rate_is_that_of_the_binomial() -> None:
    (row,) = rows(_many(400), ks=(1,), resamples=4000)
    spread = math.sqrt(0.25 * 0.75 / 400)
    assert row.unfiltered.value == 0.25
    assert row.unfiltered.low == pytest.approx(0.25 - 1.96 * spread, abs=0.004)
    assert row.unfiltered.high == pytest.approx(0.25 + 1.96 * spread, abs=0.004)


def _many(targets: int) -> Scores:
    rms = np.full((targets, 1), nan)
    rms[::4] = 0.1
    valid = np.ones(targets, dtype=bool)
    names = tuple(str(i) for i in range(targets))
    ones = np.ones(targets, dtype=np.int64)
    return Scores(names, names, ones, ones, rms, rms, valid, valid[:, None])


def test_bootstrap_is_seeded_and_agrees_with_resampling_one_at_a_time() -> None:
    found: npt.NDArray[np.float64] = np.array([0.1, nan, 0.3, nan, 0.2, 0.05, 0.43, nan, 0.21, 0.37])
    assert Bootstrap(10, 50, 1).rmse(found) == Bootstrap(10, 50, 1).rmse(found)
    assert Bootstrap(10, 50, 1).rmse(found) != Bootstrap(10, 50, 2).rmse(found)
    drawn = found[np.random.default_rng(1).integers(10, size=(50, 10))]
    interval = Bootstrap(10, 50, 1).rmse(found)
    assert [interval.low, interval.high] == pytest.approx(
        np.percentile(np.nanmean(drawn, axis=1), [2.5, 97.5]).tolist()
    )


def test_resamples_without_a_match_are_left_out_of_the_rmse() -> None:
    # one match in two: a quarter of the resamples has none
    interval = Bootstrap(2, 200, 0).rmse(np.array([0.25, nan]))
    assert interval == Interval(0.25, 0.25, 0.25)


@settings(max_examples=60)
@ANY
def test_metrics_keep_their_order(targets: int, samples: int, seed: int) -> None:
    run = random_scores(targets, samples, seed)
    ks = range(1, run.samples + 1)
    for subset in ("all", "half"):
        table = rows(run, ks, [subset], resamples=20)
        for row in table:
            assert 0 <= row.filtered.value <= row.unfiltered.value <= 1
            assert row.strict.value <= row.unfiltered.value
            assert row.metre is not None
            assert row.metre_crmse is not None
            assert row.metre.value >= row.unfiltered.value
            assert row.metre_crmse.value <= row.crmse.value + 1e-12
            assert row.crmse.value <= MATCHER_STOL + 1e-12
            if row.unfiltered.value > 0:
                assert row.rmse.value <= row.crmse.value + 1e-12
            for one in (row.unfiltered, row.filtered, row.strict):
                assert 0 <= one.low <= one.high <= 1
        for less, more in itertools.pairwise(table):
            assert less.unfiltered.value <= more.unfiltered.value
            assert less.filtered.value <= more.filtered.value
            assert less.crmse.value >= more.crmse.value - 1e-12
        if table:
            rates = curve(run, subset)[1]
            assert rates.tolist() == pytest.approx([row.unfiltered.value for row in table])


@ANY
@example(targets=10, samples=2, seed=2)  # a group none of whose resamples has a match
def test_groups_partition_the_targets(targets: int, samples: int, seed: int) -> None:
    run = random_scores(targets, samples, seed)
    for groups in (by_size(run, 1, resamples=2), by_elements(run, 1, resamples=2)):
        assert sum(row.crystals for _, row in groups) == len(run.ids)
        matched = sum(row.crystals * row.unfiltered.value for _, row in groups)
        assert matched == pytest.approx(np.isfinite(run.rms[:, 0]).sum())


@ANY
def test_json_round_trip_is_exact(targets: int, samples: int, seed: int) -> None:
    run = random_scores(targets, samples, seed)
    record = json.loads(json.dumps(run.to_json(), allow_nan=False))
    back = Scores.from_json(record)
    assert back.to_json() == run.to_json()
    np.testing.assert_array_equal(back.rms, run.rms)
    assert back.sample_valid.dtype == bool
    assert list(back.everyone) == list(run.everyone)


def test_json_keeps_everything_and_an_empty_run() -> None:
    assert scores().to_json()["rms"][0] == [0.3, 0.1, None]
    back = Scores.from_json(scores(ranked=None).to_json())
    assert back.ranked is None
    assert back.timeouts == 7
    assert back.subsets["exact"].tolist() == [True, False, True, False]
    none = np.empty((0, 3))
    empty = Scores((), (), np.empty(0, int), np.empty(0, int), none, none, np.empty(0, bool), np.empty((0, 3), bool))
    assert Scores.from_json(empty.to_json()).ids == ()
    assert rows(empty) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rms": None}, "not what to_json writes"),
        ({"rms": [[0.1], [0.2, 0.3], [], []]}, "not what to_json writes"),
        ({"rms": [0.1, 0.2]}, "rms must have shape"),
        ({"num_atoms": ["many"]}, "not what to_json writes"),
        ({"everyone": {"one": []}}, "not what to_json writes"),
        ({"subsets": {"exact": [True]}}, "subset 'exact' has shape"),
    ],
)
def test_broken_json_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Scores.from_json(scores().to_json() | change)
    assert "\n" not in str(caught.value)


def test_missing_field_is_named() -> None:
    record = scores().to_json()
    del record["strict"]
    with pytest.raises(InputError, match="no field 'strict'"):
        Scores.from_json(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formulas": ("NaCl",)}, "4 ids but 1 formulas"),
        ({"strict": np.full((4, 2), nan)}, r"strict has shape \(4, 2\), not \(4, 3\)"),
        ({"rms": np.empty((4, 0))}, "K >= 1"),
        ({"rms": np.array(RMS) - 1}, "rms has a negative"),
        ({"ranked": np.full(4, np.inf)}, "ranked has a negative or infinite"),
        ({"everyone": {2: np.zeros(3)}}, "everyone within 2 has shape"),
        ({"subsets": {"all": np.ones(4, dtype=bool)}}, "'all' is the name of all targets"),
    ],
)
def test_scores_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scores(**change)


def test_unknown_subset_and_k_are_refused() -> None:
    with pytest.raises(InputError, match="no subset 'exakt'; there are: all, exact, empty"):
        rows(scores(), subsets=["exakt"])
    with pytest.raises(InputError, match="k = 0 is outside 1 to 3"):
        rows(scores(), ks=(0,))
    with pytest.raises(InputError, match="k = 4 is outside 1 to 3"):
        by_size(scores(), 4)
