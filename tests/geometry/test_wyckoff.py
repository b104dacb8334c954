"""The table of Wyckoff positions, held against the groups' operations and against moyo."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dao.errors import InputError
from dao.geometry.wyckoff import (
    SPACE_GROUPS,
    WYCKOFF_POSITIONS,
    WyckoffPosition,
    operations,
    orbit_sites,
    primitive_cell,
    site_table,
    wyckoff_index,
    wyckoff_positions,
)

ALL = [one for number in range(1, SPACE_GROUPS + 1) for one in wyckoff_positions(number)]
GROUPS = st.integers(1, SPACE_GROUPS)
SEEDS = st.integers(0, 2**32 - 1)


def apart(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Largest coordinate of the shortest difference, (P, Q)."""
    difference = points[:, None] - others
    return np.abs(difference - difference.round()).max(-1)


def chosen(space_group: int, rng: np.random.Generator) -> tuple[WyckoffPosition, np.ndarray]:
    """A position of the group and free coordinates for it."""
    position = wyckoff_positions(space_group)[rng.integers(len(wyckoff_positions(space_group)))]
    return position, rng.random(3) * (np.arange(3) < position.degrees)


@cache
def shipped() -> dict[str, list[list[object]]]:
    text = resources.files("dao.geometry").joinpath("wyckoff_positions.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def test_there_are_as_many_as_in_the_international_tables() -> None:
    assert len(ALL) == WYCKOFF_POSITIONS == 1731
    assert [len(wyckoff_positions(number)) for number in (1, 2, 47, 62, 166, 225, 230)] == [1, 9, 27, 4, 9, 12, 8]


def test_multiplicities_are_the_conventional_ones_over_the_centring() -> None:
    conventional = [row[1] for number in range(1, SPACE_GROUPS + 1) for row in shipped()[str(number)]]
    centring = [round(1.0 / abs(np.linalg.det(primitive_cell(one.space_group)))) for one in ALL]
    assert [one.multiplicity * order for one, order in zip(ALL, centring, strict=True)] == conventional
    assert set(centring) == {1, 2, 3, 4}
    general = [one for one in ALL if one.site_symmetry == "1"]
    assert [one.space_group for one in general] == list(range(1, SPACE_GROUPS + 1))
    assert all(one.degrees == 3 and one.multiplicity == len(operations(one.space_group)[0]) for one in general)


def test_maps_are_integer_and_their_columns_independent() -> None:
    for one in ALL:
        assert (one.maps == one.maps.round()).all()
        assert (one.maps[:, :, one.degrees :] == 0).all()
        assert (np.linalg.matrix_rank(one.maps) == one.degrees).all()
        assert ((one.offsets >= 0) & (one.offsets < 1)).all()
        np.testing.assert_allclose(one.offsets * 24, (one.offsets * 24).round(), atol=1e-9)


def test_a_free_coordinate_has_no_period_below_one() -> None:
    """The lattice vectors in the span of a map are its integer combinations: all minors have no common divisor."""
    for one in ALL:
        for basis in one.maps.round().astype(int):
            columns = basis[:, : one.degrees]
            if one.degrees == 1:
                minors = columns[:, 0]
            elif one.degrees == 2:
                minors = np.cross(columns[:, 0], columns[:, 1])
            elif one.degrees == 3:
                minors = np.array([round(np.linalg.det(columns))])
            else:
                continue
            assert np.gcd.reduce(minors) == 1


@given(GROUPS, SEEDS)
@settings(max_examples=60)
def test_an_orbit_is_what_the_operations_make_of_one_of_its_points(space_group: int, seed: int) -> None:
    position, free = chosen(space_group, np.random.default_rng(seed))
    rotations, translations = operations(space_group)
    orbit = position.expand(free)
    images = rotations @ orbit[0] + translations
    assert apart(images, orbit).min(1).max() < 1e-9
    assert apart(orbit, images).min(1).max() < 1e-9
    # so far from each other that the random point lies on no more special position
    distances = apart(orbit, orbit) + np.eye(len(orbit))
    assert distances.min() > 1e-9
    assert len(rotations) % position.multiplicity == 0


@given(GROUPS, SEEDS)
@settings(max_examples=60)
def test_free_coordinates_invert_expand(space_group: int, seed: int) -> None:
    """From atoms in any order and any cells, some too many cells away for a search of neighbours."""
    rng = np.random.default_rng(seed)
    position, free = chosen(space_group, rng)
    orbit = position.expand(free)
    given_atoms = rng.permutation(orbit) + rng.integers(-6, 7, orbit.shape)
    found, off = position.free_coordinates(given_atoms)
    assert off < 1e-9
    assert ((found >= 0) & (found < 1)).all()
    assert (found[position.degrees :] == 0).all()
    # from another atom perhaps, but of the same orbit
    again = position.expand(found)
    assert apart(orbit, again).min(1).max() < 1e-9
    assert apart(again, orbit).min(1).max() < 1e-9


def test_free_coordinates_say_how_far_off_an_atom_is() -> None:
    position = wyckoff_positions(225)[0]
    assert position.letter == "a"
    assert position.free_coordinates(np.array([[3.0, -4.0, 0.02]]))[1] == pytest.approx(0.02)
    assert wyckoff_positions(1)[0].free_coordinates(np.array([[0.3, 7.4, -0.2]]))[1] == pytest.approx(0.0)


def test_operations_form_the_group() -> None:
    for number in (1, 15, 43, 88, 122, 148, 161, 194, 206, 219, 228, 230):
        rotations, translations = operations(number)
        assert (rotations[0] == np.eye(3)).all()
        rng = np.random.default_rng(number)
        for _ in range(20):
            i, j = rng.integers(len(rotations), size=2)
            product_rotation = rotations[i] @ rotations[j]
            same = np.flatnonzero((rotations == product_rotation).all((1, 2)))
            assert len(same) == 1
            shift = rotations[i] @ translations[j] + translations[i] - translations[same[0]]
            assert np.abs(shift - shift.round()).max() < 1e-9


def test_hand_checked_positions() -> None:
    """International Tables A: Fd-3m with its origin at the inversion centre, and R-3m in rhombohedral axes."""
    diamond = {one.letter: one for one in wyckoff_positions(227)}
    assert (diamond["a"].multiplicity, diamond["a"].site_symmetry, diamond["a"].coordinates) == (
        2,
        "-43m",
        "1/8,1/8,1/8",
    )
    assert [(one.letter, one.multiplicity, one.degrees) for one in wyckoff_positions(166)] == [
        ("a", 1, 0),
        ("b", 1, 0),
        ("c", 2, 1),
        ("d", 3, 0),
        ("e", 3, 0),
        ("f", 6, 1),
        ("g", 6, 1),
        ("h", 6, 2),
        ("i", 12, 3),
    ]
    # 2c runs along the three-fold axis, where all primitive coordinates are equal
    free = np.array([0.21, 0.0, 0.0])
    np.testing.assert_allclose(np.ptp(wyckoff_positions(166)[2].expand(free), axis=1), 0.0, atol=1e-12)


def test_site_table_holds_the_same_numbers() -> None:
    table = site_table()
    assert len(table.first) == WYCKOFF_POSITIONS + 1
    assert len(table.maps) == len(table.offsets) == len(table.position) == 1 + sum(one.multiplicity for one in ALL)
    assert (table.maps[0] == np.eye(3)).all()  # nothing may have written to what all share
    for one in ALL[:: len(ALL) // 150]:
        index = wyckoff_index(one.space_group, one.letter)
        rows = orbit_sites(one.space_group, one.letter)
        assert rows.tolist() == list(range(table.first[index], table.first[index] + one.multiplicity))
        assert (table.maps[rows] == one.maps).all()
        assert (table.offsets[rows] == one.offsets).all()
        assert (table.position[rows] == index).all()
        assert table.image[rows].tolist() == list(range(one.multiplicity))
    assert [wyckoff_index(one.space_group, one.letter) for one in ALL] == list(range(1, WYCKOFF_POSITIONS + 1))
    assert orbit_sites(225, "bea").tolist() == [row for letter in "bea" for row in orbit_sites(225, letter).tolist()]


@pytest.mark.parametrize("call", [wyckoff_positions, operations, primitive_cell, lambda n: wyckoff_index(n, "a")])
@pytest.mark.parametrize("number", [-1, 0, 231])
def test_an_unknown_group_is_refused(call: Callable[[int], object], number: int) -> None:
    with pytest.raises(InputError) as error:
        call(number)
    assert str(error.value) == f"space group {number} is outside 1 to 230"


@pytest.mark.parametrize("letter", ["A", "", "j", "ab"])
def test_an_unknown_letter_is_refused(letter: str) -> None:
    for call in (lambda: wyckoff_index(2, letter), lambda: orbit_sites(2, ["a", letter])):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == f"space group 2 has no Wyckoff position {letter!r}"
    assert wyckoff_index(47, "A") == wyckoff_index(47, "z") + 1


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "wyckoff_table.py"
    spec = importlib.util.spec_from_file_location("wyckoff_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("number", [2, 15, 79, 146])
def test_the_shipped_table_is_what_the_tool_writes(tool: ModuleType, number: int) -> None:
    assert [list(row.values()) for row in tool.positions(number)] == shipped()[str(number)]


def test_coordinates_are_written_in_24ths_of_conventional_axes() -> None:
    for rows in shipped().values():
        for _, _, _, coordinates in rows:
            parts = str(coordinates).split(",")
            assert len(parts) == 3
            assert all(set(part) <= set("0123456789/xyz+-") for part in parts)
    assert all(
        len(letters) == len(set(letters)) for letters in ([row[0] for row in rows] for rows in shipped().values())
    )
