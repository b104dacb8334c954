"""Training of the symmetry prior on toy crystals: it learns, and goes on after a kill as if it had never stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_folders
import torch
from run_folders import figures
from symmetric_toys import tiny_symmetric_generator
from toys import tiny_recipe, toy_crystals, write_parquet, write_toml

import dao.training.fit_symmetry
from dao.cli import main
from dao.data.symmetrized import in_subgroups, symmetrized_set
from dao.data.symmetry_batch import SymmetryLabel, symmetry_batch, symmetry_sequence
from dao.data.symmetry_labels import symmetry_labels
from dao.data.training_set import load_packed
from dao.errors import InputError
from dao.models import Generator
from dao.networks.symmetry import SymmetryPrior
from dao.networks.symmetry_search import propose
from dao.recipes.schema import Recipe, SymmetryRecipe
from dao.symmetry_weights import load_symmetry, save_symmetry
from dao.training.fit_symmetry import epoch_batches, train_symmetry
from dao.training.initial import give_symmetry, load_initial_symmetry
from dao.training.tasks import GeneratorTask, task_of

EPOCHS, PER_EPOCH = 4, 5
STEPS = EPOCHS * PER_EPOCH


def tree(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "task": "symmetry",
        "name": "tiny",
        "epochs": EPOCHS,
        "batch_size": 8,
        "threads": 1,
        "data": {"file": "toys.parquet"},
        "symmetry": {"width": 16, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 3},
        "validation": {"crystals": 4},
        "record": {"checkpoint_seconds": 0.0, "log_steps": 1},
    }
    for key, value in changes.items():
        made[key] = {**made.get(key, {}), **value} if isinstance(value, dict) else value
    return made


def train(out: Path, data: Path, *, resume: bool = False, **changes: Any) -> Path:
    recipe = SymmetryRecipe.model_validate(tree(**changes))
    return train_symmetry(recipe, out=out, data=data, progress=False, resume=resume)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, toy_file: Path) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    train(out, toy_file)
    return out


def assert_same_run(one: Path, other: Path) -> None:
    run_folders.assert_same_run(one, other, steps=STEPS, validated=(5, 10, 15, 20), files=("last/model.safetensors",))


def test_every_crystal_once_an_epoch() -> None:
    lengths = np.random.default_rng(0).integers(0, 9, 700)
    epochs = [epoch_batches(lengths, 16, 3, epoch) for epoch in (0, 1)]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(700))
        assert max(map(len, batches)) == 16
    assert len(epochs[0]) == len(epochs[1])
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[1]))
    assert np.mean([np.ptp(lengths[batch]) for batch in epochs[0]]) < 2.0


def test_it_learns_and_leaves_weights(unbroken: Path) -> None:
    log, validation = figures(unbroken / "log.csv"), figures(unbroken / "validation.csv")
    first, last = (np.mean([float(row["loss"]) for row in rows]) for rows in (log[:PER_EPOCH], log[-PER_EPOCH:]))
    assert last < 0.8 * first
    assert float(log[0]["loss"]) == pytest.approx(
        float(log[0]["group_nats"]) + float(log[0]["positions_nats"]), rel=1e-4
    )
    assert set(validation[0]) == {
        *("step", "crystals", "group_nats", "positions_nats", "group_top1", "assignment_top1"),
    }
    prior, memory, record = load_symmetry(unbroken / "last")
    assert SymmetryLabel(216, ((13, "a"), (15, "c"))) in memory.labels
    assert record["data"] == "toys.parquet, 40 crystals"
    assert (record["epochs"], record["steps"]) == (EPOCHS, STEPS)
    assert record["validation"]["group_top1"] == pytest.approx(float(validation[-1]["group_top1"]), rel=1e-4)
    ((best, *_),) = propose(prior, [{11: 1, 35: 1}], 3, memory)
    assert (best.space_group, best.orbits) == (225, ((11, "a"), (35, "b")))


def test_neighbours_are_hidden_and_validated_without(tmp_path: Path, toy_file: Path, unbroken: Path) -> None:
    last = train(tmp_path / "hidden", toy_file, symmetry={"neighbour_dropout": 1.0})
    with_neighbours, without = (figures(run / "log.csv") for run in (unbroken, tmp_path / "hidden"))
    assert float(without[0]["loss"]) > float(with_neighbours[0]["loss"]) + 0.1  # nobody to copy from
    validation = figures(tmp_path / "hidden" / "validation.csv")[-1]
    assert float(validation["unaided_group_nats"]) != float(validation["group_nats"])
    record = load_symmetry(last)[2]
    assert record["validation"]["unaided_group_top1"] == pytest.approx(float(validation["unaided_group_top1"]))


def test_positions_in_subgroups_are_learned_and_no_group(tmp_path: Path, toy_file: Path) -> None:
    """In a share of the batches, from the same crystals."""
    for share in (0.5, 0.0):
        recipe = tree(data={"subgroup_share": share}, epochs=20)
        train_symmetry(SymmetryRecipe.model_validate(recipe), out=tmp_path / str(share), data=toy_file, progress=False)
    nats = np.array([float(row["group_nats"]) for row in figures(tmp_path / "0.5" / "log.csv")])
    assert 0.3 < np.isnan(nats).mean() < 0.7
    assert sorted(path.name for path in (tmp_path / "0.5").glob("subgroups-*")) == [
        f"subgroups-{draw}.safetensors" for draw in range(3)
    ]
    crystals = symmetrized_set(load_packed(toy_file, split="train"))
    labels = symmetry_labels(in_subgroups(crystals, 0))
    batch = symmetry_batch([symmetry_sequence(one) for one in labels])
    with torch.no_grad():
        taught, untaught = (
            load_symmetry(tmp_path / share / "last")[0].eval().log_probability(batch)[1].mean()
            for share in ("0.5", "0.0")
        )
    assert taught > untaught + 0.5


def test_it_starts_from_other_weights(tmp_path: Path, toy_file: Path, unbroken: Path) -> None:
    before = load_symmetry(unbroken / "last")
    after = load_symmetry(train(tmp_path / "run", toy_file, initial_weights=str(unbroken / "last"), epochs=1))
    first = float(figures(tmp_path / "run" / "log.csv")[0]["loss"])
    assert first < 0.8 * float(figures(unbroken / "log.csv")[0]["loss"])
    crystals = EPOCHS * 40 / 1e6
    assert after[2]["pretraining"] == f"{crystals:.2f} M crystals of {before[2]['data']}"
    with pytest.raises(InputError, match="trained with another width"):
        train(tmp_path / "wide", toy_file, initial_weights=str(unbroken / "last"), symmetry={"width": 32})


def test_a_generator_s_prior_is_as_good(tmp_path: Path, toy_file: Path, unbroken: Path) -> None:
    prior, memory, record = load_symmetry(unbroken / "last")
    model = Generator(replace(tiny_symmetric_generator().config, symmetry=prior.config, training={"symmetry": record}))
    give_symmetry(model, prior, memory)
    folder = str(tmp_path / "generator")
    model.save(Path(folder))
    fresh = SymmetryPrior(prior.config)
    assert load_initial_symmetry(fresh, folder) == load_initial_symmetry(
        SymmetryPrior(prior.config), str(unbroken / "last")
    )
    assert all(torch.equal(value, prior.state_dict()[name]) for name, value in fresh.state_dict().items())
    train(tmp_path / "prior", toy_file, initial_weights=folder, epochs=1)
    first = float(figures(tmp_path / "prior" / "log.csv")[0]["loss"])
    assert first < 0.8 * float(figures(unbroken / "log.csv")[0]["loss"])
    task = task_of(Recipe.model_validate(tiny_recipe(symmetry_weights=folder)), toy_file)
    assert isinstance(task, GeneratorTask)
    assert task.symmetry is not None
    assert list(task.symmetry[1].labels) == list(memory.labels)


@pytest.mark.skipif("sys.platform == 'win32'")
def test_a_killed_command_goes_on(
    tmp_path: Path, toy_file: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_toml(tmp_path / "tiny.toml", tree()), tmp_path / "run"
    arguments = ["train", str(path), "--data", str(toy_file), "--out", str(out)]
    command = [sys.executable, "-m", "dao", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 100
            while not (out / "log.csv").exists() or (out / "log.csv").read_bytes().count(b"\n") < 7:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.002)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert main(arguments) == 0
    assert f"{out}: goes on from step " in capsys.readouterr().err
    assert_same_run(unbroken, out)
    assert main(arguments) == 0
    assert capsys.readouterr() == ("", f"{out}: this training is finished; its weights are {out / 'last'}\n")


class KilledError(BaseException):
    pass


def test_stopped_again_and_again(
    tmp_path: Path, toy_file: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anywhere, and with rare checkpoints: what was done since the last one is done again."""
    draw = np.random.default_rng(1)
    step, save = dao.training.fit_symmetry._Run._step, dao.training.fit_symmetry._Run._checkpoint
    left = 0

    def killed_step(self: dao.training.fit_symmetry._Run) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError
        return step(self)

    monkeypatch.setattr(dao.training.fit_symmetry._Run, "_step", killed_step)
    monkeypatch.setattr(
        dao.training.fit_symmetry._Run, "_checkpoint", lambda self: save(self) if self.progress.step % 4 == 0 else None
    )
    for _ in range(30):
        left = int(draw.integers(4, 9))
        try:
            train(tmp_path, toy_file)
        except KilledError:
            continue
        break
    else:
        pytest.fail("never finished")
    assert_same_run(unbroken, tmp_path)


def test_killed_before_the_weights_are_written(
    tmp_path: Path, toy_file: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KilledError

    monkeypatch.setattr(dao.training.fit_symmetry, "save_symmetry", killed)
    with pytest.raises(KilledError):
        train(tmp_path, toy_file)
    monkeypatch.setattr(dao.training.fit_symmetry, "save_symmetry", save_symmetry)
    train(tmp_path, toy_file)
    assert_same_run(unbroken, tmp_path)


def test_without_validation_and_in_half_precision(tmp_path: Path) -> None:
    write_parquet(tmp_path / "some.parquet", toy_crystals()[:20])
    out = tmp_path / "run"
    train(out, tmp_path / "some.parquet", epochs=1, precision="bfloat16", validation={"crystals": 0})
    assert not (out / "validation.csv").exists()
    assert load_symmetry(out / "last")[2]["validation"] == {}


def test_other_recipes_of_the_same_folder(tmp_path: Path, toy_file: Path) -> None:
    train(tmp_path, toy_file, epochs=1)
    with pytest.raises(InputError, match=r"another recipe .*epochs is 1 there and 2 here"):
        train(tmp_path, toy_file, epochs=2)
    with pytest.raises(InputError, match=r"symmetry\.width is 16 there and 32 here"):
        train(tmp_path, toy_file, epochs=2, symmetry={"width": 32}, resume=True)
    train(tmp_path, toy_file, epochs=2, resume=True)
    assert load_symmetry(tmp_path / "last")[2]["epochs"] == 2.0
    # a generator's recipe in the folder of a prior
    recipe = write_toml(tmp_path / "other.toml", {"name": "other", "crystals": 10, "network": {}, "process": {}})
    assert main(["train", str(recipe), "--data", str(toy_file), "--out", str(tmp_path), "--resume"]) == 2


def test_a_checkpoint_of_other_crystals(tmp_path: Path, toy_file: Path) -> None:
    train(tmp_path / "run", toy_file, epochs=1)
    write_parquet(tmp_path / "some.parquet", toy_crystals()[:20])
    before = (tmp_path / "run" / "recipe.json").read_bytes()
    with pytest.raises(InputError, match="is of a training on 40 crystals, not 16"):
        train(tmp_path / "run", tmp_path / "some.parquet", epochs=2, resume=True)
    assert (tmp_path / "run" / "recipe.json").read_bytes() == before
    state = next((tmp_path / "run").glob("checkpoint-*")) / "state.json"
    state.write_text(json.dumps({"training_set": 40, "symmetry": tree()["symmetry"]}))
    with pytest.raises(InputError, match=r"its checkpoint does not fit this recipe \('step'\)"):
        train(tmp_path / "run", toy_file, epochs=2, resume=True)


def test_what_cannot_be_trained_on(tmp_path: Path, toy_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_toml(tmp_path / "tiny.toml", tree())
    for arguments, message in (
        (["--device", "cuda"], "--device cuda: the symmetry prior is trained on the CPU"),
        (["--set", "data.train_split=nowhere"], "nowhere"),
        (["--set", "data.validation_split=nowhere"], "nothing to validate on (--set validation.crystals=0"),
        (["--set", "symmetry.heads=3"], "width 16 is not a multiple of its 3 heads"),
    ):
        out = tmp_path / "run"
        assert main(["train", str(recipe), "--data", str(toy_file), "--out", str(out), *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not out.exists()


def test_the_shipped_recipe_is_found_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["train", "mp20-symmetry", "--data", str(empty), "--out", str(tmp_path / "run")]) == 2
    assert "empty" in capsys.readouterr().err
    assert main(["train", "mp20-symmetry", "--help"]) == 0
    assert "mp20-symmetry" in capsys.readouterr().out
