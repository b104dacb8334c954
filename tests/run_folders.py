"""Folders of finished trainings, compared."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from toys import tiny_recipe

from dao.recipes.schema import PredictorRecipe, Recipe
from dao.training.fit import train

Fit = Callable[..., Path]


def recipe(**changes: Any) -> Recipe:
    """The tiny recipe with changes."""
    return Recipe.model_validate(tiny_recipe(**changes))


def fitting(folder: Path, data: Path, made: Callable[..., Recipe | PredictorRecipe]) -> Fit:
    """A function that trains by a recipe with changes; it returns the run's folder, of a given name in ``folder``."""

    def run(name: str = "run", *, source: Path = data, **changes: Any) -> Path:
        options = {key: changes.pop(key) for key in ("resume", "note") if key in changes}
        train(made(**changes), out=folder / name, data=source, device="cpu", progress=False, **options)
        return folder / name

    return run


def figures(path: Path) -> list[dict[str, str]]:
    """A log without what the clock says."""
    with path.open(newline="") as stream:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(stream)]


def assert_same_run(one: Path, other: Path, *, steps: int, validated: Sequence[int], files: Sequence[str]) -> None:
    """The same names, logs and bytes of ``files`` and of the last checkpoint; every step logged once."""
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    for name in ("log.csv", "validation.csv"):
        assert figures(one / name) == figures(other / name)
    assert [int(row["step"]) for row in figures(one / "log.csv")] == list(range(1, steps + 1))
    assert [int(row["step"]) for row in figures(one / "validation.csv")] == list(validated)
    for name in (*files, f"checkpoint-{steps:09d}/tensors.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
