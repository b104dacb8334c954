"""Structures for superconductors that have none (SC-ns), by a generator, and training sets that are extended by them.

Generated crystals carry the fingerprint of the generator in a column ``generated``, without which a file is refused
here, so that they are never taken for measured ones. They are trained on alone: a fold leaves out those of its test
crystals' compositions, and where chemical systems are kept together, those of their chemical systems. Those of its
validation crystals stay: they may make the error on validation look smaller than it is, and touch no test crystal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from dao.crystal import Crystal
from dao.data.properties.base import Fold, PropertyData
from dao.data.properties.superconductors import FAMILY, FORMULA, GROUPED, TEMPERATURE, label_temperatures
from dao.data.shards import write_table
from dao.data.sources import read_crystals
from dao.data.store import PackedCrystals, column_names, read_packed
from dao.data.uniform import table_with_labels
from dao.errors import InputError
from dao.prediction.composition import parse_cells, prototype_cells
from dao.prediction.files import write_text
from dao.prediction.folders import predict_to_folder
from dao.prediction.judging import Judging
from dao.prediction.pipeline import load_generator
from dao.prediction.sources import Sources, choose_sources
from dao.superconductors.dataset import Unstructured, compositions_of, rows_not_in, systems_of
from dao.weights import largest_trained_cell

GENERATED, MODE = "generated", "mode"
"""Columns: fingerprint of the generator, and how a structure was chosen."""

STRUCTURES, SUMMARY = "generated.parquet", "generated.json"

Mode = Literal["one-shot", "ranked"]
"""The only sample of the generator, as in the paper; or the first of the whole pipeline's ranked candidates."""

SAMPLES = 20
"""Of the generator, for each composition that is ranked."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How structures are generated.

    Attributes:
        weights: the generator: shipped name, folder or Hub id.
        mode: see :data:`Mode`.
        samples: with mode "ranked".
        seed: of the samples.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    """

    weights: Path | str
    mode: Mode = "one-shot"
    samples: int = SAMPLES
    seed: int = 0
    device: str = "auto"

    def sources(self) -> Sources:
        """What proposes."""
        return Sources() if self.mode == "one-shot" else choose_sources(None)


def generate_structures(
    others: Sequence[Unstructured],
    how: Generation,
    *,
    out: Path,
    progress: bool = True,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write one structure a superconductor to ``generated.parquet``, and return counts (also in ``generated.json``).

    Predictions stay in ``out``/predictions, formula by formula: a run that was broken goes on.

    Args:
        others: superconductors without structures.
        how: by what.
        out: the folder, which does not belong into a repository.
        progress: show a progress bar on stderr.
        note: told what is left out.

    Raises:
        InputError: no such weights, a folder that cannot be written, or one with samples made otherwise.

    """
    generator = load_generator(how.weights, how.device)
    trained = largest_trained_cell(how.weights)
    fitting = [one for one in others if trained is None or one.composition.num_atoms <= trained]
    large = [one.formula for one in others if one not in fitting]
    if large and note is not None:
        note(
            f"{len(large)} formulas of more than {trained} atoms, which the generator was not trained on, are left out"
        )
    if not fitting:
        raise InputError("no superconductor is small enough for this generator")
    targets = {one.composition: parse_cells("auto", one.composition, trained=trained) for one in fitting}
    predictions = out / "predictions"
    predict_to_folder(
        targets,
        out=predictions,
        weights=generator,
        samples=1 if how.mode == "one-shot" else how.samples,
        walks=1 if how.mode == "one-shot" else None,
        seed=how.seed,
        device=how.device,
        judging=Judging(rank="recurrence") if how.mode == "one-shot" else Judging(generator=generator),
        sources=how.sources(),
        prototype_units={one: prototype_cells("auto", one) for one in targets},
        formats=("extxyz",),
        progress=progress,
    )
    crystals = [
        found
        for one in fitting
        if (found := _first(predictions, one, {GENERATED: generator.fingerprint, MODE: how.mode})) is not None
    ]
    if not crystals:
        raise InputError(f"{out}: not one structure was generated")
    write_table(table_with_labels(crystals), out / STRUCTURES)
    have = {str(one.info[FORMULA]) for one in crystals}
    summary = {
        "generator": generator.config.name,
        GENERATED: generator.fingerprint,
        MODE: how.mode,
        "seed": how.seed,
        "asked": len(others),
        "structures": len(crystals),
        "too_large": large,
        "failed": [one.formula for one in fitting if one.formula not in have],
        "sources": {
            name: sum(one.info["source"] == name for one in crystals) for name in ("generator", "prototype", "both")
        },
    }
    write_text(out / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return summary


def _first(predictions: Path, one: Unstructured, marks: dict[str, str]) -> Crystal | None:
    """The first candidate of a composition, with what is known of the superconductor; None where there is none."""
    file = predictions / one.composition.reduced_formula / "candidates.extxyz"
    if not file.is_file() or not file.stat().st_size:
        return None
    crystal = next(read_crystals(file))
    info = {
        FORMULA: one.formula,
        FAMILY: one.family,
        TEMPERATURE: one.temperature,
        "source": str(crystal.info["source"]),
        "space_group": int(crystal.info["space_group_number"]),
        **marks,
    }
    name = f"generated-{one.composition.reduced_formula}"
    return Crystal(crystal.atomic_numbers, crystal.frac_coords, crystal.lattice, name, info)


def read_generated(file: Path) -> PackedCrystals:
    """Generated superconductors with their label.

    Raises:
        InputError: missing or malformed, or crystals that are not marked as generated, all by one generator.

    """
    if GENERATED not in column_names(file):
        raise InputError(f"{file}: no column {GENERATED!r}: crystals that are added to a training set must be marked")
    packed = read_packed(file, columns=(TEMPERATURE, FORMULA, GENERATED, MODE))
    makers = set(zip(packed.columns[GENERATED].tolist(), packed.columns[MODE].tolist(), strict=True))
    if len(makers) != 1 or not all(next(iter(makers))):
        raise InputError(f"{file}: crystals that are not marked as generated, or by more than one generator")
    label_temperatures(packed, file)
    return packed


def augmented(data: PropertyData, file: Path) -> PropertyData:
    """The same crystals and folds, with generated ones in the training sets.

    Raises:
        InputError: as :func:`read_generated`.

    """
    extra = read_generated(file)
    of_crystals: Callable[[PackedCrystals], Sequence[Any]] = systems_of if data.name == GROUPED else compositions_of
    keys, own = of_crystals(extra), of_crystals(data.crystals)

    def extended(fold: Fold) -> Fold:
        forbidden = [own[row] for row in fold.test.tolist()]
        return replace(fold, extra=torch.tensor(rows_not_in(keys, forbidden), dtype=torch.long))

    maker, mode = (str(extra.columns[name][0]) for name in (GENERATED, MODE))
    note = f"training sets extended by up to {len(extra)} generated structures ({mode}, generator {maker})"
    return replace(data, extra=extra, folds=tuple(map(extended, data.folds)), notes=(*data.notes, note))
