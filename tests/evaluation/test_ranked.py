from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import tiny_predictor, toy

from dao.crystal import Crystal
from dao.errors import InputError
from dao.evaluation import matching, ranked
from dao.evaluation.csp import Predicted
from dao.evaluation.matching import rms_distance
from dao.evaluation.ranked import Ranking, first_candidate
from dao.evaluation.targets import Targets
from dao.evaluation.time_limit import within
from dao.prediction.energies import predict_energies
from dao.prediction.judging import Judging

ROCKSALT = toy("rocksalt", ("Na", "Cl"), 5.64, "rocksalt")
CSCL = toy("cscl", ("Na", "Cl"), 3.5, "cscl")
ZINCBLENDE = toy("zincblende", ("Na", "Cl"), 6.1, "zincblende")
TARGETS = Targets("toys", "", (ROCKSALT, CSCL, ZINCBLENDE), 3, "", {})
SAMPLES = ((CSCL, ROCKSALT, ROCKSALT), (CSCL, None, None), (None, None, None))


def ranking(path: Path, samples: tuple[tuple[Crystal | None, ...], ...] = SAMPLES, **made_by: Any) -> Ranking:
    return Ranking(TARGETS, Predicted(samples, {"seed": 0} | made_by), path)


def test_the_most_recurrent_sample_is_compared_not_the_best() -> None:
    assert rms_distance((CSCL, ROCKSALT)) is None
    row, rms = first_candidate((4, ROCKSALT, [CSCL, ROCKSALT, ROCKSALT]), 10.0)
    assert row == 4
    assert rms == pytest.approx(0.0, abs=1e-6)
    assert first_candidate((4, CSCL, [CSCL, ROCKSALT, ROCKSALT]), 10.0) == (4, None)
    assert first_candidate((4, CSCL, []), 10.0) == (4, None)


def test_the_time_limit_is_that_of_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def spy(seconds: float, call: Any) -> Any:
        limits.append(seconds)
        return within(seconds, call)

    monkeypatch.setattr(matching, "within", spy)
    first_candidate((0, ROCKSALT, [ROCKSALT]), 7.0)
    assert set(limits) == {7.0}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_row_a_target_whatever_the_workers(tmp_path: Path, workers: int) -> None:
    told: list[int] = []
    one = ranking(tmp_path / "ranked.jsonl")
    assert one.missing == [0, 1, 2]
    np.testing.assert_allclose(one.run(told.append, workers=workers, seconds=10.0), [0.0, 0.0, np.nan], atol=1e-6)
    assert sum(told) == 3
    assert len((tmp_path / "ranked.jsonl").read_text().splitlines()) == 4


def test_a_stopped_ranking_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranked, "AT_A_TIME", 1)
    path = tmp_path / "ranked.jsonl"

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ranking(path).run(stop, workers=1, seconds=10.0)
    before = path.read_bytes()
    again = ranking(path)
    assert again.missing == [1, 2]
    np.testing.assert_allclose(again.run(lambda _: None, workers=1, seconds=10.0), [0.0, 0.0, np.nan], atol=1e-6)
    assert path.read_bytes().startswith(before)
    assert len(path.read_text().splitlines()) == 4
    assert ranking(path).missing == []


def test_rankings_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranked.jsonl"
    ranking(path).run(lambda _: None, workers=1, seconds=10.0)
    with pytest.raises(InputError, match="ranked candidates made with another predictions"):
        ranking(path, seed=1)
    with pytest.raises(InputError, match="ranked candidates made with another samples"):
        ranking(path, tuple(row[:2] for row in SAMPLES))
    path.write_text(path.read_text() + '[0, "x"]\n')
    with pytest.raises(InputError, match="not a file of ranked candidates"):
        ranking(path)


def judging(folder: Path, **options: Any) -> Judging:
    tiny_predictor().save(folder / "predictor")
    return Judging(predictor=folder / "predictor", **({"rank": "energy"} | options))


def energies(by: Judging, crystals: list[Crystal]) -> list[float]:
    ranker = by.load("cpu").ranker
    assert ranker is not None
    return predict_energies(ranker, crystals)


@pytest.mark.parametrize("workers", [1, 2])
def test_ranking_by_energy(tmp_path: Path, workers: int) -> None:
    by = judging(tmp_path)
    lowest = int(np.argmin(energies(by, [CSCL, ROCKSALT])))
    one = Ranking(TARGETS, Predicted(SAMPLES, {"seed": 0}), tmp_path / "energy.jsonl", by)
    # the first target's samples are both crystals, rock salt more often
    expected = [[np.nan, 0.0][lowest], 0.0, np.nan]
    np.testing.assert_allclose(one.run(lambda _: None, workers=workers, seconds=10.0), expected, atol=1e-6)
    # what it puts first is the crystal of lowest energy, however rare
    rms = [
        first_candidate((0, target, [CSCL, ROCKSALT, ROCKSALT]), 10.0, by.load("cpu"))[1] for target in (CSCL, ROCKSALT)
    ]
    assert rms[lowest] == pytest.approx(0.0, abs=1e-6)
    assert rms[1 - lowest] is None


def test_rankings_by_another_predictor_are_refused(tmp_path: Path) -> None:
    by = judging(tmp_path)
    assert by.ranking() == by
    assert replace(by, rank=None).ranking() == replace(by, rank="learned")
    assert replace(by, guidance=2.0, target=0.1).ranking() == by
    assert replace(by, rank="recurrence").ranking() is None
    assert Judging(rank="recurrence").ranking() is None
    path = tmp_path / "ranked.jsonl"
    predicted = Predicted(SAMPLES, {"seed": 0})
    Ranking(TARGETS, predicted, path, by).run(lambda _: None, workers=1, seconds=10.0)
    tiny_predictor(seed=1).save(tmp_path / "other")
    with pytest.raises(InputError, match="ranked candidates made with another predictor:"):
        Ranking(TARGETS, predicted, path, Judging(predictor=tmp_path / "other", rank="energy"))
    with pytest.raises(InputError, match="ranked candidates made with another predictor and rank:"):
        Ranking(TARGETS, predicted, path)
