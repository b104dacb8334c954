"""Fast matching against pymatgen one pair at a time: same decisions? How much faster?

Run: python benchmarks/matching.py [--pairs 10000] [--weights small] [--seed 0] [--data FILE]

References are MP-20 validation crystals. Predictions are of three kinds, in equal shares: samples of a generator (10
steps; `--weights ""` for none), perturbed copies of the truth (strains of 1 to 25 %, atoms moved by up to 0.15 of the
cell), and other crystals with the same anonymous formula, elements substituted and scaled to the truth's volume. Both
ways decide each pair at the benchmark's and at pymatgen's default tolerances. Wall-clock times; keep the machine quiet.
Exit status 1 where a decision differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from pymatgen.core.structure_matcher import StructureMatcher

from dao.crystal import Crystal
from dao.data.locate import training_file
from dao.data.training_set import load_packed
from dao.evaluation.matching import Match, match_pairs, matcher

STRAINS = (0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.25)
MOVES = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15)
EACH = 4
"""Predictions of each kind for a reference."""

Pairs = list[tuple[int, int]]
Distances = list[tuple[float | None, float | None]]


def perturbed(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    strain, move = rng.choice(STRAINS), rng.choice(MOVES)
    lattice = crystal.lattice @ (np.eye(3) + strain * rng.uniform(-1, 1, (3, 3)))
    coords = crystal.frac_coords + move * rng.uniform(-1, 1, (crystal.num_atoms, 3)) + rng.random(3)
    order = rng.permutation(crystal.num_atoms)
    return Crystal(crystal.atomic_numbers[order], coords[order], lattice)


def by_count(crystal: Crystal) -> list[int]:
    return sorted(crystal.counts, key=lambda number: (crystal.counts[number], number))


def substituted(other: Crystal, crystal: Crystal) -> Crystal:
    into = dict(zip(by_count(other), by_count(crystal), strict=True))
    scale = (crystal.volume / other.volume) ** (1 / 3)
    return Crystal([into[number] for number in other.atomic_numbers.tolist()], other.frac_coords, scale * other.lattice)


def sampled(crystals: list[Crystal], weights: str, seed: int) -> list[tuple[Crystal | None, int]]:
    """EACH samples for each crystal, with the number of the crystal."""
    import torch

    from dao.models import Generator
    from dao.processes.config import SamplerSettings
    from dao.sampling import SampleRequest, sample

    torch.set_num_threads(1)
    owners: dict[SampleRequest, int] = {}
    seen: dict[tuple[int, ...], int] = defaultdict(int)
    for number, crystal in enumerate(crystals):
        elements = tuple(sorted(crystal.atomic_numbers.tolist()))
        for _ in range(EACH):
            owners[SampleRequest(elements, seen[elements])] = number
            seen[elements] += 1
    batches = sample(Generator.load(weights), list(owners), seed=seed, settings=SamplerSettings(steps=10))
    return [(one.crystal, owners[one.request]) for batch in batches for one in batch]


def make(pairs: int, weights: str, seed: int, data: Path | None) -> tuple[list[Crystal | None], list[Crystal], Pairs]:
    packed = load_packed(training_file("mp20.parquet", data), split="val")
    rng = np.random.default_rng(seed)
    everyone = [packed.crystal(int(number)) for number in rng.permutation(len(packed))]
    groups: dict[tuple[int, ...], list[Crystal]] = defaultdict(list)
    for crystal in everyone:
        groups[tuple(sorted(crystal.counts.values()))].append(crystal)
    alike = [crystal for crystal in everyone if len(groups[tuple(sorted(crystal.counts.values()))]) > EACH]
    references = alike[: -(-pairs // ((3 if weights else 2) * EACH))]
    made: list[tuple[Crystal | None, int]] = []
    for number, crystal in enumerate(references):
        made += [(perturbed(crystal, rng), number) for _ in range(EACH)]
        group = [other for other in groups[tuple(sorted(crystal.counts.values()))] if other is not crystal]
        made += [
            (substituted(group[int(i)], crystal), number) for i in rng.choice(len(group), size=EACH, replace=False)
        ]
    if weights:
        made += sampled(references, weights, seed)
    made.sort(key=lambda pair: pair[1])
    return [one for one, _ in made], references, [(i, number) for i, (_, number) in enumerate(made)]


def one_at_a_time(
    predictions: list[Crystal | None], references: list[Crystal], pairs: Pairs
) -> tuple[Distances, list[float]]:
    """What pymatgen says at both tolerances, and the seconds of each pass."""
    columns, seconds = [], []
    for judge in (matcher(), StructureMatcher()):
        # what the pass before reduced is no help to this one
        judge._get_reduced_istructure.cache_clear()
        start = time.perf_counter()
        column: list[float | None] = []
        for one, two in pairs:
            prediction = predictions[one]
            found = None
            if prediction is not None:
                found = judge.get_rms_dist(prediction.to_structure(), references[two].to_structure())
            column.append(None if found is None else float(found[0]))
        columns.append(column)
        seconds.append(time.perf_counter() - start)
    return list(zip(*columns, strict=True)), seconds


def compare(slow: Distances, fast: list[Match]) -> dict[str, float]:
    different, largest = 0, 0.0
    for expected, match in zip(slow, fast, strict=True):
        for one, two in zip(expected, (match.rms, match.strict), strict=True):
            different += (one is None) != (two is None)
            if one is not None and two is not None:
                largest = max(largest, abs(one - two))
    return {"different_decisions": different, "largest_rms_difference": largest}


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--weights", default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    predictions, references, pairs = make(options.pairs, options.weights, options.seed, options.data)
    slow, seconds = one_at_a_time(predictions, references, pairs)
    report: dict[str, object] = {
        "pairs": len(pairs),
        "references": len(references),
        "matches": sum(rms is not None for rms, _ in slow),
        "strict_matches": sum(strict is not None for _, strict in slow),
        "only_one_of_both": sum((rms is None) != (strict is None) for rms, strict in slow),
        "rms_quartiles": np.round(np.percentile([r for r, _ in slow if r is not None], [25, 50, 75]), 3).tolist(),
        "pymatgen_seconds": round(sum(seconds), 1),
        "pymatgen_seconds_of_which_benchmark_tolerances": round(seconds[0], 1),
    }
    wrong = 0.0
    for workers in (1, 2):
        start = time.perf_counter()
        fast = match_pairs(predictions, references, pairs, workers=workers)
        taken = time.perf_counter() - start
        differences = compare(slow, fast)
        wrong += differences["different_decisions"]
        report[f"workers_{workers}"] = {
            "seconds": round(taken, 1),
            "ratio": round(sum(seconds) / taken, 2),
            "ratio_to_benchmark_tolerances_alone": round(seconds[0] / taken, 2),
            "timed_out": sum(match.timed_out for match in fast),
            **differences,
        }
    report["load_average"] = os.getloadavg()
    print(json.dumps(report))
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
