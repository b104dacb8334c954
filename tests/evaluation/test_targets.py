from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from toys import toy, toy_crystals, write_parquet

from dao.crystal import Crystal
from dao.errors import InputError
from dao.evaluation.targets import (
    BEYOND,
    Targets,
    crystals_fingerprint,
    find_data,
    load_targets,
    read_prototypes,
    with_prototypes,
    with_unseen,
)
from dao.evaluation.targets import test_split as split_of  # pytest would take its own name for a test

CRYSTALS = toy_crystals()


def targets_of(crystals: Sequence[Crystal], **subsets: Any) -> Targets:
    return Targets("toys", "", tuple(crystals), len(crystals), "", subsets)


def write_csv(path: Path, crystals: Sequence[Crystal], **columns: Sequence[str]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["material_id", "cif", *columns])
        for i, crystal in enumerate(crystals):
            text = crystal.to_structure().to(fmt="cif")
            writer.writerow([crystal.material_id, text, *(values[i] for values in columns.values())])
    return path


def test_data_is_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAO_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mp20.parquet").touch()
    assert find_data("mp20") == tmp_path / "mp20.parquet"
    assert find_data(str(tmp_path)) == tmp_path
    (tmp_path / "mp20").mkdir()
    assert find_data("mp20") == Path("mp20"), "what is there goes before a name"
    with pytest.raises(
        InputError, match=r"^--data 'mp21': neither a file or folder nor .*mp21\.parquet \(set DAO_DATA\)"
    ):
        find_data("mp21")


def test_the_split_test_is_taken_where_there_are_splits(tmp_path: Path) -> None:
    path = tmp_path / "toys.parquet"
    write_parquet(path, CRYSTALS)
    assert split_of(path) == "test"
    assert load_targets(path, split="test").ids == tuple(CRYSTALS[i].name for i in range(7, 50, 10))
    assert len(load_targets(path).crystals) == len(CRYSTALS)
    table = pq.read_table(path).drop_columns(["split"])
    pq.write_table(table, path)
    assert split_of(path) is None
    with pytest.raises(InputError, match="split"):
        load_targets(path, split="test")
    assert split_of(tmp_path / "toys.csv") is None
    assert split_of(tmp_path) is None


def test_a_count_is_a_fixed_subset_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "toys.parquet"
    write_parquet(path, CRYSTALS)
    ids = [crystal.name for crystal in CRYSTALS]
    few, more = (load_targets(path, count=count) for count in (8, 20))
    assert load_targets(path, count=8).ids == few.ids
    assert load_targets(path, count=8, seed=1).ids != few.ids
    assert set(few.ids) < set(more.ids), "a larger count extends a smaller one"
    assert (len(few.ids), few.total) == (8, 50)
    for chosen in (few, more):
        assert list(chosen.ids) == sorted(chosen.ids, key=ids.index)
    assert load_targets(path, count=8).fingerprint() == few.fingerprint() != more.fingerprint()
    assert load_targets(path, count=999).ids == load_targets(path).ids


def test_large_cells_are_left_out_before_the_draw(tmp_path: Path) -> None:
    path = tmp_path / "toys.parquet"
    write_parquet(path, CRYSTALS)
    small = load_targets(path, max_atoms=2)
    assert {crystal.num_atoms for crystal in small.crystals} == {2}
    assert small.total == len(small.crystals) == sum(crystal.num_atoms == 2 for crystal in CRYSTALS)
    listed = load_targets(write_csv(tmp_path / "toys.csv", CRYSTALS[:10]), max_atoms=2)
    assert listed.ids == tuple(crystal.name for crystal in CRYSTALS[:10] if crystal.num_atoms == 2)
    with pytest.raises(InputError, match="no rows of at most 1 atoms"):
        load_targets(path, max_atoms=1)
    with pytest.raises(InputError, match="no crystals"):
        load_targets(tmp_path / "toys.csv", max_atoms=1)


def test_exact_rows_are_a_subset_unless_all_are(tmp_path: Path) -> None:
    path = tmp_path / "mp20.parquet"
    exact = [i % 3 == 0 for i in range(len(CRYSTALS))]
    write_parquet(path, CRYSTALS, exact=exact)
    found = load_targets(path, split="test")
    np.testing.assert_array_equal(found.subsets["exact"], exact[7::10])
    assert (found.name, found.benchmark, found.split) == ("MP-20 (reconstructed, 97.3 %)", "MP-20", "test")
    chosen = found.select([3, 1])
    assert chosen.ids == (found.ids[3], found.ids[1])
    np.testing.assert_array_equal(chosen.subsets["exact"], [exact[37], exact[17]])
    write_parquet(path, CRYSTALS, exact=[True] * len(CRYSTALS))
    assert load_targets(path).subsets == {}


def test_other_files(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "toys.csv", CRYSTALS[:6], split=["train", "test"] * 3)
    assert load_targets(path, split="test").ids == tuple(crystal.name for crystal in CRYSTALS[1:6:2])
    assert load_targets(path).ids == tuple(crystal.name for crystal in CRYSTALS[:6])
    with pytest.raises(InputError, match="has no crystals of split 'val'"):
        load_targets(path, split="val")
    with pytest.raises(InputError, match="has no 'split' column"):
        load_targets(write_csv(tmp_path / "bare.csv", CRYSTALS[:2]), split="test")
    (tmp_path / "cifs").mkdir()
    for crystal in CRYSTALS[:2]:
        crystal.to_structure().to(str(tmp_path / "cifs" / f"{crystal.material_id}.cif"))
    assert set(load_targets(tmp_path / "cifs").ids) == {crystal.name for crystal in CRYSTALS[:2]}


def test_ids_are_unique(tmp_path: Path) -> None:
    path = tmp_path / "toys.parquet"
    write_parquet(path, CRYSTALS[:4], material_id=["a", "b", "a", "c"])
    with pytest.raises(InputError, match="several crystals share an id"):
        load_targets(path)


def test_compositions_are_sorted_atomic_numbers_of_the_whole_cell() -> None:
    nacl = toy("rocksalt", ("Na", "Cl"), 5.6)
    double = Crystal.from_structure(nacl.to_structure().make_supercell([2, 1, 1]))
    clna = Crystal(nacl.atomic_numbers[::-1], nacl.frac_coords, nacl.lattice)
    assert targets_of([nacl, double, clna]).compositions == [(11, 17), (11, 11, 17, 17), (11, 17)]


def test_the_fingerprint_sees_every_change() -> None:
    one, two = CRYSTALS[:2]
    moved = Crystal(one.atomic_numbers, one.frac_coords + 1e-9, one.lattice)
    named = Crystal(one.atomic_numbers, one.frac_coords, one.lattice, material_id="other")
    known = [crystals_fingerprint(some) for some in ([one, two], [two, one], [moved, two], [one, None], [one])]
    assert len(set(known)) == len(known)
    assert crystals_fingerprint([named, two]) == known[0]


def test_beyond_prototypes_is_what_no_substitution_matches(tmp_path: Path) -> None:
    a, b, c = (crystal.name for crystal in CRYSTALS[:3])
    path = tmp_path / "prototypes.json"
    path.write_text(json.dumps({a: [None, 0.1], b: [None, None], c: [], "other": [0]}))
    prototypes = read_prototypes(path)
    assert prototypes == {a: [None, 0.1], b: [None, None], c: [], "other": [0.0]}
    found = with_prototypes(targets_of(CRYSTALS[:3], exact=np.array([True, False, True])), prototypes)
    assert set(found.subsets) == {"exact", BEYOND}
    np.testing.assert_array_equal(found.subsets[BEYOND], [False, True, True])
    with pytest.raises(InputError, match=f"--prototypes: 2 of the targets were not tried, such as {CRYSTALS[3].name}"):
        with_prototypes(targets_of(CRYSTALS[2:5]), prototypes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        '{"a": 3}',
        '{"a": "12"}',
        '{"a": {"0.1": 1}}',
        '{"a": ["0.1"]}',
        '{"a": [true]}',
        '{"a": [[0.1]]}',
        '{"a": [NaN]}',
        '{"a": [Infinity]}',
        '{"a": [-0.1]}',
        f'{{"a": [{"9" * 400}]}}',
        '{"a": [0.1}',
        "[" * 100_000,
    ],
)
def test_what_is_no_prototypes_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prototypes.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"prototypes\.json: not a mapping of material ids to RMS distances"):
        read_prototypes(path)


def test_a_prototypes_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b'{"\xe9": []}')
    for name, complaint in (("none.json", "No such file"), (".", "Is a directory"), ("latin.json", "not a mapping")):
        with pytest.raises(InputError, match=complaint):
            read_prototypes(tmp_path / name)


def test_unseen_are_neither_by_id_nor_by_structure_in_the_training_data(tmp_path: Path) -> None:
    known = toy("rocksalt", ("Na", "Cl"), 5.64, "a")
    larger = toy("rocksalt", ("Na", "Cl"), 5.9, "b")  # the same but for its volume, which the matcher scales
    other = toy("cscl", ("Na", "Cl"), 3.5, "c")
    renamed = toy("fluorite", ("Ca", "F"), 5.46, "d")
    path = tmp_path / "x.parquet"
    write_parquet(path, [known, larger, other, renamed], split=["test"] * 4)
    targets = load_targets(path)
    shared_id = toy("perovskite", ("Sr", "Ti", "O"), 3.9, "d")
    for training, unseen in (([known], [0, 0, 1, 1]), ([shared_id], [1, 1, 1, 0]), ([], [1, 1, 1, 1])):
        assert with_unseen(targets, training).subsets["unseen"].tolist() == [bool(one) for one in unseen]
    assert "unseen" not in targets.subsets
