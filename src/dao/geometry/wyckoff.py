"""Wyckoff positions of the 230 space groups in their standardised primitive cells.

A position is an affine map from its free coordinates to fractional ones, and the images of that map under the group:
``frac_coords[i] = maps[i] @ u + offsets[i]`` for the i-th atom of an orbit with free coordinates ``u``. Cells are
those of moyo's standard setting (unique axis b, origin at the inversion centre, hexagonal axes for rhombohedral
groups), made primitive. Letters, multiplicities and coordinates come from moyo's tables
(``wyckoff_positions.json``, written by ``tools/wyckoff_table.py``).

Shapes: m atoms of an orbit in the primitive cell, T images of all positions of all groups.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from importlib import resources
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from dao.errors import InputError

SPACE_GROUPS = 230
WYCKOFF_POSITIONS = 1731

_TERM = re.compile(r"([+-]?)(\d*)(?:/(\d+))?([xyz]?)")


@dataclass(frozen=True, eq=False)
class WyckoffPosition:
    """One position of a space group.

    Attributes:
        space_group: 1 to 230.
        letter: a, b, c ... in the order of the International Tables, the general position last.
        multiplicity: atoms m per primitive cell.
        degrees: free coordinates, 0 to 3.
        site_symmetry: symbol, "1" for the general position.
        coordinates: of the first atom in the conventional cell ("x,2x,1/4").
        maps: (m, 3, 3) integer maps of the free coordinates (each of period 1), whose unused columns are 0.
        offsets: (m, 3) in [0, 1).

    """

    space_group: int
    letter: str
    multiplicity: int
    degrees: int
    site_symmetry: str
    coordinates: str
    maps: Float64[np.ndarray, "m 3 3"]
    offsets: Float64[np.ndarray, "m 3"]

    @cached_property
    def _inverse(self) -> Float64[np.ndarray, "3 3"]:
        inverse: Float64[np.ndarray, "3 3"] = np.linalg.pinv(self.maps[0])
        return inverse

    def expand(self, free: Float64[np.ndarray, " 3"]) -> Float64[np.ndarray, "m 3"]:
        """Fractional coordinates of the orbit, not reduced to the cell."""
        return self.maps @ free + self.offsets

    def free_coordinates(self, frac_coords: Float64[np.ndarray, "n 3"]) -> tuple[Float64[np.ndarray, " 3"], float]:
        """Free coordinates in [0, 1) of an orbit given by its atoms, and how far (fractional) an atom is off the map.

        One of the atoms lies on the first image, up to lattice translations; the first one that does best is taken.
        """
        basis, inverse = self.maps[0], self._inverse
        wanted = frac_coords - self.offsets[0]
        # atoms may be given many cells away, and the shifts reach two
        wanted = (wanted - np.rint(wanted))[:, None] + _SHIFTS[: 1 if self.degrees == 3 else None]
        free = wanted @ inverse.T
        off = np.abs(wanted - free @ basis.T).max(-1)
        atom, shift = np.unravel_index(int(np.where(off < off.min() + 1e-6, 0.0, 1.0).argmin()), off.shape)
        chosen = free[atom, shift] - np.floor(free[atom, shift])
        return np.where(chosen >= 1.0, 0.0, chosen), float(off[atom, shift])


_SHIFTS = np.array(list(product((0, -1, 1, -2, 2), repeat=3)), dtype=np.float64)


@cache
def _rows() -> dict[str, list[list[Any]]]:
    text = resources.files("dao.geometry").joinpath("wyckoff_positions.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


@cache
def _first_index() -> dict[int, int]:
    first, start = {}, 1
    for number in range(1, SPACE_GROUPS + 1):
        first[number] = start
        start += len(_rows()[str(number)])
    return first


def check_space_group(number: int) -> None:
    """Refuse a number that is no space group.

    Raises:
        InputError: outside 1 to 230.

    """
    if not 1 <= number <= SPACE_GROUPS:
        raise InputError(f"space group {number} is outside 1 to {SPACE_GROUPS}")


def wyckoff_index(space_group: int, letter: str) -> int:
    """Number of a position among all groups', 1 to 1731, in the order of the International Tables (0: unknown).

    Raises:
        InputError: no such group, or no such letter in it.

    """
    check_space_group(space_group)
    for i, row in enumerate(_rows()[str(space_group)]):
        if row[0] == letter:
            return _first_index()[space_group] + i
    raise InputError(f"space group {space_group} has no Wyckoff position {letter!r}")


@cache
def primitive_coordinates(space_group: int) -> Float64[np.ndarray, "3 3"]:
    """Integer matrix that takes conventional coordinates (columns) to those of moyo's primitive cell."""
    from moyopy import HallSymbolEntry, Setting, operations_from_number

    check_space_group(space_group)
    wanted = operations_from_number(space_group, setting=Setting.standard())
    for hall in range(1, 531):
        entry = HallSymbolEntry(hall)
        if entry.number != space_group:
            continue
        found = operations_from_number(space_group, setting=Setting.hall_number(hall))
        if found.rotations == wanted.rotations and np.allclose(found.translations, wanted.translations):
            return np.array(entry.centering.linear, dtype=np.float64)
    raise AssertionError(space_group)


@cache
def primitive_cell(space_group: int) -> Float64[np.ndarray, "3 3"]:
    """Row vectors of the primitive cell in units of the conventional ones: ``primitive = matrix @ conventional``."""
    cell: Float64[np.ndarray, "3 3"] = np.linalg.inv(primitive_coordinates(space_group)).T
    return cell


@cache
def operations(space_group: int) -> tuple[Float64[np.ndarray, "g 3 3"], Float64[np.ndarray, "g 3"]]:
    """Rotations and translations of the group in its standardised primitive cell (x -> W x + w), the identity first."""
    from moyopy import Setting, operations_from_number

    check_space_group(space_group)
    found = operations_from_number(space_group, setting=Setting.standard(), primitive=True)
    return np.array(found.rotations, dtype=np.float64), np.array(found.translations, dtype=np.float64)


@cache
def wyckoff_positions(space_group: int) -> tuple[WyckoffPosition, ...]:
    """All positions of a group, in the order of their letters.

    Raises:
        InputError: no such group.

    """
    check_space_group(space_group)
    to_primitive = primitive_coordinates(space_group)
    rotations, translations = operations(space_group)
    found = []
    for letter, _, site_symmetry, coordinates in _rows()[str(space_group)]:
        linear, constant = _parse(coordinates)
        columns = np.rint(to_primitive @ linear).astype(np.int64)
        basis, degrees = _saturated(columns.tobytes())
        offset = to_primitive @ constant
        maps, offsets = rotations @ basis, rotations @ offset + translations
        points = maps @ _GENERIC + offsets
        _, first = np.unique(_canonical(points), axis=0, return_index=True)
        first.sort()
        found.append(
            WyckoffPosition(
                space_group=space_group,
                letter=letter,
                multiplicity=len(first),
                degrees=degrees,
                site_symmetry=site_symmetry,
                coordinates=coordinates,
                maps=maps[first].astype(np.float64),
                offsets=_canonical(offsets[first]),
            )
        )
    return tuple(found)


_GENERIC = np.array([0.1234567, 0.3714159, 0.0577215])


def _canonical(points: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    """In [0, 1), rounded so that equal points are equal numbers; the rounding is exact for 24ths to 12 digits."""
    reduced = points - np.floor(points + 1e-7)
    return np.where(np.abs(reduced) < 1e-7, 0.0, reduced).round(12)


@cache
def _parse(coordinates: str) -> tuple[Int64[np.ndarray, "3 3"], Float64[np.ndarray, " 3"]]:
    """Linear and constant part of "x,2x,z+1/4"."""
    linear, constant = np.zeros((3, 3), dtype=np.int64), np.zeros(3)
    for axis, text in enumerate(coordinates.replace(" ", "").split(",")):
        for sign, numerator, denominator, variable in _TERM.findall(text):
            if not numerator and not variable:
                continue
            value = Fraction(int(numerator or 1), int(denominator or 1)) * (-1 if sign == "-" else 1)
            if variable:
                linear[axis, "xyz".index(variable)] += int(value)
            else:
                constant[axis] += float(value)
    return linear, constant


@cache
def _saturated(matrix: bytes) -> tuple[Int64[np.ndarray, "3 3"], int]:
    """Shortest basis of all integer vectors in the span of a matrix' columns, padded with zero columns; its rank.

    The matrix comes as the bytes of its integers: 1731 positions share some dozens of them.
    """
    columns = np.frombuffer(matrix, dtype=np.int64).reshape(3, 3)
    degrees = int(np.linalg.matrix_rank(columns))
    if degrees == 3:
        return np.eye(3, dtype=np.int64), degrees
    basis = np.zeros((3, 3), dtype=np.int64)
    independent = columns[:, np.abs(columns).sum(0) > 0]
    if degrees == 1:
        basis[:, 0] = independent[:, 0] // np.gcd.reduce(independent[:, 0])
    if degrees == 2:
        normal = np.cross(independent[:, 0], independent[:, 1])
        inside = np.array([v for v in product((0, 1, -1, 2, -2), repeat=3) if any(v) and not normal @ v])
        inside = inside[(inside**2).sum(1).argsort(kind="stable")]
        basis[:, 0] = inside[0]
        basis[:, 1] = next(v for v in inside if np.gcd.reduce(np.cross(inside[0], v)) == 1)
    return basis, degrees


@dataclass(frozen=True, eq=False)
class SiteTable:
    """The images of all positions of all groups, one after the other: what a batch of crystals is gathered from.

    Attributes:
        maps: (T, 3, 3) and
        offsets: (T, 3) as in :class:`WyckoffPosition`.
        position: (T,) its :func:`wyckoff_index`.
        image: (T,) which image of its position, from 0.
        first: (WYCKOFF_POSITIONS + 1,) row of the first image of each position; 0 for the unknown one.

    """

    maps: Float64[np.ndarray, "t 3 3"]
    offsets: Float64[np.ndarray, "t 3"]
    position: Int64[np.ndarray, " t"]
    image: Int64[np.ndarray, " t"]
    first: Int64[np.ndarray, " p"]


@cache
def site_table() -> SiteTable:
    """All images; row 0 is a general site that belongs to no group (padding)."""
    everything = [one for number in range(1, SPACE_GROUPS + 1) for one in wyckoff_positions(number)]
    counts = np.array([1, *(one.multiplicity for one in everything)])
    return SiteTable(
        maps=np.concatenate([np.eye(3)[None], *(one.maps for one in everything)]),
        offsets=np.concatenate([np.zeros((1, 3)), *(one.offsets for one in everything)]),
        position=np.arange(len(counts)).repeat(counts),
        image=np.concatenate([np.arange(count) for count in counts]),
        first=np.concatenate([[0], counts.cumsum()[:-1]]),
    )


def orbit_sites(space_group: int, letters: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """Rows of the site table of orbits on those positions, one after the other.

    Raises:
        InputError: no such group or letter.

    """
    first, known = site_table().first, {one.letter: one for one in wyckoff_positions(space_group)}
    rows = [first[wyckoff_index(space_group, letter)] + np.arange(known[letter].multiplicity) for letter in letters]
    return np.concatenate(rows)
