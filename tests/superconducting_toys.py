"""Toy superconductors in the layout of the two files, with folds of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from toys import toy, toy_crystals, write_parquet

from dao.crystal import Crystal
from dao.data.properties.superconductors import PARTS, digest

CRYSTALS = toy_crystals()
OTHERS = ("RbF", "TlBr", "K2O", "Na1Cl1", "AmO2", "LiCs")
"""Without structures; one is among the toys, one has an element that is not supported."""


EXTRA = [
    toy("rocksalt", ("Rb", "F"), 5.6, "generated-RbF"),  # a toy's composition
    toy("fluorite", ("Rb", "F"), 7.0, "generated-RbF2"),  # of its chemical system alone
    toy("cscl", ("Li", "Tl"), 3.4, "generated-LiTl"),  # of neither
]


def write_generated(path: Path, crystals: list[Crystal], **replaced: Any) -> Path:
    """A file of generated crystals, as ``dao superconductors generate`` writes it."""
    columns: dict[str, list[Any]] = {
        "formula": [one.reduced_formula for one in crystals],
        "tc": [7.0 + i for i in range(len(crystals))],
        "generated": ["0123456789abcdef"] * len(crystals),
        "mode": ["one-shot"] * len(crystals),
    }
    write_parquet(path, crystals, **(columns | replaced))
    return path


def temperatures() -> list[float]:
    """Rising with the volume per atom, so that there is something to learn."""
    return [float(0.05 * crystal.volume_per_atom**1.5) for crystal in CRYSTALS]


def write_files(folder: Path) -> None:
    """Both files."""
    write_parquet(
        folder / "supercon3d.parquet",
        CRYSTALS,
        formula=[crystal.reduced_formula for crystal in CRYSTALS[:-1]] + ["Zr2O"],
        family=["others"] * len(CRYSTALS),
        tc=temperatures(),
    )
    others = {
        "formula": list(OTHERS),
        "family": ["others"] * len(OTHERS),
        "tc": [float(i + 1) for i in range(len(OTHERS))],
    }
    pq.write_table(pa.table(others), folder / "supercon_no_structure.parquet")


def folds() -> dict[str, Any]:
    """As in ``supercon_folds.json``: at random, and by chemical system."""
    order = sorted(CRYSTALS, key=lambda one: str(one.material_id))
    systems = sorted({frozenset(one.counts) for one in order}, key=sorted)
    random = np.random.default_rng(1).permutation(len(order)) % PARTS
    return {
        "crystals": len(order),
        "ids": digest([str(one.material_id) for one in order]),
        "random": "".join(map(str, random)),
        "grouped": "".join(str(systems.index(frozenset(one.counts)) % PARTS) for one in order),
    }
