from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toys import tiny_recipe

from dao.recipes.schema import Recipe
from dao.training.fit import train

Fit = Callable[..., Path]


@pytest.fixture
def fit(tmp_path: Path, toy_file: Path) -> Fit:
    """Train by the tiny recipe with changes; returns the run's folder."""

    def run(name: str = "run", *, source: Path = toy_file, **changes: Any) -> Path:
        options = {key: changes.pop(key) for key in ("resume", "note") if key in changes}
        recipe = Recipe.model_validate(tiny_recipe(**changes))
        train(recipe, out=tmp_path / name, data=source, device="cpu", progress=False, **options)
        return tmp_path / name

    return run
