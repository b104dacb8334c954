"""What every training has in common: where it stands in its folder, its clock, and the loop that logs and checkpoints.

A kill at any time loses at most what came after the last checkpoint, and the same command goes on from there.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from dao.errors import InputError
from dao.recipes.schema import AnyRecipe
from dao.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint
from dao.training.logs import RunLog, TrainingProgress
from dao.training.optimizing import flushed_denormals
from dao.training.standing import standing, write_recipe

Tell = Callable[[str], None]
"""Told, in one line each, what happens out of the ordinary."""


@dataclass
class Counters:
    """Of a run; a checkpoint holds them."""

    step: int = 0
    crystals: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time of this process: unlike ``seconds``, not what a busy host takes away."""

    def take(self, saved: dict[str, Any]) -> None:
        """Those of a checkpoint; one that later versions added stays at its default.

        Raises:
            KeyError: it does not say at which step it was taken.

        """
        self.step = saved["step"]
        for field in fields(self):
            setattr(self, field.name, saved.get(field.name, getattr(self, field.name)))


_Recipe = TypeVar("_Recipe", bound=AnyRecipe)
_Counters = TypeVar("_Counters", bound=Counters)


def keep_silent(text: str) -> None:
    """Tell nobody."""
    del text


def take_up(out: Path, recipe: AnyRecipe, *, resume: bool, tell: Tell) -> tuple[bool, Checkpoint | None]:
    """Whether a training in the folder ``out`` is finished, and else the checkpoint to go on from, if there is one.

    From here on torch has as many threads as the recipe says.

    Raises:
        InputError: as :func:`dao.training.standing.standing`, or a broken checkpoint.

    """
    state = standing(out, recipe, resume=resume)
    if state == "finished":
        weights = " and ".join(str(out / name) for name in ("best", "last") if (out / name).exists())
        tell(f"{out}: this training is finished; its weights are {weights}")
        return True, None
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    path = latest_checkpoint(out) if state == "unfinished" else None
    return False, load_checkpoint(path) if path is not None else None


class TrainingLoop(ABC, Generic[_Recipe, _Counters]):
    """One training; subclasses say what a step is, what a checkpoint holds, and what is written in the end.

    Attributes:
        steps: of the whole training.
        progress: how far it has come.
        pretraining: what the first weights were trained on, in words.

    """

    steps: int
    pretraining: str = ""
    _tensorboard = False

    def __init__(self, recipe: _Recipe, counters: _Counters, out: Path, tell: Tell) -> None:
        self.recipe, self.progress, self.out, self.tell = recipe, counters, out, tell
        self._saved_step = -1

    @abstractmethod
    def _step(self) -> dict[str, Tensor]:
        """Learn from one batch and count it; returns figures to log, ``loss`` among them."""

    @abstractmethod
    def _checkpoint(self) -> None:
        """Save everything that :meth:`_restore` needs."""

    @abstractmethod
    def _restore(self, checkpoint: Checkpoint) -> None:
        """Take up a checkpoint's state; may raise what reading unfit tensors and counters does."""

    @abstractmethod
    def _finish(self) -> Path:
        """Write the final weights; returns their folder."""

    def _validated(self, log: RunLog, bar: TrainingProgress) -> bool:
        """What is due after a step, validation above all; whether something was that asks for a checkpoint."""
        del log, bar
        return False

    def _ended(self) -> bool:
        return self.progress.step >= self.steps

    def run(self, checkpoint: Checkpoint | None, *, progress: bool) -> Path:
        """Train to the end, from a checkpoint if there is one.

        Raises:
            InputError: the checkpoint does not belong to this recipe, or the folder cannot be written.

        """
        if checkpoint is not None:
            self.restore(checkpoint)
            self.tell(f"{self.out}: goes on from step {self.progress.step} of {self.steps}")
        # not before: a checkpoint that cannot be gone on with keeps the recipe it has
        write_recipe(self.out, self.recipe)
        with flushed_denormals():
            return self._fit(progress=progress)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up a checkpoint's state.

        Raises:
            InputError: it belongs to another training, or lacks something.

        """
        try:
            self._restore(checkpoint)
            self.progress.take(checkpoint.state)
        except InputError:
            raise
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{self.out}: its checkpoint does not fit this recipe ({reason})") from None
        self._saved_step = self.progress.step

    def _fit(self, *, progress: bool) -> Path:
        recipe, state = self.recipe, self.progress
        log = RunLog(self.out, state.step, tensorboard=self._tensorboard)
        started, written = time.monotonic() - state.seconds, time.monotonic()
        cpu_started = time.process_time() - state.cpu_seconds

        def look_at_the_clock() -> None:
            state.seconds, state.cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started

        with TrainingProgress(recipe.name, self.steps, state.step, enabled=progress) as bar, log:
            while not self._ended():
                figures = self._step()
                look_at_the_clock()
                bar.update(state.step, figures, state.crystals / max(state.seconds, 1e-9))
                if state.step % recipe.record.log_steps == 0 or state.step == self.steps:
                    log.training(state.step, state.crystals, state.seconds, {k: float(v) for k, v in figures.items()})
                due = self._validated(log, bar)
                look_at_the_clock()
                if due or time.monotonic() - written >= recipe.record.checkpoint_seconds:
                    self._save()
                    written = time.monotonic()
        if self._saved_step != state.step:
            self._save()
        return self._finish()

    def _save(self) -> None:
        self._checkpoint()
        self._saved_step = self.progress.step

    def _record(self, data: str, epochs: float, device: str) -> dict[str, Any]:
        """What the weights say of their training."""
        state = self.progress
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "pretraining": self.pretraining,
            "data": data,
            "crystals_seen": state.crystals,
            "epochs": round(epochs, 2),
            "steps": state.step,
            "hours": round(state.seconds / 3600, 3),
            "cpu_hours": round(state.cpu_seconds / 3600, 6),
            "device": f"{device}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            "seed": self.recipe.seed,
        }
