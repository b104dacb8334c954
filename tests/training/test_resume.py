"""``kill -9`` during ``dao train``, then the same command again: nothing may tell the result from an unbroken run's."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_folders
from toys import tiny_predictor_recipe, tiny_recipe, write_toml

import dao.training.fit
from dao.cli import main
from dao.recipes.schema import PredictorRecipe, Recipe, check_recipe
from dao.training.fit import train

STEPS = 40


RECIPES = {"generator": tiny_recipe, "predictor": tiny_predictor_recipe}


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> dict[str, Any]:
    return RECIPES[request.param](
        crystals=STEPS * 16,
        validation={"crystals": 2, "every": 160},
        record={"checkpoint_seconds": 0.0, "log_steps": 1},
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, energy_file: Path, recipe: dict[str, Any]) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    train(_checked(recipe), out=out, data=energy_file, device="cpu", progress=False)
    return out


def _checked(tree: dict[str, Any]) -> Recipe | PredictorRecipe:
    checked = check_recipe(tree)
    assert isinstance(checked, Recipe | PredictorRecipe)
    return checked


def assert_same_run(one: Path, other: Path) -> None:
    files = ("last/model.safetensors", "best/model.safetensors")
    run_folders.assert_same_run(one, other, steps=STEPS, validated=(10, 20, 30, 40), files=files)
    records = [json.loads((folder / "last" / "config.json").read_text())["training"] for folder in (one, other)]
    for record in records:
        record.pop("hours")
        record.pop("cpu_hours")
    assert records[0] == records[1]


@pytest.mark.skipif("sys.platform == 'win32'")
def test_a_killed_command_goes_on(
    tmp_path: Path,
    energy_file: Path,
    unbroken: Path,
    recipe: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = write_toml(tmp_path / "tiny.toml", recipe), tmp_path / "run"
    arguments = ["train", str(path), "--data", str(energy_file), "--out", str(out), "--device", "cpu"]
    command = [sys.executable, "-m", "dao", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 100
            while not (out / "log.csv").exists() or (out / "log.csv").read_bytes().count(b"\n") < 14:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.002)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    # what a kill in the middle of writing leaves
    with (out / "log.csv").open("a") as stream:
        stream.write("999,15984,1.0,0.5")
    (out / "checkpoint-000000999.part").mkdir()

    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (told,) = [line for line in done.stderr.splitlines() if line.startswith(f"{out}: ")]
    assert told.startswith(f"{out}: goes on from step ")
    assert told.endswith(f" of {STEPS}")
    assert_same_run(unbroken, out)

    assert main(arguments) == 0
    finished = f"{out}: this training is finished; its weights are {out / 'best'} and {out / 'last'}\n"
    assert capsys.readouterr() == ("", finished)


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("seed", range(2))
def test_stopped_again_and_again(
    tmp_path: Path,
    energy_file: Path,
    unbroken: Path,
    recipe: dict[str, Any],
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anywhere, and with rare checkpoints: what was done since the last one is done again."""
    draw = np.random.default_rng(seed)
    original = dao.training.fit._Run._step
    left = 0

    def step(self: dao.training.fit._Run) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError
        return original(self)

    save = dao.training.fit._Run._checkpoint
    monkeypatch.setattr(dao.training.fit._Run, "_step", step)
    monkeypatch.setattr(
        dao.training.fit._Run, "_checkpoint", lambda self: save(self) if self.progress.step % 4 == 0 else None
    )
    for _ in range(30):
        left = int(draw.integers(3, 16))
        try:
            train(_checked(recipe), out=tmp_path, data=energy_file, device="cpu", progress=False)
        except KilledError:
            continue
        break
    else:
        pytest.fail("never finished")
    assert_same_run(unbroken, tmp_path)
