"""Write ``src/dao/geometry/wyckoff_positions.json``: every Wyckoff position of every space group, as moyo knows them.

moyo says letter, multiplicity, site symmetry and coordinates of the positions that a crystal occupies, but has no list
of them. This makes crystals that occupy each: points on every symmetry element of a group (rotation axes and mirror
planes from its operations, special points from a grid of 1/24), one at a time, beside two general orbits that leave the
crystal no more symmetry than the group's. The result is checked against the number of positions in the International
Tables (1,731) and against the letters' having no gap.

    python tools/wyckoff_table.py
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from moyopy import Cell, HallSymbolEntry, MoyoDataset, Setting, operations_from_number

LETTERS = "abcdefghijklmnopqrstuvwxyzA"
POSITIONS = 1731
OUT = Path(__file__).parents[1] / "src/dao/geometry/wyckoff_positions.json"

Array = npt.NDArray[np.float64]


def candidates(rotations: Array, translations: Array, random: np.random.Generator) -> Array:
    """Points (P, 3) on every axis, plane and special point, generic on what they lie on."""
    ticks = np.arange(24) / 24
    points = [np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(-1, 3)]
    for rotation, translation in zip(rotations, translations, strict=True):
        difference = rotation - np.eye(3)
        _, sizes, rows = np.linalg.svd(difference)
        free = rows[sizes < 1e-9]
        if len(free) in (0, 3):
            continue
        shifts = -translation - np.array(list(product((-1, 0, 1), repeat=3)))
        fixed = shifts @ np.linalg.pinv(difference).T
        solvable = np.abs(fixed @ difference.T - shifts).max(1) < 1e-9
        points.append(fixed[solvable] + random.random((int(solvable.sum()), len(free))) @ free)
    return np.concatenate(points)


def orbit(point: Array, rotations: Array, translations: Array) -> Array:
    """All images of a point in the conventional cell, each once."""
    images = point @ rotations.transpose(0, 2, 1) + translations
    images -= np.floor(images + 1e-9)
    kept: list[Array] = []
    for image in images:
        if all(np.abs((d := image - other) - d.round()).max() > 1e-6 for other in kept):
            kept.append(image)
    return np.array(kept)


def conventional_lattice(number: int) -> Array:
    """A lattice of the group's crystal system, no more symmetric than it must be (row vectors)."""
    a, b, c = 9.1, 10.3, 11.9
    if number <= 2:
        return np.array([[a, 0, 0], [1.3, b, 0], [0.7, 1.9, c]])
    if number <= 15:
        return np.array([[a, 0, 0], [0, b, 0], [-2.1, 0, c]])
    if number <= 74:
        return np.diag([a, b, c])
    if number <= 142:
        return np.diag([a, a, c])
    if number <= 194:
        return np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]])
    return np.diag([a, a, a])


def positions(number: int) -> list[dict[str, Any]]:
    """Wyckoff positions of a group, in the order of their letters."""
    random = np.random.default_rng(number)
    operations = operations_from_number(number, setting=Setting.standard())
    rotations, translations = np.array(operations.rotations, float), np.array(operations.translations, float)
    points = candidates(rotations, translations, random)
    moved = np.einsum("gij,pj->pgi", rotations, points) + translations - points[:, None]
    fixed = np.abs(moved - moved.round()).max(-1) < 1e-6
    # one candidate for each set of operations (with their lattice translations) that leave it where it is
    unique: dict[bytes, int] = {}
    for i in np.flatnonzero(fixed.sum(1) > 1):
        key = np.concatenate([np.flatnonzero(fixed[i]), moved[i][fixed[i]].round().ravel()]).astype(np.int16).tobytes()
        unique.setdefault(key, int(i))
    lattice = conventional_lattice(number)
    general = [orbit(random.random(3), rotations, translations) for _ in range(2)]
    found: dict[str, dict[str, Any]] = {}
    for one in [*unique.values(), None]:
        special = orbit(points[one], rotations, translations) if one is not None else np.zeros((0, 3))
        coords = np.concatenate([special, *general])
        numbers = [14] * len(special) + [8] * len(general[0]) + [9] * len(general[1])
        dataset = MoyoDataset(
            Cell(lattice.tolist(), coords.tolist(), numbers), symprec=1e-4, setting=Setting.standard()
        )
        if dataset.number != number:
            continue
        if set(dataset.wyckoffs) <= found.keys():
            continue
        # an origin of its own choice may move the letters, so all that it can be are taken down
        for _, sequence in dataset.normalizer_wyckoff_positions(primitive=False).coset_representatives:
            for site in sequence:
                found.setdefault(
                    site.letter,
                    {
                        "letter": site.letter,
                        "multiplicity": site.multiplicity,
                        "site_symmetry": site.site_symmetry,
                        "coordinates": site.coordinates,
                    },
                )
    ordered = [found[letter] for letter in LETTERS if letter in found]
    if [one["letter"] for one in ordered] != list(LETTERS[: len(ordered)]):
        raise ValueError(f"space group {number}: letters {''.join(found)} have a gap")
    if ordered[-1]["coordinates"] != "x,y,z" or ordered[-1]["multiplicity"] != len(rotations):
        raise ValueError(f"space group {number}: last position {ordered[-1]} is not the general one")
    return ordered


def main() -> None:
    """Collect, check, write."""
    table: dict[str, Any] = {}
    for number in range(1, 231):
        table[str(number)] = [list(one.values()) for one in positions(number)]
        print(number, HallSymbolEntry(operations_hall(number)).hm_short, len(table[str(number)]), flush=True)
    total = sum(len(rows) for rows in table.values())
    lines = ",\n".join(f'"{number}": {json.dumps(rows)}' for number, rows in table.items())
    OUT.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    print(f"{total} positions, {OUT}")
    if total != POSITIONS:
        raise ValueError(f"{total} positions instead of {POSITIONS}")


def operations_hall(number: int) -> int:
    """Hall number of a group's standard setting."""
    return next(h for h in range(1, 531) if HallSymbolEntry(h).number == number)


if __name__ == "__main__":
    main()
