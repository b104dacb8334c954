"""What the training of a generator and of a predictor do differently; the loop (:mod:`dao.training.fit`) is one.

Shapes: none of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from dao.crystal import CrystalBatch
from dao.data.labels import cell_frequencies, space_group_labels
from dao.data.store import PackedCrystals, joined
from dao.data.symmetrized import subgroup_sets, symmetrized_set, with_freed
from dao.errors import InputError
from dao.model_config import GeneratorConfig, PredictorConfig
from dao.models import CrystalModel, Generator, Predictor
from dao.processes.base import NoiseSource
from dao.recipes.schema import PredictorRecipe, Recipe
from dao.symmetry_weights import load_symmetry
from dao.training.initial import fit_scalers, give_symmetry, load_initial_weights, trust_limits
from dao.training.objectives import Objective, generator_objective, predictor_objective
from dao.training.validation import energy_errors, fixed_labelled_subset, fixed_subset, validate

SYMMETRIZED = "symmetrized.safetensors"

M = TypeVar("M", bound=CrystalModel)


class Task(ABC, Generic[M]):
    """One kind of model and how it is trained: data, model, loss and validation."""

    metric: str
    """Validation figure by which the best weights are kept."""
    lower_is_better: bool

    @abstractmethod
    def check(self) -> None:
        """Read now what would fail hours later.

        Raises:
            InputError: there is nothing to validate on.

        """

    @abstractmethod
    def prepare(self, training_set: PackedCrystals, out: Path, tell: Callable[[str], None]) -> PackedCrystals:
        """The training set with the labels that the loss needs; what is slow to compute is kept in ``out``."""

    @abstractmethod
    def build(self, training_set: PackedCrystals) -> tuple[M, str]:
        """The model before its first step, and in words what it was trained on before (nothing: empty)."""

    @abstractmethod
    def objective(self, model: M, batch: CrystalBatch, noise: NoiseSource) -> Objective:
        """The loss of a batch."""

    @abstractmethod
    def validate(self, model: M) -> dict[str, float]:
        """Validation figures, ``metric`` among them."""

    def parameter_groups(self, model: M) -> list[tuple[list[nn.Parameter], float]]:
        """What is trained, in groups, and each group's learning rate as a share of the recipe's."""
        return [([parameter for parameter in model.parameters() if parameter.requires_grad], 1.0)]

    def better(self, value: float, other: float) -> bool:
        """Whether ``value`` is a better ``metric`` than ``other``."""
        return value < other if self.lower_is_better else value > other


class GeneratorTask(Task[Generator]):
    """Training of DAO-G: noise losses, judged by the match rate of its samples."""

    metric = "match_rate"
    lower_is_better = False

    def __init__(self, recipe: Recipe, validation_file: Path) -> None:
        """Read the symmetry prior, where the recipe names one.

        Raises:
            InputError: it cannot be read.

        """
        self.recipe, self.validation_file = recipe, validation_file
        self.symmetry = None if recipe.symmetry_weights is None else load_symmetry(recipe.symmetry_weights)[:2]

    def check(self) -> None:
        """Read the validation crystals; a symmetric process samples only with a prior."""
        recipe = self.recipe
        if recipe.validation.crystals == 0:
            return
        if recipe.process.kind == "symmetric_flow" and recipe.symmetry_weights is None:
            raise InputError(
                f"recipe {recipe.name}: validation needs a symmetry prior: train it (dao train mp20-symmetry) and give "
                "it by --set symmetry_weights=FOLDER (symmetry_weights=small is the shipped one), or train without "
                "validation (--set validation.crystals=0)"
            )
        fixed_subset(self.validation_file, recipe.data, recipe.validation)

    def prepare(self, training_set: PackedCrystals, out: Path, tell: Callable[[str], None]) -> PackedCrystals:
        """Symmetrise, or find space groups, where the recipe needs either."""
        if self.recipe.process.kind == "symmetric_flow":
            symmetric = symmetrized_set(training_set, out / SYMMETRIZED, tell)
            data = self.recipe.data
            described = with_freed(symmetric, training_set) if data.free_share else symmetric
            return reduce(joined, subgroup_sets(symmetric, data.subgroups_shown, out, tell), described)
        if self.recipe.network.space_groups:
            return replace(training_set, labels={"space_group": space_group_labels(training_set)})
        return training_set

    def build(self, training_set: PackedCrystals) -> tuple[Generator, str]:
        """A generator with fitted scalers, or other weights to start from."""
        recipe = self.recipe
        if shares := recipe.data.other_shares:
            # behind them are the same crystals once more, in other cells
            training_set = training_set.select(torch.arange(len(training_set) // (1 + len(shares))))
        config = GeneratorConfig(
            name=recipe.name,
            symmetry=None if self.symmetry is None else self.symmetry[0].config,
            network=recipe.network,
            process=recipe.process,
            sampler=recipe.sampler,
            cells=cell_frequencies(training_set),
        )
        model = Generator(config)
        if self.symmetry is not None:
            give_symmetry(model, *self.symmetry)
        return model, _begin(model, training_set, recipe.initial_weights)

    def objective(self, model: Generator, batch: CrystalBatch, noise: NoiseSource) -> Objective:
        """See :func:`dao.training.objectives.generator_objective`."""
        return generator_objective(model, batch, noise)

    def validate(self, model: Generator) -> dict[str, float]:
        """Match rate and RMSE."""
        return validate(model, self.validation_file, self.recipe.data, self.recipe.validation).figures()


class PredictorTask(Task[Predictor]):
    """Training of DAO-P: noise and energy losses, judged by the mean absolute error of clean crystals' energies."""

    metric = "mae"
    lower_is_better = True

    def __init__(self, recipe: PredictorRecipe, validation_file: Path) -> None:
        self.recipe, self.validation_file = recipe, validation_file

    def _validation_crystals(self) -> PackedCrystals:
        recipe = self.recipe
        return fixed_labelled_subset(self.validation_file, recipe.data, recipe.validation, recipe.label)

    def check(self) -> None:
        """Read the labelled validation crystals."""
        if self.recipe.validation.crystals > 0:
            self._validation_crystals()

    def prepare(self, training_set: PackedCrystals, out: Path, tell: Callable[[str], None]) -> PackedCrystals:
        """Say how many crystals have a label, and leave the others out where the recipe says so."""
        del out
        known = training_set.labels[self.recipe.label].isfinite().nonzero()[:, 0]
        tell(f"{len(known)} of {len(training_set)} training crystals have a label {self.recipe.label!r}")
        return training_set.select(known) if self.recipe.energy.labelled_only and len(known) else training_set

    def build(self, training_set: PackedCrystals) -> tuple[Predictor, str]:
        """A predictor with fitted scalers, or other weights to start from."""
        recipe = self.recipe
        config = PredictorConfig(
            name=recipe.name,
            network=recipe.network,
            process=recipe.process,
            label=recipe.label,
            beta=recipe.beta,
            errors=recipe.energy.errors,
            auxiliary=recipe.energy.auxiliary,
            trust=trust_limits(training_set, recipe.label),
        )
        model = Predictor(config)
        return model, _begin(model, training_set, recipe.initial_weights)

    def objective(self, model: Predictor, batch: CrystalBatch, noise: NoiseSource) -> Objective:
        """See :func:`dao.training.objectives.predictor_objective`."""
        return predictor_objective(model, batch, noise, self.recipe.energy)

    def validate(self, model: Predictor) -> dict[str, float]:
        """Errors of the energies at t = 0, eV/atom."""
        return energy_errors(model, self._validation_crystals())


def _begin(model: CrystalModel, training_set: PackedCrystals, initial_weights: str | None) -> str:
    if initial_weights is not None:
        return load_initial_weights(model, initial_weights, training_set)
    fit_scalers(model, training_set)
    return ""


def task_of(recipe: Recipe | PredictorRecipe, validation_file: Path) -> GeneratorTask | PredictorTask:
    """The task that a recipe asks for; ``validation_file`` holds its validation split."""
    if isinstance(recipe, PredictorRecipe):
        return PredictorTask(recipe, validation_file)
    return GeneratorTask(recipe, validation_file)
