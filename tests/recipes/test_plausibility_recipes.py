from __future__ import annotations

import json
from pathlib import Path

import pytest

from dao.cli import completion
from dao.errors import InputError
from dao.prediction.sources import shipped_tables
from dao.recipes import load, shipped
from dao.recipes.schema import PlausibilityRecipe, check_recipe
from dao.weights import shipped as shipped_weights

NAME = "plausibility-small"


def test_it_ships_and_survives_being_written_into_a_run() -> None:
    assert NAME in shipped()
    assert completion.recipes("plaus") == [NAME]
    recipe = load(NAME)
    assert isinstance(recipe, PlausibilityRecipe)
    assert recipe.name == NAME
    assert recipe.description
    assert recipe.initial_weights in shipped_weights()
    assert {source.table for source in recipe.sources.values()} <= set(shipped_tables())
    assert [(one.min_atoms, one.max_atoms, one.count) for one in recipe.sources.values()] == [
        (1, 20, None),
        (21, 52, 4000),
    ]
    assert check_recipe(json.loads(recipe.model_dump_json())) == recipe


def test_overrides_and_a_recipe_of_one_s_own(tmp_path: Path) -> None:
    recipe = load(NAME, {"sources.pool.count": "none", "sources.mp20.max_e_above_hull": "0.2", "jitter.strain": "0"})
    assert isinstance(recipe, PlausibilityRecipe)
    assert (recipe.sources["pool"].count, recipe.sources["mp20"].max_e_above_hull) == (None, 0.2)
    path = tmp_path / "own.toml"
    own = 'task = "plausibility"\nname = "own"\npasses = 1.5\n[sources.mine]\nfile = "mine.csv"\ntable = "pool"\n'
    path.write_text(own, encoding="utf-8")
    recipe = load(str(path))
    assert isinstance(recipe, PlausibilityRecipe)
    assert (recipe.candidates, recipe.sources["mine"].proposals, recipe.initial_weights) == (8, 12, "predictor-trunk")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("nonsense", "1", "unknown key 'nonsense'"),
        ("network.width", "7", "unknown key 'network'"),
        ("passes", "0", "passes: "),
        ("passes", "inf", "passes: "),
        ("candidates", "1", "candidates: "),
        ("lists_per_batch", "0", "lists_per_batch: "),
        ("sources", "{}", "sources: "),
        ("sources.pool.count", "0", "sources.pool.count: "),
        ("sources.pool.proposals", "1", "sources.pool.proposals: "),
        ("sources.pool.nonsense", "1", "unknown key 'sources.pool.nonsense'"),
        ("sources.pool.max_e_above_hull", "-1", "sources.pool.max_e_above_hull: "),
        ("sources.pool.min_atoms", "53", r"sources.pool: min_atoms must be at most max_atoms \(52\), got 53"),
        ("sources.more.file", "x.parquet", "sources.more.table: Field required"),
        ("jitter.strain", "-1", "jitter.strain: "),
        ("optimizer.schedule", "magic", "optimizer.schedule: "),
    ],
)
def test_a_wrong_key_or_value_is_named(key: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^recipe {NAME}: {message}") as error:
        load(NAME, {key: value})
    assert "\n" not in str(error.value)
