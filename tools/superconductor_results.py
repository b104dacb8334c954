"""Write the results of docs/superconductors.md from runs, so that no figure is copied by hand.

Run: python tools/superconductor_results.py RUN... [--three FILE.json] [--generated FOLDER ...] [--figures FOLDER]

RUN are folders of ``dao superconductors train``, FILE.json is what benchmarks/three_superconductors.py --tc --out
wrote, the other folders those of ``dao superconductors generate`` and of ``evaluate --out`` or ``data --out``, whose
PNG files are copied to docs/figures.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from dao.evaluation.tables import NONE, table
from dao.superconductors.tables import read_runs, tables

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"(<!-- begin: [^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)


def three_lines(found: dict[str, Any], measured: dict[str, float | None], paper: dict[str, str]) -> list[list[str]]:
    lines = []
    for formula, rows in found["temperatures"].items():
        for row in rows[:3]:
            low, high = (NONE if row[key] is None else f"{row[key]:.3g}" for key in ("tc_low", "tc_high"))
            known = NONE if measured[formula] is None else f"{measured[formula]:.2f}"
            said = [f"{row['tc']:.3g}", f"{low} to {high}", known, paper[formula]]
            lines.append([formula, row["structure"], row["space_group"] or NONE, *said])
    return lines


def curve_lines(found: dict[str, Any]) -> list[list[str]]:
    return [
        [formula, str(seed), *[NONE if one is None else f"{one:.4f}" for one in curve]]
        for formula, curves in found["within"].items()
        for seed, curve in enumerate(curves)
    ]


def generated_text(folder: Path) -> str:
    said = json.loads((folder / "generated.json").read_text(encoding="utf-8"))
    sources = ", ".join(f"{name} {count}" for name, count in said["sources"].items() if count)
    return (
        f"- {said['mode']}: {said['structures']} structures for {said['asked']} compositions ({sources});"
        f" {len(said['too_large'])} too large, {len(said['failed'])} without a crystal"
    )


def main() -> None:
    """Replace what stands between the marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--three", type=Path)
    parser.add_argument("--generated", type=Path, action="append", default=[])
    parser.add_argument("--figures", type=Path, action="append", default=[])
    options = parser.parse_args()
    runs = read_runs(options.runs)
    parts = [tables(runs)]
    hours = ", ".join(f"{run['run']} {run['cpu_hours']:.2f}" for run in runs)
    parts.append(f"CPU hours: {hours}. The paper's Table 5 has other folds than ours.")
    if options.generated:
        parts.append("Generated structures:\n\n" + "\n".join(map(generated_text, options.generated)))
    if options.three is not None:
        sys.path.insert(0, str(DOCS.parent / "benchmarks"))
        from three_superconductors import MEASURED, PAPER, SHOTS

        found = json.loads(options.three.read_text(encoding="utf-8"))
        header = ["Formula", "Structure", "Space group", "Tc (K)", "from, to", "measured", "paper says"]
        parts.append(
            "### Three superconductors\n\n" + table(header, three_lines(found, MEASURED, PAPER), words=(0, 1, 2))
        )
        header = ["Smallest RMSE, generator alone", "seed", *[f"k = {k}" for k in SHOTS]]
        parts.append(table(header, curve_lines(found)))
    for folder in options.figures:
        for picture in sorted(folder.glob("tc_*.png")):
            shutil.copyfile(picture, DOCS / "figures" / picture.name)
            if picture.stem == "tc_parity":
                parts.append(f"![Predicted against measured](figures/{picture.name})")
    page = DOCS / "superconductors.md"
    text = page.read_text(encoding="utf-8")
    body = "\n\n".join(parts)
    page.write_text(BLOCK.sub(lambda match: f"{match.group(1)}{body}\n{match.group(2)}", text), encoding="utf-8")
    print(f"{page}: {len(runs)} runs")


if __name__ == "__main__":
    main()
