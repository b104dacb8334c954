"""Training of the symmetry prior: minutes on one CPU core, logged, checkpointed and resumed like a generator's.

The same command on the same folder goes on where it stopped. The folder holds ``recipe.json``, ``log.csv``,
``validation.csv`` (a line an epoch), the described crystals, one ``checkpoint-STEP``, and in the end ``last``.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from dao.data.locate import training_file, validation_file
from dao.data.store import PackedCrystals
from dao.data.symmetrized import subgroup_sets, symmetrized_set
from dao.data.symmetry_batch import SymmetryBatch, SymmetryLabel, symmetry_batch, symmetry_sequence
from dao.data.symmetry_labels import symmetry_labels
from dao.data.symmetry_memory import SymmetryMemory
from dao.data.training_set import load_packed
from dao.element_distances import element_distances
from dao.errors import InputError
from dao.geometry.lattice import fit_atomic_volumes, volume
from dao.networks.symmetry import SymmetryPrior
from dao.symmetry_weights import save_symmetry
from dao.training.checkpoint import Checkpoint, model_tensors, save_checkpoint
from dao.training.initial import load_initial_symmetry
from dao.training.logs import RunLog, TrainingProgress
from dao.training.loop import Counters, Tell, TrainingLoop, keep_silent, take_up
from dao.training.standing import same_settings, write_recipe

if TYPE_CHECKING:
    from dao.recipes.schema import SymmetryRecipe

SIMILAR_LENGTHS = 16
"""Batches that are cut together from crystals sorted by length: like lengths waste little padding."""

VALIDATION_BATCH = 512


@dataclass
class Progress(Counters):
    """Counters of a run."""

    validation: dict[str, float] = field(default_factory=dict)
    """Latest figures."""


@dataclass(frozen=True)
class _Sets:
    """What a run trains and validates on."""

    file: Path
    training: PackedCrystals
    validation: PackedCrystals | None


def train_symmetry(
    recipe: SymmetryRecipe,
    *,
    out: Path,
    data: Path | None = None,
    device: str = "auto",
    resume: bool = False,
    progress: bool = True,
    note: Tell | None = None,
) -> Path:
    """Train by a recipe and return the folder of the final weights, memory of the training set included.

    A folder that holds an unfinished training by this very recipe is gone on with; a finished one is left as it is.

    Args:
        recipe: what to do.
        out: the run's folder.
        data: what to train on, or the folder that holds the recipe's file; see :func:`dao.training.fit.train`.
        device: ``auto`` or ``cpu``: the network is too small for a GPU to be of use.
        resume: go on from the last checkpoint even where lengths, optimizer, validation or record have changed since.
        progress: show progress bars on stderr.
        note: told, in one line each, what happens out of the ordinary: going on, finished, crystals left out.

    Raises:
        InputError: missing or unfit data, another device, a run folder in use by another recipe, or a broken
            checkpoint.

    """
    tell = note or keep_silent
    if device not in {"auto", "cpu"}:
        raise InputError(f"--device {device}: the symmetry prior is trained on the CPU")
    finished, checkpoint = take_up(out, recipe, resume=resume, tell=tell)
    if finished:
        return out / "last"
    sets = _read(recipe, data, tell)
    if checkpoint is None:
        write_recipe(out, recipe)
    return _Run(recipe, out, sets, progress=progress, tell=tell).run(checkpoint, progress=progress)


def _read(recipe: SymmetryRecipe, data: Path | None, tell: Tell) -> _Sets:
    wanted = recipe.data
    path = training_file(wanted.file, data)
    training = load_packed(path, split=wanted.train_split, max_atoms=wanted.max_atoms, split_optional=True, note=tell)
    if recipe.validation.crystals == 0:
        return _Sets(path, training, None)
    other = path
    if wanted.validation_file is not None:
        other = validation_file(wanted.validation_file, data)
    try:
        held_out = load_packed(other, split=wanted.validation_split, max_atoms=wanted.max_atoms)
    except InputError as error:
        raise InputError(f"nothing to validate on (--set validation.crystals=0 trains without): {error}") from None
    random = torch.Generator().manual_seed(recipe.validation.seed)
    chosen = torch.randperm(len(held_out), generator=random)[: recipe.validation.crystals].sort().values
    return _Sets(path, training, held_out.select(chosen))


def epoch_batches(lengths: npt.NDArray[np.int64], size: int, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
    """Rows of each batch of an epoch: every crystal once, in random order, those of like lengths together.

    Args:
        lengths: (M,) of each crystal: orbits, or atoms.
        size: most crystals a batch.
        seed: of the run.
        epoch: from 0; each has an order of its own.

    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    made = []
    for chunk in np.array_split(order, max(1, len(order) // (SIMILAR_LENGTHS * size))):
        by_length = chunk[np.argsort(lengths[chunk], kind="stable")]
        made += [by_length[i : i + size] for i in range(0, len(by_length), size)]
    return [made[i] for i in random.permutation(len(made))]


class EpochBatches:
    """The batch of each step of a run, epoch after epoch, as :func:`epoch_batches` cuts them."""

    def __init__(self, lengths: npt.NDArray[np.int64], size: int, seed: int) -> None:
        """As :func:`epoch_batches` takes them; an epoch has as many batches as the first."""
        self._arguments = lengths, size, seed
        self._epoch, self._batches = 0, epoch_batches(lengths, size, seed, 0)
        self.per_epoch = len(self._batches)

    def at(self, step: int) -> npt.NDArray[np.int64]:
        """Rows of the batch of a step, from 0."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, epoch_batches(*self._arguments, epoch)
        return self._batches[place]


@torch.no_grad()
def teacher_forced(model: SymmetryPrior, data: SymmetryBatch) -> dict[str, float]:
    """Mean negative log probability (nats) of groups and positions, and how often the most probable ones are true.

    ``group_top1`` is the share of crystals whose space group is the most probable one; ``assignment_top1`` of those
    whose every orbit's position, given the true group and the true orbits before it, is so, too.
    """
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    for index in torch.argsort((data.letters >= 0).sum(1)).split(VALIDATION_BATCH):
        batch = data.rows(index)
        groups, positions = model(batch)
        log_groups, log_positions = (functional.log_softmax(logits, dim=-1) for logits in (groups, positions))
        group = log_groups.gather(1, batch.space_group[:, None])
        orbits = log_positions.gather(2, batch.letters.clamp_min(0)[..., None])
        right = groups.argmax(1) == batch.space_group
        all_right = right & ((positions.argmax(-1) == batch.letters) | (batch.letters < 0)).all(1)
        sums += torch.stack([-group.sum(), -orbits.sum(), right.sum(), all_right.sum()]).double()
    model.train()
    names = ("group_nats", "positions_nats", "group_top1", "assignment_top1")
    return dict(zip(names, (sums / len(data)).tolist(), strict=True))


class _Run(TrainingLoop["SymmetryRecipe", Progress]):
    """The state of one training."""

    def __init__(self, recipe: SymmetryRecipe, out: Path, sets: _Sets, *, progress: bool, tell: Tell) -> None:
        super().__init__(recipe, Progress(), out, tell)
        self.file = sets.file
        tell(f"{out}: finds space groups and Wyckoff positions (3 ms a crystal), kept in this folder")
        described = symmetrized_set(sets.training, out / "symmetrized.safetensors", tell)
        labels = symmetry_labels(described)
        volumes = fit_atomic_volumes(sets.training.element_counts(), volume(sets.training.lattice.double()))
        self.memory = SymmetryMemory.build(labels, element_distances(volumes.numpy()).astype(np.float32))
        self.data = _with_neighbours(labels, self.memory, "neighbours", known=True, progress=progress)
        drawn = subgroup_sets(described, recipe.data.subgroups_shown, out, tell)
        self.subgroups = [_alone(symmetry_labels(one)) for one in drawn]
        self.validation: SymmetryBatch | None = None
        if sets.validation is not None:
            described = symmetrized_set(sets.validation, out / "symmetrized-validation.safetensors", tell)
            known = symmetry_labels(described)
            self.validation = _with_neighbours(known, self.memory, "validation", known=False, progress=progress)

        torch.manual_seed(recipe.seed)
        self.model = SymmetryPrior(recipe.symmetry).train()
        if recipe.initial_weights is not None:
            self.pretraining = load_initial_symmetry(self.model, recipe.initial_weights)
        parameters = list(self.model.parameters())
        groups = [
            {"params": [one for one in parameters if one.ndim > 1], "weight_decay": recipe.optimizer.weight_decay},
            {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=recipe.optimizer.learning_rate, betas=recipe.optimizer.betas, fused=True
        )
        lengths = (self.data.letters >= 0).sum(1).numpy()
        self.batches = EpochBatches(lengths, recipe.batch_size, recipe.seed)
        self.steps = recipe.epochs * self.batches.per_epoch

    def _validated(self, log: RunLog, bar: TrainingProgress) -> bool:
        state = self.progress
        ended = state.step % self.batches.per_epoch == 0
        if ended and self.validation is not None:
            bar.note("validating")
            state.validation = self._validate(self.validation)
            log.validation(state.step, state.crystals, state.seconds, state.validation)
            bar.note(f"space group right {state.validation['group_top1']:.1%}")
        return ended

    def _finish(self) -> Path:
        epochs = self.progress.crystals / len(self.data)
        record = self._record(f"{self.file.name}, {len(self.data)} crystals", epochs, "cpu")
        save_symmetry(self.out / "last", self.model, self.memory, record | {"validation": self.progress.validation})
        return self.out / "last"

    def _validate(self, data: SymmetryBatch) -> dict[str, float]:
        """Figures with similar compositions and, where training hides them at times, without."""
        figures = teacher_forced(self.model, data)
        if self.recipe.symmetry.neighbour_dropout > 0.0:
            alone = teacher_forced(self.model, data.without_neighbours(torch.ones(len(data), dtype=torch.bool)))
            figures |= {f"unaided_{name}": value for name, value in alone.items()}
        return figures

    def _drawn(self) -> tuple[SymmetryBatch, bool]:
        """The batch of this step, and whether it has all of the crystals' symmetry."""
        rows = torch.from_numpy(self.batches.at(self.progress.step))
        if self.subgroups and torch.rand(()) < self.recipe.data.subgroup_share:
            return self.subgroups[int(torch.randint(len(self.subgroups), ()))].rows(rows), False
        return self.data.rows(rows), True

    def _step(self) -> dict[str, Tensor]:
        batch, whole = self._drawn()
        chosen = self.recipe.optimizer
        rate = chosen.learning_rate * learning_rate_factor(self.recipe, self.progress.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        autocast = torch.autocast("cpu", torch.bfloat16) if self.recipe.precision == "bfloat16" else nullcontext()
        if self.recipe.symmetry.neighbour_dropout > 0.0:
            batch = batch.without_neighbours(torch.rand(len(batch)) < self.recipe.symmetry.neighbour_dropout)
        with autocast:
            group_logits, position_logits = self.model(batch)
        # a crystal has many subgroups: which one was drawn is nothing to learn
        group_loss = functional.cross_entropy(group_logits, batch.space_group) * whole
        # padding has one choice, whose loss is 0
        position_loss = functional.cross_entropy(
            position_logits.flatten(0, 1), batch.letters.clamp_min(0).flatten(), reduction="sum"
        ) / len(batch)
        self.optimizer.zero_grad(set_to_none=True)
        (group_loss + position_loss).backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), chosen.gradient_clip)
        self.optimizer.step()
        self.progress.step += 1
        self.progress.crystals += len(batch)
        return {
            "loss": (group_loss + position_loss).detach(),
            "group_nats": group_loss.detach() if whole else torch.tensor(math.nan),
            "positions_nats": position_loss.detach(),
            "gradient_norm": norm.detach(),
            "learning_rate": torch.tensor(rate),
        }

    def _checkpoint(self) -> None:
        counters = {
            **asdict(self.progress),
            "training_set": len(self.data),
            "symmetry": asdict(self.recipe.symmetry),
        }
        tensors = model_tensors(self.model, self.optimizer, None)
        save_checkpoint(self.out, self.progress.step, Checkpoint(tensors, counters))

    def _restore(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.state
        if not same_settings(saved.get("symmetry"), self.recipe.symmetry):
            raise InputError(f"{self.out}: its checkpoint was trained with another symmetry section than this recipe's")
        crystals = saved.get("training_set")
        if crystals != len(self.data):
            raise InputError(
                f"{self.out}: its checkpoint is of a training on {crystals} crystals, not {len(self.data)}"
            )
        checkpoint.load_model(self.model, self.optimizer, None)


def learning_rate_factor(recipe: SymmetryRecipe, step: int, steps: int) -> float:
    """Learning rate at a step of ``steps``, as a share of the recipe's: a cosine, times a linear warm-up."""
    last = recipe.optimizer.final_rate
    cosine = last + (1.0 - last) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
    return cosine * min(1.0, (step + 1) / max(1, recipe.optimizer.warmup_steps))


def _alone(labels: list[SymmetryLabel]) -> SymmetryBatch:
    """Labels without similar compositions, of which whole symmetries are known."""
    return symmetry_batch([symmetry_sequence(label) for label in labels])


def _with_neighbours(
    labels: list[SymmetryLabel], memory: SymmetryMemory, what: str, *, known: bool, progress: bool
) -> SymmetryBatch:
    """All labels as one batch; those that are ``known`` to the memory do not see themselves there."""
    rows = track(enumerate(labels), what, len(labels), console=Console(stderr=True), disable=not progress)
    return symmetry_batch(
        [
            symmetry_sequence(label, memory.neighbours(label.composition(), exclude=row if known else None))
            for row, label in rows
        ]
    )
