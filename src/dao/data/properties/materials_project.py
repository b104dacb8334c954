"""Three properties of the Materials Project, as MEGNet took them (Chen et al., Chemistry of Materials 31, 3564, 2019).

Band gap: ids, labels and the published split of 60,000 / 5,000 / 4,239 in ``mp_gap_ids.parquet``, structures joined by
id from ``mp_pool.parquet``; what has no structure there is left out, and counted.

Bulk and shear modulus: the published split of GATGNN and Matformer (4,664 / 393 / 393 and 4,664 / 392 / 393) comes as
three pickles, which run code when they are opened. Convert them to JSON where that does not matter, one list of records
``{"id", "atoms", "bulk modulus"}`` a split, and name them ``mp_bulk_train.json``, ``mp_bulk_val.json`` and
``mp_bulk_test.json`` (``mp_shear_...`` likewise); ``atoms`` as in jarvis-tools. Benchmarks count errors of decadic
logarithms of GPa.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from dao.crystal import Crystal
from dao.data.locate import training_file
from dao.data.properties.base import TEST, TRAIN, VALIDATION, Benchmark, PropertyData, labelled, split_fold
from dao.data.properties.jarvis import crystal_of_atoms, number_of, records_of
from dao.data.sources.failures import reading
from dao.data.store import read_packed
from dao.errors import InputError

POOL = "mp_pool.parquet"

_LARGEST_LOGARITHM = 4.0
"""No solid has 10^4 GPa: a file without a larger number holds logarithms."""


def _read_gap(benchmark: Benchmark, file: Path) -> PropertyData:
    with reading(str(file)):
        table = pq.read_table(file, columns=["material_id", "split", "band_gap"]).to_pydict()
    known = dict(zip(table["material_id"], zip(table["split"], table["band_gap"], strict=True), strict=True))
    pool = read_packed(training_file(POOL, file.parent.parent if (file.parent.parent / POOL).is_file() else None))
    rows = [row for row, name in enumerate(pool.ids) if name in known]
    if not rows:
        raise InputError(f"{file}: none of its {len(known)} ids is in {POOL}")
    crystals = pool.select(torch.tensor(rows))
    found = [known[name] for name in crystals.ids]
    crystals.labels[benchmark.label] = torch.tensor([gap for _, gap in found], dtype=torch.float32)
    splits = np.array([split for split, _ in found])
    asked = np.array(table["split"])
    joined = ", ".join(f"{(splits == name).sum():,} of {(asked == name).sum():,}" for name in (TRAIN, VALIDATION, TEST))
    note = f"structures joined by id for {len(rows):,} of {len(known):,} (train, validation, test: {joined})"
    return benchmark.data(crystals, [split_fold(splits, file)], file, [note])


def _read_moduli(benchmark: Benchmark, file: Path) -> PropertyData:
    column = {"mp_bulk": "bulk modulus", "mp_shear": "shear modulus"}[benchmark.name]
    crystals: list[Crystal] = []
    values: list[float] = []
    splits: list[str] = []
    for split in (TRAIN, VALIDATION, TEST):
        part = file.with_name(file.name.replace(TRAIN, split))
        for number, record in enumerate(records_of(part), start=1):
            name = str(record.get("id", f"{benchmark.name}-{split}-{number}"))
            value = number_of(record.get(column))
            if value is None:
                raise InputError(f"{part}: {name}: no number {column!r}")
            with reading(f"{part}: {name}", name):
                crystals.append(crystal_of_atoms(record["atoms"], name))
            values.append(value)
            splits.append(split)
    moduli = np.array(values)
    if moduli.max() > _LARGEST_LOGARITHM:
        if moduli.min() <= 0:
            raise InputError(f"{file}: a {column} of {moduli.min():g} GPa has no logarithm")
        moduli = np.log10(moduli)
    fold = split_fold(np.array(splits), file)
    return benchmark.data(labelled(crystals, moduli.tolist(), benchmark.label), [fold], file)


_MODULI = "figshare project 165430 of Matformer's authors, its pickles converted to JSON"

BENCHMARKS = (
    Benchmark(
        name="mp_gap",
        label="band_gap",
        title="band gap, PBE",
        unit="eV",
        files=("mp_gap_ids.parquet",),
        source="the MEGNet snapshot of 1 June 2018, split as MEGNet, ALIGNN and Matformer do",
        read=_read_gap,
    ),
    Benchmark(
        name="mp_bulk",
        label="log10_bulk_modulus",
        title="decadic logarithm of the bulk modulus in GPa",
        unit="log10(GPa)",
        files=("mp_bulk_train.json", "mp_bulk_train.json.gz"),
        source=_MODULI,
        read=_read_moduli,
    ),
    Benchmark(
        name="mp_shear",
        label="log10_shear_modulus",
        title="decadic logarithm of the shear modulus in GPa",
        unit="log10(GPa)",
        files=("mp_shear_train.json", "mp_shear_train.json.gz"),
        source=_MODULI,
        read=_read_moduli,
    ),
)
