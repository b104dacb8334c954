"""Which half of a generated structure is wrong: true coordinates in the generated cell, and generated in the true one.

    python benchmarks/diagnosis.py small --count 1000

One sample for each of ``count`` fixed MP-20 validation crystals (the choice of ``dao train``'s validation),
unfiltered match rates by number of atoms (DESIGN 4.5). Cells are those that the generator was trained on: Niggli
cells as they stand in the data, or the standard settings of space groups, for a symmetric process. For that,
``--true-symmetry`` gives each sample the true space group and Wyckoff positions instead of the predicted ones, so
that what is left is geometry alone; for other generators it gives the space group.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dao.crystal import Crystal
from dao.data.labels import LABEL_SYMPREC
from dao.data.locate import training_file
from dao.errors import InputError
from dao.evaluation.matching import rms_distances
from dao.evaluation.tables import table
from dao.geometry.cells import space_group
from dao.geometry.symmetrized import symmetrized
from dao.models import Generator
from dao.prediction.walk_choice import with_chooser
from dao.sampling import SampleRequest, sample
from dao.training.validation import validation_crystals

SIZES = ((1, 20), (1, 4), (5, 8), (9, 12), (13, 16), (17, 20))


def truths(crystals: tuple[Crystal, ...], model: Generator, *, known: bool) -> Iterator[tuple[SampleRequest, Crystal]]:
    """What to sample, and the truth in the cell that the generator would describe it by."""
    for replica, crystal in enumerate(crystals):
        group, orbits, truth = None, None, crystal
        if model.symmetry_table is not None:
            try:
                described = symmetrized(crystal, LABEL_SYMPREC)
            except InputError:
                continue
            truth, orbits, group = described.crystal(), described.orbits, described.space_group
        elif known:
            group = space_group(crystal, LABEL_SYMPREC)[0]
        order = np.argsort(truth.atomic_numbers, kind="stable")
        truth = Crystal(truth.atomic_numbers[order], truth.frac_coords[order], truth.lattice)
        numbers = tuple(truth.atomic_numbers.tolist())
        if known:
            yield SampleRequest(numbers, space_group=group, orbits=orbits, replica=replica), truth
        else:
            yield SampleRequest(numbers, replica=replica), truth


def main() -> None:
    """Sample, exchange halves, match, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--walks", type=int, default=1, help="of each sample, the likeliest of which is kept")
    parser.add_argument("--true-symmetry", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(arguments.weights)
    model = Generator.load(folder if folder.is_dir() else arguments.weights)
    crystals = validation_crystals(training_file("mp20.parquet", None), "val", 20, 1000, 0)[: arguments.count]
    wanted = dict(truths(crystals, model, known=arguments.true_symmetry))
    settings = model.config.sampler.updated(steps=arguments.steps, walks=arguments.walks, precision="bfloat16")
    settings, choose = with_chooser(settings, "cpu")
    samples = [one for batch in sample(model, list(wanted), settings=settings, choose=choose) for one in batch]
    made, true = [one.crystal for one in samples], [wanted[one.request] for one in samples]
    halves = {
        "as generated": made,
        "true coordinates, generated cell": [
            None if one is None else Crystal(truth.atomic_numbers, truth.frac_coords, one.lattice)
            for one, truth in zip(made, true, strict=True)
        ],
        "generated coordinates, true cell": [
            None if one is None else Crystal(one.atomic_numbers, one.frac_coords, truth.lattice)
            for one, truth in zip(made, true, strict=True)
        ],
    }
    atoms = np.array([truth.num_atoms for truth in true])
    rows = []
    for name, built in halves.items():
        right = np.array([distance is not None for distance in rms_distances(list(zip(built, true, strict=True)))])
        rates = [f"{100 * right[(atoms >= low) & (atoms <= high)].mean():.1f}" for low, high in SIZES]
        rows.append((name, *rates))
    header = ("match rate (%)", *(f"{low}-{high} ({((atoms >= low) & (atoms <= high)).sum()})" for low, high in SIZES))
    print(table(header, rows))


if __name__ == "__main__":
    main()
