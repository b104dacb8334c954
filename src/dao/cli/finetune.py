"""``dao finetune property``: the predictor finetuned to another property, on the folds of a benchmark or a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from dao.cli.options import Device, FormatOption, PredictorWeights, Quiet, Seed, check_device, check_out_folder

EXAMPLES = """\b
Examples:
  dao finetune property --data matbench_phonons --out runs/phonons
  dao finetune property --data matbench_phonons --from-scratch --out runs/phonons-scratch
  dao finetune property --data mine.csv --target hardness --unit GPa --scale log10 --out runs/hardness

\b
Benchmarks (their files are looked for in $DAO_DATA): matbench_phonons, matbench_jdft2d, matbench_dielectric,
matbench_log_kvrh, jarvis_ehull, jarvis_mbj_gap, mp_gap, mp_bulk, mp_shear, aflow_bulk_modulus, aflow_shear_modulus,
aflow_debye_temperature, aflow_thermal_conductivity, aflow_thermal_expansion, supercon_tc, supercon_tc_grouped (see dao
superconductors train). Their folds are the published ones, and ours of superconductors. A file is split by its column
"split" (train, val, test), or else at random. An interrupted run goes on when the same command is given again. The
weights that are best on validation are kept; dao property uses them, dao evaluate properties prints tables."""

app = typer.Typer(
    help="Finetune the predictor to what it was not pretrained on.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _group() -> None:
    """Keep ``property`` a verb of its own: typer would drop the name of an only command."""


@app.command("property", epilog=EXAMPLES)
def finetune_property(
    data: Annotated[str, typer.Option(metavar="NAME|PATH", help="A benchmark, or a file of labelled structures.")],
    target: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column or key that is the property; of a file alone.")
    ] = None,
    unit: Annotated[str, typer.Option(help="Unit of the target of a file, for the record.")] = "",
    scale: Annotated[
        Literal["linear", "log10"], typer.Option(help="Learn the target of a file as it is, or its logarithm.")
    ] = "linear",
    random_folds: Annotated[
        int, typer.Option(min=2, help="In how many folds a file without a column split is divided.")
    ] = 5,
    folds: Annotated[
        str | None, typer.Option(metavar="F,F,...", help="Folds to train on now, e.g. 0 or 0,2; all if not given.")
    ] = None,
    weights: PredictorWeights = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Random weights of the same network instead of pretrained ones.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Times that each training crystal is seen.")] = 60,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Crystals a step.")] = 16,
    learning_rate: Annotated[float, typer.Option("--rate", min=1e-7, max=1.0, help="Largest learning rate.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option("--decay", min=0.0, max=10.0, help="Weight decay (AdamW).")] = 0.01,
    trunk_rate: Annotated[
        float,
        typer.Option(min=0.0, max=10.0, help="Rate of all but the new head, as a share of --rate; 0 freezes it."),
    ] = 1.0,
    patience: Annotated[
        int, typer.Option(min=0, help="Stop after so many validations without an improvement; 0: never.")
    ] = 0,
    members: Annotated[int, typer.Option(min=1, help="Trainings a fold, by different seeds: an ensemble.")] = 1,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="bfloat16: autocast in training.")
    ] = "bfloat16",
    compile_blocks: Annotated[
        bool, typer.Option("--compile", help="torch.compile: a minute at the start, then faster.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The run's folder; runs/property-DATA if not given.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> None:
    """Finetune the predictor to a property on every fold, and print the errors on the test crystals."""
    from dao.weights import resolve_trunk

    check_device(device)
    source = resolve_trunk(weights)
    folder = out or Path("runs") / f"property-{Path(data).stem}"
    check_out_folder(folder)

    from dao.cli.output import print_json, print_table
    from dao.data.properties import load_property
    from dao.training.finetune import FinetuneSettings, finetune

    note = None if quiet else partial(typer.echo, err=True)
    settings = FinetuneSettings(
        weights=source,
        from_scratch=from_scratch,
        epochs=epochs,
        batch_size=batch,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        trunk_rate=trunk_rate,
        patience=patience,
        members=members,
        seed=seed,
        precision=precision,
        compile_blocks=compile_blocks,
    )
    known = load_property(data, target=target, scale=scale, unit=unit, random_folds=random_folds, seed=seed)
    for text in known.notes if note is not None else ():
        typer.echo(text, err=True)
    wanted = None if folds is None else [name.strip() for name in folds.split(",")]
    results = finetune(known, settings, out=folder, folds=wanted, device=device, progress=not quiet, note=note)
    if output == "json":
        print_json(results)
        return
    unit_of = f" ({results['unit']})" if results["unit"] else ""
    numbers = ("mae", "rmse", "validation_mae", "baseline_mae")
    print_table(
        [
            {**fold, **{key: f"{fold[key]:.4g}" for key in numbers}}
            for fold in [*results["folds"], {**results, "name": "mean"}]
        ],
        {
            "name": "fold",
            "train": "train",
            "validation": "validation",
            "test": "test",
            "mae": f"MAE{unit_of}",
            "rmse": "RMSE",
            "validation_mae": "validation MAE",
            "baseline_mae": "MAE of the mean",
        },
    )
