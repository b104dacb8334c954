"""Prototypes are asked for in cells of any number of formula units, whatever a generator was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toys import toy_crystals

from dao.crystal import Crystal
from dao.data.store import pack_crystals
from dao.errors import InputError
from dao.geometry.cells import min_distance
from dao.prediction import proposals
from dao.prediction.composition import parse_formula, prototype_cells
from dao.prediction.proposals import proposed
from dao.prediction.prototype_build import build_table
from dao.prediction.prototypes import Proposer

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("formula", "cells", "max_atoms", "expected"),
    [
        ("Zr4Rh2O", "auto", None, (1, 2, 3, 4, 5, 6, 7)),
        ("SrTiO3", "auto", 20, (1, 2, 3, 4)),
        ("SrTiO3", "auto", 30, (1, 2, 3, 4, 5, 6)),
        ("SrTiO3", "2,8", None, (2, 8)),
        # one formula unit is tried in any case
        ("Mg20Al20O30", "auto", None, (1, 2, 3, 4, 5, 6, 7)),
        ("Ca5P3O12FSi60", "auto", None, (1,)),
    ],
)
def test_cells(formula: str, cells: str, max_atoms: int | None, expected: tuple[int, ...]) -> None:
    assert prototype_cells(cells, parse_formula(formula), max_atoms) == expected


def test_a_bound_below_one_formula_unit() -> None:
    with pytest.raises(InputError, match="more than the limit of 4"):
        prototype_cells("auto", parse_formula("SrTiO3"), 4)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The toys, and a kind with five formula units AB in a cell without symmetry."""
    rng = np.random.default_rng(0)
    sites = np.array([[i, j, k] for i in (0.0, 0.5) for j in (0.0, 0.5) for k in (0.0, 0.33, 0.67)])[:10]
    large = Crystal([3] * 5 + [9] * 5, sites + 0.05 * rng.random((10, 3)), np.diag([5.0, 5.3, 8.0]), "large")
    path = tmp_path / "table.safetensors"
    build_table(pack_crystals([*toy_crystals(), large]), {"source": "toys"}).save(path)
    return path


@pytest.mark.parametrize(
    ("options", "offered"),
    [((), True), (("--max-atoms", "8"), False), (("--cells", "1,2"), False), (("--cells", "5"), True)],
)
def test_larger_cells_are_offered_unless_bounded(
    run: Run, table: Path, tmp_path: Path, options: tuple[str, ...], *, offered: bool
) -> None:
    arguments = ("--sources", "prototypes", "--table", str(table), "--rank", "recurrence", "--out", "made")
    code, _, err = run("predict", "KBr", *arguments, *options)
    assert code == 0, err
    found = json.loads((tmp_path / "made" / "KBr" / "candidates.json").read_text(encoding="utf-8"))
    assert (10 in {one["num_atoms"] for one in found}) == offered
    if offered:
        largest = next(one for one in found if one["num_atoms"] == 10)
        assert (largest["formula_units"], largest["prototype"]) == (5, "LiF")


def test_larger_cells_take_no_place_of_the_others(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    proposer = Proposer.load(table)
    composition = parse_formula("KBr")
    cells = {units: composition.numbers_for(units) for units in (1, 5)}
    both = proposed(proposer, "KBr", cells, 4)
    assert sorted(one.num_atoms for one in both) == [2, 2, 2, 10]
    monkeypatch.setattr(proposals, "AUTO_MAX_ATOMS", 5)
    for count, sizes in ((3, [2, 2, 2]), (4, [2, 2, 2, 10])):
        assert sorted(one.num_atoms for one in proposed(proposer, "KBr", cells, count)) == sizes
    # where nothing smaller can be, these are the usual ones
    (only,) = proposed(proposer, "KBr", {5: cells[5]}, 1)
    assert (only.num_atoms, only.rank) == (10, 1)


def test_atoms_on_one_place_are_not_proposed() -> None:
    """As an averaged and rounded table had it for MgO in a cell of 44 atoms: no reader takes such a CIF."""
    apart = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    good = Crystal([3, 9], apart, np.diag([3.0, 3.1, 3.2]), "good")
    bad = Crystal([3, 9], 0.02 * apart, np.diag([3.0, 3.1, 7.2]), "bad")
    proposer = Proposer.of(build_table(pack_crystals([good, bad]), {"source": "toys"}))
    assert len(proposer.propose([3, 9], 5)) == 2
    (only,) = proposed(proposer, "LiF", {1: [3, 9]}, 5)
    assert min_distance(only.crystal) > 2.0
