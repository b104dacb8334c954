"""Finetuning of DAO-P to a property: what of it the training loop does not share with other models.

Shapes: B crystals.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn import functional

from dao.crystal import CrystalBatch
from dao.data.store import PackedCrystals
from dao.model_config import PropertyConfig
from dao.processes.base import NoiseSource
from dao.property_model import HEAD, OWN_STATE, PropertyPredictor
from dao.recipes.schema import PropertyRecipe
from dao.training.deformations import other_setting
from dao.training.initial import load_initial_trunk, trust_limits
from dao.training.objectives import HUBER_WIDTH, Objective
from dao.training.tasks import Task

EVALUATION_BATCH = 128


class PropertyTask(Task[PropertyPredictor]):
    """Huber loss of standardised labels, judged by the mean absolute error on crystals that are not trained on."""

    metric = "mae"
    lower_is_better = True

    def __init__(self, recipe: PropertyRecipe, validation_set: PackedCrystals) -> None:
        self.recipe, self.validation_set = recipe, validation_set

    def check(self) -> None:
        """Nothing is left to read."""

    def prepare(self, training_set: PackedCrystals, out: Path, tell: Callable[[str], None]) -> PackedCrystals:
        """As it is: every crystal has its label."""
        del out, tell
        return training_set

    def build(self, training_set: PackedCrystals) -> tuple[PropertyPredictor, str]:
        """A head on a pretrained trunk, or on one that knows nothing where the recipe names no weights."""
        recipe = self.recipe
        config = PropertyConfig(
            name=recipe.name,
            network=recipe.network,
            process=recipe.process,
            label=recipe.label,
            title=recipe.title,
            unit=recipe.unit,
            scale=recipe.scale,
            trust=trust_limits(training_set, recipe.label),
        )
        model = PropertyPredictor(config)
        model.fit_labels(training_set.labels[recipe.label])
        if recipe.initial_weights is None:
            model.process.representation.fit(training_set.lattice, training_set.element_counts())
            return model, ""
        source = Path(recipe.initial_weights)
        history = load_initial_trunk(model, source if source.is_dir() else recipe.initial_weights, OWN_STATE)
        if recipe.trunk_rate == 0:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.startswith(HEAD))
        return model, history

    def parameter_groups(self, model: PropertyPredictor) -> list[tuple[list[nn.Parameter], float]]:
        """The head, and what is below it, which may be slower or frozen."""
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        head = [parameter for name, parameter in trained if name.startswith(HEAD)]
        trunk = [parameter for name, parameter in trained if not name.startswith(HEAD)]
        return [(head, 1.0), *([(trunk, self.recipe.trunk_rate)] if trunk else [])]

    def objective(self, model: PropertyPredictor, batch: CrystalBatch, noise: NoiseSource) -> Objective:
        """Huber loss of the standardised property, all but an absolute one: that is what benchmarks count."""
        with torch.autocast(batch.lattice.device.type, enabled=False):
            if self.recipe.other_settings:
                batch = other_setting(batch, noise)
            labels = model.standardised(batch.labels[self.recipe.label])
        said = model(batch)
        loss = functional.huber_loss(said, labels, delta=HUBER_WIDTH) / HUBER_WIDTH
        return Objective(loss, {"mae_standardised": (said - labels).abs().mean()})

    def validate(self, model: PropertyPredictor) -> dict[str, float]:
        """Errors on the validation crystals in the property's unit."""
        return errors(predict_packed(model, self.validation_set), self.validation_set.labels[self.recipe.label])


@torch.no_grad()
def predict_packed(model: PropertyPredictor, crystals: PackedCrystals) -> Float64[Tensor, " m"]:
    """Property of every crystal in its unit; batches are of like sizes and change nothing beyond rounding."""
    values = torch.empty(len(crystals), dtype=torch.float64)
    for rows in crystals.num_atoms.argsort(stable=True).split(EVALUATION_BATCH):
        values[rows] = model.predict(crystals.batch(rows).to(model.label_mean.device)).double().cpu()
    return values


def errors(values: Float64[Tensor, " m"], labels: Tensor) -> dict[str, float]:
    """Mean absolute and root mean square error in the property's unit."""
    difference = values - labels.double().cpu()
    return {"mae": float(difference.abs().mean()), "rmse": float(difference.square().mean().sqrt())}
