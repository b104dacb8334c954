"""How probable the symmetry of a candidate is: as much as where samples get theirs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import tiny_generator, toy

from dao.crystal import Crystal
from dao.models import Generator
from dao.networks.symmetry_search import propose
from dao.prediction.judging import Judge, Judging
from dao.prediction.ranking import Candidate, rank_by_recurrence
from dao.prediction.symmetry_odds import SymmetryOdds
from dao.weights import DEFAULT, resolve


@pytest.fixture(scope="module")
def odds() -> SymmetryOdds:
    found = SymmetryOdds.load(resolve(DEFAULT))
    assert found is not None
    return found


def candidates() -> list[Candidate]:
    cells = [("rocksalt", 5.6), ("cscl", 3.4), ("zincblende", 6.1)]
    samples = [(1, i, toy(kind, ("Na", "Cl"), a)) for i, (kind, a) in enumerate(cells)]
    return rank_by_recurrence("NaCl", 2, samples, total=3, source="generator")


def test_a_candidate_is_as_probable_as_the_proposal_of_its_symmetry(odds: SymmetryOdds) -> None:
    """The mixture of both searches, one choice at a time there and all at once here."""
    (proposed,) = propose(odds.prior, [{11: 1, 17: 1}], 40, odds.memory)
    wanted = {225: ((11, "a"), (17, "b")), 221: ((11, "a"), (17, "b")), 216: ((11, "a"), (17, "c"))}
    found = candidates()
    said = dict(zip([one.space_group_number for one in found], odds.log_probabilities(found), strict=True))
    assert set(said) == set(wanted)
    for number, orbits in wanted.items():
        of_search = [one.probability for one in proposed if (one.space_group, one.orbits) == (number, orbits)]
        assert of_search == [pytest.approx(math.exp(said[number]), rel=1e-3)]
    assert said[225] == max(said.values())


def test_what_is_no_crystal_has_no_probability(odds: SymmetryOdds) -> None:
    known = candidates()[0]
    numbers = known.crystal.atomic_numbers
    collapsed = replace(known, crystal=Crystal(numbers, np.zeros((len(numbers), 3)), known.crystal.lattice))
    said = odds.log_probabilities([collapsed, known])
    assert math.isnan(said[0])
    assert said[1] == pytest.approx(odds.log_probabilities([known])[0], abs=1e-5)
    assert odds.log_probabilities([]) == []
    assert all(map(math.isnan, odds.log_probabilities([collapsed])))


def test_a_generator_without_a_prior_says_nothing(tmp_path: Path) -> None:
    tiny_generator().save(tmp_path)
    assert SymmetryOdds.load(tmp_path) is None
    judge = Judging(generator=tmp_path).load("cpu")
    assert judge.symmetry is None


def test_the_learned_ranker_asks_the_generator_that_made_the_samples(odds: SymmetryOdds) -> None:
    asked, other = (Judging(generator=given).load("cpu") for given in (DEFAULT, None))
    assert asked.symmetry is not None
    assert asked.symmetry.fingerprint == odds.fingerprint == Generator.load(DEFAULT).fingerprint
    assert odds.fingerprint in asked.note()
    assert other.symmetry is None
    assert all(one.log_symmetry is not None for one in asked.rank(candidates()))
    assert all(one.log_symmetry is None for one in other.rank(candidates()))
    assert Judging(generator=DEFAULT, rank="recurrence").load("cpu").symmetry is None
    assert all(one.log_symmetry is None for one in Judge().rank(candidates()))
