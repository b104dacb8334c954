"""Crystals that tests build themselves, and models too small to be good: for everything that needs some of either."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dao.crystal import Crystal
from dao.data.store import pack_crystals
from dao.elements import ATOMIC_NUMBERS
from dao.model_config import GeneratorConfig, PredictorConfig
from dao.models import Generator, Predictor
from dao.networks.config import CrysformerConfig
from dao.processes.config import ProcessConfig, SamplerSettings

CUBIC = np.eye(3)
FCC = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])

DISORDERED = """data_x
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_type_symbol
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na Na1 0 0 0 0.5
K K1 0 0 0 0.5
"""
"""A CIF with one site that sodium and potassium share."""

PROTOTYPES: dict[str, tuple[np.ndarray[Any, Any], str, list[list[float]]]] = {
    "rocksalt": (FCC, "AB", [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "zincblende": (FCC, "AB", [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "cscl": (CUBIC, "AB", [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "fluorite": (FCC, "ABB", [[0, 0, 0], [0.25, 0.25, 0.25], [0.75, 0.75, 0.75]]),
    "perovskite": (CUBIC, "ABXXX", [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
}
"""Cell in units of the conventional lattice constant, the place of each element, fractional coordinates."""

LARGE = {"Li": 0.8, "Na": 1.05, "K": 1.4, "Rb": 1.5, "Cs": 1.7, "Tl": 1.6, "Ca": 1.0, "Sr": 1.15, "Ba": 1.35}
SMALL = {"Ti": 0.6, "Zr": 0.7, "Hf": 0.7, "Al": 1.2, "Ga": 1.2, "In": 1.4, "P": 1.1, "As": 1.2, "Sb": 1.4}
RADII = LARGE | SMALL | {"F": 1.3, "Cl": 1.75, "Br": 1.9, "I": 2.15, "O": 1.4}
"""Roughly ionic or covalent, in A."""


def toy(kind: str, elements: Sequence[str], a: float, material_id: str | None = None) -> Crystal:
    """A primitive cell of that prototype with conventional lattice constant ``a`` (A)."""
    cell, places, coords = PROTOTYPES[kind]
    order = sorted(set(places), key=places.index)
    numbers = [ATOMIC_NUMBERS[elements[order.index(place)]] for place in places]
    return Crystal(numbers, coords, a * cell, material_id=material_id)


def toy_crystals() -> list[Crystal]:
    """Fifty crystals of 2, 3 and 5 atoms with plausible lattice constants, shuffled."""
    made: list[Crystal] = []

    def add(kind: str, elements: tuple[str, ...], a: float) -> None:
        made.append(toy(kind, elements, a, f"{kind}-{''.join(elements)}"))

    for m, x in product(("Li", "Na", "K", "Rb", "Cs"), ("F", "Cl", "Br", "I")):
        add("rocksalt", (m, x), 2.0 * (RADII[m] + RADII[x]))
    for m, x in product(("Al", "Ga", "In"), ("P", "As", "Sb")):
        add("zincblende", (m, x), 4.0 / 3**0.5 * (RADII[m] + RADII[x]))
    for m, x in product(("Cs", "Tl"), ("Cl", "Br", "I")):
        add("cscl", (m, x), 2.0 / 3**0.5 * (RADII[m] + RADII[x]))
    for m, x in product(("Ca", "Sr", "Ba"), ("F", "Cl")):
        add("fluorite", (m, x), 4.0 / 3**0.5 * (RADII[m] + RADII[x]))
    for m, b in product(("Ca", "Sr", "Ba"), ("Ti", "Zr", "Hf")):
        add("perovskite", (m, b, "O"), 2.0 * (RADII[b] + RADII["O"]))
    return [made[i] for i in np.random.default_rng(0).permutation(len(made))]


def toy_splits(crystals: Sequence[Crystal]) -> list[str]:
    """Of every ten rows, one is for validation and one for test."""
    return ["val" if i % 10 == 3 else "test" if i % 10 == 7 else "train" for i in range(len(crystals))]


def columns(crystals: Sequence[Crystal]) -> dict[str, list[Any]]:
    """The uniform columns of a Parquet file, and ``split``."""
    return {
        "material_id": [crystal.material_id or str(i) for i, crystal in enumerate(crystals)],
        "atomic_numbers": [crystal.atomic_numbers.astype(np.uint8) for crystal in crystals],
        "frac_coords": [crystal.frac_coords.astype(np.float32).ravel() for crystal in crystals],
        "lattice": [crystal.lattice.astype(np.float32).ravel() for crystal in crystals],
        "num_atoms": [np.int16(crystal.num_atoms) for crystal in crystals],
        "split": toy_splits(crystals),
    }


def write_parquet(path: Path, crystals: Sequence[Crystal], **replaced: list[Any]) -> None:
    """Write the uniform columns, some of them ``replaced``."""
    pq.write_table(pa.table(columns(crystals) | replaced), path)


def tiny_network(*, space_groups: bool = True) -> CrysformerConfig:
    return CrysformerConfig(
        width=16,
        blocks=2,
        heads=2,
        frequencies=4,
        time_features=8,
        gram="normalized",
        conditioning="scale_shift" if space_groups else "none",
        element_embedding=True,
        space_groups=space_groups,
    )


def tiny_generator(
    kind: Literal["flow", "diffusion"] = "flow",
    lattice: Literal["log_metric", "matrix"] = "log_metric",
    *,
    space_groups: bool = True,
    sampler: SamplerSettings | None = None,
    seed: int = 0,
) -> Generator:
    """An untrained generator whose scalers are fitted to the toy crystals."""
    torch.manual_seed(seed)
    config = GeneratorConfig(
        name="tiny",
        network=tiny_network(space_groups=space_groups),
        process=ProcessConfig(kind=kind, lattice=lattice, timesteps=20),
        sampler=sampler or SamplerSettings(steps=3),
        cells={"2": {"1": 40, "2": 2}},
    )
    model = Generator(config)
    packed = pack_crystals(toy_crystals())
    model.process.representation.fit(packed.lattice, packed.element_counts())
    with torch.no_grad():
        for parameter in model.parameters():
            # some layers start at zero, where much of the network would not be tested
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


def toy_energies(crystals: Sequence[Crystal]) -> list[float | None]:
    """A made-up energy above the hull (eV/atom) that can be learned, unknown for every fifth crystal."""
    return [
        None if i % 5 == 2 else 0.01 * crystal.num_atoms + 0.2 * (crystal.volume_per_atom / 40.0) ** 2
        for i, crystal in enumerate(crystals)
    ]


def tiny_predictor(
    kind: Literal["flow", "diffusion"] = "flow",
    lattice: Literal["log_metric", "matrix"] = "log_metric",
    *,
    beta: float = 1.0,
    seed: int = 0,
    errors: bool = False,
    auxiliary: str | None = None,
) -> Predictor:
    """An untrained predictor whose scalers are fitted to the toy crystals."""
    torch.manual_seed(seed)
    network = replace(tiny_network(space_groups=False), conditioning="scale_shift")
    process = ProcessConfig(kind=kind, lattice=lattice, timesteps=20)
    outputs: dict[str, Any] = {"errors": errors, "auxiliary": auxiliary}
    model = Predictor(PredictorConfig(name="tiny", network=network, process=process, beta=beta, **outputs))
    crystals = toy_crystals()
    packed = pack_crystals(crystals)
    model.process.representation.fit(packed.lattice, packed.element_counts())
    energies = [float("nan") if energy is None else energy for energy in toy_energies(crystals)]
    model.fit_energies(dict.fromkeys(("e_above_hull", *((auxiliary,) if auxiliary else ())), torch.tensor(energies)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


def tiny_predictor_recipe(**changes: Any) -> dict[str, Any]:
    """Likewise for a predictor, to be trained on a file with a column ``e_above_hull``."""
    tree = tiny_recipe()
    del tree["sampler"]
    tree |= {"task": "predictor", "network": tree["network"] | {"space_groups": False}}
    tree |= {"energy": {"clean_share": 0.5, "clean_weight": 1.0}}
    return _changed(tree, changes)


def tiny_recipe(**changes: Any) -> dict[str, Any]:
    """A recipe of seconds, as the tree that TOML or JSON would give; ``changes`` replace or extend its sections."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "crystals": 640,
        "batch_size": 16,
        "threads": 1,
        "data": {"file": "toys.parquet"},
        "network": json.loads(json.dumps(tiny_network().__dict__)),
        "process": {"kind": "flow", "assignment": "element"},
        "optimizer": {"warmup_steps": 5, "schedule": "cosine"},
        "sampler": {"steps": 3},
        "validation": {"crystals": 0},
        "record": {"log_steps": 1, "checkpoint_seconds": 3600},
    }
    return _changed(tree, changes)


def _changed(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    return tree


def write_toml(path: Path, tree: dict[str, Any]) -> Path:
    """Write a recipe tree of two levels as TOML."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    for key, section in tree.items():
        if isinstance(section, dict):
            lines += [f"\n[{key}]", *(f"{name} = {json.dumps(value)}" for name, value in section.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def listing(folders: Iterable[Path]) -> dict[str, bytes | None]:
    """Every file below the folders with its bytes, and every folder."""
    return {
        str(path): path.read_bytes() if path.is_file() else None for folder in folders for path in folder.rglob("*")
    }
