"""The parts of an evaluation that tests/cli/test_evaluate.py does not see through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import listing, tiny_generator, tiny_predictor, toy

import dao.sampling
from dao.crystal import Crystal
from dao.errors import InputError
from dao.evaluation.predictions import Failure, Prediction, PredictionSet
from dao.evaluation.run import How, evaluate_generator, evaluate_predictions
from dao.evaluation.scores import Scores
from dao.evaluation.targets import Targets
from dao.models import Predictor
from dao.prediction.judging import Judging
from dao.processes.config import SamplerSettings

NACL, CSCL = toy("rocksalt", ("Na", "Cl"), 5.64, "mp-1"), toy("cscl", ("Cs", "Cl"), 4.12, "mp-2")
TARGETS = Targets("toys", "", (NACL, CSCL), 2, "", {})
QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dao.evaluation.run.write_figures", lambda *_, **__: {})


def given(*predictions: tuple[int, int, Crystal | None], failures: int = 0) -> PredictionSet:
    return PredictionSet(
        [Prediction(target, index, crystal, "" if crystal else "broken") for target, index, crystal in predictions],
        [Failure(f"row {i}", "broken") for i in range(failures)],
    )


def test_a_target_without_a_prediction_is_no_match(tmp_path: Path) -> None:
    how = How(out=tmp_path / "out", **QUIET)
    found = evaluate_predictions(TARGETS, given((1, 0, CSCL), (1, 1, None), failures=1), how, title="toys.zip")
    np.testing.assert_allclose(found.scores.rms, [[np.nan, np.nan], [0.0, np.nan]], atol=1e-6)
    assert [(row.subset, row.k, row.unfiltered.value) for row in found.rows] == [("all", 1, 0.5)]
    assert found.ranked is not None
    assert found.ranked.unfiltered.value == 0.5
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert settings["Targets without a prediction (counted as no match)"] == "1"
    assert settings["Predictions that could not be used"] == "1"
    assert json.loads((tmp_path / "out" / "failures.json").read_text()) == [{"where": "row 0", "reason": "broken"}]
    read = Scores.from_json(json.loads((tmp_path / "out" / "scores.json").read_text()))
    np.testing.assert_array_equal(read.rms, found.scores.rms)


def test_no_match_at_all_is_written_too(tmp_path: Path) -> None:
    how = How(out=tmp_path, ks=(5,), **QUIET)
    found = evaluate_predictions(TARGETS, given((0, 0, None), (1, 0, None), failures=2), how, title="toys.zip")
    assert [(row.k, row.unfiltered.value) for row in found.rows] == [(1, 0.0)], "k is at most what there is"
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert row["rmse"]["value"] is None
    assert row["crmse"]["value"] == 0.5
    assert found.ranked is None, "there is nothing to rank in one sample"


def test_prototypes_of_other_targets_write_nothing(tmp_path: Path) -> None:
    how = How(out=tmp_path / "out", prototypes={"mp-1": [None]}, **QUIET)
    with pytest.raises(InputError, match="1 of the targets were not tried, such as mp-2"):
        evaluate_predictions(TARGETS, given((0, 0, NACL)), how, title="toys.zip")
    with pytest.raises(InputError, match="1 of the targets were not tried, such as mp-2"):
        evaluate_generator(tiny_generator(), TARGETS, how, seeds=[0], settings=SamplerSettings(steps=1))
    assert list(tmp_path.iterdir()) == []


def test_a_sampler_that_the_model_lacks_writes_nothing(tmp_path: Path) -> None:
    how = How(out=tmp_path / "out", **QUIET)
    settings = SamplerSettings(steps=1, method="predictor-corrector")
    with pytest.raises(InputError, match="does not belong to a flow model"):
        evaluate_generator(tiny_generator(), TARGETS, how, seeds=[0], settings=settings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_evaluation_is_left_alone_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, settings = tiny_generator(), SamplerSettings(steps=1)
    how = How(out=tmp_path, ks=(1,), **QUIET)
    evaluate_generator(model, TARGETS, how, seeds=[0], settings=settings)
    before = listing([tmp_path])

    def never(*_: Any, **__: Any) -> Any:
        pytest.fail("sampled, although refused")

    monkeypatch.setattr(dao.sampling._Walks, "once", never)
    one = TARGETS.select([0])
    for changed, seeds, targets in (
        (How(out=tmp_path, ks=(1, 4), seconds=3.0, **QUIET), [0], TARGETS),
        (How(out=tmp_path, ks=(1, 4), **QUIET), [0], one),
        (How(out=tmp_path, ks=(1, 4), **QUIET), [5, 0], TARGETS),
    ):
        with pytest.raises(InputError, match="choose another --out"):
            evaluate_generator(model, targets, changed, seeds=seeds, settings=settings)
    with pytest.raises(InputError, match="made with another file and content"):
        evaluate_predictions(TARGETS, given((0, 0, NACL)), how, title="toys.zip")
    assert listing([tmp_path]) == before


def test_samples_that_are_no_crystal_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = dao.sampling._finish

    def failing(batch: Any, requests: Any, walk: int) -> Any:
        made = finish(batch, requests, walk)
        return [dao.sampling.Sample(one.request, None, "no crystal") if one.request.index == 1 else one for one in made]

    monkeypatch.setattr(dao.sampling, "_finish", failing)
    how = How(out=tmp_path, ks=(1, 2), **QUIET)
    found = evaluate_generator(tiny_generator(), TARGETS, how, seeds=[0], settings=SamplerSettings(steps=1))
    settings = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert settings["Samples that are no crystal"] == "2"
    # each of those took all of its four walks, the others one: (1 + 4) / 2
    assert settings["Network evaluations"].endswith("a walk, 2.50 walks)")
    assert np.isnan(found.scores.rms[:, 1]).all()
    assert not found.scores.sample_valid[:, 1].any()


def test_guidance_and_ranking_by_energy(tmp_path: Path) -> None:
    tiny_predictor().save(tmp_path / "predictor")
    predictor = Predictor.load(tmp_path / "predictor")
    model, settings = tiny_generator(), SamplerSettings(steps=1)

    def evaluate(**judging: Any) -> dict[str, str]:
        by = Judging(predictor=tmp_path / "predictor", **judging)
        how = How(out=tmp_path / "out", ks=(1, 2), judging=by, **QUIET)
        evaluate_generator(model, TARGETS, how, seeds=[0], settings=settings)
        read: dict[str, str] = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
        return read

    told = evaluate(guidance=2.0, rank="energy")
    assert told["Guidance"] == f"strength 2, e_above_hull of tiny ({predictor.fingerprint})"
    assert told["Ranked"] == f"by energy above the hull of tiny ({predictor.fingerprint})"
    samples = (tmp_path / "out" / "samples-0.jsonl").read_bytes()
    # on the same samples
    assert "Ranked" not in evaluate(guidance=2.0, rank="recurrence")
    assert (tmp_path / "out" / "samples-0.jsonl").read_bytes() == samples
    assert {one.name for one in (tmp_path / "out").glob("ranked*")} == {"ranked-2.jsonl", "ranked-energy-2.jsonl"}
    for other in (0.0, 1.0):
        with pytest.raises(InputError, match="made with another guidance"):
            evaluate(guidance=other)
