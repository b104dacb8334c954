from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys import tiny_generator

from dao.app.worker import SECONDS_BETWEEN, STAGES, JobPredictor, Predicting, Task, _Teller
from dao.errors import InputError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_generator().save(folder)
    return str(folder)


def test_a_job_is_a_prediction_with_a_report_and_says_how_far_it_is(weights: str, tmp_path: Path) -> None:
    pytest.importorskip("pymatgen.analysis.diffraction", reason="the report needs pymatgen (extra report)")
    said: list[tuple[str, float, int]] = []
    task = Task(formula="NaCl", units=(1, 2), samples=4, seed=0, folder=tmp_path)
    predictor = JobPredictor(Predicting(weights=weights, sources="generator", steps=4))
    predictor.warm_up()
    model = predictor._model
    message = predictor(task, lambda *told: said.append(told))
    assert model is not None
    assert predictor._model is model
    stages = [stage for stage, _, _ in said]
    assert stages[0] == "sampling"
    assert stages[-1] == "report"
    assert list(dict.fromkeys(stages)) == [one for one in STAGES if one in stages]
    sampling = [done for stage, done, _ in said if stage == "sampling"]
    # four samples in one batch, four steps: a state a step
    assert sampling[:5] == [0.0, 0.0, 1.0, 2.0, 3.0]
    assert {total for stage, _, total in said if stage == "sampling"} == {4}
    folder = tmp_path / "NaCl"
    found = json.loads((folder / "candidates.json").read_text())
    assert (message == "") == bool(found)
    assert len(list(folder.glob("*.cif"))) == len(found)
    # figures as files take longer than all the rest of the report, and nobody would see them
    assert not (folder / "report").exists()
    assert "beside this file" not in (folder / "report.html").read_text().partition("<script")[0]


def test_bad_weights_are_told_by_the_job(tmp_path: Path) -> None:
    predictor = JobPredictor(Predicting(weights=str(tmp_path)))
    task = Task(formula="NaCl", units=(1,), samples=1, seed=0, folder=tmp_path)
    for what in (predictor.warm_up, lambda: predictor(task, lambda *_: None)):
        with pytest.raises(InputError, match=r"holds no config\.json"):
            what()


def test_progress_never_goes_back_and_is_not_said_too_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    told = [("sampling", 0.0), ("sampling", 1.0), ("sampling", 0.5), ("sampling", 1.0), ("ranking", 4.0),
            ("sampling", 2.0), ("report", 0.0)]  # fmt: skip
    with (tmp_path / "out").open("w") as out:
        tell = _Teller(out)
        for step, (stage, done) in enumerate(told):
            clock[0] += SECONDS_BETWEEN * (0.1 if step == 1 else 1.5)
            tell(stage, done, 4)
    said = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [(one["stage"], one["done"]) for one in said] == [
        ("sampling", 0.0), ("sampling", 0.5), ("sampling", 1.0), ("ranking", 4.0), ("report", 0.0)
    ]  # fmt: skip


def test_what_samples_were_made_with(tmp_path: Path) -> None:
    import dao

    told = Predicting().described()
    assert told == {"version": dao.__version__, "weights": "small", "weights_sha256": told["weights_sha256"]}
    gone = Predicting(weights="x", steps=3).described()
    assert gone == {"version": dao.__version__, "weights": "x", "steps": "3"}
    # weights that are trained anew in place are others
    predicting = Predicting(weights=str(tmp_path / "tiny"))
    tiny_generator().save(tmp_path / "tiny")
    before = predicting.described()
    assert predicting.described() == before
    tiny_generator(seed=1).save(tmp_path / "tiny")
    assert predicting.described()["weights_sha256"] != before["weights_sha256"]
