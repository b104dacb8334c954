"""Labels computed from the crystals themselves."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dao.data.store import PackedCrystals
from dao.errors import InputError
from dao.geometry.cells import space_group

LABEL_SYMPREC = 0.1
"""Distance in A within which atoms count as symmetric: the Materials Project's own setting."""


def space_group_labels(crystals: PackedCrystals) -> Int[Tensor, " m"]:
    """Space group number of each crystal (moyopy, about 0.5 ms each); 1 where none is found."""
    numbers = torch.ones(len(crystals), dtype=torch.long)
    for i in range(len(crystals)):
        try:
            numbers[i] = space_group(crystals.crystal(i), LABEL_SYMPREC)[0]
        except InputError:
            continue
    return numbers


def cell_frequencies(crystals: PackedCrystals) -> dict[str, dict[str, int]]:
    """How often a reduced formula of that many atoms came with that many formula units in a cell.

    Elemental crystals count atoms: their "formula unit" is one atom.
    """
    table: dict[str, Counter[int]] = defaultdict(Counter)
    counts = crystals.element_counts().to(torch.int64).numpy()
    for row in counts:
        amounts = row[row > 0]
        units = int(np.gcd.reduce(amounts))
        table[str(int(amounts.sum()) // units)][units] += 1
    return {
        atoms: {str(units): count for units, count in sorted(frequencies.items())}
        for atoms, frequencies in sorted(table.items(), key=lambda item: int(item[0]))
    }
