"""Tables and figures of critical temperatures: folds beside the paper's, distributions, parity.

Errors are mean absolute errors of the natural logarithm of the critical temperature in K.

Shapes: M crystals.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dao.data.properties.superconductors import GROUPED
from dao.errors import InputError
from dao.evaluation.tables import NONE, table
from dao.figure_file import BLACK, BLUE, ORANGE, figure_file
from dao.prediction.files import write_text
from dao.superconductors.cross_validation import read_chosen, test_predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER = (
    ("DAO-P without augmentation, preprint", (0.832, 0.725, 0.691, 0.748, 0.741), 0.747),
    ("DAO-P with augmentation, preprint", (0.827, 0.694, 0.640, 0.691, 0.694), 0.709),
    ("DAO-P without augmentation, as published", None, 0.761),
    ("DAO-P with augmentation, as published", None, 0.714),
)
"""Table 5 of the preprint and the project's page: name, folds (theirs, not ours), mean."""

BINS = 40

Values = npt.NDArray[np.float64]


def read_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Runs of ``dao superconductors train``, those at random folds first.

    Raises:
        InputError: a folder is none.

    """
    runs = [{**read_chosen(folder), "run": folder.name, "folder": folder} for folder in folders]
    return sorted(runs, key=lambda run: run["data"] == GROUPED)


def tables(runs: Sequence[dict[str, Any]]) -> str:
    """Markdown: a table a split."""
    return "\n\n".join(
        _table([run for run in runs if run["data"] == name]) for name in dict.fromkeys(run["data"] for run in runs)
    )


def _table(runs: Sequence[dict[str, Any]]) -> str:
    grouped = runs[0]["data"] == GROUPED
    folds = [str(i + 1) for i in range(5)]
    lines = [_line(run) for run in runs]
    constant = runs[0]["constant_mae"]
    lines += [
        [f"{name} of the training labels", *[NONE] * 5, f"{constant[name]:.3f}", NONE] for name in ("median", "mean")
    ]
    if not grouped:
        lines += [
            [name, *([NONE] * 5 if by_fold is None else [f"{one:.3f}" for one in by_fold]), f"{mean:.3f}", NONE]
            for name, by_fold, mean in PAPER
        ]
    title = "folds by chemical system" if grouped else "folds at random (the paper's are other random folds)"
    header = ["MAE of ln Tc", *[f"fold {fold}" for fold in folds], "mean", "rate, decay of each fold"]
    return f"### Critical temperature, {title}\n\n{runs[0]['crystals']:,} crystals.\n\n" + table(
        header, lines, words=(0, len(header) - 1)
    )


def _line(run: dict[str, Any]) -> list[str]:
    known = {fold["name"]: fold for fold in run["folds"]}
    extra = max(fold.get("extra", 0) for fold in run["folds"])
    settings = run["settings"]
    name = "ours from scratch" if settings["from_scratch"] else "ours"
    name += f", with up to {extra} generated structures" if extra else ", without augmentation"
    if extra and "ranked" in " ".join(run["notes"]):
        name += " (ranked)"
    if settings["members"] > 1:
        name += f", mean of {settings['members']}"
    name += f", {settings['epochs']} epochs ({_steps(run):,} steps)"
    shown = [f"{known[str(i)]['mae']:.3f}" if str(i) in known else NONE for i in range(5)]
    mean = f"{run['mae']:.3f}" + ("" if run["complete"] else f" ({len(known)} folds)")
    chosen = "; ".join(f"{fold['rate']:g}, {fold['decay']:g}" for fold in run["folds"])
    return [name, *shown, mean, chosen if len({*chosen.split("; ")}) > 1 else chosen.split("; ")[0]]


def _steps(run: dict[str, Any]) -> int:
    """Of one training, on the fold with the most crystals; generated ones count as any other."""
    crystals: int = max(fold["train"] + fold["extra"] for fold in run["folds"])
    seen: int = run["settings"]["epochs"] * crystals
    return -(-seen // min(int(run["settings"]["batch_size"]), crystals))


def write_tables(out: Path, runs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Write ``tc.md``, ``tc.json`` and a parity figure; returns caption -> file of the figure.

    Raises:
        InputError: the folder cannot be written, or matplotlib is not installed.

    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "tc.md", tables(runs) + "\n")
        shown = [{key: value for key, value in run.items() if key != "folder"} for run in runs]
        write_text(out / "tc.json", json.dumps(shown, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    parity_figure({run["run"]: test_predictions(run["folder"]) for run in runs}, out)
    return {"Predicted and measured critical temperature of test crystals, all folds": "tc_parity.png"}


def parity_figure(runs: dict[str, tuple[Values, Values]], folder: Path) -> Path:
    """Predicted against measured temperatures of test crystals (K, from logarithms), a panel a run.

    Raises:
        InputError: matplotlib is not installed.

    """
    path = folder / "tc_parity"
    columns = min(len(runs), 3)
    lines = -(-len(runs) // columns)
    with figure_file(path, width=4.2 * columns, height=4.2 * lines) as figure:
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        low = np.exp(min(min(label.min(), said.min()) for label, said in runs.values()))
        high = np.exp(max(max(label.max(), said.max()) for label, said in runs.values()))
        for axes, (name, (label, said)) in zip(panels, runs.items(), strict=False):
            axes.loglog(np.exp(label), np.exp(said), ".", color=BLUE, markersize=3, alpha=0.5)
            axes.loglog([low, high], [low, high], color=BLACK, linewidth=1)
            axes.set_title(f"{name}\nMAE of ln Tc {np.abs(label - said).mean():.3f}", fontsize=10)
            axes.set_xlabel("Measured critical temperature (K)")
            axes.set_ylabel("Predicted (K)")
        for axes in panels[len(runs) :]:
            axes.set_visible(False)
    return path.with_suffix(".png")


def distribution_figure(structures: Values, others: Values, folder: Path) -> Path:
    """Histogram of the critical temperatures (K) of SC-s and SC-ns (paper Figure 5b); returns the PNG's path.

    Raises:
        InputError: matplotlib is not installed.

    """
    path = folder / "tc_distribution"
    with figure_file(path, width=7.0) as figure:
        axes: Axes = figure.subplots()
        every = np.concatenate([structures, others])
        edges = np.geomspace(every.min(), every.max(), BINS + 1)
        for values, colour, name in (
            (structures, BLUE, f"with structure (SC-s), {len(structures):,}"),
            (others, ORANGE, f"without structure (SC-ns), {len(others):,}"),
        ):
            axes.hist(values, edges.tolist(), histtype="step", linewidth=2, color=colour, label=name)
            axes.axvline(float(np.median(values)), color=colour, linestyle=":", linewidth=1.5)
        axes.set_xscale("log")
        axes.set_xlabel("Critical temperature (K); dotted: medians")
        axes.set_ylabel("Superconductors")
        axes.legend()
    return path.with_suffix(".png")
