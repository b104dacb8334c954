"""How alike two elements are, by published properties alone.

Shapes: E elements by atomic number.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt

from dao.constants import MAX_ATOMIC_NUMBER
from dao.elements import ELECTRONEGATIVITY

Floats = npt.NDArray[np.float64]


def element_distances(atomic_volumes: Floats) -> Floats:
    """(E, E) distance between elements, by atomic number: mean absolute difference of seven properties.

    Each is in units of its standard deviation over the elements; the block (s, p, d, f) is the same or not. Their
    equal weights were compared with others on validation crystals: no choice differs beyond chance.

    Args:
        atomic_volumes: (E,) A^3 per element, entry 0 unused.

    """
    from pymatgen.core import Element

    elements = [Element.from_Z(number) for number in range(1, MAX_ATOMIC_NUMBER + 1)]
    with warnings.catch_warnings():
        # pymatgen says where it has no value; the next best property then stands in
        warnings.simplefilter("ignore")
        columns = {
            "mendeleev": [float(element.mendeleev_no) for element in elements],
            "electronegativity": ELECTRONEGATIVITY[1:],
            "radius": [
                float(element.atomic_radius or element.atomic_radius_calculated or math.inf) for element in elements
            ],
            "group": [float(element.group) for element in elements],
            "row": [float(element.row) for element in elements],
            "volume": np.cbrt(atomic_volumes[1:]),
            "block": ["spdf".index(element.block) for element in elements],
        }
    total = np.zeros((MAX_ATOMIC_NUMBER + 1, MAX_ATOMIC_NUMBER + 1))
    for name, column in columns.items():
        values = np.asarray(column, dtype=np.float64)
        known = np.isfinite(values)
        # helium, neon and argon have no electronegativity; no radius is known of a few
        values = np.where(known, values, values[known].mean()) / (values[known].std() or 1.0)
        gap = np.abs(values[:, None] - values[None, :])
        total[1:, 1:] += gap > 0 if name == "block" else gap
    return total / len(columns)
