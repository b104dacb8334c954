"""A predictor's energies above the hull against the labels of a set, beside baselines that see no structure.

The folder receives ``energies.json`` (settings and every figure), ``energies.csv`` (a line a crystal), ``report.md``,
``figures`` and, where an energy is not finite, ``failures.json``. Energies are in eV/atom.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int

from dao.crystal import Crystal
from dao.data.training_set import load_packed
from dao.errors import InputError
from dao.evaluation.energy_baselines import (
    SAME_COMPOSITION,
    TrainingSet,
    baselines,
    element_counts,
    rounded_labels,
)
from dao.evaluation.energy_figures import write_energy_figure
from dao.evaluation.energy_metrics import (
    RESAMPLES,
    Agreement,
    Group,
    Stability,
    agreement,
    by_atoms,
    by_label,
    groups,
    stability,
)
from dao.evaluation.energy_report import energy_report
from dao.evaluation.energy_uncertainty import Uncertainty, uncertainty
from dao.evaluation.metrics import Bootstrap
from dao.evaluation.notes import training_note
from dao.evaluation.scores import plain
from dao.evaluation.targets import NAMES, crystals_fingerprint
from dao.geometry.cells import reduced
from dao.prediction.energies import csv_text, doubts, predict_with_errors
from dao.prediction.files import write_failures, write_text
from dao.prediction.judging import ENERGY

if TYPE_CHECKING:
    from dao.models import Predictor

PREDICTOR = "predictor"

PAPER_MAE = {"mp20": 0.0260, "mpts52": 0.0514}
"""Of DAO-P on the whole test split, not finetuned, eV/atom (paper, figure 3d)."""


@dataclass(frozen=True)
class LabelledSet:
    """M crystals with labels.

    Attributes:
        name: of the data, for reports.
        benchmark: stem of its file.
        split: its name, or "".
        label: the column.
        crystals: M of them.
        counts: (M, E) atoms of each element in the cell.
        labels: (M,) eV/atom, all finite.
        labelled: crystals of the split that have a label, of which these are the drawn ones.
        total: crystals of the split.

    """

    name: str
    benchmark: str
    split: str
    label: str
    crystals: tuple[Crystal, ...]
    counts: Int[np.ndarray, "m e"]
    labels: Float64[np.ndarray, " m"]
    labelled: int
    total: int

    def note(self) -> str:
        """Which crystals these are, in words."""
        split = f", split {self.split}" if self.split else ""
        chosen = f"{len(self.crystals):,} of " if len(self.crystals) < self.labelled else ""
        drawn = ", a fixed random subset" if chosen else ""
        return f"{self.name}{split}: {chosen}{self.labelled:,} crystals with {self.label}{drawn}, of {self.total:,}"


@dataclass(frozen=True)
class Method:
    """A row of the table: the predictor or a baseline."""

    name: str
    agreement: Agreement
    stability: Stability


@dataclass(frozen=True)
class EnergyFigures:
    """Every figure of an evaluation.

    Attributes:
        methods: the predictor first, then the baselines.
        label_groups: the predictor's errors by the true label.
        atom_groups: by number of atoms in the primitive cell.
        doubt_groups: by whether the predictor doubts its energy.
        uncertainty: of the expected errors; None of a predictor that gives none.

    """

    methods: list[Method]
    label_groups: list[Group]
    atom_groups: list[Group]
    doubt_groups: list[Group]
    uncertainty: Uncertainty | None


@dataclass(frozen=True)
class EnergyEvaluation:
    """What came out, for the command line to print; ``record`` is what ``energies.json`` holds."""

    figures: EnergyFigures
    record: dict[str, Any]
    failures: list[dict[str, Any]]


def load_labelled(
    path: Path,
    *,
    label: str,
    split: str | None = None,
    count: int | None = None,
    seed: int = 0,
    note: Callable[[str], None] | None = None,
) -> LabelledSet:
    """The labelled crystals of a split, or the fixed random ``count`` of them that ``seed`` draws, in the file's order.

    A crystal without a finite label is left out: of ``mp20`` and ``e_above_hull`` the labels are exact, and only the
    benchmark's own structures have one.

    Args:
        path: whatever :func:`dao.data.training_set.load_packed` reads.
        label: its column, eV/atom.
        split: value of the column ``split``; None takes every row.
        count: how many; None or too many takes all.
        seed: of the draw.
        note: told how many crystals are outside the validity limits.

    Raises:
        InputError: unreadable, no such split or label, or no crystal has one.

    """
    packed = load_packed(path, split=split, labels=(label,), note=note)
    labels = rounded_labels(packed, label)
    known = torch.from_numpy(np.isfinite(labels).nonzero()[0])
    if len(known) == 0:
        raise InputError(f"{path}: no crystal has a label {label!r}")
    chosen = known
    if count is not None:
        drawn = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[:count]
        chosen = known[drawn.sort().values]
    own = packed.select(chosen)
    return LabelledSet(
        name=NAMES.get(path.stem, path.name),
        benchmark=path.stem,
        split=split or "",
        label=label,
        crystals=tuple(own.crystal(i) for i in range(len(own))),
        counts=element_counts(own),
        labels=labels[chosen.numpy()],
        labelled=len(known),
        total=len(packed),
    )


def evaluate_energies(
    model: Predictor,
    data: LabelledSet,
    training: TrainingSet | None,
    *,
    out: Path,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = False,
) -> EnergyEvaluation:
    """Predict, compare and write everything to ``out``.

    Args:
        model: a predictor of energies above the hull.
        data: what it is evaluated on.
        training: what baselines are fitted to; None leaves the baseline 0.
        out: the folder.
        seed: of the bootstrap.
        batch_size: structures computed at a time; changes no result.
        progress: show a bar on stderr.

    Raises:
        InputError: a predictor of something else, no finite energy, or a folder that cannot be written.

    """
    if model.config.label != ENERGY:
        raise InputError(f"the predictor gives {model.config.label}, and this evaluation is of {ENERGY}")
    crystals = [reduced(crystal) for crystal in data.crystals]
    predicted = predict_with_errors(model, crystals, batch_size=batch_size, progress=progress)
    energies = np.array([one.energy for one in predicted])
    expected = np.array([np.nan if one.error is None else one.error for one in predicted])
    has_errors = all(one.error is not None for one in predicted)
    good = np.isfinite(energies) & (np.isfinite(expected) | (not has_errors))
    failures = [
        {"id": crystal.name, "reason": "its energy or expected error is not finite"}
        for crystal, kept in zip(data.crystals, good, strict=True)
        if not kept
    ]
    if not good.any():
        raise InputError(f"{data.name}: no energy of the predictor is finite")

    beside, known = baselines(data.counts, training)
    doubted = [doubts(model, crystal) for crystal in crystals]
    num_atoms = np.array([crystal.num_atoms for crystal in crystals])
    figures = compare(
        data.labels[good],
        energies[good],
        expected[good] if has_errors else None,
        baselines={name: values[good] for name, values in beside.items()},
        num_atoms=num_atoms[good],
        doubted=np.array([bool(text) for text in doubted])[good],
        seed=seed,
    )
    records = [
        {
            "id": crystal.name,
            "formula": crystal.reduced_formula,
            "num_atoms": int(atoms),
            "label": float(label),
            "energy": round(float(energy), 6),
            "expected_error": round(float(error), 6) if has_errors else None,
            "doubts": text,
            **{f"baseline: {name}": round(float(values[place]), 6) for name, values in beside.items()},
        }
        for place, (crystal, atoms, label, energy, error, text) in enumerate(
            zip(data.crystals, num_atoms, data.labels, energies, expected, doubted, strict=True)
        )
    ]
    settings = _settings(model, data, training, known, len(failures))
    drawn: dict[str, str] = {}
    if find_spec("matplotlib") is not None:
        caption, name = write_energy_figure(
            data.labels[good],
            energies[good],
            expected[good],
            figures.label_groups,
            figures.uncertainty,
            out / "figures",
        )
        drawn = {caption: f"figures/{name}"}
    record = plain({"settings": settings, **asdict(figures)})
    page = energy_report(f"Energies of {model.config.name} on {data.name}", settings, figures, drawn)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "energies.csv", csv_text(records))
        write_text(out / "energies.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
        write_text(out / "report.md", page)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    write_failures(out, failures)
    return EnergyEvaluation(figures, record, failures)


def compare(
    labels: Float64[np.ndarray, " m"],
    energies: Float64[np.ndarray, " m"],
    expected: Float64[np.ndarray, " m"] | None = None,
    *,
    baselines: dict[str, Float64[np.ndarray, " m"]],
    num_atoms: Int[np.ndarray, " m"],
    doubted: Bool[np.ndarray, " m"],
    seed: int,
) -> EnergyFigures:
    """Every figure of M energies; all methods are measured on the same bootstrap resamples.

    Args:
        labels: (M,) eV/atom.
        energies: (M,) the predictor's.
        expected: (M,) absolute errors that it expects, if it does.
        baselines: name -> (M,) energies.
        num_atoms: (M,) atoms in the cell.
        doubted: (M,) whether the predictor doubts its energy.
        seed: of the bootstrap.

    """
    bootstrap = Bootstrap(len(labels), RESAMPLES, seed)
    return EnergyFigures(
        methods=[
            Method(name, agreement(labels, values, bootstrap), stability(labels, values, bootstrap))
            for name, values in {PREDICTOR: energies, **baselines}.items()
        ],
        label_groups=by_label(labels, energies, seed),
        atom_groups=by_atoms(num_atoms, labels, energies, seed),
        doubt_groups=groups(["no doubts", "doubts"], doubted.astype(np.int64), energies - labels, seed),
        uncertainty=None if expected is None else uncertainty(expected, np.abs(energies - labels), seed),
    )


def _settings(
    model: Predictor, data: LabelledSet, training: TrainingSet | None, known: int, failures: int
) -> dict[str, str]:
    settings = {
        "Predictor": f"{model.config.name} ({model.fingerprint})",
        "Parameters": f"{sum(one.numel() for one in model.parameters()) / 1e6:.2f} M",
        "Training": training_note(model.config.training),
        "Data": data.note(),
        "Structures": crystals_fingerprint(data.crystals),
        "Label": f"{data.label}, eV/atom",
    }
    if training is None:
        settings["Baselines"] = "0 alone: no training set was given"
    else:
        shared = f"; {training.shared:,} more are among the evaluated crystals and left out" if training.shared else ""
        settings["Baselines"] = f"fitted to {len(training.labels):,} labelled crystals of {training.name}{shared}"
        settings[f"Baseline “{SAME_COMPOSITION}”"] = (
            f"the lowest label of the composition in training, known for {known:,} of {len(data.labels):,} crystals;"
            " the training median for the others"
        )
    if data.split == "test" and data.benchmark in PAPER_MAE:
        settings["Published MAE"] = f"{PAPER_MAE[data.benchmark]:.4f} (DAO-P, whole test split, not finetuned on it)"
    if failures:
        settings["Left out"] = f"{failures:,} crystals whose energy is not finite (failures.json)"
    settings["Intervals"] = f"95 % percentile bootstrap over crystals, {RESAMPLES:,} resamples"
    settings["Versions"] = f"dao {version('dao-crystal')}, torch {torch.__version__}"
    return settings
