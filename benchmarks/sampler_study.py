"""Match rate against network evaluations, for each sampler and velocity scale of a flow generator, on validation.

Run: python benchmarks/sampler_study.py --weights small --crystals 400 --out sampler_study.csv [--plan budgets|scales]

One sample a crystal of the MP-20 validation split (fixed subset), unfiltered. Rows are appended as they are finished,
and those that the file already holds are not run again. ``evaluations`` is what was really spent a sample, with the
space group's and with walks that had to be repeated.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from dao.data.locate import training_file
from dao.evaluation.matching import rms_distances
from dao.models import Generator
from dao.processes.config import SamplerSettings
from dao.sampling import SampleRequest, evaluations, sample
from dao.training.validation import validation_crystals

BUDGETS = (10, 20, 50, 100, 200, 1000)
"""Network evaluations of one walk, but for the one that predicts the space group."""

FIELDS = (
    "method",
    "steps",
    "coordinate_scale",
    "lattice_scale",
    "budget",
    "evaluations",
    "match_rate",
    "rmse",
    "cpu_seconds",
)


def plan(kind: str, base: SamplerSettings) -> Iterator[SamplerSettings]:
    """The settings to try, cheapest first."""
    if kind == "budgets":
        for budget in BUDGETS:
            yield base.updated(method="euler", steps=budget)
            yield base.updated(method="midpoint", steps=budget // 2)
    else:
        for scale in (0.0, 2.0, 5.0, 10.0, 20.0, 40.0):
            for method, steps in (("euler", 50), ("midpoint", 25)):
                yield base.updated(method=method, steps=steps, coordinate_velocity_scale=scale)
        for scale in (1.0, 3.0):
            for method, steps in (("euler", 50), ("midpoint", 25)):
                yield base.updated(method=method, steps=steps, lattice_velocity_scale=scale)


def main() -> None:
    """Append one row a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="small")
    parser.add_argument("--crystals", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--plan", choices=("budgets", "scales"), default="budgets")
    parser.add_argument("--out", type=Path, default=Path("sampler_study.csv"))
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Generator.load(options.weights)
    crystals = validation_crystals(training_file("mp20.parquet", options.data), "val", 20, options.crystals, 1)
    seen: Counter[tuple[int, ...]] = Counter()
    requests = []
    for crystal in crystals:
        numbers = tuple(sorted(crystal.atomic_numbers.tolist()))
        requests.append(SampleRequest(numbers, replica=seen[numbers]))
        seen[numbers] += 1
    done = set()
    if options.out.exists():
        with options.out.open(newline="") as stream:
            done = {tuple(row[name] for name in FIELDS[:4]) for row in csv.DictReader(stream)}
    for settings in plan(options.plan, model.config.sampler.updated(precision=options.precision)):
        key = (settings.method, settings.steps, settings.coordinate_velocity_scale, settings.lattice_velocity_scale)
        if tuple(map(str, key)) in done:
            continue
        started = time.process_time()
        samples = {
            one.request: one for batch in sample(model, requests, seed=options.seed, settings=settings) for one in batch
        }
        spent = time.process_time() - started
        distances = rms_distances(
            [(samples[request].crystal, crystal) for request, crystal in zip(requests, crystals, strict=True)]
        )
        matched = [distance for distance in distances if distance is not None]
        per_walk = evaluations(model, settings)
        walks = sum(one.attempts for one in samples.values()) / len(samples)
        row = (
            *key,
            per_walk - (model.space_group_head is not None),
            round(per_walk * walks, 1),
            round(len(matched) / len(crystals), 4),
            round(sum(matched) / max(1, len(matched)), 4),
            round(spent, 1),
        )
        new = not options.out.exists()
        with options.out.open("a", newline="") as stream:
            writer = csv.writer(stream)
            if new:
                writer.writerow(FIELDS)
            writer.writerow(row)
        print(*row, flush=True)


if __name__ == "__main__":
    main()
