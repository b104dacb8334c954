from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import columns, toy, toy_crystals, write_parquet

from dao.crystal import Crystal, CrystalBatch
from dao.data.store import PackedCrystals, pack_crystals, read_packed
from dao.errors import InputError

CRYSTALS = toy_crystals()
PACKED = pack_crystals(CRYSTALS)


def assert_same(packed: PackedCrystals, crystals: list[Crystal]) -> None:
    assert len(packed) == len(crystals)
    assert list(packed.ids) == [crystal.material_id for crystal in crystals]
    for i, crystal in enumerate(crystals):
        one = packed.crystal(i)
        assert one.atomic_numbers.tolist() == crystal.atomic_numbers.tolist()
        assert one.material_id == crystal.material_id
        np.testing.assert_allclose(one.frac_coords, crystal.frac_coords, atol=1e-7)
        np.testing.assert_allclose(one.lattice, crystal.lattice, rtol=1e-6)


def test_parquet_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    write_parquet(path, CRYSTALS)
    assert_same(read_packed(path), CRYSTALS)
    assert_same(PACKED, CRYSTALS)


def test_splits_columns_and_sizes_are_chosen(toy_file: Path) -> None:
    splits = columns(CRYSTALS)["split"]
    for split in ("train", "val", "test"):
        chosen = [crystal for crystal, of in zip(CRYSTALS, splits, strict=True) if of == split]
        packed = read_packed(toy_file, split=split, columns=["split", "num_atoms"])
        assert_same(packed, chosen)
        assert set(packed.columns["split"]) == {split}
        assert packed.columns["num_atoms"].tolist() == packed.num_atoms.tolist()
    small = read_packed(toy_file, max_atoms=3)
    assert_same(small, [crystal for crystal in CRYSTALS if crystal.num_atoms <= 3])
    assert 0 < len(small) < len(CRYSTALS)


def test_chunked_files_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "chunks.parquet"
    pq.write_table(pa.table(columns(CRYSTALS)), path, row_group_size=7)
    assert_same(read_packed(path), CRYSTALS)


def test_coordinates_that_round_to_one_are_zero(tmp_path: Path) -> None:
    # rows of the shared data have them: 0.99999999 in float64, 1 in float32
    crystal = Crystal([11, 17], [[1.0 - 1e-9, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 4.0)
    coords = [crystal.frac_coords.ravel().astype(np.float32)]
    assert coords[0].max() == 1.0
    write_parquet(tmp_path / "edge.parquet", [crystal], frac_coords=coords)
    for packed in (pack_crystals([crystal]), read_packed(tmp_path / "edge.parquet")):
        assert packed.frac_coords.max() == 0.5
        assert torch.equal(
            packed.batch(torch.tensor([0])).frac_coords, CrystalBatch.from_crystals([crystal]).frac_coords
        )


Table = dict[str, list[Any]]


def drop(name: str) -> Callable[[Table], Any]:
    return lambda table: table.pop(name)


def put(name: str, row: int, value: Any) -> Callable[[Table], Any]:
    return lambda table: table[name].__setitem__(row, value)


def shift_atoms(table: Table) -> None:
    """Lengths of single rows wrong, of the whole file right."""
    first, second = table["atomic_numbers"][0], table["atomic_numbers"][1]
    table["atomic_numbers"][:2] = [first[:-1], np.append(second, first[-1])]


NAN = float("nan")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (drop("lattice"), "lacks column 'lattice'"),
        (drop("material_id"), "lacks column 'material_id'"),
        (put("num_atoms", 2, 9), "{2}: atomic_numbers does not have the length"),
        (shift_atoms, "{0}: atomic_numbers does not have the length"),
        (put("frac_coords", 4, np.zeros(3, np.float32)), "{4}: frac_coords does not have the length"),
        (put("lattice", 5, np.zeros(6, np.float32)), "{5}: lattice does not have the length"),
        (put("lattice", 5, None), "{5}: lattice does not have the length"),
        (put("num_atoms", 1, 0), "{1}: num_atoms is not positive"),
        (put("num_atoms", 1, None), "{1}: num_atoms is not positive"),
        (put("atomic_numbers", 3, np.zeros(len(CRYSTALS[3].atomic_numbers), np.uint8)), "{3}: an unknown element"),
        (put("atomic_numbers", 3, np.full(len(CRYSTALS[3].atomic_numbers), 119, np.uint8)), "{3}: an unknown element"),
        (put("lattice", 6, np.full(9, NAN, np.float32)), "{6}: lattice has a value that is not finite"),
        (put("lattice", 6, np.full(9, 1e7, np.float32)), "{6}: lattice has a value that is not finite or beyond 1e6"),
        (put("frac_coords", 7, [None] * 3 * CRYSTALS[7].num_atoms), "frac_coords has missing values"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, damage: Callable[[Table], Any], complaint: str) -> None:
    table = columns(CRYSTALS[:8])
    damage(table)
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table(table), path)
    for i in range(8):
        complaint = complaint.replace(f"{{{i}}}", str(CRYSTALS[i].material_id))
    with pytest.raises(InputError, match=complaint) as caught:
        read_packed(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_truncated_files_are_refused(toy_file: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "torn.parquet"
    raw = toy_file.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(InputError, match=r"cannot read .*torn.parquet as Parquet"):
        read_packed(path)


def test_files_without_the_rows_asked_for_are_refused(toy_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no rows of split 'training'"):
        read_packed(toy_file, split="training")
    with pytest.raises(InputError, match=r"has no rows of at most 1 atoms"):
        read_packed(toy_file, max_atoms=1)
    with pytest.raises(InputError, match="no such file"):
        read_packed(tmp_path / "nowhere.parquet")
    with pytest.raises(InputError, match="cannot read"):
        read_packed(tmp_path)
    table = columns(CRYSTALS[:8])
    pq.write_table(pa.table({**table, "split": list(range(8))}), tmp_path / "numbers.parquet")
    with pytest.raises(InputError, match="cannot read"):
        read_packed(tmp_path / "numbers.parquet", split="train")
    pq.write_table(pa.table({**table, "lattice": ["cubic"] * 8}), tmp_path / "words.parquet")
    with pytest.raises(InputError, match="cannot read"):
        read_packed(tmp_path / "words.parquet")
    with pytest.raises(InputError, match="no crystals to pack"):
        pack_crystals([])


def assert_equal_batches(one: CrystalBatch, other: CrystalBatch) -> None:
    for name in ("atomic_numbers", "frac_coords", "lattice", "num_atoms"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@given(
    indices=st.lists(st.integers(0, len(CRYSTALS) - 1), min_size=1, max_size=12),
    extra=st.none() | st.integers(0, 4),
)
def test_a_batch_is_what_from_crystals_makes(indices: list[int], extra: int | None) -> None:
    chosen = [CRYSTALS[i] for i in indices]
    pad_to = None if extra is None else max(crystal.num_atoms for crystal in chosen) + extra
    batch = PACKED.batch(torch.tensor(indices), pad_to)
    assert_equal_batches(batch, CrystalBatch.from_crystals(chosen, pad_to))


def calls_of(work: Callable[[], object]) -> int:
    """Python and C functions that ``work`` calls."""
    count = 0

    def profile(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    work()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_a_batch_takes_no_python_loop_over_crystals() -> None:
    few, many = torch.tensor([0, 1]), torch.arange(len(CRYSTALS)).repeat(20)
    # the shape checks of the tests walk over nothing either
    assert calls_of(lambda: PACKED.batch(few, 8)) == calls_of(lambda: PACKED.batch(many, 8))


def test_select_keeps_order_columns_and_labels() -> None:
    indices = torch.tensor([7, 3, 3, 49])
    labelled = PackedCrystals(
        **{
            **{name: getattr(PACKED, name) for name in ("atomic_numbers", "frac_coords", "lattice", "offsets", "ids")},
            "columns": {"row": np.arange(len(PACKED))},
            "labels": {"space_group": torch.arange(len(PACKED))},
        }
    )
    chosen = labelled.select(indices)
    assert_same(chosen, [CRYSTALS[int(i)] for i in indices])
    assert chosen.columns["row"].tolist() == chosen.labels["space_group"].tolist() == indices.tolist()
    assert chosen.batch(torch.tensor([1, 3])).labels["space_group"].tolist() == [3, 49]
    assert_equal_batches(chosen.batch(torch.arange(4)), labelled.batch(indices))


def test_element_counts() -> None:
    counts = PACKED.element_counts()
    assert counts.shape == (50, 95)
    for row, crystal in zip(counts, CRYSTALS, strict=True):
        assert {int(z): int(row[z]) for z in row.nonzero()[:, 0]} == crystal.counts


def test_columns_of_info_travel() -> None:
    lithium = [[0.0, 0.0, 0.0]]
    crystals = [Crystal([3], lithium, np.eye(3) * 4, info={"split": split}) for split in ("a", "b")]
    packed = pack_crystals(crystals, ["split"])
    assert packed.columns["split"].tolist() == ["a", "b"]
    assert packed.ids == ("0", "1")
    with pytest.raises(InputError, match="rocksalt-LiF: no 'split'"):
        pack_crystals([*crystals, toy("rocksalt", ("Li", "F"), 4.2, "rocksalt-LiF")], ["split"])


def test_moving_keeps_everything() -> None:
    moved = PACKED.to("cpu")
    assert_same(moved, CRYSTALS)
    assert moved.columns is PACKED.columns
