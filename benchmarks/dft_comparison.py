"""Time per step, time per structure and RMSE of relaxations by DFT (``dao dft relax``) beside DAO's, on one machine.

Run: python benchmarks/dft_comparison.py FILE FOLDER... [--formula Cr3Os --cells 2] [--samples 20] [--out NAME]

FILE is the reference structure, each FOLDER a run of ``dao dft relax FILE``. DAO generates the formula in a cell of
the known size, by the generator alone: its sampling steps are timed in this process after one run to warm up, and the
whole of ``dao predict`` (start of Python, weights, sampling, ranking, files) as a program of its own. All ratios are of
processor seconds, which other programs on the machine change less than those on the clock. NAME.json and NAME.md are
written. The paper's comparison is in its appendix 2.3.2.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from dao import Generator, predict
from dao.crystal import Crystal
from dao.data.sources import read_crystals
from dao.dft.relax import Iteration
from dao.dft.run import ITERATIONS
from dao.evaluation.matching import rms_distance
from dao.prediction.composition import parse_formula
from dao.sampling import SampleRequest, sample
from dao.system import versions


def cpu_seconds() -> float:
    """Of this process and all that it waited for."""
    return sum(os.times()[:4])


def dft_row(folder: Path) -> dict[str, Any]:
    """What a run says of itself, and its seconds by iteration."""
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    file = folder / ITERATIONS
    lines = file.read_text(encoding="utf-8").splitlines()[1:] if file.exists() else []
    iterations = [Iteration.from_line(json.loads(line)) for line in lines]
    row: dict[str, Any] = {"run": folder.name} | {name: value for name, value in record.items() if name != "versions"}
    if iterations:  # or its first calculation failed
        row["cpu_seconds_per_iteration"] = statistics.median(one.cpu_seconds for one in iterations)
        row["seconds_per_iteration"] = statistics.median(one.seconds for one in iterations)
    return row


def steps(model: Generator, numbers: tuple[int, ...], count: int, seed: int, truth: Crystal) -> dict[str, Any]:
    """Sample ``count`` structures in one batch: seconds in all, by step, and the smallest RMSE."""
    requests = [SampleRequest(numbers, index) for index in range(count)]
    used, began = cpu_seconds(), time.perf_counter()
    made = [one.crystal for batch in sample(model, requests, seed=seed, batch_size=count) for one in batch]
    cpu, seconds = cpu_seconds() - used, time.perf_counter() - began
    distances = [rms_distance((one, truth)) for one in made if one is not None]
    number = model.config.sampler.steps
    return {
        "structures": count,
        "steps": number,
        "cpu_seconds": cpu,
        "seconds": seconds,
        "cpu_seconds_per_step": cpu / number,
        "matches": sum(one is not None for one in distances),
        "rms": min((one for one in distances if one is not None), default=None),
    }


def whole_run(formula: str, cells: str, weights: str, count: int, seed: int) -> dict[str, float]:
    """Seconds of ``dao predict`` as a program."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["predict", formula, "--cells", cells, "--samples", str(count), "--sources", "generator"]
        words += ["--weights", weights, "--seed", str(seed), "--out", folder, "--quiet"]
        used, began = cpu_seconds(), time.perf_counter()
        subprocess.run([sys.executable, "-m", "dao", *words], check=True, stdout=subprocess.DEVNULL)
        return {"structures": count, "cpu_seconds": cpu_seconds() - used, "seconds": time.perf_counter() - began}


def first_ranked(formula: str, cells: str, weights: str, count: int, seed: int, truth: Crystal) -> dict[str, Any]:
    """RMSE of the candidate that DAO ranks first, no truth used."""
    found = predict(formula, count, cells=cells, weights=weights, seed=seed, sources="generator")
    first = Crystal.from_structure(found[0].structure)
    return {"space_group": found[0].space_group, "rms": rms_distance((first, truth))}


def number(value: float | None, digits: int = 4) -> str:
    """To so many decimals; a dash for none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows)) + "\n"


def dft_table(rows: Iterable[dict[str, Any]], dao: dict[str, Any]) -> str:
    """The runs of DFT, with their ratios to DAO's step (of one structure) and program (of all samples)."""
    step, program = dao["sampling"][0]["cpu_seconds_per_step"], dao["whole_run"][-1]["cpu_seconds"]
    headings = ("DFT run", "outcome", "iterations", "CPU s an iteration (wall)", "CPU s in all (wall)", "RMSE of start")
    cells = []
    for row in rows:
        each = row.get("cpu_seconds_per_iteration")
        shown = [row["run"], row["outcome"], str(row["iterations"])]
        if each is None:
            cells.append([*shown, "-", "-", number(row["rms_of_start"]), "-", "-", "-"])
            continue
        shown += [
            f"{each:.1f} ({row['seconds_per_iteration']:.0f})",
            f"{row['cpu_seconds']:.0f} ({row['seconds']:.0f})",
        ]
        shown += [number(row["rms_of_start"]), number(row["rms"])]
        cells.append([*shown, number(each / step, 0), number(row["cpu_seconds"] / program, 1)])
    return table((*headings, "RMSE", "iteration / DAO's step", "run / `dao predict`"), cells)


def dao_table(dao: dict[str, Any]) -> str:
    """DAO's own seconds."""
    rows = [
        [
            f"sampling, {row['steps']} steps",
            str(row["structures"]),
            f"{row['cpu_seconds']:.2f} ({row['seconds']:.2f})",
            f"{row['cpu_seconds_per_step']:.4f}",
            f"{row['cpu_seconds'] / row['structures']:.3f}",
            f"best {number(row['rms'])} ({row['matches']} of {row['structures']} match)",
        ]
        for row in dao["sampling"]
    ]
    rows += [
        [
            "`dao predict`, the whole program",
            str(row["structures"]),
            f"{row['cpu_seconds']:.1f} ({row['seconds']:.1f})",
            "",
            f"{row['cpu_seconds'] / row['structures']:.2f}",
            said,
        ]
        for row, said in zip(dao["whole_run"], ("", f"ranked first {number(dao['first']['rms'])}"), strict=True)
    ]
    return table(("DAO", "structures", "CPU s (wall)", "CPU s a step", "CPU s a structure", "RMSE"), rows)


def main() -> None:
    """Print the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--formula", default="Cr3Os")
    parser.add_argument("--cells", default="2")
    parser.add_argument("--weights", default="small")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    dft = [dft_row(folder) for folder in options.folders]
    (truth,) = read_crystals(options.reference)
    numbers = parse_formula(options.formula).numbers_for(int(options.cells))
    torch.set_num_threads(1)
    model = Generator.load(options.weights)
    steps(model, numbers, 1, options.seed, truth)  # to warm up
    common = (options.formula, options.cells, options.weights)
    dao: dict[str, Any] = {
        "sampling": [steps(model, numbers, count, options.seed, truth) for count in (1, options.samples)],
        "first": first_ranked(*common, options.samples, options.seed, truth),
        "whole_run": [whole_run(*common, count, options.seed) for count in (1, options.samples)],
    }
    text = f"{dft_table(dft, dao)}\n{dao_table(dao)}"
    print(text)
    if options.out is not None:
        said = {name: str(value) for name, value in vars(options).items() if name != "folders"}
        record = {"options": said, "versions": versions(), "dft": dft, "dao": dao}
        options.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
