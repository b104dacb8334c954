"""Match rate or energy error on a fixed subset of the validation split, by which the best weights are kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dao.crystal import Crystal
from dao.data.training_set import load_packed
from dao.errors import InputError
from dao.evaluation.matching import rms_distances
from dao.models import Generator, Predictor
from dao.sampling import SampleRequest, sample

if TYPE_CHECKING:
    from dao.data.store import PackedCrystals
    from dao.processes.config import SamplerSettings
    from dao.recipes.schema import DataRecipe, ValidationRecipe


@dataclass(frozen=True)
class ValidationResult:
    """Unfiltered match rate at the first try (share of crystals) and RMS distance over the matches (dimensionless)."""

    match_rate: float
    rmse: float

    def figures(self) -> dict[str, float]:
        """By name, for the log."""
        return {"match_rate": self.match_rate, "rmse": self.rmse}


@cache
def validation_crystals(path: Path, split: str, max_atoms: int, count: int, seed: int) -> tuple[Crystal, ...]:
    """The fixed random subset of a split (all of it where it has no more than ``count``).

    Raises:
        InputError: the source cannot be read, or has no such split.

    """
    packed = load_packed(path, split=split, max_atoms=max_atoms)
    chosen = torch.randperm(len(packed), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return tuple(packed.crystal(int(i)) for i in chosen)


def fixed_subset(path: Path, data: DataRecipe, recipe: ValidationRecipe) -> tuple[Crystal, ...]:
    """The crystals that a recipe validates on.

    Raises:
        InputError: there are none; says how to train without.

    """
    try:
        return validation_crystals(path, data.validation_split, data.max_atoms, recipe.crystals, recipe.seed)
    except InputError as error:
        raise InputError(f"nothing to validate on (--set validation.crystals=0 trains without): {error}") from None


def validate(
    model: Generator,
    path: Path,
    data: DataRecipe,
    recipe: ValidationRecipe,
    settings: SamplerSettings | None = None,
) -> ValidationResult:
    """One sample for each crystal of the fixed subset, matched against the truth."""
    crystals = fixed_subset(path, data, recipe)
    return match_first(model, crystals, seed=recipe.seed, settings=settings)


def match_first(
    model: Generator, crystals: tuple[Crystal, ...], *, seed: int, settings: SamplerSettings | None = None
) -> ValidationResult:
    """Match rate and RMSE of one sample a crystal, its first: crystals of one composition differ in noise alone."""
    seen: dict[tuple[int, ...], int] = {}
    truth: dict[SampleRequest, Crystal] = {}
    for crystal in crystals:
        numbers = tuple(sorted(crystal.atomic_numbers.tolist()))
        seen[numbers] = seen.get(numbers, -1) + 1
        truth[SampleRequest(numbers, replica=seen[numbers])] = crystal
    pairs = [
        (one.crystal, truth[one.request])
        for batch in sample(model, list(truth), seed=seed, settings=settings)
        for one in batch
    ]
    distances = [distance for distance in rms_distances(pairs) if distance is not None]
    return ValidationResult(
        match_rate=len(distances) / len(crystals),
        rmse=sum(distances) / len(distances) if distances else float("nan"),
    )


ENERGY_BATCH = 256


@cache
def labelled_crystals(path: Path, split: str, max_atoms: int, label: str, count: int, seed: int) -> PackedCrystals:
    """The fixed random subset of the labelled crystals of a split (all of them where there are no more).

    Raises:
        InputError: the source cannot be read, or has no such split, or no labels.

    """
    packed = load_packed(path, split=split, max_atoms=max_atoms, labels=(label,))
    known = packed.labels[label].isfinite().nonzero()[:, 0]
    if len(known) == 0:
        raise InputError(f"{path} has no crystal with a label {label!r}")
    chosen = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return packed.select(known[chosen])


def fixed_labelled_subset(path: Path, data: DataRecipe, recipe: ValidationRecipe, label: str) -> PackedCrystals:
    """The crystals that a predictor's recipe validates on.

    Raises:
        InputError: there are none; says how to train without.

    """
    try:
        return labelled_crystals(path, data.validation_split, data.max_atoms, label, recipe.crystals, recipe.seed)
    except InputError as error:
        raise InputError(f"nothing to validate on (--set validation.crystals=0 trains without): {error}") from None


@torch.no_grad()
def energy_errors(model: Predictor, crystals: PackedCrystals) -> dict[str, float]:
    """Errors of the energies of clean crystals against their labels, eV/atom: mean absolute, root mean square, mean.

    Batches are of like sizes, so that little is padded; the order changes no energy beyond rounding.
    """
    labels = crystals.labels[model.config.label]
    energies = torch.empty(len(crystals), dtype=torch.float64)
    for rows in crystals.num_atoms.argsort(stable=True).split(ENERGY_BATCH):
        batch = crystals.batch(rows).to(model.energy_mean.device)
        energies[rows] = model.energy(batch).double().cpu()
    errors = energies - labels.double()
    return {
        "mae": float(errors.abs().mean()),
        "rmse": float(errors.square().mean().sqrt()),
        "bias": float(errors.mean()),
    }
