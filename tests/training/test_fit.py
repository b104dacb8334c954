from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from run_folders import Fit, recipe
from safetensors.torch import load_file
from toys import listing, tiny_recipe, toy_crystals, write_parquet

import dao.training.fit
from dao.crystal import Crystal
from dao.data.training_set import load_packed
from dao.errors import InputError
from dao.models import Generator, read_config
from dao.recipes.schema import OptimizerRecipe, Recipe
from dao.training.checkpoint import latest_checkpoint, load_checkpoint
from dao.training.fit import learning_rate_factor, train
from dao.training.tasks import task_of
from dao.training.validation import ValidationResult, validation_crystals


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def settings(**changes: Any) -> OptimizerRecipe:
    return OptimizerRecipe(**{"warmup_steps": 10, "final_rate": 0.1, **changes})


@given(steps=st.integers(30, 5000), share=st.floats(0.0, 1.0))
def test_cosine(steps: int, share: float) -> None:
    step = 10 + int(share * (steps - 10))
    done = (step - 10) / (steps - 10)
    expected = 0.1 + 0.9 * (1.0 + math.cos(math.pi * done)) / 2.0
    assert math.isclose(learning_rate_factor(settings(schedule="cosine"), step, steps), expected)


@given(steps=st.integers(30, 5000), share=st.floats(0.0, 1.0), decay=st.floats(0.05, 1.0))
def test_constant_then_linear(steps: int, share: float, decay: float) -> None:
    step = 10 + int(share * (steps - 10))
    done = (step - 10) / (steps - 10)
    expected = 1.0 if done <= 1.0 - decay else 0.1 + 0.9 * (1.0 - done) / decay
    found = learning_rate_factor(settings(schedule="constant_then_linear", decay_share=decay), step, steps)
    assert math.isclose(found, expected, rel_tol=1e-9)


@pytest.mark.parametrize("schedule", ["cosine", "constant_then_linear", "constant"])
def test_warm_up_and_ends(schedule: str) -> None:
    chosen = settings(schedule=schedule)
    assert [learning_rate_factor(chosen, step, 100) for step in range(10)] == [(i + 1) / 10 for i in range(10)]
    assert learning_rate_factor(chosen, 10, 100) == 1.0
    assert math.isclose(learning_rate_factor(chosen, 100, 100), 1.0 if schedule == "constant" else 0.1)
    assert learning_rate_factor(settings(schedule=schedule, warmup_steps=0), 0, 100) == 1.0
    # a warm-up longer than the run
    assert learning_rate_factor(settings(schedule=schedule, warmup_steps=200), 99, 100) == 0.5


def load_crystals(path: Path, split: str) -> list[Crystal]:
    packed = load_packed(path, split=split)
    return [packed.crystal(i) for i in range(len(packed))]


def test_a_run_leaves_what_it_promises(fit: Fit, toy_file: Path) -> None:
    out = fit(crystals=160)
    assert sorted(path.name for path in out.iterdir()) == [
        "best",
        "checkpoint-000000010",
        "last",
        "log.csv",
        "recipe.json",
    ]
    log = rows(out / "log.csv")
    assert [int(row["step"]) for row in log] == list(range(1, 11))
    assert [int(row["crystals"]) for row in log] == list(range(16, 161, 16))
    names = ["loss", "coordinates", "lattice", "space_group", "gradient_norm", "learning_rate"]
    assert list(log[0]) == ["step", "crystals", "seconds", *names]
    assert all(math.isfinite(float(row[name])) for row in log for name in names)
    record = Generator.load(out / "last").config.training
    assert record["recipe"] == json.loads(json.dumps(recipe(crystals=160).model_dump(mode="json")))
    assert (record["steps"], record["crystals_seen"]) == (10, 160)
    assert record["data"] == "toys.parquet, split train, 40 crystals"
    pairs = [crystal for crystal in load_crystals(toy_file, "train") if crystal.num_atoms == 2]
    assert Generator.load(out / "last").config.cells["2"] == {"1": len(pairs)}


def test_it_learns(fit: Fit) -> None:
    log = rows(fit(crystals=1600, optimizer={"learning_rate": 3e-3, "schedule": "constant"}) / "log.csv")
    losses = [float(row["lattice"]) for row in log]
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_recipe_decides_the_weights(fit: Fit) -> None:
    one, same, other = fit("a", crystals=160), fit("b", crystals=160), fit("c", crystals=160, seed=1)
    assert all(torch.equal(value, weights(same / "last")[name]) for name, value in weights(one / "last").items())
    assert (one / "last" / "model.safetensors").read_bytes() == (same / "last" / "model.safetensors").read_bytes()
    assert (one / "last" / "model.safetensors").read_bytes() != (other / "last" / "model.safetensors").read_bytes()
    assert all(torch.equal(value, weights(one / "best")[name]) for name, value in weights(one / "last").items())


def test_accumulation_counts_as_one_larger_batch(fit: Fit) -> None:
    log = rows(fit(crystals=320, batch_size=8, accumulate=4) / "log.csv")
    assert [int(row["crystals"]) for row in log] == list(range(32, 321, 32))
    plain = rows(fit("plain", crystals=320, batch_size=32) / "log.csv")
    assert [row["learning_rate"] for row in log] == [row["learning_rate"] for row in plain]
    assert math.isclose(float(log[0]["loss"]), float(plain[0]["loss"]), rel_tol=0.3)


def one_step(toy_file: Path, tmp_path: Path, **optimizer: Any) -> dao.training.fit._Run:
    chosen = recipe(optimizer=optimizer)
    training_set = load_packed(toy_file, split="train")
    task = task_of(chosen, toy_file)
    run = dao.training.fit._Run(chosen, task, training_set, torch.device("cpu"), tmp_path, toy_file, print)
    figures = run._step()
    assert float(figures["gradient_norm"]) > 0.1  # before clipping
    return run


def gradients(run: dao.training.fit._Run) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in run.parameters if parameter.grad is not None])


def test_kinds_of_clipping(toy_file: Path, tmp_path: Path) -> None:
    free = gradients(one_step(toy_file, tmp_path, gradient_clip=1e6))
    norm = gradients(one_step(toy_file, tmp_path, gradient_clip=0.05))
    torch.testing.assert_close(norm, free * 0.05 / free.norm(), rtol=1e-4, atol=1e-8)
    value = gradients(one_step(toy_file, tmp_path, gradient_clip=0.01, gradient_clip_kind="value"))
    torch.testing.assert_close(value, free.clamp(-0.01, 0.01))
    assert float(free.abs().max()) > 0.01


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_optimizers(toy_file: Path, tmp_path: Path, kind: str) -> None:
    run = one_step(toy_file, tmp_path, kind=kind, weight_decay=0.1, warmup_steps=0)
    assert type(run.optimizer).__name__.lower() == kind


def test_bfloat16_keeps_the_weights_in_float32(fit: Fit) -> None:
    out = fit(crystals=160, precision="bfloat16")
    for tensors in (weights(out / "last"), load_checkpoint(latest_checkpoint(out) or out).tensors):
        floating = [value for value in tensors.values() if value.is_floating_point()]
        assert {value.dtype for value in floating} == {torch.float32}
        assert all(bool(value.isfinite().all()) for value in floating)
    full = rows(fit("full", crystals=160) / "log.csv")
    for low, high in zip(rows(out / "log.csv"), full, strict=True):
        assert low["loss"] != high["loss"]
        assert math.isclose(float(low["loss"]), float(high["loss"]), rel_tol=0.05)


def test_snapshots_are_the_averaged_weights_along_the_way(fit: Fit) -> None:
    out = fit(crystals=320, record={"snapshot_crystals": 100})
    folders = sorted((out / "snapshots").iterdir())
    # the first step of 16 crystals at or past each hundred after the last
    assert [folder.name for folder in folders] == ["0000000112", "0000000224"]
    records = [read_config(folder).training for folder in folders]
    assert [record["crystals_seen"] for record in records] == [112, 224]
    assert 0.0 < records[0]["cpu_hours"] <= records[1]["cpu_hours"]
    shorter = fit("shorter", crystals=112, optimizer={"schedule": "constant"}, record={"snapshot_crystals": 112})
    longer = fit("longer", crystals=320, optimizer={"schedule": "constant"}, record={"snapshot_crystals": 112})
    same, kept = weights(shorter / "last"), weights(longer / "snapshots" / "0000000112")
    assert all(torch.equal(value, kept[name]) for name, value in same.items())
    assert not (fit("none", crystals=64) / "snapshots").exists()


def test_cspnet_trains_by_the_same_recipe(toy_file: Path, tmp_path: Path) -> None:
    network = {"kind": "cspnet", "width": 12, "blocks": 2, "frequencies": 3, "time_features": 8}
    tree = tiny_recipe() | {"network": network}
    assert Recipe.model_validate(tree).network.kind == "cspnet"
    train(Recipe.model_validate(tree), out=tmp_path / "cspnet", data=toy_file, device="cpu", progress=False)
    losses = [float(row["loss"]) for row in rows(tmp_path / "cspnet" / "log.csv")]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_shards_train_as_one_file_does(fit: Fit, toy_file: Path, tmp_path: Path) -> None:
    table = pq.read_table(toy_file)
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, some in enumerate((table.slice(0, 21), table.slice(21))):
        pq.write_table(some, shards / f"shard-0000{number}.parquet")
    one, many = fit("one", crystals=32), fit("many", crystals=32, source=shards)
    assert (many / "last" / "model.safetensors").read_bytes() == (one / "last" / "model.safetensors").read_bytes()


def test_finetuning_starts_from_other_weights(fit: Fit, tmp_path: Path) -> None:
    before = fit("before", crystals=160) / "last"
    after = fit("after", crystals=16, initial_weights=str(before), optimizer={"learning_rate": 1e-12}) / "last"
    first, second = weights(before), weights(after)
    assert all(torch.allclose(value, second[name], atol=1e-6) for name, value in first.items())
    assert not all(torch.allclose(value, first[name], atol=1e-3) for name, value in weights(fit("x") / "last").items())
    assert "0.00 M crystals of toys.parquet" in read_config(after).training["pretraining"]
    # scalers are the pretraining's, whatever is trained on now
    few = tmp_path / "few.parquet"
    write_parquet(few, toy_crystals()[:6], split=["train"] * 6)
    scaled = weights(fit("few", source=few, crystals=16, batch_size=2, initial_weights=str(before)) / "last")
    assert torch.equal(scaled["process.representation.mean"], first["process.representation.mean"])


def test_weights_of_another_model_are_no_start(fit: Fit, tmp_path: Path) -> None:
    before = fit("before", crystals=16) / "last"
    for section, change in {"network": {"blocks": 3}, "process": {"assignment": "none"}}.items():
        with pytest.raises(InputError, match=f"trained with another {section} than this recipe's"):
            fit("other", crystals=16, initial_weights=str(before), **{section: change})
    with pytest.raises(InputError, match="nowhere"):
        fit("other", crystals=16, initial_weights=str(tmp_path / "nowhere"))
    assert not (tmp_path / "other").exists()


def test_validation_keeps_the_best(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([0.1, 0.5, 0.3, 0.5, 0.2])
    seen: list[dict[str, torch.Tensor]] = []

    def judge(model: Generator, *_: Any) -> ValidationResult:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return ValidationResult(next(rates), 0.1)

    monkeypatch.setattr("dao.training.tasks.validate", judge)
    out = fit(crystals=320, validation={"crystals": 4, "every": 64})
    table = rows(out / "validation.csv")
    assert [float(row["match_rate"]) for row in table] == [0.1, 0.5, 0.3, 0.5, 0.2]
    assert [int(row["crystals"]) for row in table] == [64, 128, 192, 256, 320]
    # the first to reach it, with the averaged weights that were judged
    assert all(torch.equal(value, seen[1][name]) for name, value in weights(out / "best").items())
    assert not all(torch.equal(value, seen[1][name]) for name, value in weights(out / "last").items())
    assert read_config(out / "best").training["crystals_seen"] == 128
    for name in ("best", "last"):
        assert read_config(out / name).training["best_validation_match_rate"] == 0.5


def test_validation_for_real(fit: Fit, toy_file: Path) -> None:
    out = fit(crystals=160, validation={"crystals": 3, "every": 80})
    table = rows(out / "validation.csv")
    assert [int(row["step"]) for row in table] == [5, 10]
    assert all(0.0 <= float(row["match_rate"]) <= 1.0 for row in table)
    chosen = validation_crystals(toy_file, "val", 20, 3, 0)
    assert len(chosen) == 3
    assert chosen == validation_crystals(toy_file, "val", 20, 3, 0)
    assert len(validation_crystals(toy_file, "val", 20, 1000, 0)) == 5


def test_a_finished_run_trains_nothing(fit: Fit) -> None:
    notes: list[str] = []
    out = fit(crystals=160, note=notes.append)
    assert notes == []
    before = listing([out])
    assert fit(crystals=160, note=notes.append) == out
    assert fit(crystals=160, note=notes.append, resume=True) == out
    assert notes == [f"{out}: this training is finished; its weights are {out / 'best'} and {out / 'last'}"] * 2
    assert listing([out]) == before


def test_a_longer_training_goes_on_with_resume(fit: Fit) -> None:
    notes: list[str] = []
    out = fit(crystals=160)
    before = listing([out])
    with pytest.raises(InputError, match="crystals is 160 there and 320 here"):
        fit(crystals=320)
    assert listing([out]) == before
    fit(crystals=320, resume=True, note=notes.append)
    assert notes == [f"{out}: goes on from step 10 of 20"]
    assert [int(row["step"]) for row in rows(out / "log.csv")] == list(range(1, 21))
    assert (out / "checkpoint-000000020").is_dir()


def test_killed_between_checkpoint_and_weights(fit: Fit) -> None:
    out = fit(crystals=160)
    whole = (out / "last" / "model.safetensors").read_bytes()
    (out / "last" / "config.json").unlink()
    (out / "last" / "model.safetensors").unlink()
    fit(crystals=160)
    assert (out / "last" / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"data": {"train_split": "training"}}, "no rows of split 'training'"),
        ({"data": {"max_atoms": 1}}, "no rows of split 'train' of at most 1 atoms"),
        (
            {"data": {"validation_split": "holdout"}, "validation": {"crystals": 3}},
            r"nothing to validate on \(--set validation\.crystals=0 trains without\): .*'holdout'",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    fit: Fit, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        fit(**changes)
    assert list(tmp_path.iterdir()) == []


def test_broken_checkpoints_are_refused_and_left_alone(fit: Fit) -> None:
    out = fit(crystals=160)
    path = latest_checkpoint(out)
    assert path is not None
    state = json.loads((path / "state.json").read_text())
    for damaged in ({}, {**state, "loader": 3}, {**state, "network": {**state["network"], "width": 32}}):
        (path / "state.json").write_text(json.dumps(damaged))
        before = listing([out])
        with pytest.raises(InputError, match="its checkpoint") as caught:
            fit(crystals=320, resume=True)
        assert "\n" not in str(caught.value)
        assert listing([out]) == before


def test_tensorboard_is_asked_for_first(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="needs TensorBoard: pip install"):
        fit(record={"tensorboard": True})
    assert list(tmp_path.iterdir()) == []


def test_sources_without_splits(fit: Fit, tmp_path: Path) -> None:
    notes: list[str] = []
    import ase.io

    ase.io.write(tmp_path / "own.extxyz", [crystal.to_atoms() for crystal in toy_crystals()[:20]])
    out = fit(crystals=160, source=tmp_path / "own.extxyz", note=notes.append)
    assert read_config(out / "last").training["data"] == "own.extxyz, 20 crystals"
    with pytest.raises(InputError, match=r"nothing to validate on .*own\.extxyz has no 'split' column"):
        fit("other", source=tmp_path / "own.extxyz", validation={"crystals": 3})
    assert notes == []


def test_folders_of_data_are_searched_for_the_file(fit: Fit, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "toys.parquet", toy_crystals())
    assert (fit(crystals=32, source=tmp_path / "data") / "last").is_dir()
    with pytest.raises(InputError, match="no such file"):
        fit("other", source=tmp_path / "nowhere")
