"""Training of generators and predictors: logged, validated, checkpointed and resumed as if it had never stopped.

The same command on the same folder goes on where it stopped. The folder holds ``recipe.json``, ``log.csv`` (one line
every few steps), ``validation.csv``, one ``checkpoint-STEP``, ``best`` (averaged weights with the best validation
figure), ``last``, and ``snapshots`` where the recipe asks for them.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dao.data.loader import BucketLoader
from dao.data.locate import training_file, validation_file
from dao.data.store import SPLIT, PackedCrystals
from dao.data.training_set import load_packed
from dao.device import choose_device
from dao.errors import InputError
from dao.models import CrystalModel
from dao.training.checkpoint import Checkpoint, model_tensors, save_checkpoint
from dao.training.ema import ExponentialAverage
from dao.training.logs import RunLog, TrainingProgress, check_tensorboard
from dao.training.loop import Counters, Tell, TrainingLoop, keep_silent, take_up
from dao.training.optimizing import clip_gradients, make_optimizer
from dao.training.standing import same_settings
from dao.training.tasks import Task, task_of

if TYPE_CHECKING:
    from dao.recipes.schema import OptimizerRecipe, PredictorRecipe, PropertyRecipe, Recipe


@dataclass
class TrainingNoise:
    """One stream of random numbers for whole batches, whose state is part of a checkpoint."""

    batch: int
    generator: torch.Generator
    device: torch.device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (B, *shape)."""
        return torch.randn(self.batch, *shape, generator=self.generator, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), (B, *shape)."""
        return torch.rand(self.batch, *shape, generator=self.generator, device=self.device)


@dataclass
class Progress(Counters):
    """Counters of a run."""

    best: float | None = None
    """Best validation figure so far."""
    stale: int = 0
    """Validations since the best."""
    validated_at: int = 0
    snapshot_at: int = 0


def learning_rate_factor(recipe: OptimizerRecipe, step: int, steps: int) -> float:
    """Learning rate at a step of ``steps``, as a share of the recipe's."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = min(1.0, (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps))
    if recipe.schedule == "cosine":
        return recipe.final_rate + (1.0 - recipe.final_rate) * 0.5 * (1.0 + math.cos(math.pi * done))
    if recipe.schedule == "constant_then_linear":
        left = min(1.0, (1.0 - done) / recipe.decay_share)
        return recipe.final_rate + (1.0 - recipe.final_rate) * left
    return 1.0


def train(
    recipe: Recipe | PredictorRecipe,
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
        data: what to train on: Parquet, CSV, extxyz or a folder of CIF and POSCAR files, or the folder that holds the
            recipe's file; default ``$DAO_DATA`` or ../shared/data. A source without a column ``split`` is trained on as
            a whole, and then has nothing to validate on.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        resume: go on from the last checkpoint even where lengths, optimizer, validation or record have changed since.
        progress: show a progress bar on stderr.
        note: told, in one line each, what happens out of the ordinary: going on, finished, crystals left out.

    Raises:
        InputError: missing or unfit data, no such device, a run folder in use by another recipe, or a broken
            checkpoint. Nothing has been written by then.

    """
    tell = note or keep_silent
    chosen_device = choose_device(device)
    finished, checkpoint = take_up(out, recipe, resume=resume, tell=tell)
    if finished:
        return out / "last"
    if recipe.record.tensorboard:
        check_tensorboard()
    path = training_file(recipe.data.file, data)
    training_set = load_packed(
        path,
        split=recipe.data.train_split,
        max_atoms=recipe.data.max_atoms,
        split_optional=True,
        labels=recipe.labels if recipe.task == "predictor" else (),
        note=tell,
    )
    validation_path = path
    if recipe.data.validation_file is not None and recipe.validation.crystals > 0:
        validation_path = validation_file(recipe.data.validation_file, data)
    task = task_of(recipe, validation_path)
    task.check()
    return _Run(recipe, task, training_set, chosen_device, out, path, tell).run(checkpoint, progress=progress)


def train_packed(
    recipe: PropertyRecipe,
    task: Task[Any],
    training_set: PackedCrystals,
    *,
    out: Path,
    data: Path,
    device: str = "auto",
    progress: bool = True,
    note: Tell | None = None,
) -> Path:
    """The same for crystals that are in memory already, read from ``data``.

    Raises:
        InputError: no such device, a run folder in use by another recipe, or a broken checkpoint.

    """
    tell = note or keep_silent
    chosen_device = choose_device(device)
    finished, checkpoint = take_up(out, recipe, resume=False, tell=keep_silent)
    if finished:
        return out / "last"
    return _Run(recipe, task, training_set, chosen_device, out, data, tell).run(checkpoint, progress=progress)


class _Run(TrainingLoop["Recipe | PredictorRecipe | PropertyRecipe", Progress]):
    """The state of one training."""

    def __init__(
        self,
        recipe: Recipe | PredictorRecipe | PropertyRecipe,
        task: Task[Any],
        training_set: PackedCrystals,
        device: torch.device,
        out: Path,
        data: Path,
        tell: Tell,
    ) -> None:
        super().__init__(recipe, Progress(), out, tell)
        self.task, self.device, self.data = task, device, data
        self._tensorboard = recipe.record.tensorboard
        training_set = task.prepare(training_set, out, tell)
        torch.manual_seed(recipe.seed)
        self.model: CrystalModel
        self.model, self.pretraining = task.build(training_set)
        self.model.to(device)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups, self.rates = zip(*task.parameter_groups(self.model), strict=True)
        self.optimizer = make_optimizer(groups, recipe.optimizer)
        self.average = ExponentialAverage(self.model, recipe.optimizer.ema_decay)
        self.loader = BucketLoader(
            training_set.to(device), recipe.batch_size, recipe.seed, shares=recipe.data.other_shares
        )
        self.batches = iter(self.loader)
        self.noise = TrainingNoise(self.loader.batch_size, torch.Generator(device).manual_seed(recipe.seed), device)
        self.steps = -(-recipe.crystals // (self.loader.batch_size * recipe.accumulate))
        if recipe.compile_blocks:
            for block in self.model.network.blocks:
                block.compile(dynamic=True)

    def _ended(self) -> bool:
        return super()._ended() or 0 < self.recipe.validation.patience <= self.progress.stale

    def _validated(self, log: RunLog, bar: TrainingProgress) -> bool:
        recipe, state = self.recipe, self.progress
        due = recipe.validation.crystals > 0 and (
            state.crystals - state.validated_at >= recipe.validation.every or state.step == self.steps
        )
        if due:
            self._validate(log, bar)
        self._snapshot()
        return due

    def _finish(self) -> Path:
        if not (self.out / "best").exists():
            self._averaged().save(self.out / "best")
        # the last of all: where it is, the training counts as finished
        final = self.out / "last"
        self._averaged().save(final)
        return final

    def _step(self) -> dict[str, Tensor]:
        recipe = self.recipe
        factor = learning_rate_factor(recipe.optimizer, self.progress.step, self.steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = recipe.optimizer.learning_rate * rate * factor
        autocast = torch.autocast(self.device.type, torch.bfloat16) if recipe.precision == "bfloat16" else nullcontext()
        self.optimizer.zero_grad(set_to_none=True)
        figures: dict[str, Tensor] = {}
        for _ in range(recipe.accumulate):
            batch = next(self.batches)
            with autocast:
                objective = self.task.objective(self.model, batch, self.noise)
            (objective.total / recipe.accumulate).backward()
            for name, value in {"loss": objective.total, **objective.parts}.items():
                figures[name] = figures.get(name, torch.zeros(())) + value.detach().cpu() / recipe.accumulate
            self.progress.crystals += len(batch)
        figures["gradient_norm"] = clip_gradients(self.parameters, recipe.optimizer)
        self.optimizer.step()
        self.average.update(self.model)
        self.progress.step += 1
        figures["learning_rate"] = torch.tensor(recipe.optimizer.learning_rate * factor)
        return figures

    def _averaged(self) -> CrystalModel:
        """The model with averaged weights, and the record of its training."""
        state = self.progress
        record = self._record(
            f"{self.data.name}, {self._split()}{self.loader.num_crystals} crystals",
            state.crystals / self.loader.num_crystals,
            self.device.type,
        )
        model = self.model.copied(record | {f"best_validation_{self.task.metric}": state.best})
        self.average.copy_to(model)
        return model.eval()

    def _split(self) -> str:
        return f"split {self.recipe.data.train_split}, " if SPLIT in self.loader.crystals.columns else ""

    def _validate(self, log: RunLog, bar: TrainingProgress) -> None:
        state, metric = self.progress, self.task.metric
        state.validated_at = state.crystals
        bar.note("validating")
        figures = self.task.validate(self._averaged().to(self.device))
        log.validation(state.step, state.crystals, state.seconds, figures)
        bar.note(f"{metric} {figures[metric]:.4g}")
        state.stale += 1
        if state.best is None or self.task.better(figures[metric], state.best):
            state.best, state.stale = figures[metric], 0
            self._averaged().save(self.out / "best")

    def _snapshot(self) -> None:
        state, every = self.progress, self.recipe.record.snapshot_crystals
        if every and state.crystals - state.snapshot_at >= every:
            state.snapshot_at = state.crystals
            self._averaged().save(self.out / "snapshots" / f"{state.crystals:010d}")

    def _checkpoint(self) -> None:
        tensors = model_tensors(self.model, self.optimizer, self.average)
        tensors["random.noise"] = self.noise.generator.get_state()
        counters = {
            **asdict(self.progress),
            "loader": self.loader.state_dict(),
            "average_updates": self.average.updates,
            "network": self.recipe.network.__dict__,
            "process": self.recipe.process.__dict__,
        }
        save_checkpoint(self.out, self.progress.step, Checkpoint(tensors, counters))

    def _restore(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.state
        for section in ("network", "process"):
            if not same_settings(saved[section], getattr(self.recipe, section)):
                raise InputError(f"{self.out}: its checkpoint was trained with another {section} than this recipe's")
        checkpoint.load_model(self.model, self.optimizer, self.average)
        self.noise.generator.set_state(checkpoint.tensors["random.noise"])
        self.loader.load_state_dict(saved["loader"])
