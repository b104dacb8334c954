"""Training of the judge of candidates: logged, checkpointed and resumed like a generator's.

The same command on the same folder goes on where it stopped. The folder holds ``recipe.json``, ``log.csv``, the lists
of candidates (:mod:`dao.training.plausibility_lists`), one ``checkpoint-STEP``, and in the end ``last``: averaged
weights of a :class:`~dao.property_model.PropertyPredictor`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dao.device import choose_device
from dao.errors import InputError
from dao.model_config import PLAUSIBILITY, PredictorConfig, PropertyConfig, TrustLimits
from dao.models import local_folder, read_config
from dao.property_model import OWN_STATE, PropertyPredictor
from dao.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint, optimizer_tensors, save_checkpoint
from dao.training.ema import ExponentialAverage
from dao.training.fit import TrainingNoise, learning_rate_factor
from dao.training.fit_symmetry import epoch_batches
from dao.training.initial import load_initial_trunk, trust_limits
from dao.training.logs import RunLog, TrainingProgress
from dao.training.optimizing import clip_gradients, flushed_denormals, make_optimizer
from dao.training.plausibility_lists import CandidateLists, KnownCrystals, candidate_lists, read_sources
from dao.training.plausibility_objective import jittered, listwise
from dao.training.standing import standing, write_recipe
from dao.weights import resolve

if TYPE_CHECKING:
    from dao.recipes.schema import PlausibilityRecipe

TITLE = "log odds of being the known crystal, up to a constant of the composition"


@dataclass
class Progress:
    """Counters of a run."""

    step: int = 0
    lists: int = 0
    crystals: int = 0
    """Candidates."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time of this process: unlike ``seconds``, not what a busy host takes away."""


def train_plausibility(
    recipe: PlausibilityRecipe,
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
    tell = note or _keep_silent
    chosen_device = choose_device(device)
    state = standing(out, recipe, resume=resume)
    if state == "finished":
        tell(f"{out}: this training is finished; its weights are {out / 'last'}")
        return out / "last"
    path = latest_checkpoint(out) if state == "unfinished" else None
    checkpoint = load_checkpoint(path) if path is not None else None
    weights = local_folder(resolve(recipe.initial_weights))
    initial = read_config(weights)
    if not isinstance(initial, PredictorConfig | PropertyConfig):
        raise InputError(f"initial_weights {recipe.initial_weights}: holds a {initial.model}, no predictor")
    sources = read_sources(recipe.sources, data, recipe.seed, tell)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
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
    run = _Run(recipe, out, lists, _described(sources, lists), config, weights, chosen_device)
    if checkpoint is not None:
        run.restore(checkpoint)
        write_recipe(out, recipe)
        tell(f"{out}: goes on from step {run.progress.step} of {run.steps}")
    with flushed_denormals():
        return run.fit(progress=progress)


def _keep_silent(text: str) -> None:
    del text


def _trust(lists: CandidateLists) -> TrustLimits:
    """What the right candidates span; their label is no energy."""
    right = lists.crystals.select(torch.from_numpy(lists.right.nonzero()[0]))
    return trust_limits(replace(right, labels={PLAUSIBILITY: torch.zeros(len(right))}), PLAUSIBILITY)


def _described(sources: Sequence[KnownCrystals], lists: CandidateLists) -> str:
    files = ", ".join(dict.fromkeys(source.file.name for source in sources))
    return f"{files}, {len(lists)} lists of {len(lists.crystals)} prototype candidates"


class _Run:
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
    ) -> None:
        self.recipe, self.out, self.described, self.device = recipe, out, described, device
        self.digest, self.sizes = lists.digest, lists.sizes
        self.lists = replace(lists, crystals=lists.crystals.to(device))
        torch.manual_seed(recipe.seed)
        self.model = PropertyPredictor(config)
        self.pretraining = load_initial_trunk(self.model, weights, OWN_STATE)
        self.model.to(device).train()
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer([self.parameters], recipe.optimizer)
        self.average = ExponentialAverage(self.model, recipe.optimizer.ema_decay)
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.progress = Progress()
        self.steps_per_pass = len(epoch_batches(self.sizes, recipe.lists_per_batch, recipe.seed, 0))
        self.steps = max(1, round(recipe.passes * self.steps_per_pass))
        if recipe.compile_blocks:
            for block in self.model.network.blocks:
                block.compile(dynamic=True)

    def fit(self, *, progress: bool) -> Path:
        """Train to the end."""
        recipe, state = self.recipe, self.progress
        log = RunLog(self.out, state.step, tensorboard=False)
        started, written = time.monotonic() - state.seconds, time.monotonic()
        cpu_started = time.process_time() - state.cpu_seconds
        number, batches = -1, [np.array([], dtype=np.int64)]
        with TrainingProgress(recipe.name, self.steps, state.step, enabled=progress) as bar, log:
            while state.step < self.steps:
                if state.step // self.steps_per_pass != number:
                    number = state.step // self.steps_per_pass
                    batches = epoch_batches(self.sizes, recipe.lists_per_batch, recipe.seed, number)
                figures = self._step(batches[state.step % self.steps_per_pass])
                state.seconds, state.cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
                bar.update(state.step, figures, state.crystals / max(state.seconds, 1e-9))
                if state.step % recipe.record.log_steps == 0 or state.step == self.steps:
                    log.training(state.step, state.crystals, state.seconds, {k: float(v) for k, v in figures.items()})
                due = time.monotonic() - written >= recipe.record.checkpoint_seconds
                if due or state.step == self.steps:
                    self._checkpoint()
                    written = time.monotonic()
        self._averaged().save(self.out / "last")
        return self.out / "last"

    def _step(self, rows: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        recipe, state = self.recipe, self.progress
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
        record = {
            "recipe": self.recipe.model_dump(mode="json"),
            "pretraining": self.pretraining,
            "data": self.described,
            "crystals_seen": state.crystals,
            "lists_seen": state.lists,
            "epochs": round(state.lists / len(self.lists), 2),
            "steps": state.step,
            "hours": round(state.seconds / 3600, 3),
            "cpu_hours": round(state.cpu_seconds / 3600, 6),
            "device": f"{self.device.type}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            "seed": self.recipe.seed,
        }
        model = self.model.copied(record)
        self.average.copy_to(model)
        return model.eval()

    def _checkpoint(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer)
        tensors["random.noise"] = self.generator.get_state()
        tensors["random.torch"] = torch.get_rng_state()
        counters = {
            **asdict(self.progress),
            "average_updates": self.average.updates,
            "training_set": self.digest,
            "initial_weights": self.recipe.initial_weights,
        }
        save_checkpoint(self.out, self.progress.step, Checkpoint(tensors, counters))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up a checkpoint's state.

        Raises:
            InputError: it belongs to other lists or other initial weights, or lacks something.

        """
        saved = checkpoint.state
        if saved.get("training_set") != self.digest:
            raise InputError(f"{self.out}: its checkpoint is of a training on other lists of candidates")
        if saved.get("initial_weights") != self.recipe.initial_weights:
            raise InputError(f"{self.out}: its checkpoint began with other initial_weights than this recipe's")
        try:
            self.model.load_state_dict(checkpoint.under("model."))
            self.average.load_state_dict(checkpoint.under("average."), saved["average_updates"])
            checkpoint.load_optimizer(self.optimizer)
            self.generator.set_state(checkpoint.tensors["random.noise"])
            torch.set_rng_state(checkpoint.tensors["random.torch"])
            self.progress = Progress(**{name: saved[name] for name in asdict(self.progress)})
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{self.out}: its checkpoint does not fit this recipe ({reason})") from None
