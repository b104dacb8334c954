"""``dao predict FORMULA...``: crystals a composition is likely to form, as CIF files, JSON and a ranked table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dao.cli.options import (
    Device,
    FormatOption,
    GuidanceStrength,
    GuidanceTarget,
    Predictor,
    Quiet,
    RankBy,
    Seed,
    SourcesOption,
    Table,
    check_device,
    check_out_folder,
    judging_options,
    sources_option,
)
from dao.errors import InputError

if TYPE_CHECKING:
    from dao.prediction.composition import Composition
    from dao.prediction.pipeline import FormulaResult

EXAMPLES = """\b
Examples:
  dao predict SrTiO3
  dao predict NaCl GaAs --samples 50 --cells 1,2 --out runs/first
  dao predict --file formulas.txt --format json --quiet > candidates.json
  dao predict SrTiO3 --sources prototypes --table mp20.safetensors
  dao predict SrTiO3 --predictor runs/predictor/best --guidance 1
  dao predict SrTiO3 --report

\b
The folder given by --out receives one CIF a candidate, candidates.json, candidates.csv and candidates.extxyz.
A run that was interrupted goes on where it stopped when the same command is given again."""

COLUMNS = {
    "rank": "rank",
    "formula": "formula",
    "space_group": "space group",
    "formula_units": "cell (Z)",
    "num_atoms": "atoms",
    "volume_per_atom": "A^3/atom",
    "confidence": "confidence",
    "e_above_hull": "E above hull (eV/atom)",
    "count": "found",
    "source": "source",
    "prototype": "like",
}
"""Keys of a candidate's record that the table shows, and their headings; energies where there are any."""


def predict(
    formulas: Annotated[
        list[str] | None, typer.Argument(metavar="FORMULA", help="Compositions, e.g. SrTiO3 or 'Ca(OH)2'.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Text file with one formula a line; # starts a comment.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=100_000, help="Structures to generate for each formula.")] = 20,
    cells: Annotated[
        str, typer.Option(metavar="auto|Z[,Z]", help="Formula units a cell; auto tries 1, 2, 3 and 4 where they fit.")
    ] = "auto",
    max_atoms: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Atoms in the largest cell; auto cells otherwise stop at the largest trained on.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Sampler steps; the weights' own number if not given.")
    ] = None,
    seed: Seed = 0,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER|HUB_ID", help="Shipped name (see dao weights list), folder, or Hugging Face Hub id."
        ),
    ] = None,
    device: Device = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Structures generated at a time; changes no result.")
    ] = None,
    predictor: Predictor = None,
    guidance: GuidanceStrength = 0.0,
    target: GuidanceTarget = None,
    rank: RankBy = None,
    sources: SourcesOption = None,
    table: Table = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the results.")] = Path("predictions"),
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html (opens offline) and its figures for each formula.")
    ] = False,
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> int:
    """Predict the crystal structures of one or more compositions."""
    from dao.prediction.composition import parse_cells
    from dao.weights import DEFAULT, largest_trained_cell, resolve

    compositions = _compositions(formulas or [], file)
    trained_on = resolve(DEFAULT if weights is None else weights)
    trained = largest_trained_cell(trained_on)
    targets = {one: parse_cells(cells, one, max_atoms, trained=trained) for one in compositions}
    check_device(device)
    judging = judging_options(predictor, guidance, target, rank)
    chosen = sources_option(sources, table)
    check_out_folder(out)
    if report:
        from dao.report.diffraction import require_diffraction

        require_diffraction()

    from dao.prediction.pipeline import predict_to_folder

    results: list[FormulaResult] = []
    run = predict_to_folder(
        targets,
        out=out,
        weights=trained_on,
        samples=samples,
        steps=steps,
        seed=seed,
        device=device,
        batch_size=batch_size,
        judging=judging,
        sources=chosen,
        progress=not quiet,
        on_start=None if quiet else partial(_say_cells, targets),
        on_result=results.append if report else None,
    )
    _report([candidate.record() for candidate in run.candidates], output)
    if results:
        from dao.report.results import report_on

        for result in results:
            page = report_on(result)
            if not quiet:
                typer.echo(f"report: {page}", err=True)
    if run.discarded and not quiet:
        typer.echo(f"{run.discarded} samples were no crystals and are left out (samples.jsonl says why)", err=True)
    if run.failures:
        typer.echo(f"{len(run.failures)} formulas got no candidate: see {out / 'failures.json'}", err=True)
        return 3
    return 0


def _say_cells(targets: Mapping[Composition, tuple[int, ...]]) -> None:
    for composition, units in targets.items():
        sizes = ", ".join(f"{z} ({z * composition.num_atoms} atoms)" for z in units)
        typer.echo(f"{composition}: formula units a cell: {sizes}", err=True)


def _compositions(formulas: list[str], file: Path | None) -> list[Composition]:
    from dao.prediction.composition import parse_formula, read_formula_file

    compositions = [parse_formula(formula) for formula in formulas]
    if file is not None:
        compositions += read_formula_file(file)
    if not compositions:
        raise InputError("no formula given: try dao predict SrTiO3, or --file with one formula a line")
    return compositions


def _report(records: list[dict[str, Any]], output: str) -> None:
    from dao.cli.output import print_json, print_table

    if output == "json":
        print_json(records)
        return
    columns = dict(COLUMNS)
    for key in ("confidence", "e_above_hull"):
        if not any(key in record for record in records):
            del columns[key]
    if not any(record.get("prototype") for record in records):
        del columns["prototype"]
    print_table([record | _four_decimals(record) for record in records], columns)


def _four_decimals(record: dict[str, Any]) -> dict[str, str]:
    """Energies, of which two decimals say little, as text, with their expected error."""
    energy, error = record.get("e_above_hull"), record.get("e_above_hull_error")
    if energy is None:
        return {}
    return {"e_above_hull": f"{energy:.4f}" + ("" if error is None else f" ± {error:.4f}")}
