"""What a table keeps of a prototype: its values on a grid, which no known crystal can be read back from.

Most prototypes stand for a single known crystal, so their values are coarsened before they are kept: free coordinates
to a part of their period, the shape to steps of the conventional cell's lengths and shears, volumes to steps of their
logarithm. The grid holds every fraction that symmetry makes special (24ths), and proposals symmetrise the shape, so
symmetry stays exact. In a file the values are small integers. Steps were chosen on validation crystals
(docs/experiments.md).

Shapes: T prototypes, O orbits and U element sets of all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dao.geometry.wyckoff import primitive_cell

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

PERIOD = 48
"""Free coordinates are multiples of 1 / this; so are the shears b_x / a, c_x / a and c_y / b_y."""

LENGTH_STEP = 0.02
"""Of the logarithm of a, b_y and c_z: 2 % (the cell is set up with a along x and b in the xy plane)."""

VOLUME_STEP = 0.02
"""Of the logarithm of the volume ratios."""

GRID = {"period": float(PERIOD), "length_step": LENGTH_STEP, "volume_step": VOLUME_STEP}
"""What the record of a table says of its grid."""

_ROWS, _COLUMNS = (0, 1, 2, 1, 2, 2), (0, 1, 2, 0, 0, 1)
_SIZES = {"slot_first": "slots", "orbit_first": "orbits", "set_first": "sets"}
_VALUES = {"free_coords": "free_parts", "metric": "cell_parts", "volume_ratio": "volume_parts"}


def to_grid(arrays: dict[str, Array], grid: dict[str, float]) -> dict[str, Array]:
    """The arrays of a table as small integers, rounding what is not on the grid.

    Args:
        arrays: of :class:`~dao.prediction.prototype_table.PrototypeTable`.
        grid: steps, as :data:`GRID`.

    """
    kept = {name: array for name, array in arrays.items() if name not in _SIZES and name not in _VALUES}
    kept |= {short: _small(np.diff(arrays[name])) for name, short in _SIZES.items()}
    period = int(grid["period"])
    kept["free_parts"] = _small(np.rint(arrays["free_coords"].astype(np.float64) * period).astype(np.int64) % period)
    cells = _conventional(arrays["space_group"], arrays["metric"].astype(np.float64))
    diagonal = cells[:, [0, 1, 2], [0, 1, 2]]
    shears = cells[:, [1, 2, 2], [0, 0, 1]] / diagonal[:, [0, 0, 1]]
    parts = np.concatenate([np.log(diagonal) / grid["length_step"], shears * period], axis=1)
    kept["cell_parts"] = _small(np.rint(parts).astype(np.int64))
    kept["volume_parts"] = _small(np.rint(np.log(arrays["volume_ratio"].astype(np.float64)) / grid["volume_step"]))
    kept["members"] = _small(arrays["members"])
    return kept


def from_grid(kept: dict[str, Array], grid: dict[str, float]) -> dict[str, Array]:
    """The arrays of a table from what :func:`to_grid` made.

    Raises:
        KeyError: an array is missing.
        ValueError: two of them do not fit each other.

    """
    arrays = dict(kept)
    for name, short in _SIZES.items():
        arrays[name] = np.concatenate([[0], np.cumsum(arrays.pop(short), dtype=np.int64)]).astype(np.int32)
    arrays["free_coords"] = (arrays.pop("free_parts") / grid["period"]).astype(np.float32)
    parts = arrays.pop("cell_parts")
    if parts.shape != (len(arrays["space_group"]), 6):
        raise ValueError("cell_parts")
    diagonal, shears = np.exp(parts[:, :3] * grid["length_step"]), parts[:, 3:] / grid["period"]
    cells = np.zeros((len(parts), 3, 3))
    cells[:, _ROWS, _COLUMNS] = np.concatenate([diagonal, shears * diagonal[:, [0, 0, 1]]], axis=1)
    arrays["metric"] = _primitive(arrays["space_group"], cells).astype(np.float32)
    arrays["volume_ratio"] = np.exp(arrays.pop("volume_parts") * grid["volume_step"]).astype(np.float32)
    arrays["members"] = arrays["members"].astype(np.int32)
    return arrays


def _conventional(groups: Array, metric: Floats) -> Floats:
    """(T, 3, 3) lower triangular conventional cells of primitive metrics (T, 6)."""
    full = metric[:, [0, 3, 4, 3, 1, 5, 4, 5, 2]].reshape(-1, 3, 3)
    change = np.linalg.inv(_primitive_cells(groups))
    return np.asarray(np.linalg.cholesky(change @ full @ change.transpose(0, 2, 1)))


def _primitive(groups: Array, cells: Floats) -> Floats:
    """(T, 6) metrics of the primitive cells of conventional ones, at the volume of 1 per atom that these have."""
    primitive = _primitive_cells(groups) @ cells
    full = primitive @ primitive.transpose(0, 2, 1)
    return np.asarray(full[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]])


def _primitive_cells(groups: Array) -> Floats:
    """(T, 3, 3) in units of the conventional cells."""
    found, place = np.unique(groups, return_inverse=True)
    return np.stack([primitive_cell(int(group)) for group in found])[place]


def _small(values: Array) -> Array:
    """In the smallest integer type that holds them; safetensors writes memory as it lies, so in C order."""
    whole = np.ascontiguousarray(values, dtype=np.int64)
    for kind in (np.uint8, np.int8, np.uint16, np.int16):
        if np.iinfo(kind).min <= whole.min() and whole.max() <= np.iinfo(kind).max:
            return whole.astype(kind)
    return whole.astype(np.int32)
