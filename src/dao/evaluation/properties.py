"""Tables of finetuned predictors: ours pretrained and from scratch, published figures, and the mean of the labels.

Errors are mean absolute errors on test crystals, in the unit of the property; of several folds, their mean and the
standard deviation over them.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from dao.errors import InputError
from dao.evaluation.tables import NONE, table
from dao.training.finetune import summarise


@dataclass(frozen=True, kw_only=True)
class PublishedProperty:
    """One published figure on the test crystals of a benchmark.

    Attributes:
        method: as its source names it.
        benchmark: as ours are named.
        mae: mean absolute error in the benchmark's unit.
        mae_sd: standard deviation over folds.
        pretraining: data beyond the benchmark's own, or "none".
        source: where the figure is from.
        grade: of the evidence, as in :class:`dao.evaluation.published.Published`.

    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    method: str
    benchmark: str
    mae: float
    mae_sd: float | None = None
    pretraining: str = "none"
    source: str
    grade: Literal["A", "B", "C", "D"]


@cache
def _published() -> tuple[PublishedProperty, ...]:
    from pydantic import TypeAdapter

    text = (files("dao.evaluation") / "published_properties.toml").read_text(encoding="utf-8")
    groups = tomllib.loads(text)["group"]
    rows = [group | figure for group in groups for figure in group.pop("figures")]
    return tuple(TypeAdapter(list[PublishedProperty]).validate_python(rows))


def published_properties(benchmark: str) -> list[PublishedProperty]:
    """Figures of one benchmark, the best first."""
    return sorted((row for row in _published() if row.benchmark == benchmark), key=lambda row: row.mae)


def read_runs(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Results of runs of ``dao finetune property``, made anew from their test files.

    Raises:
        InputError: a folder is no such run, or none of its trainings is finished.

    """
    found = []
    for run in runs:
        expected = _expected(run)
        results = summarise(run)
        if expected is not None:
            results |= {"expected_folds": expected, "complete": len(results["folds"]) == expected}
        found.append({**results, "run": run.name})
    return found


def _expected(run: Path) -> int | None:
    """How many folds the run's data has, where it once said so."""
    try:
        count = json.loads((run / "results.json").read_text(encoding="utf-8"))["expected_folds"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if count is None else int(count)


def tables(runs: Sequence[dict[str, Any]]) -> str:
    """Markdown: a section a benchmark."""
    return "\n\n".join(
        _section([run for run in runs if run["data"] == name]) for name in dict.fromkeys(run["data"] for run in runs)
    )


def _section(runs: Sequence[dict[str, Any]]) -> str:
    first = runs[0]
    unit = f" ({first['unit']})" if first["unit"] else ""
    lines = [_ours(run) for run in sorted(runs, key=lambda run: run["mae"])]
    baseline = ["mean of the training labels", "none", NONE, _figure(first["baseline_mae"], None), NONE, "this run"]
    lines += [baseline]
    lines += [
        [row.method, row.pretraining, NONE, _figure(row.mae, row.mae_sd), NONE, f"{row.source} [{row.grade}]"]
        for row in published_properties(first["data"])
    ]
    header = ["Method", "Pretraining", "Epochs", f"MAE{unit}", "Validation MAE", "Source"]
    fold = first["folds"][0]
    counts = f"{fold['train']:,} / {fold['validation']:,} / {fold['test']:,}"
    folds = f"{len(first['folds'])} of {first['expected_folds'] or len(first['folds'])} folds"
    notes = "".join(f" {note}." for note in first["notes"])
    return (
        f"### {first['data']}: {first['title'] or first['label']}\n\n"
        f"{first['crystals']:,} crystals; train / validation / test {counts}, {folds}.{notes}\n\n"
        + table(header, lines, words=(0, 1, 5))
    )


def _ours(run: dict[str, Any]) -> list[str]:
    settings = run["settings"]
    scratch = settings["from_scratch"]
    name = "ours from scratch" if scratch else "ours pretrained"
    if settings["members"] > 1:
        name += f", mean of {settings['members']}"
    if settings["trunk_rate"] == 0:
        name += ", trunk frozen"
    folds = run["folds"]
    where = f"{run['run']}, {run['cpu_hours']:.2f} CPU h"
    if not run["complete"]:
        where += f", {len(folds)} of {run['expected_folds']} folds"
    return [
        name,
        "none" if scratch else Path(settings["weights"]).name,
        str(settings["epochs"]),
        _figure(run["mae"], run["mae_sd"] if len(folds) > 1 else None),
        f"{run['validation_mae']:.4g}",
        where,
    ]


def _figure(mae: float, deviation: float | None) -> str:
    return f"{mae:.4g}" if deviation is None else f"{mae:.4g} ± {deviation:.2g}"


def write_tables(out: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Write ``properties.md`` and ``properties.json``.

    Raises:
        InputError: the folder cannot be written.

    """
    from dao.prediction.files import write_text

    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "properties.md", tables(runs) + "\n")
        write_text(out / "properties.json", json.dumps(runs, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
