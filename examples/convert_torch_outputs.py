"""Turn what CDVAE, DiffCSP, EquiCSP, CrystalFlow or FlowMM saved by torch.save into JSON lines for dao evaluate csp.

    python convert_torch_outputs.py eval_diff.pt predictions.jsonl --ids mp_20/test.csv
    dao evaluate csp --predictions predictions.jsonl --reference mp_20/test.csv

It needs torch >= 2.6 and no other package, so any recent environment will do; DAO itself never opens a pickle. Nothing
in the file is executed: ``weights_only=True`` admits tensors and plain containers, and whatever else the tool saved
beside them (its arguments, PyTorch Geometric batches) becomes an empty placeholder instead of being imported.

The file holds a dictionary with these tensors, for K samples of M crystals with A atoms in all: ``frac_coords``
(K, A, 3), ``atom_types`` (K, A) atomic numbers, ``num_atoms`` (K, M), and ``lengths`` (K, M, 3) in A with ``angles``
(K, M, 3) in degrees, or ``lattices`` (K, M, 3, 3), row vectors in A. K may be left out, or be a list (FlowMM, whose
``batch_indices`` give back the order of the test set). Lines are written crystal by crystal, its K samples together.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Placeholder:
    """Stands for any object of a class that is not needed here and is therefore never imported."""

    def __init__(self, *_: Any) -> None:
        """Accept whatever the object was made from."""

    def __call__(self, *_: Any) -> Placeholder:
        return Placeholder()

    def __setstate__(self, _: Any) -> None:
        """Forget the object's state."""

    def __eq__(self, other: object) -> bool:
        # torch calls only what equals an admitted class; PyTorch Geometric's batches are made by calling an instance
        return other is Placeholder

    __hash__ = object.__hash__


def plain_dict(*_: Any) -> dict[Any, Any]:
    """Make an empty dictionary in place of a ``defaultdict``, whose items torch would refuse to set."""
    return {}


def load(path: Path) -> dict[str, Any]:
    """Load the saved dictionary, running none of the file's code."""
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    stand_ins: list[Any] = [
        (plain_dict if name == "collections.defaultdict" else Placeholder, name) for name in unknown
    ]
    with torch.serialization.safe_globals(stand_ins):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise SystemExit(f"{path}: holds no dictionary; of FlowMM, convert what its `consolidate` writes")
    missing = {"frac_coords", "atom_types", "num_atoms"} - content.keys()
    if missing or not ({"lengths", "angles"} <= content.keys() or "lattices" in content):
        raise SystemExit(f"{path}: not the output of a known tool; it holds {', '.join(map(str, content))}")
    return content


def samples(value: Any, dimensions: int) -> list[Tensor]:
    """One tensor of that many dimensions for each of the K samples."""
    tensors = list(value) if isinstance(value, list) or value.dim() > dimensions else [value]
    if any(tensor.dim() != dimensions for tensor in tensors):
        raise SystemExit("a tensor has not the expected number of dimensions")
    return tensors


def cell(lengths: list[float], angles: list[float]) -> list[list[float]]:
    """Row vectors of the cell, a along x and b in the xy plane; not a number for angles that close no cell."""
    a, b, c = lengths
    cos_alpha, cos_beta, cos_gamma = (math.cos(math.radians(angle)) for angle in angles)
    sin_gamma = math.sin(math.radians(angles[2]))
    y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma if sin_gamma else math.nan
    square = 1.0 - cos_beta**2 - y**2
    z = math.sqrt(square) if square > 0.0 else math.nan
    return [[a, 0.0, 0.0], [b * cos_gamma, b * sin_gamma, 0.0], [c * cos_beta, c * y, c * z]]


def one_sample(content: dict[str, Any], k: int) -> list[dict[str, Any]]:
    """The M crystals of sample k, in the order of the test set."""
    coords, types, counts = (
        samples(content[key], dimensions)[k]
        for key, dimensions in (("frac_coords", 2), ("atom_types", 1), ("num_atoms", 1))
    )
    sizes = counts.tolist()
    if not sum(sizes) == len(coords) == len(types):
        raise SystemExit(f"sample {k}: {len(coords)} coordinates and {len(types)} types for {sum(sizes)} atoms")
    # lengths and angles first: they cannot be transposed, and they are what these tools score themselves
    if {"lengths", "angles"} <= content.keys():
        lengths, angles = (samples(content[key], 2)[k].double().tolist() for key in ("lengths", "angles"))
        lattices = [cell(*parameters) for parameters in zip(lengths, angles, strict=True)]
    else:
        lattices = samples(content["lattices"], 3)[k].double().tolist()
    crystals = []
    for lattice, xyz, numbers in zip(lattices, coords.double().split(sizes), types.split(sizes), strict=True):
        finite = bool(torch.isfinite(xyz).all()) and all(math.isfinite(value) for row in lattice for value in row)
        structure = {"atomic_numbers": numbers.tolist(), "frac_coords": xyz.tolist(), "lattice": lattice}
        crystals.append(structure if finite else {"failure": "a coordinate or the cell is not finite"})
    if "batch_indices" not in content:
        return crystals
    # several GPUs: each crystal says where it belongs, and some are there twice to fill the last batch
    indices = samples(content["batch_indices"], 1)[k].tolist()
    placed = dict(zip(reversed(indices), reversed(crystals), strict=True))
    return [placed.get(row, {"failure": "not in the file"}) for row in range(max(indices) + 1)]


def records(content: dict[str, Any], ids: list[str] | None) -> Iterator[dict[str, Any]]:
    """One line for each sample of each crystal."""
    tables = [one_sample(content, k) for k in range(len(samples(content["num_atoms"], 1)))]
    if ids is not None and any(len(table) != len(ids) for table in tables):
        raise SystemExit(f"{len(ids)} ids for {len(tables[0])} crystals: is this the file that was predicted?")
    for row, crystals in enumerate(zip(*tables, strict=True)):
        for k, crystal in enumerate(crystals):
            yield {**({} if ids is None else {"material_id": ids[row]}), "target": row, "sample": k, **crystal}


def read_ids(path: Path) -> list[str]:
    """Column ``material_id`` of the CSV that was predicted."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return [row["material_id"] for row in csv.DictReader(stream)]


def main() -> None:
    """Read the arguments and convert."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("saved", type=Path, help="eval_diff.pt, eval_recon.pt, consolidated_reconstruct.pt, ...")
    parser.add_argument("out", type=Path, help="predictions.jsonl")
    parser.add_argument(
        "--ids", type=Path, help="the CSV that was predicted, with a column material_id in the same order"
    )
    arguments = parser.parse_args()
    lines = records(load(arguments.saved), None if arguments.ids is None else read_ids(arguments.ids))
    number = 0
    with arguments.out.open("w", encoding="utf-8") as stream:
        for number, record in enumerate(lines, start=1):  # noqa: B007 - told below
            stream.write(json.dumps(record) + "\n")
    print(f"{number} structures in {arguments.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
