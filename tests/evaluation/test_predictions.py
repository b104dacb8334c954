# Over 400 lines: every kind of file is written by one writer, and every rule is tested on every kind.

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import DISORDERED, toy, write_parquet

from dao.crystal import Crystal
from dao.errors import InputError
from dao.evaluation.predictions import Failure, Prediction, PredictionSet, read_predictions

NACL, CSCL, SRTIO3 = (
    toy("rocksalt", ("Na", "Cl"), 5.64, "mp-1"),
    toy("cscl", ("Cs", "Cl"), 4.12, "mp-2"),
    toy("perovskite", ("Sr", "Ti", "O"), 3.91, "mp-30"),
)
REFERENCES = [NACL, CSCL, SRTIO3]

Entry = tuple[str | None, Crystal | None]
"""Id (or None: the file names nobody) and crystal (or None: broken) of each place of a file."""


def shifted(crystal: Crystal, by: float = 0.0, material_id: str | None = None) -> Crystal:
    """The same crystal with its first atom moved along a: tells samples apart, and from the reference."""
    coords = crystal.frac_coords.copy()
    coords[0, 0] += by
    return Crystal(crystal.atomic_numbers, coords, crystal.lattice, material_id)


def entries_of(*entries: Entry) -> list[Entry]:
    return list(entries)


def cif(crystal: Crystal | None) -> str:
    return DISORDERED if crystal is None else str(crystal.to_structure().to(fmt="cif"))


def numbered(entries: Sequence[Entry]) -> list[tuple[str, Crystal | None]]:
    """File names that a tool would give: the id and a number for each sample, or gen_0, gen_1, ..."""
    return [(f"gen_{i}" if name is None else f"{name}_{i}", crystal) for i, (name, crystal) in enumerate(entries)]


def write_folder(path: Path, entries: Sequence[Entry]) -> Path:
    path.mkdir()
    for name, crystal in numbered(entries):
        (path / f"{name}.cif").write_text(cif(crystal))
    return path


def write_zip(path: Path, entries: Sequence[Entry]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        # written backwards: the names count, not the order in the archive
        for name, crystal in reversed(numbered(entries)):
            archive.writestr(f"run/{name}.cif", cif(crystal))
    return path


def write_ase_zip(path: Path, entries: Sequence[Entry]) -> Path:
    """As MatterGen does."""
    import io

    from ase.io import write

    with zipfile.ZipFile(path, "w") as archive:
        for name, crystal in numbered(entries):
            buffer = io.BytesIO()
            if crystal is None:
                buffer.write(b"junk")
            else:
                write(buffer, crystal.to_atoms(), format="cif")
            archive.writestr(f"{name}.cif", buffer.getvalue())
    return path


def write_csv(path: Path, entries: Sequence[Entry]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["material_id", "cif"])
        writer.writerows([name or "", cif(crystal)] for name, crystal in entries)
    return path


def write_extxyz(path: Path, entries: Sequence[Entry]) -> Path:
    import io

    from ase.io import write

    frames = []
    for name, crystal in entries:
        atoms = (crystal or NACL).to_atoms()
        atoms.info = {} if name is None else {"material_id": name}
        buffer = io.StringIO()
        write(buffer, atoms, format="extxyz")
        # bad content, right length
        frames.append(buffer.getvalue().replace("\nNa ", "\nXx ") if crystal is None else buffer.getvalue())
    path.write_text("".join(frames))
    return path


def write_table(path: Path, entries: Sequence[Entry]) -> Path:
    crystals = [crystal or NACL for _, crystal in entries]
    lattices = [np.full(9, np.nan) if entry[1] is None else entry[1].lattice.ravel() for entry in entries]
    write_parquet(path, crystals, material_id=[name for name, _ in entries], lattice=lattices)
    return path


def record(crystal: Crystal | None) -> dict[str, Any]:
    structure = dict((crystal or NACL).to_structure().as_dict())
    structure.pop("properties", None)
    if crystal is None:
        structure["sites"][1]["species"][0]["occu"] = 0.5
    return structure


def dump(path: Path, content: Any) -> Path:
    text = json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_list(path: Path, entries: Sequence[Entry]) -> Path:
    def one(name: str | None, crystal: Crystal | None) -> dict[str, Any]:
        return record(crystal) if name is None else {"material_id": name, "structure": record(crystal)}

    return dump(path, [one(*entry) for entry in entries])


def write_mapping(path: Path, entries: Sequence[Entry]) -> Path:
    content: dict[str, list[dict[str, Any]]] = {}
    for name, crystal in entries:
        content.setdefault(name or f"gen_{len(content)}", []).append(record(crystal))
    return dump(path, {name: found[0] if len(found) == 1 else found for name, found in content.items()})


def write_lines(path: Path, entries: Sequence[Entry]) -> Path:
    lines = []
    for name, crystal in entries:
        line: dict[str, Any] = {} if name is None else {"material_id": name}
        if crystal is None:
            line["failure"] = "out of steps"
        else:
            line["atomic_numbers"] = crystal.atomic_numbers.tolist()
            line |= {"frac_coords": crystal.frac_coords.tolist(), "lattice": crystal.lattice.tolist()}
        lines.append(json.dumps(line) + "\n")
    text = "".join(lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_db(path: Path, entries: Sequence[Entry]) -> Path:
    from ase.db import connect

    # ASE's context manager closes its connection
    with connect(path) as database:  # type: ignore[no-untyped-call]
        for name, crystal in entries:
            atoms = (crystal or NACL).to_atoms()
            atoms.pbc = crystal is not None
            database.write(atoms, **({} if name is None else {"material_id": name}))
    return path


WRITERS: dict[str, tuple[str, Callable[[Path, Sequence[Entry]], Path]]] = {
    "folder": ("generated", write_folder),
    "zip": ("generated.zip", write_zip),
    "zip of ASE": ("generated_crystals_cif.zip", write_ase_zip),
    "csv": ("generated.csv", write_csv),
    "extxyz": ("generated.extxyz", write_extxyz),
    "parquet": ("generated.parquet", write_table),
    "json list": ("generated.json", write_list),
    "json list, gzip": ("generated.json.gz", write_list),
    "json mapping": ("generated.json", write_mapping),
    "json lines": ("generated.jsonl", write_lines),
    "json lines, gzip": ("generated.jsonl.gz", write_lines),
    "ase db": ("generated.db", write_db),
}
every_kind = pytest.mark.parametrize("kind", WRITERS)


def written(kind: str, folder: Path, entries: Sequence[Entry]) -> Path:
    name, write = WRITERS[kind]
    return write(folder / name, entries)


def moved(prediction: Prediction, references: Sequence[Crystal] = REFERENCES) -> float | None:
    """By how much the first atom of a prediction was moved; None without a crystal."""
    if prediction.crystal is None:
        return None
    # writers of CIF may sort the atoms, so the displacement is that of the whole
    reference = references[prediction.target]
    assert prediction.crystal.counts == reference.counts
    assert prediction.crystal.volume == pytest.approx(reference.volume, rel=1e-4)
    order = np.argsort(prediction.crystal.atomic_numbers, kind="stable")
    expected = np.argsort(reference.atomic_numbers, kind="stable")
    difference = prediction.crystal.frac_coords[order] - reference.frac_coords[expected]
    difference -= np.rint(difference)
    assert np.abs(difference[:, 1:]).max() < 1e-5
    return round(float(np.abs(difference[:, 0]).max()), 4)


def summary(result: PredictionSet) -> list[tuple[int, int, float | None]]:
    return [(one.target, one.index, moved(one)) for one in result.predictions]


def refused(read: Callable[[], Any], *parts: str) -> None:
    with pytest.raises(InputError) as error:
        read()
    line = str(error.value)
    assert line.isprintable()
    for part in parts:
        assert part in line


# by id and by order, in every format


@every_kind
def test_by_id(tmp_path: Path, kind: str) -> None:
    # the references backwards, two samples of the last and none of the second
    entries = entries_of(
        ("mp-30", shifted(SRTIO3, 0.03)), ("mp-30", shifted(SRTIO3, 0.02)), ("mp-1", shifted(NACL, 0.01))
    )
    result = read_predictions(written(kind, tmp_path, entries), REFERENCES)
    assert summary(result) == [(0, 0, 0.01), (2, 0, 0.03), (2, 1, 0.02)]
    assert result.failures == []


@every_kind
def test_by_order(tmp_path: Path, kind: str) -> None:
    # twelve, so that gen_10 must come after gen_9
    steps = [0.001 * i for i in range(12)]
    entries: list[Entry] = [(None, shifted(REFERENCES[i // 4], step)) for i, step in enumerate(steps)]
    result = read_predictions(written(kind, tmp_path, entries), REFERENCES)
    assert summary(result) == [(i // 4, i % 4, round(step, 4)) for i, step in enumerate(steps)]
    assert result.failures == []


@every_kind
def test_broken_items_keep_their_place_by_order(tmp_path: Path, kind: str) -> None:
    entries = entries_of(
        (None, shifted(NACL, 0.01)),
        (None, None),
        (None, None),
        (None, shifted(CSCL, 0.02)),
        (None, SRTIO3),
        (None, SRTIO3),
    )
    path = written(kind, tmp_path, entries)
    result = read_predictions(path, REFERENCES, samples_per_target=2)
    assert summary(result) == [(0, 0, 0.01), (0, 1, None), (1, 0, None), (1, 1, 0.02), (2, 0, 0.0), (2, 1, 0.0)]
    assert len(result.failures) == 2
    for failure, prediction in zip(result.failures, result.predictions[1:3], strict=True):
        assert failure.where.startswith(str(path))
        assert failure.reason == prediction.failure != ""
        assert not failure.reason.startswith(str(path))
        assert failure.reason.isprintable()


@every_kind
def test_broken_items_keep_their_place_by_id(tmp_path: Path, kind: str) -> None:
    entries = entries_of(("mp-2", None), ("mp-2", shifted(CSCL, 0.02)), ("mp-1", NACL))
    result = read_predictions(written(kind, tmp_path, entries), REFERENCES)
    assert summary(result) == [(0, 0, 0.0), (1, 0, None), (1, 1, 0.02)]
    assert len(result.failures) == 1


@every_kind
def test_nothing_readable(tmp_path: Path, kind: str) -> None:
    path = written(kind, tmp_path, entries_of(("mp-1", None), ("mp-2", None)))
    refused(
        lambda: read_predictions(path, REFERENCES), str(path), "none of 2 predictions can be read", "; the first is"
    )


# which reference


def test_wrong_compositions_are_no_match_and_told(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", entries_of(("mp-1", CSCL), ("mp-2", CSCL)))
    result = read_predictions(path, REFERENCES)
    reason = "has the composition CsCl instead of NaCl"
    assert result.predictions[0] == Prediction(0, 0, None, reason)
    assert result.failures == [Failure(f"{path}, row 1", reason)]


def test_multiples_of_the_formula_unit_are_the_same_composition(tmp_path: Path) -> None:
    double = Crystal.from_structure(CSCL.to_structure().make_supercell([2, 1, 1]))
    result = read_predictions(write_csv(tmp_path / "a.csv", [("mp-2", double)]), REFERENCES)
    assert [one.crystal is not None for one in result.predictions] == [True]


def test_an_order_in_which_no_composition_is_right_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", entries_of((None, CSCL), (None, SRTIO3), (None, NACL)))
    refused(lambda: read_predictions(path, REFERENCES), "no prediction has the composition of its reference")


def test_unknown_and_missing_ids_are_told(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", entries_of(("mp-1", NACL), ("mp-77", CSCL), (None, CSCL), ("mp-78", None)))
    result = read_predictions(path, REFERENCES)
    assert summary(result) == [(0, 0, 0.0)]
    assert [failure.where for failure in result.failures] == [f"{path}, row {row}" for row in (2, 3, 4)]
    assert [failure.reason for failure in result.failures[:2]] == ["'mp-77' is no reference's id", "has no id"]
    assert result.failures[2].reason.endswith("; 'mp-78' is no reference's id")


def test_names_that_a_reader_makes_up_are_no_ids(tmp_path: Path) -> None:
    # readers call the first rows mp-1 and mp-2 after the file
    path = write_csv(tmp_path / "mp.csv", entries_of((None, SRTIO3), (None, NACL)))
    refused(lambda: read_predictions(path, REFERENCES, key="id"), "no prediction has the material id of a reference")


def test_ids_are_ignored_if_the_order_is_asked_for(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", entries_of(("mp-30", NACL), ("mp-1", CSCL), ("mp-2", SRTIO3)))
    assert [one.crystal is None for one in read_predictions(path, REFERENCES).predictions] == [True] * 3
    assert summary(read_predictions(path, REFERENCES, key="order")) == [(row, 0, 0.0) for row in range(3)]


def test_unknown_ids_alone_mean_order(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", entries_of(("a", NACL), ("b", CSCL), ("c", SRTIO3)))
    assert len(read_predictions(path, REFERENCES).predictions) == 3
    refused(lambda: read_predictions(path, REFERENCES, key="id"), "no prediction has the material id")


@pytest.mark.parametrize(
    ("name", "target"), [("mp-1", 0), ("mp-30", 2), ("mp-30_0", 2), ("mp-30-12", 2), ("mp-2_1", 1), ("mp-2-1", 3)]
)
def test_sample_numbers_in_file_names(tmp_path: Path, name: str, target: int) -> None:
    references = [*REFERENCES, shifted(CSCL, material_id="mp-2-1")]
    (tmp_path / f"{name}.cif").write_text(cif(references[target]))
    (prediction,) = read_predictions(tmp_path, references).predictions
    assert (prediction.target, prediction.crystal is not None) == (target, True)


def test_samples_of_a_reference_are_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"mp-1_{number}.cif").write_text(cif(shifted(NACL, number / 1000)))
    (tmp_path / "._mp-1_1.cif").write_bytes(b"\x00\x05\x16\x07")
    assert summary(read_predictions(tmp_path, REFERENCES)) == [(0, 0, 0.001), (0, 1, 0.002), (0, 2, 0.01)]


def test_surplus_samples_are_left_out_and_told(tmp_path: Path) -> None:
    entries = [("mp-1", shifted(NACL, i / 100)) for i in range(3)]
    result = read_predictions(write_csv(tmp_path / "a.csv", entries), REFERENCES, samples_per_target=2)
    assert summary(result) == [(0, 0, 0.0), (0, 1, 0.01)]
    assert [failure.reason for failure in result.failures] == ["beyond 2 samples of mp-1"]


@pytest.mark.parametrize(
    ("number", "samples", "wanted"), [(4, None, "a multiple of 3"), (3, 2, "6"), (2, None, "of 3")]
)
def test_counts_that_do_not_fit(tmp_path: Path, number: int, samples: int | None, wanted: str) -> None:
    path = write_csv(tmp_path / "a.csv", [(None, NACL)] * number)
    refused(
        lambda: read_predictions(path, REFERENCES, samples_per_target=samples),
        f"{number} predictions for 3 references",
        wanted,
    )


def test_references_that_share_an_id(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", entries_of(("mp-1", NACL), ("mp-1", NACL)))
    twice = [NACL, shifted(NACL, material_id="mp-1")]
    refused(lambda: read_predictions(path, twice), "shared by several references, such as 'mp-1'")
    assert len(read_predictions(path, twice, key="order").predictions) == 2


def test_senseless_arguments(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("mp-1", NACL)])
    refused(lambda: read_predictions(path, []), "no reference crystals")
    refused(lambda: read_predictions(path, REFERENCES, samples_per_target=0), "at least 1")


# files


def test_one_cif(tmp_path: Path) -> None:
    (tmp_path / "mp-2.cif").write_text(cif(CSCL))
    assert summary(read_predictions(tmp_path / "mp-2.cif", REFERENCES)) == [(1, 0, 0.0)]


def test_candidates_of_dao_predict(tmp_path: Path) -> None:
    records = [{"rank": i, "formula": "NaCl", "structure": record(shifted(NACL, i / 100))} for i in range(3)]
    result = read_predictions(dump(tmp_path / "candidates.json", records), [NACL])
    assert summary(result) == [(0, 0, 0.0), (0, 1, 0.01), (0, 2, 0.02)]


def test_a_torn_extxyz_does_not_shift(tmp_path: Path) -> None:
    path = write_extxyz(tmp_path / "a.extxyz", [(None, NACL)] * 9)
    lines = path.read_text().splitlines()
    lines[4] = "3"
    path.write_text("\n".join(lines))
    refused(lambda: read_predictions(path, [NACL] * 9), "3 predictions for 9 references", "; unreadable is", "frame 2")


@pytest.mark.parametrize("name", ["absent.zip", "absent.db", "absent.json", "absent.extxyz", "absent.dat", "absent"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    refused(lambda: read_predictions(tmp_path / name, REFERENCES), f"{tmp_path / name}: no such file or folder")


def test_files_of_no_known_kind(tmp_path: Path) -> None:
    for name, says in (("a.dat", "unknown kind"), ("eval_diff.pt", "never opened"), ("a.pkl", "never opened")):
        (tmp_path / name).write_bytes(b"x")
        refused(partial(read_predictions, tmp_path / name, REFERENCES), str(tmp_path / name), says)
    (tmp_path / "empty").mkdir()
    refused(lambda: read_predictions(tmp_path / "empty", REFERENCES), "no *.cif")


def test_zip_without_cifs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("notes.txt", "nothing")
        archive.writestr("__MACOSX/._mp-1.cif", "nothing")
    refused(lambda: read_predictions(tmp_path / "a.zip", REFERENCES), "no *.cif in the archive")


def test_zip_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dao.data.sources.zip._LARGEST_MEMBER", 100_000)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mp-1.cif", cif(NACL))
        archive.writestr("mp-2.cif", " " * 1_000_000)
    result = read_predictions(path, REFERENCES)
    assert summary(result) == [(0, 0, 0.0), (1, 0, None)]
    assert result.failures == [Failure(f"{path}, mp-2.cif", "larger than 0.1 MB")]
    monkeypatch.setattr("dao.data.sources.zip._LARGEST_ARCHIVE", len(cif(NACL)) - 1)
    refused(lambda: read_predictions(path, REFERENCES), f"{path}: holds more than")


def test_unsafe_names_and_odd_members_of_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    names = ["mp-1.cif", "/mp-2.cif", "../mp-2.cif", "run/../../mp-2.cif", "C:\\mp-2.cif", "..\\mp-2.cif"]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, cif(CSCL if "mp-2" in name else NACL))
        archive.writestr("mp-30.cif", cif(SRTIO3), zipfile.ZIP_BZIP2)
    before = sorted(tmp_path.parent.rglob("*"))
    result = read_predictions(path, REFERENCES)
    assert [one.target for one in result.predictions if one.crystal is not None] == [0]
    assert len(result.failures) == 6
    assert sum("unsafe name" in failure.reason for failure in result.failures) == 5
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_a_damaged_member_of_a_zip(tmp_path: Path) -> None:
    path = write_ase_zip(tmp_path / "a.zip", entries_of(("mp-1", NACL), ("mp-2", CSCL)))
    path.write_bytes(path.read_bytes().replace(b"Na1", b"Na9", 1))
    result = read_predictions(path, REFERENCES)
    assert summary(result) == [(0, 0, None), (1, 0, 0.0)]
    assert "CRC" in result.failures[0].reason


def test_json_imports_nothing_that_it_names(tmp_path: Path) -> None:
    structure = record(NACL)
    evil = {"@module": "this", "@class": "Anything", "x": 1}
    structure["sites"][0]["properties"] = structure["properties"] = {"spin": evil, "material_id": "mp-1"}
    structure |= {"@module": "this", "@class": "Anything"}
    import sys

    sys.modules.pop("this", None)
    assert summary(read_predictions(dump(tmp_path / "a.json", structure), REFERENCES)) == [(0, 0, 0.0)]
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sites": [{"species": [{"element": "Xx", "occu": 1}], "abc": [0, 0, 0]}]}, "'Xx', which is no element"),
        ({"sites": [{"species": [{"element": ["Na"], "occu": 1}], "abc": [0, 0, 0]}]}, "cannot be read"),
        ({"sites": [{"species": [{"element": "Na", "occu": 1}]}]}, "KeyError: 'abc'"),
        ({"sites": []}, "N >= 1"),
        ({"sites": 5}, "cannot be read"),
        ({"lattice": {"matrix": [[1, 0], [0, 1]]}}, "lattice must have shape"),
        ({"lattice": {"matrix": [[float("nan"), 0, 0], [0, 1, 0], [0, 0, 1]]}}, "not finite"),
        ({"lattice": {"matrix": np.eye(3).tolist(), "pbc": [True, True, False]}}, "not periodic"),
        ({"lattice": None}, "cannot be read"),
    ],
)
def test_malformed_structures_in_json(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = dump(tmp_path / "a.json", [record(NACL), record(NACL) | change, 7, None, {"x": 1}])
    result = read_predictions(path, [NACL])
    assert [one.crystal is not None for one in result.predictions] == [True, False, False, False, False]
    assert result.failures[0].where == f"{path}, entry 2"
    assert says in result.failures[0].reason
    assert result.failures[3].reason == "has neither 'sites' (pymatgen) nor 'atomic_numbers'"


def test_json_that_is_none(tmp_path: Path) -> None:
    for number, text in enumerate(("{", "5", "[]", "{}", "[" * 100_000, "\x00")):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        refused(partial(read_predictions, path, REFERENCES), str(path))


def test_a_line_that_is_no_json_keeps_its_place(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", entries_of((None, NACL), (None, CSCL), (None, SRTIO3)))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-20], "", lines[2]]))
    result = read_predictions(path, REFERENCES)
    assert summary(result) == [(0, 0, 0.0), (1, 0, None), (2, 0, 0.0)]
    assert result.failures[0].where == f"{path}, line 2"


def test_json_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dao.data.sources.structures_json._LARGEST_FILE", 10_000)
    monkeypatch.setattr("dao.data.sources.structures_json._LARGEST_LINE", 5_000)
    for name, text in (("a.json.gz", " " * 20_000), ("b.jsonl.gz", " " * 6_000), ("c.jsonl.gz", "\n" * 20_000)):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        refused(partial(read_predictions, tmp_path / name, REFERENCES), str(tmp_path / name), "large")


def test_databases_that_are_not_of_ase_are_left_as_they_are(tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE addresses (name TEXT)")
        connection.commit()
    before = path.read_bytes()
    refused(lambda: read_predictions(path, REFERENCES), f"{path}: is no ASE database")
    assert path.read_bytes() == before


def test_the_order_of_many_predictions_survives_any_mix(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(5):
        broken = rng.random(12) < 0.4
        broken[0] = False
        entries: list[Entry] = [(None, None if bad else shifted(NACL, i / 100)) for i, bad in enumerate(broken)]
        path = write_extxyz(tmp_path / f"{number}.extxyz", entries)
        found = summary(read_predictions(path, [NACL]))
        assert found == [(0, i, None if bad else i / 100) for i, bad in enumerate(broken)]
