"""What should decide the order of candidates: how often they came, their predicted energy, or both.

Run: python benchmarks/ranking.py EVALUATION --data mp20.parquet --predictor predictor

EVALUATION is the folder of a ``dao evaluate csp`` of generated samples on a **validation** split. Candidates of every
target are made, judged and compared with the truth once, one line each in EVALUATION/candidates-FINGERPRINT.jsonl (a
killed run goes on). Printed is the share of targets whose first candidate matches: by recurrence, by energy, and by the
free energy E - T log(count) at several T (eV/atom), in which a crystal that the generator proposes often may lie
somewhat higher, as in a Boltzmann distribution.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dao.evaluation.finished import Finished, read_finished
from dao.evaluation.matching import match_pairs
from dao.evaluation.metrics import Bootstrap
from dao.jsonl import JsonLines
from dao.models import Predictor
from dao.prediction.energies import load_predictor
from dao.prediction.judging import Judge
from dao.prediction.ranking import rank_by_recurrence
from dao.weights import DEFAULT_PREDICTOR, resolve

TEMPERATURES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0)


@dataclass(frozen=True)
class Judged:
    """The candidates of one target, in order of recurrence."""

    row: int
    counts: list[int]
    energies: list[float]
    matches: list[bool]

    def first_matches(self, temperature: float) -> bool:
        """Whether the candidate of least E - T log(count) is the true crystal; T = inf: recurrence."""
        if not self.counts:
            return False
        if math.isinf(temperature):
            return self.matches[0]
        free = [e - temperature * math.log(n) for e, n in zip(self.energies, self.counts, strict=True)]
        return self.matches[int(np.argmin(free))]


def judged(finished: Finished, row: int, model: Predictor) -> Judged:
    """Rank the samples of a target, ask the predictor, and compare every candidate with the truth."""
    target = finished.targets.crystals[row]
    samples = [(1, i, crystal) for i, crystal in enumerate(finished.crystals[row]) if crystal is not None]
    ranked = rank_by_recurrence(target.name, target.num_atoms, samples, total=len(samples), source="evaluation")
    ranked = Judge(ranker=model).rank(ranked)
    pairs = [(i, 0) for i in range(len(ranked))]
    found = match_pairs([one.crystal for one in ranked], [target], pairs, seconds=10.0)
    matches = {match.prediction: match.rms is not None for match in found}
    energies = [math.nan if one.e_above_hull is None else one.e_above_hull for one in ranked]
    return Judged(
        row=row,
        counts=[one.count for one in ranked],
        energies=[math.inf if math.isnan(energy) else energy for energy in energies],
        matches=[matches[i] for i in range(len(ranked))],
    )


def main() -> None:
    """Judge what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--predictor", default=DEFAULT_PREDICTOR)
    options = parser.parse_args()
    finished = read_finished(options.evaluation, options.data, split=options.split)
    model = load_predictor(resolve(options.predictor), "cpu")
    made_by = {"samples": finished.made_by, "targets": finished.targets.fingerprint(), "predictor": model.fingerprint}
    file = JsonLines(options.evaluation / f"candidates-{model.fingerprint}.jsonl", made_by, "judged candidates")
    done = {one.row: one for one in file.read(lambda line: Judged(**line))}
    for row in range(len(finished.targets.crystals)):
        if row not in done:
            done[row] = judged(finished, row, model)
            file.append([asdict(done[row])])
    rows = [done[row] for row in sorted(done)]
    bootstrap = Bootstrap(len(rows), 1000, 0)
    print(f"{len(rows)} targets, {sum(map(len, (one.counts for one in rows))) / len(rows):.1f} candidates each")
    print("| ranked by | top-1 | 95 % |\n|---|---|---|")
    for name, temperature in [
        ("recurrence", math.inf),
        ("energy", 0.0),
        *((f"E - {t:g} log(count)", t) for t in TEMPERATURES),
    ]:
        hits = np.array([one.first_matches(temperature) for one in rows], dtype=float)
        share = bootstrap.mean(hits)
        print(f"| {name} | {100 * share.value:.1f} % | {100 * share.low:.1f}-{100 * share.high:.1f} |")
    best = np.mean([any(one.matches) for one in rows])
    print(f"| a judge who knows | {100 * best:.1f} % | |")


if __name__ == "__main__":
    main()
