"""Draw the folds of SuperCon3D's ordered crystals, once: src/dao/data/properties/supercon_folds.json.

Run: python tools/supercon_folds.py supercon3d.parquet

They are never drawn anew: figures of different folds do not compare. The file holds neither formulas nor structures,
only the part of each crystal in the order of the ids, and a hash of these. Random parts: a permutation, dealt out in
turn. Grouped parts: chemical systems in random order, the largest first, each into the part that is smallest so far.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from dao.data.properties.superconductors import PARTS, digest, read_superconductors
from dao.superconductors.dataset import systems_of

SEED = 0
OUT = Path(__file__).resolve().parents[1] / "src" / "dao" / "data" / "properties" / "supercon_folds.json"


def random_parts(count: int, generator: np.random.Generator) -> list[int]:
    parts = np.empty(count, dtype=int)
    parts[generator.permutation(count)] = np.arange(count) % PARTS
    return parts.tolist()


def grouped_parts(systems: list[frozenset[int]], generator: np.random.Generator) -> list[int]:
    members: dict[frozenset[int], list[int]] = {}
    for row, system in enumerate(systems):
        members.setdefault(system, []).append(row)
    groups = list(members.values())
    groups = [groups[i] for i in generator.permutation(len(groups))]
    parts, sizes = [0] * len(systems), [0] * PARTS
    for group in sorted(groups, key=len, reverse=True):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(group)
        for row in group:
            parts[row] = smallest
    return parts


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    packed = read_superconductors(parser.parse_args().file)
    order = sorted(range(len(packed)), key=lambda row: packed.ids[row])
    generator = np.random.default_rng(SEED)
    of_row = systems_of(packed)
    systems = [of_row[row] for row in order]
    record = {
        "source": f"tools/supercon_folds.py, seed {SEED}",
        "crystals": len(packed),
        "ids": digest(packed.ids),
        "random": "".join(map(str, random_parts(len(order), generator))),
        "grouped": "".join(map(str, grouped_parts(systems, generator))),
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{OUT}: {len(order)} crystals of {len(set(systems))} chemical systems")


if __name__ == "__main__":
    main()
