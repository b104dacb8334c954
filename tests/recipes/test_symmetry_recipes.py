from __future__ import annotations

import json
from pathlib import Path

import pytest

from dao.errors import InputError
from dao.recipes import load, shipped
from dao.recipes.schema import Recipe, SymmetryRecipe, check_recipe

SYMMETRY = [name for name in shipped() if name.endswith("-symmetry")]


def test_they_are_shipped() -> None:
    assert SYMMETRY == ["mp20-symmetry", "pool-symmetry"]


@pytest.mark.parametrize("name", SYMMETRY)
def test_every_one_loads_and_survives_being_written_into_a_run(name: str) -> None:
    recipe = load(name)
    assert isinstance(recipe, SymmetryRecipe)
    assert recipe.name == name
    assert recipe.description
    assert recipe.validation.crystals > 0
    assert check_recipe(json.loads(recipe.model_dump_json())) == recipe


def test_the_kind_is_told_by_the_task(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('task = "symmetry"\nname = "own"\nepochs = 2\n', encoding="utf-8")
    recipe = load(str(path), {"symmetry.width": "48"})
    assert isinstance(recipe, SymmetryRecipe)
    assert (recipe.symmetry.width, recipe.data.file) == (48, "mp20.parquet")
    path.write_text('name = "own"\ncrystals = 2\n[network]\n[process]\n', encoding="utf-8")
    assert isinstance(load(str(path)), Recipe)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task", "magic", "task: "),
        ("nonsense", "1", "unknown key 'nonsense'"),
        ("network.width", "7", "unknown key 'network'"),
        ("symmetry.widht", "7", "unknown key 'symmetry.widht'"),
        ("symmetry.heads", "5", "symmetry: symmetry prior: width 192 is not a multiple of its 5 heads"),
        ("symmetry.dropout", "1", "symmetry: symmetry prior: dropout must be in"),
        ("epochs", "0", "epochs: "),
        ("epochs", "1.5", "epochs: "),
        ("batch_size", "0", "batch_size: "),
        ("optimizer.ema_decay", "0.9", "unknown key 'optimizer.ema_decay'"),
        ("optimizer.betas", "[0.9, 1.0]", "optimizer.betas.1: "),
        ("optimizer.learning_rate", "nan", "optimizer.learning_rate: "),
        ("validation.crystals", "-1", "validation.crystals: "),
    ],
)
def test_a_wrong_key_or_value_is_named(key: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^recipe mp20-symmetry: {message}") as error:
        load("mp20-symmetry", {key: value})
    assert "\n" not in str(error.value)
