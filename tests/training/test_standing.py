from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_folders import recipe
from toys import tiny_generator

from dao.errors import InputError
from dao.models import Generator
from dao.networks.config import CrysformerConfig
from dao.recipes.schema import Recipe
from dao.training.standing import same_settings, standing, write_recipe


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that was killed after its first checkpoint."""
    write_recipe(tmp_path, recipe())
    (tmp_path / "checkpoint-000000003").mkdir()
    return tmp_path


def finish(run: Path, by: Recipe) -> None:
    model: Generator = tiny_generator()
    model.config.training["recipe"] = by.model_dump(mode="json")
    model.save(run / "last")


def test_new_folders(tmp_path: Path) -> None:
    assert standing(tmp_path / "nowhere", recipe(), resume=False) == "new"
    # killed before its first checkpoint: nothing is lost by starting again
    write_recipe(tmp_path, recipe(seed=5))
    assert standing(tmp_path, recipe(), resume=False) == "new"
    assert standing(tmp_path, recipe(), resume=True) == "new"


def test_the_same_recipe_goes_on(run: Path) -> None:
    assert standing(run, recipe(), resume=False) == "unfinished"
    assert standing(run, recipe(), resume=True) == "unfinished"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"crystals": 1000}, "crystals is 640 there and 1000 here"),
        ({"name": "other"}, 'name is "tiny" there and "other" here'),
        ({"optimizer": {"betas": [0.9, 0.95]}}, "optimizer.betas is [0.9, 0.99] there and [0.9, 0.95] here"),
        ({"network": {"width": 32}, "seed": 1}, "seed is 0 there and 1 here"),
        ({"network": {"width": 32}}, "network.width is 16 there and 32 here"),
    ],
)
def test_another_recipe_is_refused_by_its_first_key(run: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match="holds a training by another recipe") as caught:
        standing(run, recipe(**changes), resume=False)
    assert complaint in str(caught.value)
    assert "--resume" in str(caught.value)


def test_resume_allows_other_lengths_but_no_other_network_or_process(run: Path) -> None:
    changed = recipe(crystals=9000, validation={"every": 7}, record={"log_steps": 3}, optimizer={"learning_rate": 1e-4})
    assert standing(run, changed, resume=True) == "unfinished"
    with pytest.raises(InputError, match=r"network\.blocks is 2 there and 3 here"):
        standing(run, recipe(crystals=9000, network={"blocks": 3}), resume=True)
    with pytest.raises(InputError, match=r"process\.lattice is \"log_metric\" there and \"matrix\" here"):
        standing(run, recipe(process={"lattice": "matrix"}), resume=True)


def test_finished_runs(run: Path) -> None:
    finish(run, recipe())
    assert standing(run, recipe(), resume=False) == "finished"
    assert standing(run, recipe(), resume=True) == "finished"
    with pytest.raises(InputError, match="another recipe"):
        standing(run, recipe(crystals=9000), resume=False)
    assert standing(run, recipe(crystals=9000), resume=True) == "unfinished"
    # the longer training was begun and killed: the weights are still the shorter one's
    write_recipe(run, recipe(crystals=9000))
    assert standing(run, recipe(crystals=9000), resume=False) == "unfinished"
    (run / "last" / "config.json").write_text("{")
    assert standing(run, recipe(crystals=9000), resume=False) == "unfinished"


def test_weights_without_a_checkpoint_are_not_overwritten_by_another_recipe(run: Path) -> None:
    finish(run, recipe())
    (run / "checkpoint-000000003").rmdir()
    assert standing(run, recipe(), resume=False) == "finished"
    with pytest.raises(InputError, match="seed is 0 there and 3 here"):
        standing(run, recipe(seed=3), resume=False)


@pytest.mark.parametrize("content", [None, "", "{", '{"name": "x"}', "[]"])
def test_a_lost_recipe(run: Path, content: str | None) -> None:
    if content is None:
        (run / "recipe.json").unlink()
    else:
        (run / "recipe.json").write_text(content)
    with pytest.raises(InputError, match=r"recipe\.json is no recipe there"):
        standing(run, recipe(), resume=False)
    # the checkpoint itself says which network it belongs to
    assert standing(run, recipe(), resume=True) == "unfinished"


def test_recipes_are_written_whole(tmp_path: Path) -> None:
    write_recipe(tmp_path / "a" / "b", recipe())
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["recipe.json"]
    assert Recipe.model_validate(json.loads((tmp_path / "a" / "b" / "recipe.json").read_text())) == recipe()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_recipe(tmp_path / "file", recipe())


def test_sections_of_older_checkpoints_take_defaults() -> None:
    chosen = CrysformerConfig(width=16, heads=2)
    assert same_settings({"width": 16, "heads": 2}, chosen)
    assert not same_settings({"width": 16, "heads": 4}, chosen)
    assert not same_settings({"width": 16, "heads": 2, "hats": 1}, chosen)
    assert not same_settings(None, chosen)
