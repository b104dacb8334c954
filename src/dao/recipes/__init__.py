"""Recipes: one TOML file a training, checked against :mod:`dao.recipes.schema` before anything heavy is imported."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao.errors import InputError

if TYPE_CHECKING:
    from dao.recipes.schema import AnyRecipe


def shipped() -> list[str]:
    """Names of the recipes inside this package."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in files(__name__).iterdir() if entry.name.endswith(".toml")
    )


def load(name_or_path: str, overrides: dict[str, str] | None = None) -> AnyRecipe:
    """A shipped recipe by name, or a TOML file by path, with ``section.key = value`` overrides.

    ``task = "predictor"`` makes it a predictor's, ``task = "symmetry"`` one of the symmetry prior,
    ``task = "plausibility"`` one of the judge of candidates; without, it is a generator's.

    Override values are read as TOML (``0.5``, ``true``, ``[0.9, 0.99]``), and as a bare word where they are not TOML.

    Raises:
        InputError: no such recipe, not TOML, or a key or value that does not fit; the message names it.

    """
    from pydantic import ValidationError

    from dao.networks.config import NETWORKS
    from dao.recipes.schema import check_recipe

    tree = _read(name_or_path)
    for key, text in (overrides or {}).items():
        _set(tree, key, text, name_or_path)
    try:
        return check_recipe(tree)
    except ValidationError as error:
        first = error.errors()[0]
        # of ("network", "crysformer", "width"), the kind is pydantic's
        where = ".".join(str(part) for part in first["loc"] if part not in NETWORKS)
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            raise InputError(f"recipe {name_or_path}: unknown key {where!r}") from None
        raise InputError(f"recipe {name_or_path}: {where + ': ' if where else ''}{message}") from None


def _read(name_or_path: str) -> dict[str, Any]:
    if name_or_path in shipped():
        text = (files(__name__) / f"{name_or_path}.toml").read_text(encoding="utf-8")
    else:
        path = Path(name_or_path)
        if path.suffix != ".toml" and not path.is_file():
            raise InputError(f"no recipe {name_or_path!r}: neither a TOML file nor one of {', '.join(shipped())}")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"recipe {name_or_path}: {getattr(error, 'strerror', None) or 'not text'}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {name_or_path}: not TOML: {error}") from None


def _set(tree: dict[str, Any], key: str, text: str, recipe: str) -> None:
    *sections, leaf = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(f"recipe {recipe}: {key!r} is not a key, {section!r} holds a value")
    try:
        value = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        value = {}
    # more than one key: the text holds a line break and is no value
    tree[leaf] = value["value"] if value.keys() == {"value"} else text
