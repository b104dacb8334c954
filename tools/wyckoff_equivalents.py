"""Write src/dao/geometry/wyckoff_equivalents.json: how the Euclidean normaliser of each group exchanges its letters.

Run: python tools/wyckoff_equivalents.py. A crystal with a different element on every position of the group is shown to
moyo, whose cosets of the normaliser then name every way to exchange the letters.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from moyopy import Cell, MoyoDataset, Setting

from dao.geometry.wyckoff import SPACE_GROUPS, primitive_cell, wyckoff_positions

OUT = Path(__file__).resolve().parents[1] / "src" / "dao" / "geometry" / "wyckoff_equivalents.json"

LATTICES = (
    (2, [[5.1, 0.0, 0.0], [1.1, 6.3, 0.0], [0.7, 1.3, 7.7]]),
    (15, [[5.1, 0.0, 0.0], [0.0, 6.3, 0.0], [-1.7, 0.0, 7.7]]),
    (74, [[5.1, 0.0, 0.0], [0.0, 6.3, 0.0], [0.0, 0.0, 7.7]]),
    (142, [[5.1, 0.0, 0.0], [0.0, 5.1, 0.0], [0.0, 0.0, 7.7]]),
    (194, [[5.1, 0.0, 0.0], [-2.55, 2.55 * 3**0.5, 0.0], [0.0, 0.0, 7.7]]),
    (SPACE_GROUPS, [[5.1, 0.0, 0.0], [0.0, 5.1, 0.0], [0.0, 0.0, 5.1]]),
)
"""Conventional cell (row vectors) up to which space group."""


def exchanges(number: int) -> list[str]:
    """The letters that take the places of a, b, c, ..., for each element of the normaliser that moves any."""
    positions = wyckoff_positions(number)
    random = np.random.default_rng(number)
    lattice = next(np.array(rows) for last, rows in LATTICES if number <= last)
    # two more general orbits, so that the symmetry is no higher
    everything = [*positions, positions[-1], positions[-1]]
    coords = np.concatenate([one.expand(random.random(3)) for one in everything])
    numbers = np.repeat(np.arange(1, len(everything) + 1), [one.multiplicity for one in everything])
    cell = Cell((3.0 * primitive_cell(number) @ lattice).tolist(), coords.tolist(), numbers.tolist())
    dataset = MoyoDataset(cell, symprec=1e-4, setting=Setting.standard())
    if dataset.number != number:
        raise ValueError(f"space group {number}: the crystal made for it has {dataset.number}")
    letters = "".join(one.letter for one in positions)
    normalizer = dataset.normalizer_wyckoff_positions(primitive=False)
    found = set()
    for _, sequence in normalizer.coset_representatives:
        moved = {one.letter: other.letter for one, other in zip(normalizer.wyckoffs, sequence, strict=True)}
        found.add("".join(moved[letter] for letter in letters))
    return sorted(found - {letters})


def main() -> None:
    """Collect and write."""
    table = {str(number): exchanges(number) for number in range(1, SPACE_GROUPS + 1)}
    lines = ",\n".join(f'"{number}": {json.dumps(rows)}' for number, rows in table.items() if rows)
    OUT.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    print(f"{sum(map(len, table.values()))} exchanges, {OUT}")


if __name__ == "__main__":
    main()
