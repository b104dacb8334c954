"""The tables of prototypes that ship: what is in them, and what is not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dao.crystal import Crystal
from dao.data.store import read_packed
from dao.elements import ATOMIC_NUMBERS
from dao.evaluation.matching import rms_distance
from dao.prediction.prototype_grid import GRID, from_grid, to_grid
from dao.prediction.prototype_table import PrototypeTable
from dao.prediction.prototypes import Proposer
from dao.prediction.sources import DEFAULT_TABLE, SUPPLEMENTS, TABLES, Sources, choose_sources, shipped_tables

LARGEST = 7e6
"""Bytes of all tables together."""


def test_these_ship_and_propose_by_default() -> None:
    known = shipped_tables()
    assert list(known) == [DEFAULT_TABLE, *sorted(SUPPLEMENTS)]
    first, *more = known.values()
    assert choose_sources(None) == Sources(table=first, also=tuple(more))
    assert choose_sources("prototypes", supplement=False) == Sources(generator=False, table=known[DEFAULT_TABLE])
    assert choose_sources("prototypes", "aflow") == Sources(generator=False, table=known["aflow"])
    assert choose_sources(None, "mp20,pool") == Sources(table=known["mp20"], also=(known["pool"],))
    assert sum(path.stat().st_size for path in known.values()) < LARGEST
    card = (TABLES / "README.md").read_text(encoding="utf-8")
    for name, path in known.items():
        table = PrototypeTable.load(path)
        assert f"`{name}`" in card
        assert f"{len(table):,}" in card, "the card gives the number of prototypes"
        assert f"{table.record['crystals']:,}" in card


@pytest.mark.parametrize("path", shipped_tables().values(), ids=shipped_tables())
def test_no_shipped_prototype_holds_a_source_row(path: Path) -> None:
    """Every value is on the grid of the record, and nothing names a crystal or its energy."""
    table = PrototypeTable.load(path)
    assert table.record["grid"] == GRID
    again = from_grid(to_grid(table.arrays, GRID), GRID)
    for name, array in table.arrays.items():
        assert np.array_equal(array, again[name]), name
    parts = table.arrays["free_coords"].astype(np.float64) * GRID["period"]
    assert np.abs(parts - parts.round()).max() < 1e-4
    assert {array.dtype.kind for array in to_grid(table.arrays, GRID).values()} <= {"i", "u"}
    raw = path.read_bytes()
    assert not re.search(rb"mp-\d|energy\"|/work|/home", raw)


def test_both_together_propose_what_everyone_knows() -> None:
    proposer = Proposer.load(*shipped_tables().values())
    for symbols, groups in ((("Na", "Cl"), {225}), (("Ga", "As"), {216}), (("Sr", "Ti", "O", "O", "O"), {221, 140})):
        numbers = [ATOMIC_NUMBERS[symbol] for symbol in symbols]
        assert {one.space_group for one in proposer.propose(numbers, 3)} & groups, symbols


@pytest.mark.science
def test_single_crystals_cannot_be_read_back(data_dir: Path) -> None:
    """Proposals for the very crystals that the table was built from are near them and are not they."""
    known = read_packed(data_dir / "mp20.parquet", columns=("split",))
    proposer = Proposer.load(shipped_tables()["mp20"])
    rows = np.flatnonzero(known.columns["split"].astype(str) == "train")
    apart, volumes, exact = [], [], 0
    for row in np.random.default_rng(0).choice(rows, 300, replace=False).tolist():
        crystal = known.crystal(row)
        for one in proposer.propose(crystal.atomic_numbers.tolist(), 5):
            if one.distance > 0.0 or (rms := rms_distance((one.crystal, crystal))) is None or rms > 0.1:
                continue
            prototype = proposer.table.prototype(one.prototype)
            volumes.append(abs(np.log(one.crystal.volume / crystal.volume)))
            if len(prototype.members) > 1 or not _is_free(prototype.free_coords):
                continue
            apart.append(rms)
            exact += _is_copy(one.crystal, crystal, rms)
    assert len(apart) > 30
    print(f"{len(apart)} reconstructions: RMS distance {np.quantile(apart, [0.05, 0.5, 0.95])}")
    print(f"volumes off by {np.quantile(volumes, [0.05, 0.5, 0.95])}")
    assert np.median(apart) > 0.005
    assert exact == 0


def _is_free(coords: npt.NDArray[np.float64]) -> bool:
    return bool((coords * 24 % 1 > 0).any())


def _is_copy(one: Crystal, other: Crystal, rms: float) -> bool:
    """To the digits that data are given in."""
    return rms < 1e-4 and abs(one.volume / other.volume - 1.0) < 1e-4
