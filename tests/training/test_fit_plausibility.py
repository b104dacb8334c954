"""Training of the judge of candidates on toys: it learns, and goes on after a kill as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plausibility_toys import tiny_tree, toy_table, write_tiny_toml
from run_folders import figures
from toys import tiny_generator, tiny_predictor, toy

import dao.training.fit_plausibility
import dao.training.plausibility_lists
from dao.cli import main
from dao.data.store import pack_crystals
from dao.errors import InputError
from dao.property_model import PropertyPredictor
from dao.recipes.schema import PlausibilityRecipe
from dao.training.checkpoint import save_checkpoint
from dao.training.fit_plausibility import TITLE, train_plausibility

Tree = Callable[..., dict[str, Any]]


class KilledError(BaseException):
    pass


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    folder = tmp_path_factory.mktemp("given")
    tiny_predictor().save(folder / "weights")
    table = toy_table(folder / "toys.safetensors")
    return lambda **changes: tiny_tree(table, folder / "weights", **changes)


def train(tree: dict[str, Any], out: Path, data: Path, *, resume: bool = False) -> Path:
    recipe = PlausibilityRecipe.model_validate(tree)
    return train_plausibility(recipe, out=out, data=data, device="cpu", progress=False, resume=resume)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tree: Tree, toy_file: Path) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    train(tree(), out, toy_file)
    return out


def assert_same_run(one: Path, other: Path) -> None:
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    assert figures(one / "log.csv") == figures(other / "log.csv")
    (checkpoint,) = (path.name for path in one.glob("checkpoint-*"))
    (lists,) = (path.name for path in one.glob("lists-*"))
    for name in ("last/model.safetensors", f"{checkpoint}/tensors.safetensors", lists):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_it_learns_and_leaves_weights_of_a_property(unbroken: Path) -> None:
    log = figures(unbroken / "log.csv")
    assert set(log[0]) == {"step", "crystals", "loss", "first_right", "gradient_norm", "learning_rate"}
    steps = len(log)
    for name, factor in (("loss", 0.5), ("first_right", None)):
        before, after = (np.mean([float(row[name]) for row in rows]) for rows in (log[:5], log[-5:]))
        assert after < factor * before if factor else after > before
    model = PropertyPredictor.load(unbroken / "last")
    config = model.config
    assert (config.name, config.label, config.title, config.unit) == ("tiny", "plausibility", TITLE, "")
    assert (config.trust.max_atoms, config.trust.energy) == (5, (0.0, 0.0))
    assert {11, 17, 31, 33} <= set(config.trust.elements)
    record = config.training
    assert record["data"].startswith("toys.parquet, ")
    assert (record["epochs"], record["steps"], record["crystals_seen"]) == (10.0, steps, int(log[-1]["crystals"]))
    assert record["pretraining"].endswith("with label 'e_above_hull'")
    # scores are said as they were learned, without a unit
    batch = pack_crystals([toy("rocksalt", ("Na", "Cl"), 5.6), toy("cscl", ("Na", "Cl"), 3.5)]).batch(torch.arange(2))
    assert torch.equal(model(batch), model.predict(batch))
    rocksalt, cscl = model.predict(batch).tolist()
    assert rocksalt > cscl


def test_it_starts_from_the_trunk(tree: Tree, tmp_path: Path, toy_file: Path) -> None:
    still = tree(passes=0.01, optimizer={"learning_rate": 1e-12, "ema_decay": 0.0})
    trained = PropertyPredictor.load(train(still, tmp_path, toy_file)).network.state_dict()
    for name, value in tiny_predictor().network.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-9)


def test_stopped_again_and_again(
    tmp_path: Path, tree: Tree, toy_file: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While lists are made, and anywhere in training, with rare checkpoints."""
    lists, run = dao.training.plausibility_lists, dao.training.fit_plausibility._Run
    line, step, steps = lists._line, run._step, len(figures(unbroken / "log.csv"))
    left = 0

    def or_killed(call: Any) -> Any:
        def killed(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError
            return call(*arguments)

        return killed

    monkeypatch.setattr(lists, "PORTION", 7)
    monkeypatch.setattr(lists, "_line", or_killed(line))
    monkeypatch.setattr(run, "_step", or_killed(step))
    monkeypatch.setattr(
        dao.training.fit_plausibility,
        "save_checkpoint",
        lambda out, at, state: save_checkpoint(out, at, state) if at % 4 == 0 or at == steps else None,
    )
    draw, stops = np.random.default_rng(1), 0
    while True:
        left = int(draw.integers(9, 25))
        try:
            train(tree(), tmp_path, toy_file)
        except KilledError:
            stops += 1
            assert stops < 50
            continue
        break
    assert stops > 4
    assert_same_run(unbroken, tmp_path)


def test_killed_before_the_weights_are_written(
    tmp_path: Path, tree: Tree, toy_file: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(PropertyPredictor, "save", killed)
        with pytest.raises(KilledError):
            train(tree(), tmp_path, toy_file)
    train(tree(), tmp_path, toy_file)
    assert_same_run(unbroken, tmp_path)


def test_other_recipes_of_the_same_folder(tmp_path: Path, tree: Tree, toy_file: Path) -> None:
    train(tree(passes=1), tmp_path, toy_file)
    with pytest.raises(InputError, match=r"another recipe .*passes is 1\.0 there and 2\.0 here"):
        train(tree(passes=2), tmp_path, toy_file)
    train(tree(passes=2), tmp_path, toy_file, resume=True)
    assert PropertyPredictor.load(tmp_path / "last").config.training["epochs"] == 2.0
    source = tree()["sources"]["toys"]
    with pytest.raises(InputError, match="is of a training on other lists of candidates"):
        train(tree(passes=3, sources={"toys": source | {"count": 20}}), tmp_path, toy_file, resume=True)
    # one more source is another recipe too
    more = tree(passes=2, sources={"more": source})
    with pytest.raises(InputError, match=r"another recipe \(sources\.more\.file is null there"):
        train(more, tmp_path, toy_file.parent)
    tiny_predictor(seed=1).save(tmp_path / "weights")
    with pytest.raises(InputError, match="began with other initial_weights"):
        train(tree(passes=3, initial_weights=str(tmp_path / "weights")), tmp_path, toy_file, resume=True)


def test_in_half_precision_and_from_a_judge(tmp_path: Path, tree: Tree, toy_file: Path, unbroken: Path) -> None:
    changes = {"precision": "bfloat16", "initial_weights": str(unbroken / "last"), "passes": 1}
    changes["optimizer"] = {"gradient_clip_kind": "value"}
    config = PropertyPredictor.load(train(tree(**changes), tmp_path, toy_file)).config
    assert config.training["pretraining"].endswith("with label 'plausibility'")


def test_the_command(
    tmp_path: Path, tree: Tree, toy_file: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = write_tiny_toml(tmp_path / "tiny.toml", tree()), tmp_path / "run"
    arguments = ["train", str(recipe), "--data", str(toy_file), "--out", str(out), "--device", "cpu"]
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert_same_run(unbroken, out)
    assert main(arguments) == 0
    assert capsys.readouterr() == ("", f"{out}: this training is finished; its weights are {out / 'last'}\n")


def test_what_cannot_be_trained_on(
    tmp_path: Path, tree: Tree, toy_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_generator().save(tmp_path / "generator")
    recipe = write_tiny_toml(tmp_path / "tiny.toml", tree())
    for setting, message in (
        ("sources.toys.train_split=nowhere", "nowhere"),
        ("sources.toys.table=nowhere", "neither a shipped table of prototypes"),
        (f"sources.toys.table={toy_file}", "toys.parquet: "),
        ("sources.toys.max_e_above_hull=0.1", "lacks column 'e_above_hull'"),
        ("sources.toys.min_atoms=30", "sources.toys: min_atoms must be at most max_atoms (20), got 30"),
        ("sources.toys.max_atoms=1", "of at most 1 atoms"),
        ("passes=0", "passes: "),
        ("initial_weights=nowhere", "weights 'nowhere': neither shipped"),
        (f"initial_weights={tmp_path / 'generator'}", "holds a generator, no predictor"),
    ):
        out = tmp_path / "run"
        assert main(["train", str(recipe), "--data", str(toy_file), "--out", str(out), "--set", setting]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not out.exists()


def test_the_shipped_recipe_needs_its_files(tmp_path: Path, toy_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for data, message in ((empty, "mp20.parquet: no such file"), (toy_file, "several files, give the folder")):
        assert main(["train", "plausibility-small", "--data", str(data), "--out", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
