from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from symmetric_toys import KINDS, assert_has_operations, disguised, symmetric_crystal
from toys import toy, toy_crystals

from dao.crystal import DEFAULT_LIMITS, Crystal
from dao.data.store import pack_crystals
from dao.elements import ATOMIC_NUMBERS
from dao.errors import InputError
from dao.evaluation.matching import rms_distance
from dao.geometry.cells import min_distance
from dao.prediction.proposals import proposed
from dao.prediction.prototype_build import build_table
from dao.prediction.prototype_grid import GRID, LENGTH_STEP, PERIOD, to_grid
from dao.prediction.prototype_table import PrototypeTable, commonest
from dao.prediction.prototypes import Proposer


def table_of(*crystals: Crystal, exact: bool = True) -> PrototypeTable:
    return build_table(pack_crystals(crystals), {"source": "toys"}, exact=exact)


def numbers(*symbols: str) -> list[int]:
    return [ATOMIC_NUMBERS[symbol] for symbol in symbols]


COARSE = 0.05
"""More than the grid moves atoms, in units of (V/N)^(1/3)."""

KCL = toy("rocksalt", ("K", "Cl"), 6.3, "KCl")
PBTE = toy("rocksalt", ("Pb", "Te"), 6.5, "PbTe")
NACL = toy("rocksalt", ("Na", "Cl"), 5.6, "NaCl")
GAAS = toy("zincblende", ("Ga", "As"), 5.65, "GaAs")


@pytest.fixture(scope="module")
def toys() -> PrototypeTable:
    return table_of(*toy_crystals())


def test_isostructural_crystals_are_one_prototype(toys: PrototypeTable) -> None:
    rows = commonest(toys, 10)
    assert [(row["formula"], row["space_group_number"], row["members"]) for row in rows] == [
        ("AB", 225, 20),
        ("AB", 216, 9),
        ("ABC3", 221, 9),
        ("AB", 221, 6),
        ("AB2", 225, 6),
    ]
    assert (toys.record["crystals"], toys.record["prototypes"], toys.record["single_member"]) == (50, 5, 0)
    # each rocksalt, whichever element moyo put on which position, has its elements on the same slots
    sets = {
        tuple(sorted(one))
        for one in next(one for one in map(toys.prototype, range(5)) if len(one.members) == 20).elements.tolist()
    }
    assert len(sets) == 20


def test_free_coordinates_and_shape_are_averaged() -> None:
    rng = np.random.default_rng(0)
    middle = symmetric_crystal(166, rng)
    shift = np.array([0.001, 0.0, 0.0])
    elements = {8: 16, 14: 32, 22: 40}
    renamed = tuple((elements[element], letter) for element, letter in middle.orbits)
    free = np.array([degree > 0.0 for degree in middle.free_coords[:, 0]])[:, None]
    members = [
        replace(middle, free_coords=middle.free_coords + shift * free),
        replace(middle, free_coords=middle.free_coords - shift * free, orbits=renamed),
    ]
    table = table_of(*(disguised(one.crystal(f"member-{i}"), rng) for i, one in enumerate(members)))
    assert len(table) == 1
    found = table.prototype(0)
    assert found.members.sum() == 2
    made = Proposer.of(table).propose(middle.crystal().atomic_numbers.tolist(), 1)[0].crystal
    distance = rms_distance((made, middle.crystal()))
    assert distance is not None
    assert distance < 1e-4
    apart = rms_distance((members[0].crystal(), middle.crystal()))
    assert apart is not None
    assert apart > 5e-4, "the members themselves are farther off"


def test_other_structures_are_not_averaged() -> None:
    """Two members of a space group and its positions, which are no variants of each other."""
    rng = np.random.default_rng(1)
    one, two = symmetric_crystal(62, rng), symmetric_crystal(62, rng)
    assert len(table_of(one.crystal("one"), two.crystal("two"))) == 2


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("space_group", sorted(KINDS))
def test_proposals_have_the_exact_symmetry(space_group: int, exact: bool) -> None:  # noqa: FBT001
    rng = np.random.default_rng(space_group)
    known = symmetric_crystal(space_group, rng)
    table = table_of(disguised(known.crystal("known"), rng), exact=exact)
    assert table.prototype(0).space_group == space_group
    others = {8: 16, 14: 32, 22: 40}
    cell = [others[int(number)] for number in known.crystal().atomic_numbers]
    proposal = Proposer.of(table).propose(cell, 1)[0]
    assert sorted(proposal.crystal.atomic_numbers.tolist()) == sorted(cell)
    assert_has_operations(proposal.crystal, space_group)
    back = Crystal(
        [{16: 8, 32: 14, 40: 22}[int(z)] for z in proposal.crystal.atomic_numbers],
        proposal.crystal.frac_coords,
        proposal.crystal.lattice,
    )
    # equal counts may exchange their elements, but of the elements seen the first proposal is the crystal itself
    own = Proposer.of(table).propose(known.crystal().atomic_numbers.tolist(), 1)[0]
    distance = rms_distance((own.crystal, known.crystal()))
    assert distance is not None
    assert distance < (1e-3 if exact else COARSE)
    assert back.num_atoms == known.crystal().num_atoms


def test_most_similar_elements_come_first(toys: PrototypeTable) -> None:
    proposer = Proposer.of(toys)
    first, *_ = proposer.propose(numbers("Na", "Br"), 5, exclude_same_composition=True)
    assert first.space_group == 225
    assert set(first.like) & set(numbers("Na", "Br", "K", "Cl"))
    assert proposer.propose(numbers("Al", "As"), 5, exclude_same_composition=True)[0].space_group == 216
    found = proposer.propose(numbers("Sr", "Ti", "O", "O", "O"), 5)
    assert found[0].distance == 0.0
    assert found[0].like == tuple(numbers("Sr", "Ti", "O"))[: len(found[0].like)] or set(found[0].like) == {38, 22, 8}
    assert [one.distance for one in found] == sorted(one.distance for one in found)


def test_a_composition_can_be_left_out_of_what_is_known() -> None:
    proposer = Proposer.of(table_of(NACL, KCL, PBTE, GAAS))
    with_own = proposer.propose(numbers("Na", "Cl"), 10)
    without = proposer.propose(numbers("Na", "Cl"), 10, exclude_same_composition=True)
    assert with_own[0].distance == 0.0
    assert without[0].distance > 0.0
    assert set(without[0].like) != {11, 17}
    assert Proposer.of(table_of(NACL)).propose(numbers("Na", "Cl"), 10, exclude_same_composition=True) == []
    assert Proposer.of(table_of(NACL)).propose(numbers("K", "Cl"), 10, exclude_same_composition=True) != []
    # elements the other way round are of the same composition
    assert Proposer.of(table_of(NACL)).propose(numbers("Cl", "Na"), 10, exclude_same_composition=True) == []


def test_nothing_is_proposed_for_other_counts(toys: PrototypeTable) -> None:
    assert Proposer.of(toys).propose(numbers("Na", "Na", "Na", "Cl"), 5) == []
    assert Proposer.of(toys).propose(numbers("Na", "Na", "Cl", "Cl"), 5) == []
    with pytest.raises(InputError, match="composition"):
        Proposer.of(toys).propose([], 5)


def test_volume_is_that_of_similar_crystals() -> None:
    """Zincblendes are more open than rocksalts of the same elements; the per-element volumes cannot tell."""
    salts = [toy("rocksalt", pair, 5.0, f"r{i}") for i, pair in enumerate((("Na", "F"), ("K", "F"), ("Rb", "F")))]
    open_ones = [toy("zincblende", pair, 6.3, f"z{i}") for i, pair in enumerate((("Na", "F"), ("K", "F"), ("Rb", "F")))]
    found = Proposer.of(table_of(*salts, *open_ones)).propose(numbers("Cs", "F"), 2)
    volumes = {one.space_group: one.crystal.volume for one in found}
    assert volumes[216] / volumes[225] == pytest.approx((6.3 / 5.0) ** 3, rel=0.02)


def test_volume_of_known_elements_is_theirs() -> None:
    """However many crystals of like elements are larger or smaller than theirs."""
    like = (("Na", "F"), ("K", "F"), ("Rb", "F"))
    others = [toy(kind, pair, 5.0, f"{kind}{pair}") for kind in ("rocksalt", "zincblende") for pair in like]
    table = table_of(toy("rocksalt", ("Cs", "F"), 6.0), toy("zincblende", ("Cs", "F"), 7.0), *others)
    found = Proposer.of(table).propose(numbers("Cs", "F"), 2)
    volumes = {one.space_group: one.crystal.volume for one in found}
    assert volumes == {225: pytest.approx(6.0**3 / 4, rel=1e-3), 216: pytest.approx(7.0**3 / 4, rel=1e-3)}


def test_a_crystal_in_a_box_of_nothing_is_not_followed_there() -> None:
    """Per-element volumes are a fit to all crystals, of which one in a large empty cell is one of many."""
    table = table_of(*(toy("rocksalt", pair, 5.6) for pair in (("K", "Br"), ("Na", "Br"), ("K", "Cl"))))
    ratios = table.arrays["volume_ratio"] * np.array([1.0, 20.0, 0.01])
    boxes = PrototypeTable(table.record, table.atomic_volumes, {**table.arrays, "volume_ratio": ratios})
    for elements in boxes.prototype(0).elements.tolist():
        (one,) = Proposer.of(boxes).propose(sorted(elements), 1)
        expected = float(table.atomic_volumes[elements].sum())
        assert 0.25 - 1e-9 <= one.crystal.volume / expected <= 2.5 + 1e-9


def test_saved_and_read(toys: PrototypeTable, tmp_path: Path) -> None:
    path = tmp_path / "toys.safetensors"
    toys.save(path)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    again = PrototypeTable.load(path)
    assert again.record == toys.record
    assert again.fingerprint == toys.fingerprint
    wanted = Proposer.of(toys).propose(numbers("Na", "Cl"), 5)
    for one, two in zip(wanted, Proposer.load(path).propose(numbers("Na", "Cl"), 5), strict=True):
        assert np.array_equal(one.crystal.lattice, two.crystal.lattice)
        assert np.array_equal(one.crystal.frac_coords, two.crystal.frac_coords)
    assert b"rocksalt-" not in path.read_bytes(), "no ids"


def test_values_are_coarsened_unless_asked_for_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    given = [disguised(symmetric_crystal(group, rng).crystal(str(group)), rng) for group in (2, 62, 166)]
    coarse, exact = table_of(*given, exact=False), table_of(*given)
    assert coarse.record["grid"] == GRID
    assert "grid" not in exact.record
    for name in ("free_coords", "metric", "volume_ratio"):
        assert not np.allclose(coarse.arrays[name], exact.arrays[name], rtol=1e-4, atol=1e-4), name
    moved = (coarse.arrays["free_coords"] - exact.arrays["free_coords"] + 0.5) % 1.0 - 0.5
    assert 1e-3 < np.abs(moved).max() <= 0.5 / PERIOD + 1e-6
    parts = coarse.arrays["free_coords"] * PERIOD
    assert np.abs(parts - parts.round()).max() < 1e-4
    # neither saving nor coarsening again changes anything
    path, other = tmp_path / "coarse.safetensors", tmp_path / "exact.safetensors"
    coarse.save(path)
    exact.save(other)
    for name, array in PrototypeTable.load(path).arrays.items():
        assert np.array_equal(array, coarse.arrays[name]), name
    assert PrototypeTable.load(path).fingerprint == coarse.coarsened().fingerprint == coarse.fingerprint
    assert PrototypeTable.load(other).fingerprint == exact.fingerprint
    assert path.stat().st_size < other.stat().st_size


def test_special_values_and_cells_stay_on_the_grid(toys: PrototypeTable) -> None:
    """Halves, thirds, quarters and eighths of a period, and cells that symmetry gives one length only."""
    wanted = np.array([0.0, 1 / 2, 1 / 3, 2 / 3, 1 / 4, 3 / 4, 1 / 8, 5 / 6])
    free_coords = np.zeros_like(toys.arrays["free_coords"])
    free_coords.flat[: len(wanted)] = wanted
    again = replace(toys, arrays={**toys.arrays, "free_coords": free_coords}).coarsened()
    assert np.allclose(again.arrays["free_coords"], free_coords, atol=1e-6)
    for number in range(len(again)):
        lattice = again.prototype(number).crystal(np.array([14, 8, 20][: len(again.prototype(number).amounts)]), 50.0)
        exact = toys.prototype(number).crystal(np.array([14, 8, 20][: len(toys.prototype(number).amounts)]), 50.0)
        assert np.allclose(lattice.lattice @ lattice.lattice.T, exact.lattice @ exact.lattice.T, rtol=1e-5, atol=1e-5)


def test_long_cells_keep_their_shape() -> None:
    """A rhombohedral cell whose primitive vectors are nearly parallel: steps are of the conventional one."""
    rng = np.random.default_rng(4)
    known = symmetric_crystal(166, rng)
    long = replace(known, lattice=known.lattice * np.array([[1.0], [1.0], [6.0]]))
    found = table_of(disguised(long.crystal("long"), rng), exact=False).prototype(0)
    made = found.crystal(np.arange(1, len(found.amounts) + 1), float(long.crystal().volume))
    for one, other in zip(
        np.linalg.eigvalsh(made.lattice @ made.lattice.T),
        np.linalg.eigvalsh(long.crystal().lattice @ long.crystal().lattice.T),
        strict=True,
    ):
        assert one == pytest.approx(other, rel=4 * LENGTH_STEP)


def test_tables_are_joined() -> None:
    one = table_of(NACL, KCL, GAAS)
    two = table_of(PBTE, toy("fluorite", ("Ca", "F"), 5.5, "CaF2"), toy("fluorite", ("Sr", "Cl"), 7.0, "SrCl2"))
    both = one.joined(two)
    both._check()
    assert len(both) == len(one) + len(two)
    for number in range(len(both)):
        mine = both.prototype(number)
        other = one.prototype(number) if number < len(one) else two.prototype(number - len(one))
        assert (mine.space_group, mine.orbits, mine.example) == (other.space_group, other.orbits, other.example)
        assert np.array_equal(mine.elements, other.elements)
        assert np.array_equal(mine.metric, other.metric)
    # cells keep their volumes, whatever the elements' volumes of the first table are
    known = [table.set_volumes(table.atomic_volumes) * table.arrays["volume_ratio"] for table in (one, two, both)]
    assert np.allclose(np.concatenate(known[:2]), known[2], rtol=1e-5)
    assert sorted(known[1]) == pytest.approx([5.5**3 / 4, 6.5**3 / 4, 7.0**3 / 4], rel=1e-3)
    fluorite, *_ = Proposer.of(both).propose(numbers("Ca", "F", "F"), 5)
    assert (fluorite.space_group, fluorite.distance) == (225, 0.0)


def test_what_is_no_crystal_is_not_proposed() -> None:
    """The grid of a shipped table can put atoms of a long cell on top of each other."""
    pile = Crystal([30, 16], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.05]], np.diag([3.5, 3.8, 6.0]), "pile")
    proposer = Proposer.of(table_of(pile, toy("zincblende", ("Zn", "S"), 5.4, "ZnS")))
    elements = numbers("Zn", "S")
    assert min(min_distance(one.crystal) for one in proposer.propose(elements, 5)) < DEFAULT_LIMITS.min_distance
    assert [one.space_group_number for one in proposed(proposer, "ZnS", {1: elements}, 5)] == [216]


def test_tables_of_the_first_format_are_refused(toys: PrototypeTable, tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    toys.save(path)
    path.write_bytes(path.read_bytes().replace(b"dao prototypes 2", b"dao prototypes 1"))
    with pytest.raises(InputError, match=r"not a table of prototypes as this version writes them"):
        PrototypeTable.load(path)


@pytest.mark.parametrize("broken", ["free_parts", "cell_parts", "volume_parts", "slots", "elements"])
def test_coarse_tables_that_are_none_are_refused(tmp_path: Path, broken: str) -> None:
    from safetensors.numpy import save_file

    table = table_of(NACL, GAAS, exact=False)
    arrays = {**to_grid(table.arrays, GRID), "atomic_volumes": table.atomic_volumes}
    path = tmp_path / "broken.safetensors"
    metadata = {"format": "dao prototypes 2", "record": json.dumps(table.record)}
    save_file(arrays, path, metadata)
    assert len(PrototypeTable.load(path)) == 2
    for wrong in ({**arrays, broken: arrays[broken][:-1]}, {k: v for k, v in arrays.items() if k != broken}):
        save_file(wrong, path, metadata)
        with pytest.raises(InputError, match="not a table of prototypes"):
            PrototypeTable.load(path)


@pytest.mark.parametrize("broken", ["free_coords", "orbit_slot", "elements", "volume_ratio", "metric"])
def test_tables_that_are_none_are_refused(toys: PrototypeTable, tmp_path: Path, broken: str) -> None:
    wrong = dict(toys.arrays)
    values = wrong[broken].copy()
    values.flat[0] = 99 if broken == "orbit_slot" else 200 if broken == "elements" else np.nan
    wrong[broken] = values
    path = tmp_path / "broken.safetensors"
    replace(toys, arrays=wrong).save(path)
    with pytest.raises(InputError, match="not a table of prototypes"):
        PrototypeTable.load(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError, match="not a table of prototypes"):
        PrototypeTable.load(path)
    with pytest.raises(InputError, match="missing"):
        PrototypeTable.load(tmp_path / "missing.safetensors")
