"""``dao finetune property``: DAO-P finetuned to a property on every fold of a benchmark, some times a fold.

The run's folder holds ``run.json`` (data and settings), a folder ``fold-F/seed-S`` a training (what
:mod:`dao.training.fit` writes, and ``test.csv``: label and prediction of each test crystal by the weights that were
best on validation), and ``results.json``, which :func:`summarise` makes of the test files. The same command goes on
where it was stopped. Validation crystals choose the weights; test crystals choose nothing.

Shapes: M crystals.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from dao.data.properties.base import Fold, PropertyData
from dao.data.store import joined
from dao.device import choose_device
from dao.errors import InputError
from dao.models import read_config
from dao.property_model import PropertyPredictor
from dao.recipes.schema import DataRecipe, OptimizerRecipe, PropertyRecipe, RecordRecipe, ValidationRecipe
from dao.training.fit import train_packed
from dao.training.property_task import PropertyTask, predict_packed

RUN, RESULTS, TEST, FIGURES = "run.json", "results.json", "test.csv", "figures.json"

INNER_SHARE = 0.1
"""Share of a training set that validates where its publisher fixed no validation set."""

LEAST_VALIDATIONS = 10
"""Validations of a training, at least; else one an epoch."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """How to finetune; batch size and rate are the best of those tried on validation (docs/properties.md).

    Attributes:
        weights: a predictor (DAO-P) or another property's, as a folder; its network is taken in any case.
        from_scratch: start from random weights of the same network instead, to see what pretraining is worth.
        epochs: times that each training crystal is seen.
        batch_size: crystals a step.
        learning_rate: of the head, at its largest: warmed up over 5 % of the steps, then by a cosine to nearly zero.
        weight_decay: AdamW's.
        trunk_rate: rate of everything below the head, as a share of ``learning_rate``; 0 freezes it.
        patience: validations in a row without an improvement after which a training stops; 0: none stops early.
        members: trainings a fold, which differ in their seed alone; their mean is the prediction.
        seed: of the first of them, and of the inner split.
        precision: ``bfloat16``: autocast.
        compile_blocks: a minute at the start, then faster.

    """

    weights: Path
    from_scratch: bool = False
    epochs: int = 60
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    trunk_rate: float = 1.0
    patience: int = 0
    members: int = 1
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    compile_blocks: bool = False

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "weights": str(self.weights)}


def finetune(
    data: PropertyData,
    settings: FinetuneSettings,
    *,
    out: Path,
    folds: Sequence[str] | None = None,
    device: str = "auto",
    progress: bool = True,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Finetune on each of the folds and return what :func:`summarise` says of them all.

    Args:
        data: crystals and folds.
        settings: how.
        out: the run's folder.
        folds: names of those to do now; all if None.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        progress: show progress bars on stderr.
        note: told, in one line each, what happens out of the ordinary.

    Raises:
        InputError: no such fold or weights, or a folder in use by another run.

    """
    tell = note or (lambda _: None)
    names = [fold.name for fold in data.folds]
    for name in folds or ():
        if name not in names:
            raise InputError(f"--folds: {data.name} has no fold {name!r}, only {', '.join(names)}")
    _claim(out, data, settings)
    for fold in data.folds:
        if folds is not None and fold.name not in folds:
            continue
        for member in range(settings.members):
            seed = settings.seed + member
            folder = out / f"fold-{fold.name}" / f"seed-{seed}"
            if (folder / TEST).exists():
                continue
            _train(data, fold, settings, seed, folder, device=device, progress=progress, note=tell)
            tell(f"{data.name}: fold {fold.name}, seed {seed} is done")
            summarise(out, data)
    return summarise(out, data)


def _claim(out: Path, data: PropertyData, settings: FinetuneSettings) -> None:
    """Write ``run.json``, or refuse a folder that holds another run."""
    label = data.labels.double()
    mine = {
        "data": data.name,
        "file": data.file.name,
        "label": data.label,
        "title": data.title,
        "unit": data.unit,
        "scale": data.scale,
        "crystals": len(data.crystals),
        "label_mean": round(float(label.mean()), 6),
        "notes": list(data.notes),
        "settings": settings.record(),
    }
    path = out / RUN
    if path.exists():
        saved = read_run(out)
        if saved != mine:
            there, here = {**saved, **saved["settings"]}, {**mine, **settings.record()}
            keys = [*settings.record(), *mine, *saved["settings"], *saved]
            key = next(key for key in keys if there.get(key) != here.get(key))
            raise InputError(
                f"{out} holds another run ({key} is {json.dumps(there.get(key))} there and {json.dumps(here.get(key))}"
                " here): choose another --out"
            )
        return
    _write(path, mine)


def read_run(out: Path) -> dict[str, Any]:
    """The content of a run's ``run.json``.

    Raises:
        InputError: missing, or none.

    """
    try:
        saved = json.loads((out / RUN).read_text(encoding="utf-8"))
        if not isinstance(saved["settings"], dict):
            raise TypeError  # noqa: TRY301 - said below
    except FileNotFoundError:
        raise InputError(f"{out}: holds no run of dao finetune property ({RUN})") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{out / RUN}: no run of dao finetune property") from None
    return dict(saved)


def _write(path: Path, content: dict[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written ({error.strerror})") from None


def inner_split(rows: Int[Tensor, " b"], seed: int) -> tuple[Int[Tensor, " c"], Int[Tensor, " d"]]:
    """Rows to train on and rows to validate on, a fixed random tenth."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    count = max(1, round(INNER_SHARE * len(rows)))
    return rows[order[count:].sort().values], rows[order[:count].sort().values]


def _train(
    data: PropertyData,
    fold: Fold,
    settings: FinetuneSettings,
    seed: int,
    folder: Path,
    *,
    device: str,
    progress: bool,
    note: Callable[[str], None],
) -> None:
    train, validation = fold.train, fold.validation
    if validation is None and fold.validations:
        validation = fold.validations[(seed - settings.seed) % len(fold.validations)]
        train = train[~torch.isin(train, validation)]
    elif validation is None:
        # the same crystals for every member: their errors compare
        train, validation = inner_split(fold.train, settings.seed)
    # columns of the source are not trained on
    crystals = replace(data.crystals, columns={}, labels={data.label: data.labels})
    own_set, validation_set, test_set = (crystals.select(rows) for rows in (train, validation, fold.test))
    training_set = own_set
    if data.extra is not None and fold.extra is not None and len(fold.extra):
        training_set = joined(own_set, data.extra.select(fold.extra))
    recipe = recipe_of(data, fold, settings, seed, len(training_set))
    task = PropertyTask(recipe, validation_set)
    train_packed(recipe, task, training_set, out=folder, data=data.file, device=device, progress=progress, note=note)
    model = PropertyPredictor.load(folder / "best", device=choose_device(device))
    mean = own_set.labels[data.label].double().mean()
    figures = {
        "train": len(own_set),
        "extra": len(training_set) - len(own_set),
        "validation": len(validation_set),
        "test": len(test_set),
        "best_validation_mae": model.config.training["best_validation_mae"],
        "epochs": model.config.training["epochs"],
        "hours": model.config.training["hours"],
        "cpu_hours": model.config.training["cpu_hours"],
        "training_mean": float(mean),
    }
    _write(folder / FIGURES, figures)
    # last: its presence says that the training is done
    _write_test(folder / TEST, test_set.ids, test_set.labels[data.label].double(), predict_packed(model, test_set))


def recipe_of(data: PropertyData, fold: Fold, settings: FinetuneSettings, seed: int, crystals: int) -> PropertyRecipe:
    """The recipe of one training on ``crystals`` crystals.

    Raises:
        InputError: no such weights.

    """
    config = read_config(settings.weights)
    seen = settings.epochs * crystals
    steps = -(-seen // min(settings.batch_size, crystals))
    return PropertyRecipe(
        task="property",
        name=data.name,
        seed=seed,
        crystals=seen,
        batch_size=settings.batch_size,
        precision=settings.precision,
        compile_blocks=settings.compile_blocks,
        data=DataRecipe(file=data.file.name, max_atoms=int(data.crystals.num_atoms.max())),
        initial_weights=None if settings.from_scratch else str(settings.weights),
        network=config.network,
        process=config.process,
        optimizer=OptimizerRecipe(
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.99),
            warmup_steps=max(1, steps // 20),
            schedule="cosine",
        ),
        validation=ValidationRecipe(
            crystals=1, every=max(1, min(crystals, seen // LEAST_VALIDATIONS)), patience=settings.patience
        ),
        record=RecordRecipe(checkpoint_seconds=120.0),
        label=data.label,
        title=data.title,
        unit=data.unit,
        scale=data.scale,
        fold=fold.name,
        trunk_rate=settings.trunk_rate,
    )


def _write_test(
    path: Path, ids: Sequence[str], labels: Float64[Tensor, " m"], predictions: Float64[Tensor, " m"]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["material_id", "label", "prediction"])
    writer.writerows(
        (name, f"{label:.8g}", f"{said:.8g}")
        for name, label, said in zip(ids, labels.tolist(), predictions.tolist(), strict=True)
    )
    _write_text(path, text.getvalue())


def read_test(path: Path) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Labels and predictions of a training's test crystals.

    Raises:
        InputError: no such file.

    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [(float(row["label"]), float(row["prediction"])) for row in csv.DictReader(stream)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no predictions of test crystals ({type(error).__name__})") from None
    values = np.array(rows).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def summarise(out: Path, data: PropertyData | None = None) -> dict[str, Any]:
    """Write ``results.json``: errors of every finished fold (of the mean of its members) and their mean over folds.

    ``mae_sd`` is the standard deviation over folds (of the population, as Matbench prints it); ``baseline_mae`` is the
    error of the mean of the training labels.

    Raises:
        InputError: no such run, or none of its trainings is finished.

    """
    run = read_run(out)
    folds = []
    for folder in sorted(out.glob("fold-*")):
        members = sorted((path.parent for path in folder.glob(f"seed-*/{TEST}")), key=lambda path: int(path.name[5:]))
        if members:
            folds.append(_fold_figures(folder.name.removeprefix("fold-"), members))
    if not folds:
        raise InputError(f"{out}: none of its trainings is finished")
    results = {
        **run,
        "expected_folds": None if data is None else len(data.folds),
        "complete": data is None or len(folds) == len(data.folds),
        "folds": folds,
        **{key: float(np.mean([fold[key] for fold in folds])) for key in ("mae", "rmse", "baseline_mae")},
        "mae_sd": float(np.std([fold["mae"] for fold in folds])),
        "validation_mae": float(np.mean([fold["validation_mae"] for fold in folds])),
        **{key: round(sum(fold[key] for fold in folds), 3) for key in ("hours", "cpu_hours")},
    }
    _write(out / RESULTS, results)
    return results


def _fold_figures(name: str, members: Sequence[Path]) -> dict[str, Any]:
    figures = [json.loads((member / FIGURES).read_text(encoding="utf-8")) for member in members]
    tests = [read_test(member / TEST) for member in members]
    labels = tests[0][0]
    predictions = np.mean([said for _, said in tests], axis=0)
    one = [float(np.abs(said - labels).mean()) for _, said in tests]
    return {
        "name": name,
        **{key: figures[0][key] for key in ("train", "validation", "test")},
        "extra": figures[0].get("extra", 0),
        "members": len(members),
        "validation_mae": float(np.mean([one["best_validation_mae"] for one in figures])),
        "mae": float(np.abs(predictions - labels).mean()),
        "mae_of_one": float(np.mean(one)),
        "rmse": float(np.sqrt(np.square(predictions - labels).mean())),
        "baseline_mae": float(np.abs(figures[0]["training_mean"] - labels).mean()),
        **{key: sum(one[key] for one in figures) for key in ("hours", "cpu_hours")},
    }
