"""The learned ranker: a score from features, whatever is known; its file; its order."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import tiny_predictor, toy

from dao import weights
from dao.constants import MAX_ATOMIC_NUMBER
from dao.errors import InputError
from dao.prediction.judging import Judge, Judging
from dao.prediction.proposals import merged
from dao.prediction.ranker import SITUATIONS, Ranker, Weights, situation
from dao.prediction.ranker_features import features
from dao.prediction.ranking import Candidate, rank_by_recurrence, with_energies, with_symmetries

VOLUMES = np.full(MAX_ATOMIC_NUMBER + 1, 20.0)


def generated() -> list[Candidate]:
    cells = [("rocksalt", 5.6)] * 3 + [("cscl", 3.4)] * 2 + [("zincblende", 6.1)]
    samples = [(1, i, toy(kind, ("Na", "Cl"), a)) for i, (kind, a) in enumerate(cells)]
    return rank_by_recurrence("NaCl", 2, samples, total=6, source="generator")


def proposal(kind: str, a: float, distance: float, rank: int) -> Candidate:
    (one,) = rank_by_recurrence("NaCl", 2, [(1, 0, toy(kind, ("Na", "Cl"), a))], total=6, source="prototype")
    return replace(
        one,
        rank=rank,
        count=0,
        sample_indices=(),
        prototype="KCl",
        prototype_distance=distance,
        prototype_members=10 * rank,
        prototype_share=0.5 / rank,
        space_group_share=0.4 / rank,
    )


def proposals() -> list[Candidate]:
    return [proposal("cscl", 3.4, 0.1, 1), proposal("zincblende", 6.1, 0.3, 2)]


def ranker(**slopes: float) -> Ranker:
    """Of the features that are given a slope, with mean 0."""
    own = Weights(np.zeros(len(slopes)), np.array(list(slopes.values())), 1.0, 0.0, np.zeros(len(slopes)), 0.5)
    return Ranker(tuple(slopes), dict.fromkeys(SITUATIONS, own), VOLUMES, {})


def log_shares(*scores: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(np.log(np.exp(scores) / np.exp(scores).sum()))


def test_scores_are_a_logistic_model_of_shares_of_the_list() -> None:
    found = generated()
    made = ranker(**{"share over largest": 2.0, "log symmetry": 0.0})
    expected = 0.5 + log_shares(2.0, 4.0 / 3.0, 2.0 / 3.0)
    np.testing.assert_allclose(made.scores(found), expected)
    ranked = made.rank(found[::-1])
    assert [one.count for one in ranked] == [3, 2, 1]
    assert [one.rank for one in ranked] == [1, 2, 3]
    assert ranked[0].confidence == pytest.approx(1.0 / (1.0 + math.exp(-expected[0])))
    assert ranked[0].record()["confidence"] == round(1.0 / (1.0 + math.exp(-expected[0])), 4)
    assert "confidence" not in found[0].record()
    assert made.rank([]) == []


def test_what_is_not_known_counts_as_average() -> None:
    own = Weights(np.array([0.4, 1.0]), np.array([-1.0, 3.0]), 2.0, 0.0, np.zeros(2), 0.1)
    table = np.array([[0.2, math.nan], [math.nan, math.nan], [0.4, 2.0]])
    np.testing.assert_allclose(own.log_shares(table), log_shares(0.2, 0.0, 3.0))
    np.testing.assert_allclose(own.logits(table), 0.1 + 2.0 * log_shares(0.2, 0.0, 3.0))


def test_features_of_the_list_change_how_sure_it_is_and_no_order() -> None:
    own = Weights(np.zeros(2), np.array([1.0, 0.0]), 1.0, 0.0, np.array([0.0, -0.5]), 0.0)
    few, many = (np.array([[0.3, size], [0.7, size]]) for size in (1.0, 3.0))
    np.testing.assert_allclose(own.logits(few) - own.logits(many), 1.0)
    np.testing.assert_allclose(np.diff(own.logits(few)), 0.4)


def test_of_several_cell_sizes_the_smaller_is_no_merit() -> None:
    """A larger candidate that samples of a smaller cell were found to be is as if its own size had been asked for."""
    found = generated()
    made = ranker(**{"smaller than asked for": -2.0})
    asked = [replace(one, asked_atoms=atoms) for one, atoms in zip(found, (1, 2, 4), strict=True)]
    np.testing.assert_allclose(made.scores(asked), 0.5 + log_shares(0.0, 0.0, -2.0 * math.log(2.0)))


def test_equal_scores_leave_the_order() -> None:
    found = generated()
    assert [one.count for one in ranker(found=1.0).rank(found)] == [3, 2, 1]
    assert [one.count for one in ranker(found=1.0).rank(found[::-1])] == [1, 2, 3]


def test_features_say_what_they_mean() -> None:
    both = merged(generated(), proposals())
    assert [one.source for one in both] == ["both", "generator", "both"]
    known = features(both, VOLUMES)
    cscl, rocksalt, zincblende = 0, 1, 2
    np.testing.assert_allclose(known["in both"], [1.0, 0.0, 1.0])
    np.testing.assert_allclose(known["share over largest"], [2 / 3, 1.0, 1 / 3])
    np.testing.assert_allclose(known["most often found"], [0.0, 1.0, 0.0])
    np.testing.assert_allclose(known["element distance"], [0.1, math.nan, 0.3])
    np.testing.assert_allclose(known["nearest"], [1.0, 0.0, 0.0])
    np.testing.assert_allclose(known["log symmetry"], np.log([48, 48, 24]))
    np.testing.assert_allclose(known["log atoms"], math.log(2))
    volume = 5.6**3 / 4 / 40.0
    assert known["volume"][rocksalt] == pytest.approx(abs(math.log(volume)))
    # a crystal resembles itself most
    assert known["like the nearest 0.02 0.15"][cscl] == known["like the nearest 0.02 0.15"].max()
    assert known["like the samples 0.15"][rocksalt] > known["like the samples 0.15"][zincblende]


def test_probable_symmetries_are_told_from_others() -> None:
    found = with_symmetries(generated(), [math.log(0.6), -math.inf, math.nan])
    known = features(found, VOLUMES)
    np.testing.assert_allclose(known["symmetry probability"], [0.6, 0.0, math.nan], atol=1e-9)
    np.testing.assert_allclose(known["log share of symmetry probability"][0], 0.0, atol=1e-9)
    assert known["log share of symmetry probability"][1] == pytest.approx(math.log(1e-10 / 0.6))
    assert math.isnan(known["log share of symmetry probability"][2])
    for one in ("symmetry probability", "log share of symmetry probability"):
        assert np.isnan(features(generated(), VOLUMES)[one]).all()


@pytest.mark.parametrize("kind", SITUATIONS)
def test_every_situation_is_ranked_by_its_own_weights(kind: str) -> None:
    lists = {
        "generator": generated(),
        "prototypes": [replace(one, samples=0) for one in proposals()],
        "both": merged(generated(), proposals()),
    }
    found = lists[kind.removesuffix(" with energies")]
    if kind.endswith("energies"):
        found = with_energies(found, [0.1] * (len(found) - 1) + [math.nan])
    assert situation(found) == kind
    made = ranker(**dict.fromkeys(features(found, VOLUMES), 0.0))
    own = replace(made.weights[kind], bias=-1.0)
    scores = replace(made, weights={**made.weights, kind: own}).scores(found)
    np.testing.assert_allclose(scores, -1.0 - math.log(len(found)))


def test_a_list_without_any_crystal_that_samples_found_is_one_of_prototypes() -> None:
    assert situation(proposals()) == "prototypes"
    assert np.isfinite(ranker(**dict.fromkeys(features(proposals(), VOLUMES), 1.0)).scores(proposals())).all()


def test_the_file_keeps_everything(tmp_path: Path) -> None:
    made = replace(ranker(found=1.5, energy=-2.0), record={"split": "val"})
    made.save(tmp_path / "ranker" / "ranker.json")
    again = Ranker.load(tmp_path / "ranker" / "ranker.json")
    assert again.record == {"split": "val"}
    assert again.fingerprint == made.fingerprint
    assert again.fingerprint != ranker(found=1.5, energy=-2.1).fingerprint
    np.testing.assert_array_equal(again.scores(generated()), made.scores(generated()))


def spoil(text: str, **changes: Any) -> str:
    return json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:40], "not a ranker"),
        (lambda text: text.replace("dao ranker", "no ranker"), "not a ranker"),
        (lambda text: spoil(text, weights={}), "weights are not of generator"),
        (lambda text: spoil(text, weights=7), "not a ranker"),
        (lambda text: spoil(text, names=["found"]), "are not 1 finite numbers"),
        (lambda text: text.replace("1.5", "NaN", 1), "are not 2 finite numbers"),
        (lambda text: spoil(text, atomic_volumes=[1.0]), "atomic_volumes"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "ranker.json"
    ranker(found=1.5, energy=-2.0).save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=said) as error:
        Ranker.load(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        Ranker.load(tmp_path / "none.json")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(weights, "_SHELF", tmp_path)
    return tmp_path


def test_where_it_ships_it_ranks_with_and_without_a_predictor(shelf: Path) -> None:
    with pytest.raises(InputError, match="none ships"):
        Judging(rank="learned").load("cpu")
    assert Judging().load("cpu") == Judge()
    ranker(found=1.0).save(shelf / "ranker" / "ranker.json")
    judge = Judging().load("cpu")
    assert judge.order == "learned"
    assert judge.note().startswith("learned ranker (")
    assert all(one.confidence is not None for one in judge.rank(generated()))
    tiny_predictor().save(shelf / "predictor")
    judge = Judging().load("cpu")
    assert "energies of tiny (" in judge.note()
    ranked = judge.rank(generated())
    assert all(one.confidence is not None and one.e_above_hull is not None for one in ranked)
    plain = Judging(rank="both").load("cpu")
    assert plain.learned is None
    assert all(one.confidence is None for one in plain.rank(generated()))
    again = Judging().ranking()
    assert again is not None
    assert again.rank == "learned"


def test_the_shipped_ranker_orders_toys_sensibly() -> None:
    path = weights.shipped_ranker()
    assert path is not None
    shipped = Ranker.load(path)
    assert "## Limits" in (path.parent / "README.md").read_text(encoding="utf-8")
    for found in (generated(), proposals(), merged(generated(), proposals())):
        assert set(shipped.names) == set(features(found, VOLUMES))
        assert all(0.0 < (one.confidence or 0.0) < 1.0 for one in shipped.rank(found))
    # found in 90 of 100 samples, or once, all else alike
    often, once = (replace(generated()[0], count=count, samples=100) for count in (90, 1))
    assert [one.count for one in shipped.rank([once, often])] == [90, 1]
