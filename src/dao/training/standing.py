"""How far a run's folder has come: nothing yet, to be gone on with, finished, or another recipe's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from dao.errors import InputError
from dao.training.checkpoint import latest_checkpoint
from dao.weights import CONFIG

if TYPE_CHECKING:
    from dao.recipes.schema import AnyRecipe

RECIPE = "recipe.json"

_FIXED = ("task", "network", "process", "symmetry", "label", "beta")
"""What makes the weights another model's, in recipes of any kind."""

Standing = Literal["new", "unfinished", "finished"]


def standing(out: Path, recipe: AnyRecipe, *, resume: bool) -> Standing:
    """Where a training by ``recipe`` stands in the folder ``out``.

    The same recipe goes on where it stopped. With ``resume`` its lengths, optimizer, validation and record may have
    changed since, but neither network nor process (of a predictor: nor ``label`` and
    ``beta``; of a symmetry prior: ``symmetry``).

    Raises:
        InputError: the folder holds a training by another recipe and ``resume`` is off, or one of another network or
            process; the message names the first key that differs.

    """
    checkpoint = latest_checkpoint(out)
    weights = [name for name in ("last", "best") if (out / name / CONFIG).exists()]
    if checkpoint is None and not weights:
        return "new"
    saved = _saved_recipe(out / RECIPE)
    if saved != recipe:
        key, there, here = _first_difference(saved, recipe)
        if not resume:
            raise InputError(
                f"{out} holds a training by another recipe ({key} is {there} there and {here} here):"
                " choose another --out, or say --resume to go on with the new one"
            )
        fixed = _first_difference(saved, recipe, only=_FIXED)
        if saved is not None and fixed[0]:
            raise InputError(
                f"{out} holds a training of another network or process ({fixed[0]} is {fixed[1]} there and {fixed[2]}"
                " here): choose another --out"
            )
    if "last" in weights and _recipe_of_weights(out / "last" / CONFIG) == recipe:
        return "finished"
    return "unfinished" if checkpoint is not None else "new"


def write_recipe(out: Path, recipe: AnyRecipe) -> None:
    """Write ``recipe.json``, the folder with it; nothing is ever left half written.

    Raises:
        InputError: the folder cannot be written.

    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        part = out / f".{RECIPE}.part"
        part.write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
        part.replace(out / RECIPE)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None


def _saved_recipe(path: Path) -> AnyRecipe | None:
    """The recipe of a run; None if the file is missing or (as with an older version's) no recipe."""
    from dao.recipes.schema import check_recipe

    try:
        return check_recipe(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None


def _recipe_of_weights(path: Path) -> AnyRecipe | None:
    from dao.recipes.schema import check_recipe

    try:
        return check_recipe(json.loads(path.read_bytes())["training"]["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _first_difference(
    saved: AnyRecipe | None, recipe: AnyRecipe, only: tuple[str, ...] | None = None
) -> tuple[str, str, str]:
    """Dotted key, value there and value here of the first setting that differs; empty strings if none does."""
    if saved is None:
        return RECIPE, "no recipe", "one"
    there, here = (_flat(one.model_dump(mode="json", include=set(only) if only else None)) for one in (saved, recipe))
    # of what has names of one's choice, either side may have more
    key = next((key for key in here | there if there.get(key) != here.get(key)), "")
    return (key, json.dumps(there.get(key)), json.dumps(here.get(key))) if key else ("", "", "")


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = inner
    return flat


def same_settings(saved: object, chosen: object) -> bool:
    """Whether a section saved as JSON says what the dataclass ``chosen`` says; settings added since have defaults."""
    try:
        return TypeAdapter(type(chosen)).validate_python(saved) == chosen
    except ValidationError:
        return False
