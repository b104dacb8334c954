"""Matbench v0.1 (Dunn et al., npj Computational Materials 6, 138, 2020): four tasks, with the published five folds.

A task's data is the official ``matbench_TASK.json.gz`` (a pandas table as JSON: ``columns``, ``index``, ``data``), or a
Parquet file of the uniform layout with the official ids (``mb-phonons-0001``). The folds come from the fold file of the
package ``matbench`` (``matbench_folds.json`` says which, with its hash) and are never drawn anew. They name no
validation crystals: some of each training fold serve.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from dao.crystal import Crystal
from dao.data.properties.base import Benchmark, Fold, PropertyData, labelled, read_json_file
from dao.data.sources.failures import reading
from dao.data.sources.structures_json import crystal_of_record
from dao.data.store import PackedCrystals, read_packed
from dao.errors import InputError
from dao.geometry.cells import reduced

FOLDS = 5

_COLUMNS = {
    "matbench_jdft2d": "exfoliation_en",
    "matbench_phonons": "last phdos peak",
    "matbench_dielectric": "n",
    "matbench_log_kvrh": "log10(K_VRH)",
}
"""Of the target in the official files."""


@cache
def _published() -> dict[str, str]:
    text = (files(__name__.rpartition(".")[0]) / "matbench_folds.json").read_text(encoding="utf-8")
    folds: dict[str, str] = json.loads(text)["folds"]
    return folds


def published_test_folds(task: str) -> list[int]:
    """The fold whose test set holds each crystal, in the order of the official data."""
    return [int(digit) for digit in _published()[task]]


def _read(benchmark: Benchmark, file: Path) -> PropertyData:
    held_out = np.array(published_test_folds(benchmark.name))
    if file.suffix == ".parquet":
        crystals = read_packed(file, columns=(benchmark.label,))
        crystals.labels[benchmark.label] = torch.from_numpy(crystals.columns[benchmark.label].astype(np.float32))
        places = np.array([_place(name, file) for name in crystals.ids])
    else:
        crystals = _official(benchmark, file)
        places = np.arange(len(crystals))
    if sorted(places) != list(range(len(held_out))):
        raise InputError(f"{file}: {len(places)} crystals, and the published folds are of {len(held_out)} in order")
    fold_of = held_out[places]
    folds = [
        Fold(
            str(i), torch.from_numpy(np.flatnonzero(fold_of != i)), None, torch.from_numpy(np.flatnonzero(fold_of == i))
        )
        for i in range(FOLDS)
    ]
    return benchmark.data(crystals, folds, file)


def _place(name: str, file: Path) -> int:
    """Of ``mb-phonons-0001``: 0."""
    number = name.rpartition("-")[2]
    if not number.isdigit():
        raise InputError(f"{file}: {name}: no id of Matbench, such as mb-phonons-0001")
    return int(number) - 1


def _official(benchmark: Benchmark, file: Path) -> PackedCrystals:
    table = read_json_file(file)
    column = _COLUMNS[benchmark.name]
    with reading(str(file)):
        structure, target = (table["columns"].index(name) for name in ("structure", column))
        rows = table["data"]
    crystals: list[Crystal] = []
    values: list[float] = []
    width = len(str(len(rows)))
    for number, row in enumerate(rows, start=1):
        name = f"{benchmark.name.replace('matbench', 'mb').replace('_', '-')}-{number:0{width}d}"
        with reading(f"{file}, row {number}", name):
            crystals.append(reduced(crystal_of_record(row[structure], name)))
            values.append(float(row[target]))
    return labelled(crystals, values, benchmark.label)


def _task(name: str, label: str, title: str, unit: str) -> Benchmark:
    return Benchmark(
        name=name,
        label=label,
        title=title,
        unit=unit,
        files=(f"{name}.json.gz", f"{name}.json", f"{name}.parquet"),
        source=f"Matbench v0.1, {name}.json.gz of the Materials Project's machine learning data",
        read=_read,
    )


BENCHMARKS = (
    _task("matbench_phonons", "last_phdos_peak", "highest peak of the phonon density of states", "1/cm"),
    _task("matbench_jdft2d", "exfoliation_energy", "exfoliation energy of a layered crystal", "meV/atom"),
    _task("matbench_dielectric", "refractive_index", "refractive index", ""),
    _task("matbench_log_kvrh", "log10_bulk_modulus", "decadic logarithm of the bulk modulus in GPa", "log10(GPa)"),
)
