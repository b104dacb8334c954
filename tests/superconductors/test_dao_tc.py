from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from superconducting_toys import CRYSTALS

from dao.crystal import CrystalBatch
from dao.data.properties.superconductors import GROUPED
from dao.errors import InputError
from dao.prediction.ranking import Candidate
from dao.property_model import PropertyPredictor
from dao.superconductors.cross_validation import chosen_members, read_chosen
from dao.superconductors.tc import ENSEMBLE, WARNINGS, TcEnsemble, formula_records, load_tc

Run = Callable[..., tuple[int, str, str]]


def test_files_get_a_temperature_with_spread(trained: Path, run: Run, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "some.extxyz", [crystal.to_atoms() for crystal in CRYSTALS[:2]])
    arguments = ("tc", "some.extxyz", "--weights", "own", "--device", "cpu")
    code, out, err = run(*arguments, "--format", "json", "--out", "said")
    assert code == 0
    records = json.loads(out)
    members = [PropertyPredictor.load(folder) for (folder,) in chosen_members(trained)]
    assert len(members) == 2
    for crystal, record in zip(CRYSTALS[:2], records, strict=True):
        batch = CrystalBatch.from_crystals([crystal], dtype=torch.float32)
        with torch.no_grad():
            logs = [float(member.predict(batch)[0]) for member in members]
        mean, spread = np.mean(logs), np.std(logs)
        assert record["tc"] == pytest.approx(math.exp(mean), rel=1e-2)
        assert record["tc_low"] == pytest.approx(math.exp(mean - spread), rel=1e-2)
        assert record["tc_high"] == pytest.approx(math.exp(mean + spread), rel=1e-2)
    assert all(text in err for text in WARNINGS)
    assert f"a factor of {math.exp(read_chosen(trained)['mae']):.1f} either way" in err
    saved = json.loads((tmp_path / "said" / "tc.json").read_text())
    assert saved["records"] == records
    assert list(WARNINGS) == saved["warnings"][1:]
    assert len((tmp_path / "said" / "tc.csv").read_text().splitlines()) == 3
    code, out, err = run(*arguments, "--quiet")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split()[:3] == ["input", "structure", "formula"]
    assert "rank" not in out


def candidate(rank: int, confidence: float | None) -> Candidate:
    return Candidate(
        rank=rank, formula="NaCl", crystal=CRYSTALS[rank], space_group="Fm-3m", space_group_number=225, symprec=0.1,
        formula_units=1, count=1, samples=2, source="generator", confidence=confidence,
    )  # fmt: skip


@pytest.mark.parametrize("confidences", [(None, None), (0.75, 0.25)])
def test_candidates_count_by_confidence(trained: Path, confidences: tuple[float | None, float | None]) -> None:
    ensemble = load_tc(str(trained), "cpu")
    candidates = [candidate(1, confidences[0]), candidate(2, confidences[1])]
    values = ensemble.predictors.predict([one.crystal for one in candidates]).numpy()
    every, *each = formula_records(ensemble, "NaCl", candidates)
    weights = np.array([0.5, 0.5] if confidences[0] is None else [0.75, 0.25])
    mean = (values.mean(0) * weights).sum()
    spread = math.sqrt((((values - mean) ** 2).mean(0) * weights).sum())
    assert every["structure"] == "all 2 candidates"
    assert every["tc"] == pytest.approx(math.exp(mean), rel=1e-2)
    assert every["tc_high"] == pytest.approx(math.exp(mean + spread), rel=1e-2)
    assert [record["rank"] for record in each] == [1, 2]
    assert each[1]["tc"] == pytest.approx(math.exp(values[:, 1].mean()), rel=1e-2)
    with pytest.raises(InputError, match="no structure was predicted"):
        formula_records(ensemble, "NaCl", [])


@pytest.mark.usefixtures("trained")
def test_formulas_are_predicted_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def predict(formula: str, samples: int, **options: Any) -> list[Candidate]:
        asked.append((formula, samples, options))
        return [candidate(rank, 0.5) for rank in (1, 2, 3)]

    monkeypatch.setattr("dao.prediction.pipeline.predict", predict)
    code, out, _ = run(
        "tc", "NaCl", "--weights", "own", "--top", "2", "--samples", "7", "--cells", "2", "--device", "cpu"
    )
    assert code == 0
    assert asked == [("NaCl", 7, {"cells": "2", "seed": 0, "device": "cpu", "weights": "small"})]
    assert [line.split()[1] for line in out.splitlines()[2:]] == ["all", "candidate", "candidate"]


@pytest.mark.parametrize(("confidences", "doubtful"), [((None, None), False), ((0.3, 0.1), False), ((0.29, 0.1), True)])
def test_low_confidence_is_doubted(
    trained: Path, confidences: tuple[float | None, float | None], *, doubtful: bool
) -> None:
    ensemble = load_tc(str(trained), "cpu")
    every, *_ = formula_records(ensemble, "NaCl", [candidate(k, one) for k, one in enumerate(confidences, start=1)])
    assert every["doubts"] == ("largest confidence 0.29: likely none of these is right" if doubtful else "")


@pytest.mark.usefixtures("trained")
def test_one_formula_that_fails_stops_no_other(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(formula: str, *_: Any, **__: Any) -> list[Candidate]:
        if formula == "KCl":
            raise InputError("cells are too large")
        return [candidate(1, 0.5)] if formula == "NaCl" else []

    monkeypatch.setattr("dao.prediction.pipeline.predict", predict)
    (tmp_path / "broken.cif").write_text("no crystal")
    own = ("--weights", "own", "--device", "cpu")
    code, out, err = run("tc", "KCl", "NaCl", "LiCl", "broken.cif", *own, "--out", "said", "--format", "json")
    assert code == 3
    assert [record["input"] for record in json.loads(out)] == ["NaCl", "NaCl"]
    reasons = [one["reason"] for one in json.loads((tmp_path / "said" / "failures.json").read_text())]
    for reason, words in zip(reasons, ("broken.cif", "KCl: cells are too large", "'LiCl': no structure"), strict=True):
        assert words in reason
        assert f"left out: {reason}" in err
    code, out, err = run("tc", "KCl", "LiCl", *own)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "KCl: cells are too large" in err


@pytest.mark.usefixtures("trained")
def test_large_cells_go_to_a_generator_that_knows_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def predict(*_: Any, weights: str, **__: Any) -> list[Candidate]:
        asked.append(weights)
        return [candidate(1, 0.5)]

    monkeypatch.setattr("dao.prediction.pipeline.predict", predict)
    for arguments, weights in (
        (("Zr4Rh2O", "--cells", "4"), "small-52"),  # 28 atoms
        (("Zr4Rh2O", "--cells", "2"), "small"),
        (("Zr4Rh2O",), "small"),
        (("Ba7CaSi20",), "small-52"),
        (("Zr4Rh2O", "--cells", "9"), "small-52"),  # beyond them both
        (("Zr4Rh2O", "--cells", "4", "--generator", "mine"), "mine"),
    ):
        code, _, err = run("tc", *arguments, "--weights", "own", "--device", "cpu")
        assert (code, asked.pop()) == (0, weights)
        assert ("atoms by small-52" in err) == (weights == "small-52")


def test_both_errors_are_said(trained: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    predictors = load_tc(str(trained), "cpu").predictors
    first, *rest = TcEnsemble(predictors, math.log(2.0), math.log(2.5)).warnings()
    assert "a factor of 2.0 either way of compounds with relatives in the training set" in first
    assert "a factor of 2.5 either way of new chemical systems" in first
    assert rest == list(WARNINGS) == TcEnsemble(predictors, None).warnings()
    # by its name, what ships; its errors are beside it
    shelf = trained.parent / "shelf"
    for number, (member,) in enumerate(chosen_members(trained)):
        shutil.copytree(member, shelf / f"member-{number + 3}")
    (shelf / ENSEMBLE).write_text(json.dumps({"random": {"mae": 0.5}, "grouped": {"mae": 0.75}}))
    for module in ("dao.superconductors.tc", "dao.weights"):
        monkeypatch.setattr(f"{module}.shipped_tc", lambda: shelf)
    for name in (None, "tc"):
        ensemble = load_tc(name, "cpu")
        assert (ensemble.error, ensemble.grouped_error, len(ensemble.predictors.members)) == (0.5, 0.75, 2)
    code, out, _ = run("weights", "info", "tc")
    assert code == 0
    assert "ln_tc" in out
    # folds by chemical system say how new ones fare
    for path in (trained / "chosen.json", *trained.glob("rate-*/run.json"), trained / "run.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": GROUPED}))
    ensemble = load_tc(str(trained), "cpu")
    assert (ensemble.error, ensemble.grouped_error) == (None, read_chosen(trained)["mae"])


def test_a_temperature_beyond_all_known_ones_is_doubted(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = load_tc(str(trained), "cpu")
    highest = max(member.config.trust.energy[1] for member in ensemble.predictors.members)
    doubt = f"above every critical temperature it has seen ({math.exp(highest):.0f} K)"
    for shift, doubted in ((-0.1, False), (0.1, True)):
        values = torch.full((len(ensemble.predictors.members), 1), highest + shift, dtype=torch.float64)
        monkeypatch.setattr("dao.prediction.properties.PropertyEnsemble.predict", lambda *_, said=values, **__: said)
        _, record = formula_records(ensemble, "NaCl", [candidate(1, None)])
        assert (doubt in record["doubts"]) is doubted
