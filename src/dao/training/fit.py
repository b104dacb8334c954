"""Training: one readable loop that logs, validates, checkpoints and resumes as if it had never stopped.

The same command on the same folder goes on where it stopped. The folder holds ``recipe.json``, ``log.csv`` (one line
every few steps), ``validation.csv``, one ``checkpoint-STEP``, ``best`` (averaged weights with the best validation
figure), ``last``, and ``snapshots`` where the recipe asks for them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
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
from dao.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint, optimizer_tensors, save_checkpoint
from dao.training.ema import ExponentialAverage
from dao.training.logs import RunLog, TrainingProgress, check_tensorboard
from dao.training.optimizing import clip_gradients, flushed_denormals, make_optimizer
from dao.training.standing import same_settings, standing, write_recipe
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
class Progress:
    """Counters of a run."""

    step: int = 0
    crystals: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time of this process: unlike ``seconds``, not what a busy host takes away."""
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
    note: Callable[[str], None] | None = None,
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
    tell = note or _keep_silent
    chosen_device = choose_device(device)
    state = standing(out, recipe, resume=resume)
    if state == "finished":
        tell(f"{out}: this training is finished; its weights are {out / 'best'} and {out / 'last'}")
        return out / "last"
    if recipe.record.tensorboard:
        check_tensorboard()
    checkpoint_path = latest_checkpoint(out) if state == "unfinished" else None
    checkpoint = load_checkpoint(checkpoint_path) if checkpoint_path is not None else None
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
    return _fit(_Run(recipe, task, training_set, chosen_device, out, path, tell), checkpoint, progress=progress)


def train_packed(
    recipe: PropertyRecipe,
    task: Task[Any],
    training_set: PackedCrystals,
    *,
    out: Path,
    data: Path,
    device: str = "auto",
    progress: bool = True,
    note: Callable[[str], None] | None = None,
) -> Path:
    """The same for crystals that are in memory already, read from ``data``.

    Raises:
        InputError: no such device, a run folder in use by another recipe, or a broken checkpoint.

    """
    tell = note or _keep_silent
    chosen_device = choose_device(device)
    state = standing(out, recipe, resume=False)
    if state == "finished":
        return out / "last"
    checkpoint_path = latest_checkpoint(out) if state == "unfinished" else None
    checkpoint = load_checkpoint(checkpoint_path) if checkpoint_path is not None else None
    return _fit(_Run(recipe, task, training_set, chosen_device, out, data, tell), checkpoint, progress=progress)


def _fit(run: _Run, checkpoint: Checkpoint | None, *, progress: bool) -> Path:
    if checkpoint is not None:
        run.restore(checkpoint)
        run.tell(f"{run.out}: goes on from step {run.progress.step} of {run.steps}")
    write_recipe(run.out, run.recipe)
    with flushed_denormals():
        return run.fit(progress=progress)


def _keep_silent(text: str) -> None:
    del text


class _Run:
    """The state of one training."""

    def __init__(
        self,
        recipe: Recipe | PredictorRecipe | PropertyRecipe,
        task: Task[Any],
        training_set: PackedCrystals,
        device: torch.device,
        out: Path,
        data: Path,
        tell: Callable[[str], None],
    ) -> None:
        self.recipe, self.task, self.device, self.out, self.data, self.tell = recipe, task, device, out, data, tell
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
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
            training_set.to(device), recipe.batch_size, recipe.seed, second_share=recipe.data.free_share
        )
        self.batches = iter(self.loader)
        self.noise = TrainingNoise(self.loader.batch_size, torch.Generator(device).manual_seed(recipe.seed), device)
        self.progress = Progress()
        self._saved_step = -1
        self.steps = -(-recipe.crystals // (self.loader.batch_size * recipe.accumulate))
        if recipe.compile_blocks:
            for block in self.model.network.blocks:
                block.compile(dynamic=True)

    def fit(self, *, progress: bool) -> Path:
        """Train to the end."""
        recipe, state = self.recipe, self.progress
        log = RunLog(self.out, state.step, tensorboard=recipe.record.tensorboard)
        started, written = time.monotonic() - state.seconds, time.monotonic()
        cpu_started = time.process_time() - state.cpu_seconds
        with TrainingProgress(recipe.name, self.steps, state.step, enabled=progress) as bar, log:
            while state.step < self.steps and not 0 < recipe.validation.patience <= state.stale:
                figures = self._step()
                state.seconds, state.cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
                bar.update(state.step, figures, state.crystals / max(state.seconds, 1e-9))
                if state.step % recipe.record.log_steps == 0 or state.step == self.steps:
                    log.training(state.step, state.crystals, state.seconds, {k: float(v) for k, v in figures.items()})
                due = recipe.validation.crystals > 0 and (
                    state.crystals - state.validated_at >= recipe.validation.every or state.step == self.steps
                )
                if due:
                    self._validate(log, bar)
                    state.seconds, state.cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
                self._snapshot()
                if due or time.monotonic() - written >= recipe.record.checkpoint_seconds:
                    self._checkpoint()
                    written = time.monotonic()
        if self._saved_step != state.step:
            self._checkpoint()
        final = self.out / "last"
        self._averaged().save(final)
        if not (self.out / "best").exists():
            self._averaged().save(self.out / "best")
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
        record = {
            "recipe": self.recipe.model_dump(mode="json"),
            "pretraining": self.pretraining,
            "data": f"{self.data.name}, {self._split()}{self.loader.num_crystals} crystals",
            "crystals_seen": state.crystals,
            "epochs": round(state.crystals / self.loader.num_crystals, 2),
            "steps": state.step,
            "hours": round(state.seconds / 3600, 3),
            "cpu_hours": round(state.cpu_seconds / 3600, 6),
            "device": f"{self.device.type}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            "seed": self.recipe.seed,
            f"best_validation_{self.task.metric}": state.best,
        }
        model = self.model.copied(record)
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
        state = self.progress
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer)
        tensors["random.noise"] = self.noise.generator.get_state()
        tensors["random.torch"] = torch.get_rng_state()
        counters = {
            "step": state.step,
            "crystals": state.crystals,
            "seconds": state.seconds,
            "cpu_seconds": state.cpu_seconds,
            "best": state.best,
            "stale": state.stale,
            "validated_at": state.validated_at,
            "snapshot_at": state.snapshot_at,
            "loader": self.loader.state_dict(),
            "average_updates": self.average.updates,
            "network": self.recipe.network.__dict__,
            "process": self.recipe.process.__dict__,
        }
        save_checkpoint(self.out, state.step, Checkpoint(tensors, counters))
        self._saved_step = state.step

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up a checkpoint's state.

        Raises:
            InputError: it belongs to another network or process, or lacks something.

        """
        try:
            self._restore(checkpoint)
        except InputError:
            raise
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{self.out}: its checkpoint does not fit this recipe ({reason})") from None

    def _restore(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.state
        for section in ("network", "process"):
            if not same_settings(saved[section], getattr(self.recipe, section)):
                raise InputError(f"{self.out}: its checkpoint was trained with another {section} than this recipe's")

        self.model.load_state_dict(checkpoint.under("model."))
        self.average.load_state_dict(checkpoint.under("average."), saved["average_updates"])
        checkpoint.load_optimizer(self.optimizer)
        self.noise.generator.set_state(checkpoint.tensors["random.noise"])
        torch.set_rng_state(checkpoint.tensors["random.torch"])
        self.loader.load_state_dict(saved["loader"])
        for field in fields(Progress):
            # a counter of later versions is at its default
            setattr(self.progress, field.name, saved.get(field.name, field.default))
        self._saved_step = self.progress.step
