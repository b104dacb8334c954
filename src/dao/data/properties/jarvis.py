"""JARVIS-DFT (Choudhary et al., npj Computational Materials 6, 173, 2020): records as jarvis-tools downloads them.

A file is a list of records, each with ``jid``, ``atoms`` (``lattice_mat``: three row vectors in A, ``coords``,
``elements``, ``cartesian``) and numbers or ``"na"``. The split is the one that ALIGNN made and Matformer and the paper
follow: of the records that have the target, in the order of the file, shuffled by Python's own generator with seed 123,
80 % train, then 10 % validation, and the last 10 % test.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dao.crystal import Crystal
from dao.data.properties.base import Benchmark, Fold, PropertyData, labelled, read_json_file
from dao.data.sources.failures import reading
from dao.elements import ATOMIC_NUMBERS
from dao.errors import InputError
from dao.geometry.cells import reduced

SPLIT_SEED = 123
HELD_OUT = 0.1
"""Share of validation, and of test."""

_COLUMNS = {"jarvis_ehull": "ehull", "jarvis_mbj_gap": "mbj_bandgap"}


def crystal_of_atoms(atoms: dict[str, Any], name: str) -> Crystal:
    """The crystal, in a primitive Niggli cell, of what jarvis-tools calls atoms; malformed ones raise whatever they do.

    Raises:
        InputError: an unknown element.

    """
    lattice: npt.NDArray[np.float64] = np.array(atoms["lattice_mat"], dtype=np.float64)
    coords: npt.NDArray[np.float64] = np.array(atoms["coords"], dtype=np.float64).reshape(-1, 3)
    if atoms.get("cartesian"):
        coords = np.linalg.solve(lattice.T, coords.T).T.astype(np.float64)
    symbols = [str(symbol).strip() for symbol in atoms["elements"]]
    unknown = next((symbol for symbol in symbols if symbol not in ATOMIC_NUMBERS), None)
    if unknown is not None:
        raise InputError(f"{unknown!r} is no element up to Pu")
    return reduced(Crystal([ATOMIC_NUMBERS[symbol] for symbol in symbols], coords, lattice, material_id=name))


def number_of(value: Any) -> float | None:  # noqa: ANN401 - JSON is anything
    """A target; None where there is none (``"na"``, null, nan)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return None
    return float(value)


def alignn_fold(count: int) -> Fold:
    """The split of ``count`` records."""
    order = list(range(count))
    random.Random(SPLIT_SEED).shuffle(order)  # noqa: S311 - the published split
    held_out = int(HELD_OUT * count)
    train = int((1 - 2 * HELD_OUT) * count)
    validation, test = order[count - 2 * held_out : count - held_out], order[count - held_out :]
    parts = [torch.tensor(sorted(rows), dtype=torch.long) for rows in (order[:train], validation, test)]
    return Fold("0", parts[0], parts[1], parts[2])


def _read(benchmark: Benchmark, file: Path) -> PropertyData:
    records = records_of(file)
    column = _COLUMNS[benchmark.name]
    known = [(record, value) for record in records if (value := number_of(record.get(column))) is not None]
    if len(known) < 1 / HELD_OUT:
        raise InputError(f"{file}: {len(known)} records have a number {column!r}")
    crystals = [_crystal(record, file) for record, _ in known]
    fold = alignn_fold(len(known))
    return benchmark.data(labelled(crystals, [value for _, value in known], benchmark.label), [fold], file)


def records_of(file: Path) -> Sequence[dict[str, Any]]:
    """The records of a file of jarvis-tools.

    Raises:
        InputError: unreadable, or no list of records.

    """
    records = read_json_file(file)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InputError(f"{file}: no list of records, as jarvis-tools downloads them")
    return records


def _crystal(record: dict[str, Any], file: Path) -> Crystal:
    name = str(record.get("jid"))
    with reading(f"{file}: {name}", name):
        return crystal_of_atoms(record["atoms"], name)


_FILES = ("jdft_3d-8-18-2021.json.zip", "jdft_3d-8-18-2021.json", "dft_3d_2021.json.zip", "dft_3d_2021.json")
_SOURCE = "jarvis-tools, data('dft_3d_2021'), the version that Matformer uses"

BENCHMARKS = (
    Benchmark(
        name="jarvis_ehull",
        label="e_above_hull_optb88vdw",
        title="energy above the convex hull, OptB88vdW",
        unit="eV/atom",
        files=_FILES,
        source=_SOURCE,
        read=_read,
    ),
    Benchmark(
        name="jarvis_mbj_gap",
        label="band_gap_mbj",
        title="band gap, modified Becke-Johnson potential",
        unit="eV",
        files=_FILES,
        source=_SOURCE,
        read=_read,
    ),
)
