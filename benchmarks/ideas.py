"""One idea against the baseline recipe at equal seconds of training: ``mp20-flow-nano`` with a single change.

Run: python benchmarks/ideas.py IDEA [--seconds 300] [--seed 0] [--out ideas.jsonl]    (IDEA "list" prints them)

Trains on MP-20 train for a number of **processor** seconds of this process (the host takes wall time away): batches,
objective, backward, optimizer and average count; compiling, reading data, labelling space groups and evaluating do not.
The rate is warmed up over the first 5 % of the seconds and falls linearly to 1 % over the last 30 %, so that every idea
is judged annealed. Then one structure for each of 1,000 fixed MP-20 validation crystals (the subset of
```dao train`'s validation``), 20 Euler steps with the recipe's velocity scale, bfloat16, once with the space group that
the model itself holds likeliest and once with the true one. Losses of the averaged weights on the same crystals are a
finer measure than match rates: four draws of noise and uniform time each, space group given, and the cross-entropy of
the space group from pure noise. One JSON line is appended.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from ideas_table import IDEAS, Idea
from torch import Tensor, nn
from torch.nn import functional

from dao import recipes
from dao.crystal import Crystal, CrystalBatch
from dao.data.labels import space_group_labels
from dao.data.loader import BucketLoader
from dao.data.locate import training_file
from dao.data.store import PackedCrystals, pack_crystals
from dao.data.training_set import load_packed
from dao.evaluation.matching import rms_distances
from dao.model_config import GeneratorConfig
from dao.models import Generator
from dao.recipes.schema import Recipe
from dao.sampling import SampleRequest, sample
from dao.training.ema import ExponentialAverage
from dao.training.fit import TrainingNoise
from dao.training.objectives import generator_objective
from dao.training.validation import validation_crystals

WARMUP = 0.05
DECAY = 0.3
FINAL = 0.01
CURVE = 8
"""Points of the training curve."""

CACHE = Path(tempfile.gettempdir()) / "dao-ideas"


def labels_of(name: str, crystals: PackedCrystals) -> Tensor:
    """Space groups, worked out once (a minute for the training set) and kept outside the repository."""
    path = CACHE / f"space-groups-{name}-{len(crystals)}.npy"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        np.save(path, space_group_labels(crystals).numpy())
    return torch.from_numpy(np.load(path, allow_pickle=False))


def rate_factor(share: float) -> float:
    """Learning rate after that share of the seconds, as a share of the recipe's."""
    return min(1.0, (share + 0.002) / WARMUP, max(FINAL, FINAL + (1.0 - FINAL) * (1.0 - share) / DECAY))


@dataclass
class Trained:
    """What a training leaves."""

    model: Generator
    averages: dict[float, ExponentialAverage]
    crystals: int = 0
    steps: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    compile_seconds: float = 0.0
    losses: list[tuple[float, dict[str, float]]] = field(default_factory=list)


class Trial:
    """One idea, one seed."""

    def __init__(self, idea: Idea, recipe: Recipe, training_set: PackedCrystals) -> None:
        self.idea, self.recipe = idea, recipe
        torch.manual_seed(recipe.seed)
        self.config = GeneratorConfig(
            name=recipe.name, network=recipe.network, process=recipe.process, sampler=recipe.sampler
        )
        self.model = idea.build(self.config)
        self.model.process.representation.fit(training_set.lattice, training_set.element_counts())
        self.training_set = training_set
        self.autocast = torch.autocast("cpu", torch.bfloat16) if recipe.precision == "bfloat16" else nullcontext()

    def _backward(self, batch: CrystalBatch, noise: TrainingNoise) -> dict[str, Tensor]:
        with self.autocast:
            objective = generator_objective(self.model, batch, noise)
        objective.total.backward()
        return {"loss": objective.total, **objective.parts}

    def _compile(self) -> float:
        """Compile the blocks and meet every padding twice; the weights stay as they are."""
        started = time.process_time()
        for block in self.model.network.blocks:
            block.compile(dynamic=True)
        loader = BucketLoader(self.training_set, self.recipe.batch_size, seed=99)
        noise = TrainingNoise(loader.batch_size, torch.Generator().manual_seed(99), torch.device("cpu"))
        met: dict[int, int] = {}
        for _, batch in zip(range(60), loader, strict=False):
            width = batch.mask.shape[1]
            if met.setdefault(width, 0) < 2:
                met[width] += 1
                self._backward(batch, noise)
        self.model.zero_grad(set_to_none=True)
        return time.process_time() - started

    def train(self, seconds: float) -> Trained:
        """Train for so many processor seconds."""
        recipe, model = self.recipe, self.model
        averages = {
            decay: ExponentialAverage(model, decay) for decay in (recipe.optimizer.ema_decay, *self.idea.averages)
        }
        trained = Trained(model, averages, compile_seconds=self._compile())
        torch.manual_seed(recipe.seed)
        loader = BucketLoader(self.training_set, recipe.batch_size, recipe.seed)
        noise = TrainingNoise(loader.batch_size, torch.Generator().manual_seed(recipe.seed), torch.device("cpu"))
        parameters = list(model.parameters())
        optimizers = self.idea.optimizers(model, recipe.optimizer)
        points: list[list[dict[str, Tensor]]] = [[] for _ in range(CURVE)]
        seen_at = [0] * CURVE
        started, wall = time.process_time(), time.monotonic()
        for batch in loader:
            share = (time.process_time() - started) / seconds
            if share >= 1.0:
                break
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = recipe.optimizer.learning_rate * rate_factor(share)
                optimizer.zero_grad(set_to_none=True)
            figures = self._backward(batch, noise)
            nn.utils.clip_grad_norm_(parameters, recipe.optimizer.gradient_clip)
            for optimizer in optimizers:
                optimizer.step()
            for average in averages.values():
                average.update(model)
            trained.crystals += len(batch)
            trained.steps += 1
            points[int(share * CURVE)].append({name: value.detach() for name, value in figures.items()})
            seen_at[int(share * CURVE)] = trained.crystals
        trained.cpu_seconds, trained.wall_seconds = time.process_time() - started, time.monotonic() - wall
        trained.losses = [
            (seen, {name: round(float(torch.stack([p[name] for p in point]).mean()), 4) for name in point[0]})
            for seen, point in zip(seen_at, points, strict=True)
            if point
        ]
        return trained

    def averaged(self, average: ExponentialAverage) -> Generator:
        """A model of its own, not compiled, with averaged weights."""
        model = self.idea.build(self.config)
        model.load_state_dict(self.model.state_dict())
        average.copy_to(model)
        return model.eval()


def batches_of(crystals: PackedCrystals) -> Iterator[CrystalBatch]:
    """In order of size, 125 at a time."""
    for indices in crystals.num_atoms.argsort(stable=True).split(125):
        yield crystals.batch(indices)


@torch.no_grad()
def validation_losses(model: Generator, crystals: PackedCrystals, draws: int = 4) -> dict[str, float]:
    """Losses of the process, in its own units, and what the model makes of the space group."""
    sums: dict[str, float] = {"coordinates": 0.0, "lattice": 0.0, "space_group": 0.0, "space_group_right": 0.0}
    generator = torch.Generator().manual_seed(0)
    count = 0
    for _ in range(draws):
        for batch in batches_of(crystals):
            noise = TrainingNoise(len(batch), generator, torch.device("cpu"))
            groups = batch.labels["space_group"] if model.space_group_head is not None else None
            clean = model.encode(batch)
            noised = model.process.noised(clean, noise.uniform(), batch.atomic_numbers, batch.mask, noise)
            prediction = model(batch.atomic_numbers, batch.mask, noised.state, noised.time, groups)
            losses = model.process.loss(prediction, noised, batch.mask)
            sums["coordinates"] += float(losses.frac_coords) * len(batch)
            sums["lattice"] += float(losses.lattice) * len(batch)
            if groups is not None:
                state = model.process.prior(batch.mask, noise)
                logits = model(batch.atomic_numbers, batch.mask, state, torch.ones(len(batch))).space_group_logits
                assert logits is not None
                sums["space_group"] += float(functional.cross_entropy(logits, groups)) * len(batch)
                sums["space_group_right"] += float((logits.argmax(-1) == groups).sum())
            count += len(batch)
    return {name: round(value / count, 4) for name, value in sums.items()}


def match(
    model: Generator, crystals: tuple[Crystal, ...], groups: list[int] | None, seed: int = 0
) -> list[float | None]:
    """RMS distance of one sample a crystal, or None."""
    settings = model.config.sampler.updated(steps=20, precision="bfloat16")
    requests, seen = [], dict[tuple[int, ...], int]()
    for i, crystal in enumerate(crystals):
        numbers = tuple(sorted(crystal.atomic_numbers.tolist()))
        seen[numbers] = seen.get(numbers, -1) + 1
        requests.append(
            SampleRequest(numbers, space_group=None if groups is None else groups[i], replica=seen[numbers])
        )
    done = {
        one.request: one.crystal for batch in sample(model, requests, seed=seed, settings=settings) for one in batch
    }
    return rms_distances([(done[request], crystal) for request, crystal in zip(requests, crystals, strict=True)])


def matched_figures(distances: list[float | None]) -> dict[str, float | str]:
    """Match rate with its standard error (per cent), RMSE, and which crystals matched (a bit each, as hex)."""
    hits = [distance for distance in distances if distance is not None]
    rate = len(hits) / len(distances)
    bits = "".join("0" if distance is None else "1" for distance in distances)
    return {
        "match_rate": round(100.0 * rate, 2),
        "standard_error": round(100.0 * math.sqrt(rate * (1.0 - rate) / len(distances)), 2),
        "rmse": round(sum(hits) / max(1, len(hits)), 4),
        "matched": f"{int(bits, 2):x}",
    }


def main() -> None:
    """Append one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("idea", choices=[*IDEAS, "list"])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crystals", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("ideas.jsonl"))
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    if options.idea == "list":
        print(*(f"{name:22s} {idea.says}" for name, idea in IDEAS.items()), sep="\n")
        return
    torch.set_num_threads(1)
    idea = IDEAS[options.idea]
    recipe = recipes.load("mp20-flow-nano", {**idea.recipe, "seed": str(options.seed)})
    assert isinstance(recipe, Recipe)
    path = training_file(recipe.data.file, options.data)
    training_set = load_packed(path, split=recipe.data.train_split, max_atoms=recipe.data.max_atoms)
    training_set = replace(training_set, labels={"space_group": labels_of("mp20-train", training_set)})
    # the subset is drawn with a seed of its own, that of `dao train`'s validation
    crystals = validation_crystals(path, recipe.data.validation_split, recipe.data.max_atoms, options.crystals, 1)
    packed = pack_crystals(crystals)
    packed = replace(packed, labels={"space_group": labels_of("mp20-val", packed)})
    trial = Trial(idea, recipe, training_set)
    trained = trial.train(options.seconds)
    figures = {
        "idea": options.idea,
        "seed": options.seed,
        "parameters": trained.model.parameters_count,
        "crystals": trained.crystals,
        "steps": trained.steps,
        "cpu_seconds": round(trained.cpu_seconds, 1),
        "wall_seconds": round(trained.wall_seconds, 1),
        "compile_seconds": round(trained.compile_seconds, 1),
        "crystals_per_second": round(trained.crystals / trained.cpu_seconds, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "curve": trained.losses,
    }
    groups = packed.labels["space_group"].tolist() if trained.model.space_group_head is not None else None
    for decay, average in trained.averages.items():
        model = trial.averaged(average)
        started = time.process_time()
        line = {**figures, "ema_decay": decay, "validation": validation_losses(model, packed)}
        line.update(matched_figures(match(model, crystals, None)))
        if groups is not None:
            line["true_space_group"] = matched_figures(match(model, crystals, groups))
        line["evaluation_seconds"] = round(time.process_time() - started, 1)
        with options.out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        print({name: value for name, value in line.items() if name not in ("curve", "matched")}, flush=True)


if __name__ == "__main__":
    main()
