"""The table of docs/experiments.md from the lines that ``benchmarks/ideas.py`` wrote.

Run: python benchmarks/ideas_report.py ideas.jsonl

"Against the baseline" is the difference of match rates on the same crystals (per cent) with its paired standard error,
from the crystals that only one of the two matches; the baseline's seeds are averaged. It holds for these two trainings:
another seed of the same recipe differs by more, which the baseline's own rows show.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from ideas_table import IDEAS

HEADER = (
    "| idea | crystals/s | loss: coordinates, lattice, space group | match rate / RMSE | against the baseline "
    "| with the true space group |\n|---|---|---|---|---|---|"
)


def bits(figures: dict[str, Any], count: int = 1000) -> list[int]:
    """Which crystals matched."""
    return [int(bit) for bit in f"{int(figures['matched'], 16):0{count}b}"]


def difference(one: dict[str, Any], others: list[dict[str, Any]]) -> tuple[float, float]:
    """Mean of the paired differences and its standard error, per cent."""
    references = [bits(other) for other in others]
    each = [
        hit - sum(column) / len(column) for hit, column in zip(bits(one), zip(*references, strict=True), strict=True)
    ]
    mean = sum(each) / len(each)
    variance = sum((value - mean) ** 2 for value in each) / len(each)
    return 100.0 * mean, 100.0 * math.sqrt(variance / len(each))


def main() -> None:
    """Print Markdown."""
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    baselines = [line for line in lines if line["idea"] in ("baseline", "averages") and line["ema_decay"] == 0.999]
    print(HEADER)
    for line in lines:
        loss = line["validation"]
        group = f", {loss['space_group']:.2f}" if loss["space_group"] else ""
        truth = line.get("true_space_group")
        gain, error = difference(line, baselines)
        name = IDEAS[line["idea"]].says + (f" (decay {line['ema_decay']:g})" if line["idea"] == "averages" else "")
        own = line in baselines
        given = "" if truth is None else f"{truth['match_rate']:.1f} % / {truth['rmse']:.3f}"
        print(
            f"| {name}, seed {line['seed']} | {line['crystals_per_second']:.0f} "
            f"| {loss['coordinates']:.3f}, {loss['lattice']:.3f}{group} "
            f"| {line['match_rate']:.1f} % / {line['rmse']:.3f} | {'' if own else f'{gain:+.1f} ± {error:.1f}'} "
            f"| {given} |"
        )


if __name__ == "__main__":
    main()
