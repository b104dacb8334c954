from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_folders import figures
from safetensors.torch import load_file
from toys import tiny_predictor, toy_crystals, write_parquet

import dao.training.fit
from dao.data.properties import load_property
from dao.data.properties.base import PropertyData
from dao.errors import InputError
from dao.property_model import PropertyPredictor
from dao.recipes.schema import check_recipe
from dao.training.finetune import FinetuneSettings, finetune, inner_split, read_run, recipe_of, summarise
from dao.training.property_task import predict_packed

CRYSTALS = toy_crystals()

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    tiny_predictor().save(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PropertyData:
    """The volume per atom of the toys, in two random folds."""
    path = tmp_path_factory.mktemp("data") / "toys.csv"
    extxyz = path.with_suffix(".extxyz")
    from ase.io import write

    frames = []
    for crystal in CRYSTALS:
        atoms = crystal.to_atoms()
        atoms.info = {"material_id": crystal.material_id, "vpa": crystal.volume_per_atom}
        frames.append(atoms)
    write(extxyz, frames)
    return load_property(str(extxyz), target="vpa", unit="A^3", random_folds=2)


@pytest.fixture
def run(tmp_path: Path, data: PropertyData, weights: Path) -> Run:
    def call(name: str = "run", folds: list[str] | None = None, **changes: Any) -> dict[str, Any]:
        options: dict[str, Any] = {"epochs": 12, "batch_size": 8, "learning_rate": 3e-3, "precision": "float32"}
        settings = FinetuneSettings(**{"weights": weights, **options, **changes})
        return finetune(data, settings, out=tmp_path / name, folds=folds, device="cpu", progress=False)

    return call


def test_all_folds_are_learned_and_reported(run: Run, tmp_path: Path, data: PropertyData) -> None:
    results = run(members=2, learning_rate=1e-2)
    out = tmp_path / "run"
    assert json.loads((out / "results.json").read_text()) == results
    assert [fold["name"] for fold in results["folds"]] == ["0", "1"]
    assert results["complete"]
    assert results["mae"] < 0.7 * results["baseline_mae"]
    for fold, rows in zip(results["folds"], data.folds, strict=True):
        folder = out / f"fold-{fold['name']}"
        assert fold["members"] == 2
        assert fold["train"] + fold["validation"] == len(rows.train)
        # figures are those of the saved weights on the test crystals, and of their mean
        said, labels = [], data.labels[rows.test].double()
        for seed in ("seed-0", "seed-1"):
            with (folder / seed / "test.csv").open(newline="") as stream:
                lines = list(csv.DictReader(stream))
            assert [line["material_id"] for line in lines] == [data.crystals.ids[i] for i in rows.test.tolist()]
            model = PropertyPredictor.load(folder / seed / "best")
            assert (model.config.label, model.config.unit) == ("vpa", "A^3")
            values = predict_packed(model, data.crystals.select(rows.test))
            np.testing.assert_allclose([float(line["prediction"]) for line in lines], values, rtol=1e-6)
            said.append(values)
        assert not torch.equal(*said)
        assert fold["mae"] == pytest.approx(float((sum(said) / 2 - labels).abs().mean()), rel=1e-5)
        train = len(rows.train) - fold["validation"]
        mean = data.labels[inner_split(rows.train, 0)[0]].double().mean()
        assert train == len(inner_split(rows.train, 0)[0])
        assert fold["baseline_mae"] == pytest.approx(float((labels - mean).abs().mean()), rel=1e-5)
    assert results["mae"] == pytest.approx(np.mean([fold["mae"] for fold in results["folds"]]))
    assert results["mae_sd"] == pytest.approx(np.std([fold["mae"] for fold in results["folds"]]))


def test_test_crystals_are_never_trained_or_chosen_on(data: PropertyData) -> None:
    for fold in data.folds:
        train, validation = inner_split(fold.train, 3)
        sets = [set(rows.tolist()) for rows in (train, validation, fold.test)]
        assert sum(map(len, sets)) == len(set.union(*sets)) == len(CRYSTALS)
        again = inner_split(fold.train, 3)
        assert torch.equal(train, again[0])
        assert torch.equal(validation, again[1])


def test_a_broken_run_goes_on_as_if_it_had_not(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("whole", epochs=6)
    monkeypatch.setattr("dao.training.finetune.RecordRecipe", lambda **_: _every_step())
    steps = dao.training.fit._Run._step
    count = 0

    def killed(self: Any) -> Any:
        nonlocal count
        count += 1
        if count in (5, 20):
            raise KeyboardInterrupt
        return steps(self)

    monkeypatch.setattr(dao.training.fit._Run, "_step", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run("broken", epochs=6)
    run("broken", epochs=6)
    for name in ("fold-0/seed-0", "fold-1/seed-0"):
        one, other = tmp_path / "whole" / name, tmp_path / "broken" / name
        assert figures(one / "validation.csv") == figures(other / "validation.csv")
        for file in ("best/model.safetensors", "last/model.safetensors", "test.csv"):
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


def _every_step() -> Any:
    from dao.recipes.schema import RecordRecipe

    return RecordRecipe(checkpoint_seconds=0.0)


def test_a_finished_run_is_left_as_it_is(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(epochs=2, folds=["1"])
    assert not first["complete"]
    assert [fold["name"] for fold in first["folds"]] == ["1"]
    monkeypatch.setattr("dao.training.finetune._train", lambda *_, **__: pytest.fail("trained again"))
    assert run(epochs=2, folds=["1"]) == first
    with pytest.raises(InputError, match=r"holds another run \(epochs is 2 there and 3 here\)"):
        run(epochs=3)
    with pytest.raises(InputError, match="toys has no fold '7', only 0, 1"):
        run(folds=["7"])
    with pytest.raises(InputError, match="holds no run"):
        read_run(tmp_path)
    (tmp_path / "run" / "fold-1" / "seed-0" / "test.csv").unlink()
    with pytest.raises(InputError, match="none of its trainings is finished"):
        summarise(tmp_path / "run")


def test_the_trunk_starts_where_it_was_pretrained(run: Run, tmp_path: Path, weights: Path) -> None:
    run("frozen", trunk_rate=0.0, epochs=2, folds=["0"])
    run("trained", epochs=2, folds=["0"])
    run("scratch", from_scratch=True, trunk_rate=0.0, epochs=2, folds=["0"])
    before = load_file(weights / "model.safetensors")
    after = {
        name: load_file(tmp_path / name / "fold-0/seed-0/last/model.safetensors")
        for name in ("frozen", "trained", "scratch")
    }
    trunk = [name for name in before if name.startswith(("network.", "process."))]
    assert all(torch.equal(before[name], after["frozen"][name]) for name in trunk)
    moved = sum(not torch.equal(before[name], after["trained"][name]) for name in trunk)
    assert moved > len(trunk) / 2
    assert not torch.equal(before["network.atom.weight"], after["scratch"]["network.atom.weight"])
    names = ("pretraining", "recipe")
    records = {name: _training(tmp_path / name / "fold-0/seed-0/last") for name in after}
    assert records["scratch"][names[0]] == ""
    assert "with label 'e_above_hull'" in records["trained"][names[0]]


def _training(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "config.json").read_text())["training"]
    return record


def test_weights_of_another_property_are_a_start_too(run: Run, tmp_path: Path) -> None:
    run("first", epochs=2, folds=["0"])
    start = tmp_path / "first/fold-0/seed-0/best"
    run("second", weights=start, trunk_rate=0.0, epochs=2, folds=["0"])
    before, after = (
        load_file(folder / "model.safetensors") for folder in (start, tmp_path / "second/fold-0/seed-0/last")
    )
    assert torch.equal(before["network.atom.weight"], after["network.atom.weight"])


def test_patience_stops_a_training_that_gets_no_better(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = iter(range(1, 1000))
    monkeypatch.setattr(
        "dao.training.property_task.PropertyTask.validate", lambda *_: {"mae": float(next(worse)), "rmse": 0.0}
    )
    run(patience=3, folds=["0"])
    record = _training(tmp_path / "run/fold-0/seed-0/last")
    # the first validation is the best, and three more are none
    assert len(figures(tmp_path / "run/fold-0/seed-0/validation.csv")) == 4
    assert record["epochs"] == pytest.approx(4.0, abs=0.5)
    assert record["best_validation_mae"] == 1.0


def test_recipes_say_what_was_asked(data: PropertyData, weights: Path) -> None:
    settings = FinetuneSettings(weights=weights, epochs=7, batch_size=8, trunk_rate=0.5)
    recipe = recipe_of(data, data.folds[1], settings, 5, 40)
    assert (recipe.crystals, recipe.seed, recipe.fold, recipe.label) == (280, 5, "1", "vpa")
    assert recipe.initial_weights == str(weights)
    assert recipe.optimizer.warmup_steps == 1
    assert recipe.validation.every == 28
    assert check_recipe(recipe.model_dump(mode="json")) == recipe
    assert recipe_of(data, data.folds[1], replace(settings, from_scratch=True), 5, 40).initial_weights is None


def test_a_fixed_validation_set_is_used(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "split.parquet"
    write_parquet(path, CRYSTALS, vpa=[crystal.volume_per_atom for crystal in CRYSTALS])
    known = load_property(str(path), target="vpa")
    settings = FinetuneSettings(weights=weights, epochs=1, precision="float32")
    results = finetune(known, settings, out=tmp_path / "run", device="cpu", progress=False)
    (fold,) = results["folds"]
    assert (fold["train"], fold["validation"], fold["test"]) == (40, 5, 5)
