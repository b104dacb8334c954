from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folders import Fit, fitting
from safetensors.torch import load_file
from toys import tiny_predictor_recipe, toy_crystals, toy_energies, toy_splits, write_parquet, write_toml

from dao.cli import main
from dao.crystal import CrystalBatch
from dao.data.store import PackedCrystals
from dao.errors import InputError
from dao.model_config import PredictorConfig
from dao.models import Generator, Predictor, read_config
from dao.recipes.schema import PredictorRecipe


@pytest.fixture
def fit(tmp_path: Path, energy_file: Path) -> Fit:
    """Train by the tiny recipe with changes; returns the run's folder."""

    def recipe(**changes: Any) -> PredictorRecipe:
        return PredictorRecipe.model_validate(tiny_predictor_recipe(**changes))

    return fitting(tmp_path, energy_file, recipe)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_leaves_what_it_promises(fit: Fit) -> None:
    notes: list[str] = []
    out = fit(crystals=160, validation={"crystals": 3, "every": 80}, note=notes.append)
    assert notes == ["35 of 40 training crystals have a label 'e_above_hull'"]
    names = {"loss", "coordinates", "lattice", "energy", "clean", "clean_mae", "gradient_norm", "learning_rate"}
    log = rows(out / "log.csv")
    assert set(log[0]) == names | {"step", "crystals", "seconds"}
    assert all(math.isfinite(float(row[name])) for row in log for name in names)
    assert [list(row) for row in rows(out / "validation.csv")] == [
        ["step", "crystals", "seconds", "mae", "rmse", "bias"]
    ] * 2
    model = Predictor.load(out / "best")
    record = model.config.training
    assert record["recipe"]["task"] == "predictor"
    best = min(float(row["mae"]) for row in rows(out / "validation.csv"))
    assert record["best_validation_mae"] == pytest.approx(best, rel=1e-5)
    with pytest.raises(InputError, match="holds a predictor, and a generator is needed"):
        Generator.load(out / "best")


def test_the_scaler_and_the_trust_limits_are_saved(fit: Fit) -> None:
    out = fit(crystals=16)
    config = read_config(out / "last")
    assert isinstance(config, PredictorConfig)
    crystals, energies = toy_crystals(), toy_energies(toy_crystals())
    split = toy_splits(crystals)
    known = [(c, e) for c, e, part in zip(crystals, energies, split, strict=True) if part == "train" and e is not None]
    values = torch.tensor([energy for _, energy in known], dtype=torch.float64)
    tensors = load_file(out / "last" / "model.safetensors")
    assert math.isclose(float(tensors["energy_mean"]), float(values.mean()), rel_tol=1e-5)
    assert math.isclose(float(tensors["energy_deviation"]), float(values.std(correction=0)), rel_tol=1e-5)
    trust = config.trust
    assert trust.max_atoms == max(crystal.num_atoms for crystal, _ in known)
    assert set(trust.elements) == {int(z) for crystal, _ in known for z in crystal.atomic_numbers}
    assert trust.energy == pytest.approx((float(values.min()), float(values.max())), rel=1e-5)
    low, high = trust.volume_ratio
    assert 0.4 < low < 1.0 < high < 2.0


def test_it_learns(fit: Fit, energy_file: Path) -> None:
    before = fit("before", crystals=16)
    changes: dict[str, Any] = {"optimizer": {"learning_rate": 5e-3, "schedule": "constant_then_linear"}}
    after = fit("after", crystals=6400, validation={"crystals": 5, "every": 6400}, **changes)
    from dao.data.training_set import load_packed
    from dao.training.validation import energy_errors

    packed: PackedCrystals = load_packed(energy_file, split="train", labels=("e_above_hull",))
    known = packed.select(packed.labels["e_above_hull"].isfinite().nonzero()[:, 0])
    untrained, trained = (energy_errors(Predictor.load(out / "last"), known)["mae"] for out in (before, after))
    spread = float((known.labels["e_above_hull"] - known.labels["e_above_hull"].median()).abs().mean())
    assert trained < 0.5 * spread
    assert trained < 0.5 * untrained


def test_validation_errors_are_of_the_energies_that_are_given(fit: Fit) -> None:
    out = fit(crystals=32, validation={"crystals": 5, "every": 32})
    model = Predictor.load(out / "best")
    held_out = [
        (crystal, energy)
        for i, (crystal, energy) in enumerate(zip(toy_crystals(), toy_energies(toy_crystals()), strict=True))
        if i % 10 == 3 and energy is not None
    ]
    errors = []
    for crystal, energy in held_out:
        with torch.no_grad():
            errors.append(float(model.energy(CrystalBatch.from_crystals([crystal]))[0]) - energy)
    (row,) = rows(out / "validation.csv")
    assert float(row["mae"]) == pytest.approx(sum(map(abs, errors)) / len(errors), rel=1e-3)
    assert float(row["bias"]) == pytest.approx(sum(errors) / len(errors), rel=1e-3)


def test_the_best_is_the_least_error(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([0.3, 0.1, 0.2, 0.1, 0.4])
    monkeypatch.setattr("dao.training.tasks.energy_errors", lambda *_: {"mae": next(errors)})
    out = fit(crystals=320, validation={"crystals": 4, "every": 64})
    assert read_config(out / "best").training["crystals_seen"] == 128
    assert read_config(out / "last").training["best_validation_mae"] == 0.1


def test_finetuning_keeps_the_scaler(fit: Fit, tmp_path: Path) -> None:
    before = fit("before", crystals=16) / "last"
    few = tmp_path / "few.parquet"
    write_parquet(few, toy_crystals()[:8], split=["train"] * 8, e_above_hull=[0.5 + 0.1 * i for i in range(8)])
    after = fit("after", source=few, crystals=16, batch_size=4, initial_weights=str(before)) / "last"
    one, other = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert torch.equal(one["energy_mean"], other["energy_mean"])
    # which would be in other units
    with pytest.raises(InputError, match="trained with another beta"):
        fit("beta", source=few, crystals=16, batch_size=4, initial_weights=str(before), beta=2.0)


def test_finetuning_to_another_label_begins_its_energy_anew(fit: Fit, tmp_path: Path) -> None:
    before = fit("before", crystals=64) / "last"
    few = tmp_path / "few.parquet"
    gaps = [None if i == 3 else 1.0 + 0.5 * i for i in range(8)]
    write_parquet(few, toy_crystals()[:8], split=["train"] * 8, band_gap=gaps)
    still: dict[str, Any] = {"optimizer": {"learning_rate": 1e-12, "ema_decay": 0.0}}
    changes: dict[str, Any] = {"label": "band_gap", "source": few, "crystals": 4, "batch_size": 4, **still}
    # with another beta too: no energy of the old label is kept
    after = fit("after", initial_weights=str(before), beta=2.0, **changes) / "last"
    fresh = fit("fresh", beta=2.0, **changes) / "last"
    one, other, new = (load_file(folder / "model.safetensors") for folder in (before, after, fresh))
    head = {name for name in one if name.startswith("energy_head.")}
    assert head
    for name in one.keys() - head - {"energy_mean", "energy_deviation"}:
        assert torch.allclose(one[name], other[name], atol=1e-9), name
    # the fresh head's weights (its last bias may be zero in both) are those of a predictor made by the same seed
    for name in head:
        assert torch.allclose(new[name], other[name], atol=1e-9), name
    assert any(not torch.allclose(one[name], other[name], atol=1e-3) for name in head)
    known = torch.tensor([gap for gap in gaps if gap is not None])
    assert float(other["energy_mean"]) == pytest.approx(float(known.mean()))
    assert float(other["energy_deviation"]) == pytest.approx(float(known.std(correction=0)))
    model = Predictor.load(after)
    assert (model.config.label, model.config.beta) == ("band_gap", 2.0)
    assert model.config.trust.energy == (1.0, 4.5)
    history = model.config.training["pretraining"]
    assert history.endswith("with label 'e_above_hull', energy head and scaler begun anew")
    # and from there with the same label, as ever
    again = fit("again", initial_weights=str(after), **{**changes, "beta": 2.0}) / "last"
    assert torch.equal(load_file(again / "model.safetensors")["energy_mean"], other["energy_mean"])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"label": "enthalpy"}, "lacks column 'enthalpy'"),
        ({"label": "material_id"}, "material_id: could not convert string to float"),
        ({"validation": {"crystals": 3}, "data": {"validation_split": "none"}}, "nothing to validate on"),
    ],
)
def test_what_cannot_work_is_refused(fit: Fit, tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        fit(**changes)
    assert list(tmp_path.iterdir()) == []


def test_a_training_set_without_a_single_label_is_refused(fit: Fit, tmp_path: Path) -> None:
    source = tmp_path / "none.parquet"
    import pyarrow as pa

    write_parquet(source, toy_crystals(), e_above_hull=pa.array([None] * 50, pa.float32()))
    with pytest.raises(InputError, match="no crystal of the training set has a label 'e_above_hull'"):
        fit(source=source)


def test_the_second_label_can_be_switched_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_parquet(
        tmp_path / "few.parquet", toy_crystals()[:8], split=["train"] * 8, band_gap=[0.5 * i for i in range(8)]
    )
    tree = tiny_predictor_recipe(label="band_gap", crystals=8, batch_size=4, energy={"auxiliary": "formation_energy"})
    tree["data"] |= {"validation_file": "mp20.parquet"}
    arguments = [
        "train",
        str(write_toml(tmp_path / "tiny.toml", tree)),
        "--data",
        str(tmp_path / "few.parquet"),
        "--quiet",
    ]
    assert main([*arguments, "--out", str(tmp_path / "with")]) == 2
    assert "lacks column 'formation_energy'" in capsys.readouterr().err
    for number, nothing in enumerate(("", "none")):
        out = tmp_path / f"without-{number}"
        assert main([*arguments, "--out", str(out), "--set", f"energy.auxiliary={nothing}"]) == 0
        assert Predictor.load(out / "last").config.auxiliary is None


def test_a_missing_validation_file_is_named_with_its_key(fit: Fit) -> None:
    changes: dict[str, Any] = {"validation": {"crystals": 3}, "data": {"validation_file": "mp20.parquet"}}
    with pytest.raises(InputError, match=r"mp20\.parquet: no such file \(--set data\.validation_file=FILE"):
        fit(**changes)
    fit(crystals=16, **(changes | {"data": {"validation_file": "none"}}))


def test_resuming_with_another_beta_is_refused(fit: Fit) -> None:
    fit(crystals=160)
    with pytest.raises(InputError, match=r"beta is 1\.0 there and 2\.0 here"):
        fit(crystals=320, beta=2.0, resume=True)
    # what it weighs may change
    fit(crystals=320, energy={"clean_weight": 0.3}, resume=True)


def test_other_sources_of_labels(fit: Fit, tmp_path: Path) -> None:
    import ase.io

    atoms = [crystal.to_atoms() for crystal in toy_crystals()[:20]]
    for i, one in enumerate(atoms):
        if i % 3:
            one.info["e_above_hull"] = 0.01 * i
    ase.io.write(tmp_path / "own.extxyz", atoms)
    notes: list[str] = []
    fit(source=tmp_path / "own.extxyz", crystals=32, note=notes.append)
    assert notes == ["13 of 20 training crystals have a label 'e_above_hull'"]
