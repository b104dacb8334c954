"""Match rate of prototype substitution, unfiltered, at the first try and within 5 and 20.

Run: python benchmarks/prototype_baseline.py mp20 --split val --crystals 1000 [--out runs/prototypes.json]

MP-20: templates are its train split. MPTS-52, whose train split is not available: templates are the crystals of
mp_pool that are not in its validation or test split (by id), at most 0.3 eV/atom above the hull where that is known;
no template of the target's own composition is used.

``--out`` writes {material_id: [RMS distance or null for each proposal]}. A run that is cut short goes on where it
stopped: each crystal is a line of the file beside it, with the suffix .jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from dao.data.locate import training_file
from dao.data.store import PackedCrystals, read_packed
from dao.data.training_set import load_packed
from dao.evaluation.matching import rms_distances
from dao.evaluation.prototypes import Proposal, PrototypeTable
from dao.evaluation.targets import load_targets

TRIES = (1, 5, 20)
HIGHEST_E_ABOVE_HULL = 0.3
"""Templates for MPTS-52 lie at most this far above the hull, in eV/atom (DESIGN 5)."""

Distances = list[float | None]


def mpts52_templates(folder: Path | None, *, unknown: bool) -> PackedCrystals:
    """Crystals of the pool outside MPTS-52's validation and test splits; those of unknown energy if ``unknown``."""
    pool = read_packed(training_file("mp_pool.parquet", folder), columns=("e_above_hull",))
    energy = pool.columns["e_above_hull"].astype(float)
    low = np.where(np.isnan(energy), unknown, energy <= HIGHEST_E_ABOVE_HULL)
    held_out = set(read_packed(training_file("mpts52.parquet", folder)).ids)
    keep = low.astype(bool) & np.array([name not in held_out for name in pool.ids])
    return pool.select(torch.from_numpy(keep.nonzero()[0]))


def best(distances: Distances) -> float | None:
    """Smallest distance of those that match."""
    return min((distance for distance in distances if distance is not None), default=None)


def summary(distances: dict[str, Distances]) -> dict[str, float]:
    """Match rates (share) and RMSE over the matches at 1, 5 and 20 tries."""
    report: dict[str, float] = {"crystals": len(distances)}
    report["without_template"] = sum(not own for own in distances.values()) / len(distances)
    report["proposals"] = sum(map(len, distances.values())) / len(distances)
    for tries in TRIES:
        matched = [one for own in distances.values() if (one := best(own[:tries])) is not None]
        report[f"match_rate_{tries}"] = len(matched) / len(distances)
        report[f"rmse_{tries}"] = float(np.mean(matched)) if matched else float("nan")
    return report


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=("mp20", "mpts52"))
    parser.add_argument("--split", default="val")
    parser.add_argument("--crystals", type=int, default=1000)
    parser.add_argument("--known-energy", action="store_true", help="MPTS-52: only templates whose energy is known")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = training_file(f"{options.dataset}.parquet", options.data)
    targets = load_targets(path, split=options.split, count=options.crystals).crystals
    mpts52 = options.dataset == "mpts52"
    if mpts52:
        templates = mpts52_templates(options.data, unknown=not options.known_energy)
    else:
        templates = load_packed(path, split="train", max_atoms=None)
    table = PrototypeTable.build(templates)

    done: dict[str, Distances] = {}
    lines = options.out.with_suffix(".jsonl") if options.out else None
    if lines is not None and lines.exists():
        done = dict(json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines())
    left = [crystal for crystal in targets if crystal.name not in done]
    proposing, started = 0.0, time.perf_counter()
    for crystal in left:
        began = time.perf_counter()
        proposals: list[Proposal] = table.propose(
            crystal.atomic_numbers.tolist(), max(TRIES), exclude_composition=mpts52
        )
        proposing += time.perf_counter() - began
        done[crystal.name] = rms_distances([(proposal.crystal, crystal) for proposal in proposals], workers=1)
        if lines is not None:
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps([crystal.name, done[crystal.name]]) + "\n")
    done = {crystal.name: done[crystal.name] for crystal in targets}
    if options.out is not None:
        options.out.write_text(json.dumps(done), encoding="utf-8")
    report = {"dataset": options.dataset, "split": options.split, "templates": len(templates)} | summary(done)
    if left:
        report["propose_seconds_per_crystal"] = proposing / len(left)
        report["seconds_per_crystal"] = (time.perf_counter() - started) / len(left)
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in report.items()}))


if __name__ == "__main__":
    main()
