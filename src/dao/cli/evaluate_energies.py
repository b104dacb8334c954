"""``dao evaluate energies``: how well a predictor's energies agree with the labels of a set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dao.cli.options import (
    BatchSize,
    Device,
    FormatOption,
    PredictorWeights,
    Quiet,
    Seed,
    check_device,
    check_out_folder,
    source_and_splits,
)
from dao.errors import InputError

if TYPE_CHECKING:
    from dao.evaluation.energies import EnergyFigures

EXAMPLES = """\b
Examples:
  dao evaluate energies --data mp20 --train pool.parquet --out runs/energies
  dao evaluate energies --weights runs/predictor/best --data mp20 --split val --count 2000

\b
Crystals without a label are left out; of mp20 those that are not the benchmark's own structure have none. The folder
given by --out receives report.md, energies.json, energies.csv (a line a crystal) and figures. Exit code 3: some
energies are not finite (see failures.json)."""

COLUMNS = {
    "method": "method",
    "mae": "MAE (eV/atom)",
    "rmse": "RMSE (eV/atom)",
    "bias": "bias (eV/atom)",
    "spearman": "Spearman",
    "r2": "R2",
    "f1": "F1 of stable",
    "auc": "AUC of stable",
}
"""Keys of a row that the table shows, and their headings."""


def energies(
    weights: PredictorWeights = None,
    data: Annotated[
        str,
        typer.Option(
            metavar="NAME|PATH",
            help="Labelled crystals: mp20 or mpts52 of $DAO_DATA, or a file or folder of any kind that can be read.",
        ),
    ] = "mp20",
    split: Annotated[
        str | None,
        typer.Option(help="Split of the data; test where the data has splits.", show_default=False),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="A fixed random subset of so many labelled crystals; all if not given.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Column of the true energy above the hull (eV/atom); the predictor's.", show_default=False),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH[:SPLIT]",
            help="The training set, to which baselines are fitted; else only 0 stands beside.",
        ),
    ] = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the results.")] = Path("energies"),
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> int:
    """Energies above the hull: errors and order against labels, beside baselines; are the errors foreseen?"""
    from dao.weights import DEFAULT_PREDICTOR, resolve

    check_device(device)
    source = resolve(DEFAULT_PREDICTOR if weights is None else weights)
    check_out_folder(out)

    from dao.evaluation.targets import find_data, test_split

    path = find_data(data)
    training = None if train is None else source_and_splits(train, "--train")
    if training is not None and len(training[1]) > 1:
        raise InputError(f"--train {train!r}: names more than one split")

    from dao.cli.output import print_json, print_table
    from dao.evaluation.energies import evaluate_energies, load_labelled
    from dao.evaluation.energy_baselines import load_training_set
    from dao.prediction.energies import load_predictor

    def note(text: str) -> None:
        if not quiet:
            typer.echo(text, err=True)

    model = load_predictor(source, device)
    labelled = load_labelled(
        path, label=label or model.config.label, split=split or test_split(path), count=count, seed=seed, note=note
    )
    known = None
    if training is not None:
        ids = {crystal.name for crystal in labelled.crystals}
        one_split = next(iter(training[1]), None)
        known = load_training_set(training[0], split=one_split, label=model.config.label, evaluated=ids)
    result = evaluate_energies(model, labelled, known, out=out, seed=seed, batch_size=batch_size, progress=not quiet)
    if output == "json":
        print_json(result.record)
    else:
        print_table(_rows(result.figures), COLUMNS)
    note(f"report: {out / 'report.md'}")
    if result.failures:
        typer.echo(f"{len(result.failures)} energies are not finite: see {out / 'failures.json'}", err=True)
        return 3
    return 0


def _rows(figures: EnergyFigures) -> list[dict[str, Any]]:
    from dao.evaluation.energy_report import interval_text

    return [
        {
            "method": one.name,
            **{key: interval_text(getattr(one.agreement, key)) for key in ("mae", "rmse", "bias")},
            **{key: interval_text(getattr(one.agreement, key), 3) for key in ("spearman", "r2")},
            **{key: interval_text(getattr(one.stability, key), 3) for key in ("f1", "auc")},
        }
        for one in figures.methods
    ]
