"""Five properties of AFLOW's elastic and Debye-Grüneisen workflow (Toher et al., Physical Review B 90, 174107, 2014).

One Parquet file of the uniform layout with a column a property and one that splits it, as published.
"""

from __future__ import annotations

from pathlib import Path

import torch

from dao.data.properties.base import Benchmark, PropertyData, split_fold
from dao.data.store import read_packed
from dao.model_config import Scale

FILE = "aflow.parquet"

_EXPANSION = "thermal_expansion"
_PER_MICRO = 1e6
"""Expansions are given in 1/K, and told here in 1e-6/K."""


def _read(benchmark: Benchmark, file: Path) -> PropertyData:
    split = f"split_{benchmark.label}"
    packed = read_packed(file, columns=(benchmark.label, split))
    values = torch.from_numpy(packed.columns[benchmark.label].astype("float32"))
    packed.labels[benchmark.label] = values * _PER_MICRO if benchmark.label == _EXPANSION else values
    crystals = packed.select(values.isfinite().nonzero()[:, 0])
    return benchmark.data(crystals, [split_fold(crystals.columns[split].astype(str), file)], file)


def _property(label: str, title: str, unit: str, scale: Scale = "linear") -> Benchmark:
    return Benchmark(
        name=f"aflow_{label}",
        label=label,
        title=title,
        unit=unit,
        scale=scale,
        files=(FILE,),
        source="AFLOW's AEL and AGL, in the uniform layout",
        read=_read,
    )


BENCHMARKS = (
    _property("bulk_modulus", "bulk modulus", "GPa"),
    _property("shear_modulus", "shear modulus", "GPa"),
    _property("debye_temperature", "Debye temperature", "K"),
    # from 0.01 to 205
    _property("thermal_conductivity", "lattice thermal conductivity at 300 K", "W/(m K)", "log10"),
    _property(_EXPANSION, "thermal expansion at 300 K", "1e-6/K"),
)
