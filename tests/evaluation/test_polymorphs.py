from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dao.errors import InputError
from dao.evaluation.polymorphs import coverage, polymorph_groups, polymorphs, wilson

nan = float("nan")

TABLES = {
    # both references hit
    "TiO2": np.array([[0.2, nan, 0.1], [nan, 0.3, nan]]),
    # one of two
    "NaCl": np.array([[nan, nan], [0.05, 0.04]]),
    # two of three
    "C": np.array([[0.1], [nan], [0.2]]),
    # one reference: no polymorph
    "MgO": np.array([[0.1, 0.2]]),
}
APART = np.full((2, 2), nan)
REFERENCES = {
    "TiO2": APART,
    # cannot be told apart, though only one direction of the matcher says so
    "NaCl": np.array([[0.0, nan], [0.3, 0.0]]),
    # 1 and 2 are one conformation, which its reference 2 hits
    "C": np.array([[0.0, nan, nan], [nan, 0.0, 0.2], [nan, 0.2, 0.0]]),
    "MgO": np.zeros((1, 1)),
}


def test_hits_by_hand_as_listed() -> None:
    carbon, salt, titania = polymorphs(TABLES)
    assert [one.formula for one in (carbon, salt, titania)] == ["C", "NaCl", "TiO2"]
    assert (titania.best, titania.hits, titania.samples) == ((0.1, 0.3), 2, 3)
    assert (salt.best, salt.hits) == ((None, 0.04), 1)
    assert (carbon.conformations, carbon.hits, carbon.references) == (3, 2, ((0,), (1,), (2,)))


def test_hits_by_hand_distinct() -> None:
    carbon, titania = polymorphs(TABLES, REFERENCES)
    assert (carbon.formula, titania.formula) == ("C", "TiO2")
    assert carbon.references == ((0,), (1, 2))
    assert carbon.best == (0.1, 0.2)
    assert titania.conformations == 2


def test_chains_of_matches_merge() -> None:
    # 0-2 and 2-3 match; 1-4 match
    links = np.full((5, 5), nan)
    for one, other in ((0, 2), (2, 3), (4, 1)):
        links[one, other] = 0.1
    (found,) = polymorphs({"X": np.full((5, 1), nan)}, {"X": links})
    assert found.references == ((0, 2, 3), (1, 4))


def test_coverage_by_hand() -> None:
    two, three, both = coverage(polymorphs(TABLES))
    assert (two.label, two.groups, two.all_hit.value, two.mean_share.value) == ("2", 2, 0.5, 0.75)
    assert (three.label, three.groups, three.all_hit.value) == ("3", 1, 0.0)
    assert three.mean_share.value == pytest.approx(2 / 3)
    assert (both.label, both.groups) == ("all", 3)
    assert both.all_hit.value == pytest.approx(1 / 3)
    assert both.mean_share.value == pytest.approx((1 + 0.5 + 2 / 3) / 3)
    assert coverage([]) == []


def test_five_and_more_conformations_are_one_line() -> None:
    tables = {"A": np.full((5, 1), 0.1), "B": np.full((7, 1), nan)}
    lines = coverage(polymorphs(tables))
    assert [(line.label, line.groups, line.all_hit.value) for line in lines] == [("≥ 5", 2, 0.5), ("all", 2, 0.5)]


def test_records_are_plain_json() -> None:
    found = polymorphs(TABLES, REFERENCES)
    records = json.loads(json.dumps([one.record() for one in found], allow_nan=False))
    assert records[0] == {
        "formula": "C",
        "conformations": 2,
        "hits": 2,
        "references": [[0], [1, 2]],
        "best": [0.1, 0.2],
        "samples": 1,
    }
    line = json.loads(json.dumps(coverage(found)[0].record(), allow_nan=False))
    assert (line["conformations"], line["groups"], line["all_hit"]["value"]) == ("2", 2, 1.0)


def test_groups_hold_the_places_of_shared_compositions() -> None:
    assert polymorph_groups(["C", "NaCl", "C", "MgO", "NaCl", "C"]) == {"C": (0, 2, 5), "NaCl": (1, 4)}
    assert polymorph_groups([]) == {}


def test_wilson_interval_of_the_textbook() -> None:
    # Brown, Cai and DasGupta (2001) and any statistics package: 7 of 10
    interval = wilson(7, 10)
    assert interval.value == 0.7
    assert interval.low == pytest.approx(0.3968, abs=1e-4)
    assert interval.high == pytest.approx(0.8922, abs=1e-4)
    assert wilson(0, 3).low == 0.0
    assert wilson(3, 3).high == 1.0


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_interval_holds_the_share(trials: int, share: float) -> None:
    one = wilson(round(share * trials), trials)
    assert 0 <= one.low <= one.value <= one.high <= 1
    assert one.low < one.high


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (2, 1), (-1, 3)])
def test_wilson_refuses_what_is_no_share(hits: int, trials: int) -> None:
    with pytest.raises(InputError, match="no Wilson interval"):
        wilson(hits, trials)


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_merging_never_lowers_the_share_hit_to_nothing_and_keeps_every_reference(
    references: int, samples: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    table: npt.NDArray[np.float64] = np.where(rng.random((references, samples)) < 0.3, 0.1, nan)
    links = np.where(rng.random((references, references)) < 0.15, 0.2, nan)
    (listed,) = polymorphs({"X": table})
    merged = polymorphs({"X": table}, {"X": links})
    if not merged:
        return
    (distinct,) = merged
    assert sorted(row for rows in distinct.references for row in rows) == list(range(references))
    assert distinct.hits <= listed.hits
    assert (distinct.hits > 0) == (listed.hits > 0)
    if listed.hits == references:
        assert distinct.hits == distinct.conformations


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"TiO2: the table must have shape \(R, S\)"):
        polymorphs({"TiO2": np.zeros(3)})
    with pytest.raises(InputError, match=r"NaCl: needs \(2, 2\) distances"):
        polymorphs({"NaCl": TABLES["NaCl"]}, {"NaCl": np.zeros((3, 3))})
    with pytest.raises(InputError, match="NaCl: needs"):
        polymorphs({"NaCl": TABLES["NaCl"]}, {})
