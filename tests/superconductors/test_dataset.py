from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from superconducting_toys import CRYSTALS, OTHERS, temperatures
from toys import write_parquet

from dao.data.properties import load_property
from dao.data.properties.superconductors import FOLDS, GROUPED, LABEL, PARTS, RANDOM, folds_of_parts, property_data
from dao.errors import InputError
from dao.superconductors.dataset import (
    Superconductors,
    composition_key,
    compositions_of,
    constant_errors,
    read_unstructured,
    systems_of,
)

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.usefixtures("toys")
def test_what_is_known_is_counted_and_what_is_odd_is_named() -> None:
    known = Superconductors.load()
    assert len(known.crystals) == len(CRYSTALS)
    assert [one.formula for one in known.without_structure] == [name for name in OTHERS if name != "AmO2"]
    assert [text.split(":")[0] for text in known.unusable] == ["AmO2"]
    assert known.doubtful == (f"Zr2O (structure: {CRYSTALS[-1].reduced_formula})",)
    assert set(known.common) == {"RbF", "TlBr", "Na1Cl1"}
    counts = known.counts()
    assert (counts["structures"], counts["without_structure"]) == (len(CRYSTALS), len(OTHERS) - 1)
    structures, others = known.temperatures
    np.testing.assert_allclose(structures, temperatures(), rtol=1e-6)
    assert others.tolist() == [1.0, 2.0, 3.0, 4.0, 6.0]
    np.testing.assert_allclose(known.crystals.labels[LABEL], np.log(temperatures()), rtol=1e-5)


def test_compositions_are_equal_whatever_the_cell() -> None:
    assert composition_key({11: 2, 17: 2}) == composition_key({17: 1, 11: 1}) != composition_key({11: 1, 17: 2})


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_temperature_is_refused(toys: Path, bad: float) -> None:
    values = temperatures()
    values[3] = bad
    columns = {"formula": [one.reduced_formula for one in CRYSTALS], "family": ["others"] * len(CRYSTALS)}
    write_parquet(toys / "supercon3d.parquet", CRYSTALS, tc=values, **columns)
    with pytest.raises(InputError, match=f"{CRYSTALS[3].material_id}: a critical temperature of"):
        load_property(RANDOM)


def test_every_crystal_is_tested_on_once() -> None:
    parts = [i % PARTS for i in range(57)]
    folds = folds_of_parts(parts)
    assert len(folds) == FOLDS
    tested = torch.cat([fold.test for fold in folds]).tolist()
    assert sorted(tested) == list(range(57))
    for fold in folds:
        assert fold.validation is None
        assert sorted(fold.train.tolist() + fold.test.tolist()) == list(range(57))
        # each member of an ensemble chooses by another part; together they are all that is trained on
        assert sorted(torch.cat(fold.validations).tolist()) == fold.train.tolist()
        assert len(fold.validations) == PARTS - 2
        assert all(len({parts[row] for row in rows.tolist()}) == 1 for rows in fold.validations)


@pytest.mark.usefixtures("toys")
def test_chemical_systems_stay_together() -> None:
    data = load_property(GROUPED)
    systems = systems_of(data.crystals)
    for fold in data.folds:
        assert not {systems[i] for i in fold.train.tolist()} & {systems[i] for i in fold.test.tolist()}
    random = load_property(RANDOM)
    shared = [
        {systems[i] for i in fold.train.tolist()} & {systems[i] for i in fold.test.tolist()} for fold in random.folds
    ]
    assert any(shared), "the toys have systems of two crystals"


def test_folds_of_other_crystals_are_refused(toys: Path) -> None:
    table = pq.read_table(toys / "supercon3d.parquet")
    pq.write_table(table.slice(1), toys / "supercon3d.parquet")
    with pytest.raises(InputError, match="49 crystals, and the folds are of 50 others"):
        load_property(RANDOM)
    # their order does not matter
    pq.write_table(table.take(list(range(len(table)))[::-1]), toys / "supercon3d.parquet")
    again = property_data(RANDOM, toys)
    pq.write_table(table, toys / "supercon3d.parquet")
    one = load_property(RANDOM)
    for fold, other in zip(one.folds, again.folds, strict=True):
        assert {one.crystals.ids[i] for i in fold.test.tolist()} == {again.crystals.ids[i] for i in other.test.tolist()}


@pytest.mark.usefixtures("toys")
def test_a_constant_is_what_to_beat() -> None:
    data = load_property(RANDOM)
    errors = constant_errors(data)
    labels = np.log(temperatures())
    fold = data.folds[0]
    first = np.abs(labels[fold.test] - np.median(labels[fold.train])).mean()
    every = [np.abs(labels[one.test] - np.median(labels[one.train])).mean() for one in data.folds]
    assert every[0] == first
    assert errors["median"] == pytest.approx(np.mean(every), rel=1e-5)
    assert errors["mean"] != errors["median"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none"):
        read_unstructured(tmp_path / "none.parquet")


def test_a_folder_of_both_files_is_asked_for(toys: Path, run: Run) -> None:
    # a file is not both, and a folder of one of them lacks the other
    code, _, err = run("superconductors", "data", "--data", str(toys / "supercon3d.parquet"))
    assert code == 2
    assert "a folder that holds supercon3d.parquet is needed" in err
    with pytest.raises(InputError, match="a folder that holds supercon3d"):
        property_data(RANDOM, toys / "supercon3d.parquet")
    inner = toys / "properties"
    inner.mkdir()
    (toys / "supercon3d.parquet").rename(inner / "supercon3d.parquet")
    for folder in (None, toys):
        assert len(Superconductors.load(folder).crystals) == len(property_data(RANDOM, folder).crystals)
    (toys / "supercon_no_structure.parquet").unlink()
    with pytest.raises(InputError, match=r"no supercon_no_structure.parquet in it"):
        Superconductors.load(toys)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tc": ["4.2", "warm"]}, "Nb: no critical temperature but '4.2'"),
        ({"tc": [4.2, None]}, "Ta: no critical temperature but None"),
        ({"formula": ["Nb", None]}, "row 2: no formula but None"),
        ({"family": [None, "others"]}, "row 1: no family but None"),
        ({"formula": [], "family": [], "tc": []}, "holds no superconductor"),
    ],
)
def test_what_is_no_table_of_superconductors_is_refused(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    whole: dict[str, list[Any]] = {"formula": ["Nb", "Ta"], "family": ["others"] * 2, "tc": [9.2, 4.4]}
    pq.write_table(pa.table(whole | columns), tmp_path / "some.parquet")
    with pytest.raises(InputError, match=message):
        read_unstructured(tmp_path / "some.parquet")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("tc", "warm", "no critical temperature but"), ("formula", None, "no formula but None")],
)
def test_crystals_without_temperature_or_formula_are_refused(
    toys: Path, column: str, value: object, message: str
) -> None:
    table = pq.read_table(toys / "supercon3d.parquet")
    place = table.column_names.index(column)
    values = [value, *map(str, table[column].to_pylist()[1:])]
    pq.write_table(table.set_column(place, column, [values]), toys / "supercon3d.parquet")
    with pytest.raises(InputError, match=message):
        load_property(RANDOM)


def test_the_real_ones(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAO_DATA", str(data_dir))
    if not (data_dir / "supercon3d.parquet").exists():
        pytest.skip(f"needs supercon3d.parquet in {data_dir}")
    known = Superconductors.load()
    assert (len(known.crystals), len(known.without_structure), len(known.unusable)) == (1016, 738, 1)
    assert len(known.doubtful) == 11
    random, grouped = load_property(RANDOM), load_property(GROUPED)
    for data in (random, grouped):
        assert {len(fold.test) for fold in data.folds} <= set(range(202, 206))
    systems = systems_of(grouped.crystals)
    for fold in grouped.folds:
        assert not {systems[i] for i in fold.train.tolist()} & {systems[i] for i in fold.test.tolist()}
    # the paper's errors of 0.7 are of natural logarithms: on decadic ones a constant is better than that
    assert 1.0 < constant_errors(random)["mean"] < 1.2
    assert constant_errors(random)["mean"] / math.log(10) < 0.5
    assert len(set(compositions_of(random.crystals))) == 1014
