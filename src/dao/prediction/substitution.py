"""Who can replace whom in a known crystal, where elements of equal count change places.

Shapes: E elements by atomic number, S elements of a cell in slots ordered by count, P assignments.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MAX_ASSIGNMENTS = 720
"""Most assignments tried per template (six elements of equal count); beyond, only the best one is."""

DUPLICATE = 0.2
"""Two candidates are one where their fingerprints differ by less than this part of all neighbours (summed over bins).

0 to 0.4 compared on 600 validation crystals of MP-20: within 5 and 20 tries, 0.2 matches most (by up to one point).
"""


def assignments(counts: Sequence[int]) -> Integers:
    """(P, S) every way to give the target's slots to the template's, among equal counts."""
    blocks = [[slot for slot, other in enumerate(counts) if other == count] for count in sorted(set(counts))]
    ways = [list(permutations(block)) for block in blocks]
    return np.array([[slot for block in way for slot in block] for way in product(*ways)])


def best_assignment(distances: Floats, elements: Integers, target: Integers, amounts: Integers) -> Integers:
    """(S,) the least distant way to give the target's slots to the template's, among equal amounts.

    Args:
        distances: (E, E) between elements.
        elements: (S,) atomic numbers of the template's slots.
        target: (S,) those that replace them.
        amounts: (S,) atoms on each slot.

    """
    from scipy.optimize import linear_sum_assignment

    unequal = np.not_equal.outer(amounts, amounts)
    cost = distances[elements[:, None], target[None, :]] + 1e6 * unequal
    return np.asarray(linear_sum_assignment(cost)[1])
