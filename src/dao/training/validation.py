"""Match rate on a fixed subset of the validation split, by which the best weights are kept."""

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
from dao.models import Generator
from dao.sampling import SampleRequest, sample

if TYPE_CHECKING:
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
