"""``dao evaluate energies`` from end to end, with labels planted beside what the predictor says."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import listing, tiny_generator, tiny_predictor, toy_crystals, write_parquet

from dao.cli import main
from dao.crystal import Crystal
from dao.models import Predictor
from dao.prediction.energies import PredictedEnergy, predict_energies

CRYSTALS = toy_crystals()
OFFSET = 0.05
EXACT = [i % 3 != 0 for i in range(len(CRYSTALS))]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("energies")
    model = tiny_predictor()
    model.save(made / "weights")
    tiny_generator().save(made / "generator")
    other = tiny_predictor()
    other.config = replace(other.config, label="band_gap")
    other.save(made / "gap")
    # of training, validation and test crystals alike; those that are not exact have no label
    energies = predict_energies(model, CRYSTALS)
    labels = [energy + OFFSET if exact else None for energy, exact in zip(energies, EXACT, strict=True)]
    splits = ["train"] * 20 + ["val"] * 10 + ["test"] * 20
    nothing = [float("nan")] * len(CRYSTALS)
    columns: dict[str, list[Any]] = {"split": splits, "exact": EXACT, "e_above_hull": labels, "nothing": nothing}
    write_parquet(made / "set.parquet", CRYSTALS, **columns)
    return made


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the verb in an empty folder; ``@`` stands for the folder of the fixture."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, weights: str = "@/weights", data: str = "@/set.parquet") -> tuple[int, str, str]:
        given = ["evaluate", "energies", "--weights", weights, "--data", data, "--device", "cpu", "--quiet", *arguments]
        code = main([argument.replace("@", str(folder)) for argument in given])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def lines(folder: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(folder, "energies.csv").read_text().splitlines()))


def test_planted_labels(run: Run) -> None:
    code, out, err = run("--train", "@/set.parquet", "--format", "json", "--out", "made")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found == json.loads(Path("made/energies.json").read_text())
    predictor, zero, *_ = found["methods"]
    assert predictor["name"] == "predictor"
    figures = predictor["agreement"]
    assert [figures[name]["value"] for name in ("mae", "rmse", "bias")] == pytest.approx(
        [OFFSET, OFFSET, -OFFSET], 1e-4
    )
    assert figures["spearman"]["value"] == pytest.approx(1.0)

    # the test split, its exact crystals only
    rows = lines("made")
    assert [row["id"] for row in rows] == [CRYSTALS[i].name for i in range(30, 50) if EXACT[i]]
    labels = np.array([float(row["label"]) for row in rows])
    assert zero["name"] == "0"
    assert zero["agreement"]["mae"]["value"] == pytest.approx(np.abs(labels).mean())
    assert zero["agreement"]["spearman"]["value"] is None
    assert all(float(row["label"]) - float(row["energy"]) == pytest.approx(OFFSET, abs=2e-5) for row in rows)
    assert {row["expected_error"] for row in rows} == {""}
    assert found["uncertainty"] is None
    assert sum(group["crystals"] for group in found["label_groups"]) == len(rows)
    # an untrained predictor trusts in nothing
    assert [group["crystals"] for group in found["doubt_groups"]] == [0, len(rows)]
    assert [method["name"] for method in found["methods"]][2:] == [
        "training mean",
        "training median",
        "linear in element fractions",
        "same composition in training",
    ]
    assert {path.name for path in Path("made").iterdir()} == {"energies.csv", "energies.json", "report.md", "figures"}
    assert "![Energy against label, error by label](figures/energies.png)" in Path("made/report.md").read_text()
    assert Path("made/figures/energies.png").stat().st_size > 10_000


@pytest.fixture
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dao.evaluation.energies.write_energy_figure", lambda *_: ("Figure", "none.png"))


@pytest.mark.usefixtures("no_figure")
def test_a_fixed_subset_and_the_same_files_again(run: Run) -> None:
    code, out, _ = run("--split", "train", "--count", "5", "--out", "made")
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()[2:]] == ["predictor", "0"]
    first = listing([Path("made")])
    assert run("--split", "train", "--count", "5", "--out", "made", "--batch-size", "2")[0] == 0
    assert listing([Path("made")]) == first
    ids = [row["id"] for row in lines("made")]
    assert len(ids) == 5
    assert set(ids) <= {CRYSTALS[i].name for i in range(20) if EXACT[i]}
    assert run("--split", "train", "--count", "5", "--out", "other", "--seed", "1")[0] == 0
    assert [row["id"] for row in lines("other")] != ids


def test_expected_errors(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(model: Predictor, crystals: Sequence[Crystal], **_: Any) -> list[PredictedEnergy]:
        energies = predict_energies(model, crystals)
        return [PredictedEnergy(energy, OFFSET / 4) for energy in energies]

    monkeypatch.setattr("dao.evaluation.energies.predict_with_errors", predict)
    code, out, _ = run("--split", "val", "--format", "json", "--out", "made")
    assert code == 0
    found = json.loads(out)["uncertainty"]
    assert found["factor"]["value"] == pytest.approx(4.0, 1e-3)
    assert found["spearman"]["value"] is None
    rows = lines("made")
    assert {float(row["expected_error"]) for row in rows} == {OFFSET / 4}
    page = Path("made/report.md").read_text()
    assert "## Expected errors" in page
    assert "### Calibration" in page
    assert Path("made/figures/energies.svg").read_text().count("Calibration, bins of equal count") == 1


@pytest.mark.usefixtures("no_figure")
def test_an_energy_that_is_not_finite_is_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(model: Predictor, crystals: Sequence[Crystal], **_: Any) -> list[PredictedEnergy]:
        energies = [float("nan"), *predict_energies(model, crystals)[1:]]
        return [PredictedEnergy(energy, None) for energy in energies]

    with monkeypatch.context() as patch:
        patch.setattr("dao.evaluation.energies.predict_with_errors", predict)
        code, out, err = run("--format", "json", "--out", "made")
    assert code == 3
    assert err.startswith("1 energies are not finite")
    assert json.loads(out)["methods"][0]["agreement"]["mae"]["value"] == pytest.approx(OFFSET, 1e-4)
    first = next(CRYSTALS[i].name for i in range(30, 50) if EXACT[i])
    assert [one["id"] for one in json.loads(Path("made/failures.json").read_text())] == [first]
    # mended: the file of failures goes
    assert run("--out", "made")[0] == 0
    assert not Path("made/failures.json").exists()

    def nothing(_: Predictor, crystals: Sequence[Crystal], **__: Any) -> list[PredictedEnergy]:
        return [PredictedEnergy(float("inf"), None)] * len(crystals)

    monkeypatch.setattr("dao.evaluation.energies.predict_with_errors", nothing)
    code, _, err = run("--out", "none")
    assert code == 2
    assert "no energy of the predictor is finite" in err


@pytest.mark.parametrize(
    ("arguments", "changes", "complaint"),
    [
        (["--label", "nothing"], {}, "set.parquet: no crystal has a label 'nothing'"),
        (["--label", "absent"], {}, "lacks column 'absent'"),
        (["--label", "material_id"], {}, "material_id: "),
        (["--split", "nowhere"], {}, "has no rows of split 'nowhere'"),
        (["--count", "0"], {}, "--count"),
        (["--train", "nowhere.parquet"], {}, "'nowhere.parquet': neither a file or folder nor"),
        (["--train", "@/set.parquet:train,val"], {}, "names more than one split"),
        (["--train", "@/set.parquet:test"], {}, "no crystal with a label 'e_above_hull' besides the evaluated ones"),
        (["--device", "abacus"], {}, "--device 'abacus'"),
        (["--out", "@/set.parquet"], {}, "is not a folder"),
        ([], {"data": "nowhere"}, "--data 'nowhere': neither a file or folder nor"),
        ([], {"weights": "nothing"}, "weights 'nothing': neither shipped"),
        ([], {"weights": "@/generator"}, "holds a generator, and a predictor is needed"),
        (["--label", "e_above_hull"], {"weights": "@/gap"}, "the predictor gives band_gap"),
    ],
)
def test_bad_input_is_one_line(run: Run, arguments: list[str], changes: dict[str, str], complaint: str) -> None:
    code, out, err = run(*arguments, **changes)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert complaint in err
    assert list(Path().iterdir()) == []


def test_labels_keep_their_bin(folder: Path, tmp_path: Path) -> None:
    # 0.2 is 0.2000000030 in float32, and belongs below
    from dao.evaluation.energies import load_labelled

    write_parquet(tmp_path / "edge.parquet", CRYSTALS[:2], split=["val"] * 2, e_above_hull=[0.2, 0.08])
    found = load_labelled(tmp_path / "edge.parquet", label="e_above_hull")
    assert found.labels.tolist() == [0.2, 0.08]
    assert torch.tensor(0.2).double().item() > 0.2
    assert "2 crystals with e_above_hull, of 2" in found.note()
    some = load_labelled(folder / "set.parquet", split="val", label="e_above_hull", count=5)
    assert f"5 of {sum(EXACT[20:30])} crystals with e_above_hull, a fixed random subset, of 10" in some.note()
