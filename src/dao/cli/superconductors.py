"""``dao superconductors data|generate|train|evaluate``: from what is known of superconductors to predictors of Tc."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from dao.cli.options import Device, FormatOption, PredictorWeights, Quiet, Seed, check_device, check_out_folder
from dao.errors import InputError

app = typer.Typer(
    help="Superconductors: structures for those that have none, and predictors of critical temperatures.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="FOLDER", help="Folder of the two files; $DAO_DATA if not given.", show_default=False
    ),
]

DATA_EXAMPLES = """\b
Examples:
  dao superconductors data
  dao superconductors data --out runs/superconductors --format json

\b
Superconductors with structures (SC-s) are supercon3d.parquet, those without (SC-ns) supercon_no_structure.parquet."""

GENERATE_EXAMPLES = """\b
Examples:
  dao train supercon-symmetric-small --out runs/supercon
  dao superconductors generate --weights runs/supercon/last --out runs/generated
  dao superconductors generate --weights runs/supercon/last --mode ranked --out runs/ranked

\b
One structure a superconductor without a known one goes into generated.parquet, marked by the generator's fingerprint.
An interrupted run goes on when the same command is given again."""

TRAIN_EXAMPLES = """\b
Examples:
  dao superconductors train --out runs/tc
  dao superconductors train --augment runs/generated/generated.parquet --out runs/tc-augmented
  dao superconductors train --split grouped --rates 5e-4,1e-3 --decays 0.01 --out runs/tc-grouped

\b
Folds are fixed. Of several rates and decays, each fold takes what is best on its own validation crystals. An
interrupted run goes on when the same command is given again."""

EVALUATE_EXAMPLES = """\b
Examples:
  dao superconductors evaluate runs/tc runs/tc-augmented --out runs/tables"""


@app.command(epilog=DATA_EXAMPLES)
def data(
    folder: Folder = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for counts and the figure; none if unset.")
    ] = None,
    output: FormatOption = "table",
) -> None:
    """Count and check what is known of superconductors, and say how far off a constant would be."""
    if out is not None:
        check_out_folder(out)

    import json

    from dao.cli.output import print_json
    from dao.data.properties.superconductors import GROUPED, RANDOM, property_data
    from dao.prediction.files import write_text
    from dao.superconductors.dataset import Superconductors, constant_errors
    from dao.superconductors.tables import distribution_figure

    known = Superconductors.load(folder)
    counts = known.counts()
    counts["constant_mae"] = {name: constant_errors(property_data(name, folder)) for name in (RANDOM, GROUPED)}
    if out is not None:
        distribution_figure(*known.temperatures, out)
        write_text(out / "superconductors.json", json.dumps(counts, indent=1) + "\n")
    if output == "json":
        print_json(counts)
        return
    print(f"with structure (SC-s): {counts['structures']:,}; chemical systems: {counts['chemical_systems']}")
    print(f"  formula unlike the structure: {'; '.join(counts['formula_unlike_structure']) or 'none'}")
    print(f"  families: {_list(counts['families'])}")
    print(f"without structure (SC-ns): {counts['without_structure']:,}")
    print(f"  unusable: {'; '.join(counts['without_structure_unusable']) or 'none'}")
    print(f"  compositions that SC-s has as well: {'; '.join(counts['in_both']) or 'none'}")
    print(f"  families: {_list(counts['without_structure_families'])}")
    for name, errors in counts["constant_mae"].items():
        said = ", ".join(f"{kind} of the training labels {value:.3f}" for kind, value in errors.items())
        print(f"MAE of ln Tc, {name}: {said}")


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


@app.command(epilog=GENERATE_EXAMPLES)
def generate(
    weights: Annotated[
        str, typer.Option(metavar="NAME|FOLDER|HUB_ID", help="The generator, finetuned on superconductors.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The run's folder, outside any repository.")],
    mode: Annotated[
        Literal["one-shot", "ranked"],
        typer.Option(help="The generator's only sample, or the first of the whole pipeline's ranked candidates."),
    ] = "one-shot",
    samples: Annotated[int, typer.Option(min=1, max=1000, help="Samples a formula, with --mode ranked.")] = 20,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many of the formulas, for a trial.", show_default=False)
    ] = None,
    folder: Folder = None,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> int:
    """Generate structures for superconductors that have none."""
    from dao.weights import resolve

    check_device(device)
    check_out_folder(out)
    source = resolve(weights)

    from dao.superconductors.augmentation import STRUCTURES, Generation, generate_structures
    from dao.superconductors.dataset import Superconductors

    note = None if quiet else partial(typer.echo, err=True)
    known = Superconductors.load(folder)
    how = Generation(weights=source, mode=mode, samples=samples, seed=seed, device=device)
    summary = generate_structures(known.without_structure[:limit], how, out=out, progress=not quiet, note=note)
    print(f"{out / STRUCTURES}: {summary['structures']:,} structures for {summary['asked']:,} superconductors")
    if summary["failed"]:
        typer.echo(f"{len(summary['failed'])} got no structure: see {out / 'generated.json'}", err=True)
        return 3
    return 0


@app.command(epilog=TRAIN_EXAMPLES)
def train(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The run's folder.")],
    split: Annotated[
        Literal["random", "grouped"], typer.Option(help="Folds at random, or chemical systems kept together (harder).")
    ] = "random",
    augment: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="generated.parquet of dao superconductors generate, to train on as well."),
    ] = None,
    weights: PredictorWeights = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Random weights of the same network instead of pretrained ones.")
    ] = False,
    rates: Annotated[str, typer.Option(metavar="R,R,...", help="Learning rates to choose from.")] = "1e-3",
    decays: Annotated[str, typer.Option(metavar="D,D,...", help="Weight decays to choose from.")] = "0.01",
    epochs: Annotated[int, typer.Option(min=1, help="Times that each training crystal is seen.")] = 30,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Crystals a step.")] = 16,
    trunk_rate: Annotated[
        float, typer.Option(min=0.0, max=10.0, help="Rate of all but the new head, as a share of the rate.")
    ] = 1.0,
    members: Annotated[int, typer.Option(min=1, help="Trainings a fold, by different seeds.")] = 1,
    folds: Annotated[
        str | None, typer.Option(metavar="F,F,...", help="Folds to train on now, 0 to 4; all if not given.")
    ] = None,
    compile_blocks: Annotated[
        bool, typer.Option("--compile", help="torch.compile: a minute at the start, then faster.")
    ] = False,
    folder: Folder = None,
    seed: Seed = 0,
    device: Device = "auto",
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> None:
    """Finetune the predictor to critical temperatures, on every fold."""
    from dao.weights import resolve_trunk

    check_device(device)
    check_out_folder(out)
    source = resolve_trunk(weights)
    tried = _numbers(rates, "--rates", smallest=1e-7, largest=1.0)
    decaying = _numbers(decays, "--decays", smallest=0.0, largest=10.0)

    from dao.cli.output import print_json
    from dao.data.properties.superconductors import GROUPED, RANDOM, property_data
    from dao.superconductors.augmentation import augmented
    from dao.superconductors.cross_validation import cross_validate
    from dao.superconductors.tables import read_runs, tables
    from dao.training.finetune import FinetuneSettings

    known = property_data(RANDOM if split == "random" else GROUPED, folder)
    if augment is not None:
        known = augmented(known, augment)
    settings = FinetuneSettings(
        weights=source,
        from_scratch=from_scratch,
        epochs=epochs,
        batch_size=batch,
        trunk_rate=trunk_rate,
        members=members,
        seed=seed,
        compile_blocks=compile_blocks,
    )
    chosen = cross_validate(
        known,
        settings,
        out=out,
        rates=tried,
        decays=decaying,
        folds=None if folds is None else [name.strip() for name in folds.split(",")],
        device=device,
        progress=not quiet,
        note=None if quiet else partial(typer.echo, err=True),
    )
    if output == "json":
        print_json(chosen)
    else:
        print(tables(read_runs([out])))


def _numbers(text: str, option: str, *, smallest: float, largest: float) -> list[float]:
    try:
        values = [float(one) for one in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text!r}: write numbers such as 5e-4,1e-3") from None
    if not all(smallest <= one <= largest for one in values):
        raise InputError(f"{option} {text!r}: must be from {smallest:g} to {largest:g}")
    return list(dict.fromkeys(values))


@app.command(epilog=EVALUATE_EXAMPLES)
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of dao superconductors train.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for tc.md, tc.json and the figure; none if unset.")
    ] = None,
    output: FormatOption = "table",
) -> None:
    """Tables of the errors of each fold, beside the paper's and those of a constant."""
    if out is not None:
        check_out_folder(out)

    from dao.cli.output import print_json
    from dao.superconductors.tables import read_runs, tables, write_tables

    found = read_runs(runs)
    if out is not None:
        write_tables(out, found)
    if output == "json":
        print_json([{key: value for key, value in run.items() if key != "folder"} for run in found])
    else:
        print(tables(found))
