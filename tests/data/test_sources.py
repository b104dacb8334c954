# Over 400 lines: all readers share the crystals, the texts and the one check of what a refusal looks like.

from __future__ import annotations

import csv
import json
import random
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dao.crystal import Crystal
from dao.data.sources import (
    read_crystals,
    read_csv,
    read_extxyz,
    read_folder,
    read_parquet,
    read_structure_file,
)
from dao.errors import InputError

FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
NACL = Crystal([11] * 4 + [17] * 4, np.vstack([FCC, FCC + 0.5]), np.eye(3) * 5.64)
CSCL = Crystal([55, 17], np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.eye(3) * 4.12)

# asymmetric unit only: the reader must fill the cell
ROCKSALT_CIF = """data_NaCl
_symmetry_space_group_name_H-M   'F m -3 m'
_symmetry_Int_Tables_number   225
_cell_length_a   5.64
_cell_length_b   5.64
_cell_length_c   5.64
_cell_angle_alpha   90
_cell_angle_beta   90
_cell_angle_gamma   90
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
  Na1+ Na1 0.0 0.0 0.0 1
  Cl1- Cl1 0.5 0.5 0.5 1
"""

# without high symmetry, which costs pymatgen 0.3 s a file
CSCL_CIF = """data_CsCl
_cell_length_a   4.12(1)
_cell_length_b   4.12(1)
_cell_length_c   4.12(1)
_cell_angle_alpha   90
_cell_angle_beta   90
_cell_angle_gamma   90
_cell_formula_units_Z   1
loop_
 _symmetry_equiv_pos_site_id
 _symmetry_equiv_pos_as_xyz
  1  'x, y, z'
  2  '-x, -y, -z'
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
  Cs Cs1 0.0 0.0 0.0 1
  Cl Cl1 0.5 0.5 0.5 1
"""

POSCAR = """CsCl
1.0
4.12 0 0
0 4.12 0
0 0 4.12
Cs Cl
1 1
Direct
0 0 0
0.5 0.5 0.5
"""

EXTXYZ = """2
Lattice="4.12 0 0 0 4.12 0 0 0 4.12" Properties=species:S:1:pos:R:3 label=7 energy=-1.5 pbc="T T T"
Cs 0 0 0
Cl 2.06 2.06 2.06
"""


def same(first: Crystal, second: Crystal, atol: float = 1e-6) -> bool:
    difference = first.frac_coords - second.frac_coords
    return (
        first.atomic_numbers.tolist() == second.atomic_numbers.tolist()
        and np.allclose(difference, np.rint(difference), atol=atol)
        and np.allclose(first.lattice, second.lattice, atol=atol)
    )


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(read: Callable[[], Any], *parts: str) -> str:
    """The one line that reading raises; it contains each of ``parts``, and nothing is warned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(InputError) as error:
            read()
    line = str(error.value)
    assert "\n" not in line
    assert line.isprintable()
    for part in parts:
        assert part in line
    assert not caught
    return line


# CIF


def test_cif_is_filled_by_symmetry_and_stripped_of_charges(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (crystal,) = read_structure_file(write(tmp_path / "nacl.cif", ROCKSALT_CIF))
    assert crystal.material_id == "nacl"
    assert crystal.counts == {11: 4, 17: 4}
    assert crystal.volume == pytest.approx(5.64**3)
    crystal.validate()
    assert capfd.readouterr().err == ""


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(*[st.integers(0, 9)] * 3), min_size=1, max_size=6, unique=True), st.floats(60, 120))
def test_cif_round_trip(tmp_path: Path, sites: list[tuple[int, int, int]], angle: float) -> None:
    from pymatgen.core import Lattice

    lattice = Lattice.from_parameters(7, 8, 9, 90, angle, 90).matrix
    crystal = Crystal([11 + i for i in range(len(sites))], np.array(sites) / 10, lattice)
    file = tmp_path / "written.cif"
    crystal.to_structure().to(str(file))
    (back,) = read_structure_file(file)
    assert same(back, crystal)


def test_remarks_of_the_parser_are_kept_in_info(tmp_path: Path) -> None:
    rounded = CSCL_CIF.replace("0.5 0.5 0.5 1", "0.3333 0.3333 0.3333 1")
    (crystal,) = read_structure_file(write(tmp_path / "a.cif", rounded))
    assert any("rounded" in remark for remark in crystal.info["warnings"])


def test_blocks_of_a_cif_are_numbered_and_blocks_without_structure_skipped(tmp_path: Path) -> None:
    text = "data_global\n_journal_year 1999\n\n" + CSCL_CIF + "\n" + CSCL_CIF.replace("data_CsCl", "data_two")
    names = [crystal.material_id for crystal in read_structure_file(write(tmp_path / "both.cif", text))]
    assert names == ["both", "both-2"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (CSCL_CIF.replace("0.0 0.0 0.0 1", "0.0 0.0 0.0 0.5"), "disordered or partly occupied"),
        (
            CSCL_CIF.replace("0.0 0.0 0.0 1", "0.0 0.0 0.0 0.5") + "  K K1 0.0 0.0 0.0 0.5\n",
            "disordered or partly occupied",
        ),
        (CSCL_CIF.replace("0.0 0.0 0.0 1", "0.0 0.0 0.0 1.7"), ""),
        (CSCL_CIF.replace("Cs Cs1", "Xx Xx1"), ""),
        (CSCL_CIF.replace("_cell_length_a   4.12(1)", ""), ""),
        (CSCL_CIF.replace("_atom_site_fract_y", "_atom_site_y"), "no tag '_atom_site_fract_y'"),
        (CSCL_CIF.replace("_cell_length_a   4.12(1)", "_cell_length_a   five"), ""),
        (CSCL_CIF.replace("_cell_length_a   4.12(1)", "_cell_length_a   nan"), ""),
        (CSCL_CIF.replace("_cell_angle_alpha   90", "_cell_angle_alpha   0"), ""),
        (CSCL_CIF[:200], ""),
        ("data_x\n", ""),
        ("this is a letter to my aunt", ""),
        ("\n \n", ""),
        ("", "is empty"),
        (bytes(range(256)) * 20, "is no text file"),
        (b"\x93NUMPY\x01\x00v\x00{'descr'", "is no text file"),
        (b"\xff\xfe\xfd" * 100, ""),
    ],
)
def test_bad_cifs(tmp_path: Path, content: str | bytes, says: str) -> None:
    file = write(tmp_path / "bad.cif", content)
    refused(lambda: list(read_crystals(file)), str(file), says)


def test_latin_1_cifs_are_read(tmp_path: Path) -> None:
    file = write(tmp_path / "old.cif", b"# M\xfcller\n" + CSCL_CIF.encode())
    assert len(read_structure_file(file)) == 1


def mutant(rng: random.Random) -> str:
    text = CSCL_CIF
    for _ in range(rng.randint(1, 4)):
        lines = text.split("\n")
        line = rng.randrange(len(lines))
        position = rng.randrange(len(text))
        match rng.randrange(7):
            case 0:
                text = text[:position]
            case 1:
                text = "\n".join(lines[:line] + lines[line + 1 :])
            case 2:
                text = text[:position] + text[position + 1 :]
            case 3:
                junk = rng.choice(["\x7f", "'", '"', ";", "?", "-", "1e999", "nan", "0", "_", "loop_", "é", "\n;\n"])
                text = text[:position] + junk + text[position:]
            case 4:
                token = rng.choice(text.split() or ["x"])
                text = text.replace(token, rng.choice(["0", "-1", "?", ".", "Q", "1e308", "'", "9" * 40, "1/0"]))
            case 5:
                rng.shuffle(lines)
                text = "\n".join(lines)
            case _:
                text = "\n".join(lines[: line + 1] + lines[line:])
        text = text or "_"
    return text


def test_mutated_cifs_are_read_or_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(0)  # noqa: S311 - no secret
    refusals: list[tuple[str, str]] = []
    numbers_of_crystals: list[int] = []
    for number in range(200):
        file = write(tmp_path / f"{number}.cif", mutant(rng))
        started = time.perf_counter()
        try:
            crystals = read_structure_file(file)
        except InputError as error:
            refusals.append((f"{file}: ", str(error)))
        else:
            numbers_of_crystals.append(len(crystals))
        assert time.perf_counter() - started < 5
    assert all(line.startswith(start) and line.isprintable() for start, line in refusals)
    assert len(refusals) >= 80
    assert len(numbers_of_crystals) >= 20
    assert min(numbers_of_crystals) >= 1
    assert capfd.readouterr() == ("", "")


# POSCAR and folders


def test_poscar(tmp_path: Path) -> None:
    (crystal,) = read_crystals(write(tmp_path / "POSCAR", POSCAR))
    assert same(crystal, CSCL)
    assert crystal.material_id == "POSCAR"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (POSCAR.replace("1 1\nD", "1000000000 1\nD"), "claims 1000000000 atoms of one element in a file of 10 lines"),
        (POSCAR.replace("1 1\nD", "-1 2\nD"), "claims"),
        (POSCAR.replace("Cs Cl\n", ""), "no element symbols"),
        (POSCAR.replace("Cs Cl\n", "").replace("1 1\nD", "1000000000 1\nD"), "claims 1000000000 atoms"),
        (POSCAR.replace("Cs Cl", "Xx Cl"), ""),
        (POSCAR.replace("0.5 0.5 0.5", "0.5 nan 0.5"), "finite"),
        (POSCAR.replace("0.5 0.5 0.5\n", ""), ""),
        (POSCAR.replace("1.0\n", "one\n"), ""),
        (POSCAR[:20], ""),
        ("", "is empty"),
    ],
)
def test_bad_poscars_cost_nothing(tmp_path: Path, content: str, says: str) -> None:
    file = write(tmp_path / "POSCAR", content)
    write(tmp_path / "POSCAR_ok", POSCAR)
    # imports and caches of the parser are not its reading
    list(read_crystals(tmp_path / "POSCAR_ok"))
    tracemalloc.start()
    refused(lambda: list(read_crystals(file)), f"{file}: ", says)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_folder_is_read_in_order_of_names_and_other_files_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "b.cif", CSCL_CIF)
    write(tmp_path / "A.CIF", CSCL_CIF)
    for name in ("POSCAR", "CONTCAR_1", "c.vasp", "POSCAR.SrTiO3", "d.poscar"):
        write(tmp_path / name, POSCAR)
    write(tmp_path / "notes.txt", "nothing")
    (tmp_path / "e.cif").mkdir()
    names = [crystal.material_id for crystal in read_crystals(tmp_path)]
    assert names == ["A", "CONTCAR_1", "POSCAR", "POSCAR.SrTiO3", "b", "c", "d"]


def test_folder_goes_on_after_a_bad_file_if_asked(tmp_path: Path) -> None:
    write(tmp_path / "a.cif", CSCL_CIF)
    write(tmp_path / "b.cif", "junk")
    write(tmp_path / "c.vasp", POSCAR)
    refused(lambda: list(read_folder(tmp_path)), str(tmp_path / "b.cif"))
    errors: list[InputError] = []
    assert [crystal.material_id for crystal in read_folder(tmp_path, on_error=errors.append)] == ["a", "c"]
    assert len(errors) == 1


def test_folders_that_are_none(tmp_path: Path) -> None:
    refused(lambda: read_folder(tmp_path), f"{tmp_path}: no *.cif")
    refused(lambda: read_folder(tmp_path / "absent"), "absent: no such file or folder")
    refused(lambda: read_folder(write(tmp_path / "file", "x")), "file: is no folder")


# extended XYZ


def test_extxyz(tmp_path: Path) -> None:
    file = write(tmp_path / "two.extxyz", EXTXYZ + EXTXYZ.replace("label=7", 'material_id="mp-1"') + "\n\n")
    first, second = read_crystals(file)
    assert same(first, CSCL)
    assert (first.material_id, second.material_id) == ("two-1", "mp-1")
    assert first.info == {"label": 7, "energy": -1.5}


def test_extxyz_written_by_ase_comes_back(tmp_path: Path) -> None:
    from ase.io import write as ase_write

    named = Crystal(NACL.atomic_numbers, NACL.frac_coords, NACL.lattice, material_id="mp-22862", info={"gap": 5.0})
    ase_write(tmp_path / "a.extxyz", [named.to_atoms(), CSCL.to_atoms()])
    first, second = read_extxyz(tmp_path / "a.extxyz")
    assert same(first, named, atol=1e-7)
    assert same(second, CSCL, atol=1e-7)
    assert (first.material_id, first.info) == ("mp-22862", {"gap": 5.0})


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (EXTXYZ + EXTXYZ[:-20], ["frame 2", "claims 2 atoms, the file ends after 1"]),
        (EXTXYZ + EXTXYZ.replace("2\n", "1000000000\n", 1), ["frame 2", "claims 1000000000 atoms"]),
        (EXTXYZ + "\n" + EXTXYZ, ["frame 2", "empty line"]),
        (EXTXYZ.replace("Lattice=", "Latice="), ["frame 1", "has no cell"]),
        (EXTXYZ.replace("T T T", "T T F"), ["frame 1", "periodic in 2 of 3"]),
        (EXTXYZ.replace("Cs 0", "Xx 0"), ["frame 1", "Xx"]),
        (EXTXYZ.replace("2.06 2.06 2.06", "2.06 2.06"), ["frame 1"]),
        (EXTXYZ.replace("2.06 2.06 2.06", "2.06 nan 2.06"), ["frame 1", "finite"]),
        (EXTXYZ.replace("4.12 0 0 0", "4.12 0 0"), ["frame 1"]),
        (EXTXYZ.replace("pos:R:3", "pos:R"), ["frame 1"]),
        (EXTXYZ.replace("2\n", "0\n", 1), ["frame 1", "has 0 atoms"]),
        (EXTXYZ.replace("2\n", "two\n", 1), ["frame 1", "number of atoms"]),
        (b"\xff\xfe\x00\x01" * 50, ["frame 1"]),
        ("", ["is empty"]),
        (" \n\n", ["is blank"]),
    ],
)
def test_bad_extxyz(tmp_path: Path, content: str | bytes, parts: list[str]) -> None:
    file = write(tmp_path / "bad.extxyz", content)
    refused(lambda: list(read_extxyz(file)), str(file), *parts)


def test_extxyz_goes_on_after_a_bad_frame_if_asked(tmp_path: Path) -> None:
    bad = EXTXYZ.replace("Cs 0", "Xx 0")
    file = write(tmp_path / "a.xyz", EXTXYZ + bad + EXTXYZ + EXTXYZ[:-20])
    errors: list[InputError] = []
    assert [crystal.material_id for crystal in read_extxyz(file, on_error=errors.append)] == ["a-1", "a-3"]
    assert ["frame 2" in str(errors[0]), "frame 4" in str(errors[1])] == [True, True]


# CSV


def write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_csv(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"": 0, "material_id": "mp-22865", "gap": 5.0, "elements": "['Cs', 'Cl']", "cif": CSCL_CIF},
        {"": 1, "material_id": "", "gap": "", "elements": "", "cif": CSCL_CIF},
    ]
    first, second = read_crystals(write_csv(tmp_path / "train.csv", rows))
    assert (first.material_id, first.counts) == ("mp-22865", {17: 1, 55: 1})
    assert {key: first.info[key] for key in ("gap", "elements")} == {"gap": 5.0, "elements": "['Cs', 'Cl']"}
    assert not {"", "cif", "material_id"} & set(first.info)
    assert second.material_id == "train-2"
    assert not {"gap", "elements"} & set(second.info)


def test_bad_csv_rows_are_named_and_can_be_skipped(tmp_path: Path) -> None:
    disordered = CSCL_CIF.replace("0.0 0.0 0.0 1", "0.0 0.0 0.0 0.5")
    texts = [CSCL_CIF, disordered, "", "junk", CSCL_CIF + CSCL_CIF.replace("data_CsCl", "data_two")]
    rows: list[dict[str, object]] = [{"material_id": f"mp-{i}", "cif": text} for i, text in enumerate(texts)]
    file = write_csv(tmp_path / "a.csv", rows)
    line = refused(lambda: list(read_csv(file)))
    assert line.startswith(f"{file}, row 2 (mp-1): site 1 is disordered")
    errors: list[InputError] = []
    assert [crystal.material_id for crystal in read_csv(file, on_error=errors.append)] == ["mp-0"]
    assert [f"row {i + 1} (mp-{i})" in str(errors[i - 1]) for i in (1, 2, 3, 4)] == [True] * 4
    assert "holds 2 structures" in str(errors[3])


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("material_id,formula\n1,NaCl\n", ["no column 'cif'"]),
        ("\n", ["no column 'cif'"]),
        ("", ["is empty"]),
        (bytes(range(256)), ["cannot be read"]),
        ('material_id,cif\n1,"data_x', ["row 1"]),
        ("material_id,cif\n1\n", ["row 1", "'cif' is empty"]),
        ("material_id,cif\n1,\xff\n".encode("latin-1"), ["cannot be read"]),
        ('material_id,cif\n1,"' + "x" * 200_000 + '"\n', ["row 1", "field limit"]),
    ],
)
def test_bad_csv(tmp_path: Path, content: str | bytes, parts: list[str]) -> None:
    file = write(tmp_path / "bad.csv", content)
    refused(lambda: list(read_csv(file)), str(file), *parts)
    errors: list[InputError] = []
    if "row 1" in parts:
        assert list(read_csv(file, on_error=errors.append)) == []
        assert len(errors) == 1


# Parquet


def table(crystals: list[Crystal], **columns: list[Any]) -> pa.Table:
    return pa.table(
        {
            "atomic_numbers": pa.array([c.atomic_numbers.tolist() for c in crystals], pa.list_(pa.uint8())),
            "frac_coords": pa.array([c.frac_coords.ravel().tolist() for c in crystals], pa.list_(pa.float32())),
            "lattice": pa.array([c.lattice.ravel().tolist() for c in crystals], pa.list_(pa.float32())),
            **columns,
        }
    )


MIXED = [NACL, CSCL, NACL, CSCL]
IDS = [f"mp-{i}" for i in range(4)]
SPLITS = ["train", "val", "train", None]


def test_parquet(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    # several row groups, so that offsets into lists restart
    pq.write_table(table(MIXED, material_id=IDS, gap=[1.0, None, 3.0, 4.0], split=SPLITS), file, row_group_size=3)
    crystals = list(read_crystals(file))
    assert [crystal.material_id for crystal in crystals] == IDS
    assert all(same(crystal, original) for crystal, original in zip(crystals, MIXED, strict=True))
    assert crystals[0].info == {}
    train = list(read_parquet(file, split="train", columns=["gap"]))
    assert [(crystal.material_id, crystal.info) for crystal in train] == [
        ("mp-0", {"gap": 1.0}),
        ("mp-2", {"gap": 3.0}),
    ]
    assert same(train[1], NACL)
    (val,) = read_parquet(file, "val", ["gap", "split"])
    assert same(val, CSCL)
    assert val.info == {"gap": None, "split": "val"}


def test_parquet_is_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dao.data.sources.parquet._ROWS_AT_ONCE", 3)
    file = tmp_path / "a.parquet"
    pq.write_table(table(MIXED * 5, split=["val", "train"] * 10), file)
    crystals = list(read_parquet(file, split="train"))
    assert [crystal.material_id for crystal in crystals] == [f"a-{row}" for row in range(1, 20, 2)]
    assert all(same(crystal, CSCL) for crystal in crystals)


def test_parquet_of_other_list_types(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    columns = {
        "atomic_numbers": pa.array([[55, 17]], pa.large_list(pa.int64())),
        "frac_coords": pa.array([CSCL.frac_coords.ravel().tolist()], pa.list_(pa.float64())),
        "lattice": pa.array([CSCL.lattice.ravel().tolist()], pa.list_(pa.float64(), 9)),
    }
    pq.write_table(pa.table(columns), file)
    (crystal,) = read_parquet(file)
    assert same(crystal, CSCL, atol=1e-15)


def test_another_split_column(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(table(MIXED, mp20_split=SPLITS), file)
    assert len(list(read_parquet(file, "train", split_column="mp20_split"))) == 2
    refused(lambda: read_parquet(file, "train"), str(file), "no column 'split'", "mp20_split")
    refused(lambda: list(read_parquet(file, "test", split_column="mp20_split")), "'test'", "train, val")


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("atomic_numbers", [0, 17], "atomic number 0"),
        ("atomic_numbers", [200, 17], "atomic number 200"),
        ("atomic_numbers", [], "N >= 1"),
        ("atomic_numbers", None, "N >= 1"),
        ("frac_coords", [0.0] * 5, "frac_coords"),
        ("frac_coords", [0.0] * 9, r"(2, 3), got (3, 3)"),
        ("frac_coords", [0.0, 0.0, 0.0, None, 0.5, 0.5], "finite"),
        ("lattice", [1.0] * 8, "lattice"),
        ("lattice", [float("nan")] * 9, "finite"),
    ],
)
def test_bad_parquet_rows_are_named_and_can_be_skipped(tmp_path: Path, column: str, value: Any, says: str) -> None:
    rows = table([CSCL, CSCL, CSCL], material_id=IDS[:3])
    values = rows.column(column).to_pylist()
    values[1] = value
    rows = rows.set_column(
        rows.schema.get_field_index(column), column, pa.array(values, rows.schema.field(column).type)
    )
    file = tmp_path / "a.parquet"
    pq.write_table(rows, file)
    line = refused(lambda: list(read_parquet(file)), says)
    assert line.startswith(f"{file}, row 1: mp-1: ")
    errors: list[InputError] = []
    kept = list(read_parquet(file, on_error=errors.append))
    assert [crystal.material_id for crystal in kept] == ["mp-0", "mp-2"]
    assert all(same(crystal, CSCL) for crystal in kept)
    assert len(errors) == 1


def test_bad_parquet_files(tmp_path: Path) -> None:
    good = tmp_path / "good.parquet"
    pq.write_table(table(MIXED * 100), good)
    data = good.read_bytes()
    for name, content in (("torn", data[:-100]), ("junk", bytes(range(256))), ("short", b"PAR1")):
        file = write(tmp_path / f"{name}.parquet", content)
        refused(partial(lambda path: list(read_parquet(path)), file), f"{file}: cannot be read")
    file = write(tmp_path / "flipped.parquet", data[:4] + b"\xff" * 200 + data[204:])
    refused(lambda: list(read_parquet(file)), str(file))
    scalars = tmp_path / "scalars.parquet"
    pq.write_table(pa.table({"atomic_numbers": [1], "frac_coords": [0.5], "lattice": [1.0]}), scalars)
    refused(lambda: list(read_parquet(scalars)), str(scalars))
    refused(lambda: read_parquet(good, columns=["gap"]), str(good), "no column 'gap'")


def test_real_rows_are_read(data_dir: Path) -> None:
    crystals = [crystal for crystal, _ in zip(read_parquet(data_dir / "mp20.parquet", "val"), range(200), strict=False)]
    for crystal in crystals:
        crystal.validate()
    assert len({crystal.material_id for crystal in crystals}) == 200


# JSON, ZIP, ASE databases (what they make of broken items is tested with dao.evaluation.predictions)


def test_json(tmp_path: Path) -> None:
    structures = [NACL.to_structure().as_dict(), CSCL.to_structure().as_dict()]
    for name, content in (("a.json", structures), ("b.json", {"mp-1": structures[0], "mp-2": structures[1:]})):
        first, second = read_crystals(write(tmp_path / name, json.dumps(content)))
        assert same(first, NACL)
        assert same(second, CSCL)
        names = (first.material_id, second.material_id)
        assert names == (("a-1", "a-2") if name == "a.json" else ("mp-1", "mp-2"))
    (alone,) = read_crystals(write(tmp_path / "c.json", json.dumps(structures[1])))
    assert same(alone, CSCL)


def test_zip(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("x_10.cif", "x_9.CIF", "sub/", "sub/y.cif", "notes.txt"):
            archive.writestr(name, CSCL_CIF)
    assert [crystal.material_id for crystal in read_crystals(file)] == ["y", "x_9", "x_10"]
    assert all(same(crystal, CSCL) for crystal in read_crystals(file))


def test_ase_db(tmp_path: Path) -> None:
    from ase.constraints import FixAtoms
    from ase.db import connect

    atoms = NACL.to_atoms()
    # objects that a row names are not made
    atoms.set_constraint(FixAtoms([0]))  # type: ignore[no-untyped-call]
    with connect(tmp_path / "a.db") as database:  # type: ignore[no-untyped-call]
        database.write(atoms, material_id="mp-1", gap=5.0, data={"x": np.arange(3)})
        database.write(CSCL.to_atoms())
    first, second = read_crystals(tmp_path / "a.db")
    assert same(first, NACL)
    assert same(second, CSCL)
    assert (first.material_id, first.info, second.material_id) == ("mp-1", {"gap": 5.0}, "a-2")


def test_new_kinds_go_on_after_a_bad_item_if_asked(tmp_path: Path) -> None:
    good = CSCL.to_structure().as_dict()
    file = write(tmp_path / "a.json", json.dumps([good, {"sites": []}, good]))
    refused(lambda: list(read_crystals(file)), f"{file}, entry 2: cannot be read (KeyError: 'lattice')")
    errors: list[InputError] = []
    assert [crystal.material_id for crystal in read_crystals(file, on_error=errors.append)] == ["a-1", "a-3"]
    assert len(errors) == 1


# any kind


KINDS = [".cif", ".vasp", ".extxyz", ".csv", ".parquet", ".json", ".json.gz", ".jsonl", ".jsonl.gz", ".zip", ".db"]


@pytest.mark.parametrize("name", ["POSCAR", *[f"a{suffix}" for suffix in KINDS], "a.dat", "folder"])
def test_missing_and_empty_files(tmp_path: Path, name: str) -> None:
    refused(lambda: list(read_crystals(tmp_path / name)), f"{tmp_path / name}: no such file")
    if name not in ("a.dat", "folder"):
        file = write(tmp_path / name, "")
        refused(lambda: list(read_crystals(file)), f"{file}: is empty")


def test_unknown_kind(tmp_path: Path) -> None:
    refused(lambda: read_crystals(write(tmp_path / "a.dat", "{}")), "unknown kind", ".extxyz")


@pytest.mark.parametrize("suffix", KINDS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=200))
def test_junk_is_refused_in_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = write(tmp_path / f"junk{suffix}", content)
    refused(lambda: list(read_crystals(file)), str(file))
