"""``dao evaluate``: how good predictions are, ours or another tool's, on known crystals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dao.cli import evaluate_energies, evaluate_properties, evaluate_stability
from dao.cli.options import (
    Data,
    Device,
    FormatOption,
    GuidanceStrength,
    GuidanceTarget,
    Predictor,
    Quiet,
    RankBy,
    Seed,
    SourcesOption,
    Split,
    Table,
    Walks,
    check_device,
    check_out_folder,
    judging_options,
    source_and_splits,
    sources_option,
)
from dao.errors import InputError

if TYPE_CHECKING:
    from dao.evaluation.run import Evaluation, How
    from dao.evaluation.scores import Interval, Row
    from dao.evaluation.targets import Targets
    from dao.prediction.sources import Sources

app = typer.Typer(help="Score predictions against known crystals.", no_args_is_help=True, rich_markup_mode=None)
app.command(epilog=evaluate_stability.EXAMPLES)(evaluate_stability.stability)

CSP_EXAMPLES = """\b
Examples:
  dao evaluate csp --data mp20 --count 500 --out runs/mp20
  dao evaluate csp --weights runs/small/best --data mpts52 --k 1,5,20 --seeds 3
  dao evaluate csp --sources generator,prototypes --table mp20.safetensors --data mp20
  dao evaluate csp --predictions generated.extxyz --reference test.csv

\b
The folder given by --out receives report.md, results.json, scores.json, figures, and every sample and match, so that
the same command goes on where it was stopped. Exit code 3: some predictions could not be read (see failures.json)."""

POLYMORPH_EXAMPLES = """\b
Example:
  dao evaluate polymorphs --data mp20 --samples 20

\b
Predicts every crystal of the split whose composition occurs more than once, and reports for how many of these
compositions all conformations are found."""

Count = Annotated[int | None, typer.Option(min=1, help="A fixed random subset of so many crystals; all if not given.")]
Weights = Annotated[
    str | None,
    typer.Option(metavar="NAME|FOLDER|HUB_ID", help="Weights to evaluate; the default ones if not given."),
]
Steps = Annotated[int | None, typer.Option(min=1, max=100_000, help="Sampler steps; the weights' own if not given.")]
Precision = Annotated[
    Literal["float32", "bfloat16"] | None,
    typer.Option(help="Of sampling; bfloat16 is faster. The weights' own default."),
]
Workers = Annotated[int, typer.Option(min=1, max=1024, help="Processes that compare and rank.")]
TimeLimit = Annotated[
    float,
    typer.Option(min=0.01, max=86_400, help="Seconds after which a comparison counts as no match."),
]


@app.command(epilog=CSP_EXAMPLES)
def csp(
    weights: Weights = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            exists=True,
            help="Score this output of any tool instead: extxyz, folder or zip of CIFs, CSV, JSON, Parquet, ASE db.",
        ),
    ] = None,
    key: Annotated[
        Literal["auto", "id", "order"], typer.Option(help="How predictions belong to the true crystals.")
    ] = "auto",
    samples_per_target: Annotated[
        int | None, typer.Option(min=1, help="Predictions of each true crystal, where --predictions has several.")
    ] = None,
    data: Data = "mp20",
    split: Split = None,
    count: Count = None,
    k: Annotated[str, typer.Option(metavar="K[,K]", help="Samples a crystal to report.")] = "1,5,20",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Seeds; those after the first sample once.")] = 1,
    ranked: Annotated[bool, typer.Option(help="Also compare the candidate that our ranking puts first.")] = True,
    prototypes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON of benchmarks/prototype_baseline.py for these crystals: adds the subset beyond prototypes.",
        ),
    ] = None,
    seen: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH[:SPLIT]", help="The training data: adds the subset that is not in it by id or structure."
        ),
    ] = None,
    predictor: Predictor = None,
    guidance: GuidanceStrength = 0.0,
    target: GuidanceTarget = None,
    rank: RankBy = None,
    sources: SourcesOption = "generator",
    table: Table = None,
    exclude_same_composition: Annotated[
        bool, typer.Option("--exclude-same-composition", help="Prototypes know no crystal of a target's composition.")
    ] = False,
    max_atoms: Annotated[int | None, typer.Option(min=1, help="Leave larger true crystals out.")] = None,
    steps: Steps = None,
    walks: Walks = None,
    precision: Precision = None,
    seed: Seed = 0,
    workers: Workers = 1,
    time_limit: TimeLimit = 10.0,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Structures generated at a time.")] = None,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the results.")] = Path("evaluation"),
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> int:
    """Crystal structure prediction: match rate, RMSE, METRe, ranked top-1, by size, beside published figures."""
    from dao.weights import DEFAULT, resolve

    ks = parse_ks(k)
    if predictions is not None and (weights is not None or seeds > 1 or (steps, walks, precision) != (None,) * 3):
        raise InputError(
            "--predictions is scored as it is: leave out --weights, --seeds, --steps, --walks and --precision"
        )
    if predictions is not None and guidance != 0:
        raise InputError("--predictions is scored as it is: leave out --guidance")
    check_device(device)
    chosen = sources_option(sources, table, supplement=False, exclude_same_composition=exclude_same_composition)
    samples_own = chosen.generator and predictions is None
    generator = resolve(DEFAULT if weights is None else weights) if samples_own else None
    judging = judging_options(predictor, guidance, target, rank, generator=generator)
    if predictions is not None and chosen.table is not None:
        raise InputError("--predictions is scored as it is: leave out --sources")
    check_sources(chosen, weights, seeds, guidance)
    check_out_folder(out)

    from dao.data.deduplicate import read_references
    from dao.evaluation.candidates import check_table
    from dao.evaluation.run import How, evaluate_predictions, evaluate_prototypes
    from dao.evaluation.targets import find_data, read_prototypes, with_unseen

    how = How(
        out=out,
        ks=ks,
        workers=workers,
        seconds=time_limit,
        ranked=ranked,
        progress=not quiet,
        prototypes=None if prototypes is None else read_prototypes(prototypes),
        judging=judging,
        sources=chosen,
    )
    training = None if seen is None else source_and_splits(seen, "--seen")
    targets = _targets(find_data(data), split, count, max_atoms)
    if chosen.table is not None:
        for path in (chosen.table, *chosen.also):
            check_table(path, find_data(data), targets.split or None)
    if training is not None:
        targets = with_unseen(targets, read_references(*training).crystals, workers=workers, seconds=time_limit)
    if not chosen.generator:
        result = evaluate_prototypes(targets, how)
    elif predictions is None:
        settings = {"steps": steps, "walks": walks, "precision": precision}
        result = _generator(targets, how, weights, device, range(seed, seed + seeds), settings, batch_size)
    else:
        from dao.evaluation.predictions import read_predictions

        given = read_predictions(predictions, targets.crystals, key=key, samples_per_target=samples_per_target)
        result = evaluate_predictions(targets, given, how, title=predictions.name)
    return _tell(result, how, output, quiet=quiet)


@app.command(epilog=POLYMORPH_EXAMPLES)
def polymorphs(
    weights: Weights = None,
    data: Data = "mp20",
    split: Split = None,
    samples: Annotated[int, typer.Option(min=1, max=100_000, help="Samples of each conformation.")] = 20,
    steps: Steps = None,
    walks: Walks = None,
    precision: Precision = None,
    seed: Seed = 0,
    workers: Workers = 1,
    time_limit: TimeLimit = 10.0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the results.")] = Path("polymorphs"),
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> int:
    """Compositions with several known crystals: for how many of them are all found?"""
    check_device(device)
    check_out_folder(out)

    from dao.evaluation.polymorphs import polymorph_groups
    from dao.evaluation.run import How
    from dao.evaluation.targets import find_data

    everything = _targets(find_data(data), split, None, None)
    groups = polymorph_groups([crystal.reduced_formula for crystal in everything.crystals])
    if not groups:
        raise InputError(f"{data}: no composition has more than one crystal")
    rows = sorted(row for members in groups.values() for row in members)
    targets = everything.select(rows, "those whose composition occurs more than once")
    ks = tuple(sorted({1, samples}))
    how = How(out=out, ks=ks, workers=workers, seconds=time_limit, ranked=False, progress=not quiet)
    settings = {"steps": steps, "walks": walks, "precision": precision}
    result = _generator(targets, how, weights, device, [seed], settings, None)
    return _tell(result, how, output, quiet=quiet)


app.command(epilog=evaluate_energies.EXAMPLES)(evaluate_energies.energies)
app.command(epilog=evaluate_properties.EXAMPLES)(evaluate_properties.properties)


def check_sources(sources: Sources, weights: str | None, seeds: int, guidance: float) -> None:
    """Refuse options of a generator that is not among the sources.

    Raises:
        InputError: says which.

    """
    if not sources.generator and (weights is not None or guidance != 0):
        raise InputError("--sources prototypes needs no generator: leave out --weights and --guidance")
    if sources.table is not None and seeds > 1:
        raise InputError("--seeds is of the generator alone: leave prototypes out of --sources")


def parse_ks(text: str) -> tuple[int, ...]:
    """``"1,5,20"`` as (1, 5, 20).

    Raises:
        InputError: no rising whole numbers between 1 and 1,000.

    """
    try:
        ks = tuple(int(part) for part in text.split(","))
    except ValueError:
        ks = ()
    if not ks or min(ks) < 1 or max(ks) > 1000 or list(ks) != sorted(set(ks)):
        raise InputError(f"--k {text!r}: write rising whole numbers from 1 to 1000, e.g. 1,5,20")
    return ks


def _targets(path: Path, split: str | None, count: int | None, max_atoms: int | None) -> Targets:
    from dao.evaluation.targets import load_targets, test_split

    return load_targets(path, split=split or test_split(path), count=count, max_atoms=max_atoms)


def _generator(
    targets: Targets,
    how: How,
    weights: str | None,
    device: str,
    seeds: Any,  # noqa: ANN401 -- a range or a list
    settings: dict[str, Any],
    batch_size: int | None,
) -> Evaluation:
    from dao.evaluation.run import evaluate_generator
    from dao.prediction.pipeline import load_generator

    model = load_generator(weights, device)
    return evaluate_generator(
        model, targets, how, seeds=list(seeds), settings=model.config.sampler.updated(**settings), batch_size=batch_size
    )


def _tell(result: Evaluation, how: How, output: str, *, quiet: bool) -> int:
    from dao.cli.output import print_json, print_table

    records = [_record(row, str(row.k)) for row in result.rows]
    if result.ranked is not None:
        records.append(_record(result.ranked, "ranked"))
    if output == "json":
        print_json(records)
    else:
        print_table(records, COLUMNS)
    if not quiet:
        typer.echo(f"report: {how.out / 'report.md'}", err=True)
    if result.failures:
        typer.echo(
            f"{len(result.failures)} predictions could not be used: see {how.out / 'failures.json'}"
            f" (the first: {result.failures[0].where}: {result.failures[0].reason})",
            err=True,
        )
        return 3
    return 0


COLUMNS = {
    "subset": "crystals",
    "count": "number",
    "k": "k",
    "unfiltered": "match rate U (%)",
    "filtered": "match rate F (%)",
    "strict": "strict U (%)",
    "rmse": "RMSE",
    "metre": "METRe (%)",
}
"""Keys of a row that the table shows, and their headings."""


def _record(row: Row, k: str) -> dict[str, Any]:
    return {
        "subset": row.subset,
        "count": row.crystals,
        "k": k,
        "unfiltered": _text(row.unfiltered, 100.0, 1),
        "filtered": _text(row.filtered, 100.0, 1),
        "strict": _text(row.strict, 100.0, 1),
        "rmse": _text(row.rmse, 1.0, 4),
        "metre": _text(row.metre, 100.0, 1),
    }


def _text(one: Interval | None, scale: float, decimals: int) -> str | None:
    if one is None or math.isnan(one.value):
        return None
    return f"{scale * one.value:.{decimals}f} ({scale * one.low:.{decimals}f}-{scale * one.high:.{decimals}f})"
