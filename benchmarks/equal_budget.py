"""Four pairs of network and process at equal budget: match rates, training and sampling speed, as a Markdown table.

Train each pair on one core, then evaluate:

    for pair in crysformer-flow crysformer-diffusion cspnet-flow cspnet-diffusion; do
        dao train study-$pair --out runs/study/study-$pair
    done
    python benchmarks/equal_budget.py runs/study --crystals 351232 --cpu-seconds 1310 --out equal_budget.jsonl

Weights are the averaged snapshots of each run: the one at ``--crystals`` training crystals, and the one nearest to
``--cpu-seconds`` of processor time (which, unlike the wall clock, does not count what a busy host takes away). Match
rates are unfiltered, one sample a crystal, on fixed random crystals of MP-20's validation and test splits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from dao.data.locate import training_file
from dao.evaluation.tables import table
from dao.evaluation.targets import load_targets
from dao.models import Generator
from dao.processes.config import SamplerSettings
from dao.sampling import evaluations
from dao.training.validation import match_first

PAIRS = ("crysformer-flow", "crysformer-diffusion", "cspnet-flow", "cspnet-diffusion")

DIFFUSION_STEPS = 100
"""Of 1,000: predictor and corrector at each, hence 200 evaluations."""

HEADER = (
    "pair",
    "budget",
    "parameters",
    "crystals seen",
    "CPU seconds",
    "training crystals/s",
    "evaluations a sample",
    "sampled crystals/s",
    "val match rate (%) / RMSE",
    "test match rate (%) / RMSE",
)


def snapshots(run: Path) -> list[tuple[int, float, Path]]:
    """(crystals seen, CPU seconds, folder) of each snapshot."""
    found = []
    for config in sorted(run.glob("snapshots/*/config.json")):
        record = json.loads(config.read_text())["training"]
        found.append((record["crystals_seen"], 3600.0 * record["cpu_hours"], config.parent))
    return found


def chosen(run: Path, crystals: int, seconds: float) -> Iterator[tuple[str, int, float, Path]]:
    """The snapshot of each budget."""
    known = snapshots(run)
    yield "equal crystals", *min(known, key=lambda one: abs(one[0] - crystals))
    yield "equal time", *min(known, key=lambda one: abs(one[1] - seconds))


def measure(folder: Path, data: Path, count: int, steps: int | None) -> dict[str, float]:
    """Match rate and RMSE on both splits, and the speed of sampling."""
    model = Generator.load(folder)
    settings: SamplerSettings = model.config.sampler.updated(precision="bfloat16", steps=steps)
    figures: dict[str, float] = {"evaluations": evaluations(model, settings), "parameters": model.parameters_count}
    for split in ("val", "test"):
        crystals = load_targets(data, split=split, count=count).crystals
        started = time.process_time()
        result = match_first(model, crystals, seed=0, settings=settings)
        figures[f"{split}_match_rate"], figures[f"{split}_rmse"] = result.match_rate, result.rmse
        figures[f"{split}_seconds"] = time.process_time() - started
    return figures


def main() -> None:
    """Append a line a snapshot, then print the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--crystals", type=int, required=True)
    parser.add_argument("--cpu-seconds", type=float, required=True)
    parser.add_argument("--targets", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("equal_budget.jsonl"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pairs", nargs="+", default=PAIRS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = training_file("mp20.parquet", options.data)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {record["folder"]: record for record in map(json.loads, lines)}
    body = []
    for pair in options.pairs:
        for budget, seen, seconds, folder in chosen(
            options.runs / f"study-{pair}", options.crystals, options.cpu_seconds
        ):
            if str(folder) not in done:
                steps = DIFFUSION_STEPS if pair.endswith("diffusion") else None
                done[str(folder)] = {"folder": str(folder), **measure(folder, data, options.targets, steps)}
                with options.out.open("a") as stream:
                    stream.write(json.dumps(done[str(folder)]) + "\n")
            one = done[str(folder)]
            rates = [
                f"{100 * one[f'{split}_match_rate']:.1f} / {one[f'{split}_rmse']:.3f}" for split in ("val", "test")
            ]
            sampled = 2 * options.targets / (one["val_seconds"] + one["test_seconds"])
            body.append(
                [
                    pair,
                    budget,
                    f"{one['parameters'] / 1e6:.2f} M",
                    f"{seen:,}",
                    f"{seconds:.0f}",
                    f"{seen / seconds:.0f}",
                    f"{one['evaluations']:.0f}",
                    f"{sampled:.1f}",
                    *rates,
                ]
            )
    print(table(HEADER, body, words=(0, 1)))


if __name__ == "__main__":
    main()
