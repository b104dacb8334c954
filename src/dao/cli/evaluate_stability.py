"""``dao evaluate stability FOLDER``: how many predictions are stable, by our predictor and by an independent judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dao.cli.options import Data, Device, FormatOption, Quiet, Split, check_device, check_out_folder, judging_options
from dao.errors import InputError
from dao.weights import resolve_predictor

if TYPE_CHECKING:
    from dao.evaluation.stability_run import Stability, StabilityHow

EXAMPLES = """\b
Examples:
  dao evaluate stability runs/mp20 --calculator chgnet
  dao evaluate stability runs/guided --calculator chgnet --relax 50 --count 200 --samples 1 --against runs/mp20

\b
FOLDER is what dao evaluate csp wrote; name its --data and --split as there. FOLDER/stability receives stability.md,
stability.json and every energy, so that the same command goes on where it was stopped. Structures that a judge fails on
count as not stable (failures.json says which). Exit code 3: it failed on reference crystals, whose targets are left
out."""


def stability(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a finished dao evaluate csp.")],
    predictor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER|HUB_ID",
            help="Judge one: weights of a predictor of e_above_hull; the shipped ones, if any.",
            show_default=False,
        ),
    ] = None,
    calculator: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Judge two, independent of us: chgnet, mace, sevennet, mattersim or orb, if installed.",
            show_default=False,
        ),
    ] = None,
    relax: Annotated[
        int, typer.Option(min=0, max=10_000, help="Also relax by the calculator, by at most so many steps.")
    ] = 0,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Judged results of other predictions of the same targets, to compare."),
    ] = None,
    data: Data = "mp20",
    split: Split = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Judge a fixed random subset of so many targets; all if not given.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Judge so many samples of each target, the first ones; all if not given.")
    ] = None,
    device: Device = "auto",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for the results.", show_default="FOLDER/stability")
    ] = None,
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> int:
    """Which share of the predictions is stable, by our predictor and by an independent potential?"""
    check_device(device)
    if predictor is None and calculator is None:
        resolve_predictor(None, needed_by="judging without --calculator")
    judging = judging_options(predictor, 0.0, None, None)
    out = folder / "stability" if out is None else out
    check_out_folder(out)

    from dao.device import choose_device
    from dao.evaluation.finished import read_finished
    from dao.evaluation.stability_run import StabilityHow, evaluate_stability
    from dao.evaluation.targets import find_data, test_split
    from dao.interop.foundation import find_foundation
    from dao.prediction.judging import ENERGY

    if calculator is not None:
        find_foundation(calculator)
    source = find_data(data)
    judge = judging.load(device)
    if judging.predictor is not None and judge.ranker is None:
        raise InputError(f"{judging.predictor}: predicts no {ENERGY}, which stability is judged by")
    how = StabilityHow(
        out=out,
        predictor=judge.ranker,
        calculator=calculator,
        device=str(choose_device(device)),
        relax=relax,
        count=count,
        samples=samples,
        progress=not quiet,
    )
    found = evaluate_stability(read_finished(folder, source, split=split or test_split(source)), how, against)
    return _tell(found, how, output, quiet=quiet)


def _tell(found: Stability, how: StabilityHow, output: str, *, quiet: bool) -> int:
    from dao.cli.output import print_json, print_table
    from dao.evaluation.stability_run import HEADINGS, difference_record, stability_record

    records = [stability_record(row) for row in found.rows] + [difference_record(row) for row in found.differences]
    if output == "json":
        print_json(records)
    else:
        print_table(records, HEADINGS)
    if not quiet:
        typer.echo(f"report: {how.out / 'stability.md'}", err=True)
    if found.failures:
        typer.echo(
            f"{len(found.failures)} structures got no energy: see {how.out / 'failures.json'}"
            f" (the first: {found.failures[0]['target']}: {found.failures[0]['reason']})",
            err=True,
        )
    return 3 if found.left_out else 0
