from __future__ import annotations

import csv
from pathlib import Path

import ase.io
import numpy as np
import pytest
from toys import DISORDERED, toy, toy_crystals, toy_splits, write_parquet

from dao.crystal import Crystal
from dao.data.sources import read_crystals
from dao.data.store import pack_crystals, read_packed
from dao.data.training_set import load_packed
from dao.errors import InputError

CRYSTALS = toy_crystals()[:20]
SPLITS = toy_splits(CRYSTALS)
FLAT = Crystal([11, 17], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], np.diag([9.0, 9.0, 0.2]), material_id="flat")
EMPTY = toy("rocksalt", ("Na", "Cl"), 20.0, "empty")
CLASH = Crystal([11, 17], [[0.0, 0.0, 0.0], [0.01, 0.0, 0.0]], np.eye(3) * 4, material_id="clash")
HEAVY = Crystal([95, 17], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], np.eye(3) * 4, material_id="heavy")


def cif(crystal: Crystal) -> str:
    return str(crystal.to_structure().to(fmt="cif"))


def as_parquet(folder: Path) -> Path:
    write_parquet(folder / "toys.parquet", CRYSTALS)
    return folder / "toys.parquet"


def as_csv(folder: Path, crystals: list[Crystal] = CRYSTALS, *, split: bool = True) -> Path:
    with (folder / "toys.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["material_id", "cif", *(["split"] if split else [])])
        for crystal, of in zip(crystals, toy_splits(crystals), strict=True):
            writer.writerow([crystal.material_id, cif(crystal), *([of] if split else [])])
    return folder / "toys.csv"


def as_extxyz(folder: Path, crystals: list[Crystal] = CRYSTALS, *, split: bool = True) -> Path:
    frames = []
    for crystal, of in zip(crystals, toy_splits(crystals), strict=True):
        atoms = crystal.to_atoms()
        atoms.info |= {"material_id": crystal.material_id, **({"split": of} if split else {})}
        frames.append(atoms)
    ase.io.write(folder / "toys.extxyz", frames)
    return folder / "toys.extxyz"


def as_folder(folder: Path, crystals: list[Crystal] = CRYSTALS) -> Path:
    (folder / "cifs").mkdir()
    for crystal in crystals:
        (folder / "cifs" / f"{crystal.material_id}.cif").write_text(cif(crystal))
    return folder / "cifs"


@pytest.mark.parametrize("write", [as_parquet, as_csv, as_extxyz])
def test_every_source_with_splits_gives_the_same_crystals(tmp_path: Path, write: object) -> None:
    assert callable(write)
    path = write(tmp_path)
    for split in ("train", "val"):
        expected = [c for c, of in zip(CRYSTALS, SPLITS, strict=True) if of == split and c.num_atoms <= 3]
        for optional in (False, True):
            packed = load_packed(path, split=split, max_atoms=3, split_optional=optional)
            assert list(packed.ids) == [crystal.material_id for crystal in expected]
            assert packed.atomic_numbers.tolist() == pack_crystals(expected).atomic_numbers.tolist()
            np.testing.assert_allclose(packed.lattice.det(), pack_crystals(expected).lattice.det(), rtol=1e-4)
    assert len(load_packed(path)) == 20
    with pytest.raises(InputError, match="no rows of split 'tset'"):
        load_packed(path, split="tset", split_optional=True)


def test_sources_without_splits_train_as_a_whole_and_validate_not_at_all(tmp_path: Path) -> None:
    write_parquet(tmp_path / "plain.parquet", CRYSTALS)
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "plain.parquet")
    pq.write_table(table.drop_columns(["split"]), tmp_path / "plain.parquet")
    paths = [tmp_path / "plain.parquet", as_csv(tmp_path, split=False), as_extxyz(tmp_path, split=False)]
    for path in (*paths, as_folder(tmp_path)):
        packed = load_packed(path, split="train", split_optional=True)
        assert sorted(packed.ids) == sorted(str(crystal.material_id) for crystal in CRYSTALS)
        assert "split" not in packed.columns
        with pytest.raises(InputError, match="'split'"):
            load_packed(path, split="val")


def test_crystals_outside_the_limits_are_left_out_and_counted(tmp_path: Path) -> None:
    notes: list[str] = []
    write_parquet(tmp_path / "some.parquet", [*CRYSTALS[:3], FLAT, EMPTY, HEAVY])
    assert len(read_packed(tmp_path / "some.parquet")) == 6
    assert len(load_packed(tmp_path / "some.parquet", note=notes.append)) == 3
    path = as_extxyz(tmp_path, [*CRYSTALS[:3], CLASH, FLAT, EMPTY, HEAVY], split=False)
    assert list(load_packed(path, note=notes.append).ids) == [crystal.material_id for crystal in CRYSTALS[:3]]
    first, second = notes
    assert first.startswith(f"{tmp_path / 'some.parquet'}: 3 crystals outside the validity limits are left out (the f")
    assert "flat: cell only 0.2 A high" in first
    assert "4 crystals" in second
    assert "clash: two atoms 0.04 A apart" in second
    load_packed(path, note=notes.append)
    assert notes[2:] == [second]
    for only in (as_extxyz(tmp_path, [EMPTY, FLAT]), as_parquet_of(tmp_path, [EMPTY, FLAT])):
        with pytest.raises(
            InputError, match=r"no crystal is within the validity limits \(the first: .*1000 A\^3 per atom"
        ):
            load_packed(only)


def as_parquet_of(folder: Path, crystals: list[Crystal]) -> Path:
    write_parquet(folder / "few.parquet", crystals)
    return folder / "few.parquet"


def test_what_cannot_be_read_refuses_the_whole_source(tmp_path: Path) -> None:
    folder = as_folder(tmp_path, CRYSTALS[:3])
    (folder / "mixed.cif").write_text(DISORDERED)
    with pytest.raises(InputError, match=r"mixed\.cif.*disordered"):
        load_packed(folder)
    with pytest.raises(InputError, match="no such file or folder"):
        load_packed(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="unknown kind"):
        load_packed(tmp_path / "notes.txt")
    (tmp_path / "void").mkdir()
    with pytest.raises(InputError, match=r"no \*\.cif"):
        load_packed(tmp_path / "void")
    with pytest.raises(InputError, match="no crystal of at most 1 atoms of split 'train'"):
        load_packed(as_csv(tmp_path), split="train", max_atoms=1)


def test_a_changed_source_is_read_again(tmp_path: Path) -> None:
    path = as_extxyz(tmp_path, CRYSTALS[:4])
    assert len(load_packed(path)) == 4
    as_extxyz(tmp_path, CRYSTALS[:2])
    assert len(load_packed(path)) == 2


def test_shards_are_one_set(tmp_path: Path) -> None:
    crystals = toy_crystals()
    for number, rows in enumerate((slice(0, 20), slice(20, 50))):
        write_parquet(tmp_path / f"shard-0000{number}.parquet", crystals[rows])
    (tmp_path / "crysdb.json").write_text("{}")
    assert load_packed(tmp_path).ids == tuple(one.name for one in crystals)
    small = load_packed(tmp_path, split="train", max_atoms=3)
    assert set(small.ids) < {one.name for one in crystals if one.num_atoms <= 3}
    assert load_packed(tmp_path / "shard-00001.parquet").ids == tuple(one.name for one in crystals[20:])
    assert [one.name for one in read_crystals(tmp_path)] == [one.name for one in crystals]
