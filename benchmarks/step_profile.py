"""Where a training step's time goes: recipe ``mp20-flow-nano`` on one core, eager and with compiled blocks.

Run: python benchmarks/step_profile.py [--steps 12]                    shares by phase and by kind of operation
     python benchmarks/step_profile.py --memory 256 [--compiled]       peak memory of a few steps at that batch size
     python benchmarks/step_profile.py --compile blocks|network        seconds to compile, and crystals/s after

Batches are of 256 MP-20 training crystals of 11 and 12 atoms, padded to 12. Times are processor times of this process.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from dao import recipes
from dao.data.locate import training_file
from dao.data.store import PackedCrystals
from dao.data.training_set import load_packed
from dao.model_config import GeneratorConfig
from dao.models import Generator
from dao.processes.base import Noised
from dao.recipes.schema import Recipe
from dao.training.ema import ExponentialAverage
from dao.training.fit import TrainingNoise
from dao.training.objectives import generator_objective

ATOMS = 12

KINDS = {
    "fused elementwise (compiled)": ("CompiledFxGraph", "cpp_fused"),
    "dense products": ("aten::mm", "aten::addmm", "mkl::", "aten::_mkl_linear", "mkldnn::_linear_pointwise"),
    "batched products": ("aten::bmm", "aten::baddbmm"),
    "softmax, norms, GELU": ("softmax", "layer_norm", "gelu", "silu", "sigmoid", "log_softmax"),
    "optimizer, clipping, average": ("aten::_fused_adamw", "aten::_foreach", "aten::linalg_vector_norm"),
    "copies and casts": ("copy", "aten::cat", "aten::clone", "aten::contiguous", "aten::fill_", "aten::zero_"),
    "elementwise": ("aten::mul", "aten::add", "aten::sub", "aten::div", "aten::lerp", "aten::neg", "aten::sum"),
}


def kind_of(name: str) -> str:
    """The first kind whose marks the operation's name bears."""
    return next((kind for kind, marks in KINDS.items() if any(mark in name for mark in marks)), "rest")


class Step:
    """One training step, cut into phases whose processor time is counted."""

    def __init__(self, crystals: PackedCrystals, batch_size: int) -> None:
        recipe = recipes.load("mp20-flow-nano")
        assert isinstance(recipe, Recipe)
        self.recipe = recipe
        torch.manual_seed(0)
        self.model = Generator(
            GeneratorConfig(network=self.recipe.network, process=self.recipe.process, sampler=self.recipe.sampler)
        )
        self.model.process.representation.fit(crystals.lattice, crystals.element_counts())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.average = ExponentialAverage(self.model, 0.999)
        labels = {"space_group": torch.randint(1, 231, (len(crystals),))}
        self.crystals = replace(crystals, labels=labels)
        self.of_size = ((crystals.num_atoms > ATOMS - 2) & (crystals.num_atoms <= ATOMS)).nonzero()[:, 0]
        self.noise = TrainingNoise(batch_size, torch.Generator().manual_seed(0), torch.device("cpu"))
        self.seconds: dict[str, float] = defaultdict(float)
        draw = self.model.process.noised

        def timed(*arguments: Any) -> Noised:
            started = time.process_time()
            noised = draw(*arguments)
            self.seconds["noise, assignment"] += time.process_time() - started
            self.seconds["forward"] -= time.process_time() - started
            return noised

        self.model.process.noised = timed  # type: ignore[assignment, method-assign]

    def __call__(self) -> None:
        """Take it."""
        model, marks = self.model, [time.process_time()]
        batch = self.crystals.batch(self.of_size[torch.randint(len(self.of_size), (self.noise.batch,))], ATOMS)
        marks.append(time.process_time())
        with torch.autocast("cpu", torch.bfloat16):
            objective = generator_objective(model, batch, self.noise)
        marks.append(time.process_time())
        objective.total.backward()
        marks.append(time.process_time())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        marks.append(time.process_time())
        self.average.update(model)
        marks.append(time.process_time())
        for name, start, end in zip(
            ("batch", "forward", "backward", "optimizer", "average"), marks, marks[1:], strict=False
        ):
            self.seconds[name] += end - start

    def many(self, count: int) -> float:
        """Processor seconds of that many steps."""
        self.seconds.clear()
        for _ in range(count):
            self()
        return sum(self.seconds.values())


def shares(step: Step, count: int) -> None:
    """Print shares by phase, then by kind of operation."""
    step.many(2)
    total = step.many(count)
    print(f"{step.noise.batch * count / total:.0f} crystals/s, {1e3 * total / count:.0f} ms a step")
    print(*(f"  {name:30s} {100 * seconds / total:5.1f} %" for name, seconds in step.seconds.items()), sep="\n")
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        step.many(count)
    kinds: Counter[str] = Counter()
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for event in recorded.key_averages():
        kinds[kind_of(event.key)] += event.self_cpu_time_total
        names[kind_of(event.key)][event.key] += event.self_cpu_time_total
    whole = sum(kinds.values())
    for kind, microseconds in kinds.most_common():
        largest = ", ".join(f"{name} {100 * part / whole:.1f}" for name, part in names[kind].most_common(3))
        print(f"  {kind:30s} {100 * microseconds / whole:5.1f} %   ({largest})")


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--memory", type=int)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--compile", choices=("blocks", "network"))
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    crystals = load_packed(training_file("mp20.parquet", options.data), split="train", max_atoms=20)
    step = Step(crystals, options.memory or 256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if options.compiled or options.compile == "blocks":
        for block in step.model.network.blocks:
            block.compile(dynamic=True)
    elif options.compile == "network":
        step.model.network.compile(dynamic=True)
    if options.memory:
        step.many(3)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"batch {options.memory}: {after / 1e6:.2f} GB, of which {(after - before) / 1e6:.2f} in steps")
    elif options.compile:
        started, cpu = time.monotonic(), time.process_time()
        step.many(1)
        print(f"first step: {time.monotonic() - started:.0f} s, processor {time.process_time() - cpu:.0f} s")
        step.many(2)
        print(f"{256 * options.steps / step.many(options.steps):.0f} crystals/s")
    else:
        print("eager")
        shares(step, options.steps)
        for block in step.model.network.blocks:
            block.compile(dynamic=True)
        print("blocks compiled")
        shares(step, options.steps)


if __name__ == "__main__":
    main()
