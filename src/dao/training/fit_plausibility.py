"""Training of the judge of candidates: logged, checkpointed and resumed like a generator's.

The same command on the same folder goes on where it stopped. The folder holds ``recipe.json``, ``log.csv``, the lists
of candidates (:mod:`dao.training.plausibility_lists`), one ``checkpoint-STEP``, and in the end ``last``: averaged
weights of a :class:`~dao.property_model.PropertyPredictor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dao.device import choose_device
from dao.errors import InputError
from dao.model_config import PLAUSIBILITY, PredictorConfig, PropertyConfig, TrustLimits
from dao.models import local_folder, read_config
from dao.property_model import OWN_STATE, PropertyPredictor
from dao.training.checkpoint import Checkpoint, model_tensors, save_checkpoint
from dao.training.ema import ExponentialAverage
from dao.training.fit import TrainingNoise, learning_rate_factor
from dao.training.fit_symmetry import EpochBatches
from dao.training.initial import load_initial_trunk, trust_limits
from dao.training.loop import Counters, Tell, TrainingLoop, keep_silent, take_up
from dao.training.optimizing import clip_gradients, make_optimizer
from dao.training.plausibility_lists import CandidateLists, KnownCrystals, candidate_lists, read_sources
from dao.training.plausibility_objective import jittered, listwise
from dao.training.standing import write_recipe
from dao.weights import resolve

if TYPE_CHECKING:
    from dao.recipes.schema import PlausibilityRecipe

TITLE = "log odds of being the known crystal, up to a constant of the composition"


@dataclass
class Progress(Counters):
    """Counters of a run; its crystals are candidates."""

    lists: int = 0


def train_plausibility(
    recipe: PlausibilityRecipe,
    *,
    out: Path,
    data: Path | None = None,
    device: str = "auto",
    resume: bool = False,
    progress: bool = True,
    note: Tell | None = None,
) -> Path:
    """Train by a recipe and return the folder of the final averaged weights.

    A folder that holds an unfinished training by this very recipe is gone on with; a finished one is left as it is.

    Args:
        recipe: what to do.
        out: the run's folder.
        data: the folder that holds the recipe's files; where it has a single source also that file itself, of any kind
            that :func:`dao.training.fit.train` reads. Default: ``$DAO_DATA`` or ../shared/data.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; lists are made on the CPU.
        resume: go on from the last checkpoint even where lengths, rates or the record have changed since.
        progress: show progress bars on stderr.
        note: told, in one line each, what happens out of the ordinary, and how many lists there are.

    Raises:
        InputError: missing or unfit data, table or initial weights, no such device, a run folder in use by another
            recipe, a broken checkpoint, or nothing to learn from. But for the last, nothing has been written by then.

    """
    tell = note or keep_silent
    chosen_device = choose_device(device)
    finished, checkpoint = take_up(out, recipe, resume=resume, tell=tell)
    if finished:
        return out / "last"
    weights = local_folder(resolve(recipe.initial_weights))
    initial = read_config(weights)
    if not isinstance(initial, PredictorConfig | PropertyConfig):
        raise InputError(f"initial_weights {recipe.initial_weights}: holds a {initial.model}, no predictor")
    sources = read_sources(recipe.sources, data, recipe.seed, tell)
    if checkpoint is None:
        write_recipe(out, recipe)
    lists = candidate_lists(sources, out, progress=progress, note=tell)
    config = PropertyConfig(
        name=recipe.name,
        network=initial.network,
        process=initial.process,
        label=PLAUSIBILITY,
        title=TITLE,
        trust=_trust(lists),
    )
    run = _Run(recipe, out, lists, _described(sources, lists), config, weights, chosen_device, tell)
    return run.run(checkpoint, progress=progress)


def _trust(lists: CandidateLists) -> TrustLimits:
    """What the right candidates span; their label is no energy."""
    right = lists.crystals.select(torch.from_numpy(lists.right.nonzero()[0]))
    return trust_limits(replace(right, labels={PLAUSIBILITY: torch.zeros(len(right))}), PLAUSIBILITY)


def _described(sources: Sequence[KnownCrystals], lists: CandidateLists) -> str:
    files = ", ".join(dict.fromkeys(source.file.name for source in sources))
    return f"{files}, {len(lists)} lists of {len(lists.crystals)} prototype candidates"


class _Run(TrainingLoop["PlausibilityRecipe", Progress]):
    """The state of one training."""

    def __init__(
        self,
        recipe: PlausibilityRecipe,
        out: Path,
        lists: CandidateLists,
        described: str,
        config: PropertyConfig,
        weights: Path,
        device: torch.device,
        tell: Tell,
    ) -> None:
        super().__init__(recipe, Progress(), out, tell)
        self.described, self.device = described, device
        self.digest = lists.digest
        self.lists = replace(lists, crystals=lists.crystals.to(device))
        torch.manual_seed(recipe.seed)
        self.model = PropertyPredictor(config)
        self.pretraining = load_initial_trunk(self.model, weights, OWN_STATE)
        self.model.to(device).train()
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer([self.parameters], recipe.optimizer)
        self.average = ExponentialAverage(self.model, recipe.optimizer.ema_decay)
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.batches = EpochBatches(lists.sizes, recipe.lists_per_batch, recipe.seed)
        self.steps = max(1, round(recipe.passes * self.batches.per_epoch))
        if recipe.compile_blocks:
            for block in self.model.network.blocks:
                block.compile(dynamic=True)

    def _finish(self) -> Path:
        self._averaged().save(self.out / "last")
        return self.out / "last"

    def _step(self) -> dict[str, Tensor]:
        recipe, state, rows = self.recipe, self.progress, self.batches.at(self.progress.step)
        rate = recipe.optimizer.learning_rate * learning_rate_factor(recipe.optimizer, state.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        shown = self.lists.batch(rows, recipe.candidates)
        noise = TrainingNoise(len(shown.crystals), self.generator, self.device)
        crystals = jittered(shown.crystals, shown.first, noise, recipe.jitter)
        half = recipe.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
            scores = self.model(crystals)
        objective = listwise(scores, shown.right, shown.places)
        self.optimizer.zero_grad(set_to_none=True)
        objective.total.backward()
        norm = clip_gradients(self.parameters, recipe.optimizer)
        self.optimizer.step()
        self.average.update(self.model)
        state.step += 1
        state.lists += len(rows)
        state.crystals += len(crystals)
        return {
            "loss": objective.total.detach().cpu(),
            **{name: value.cpu() for name, value in objective.parts.items()},
            "gradient_norm": norm,
            "learning_rate": torch.tensor(rate),
        }

    def _averaged(self) -> PropertyPredictor:
        """The model with averaged weights, and the record of its training."""
        state = self.progress
        record = self._record(self.described, state.lists / len(self.lists), self.device.type)
        record["lists_seen"] = state.lists
        model = self.model.copied(record)
        self.average.copy_to(model)
        return model.eval()

    def _checkpoint(self) -> None:
        tensors = model_tensors(self.model, self.optimizer, self.average)
        tensors["random.noise"] = self.generator.get_state()
        counters = {
            **asdict(self.progress),
            "average_updates": self.average.updates,
            "training_set": self.digest,
            "initial_weights": self.recipe.initial_weights,
        }
        save_checkpoint(self.out, self.progress.step, Checkpoint(tensors, counters))

    def _restore(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.state
        if saved.get("training_set") != self.digest:
            raise InputError(f"{self.out}: its checkpoint is of a training on other lists of candidates")
        if saved.get("initial_weights") != self.recipe.initial_weights:
            raise InputError(f"{self.out}: its checkpoint began with other initial_weights than this recipe's")
        checkpoint.load_model(self.model, self.optimizer, self.average)
        self.generator.set_state(checkpoint.tensors["random.noise"])
