"""Loaders of benchmarks against small files in the official formats, which the tests write."""

from __future__ import annotations

import gzip
import json
import random
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from toys import columns, toy_crystals, write_parquet

from dao.crystal import Crystal
from dao.data.properties import benchmarks, load_property, matbench
from dao.data.properties.base import PropertyData
from dao.errors import InputError
from dao.geometry.cells import is_niggli

CRYSTALS = toy_crystals()[:10]
FOLDS = "0123401234"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own data folder; Matbench's folds of ten crystals."""
    monkeypatch.setenv("DAO_DATA", str(tmp_path))
    monkeypatch.setattr(matbench, "_published", lambda: dict.fromkeys(matbench._COLUMNS, FOLDS))
    (tmp_path / "properties").mkdir()
    return tmp_path


def pymatgen_table(crystals: list[Crystal], target: str) -> dict[str, Any]:
    """A Matbench file's content: a pandas table split into columns, index and data."""
    data = [[crystal.to_structure().as_dict(), 10.0 * i] for i, crystal in enumerate(crystals)]
    return {"columns": ["structure", target], "index": list(range(len(data))), "data": data}


def atoms(crystal: Crystal, *, cartesian: bool = False) -> dict[str, Any]:
    """What jarvis-tools calls atoms."""
    coords = crystal.frac_coords @ crystal.lattice if cartesian else crystal.frac_coords
    return {
        "lattice_mat": crystal.lattice.tolist(),
        "coords": coords.tolist(),
        "elements": [site.specie.symbol for site in crystal.to_structure()],
        "cartesian": cartesian,
        "props": ["" for _ in coords],
    }


def assert_same_crystals(data: PropertyData, crystals: list[Crystal]) -> None:
    assert len(data.crystals) == len(crystals)
    for i, crystal in enumerate(crystals):
        read = data.crystals.crystal(i)
        assert read.reduced_formula == crystal.reduced_formula
        assert read.num_atoms == crystal.num_atoms
        assert read.volume == pytest.approx(crystal.volume, rel=1e-5)
        assert is_niggli(read)


def test_every_name_is_its_own_and_says_where_its_data_is() -> None:
    known = benchmarks()
    assert len(known) == 16
    for name, one in known.items():
        assert one.name == name
        with pytest.raises(InputError, match=f"^{name}: none of {one.files[0]}.*set DAO_DATA.*source: "):
            one.load()


def test_published_folds_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    sizes = {"matbench_jdft2d": 636, "matbench_phonons": 1265, "matbench_dielectric": 4764, "matbench_log_kvrh": 10987}
    for task, size in sizes.items():
        folds = Counter(matbench.published_test_folds(task))
        assert sum(folds.values()) == size
        assert sorted(folds) == [0, 1, 2, 3, 4]
        assert max(folds.values()) - min(folds.values()) <= 1
    # mb-phonons-0002, -0003 and -0007 are the first of the first test fold, by the fold file of matbench 0.6
    first = [place + 1 for place, fold in enumerate(matbench.published_test_folds("matbench_phonons")) if fold == 0][:3]
    assert first == [2, 3, 7]


@pytest.mark.parametrize("suffix", [".json.gz", ".json"])
def test_matbench_official_file(folder: Path, suffix: str) -> None:
    text = json.dumps(pymatgen_table(CRYSTALS, "last phdos peak")).encode()
    path = folder / f"matbench_phonons{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    data = load_property("matbench_phonons")
    assert (data.label, data.unit, data.scale, data.file) == ("last_phdos_peak", "1/cm", "linear", path)
    assert data.crystals.ids[:2] == ("mb-phonons-01", "mb-phonons-02")
    assert data.labels.tolist() == [10.0 * i for i in range(10)]
    assert_same_crystals(data, CRYSTALS)
    assert [fold.test.tolist() for fold in data.folds] == [[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]]
    for fold in data.folds:
        assert fold.validation is None
        assert sorted([*fold.train.tolist(), *fold.test.tolist()]) == list(range(10))


def test_matbench_conventional_cells_are_reduced(folder: Path) -> None:
    supercells = [Crystal.from_structure(crystal.to_structure() * (2, 1, 1)) for crystal in CRYSTALS]
    (folder / "matbench_phonons.json").write_text(json.dumps(pymatgen_table(supercells, "last phdos peak")))
    assert_same_crystals(load_property("matbench_phonons"), CRYSTALS)


def test_matbench_parquet_goes_by_ids_not_by_order(folder: Path) -> None:
    ids = [f"mb-phonons-{10 - i:04d}" for i in range(10)]
    path = folder / "properties" / "matbench_phonons.parquet"
    write_parquet(path, CRYSTALS, material_id=ids, last_phdos_peak=[float(i) for i in range(10)])
    data = load_property("matbench_phonons")
    # the crystal of place 9 is the first row
    assert data.folds[4].test.tolist() == [0, 5]
    assert data.labels.tolist() == [float(i) for i in range(10)]


@pytest.mark.parametrize(
    ("count", "ids", "message"),
    [(9, None, "9 crystals, and the published folds are of 10"), (10, ["x"] * 10, "x: no id of Matbench")],
)
def test_matbench_never_splits_anew(folder: Path, count: int, ids: list[str] | None, message: str) -> None:
    names = ids or [f"mb-phonons-{i + 1:04d}" for i in range(count)]
    some = CRYSTALS[:count]
    write_parquet(folder / "matbench_phonons.parquet", some, material_id=names, last_phdos_peak=[1.0] * count)
    with pytest.raises(InputError, match=message):
        load_property("matbench_phonons")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table["columns"].__setitem__(1, "n"), "cannot be read"),
        (lambda table: table["data"][3].__setitem__(1, None), "row 4: cannot be read"),
        (lambda table: table["data"][2][0]["sites"][0]["species"][0].__setitem__("occu", 0.5), "row 3: .*disordered"),
        (lambda table: table.pop("data"), "cannot be read"),
    ],
)
def test_malformed_matbench_files(folder: Path, change: Any, message: str) -> None:
    table = pymatgen_table(CRYSTALS, "last phdos peak")
    change(table)
    (folder / "matbench_phonons.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match=message) as caught:
        load_property("matbench_phonons")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_jarvis(folder: Path, zipped: bool) -> None:  # noqa: FBT001
    records: list[dict[str, Any]] = [
        {
            "jid": f"JVASP-{i}",
            "atoms": atoms(CRYSTALS[i % 10], cartesian=i % 2 == 0),
            "ehull": 0.01 * i,
            "mbj_bandgap": "na" if i % 3 == 0 else float(i),
        }
        for i in range(45)
    ]
    text = json.dumps(records)
    if zipped:
        with zipfile.ZipFile(folder / "jdft_3d-8-18-2021.json.zip", "w") as archive:
            archive.writestr("jdft_3d-8-18-2021.json", text)
    else:
        (folder / "dft_3d_2021.json").write_text(text)
    energies, gaps = load_property("jarvis_ehull"), load_property("jarvis_mbj_gap")
    assert_same_crystals(energies, [CRYSTALS[i % 10] for i in range(45)])
    known = [i for i in range(45) if i % 3]
    assert gaps.crystals.ids == tuple(f"JVASP-{i}" for i in known)
    assert gaps.labels.tolist() == [float(i) for i in known]
    # ALIGNN's own words: seed, shuffle, cut
    order = list(np.arange(30))
    random.seed(123)
    random.shuffle(order)
    (fold,) = gaps.folds
    assert fold.validation is not None
    assert fold.train.tolist() == sorted(order[:24])
    assert fold.validation.tolist() == sorted(order[-6:-3])
    assert fold.test.tolist() == sorted(order[-3:])


def test_jarvis_files_that_are_none(folder: Path) -> None:
    path = folder / "dft_3d_2021.json"
    path.write_text('{"jid": 1}')
    with pytest.raises(InputError, match="no list of records"):
        load_property("jarvis_ehull")
    path.write_text(json.dumps([{"jid": "a", "atoms": {}, "ehull": 0.1}] * 20))
    with pytest.raises(InputError, match=r"a: cannot be read \(KeyError: 'lattice_mat'\)"):
        load_property("jarvis_ehull")
    path.write_text(json.dumps([{"jid": "a", "ehull": "na"}]))
    with pytest.raises(InputError, match="0 records have a number 'ehull'"):
        load_property("jarvis_ehull")


def test_mp_gap_joins_structures_and_counts_them(folder: Path) -> None:
    pool = toy_crystals()[:12]
    write_parquet(folder / "mp_pool.parquet", pool, material_id=[f"mp-{i}" for i in range(12)])
    wanted = [11, 3, 7, 99, 5, 100]
    table = {
        "material_id": [f"mp-{i}" for i in wanted],
        "split": ["train", "test", "val", "train", "train", "test"],
        "band_gap": [float(i) for i in wanted],
    }
    pq.write_table(pa.table(table), folder / "properties" / "mp_gap_ids.parquet")
    data = load_property("mp_gap")
    assert data.notes == ("structures joined by id for 4 of 6 (train, validation, test: 2 of 3, 1 of 1, 1 of 2)",)
    assert dict(zip(data.crystals.ids, data.labels.tolist(), strict=True)) == {f"mp-{i}": i for i in (3, 5, 7, 11)}
    (fold,) = data.folds
    assert fold.validation is not None
    names = [[data.crystals.ids[i] for i in rows.tolist()] for rows in (fold.train, fold.validation, fold.test)]
    assert names == [["mp-5", "mp-11"], ["mp-7"], ["mp-3"]]


@pytest.mark.parametrize("logarithms", [True, False])
def test_mp_moduli(folder: Path, logarithms: bool) -> None:  # noqa: FBT001
    for split, rows in (("train", range(6)), ("val", range(6, 8)), ("test", range(8, 10))):
        records = [
            {
                "id": f"mp-{i}",
                "atoms": atoms(CRYSTALS[i]),
                "bulk modulus": 1.0 + i / 10 if logarithms else 10 ** (1 + i / 10),
            }
            for i in rows
        ]
        (folder / f"mp_bulk_{split}.json").write_text(json.dumps(records))
    data = load_property("mp_bulk")
    assert data.unit == "log10(GPa)"
    torch.testing.assert_close(data.labels, 1.0 + torch.arange(10) / 10)
    (fold,) = data.folds
    assert fold.validation is not None
    assert [rows.tolist() for rows in (fold.train, fold.validation, fold.test)] == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]
    (folder / "mp_bulk_val.json").write_text(
        json.dumps([{"id": "x", "atoms": atoms(CRYSTALS[0]), "bulk modulus": -900}])
    )
    if not logarithms:
        with pytest.raises(InputError, match="-900 GPa has no logarithm"):
            load_property("mp_bulk")


def test_aflow(folder: Path) -> None:
    splits = ["train"] * 6 + ["val", "val", "test", None]
    values = [1e-5 * i for i in range(9)] + [None]
    content: dict[str, Any] = columns(CRYSTALS)
    del content["split"]
    content |= {"thermal_expansion": values, "split_thermal_expansion": splits}
    pq.write_table(pa.table(content), folder / "properties" / "aflow.parquet")
    data = load_property("aflow_thermal_expansion")
    torch.testing.assert_close(data.labels, 10.0 * torch.arange(9))
    (fold,) = data.folds
    assert fold.validation is not None
    assert [rows.tolist() for rows in (fold.train, fold.validation, fold.test)] == [[0, 1, 2, 3, 4, 5], [6, 7], [8]]
    with pytest.raises(InputError, match="lacks column 'bulk_modulus'"):
        load_property("aflow_bulk_modulus")


def test_own_file_with_and_without_splits(tmp_path: Path) -> None:
    values = [float(i) for i in range(9)] + [None]
    path = tmp_path / "mine.parquet"
    write_parquet(path, CRYSTALS, hardness=values)
    data = load_property(str(path), target="hardness", unit="GPa", scale="log10")
    assert (data.name, data.label, data.unit, data.scale) == ("mine", "hardness", "GPa", "log10")
    assert data.notes == (f"{path}: 1 crystals without a number 'hardness' are left out",)
    (fold,) = data.folds
    assert fold.test.tolist() == [7]

    content = columns(CRYSTALS) | {"hardness": values}
    del content["split"]
    pq.write_table(pa.table(content), path)
    data = load_property(str(path), target="hardness", random_folds=3, seed=4)
    assert sorted(i for fold in data.folds for i in fold.test.tolist()) == list(range(9))
    for fold in data.folds:
        assert not set(fold.train.tolist()) & set(fold.test.tolist())
        assert len(fold.train) + len(fold.test) == 9
    again = load_property(str(path), target="hardness", random_folds=3, seed=4)
    other = load_property(str(path), target="hardness", random_folds=3, seed=5)
    tests = [[fold.test.tolist() for fold in one.folds] for one in (data, again, other)]
    assert tests[0] == tests[1] != tests[2]
    with pytest.raises(InputError, match="9 labelled crystals are too few for 5 folds"):
        load_property(str(path), target="hardness")


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data 'nonsense': neither a file or folder nor one of matbench_phonons"):
        load_property("nonsense")
    with pytest.raises(InputError, match="the target of mp_gap is 'band_gap'"):
        load_property("mp_gap", target="hardness")
    path = tmp_path / "mine.parquet"
    write_parquet(path, CRYSTALS, split=["train"] * 10, hardness=[1.0] * 10)
    with pytest.raises(InputError, match="say by --target which column"):
        load_property(str(path))
    with pytest.raises(InputError, match="no labelled crystal of split 'test'"):
        load_property(str(path), target="hardness")
