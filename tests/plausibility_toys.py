"""A training of the judge of candidates on toy crystals, whose table of prototypes is made of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toys import toy_crystals, write_toml

from dao.crystal import Crystal
from dao.data.store import pack_crystals
from dao.prediction.prototype_build import build_table


def toy_table(path: Path, crystals: Sequence[Crystal] | None = None) -> Path:
    """A table of all toys: of AB, rock salt, zinc blende and CsCl; of AB2 and ABC3 one prototype each."""
    build_table(pack_crystals(toy_crystals() if crystals is None else crystals), {"source": "toys"}).save(path)
    return path


def tiny_tree(table: Path, weights: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of seconds; ``changes`` replace or extend its sections."""
    tree: dict[str, Any] = {
        "task": "plausibility",
        "name": "tiny",
        "passes": 10,
        "lists_per_batch": 6,
        "candidates": 3,
        "threads": 1,
        "initial_weights": str(weights),
        "sources": {"toys": {"file": "toys.parquet", "table": str(table)}},
        "optimizer": {"learning_rate": 5e-3, "warmup_steps": 3, "schedule": "constant_then_linear", "ema_decay": 0.9},
        "record": {"checkpoint_seconds": 0.0, "log_steps": 1},
    }
    for key, value in changes.items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    return tree


def write_tiny_toml(path: Path, tree: dict[str, Any]) -> Path:
    """The recipe as a file."""
    sources = {f"sources.{name}": source for name, source in tree["sources"].items()}
    return write_toml(path, {key: value for key, value in tree.items() if key != "sources"} | sources)
