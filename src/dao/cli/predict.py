"""``dao predict FORMULA...``: crystals a composition is likely to form, as CIF files, JSON and a ranked table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import dao
from dao.cli import completion
from dao.cli.options import (
    Device,
    GuidanceStrength,
    GuidanceTarget,
    Predictor,
    PrintOrFiles,
    Quiet,
    RankBy,
    Relax,
    RelaxTop,
    Seed,
    SourcesOption,
    Table,
    Verbose,
    Walks,
    Write,
    check_device,
    check_out_folder,
    check_talk,
    format_options,
    judging_options,
    relaxing_option,
    sources_option,
)
from dao.errors import InputError
from dao.prediction.foundation_relax import RELAX_TOP

if TYPE_CHECKING:
    from dao.prediction.composition import Composition
    from dao.prediction.folders import PredictionRun
    from dao.prediction.pipeline import FormulaResult

EXAMPLES = """\b
Examples:
  dao predict SrTiO3
  dao predict NaCl GaAs --samples 50 --cells 1,2 --out runs/first
  dao predict --file formulas.txt --format json --quiet > candidates.json
  dao predict --file formulas.txt --write cif,poscar --out runs/hundred
  dao predict SrTiO3 --sources prototypes --table mp20.safetensors
  dao predict SrTiO3 --predictor runs/predictor/best --guidance 1
  dao predict SrTiO3 --report
  dao predict SrTiO3 --relax chgnet --relax-top 10

\b
The folder given by --out receives a folder a formula: one CIF a candidate, candidates.json, candidates.csv and
candidates.extxyz. Formulas are finished one after the other. A run that was interrupted goes on where it stopped when
the same command is given again; what is finished is not made again.

\b
--format json prints one JSON list of all candidates. --format cif,poscar is another way to say --write cif,poscar."""

COLUMNS = {
    "rank": "rank",
    "formula": "formula",
    "space_group": "space group",
    "formula_units": "cell (Z)",
    "num_atoms": "atoms",
    "volume_per_atom": "A^3/atom",
    "confidence": "confidence",
    "e_above_hull": "E above hull (eV/atom)",
    "energy": "energy (eV/atom)",
    "count": "found",
    "source": "source",
    "prototype": "like",
}
"""Keys of a candidate's record that the table shows, and their headings; energies where there are any."""

MANY = 5
"""Formulas of which more than these are not listed one by one before they begin."""


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
    walks: Walks = None,
    seed: Seed = 0,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER|HUB_ID",
            help="Shipped name (see dao weights list), folder, or Hugging Face Hub id.",
            autocompletion=completion.weights,
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
    refine_prototypes: Annotated[
        float | None,
        typer.Option(
            metavar="T0",
            help="Noise prototype proposals to this time (0 to 1) and let the generator carry them back.",
            show_default=False,
        ),
    ] = None,
    relax: Relax = None,
    relax_top: RelaxTop = RELAX_TOP,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the results.")] = Path("predictions"),
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html (opens offline) and its figures for each formula.")
    ] = False,
    output: PrintOrFiles = "table",
    write: Write = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Predict the crystal structures of one or more compositions."""
    from dao.prediction.composition import parse_cells, prototype_cells
    from dao.weights import DEFAULT, largest_trained_cell, resolve

    check_talk(quiet, verbose)
    compositions = _compositions(formulas or [], file)
    trained_on = resolve(DEFAULT if weights is None else weights)
    trained = largest_trained_cell(trained_on)
    targets = {one: parse_cells(cells, one, max_atoms, trained=trained) for one in compositions}
    wider = {one: prototype_cells(cells, one, max_atoms) for one in compositions}
    check_device(device)
    printed, formats = format_options(output, write)
    chosen = sources_option(sources, table)
    judging = judging_options(predictor, guidance, target, rank, generator=trained_on if chosen.generator else None)
    relaxing = relaxing_option(relax, relax_top)
    check_out_folder(out)
    if report:
        from dao.report.diffraction import require_diffraction

        require_diffraction()

    from dao.cli.output import print_json
    from dao.cli.run_record import RunRecord
    from dao.stages import REPORT, START, measured, stage

    def on_start() -> None:
        if verbose:
            record.say_setup()
        if not quiet:
            _say_cells(targets, wider if chosen.table else None)

    def make_report(result: FormulaResult) -> None:
        with stage(REPORT):
            from dao.report.results import report_on

            page = report_on(result)
        if not quiet:
            typer.echo(f"report: {page}", err=True)

    with measured() as stages, _saying_how_to_go_on(out, quiet=quiet):
        record = RunRecord(
            stages=stages,
            device=device,
            weights=trained_on if chosen.generator else None,
            predictor=judging.predictor,
            table=chosen.table,
        )
        with stage(START):
            from dao.prediction.folders import predict_to_folder
        run = predict_to_folder(
            targets,
            out=out,
            weights=trained_on,
            samples=samples,
            steps=steps,
            walks=walks,
            seed=seed,
            device=device,
            batch_size=batch_size,
            judging=judging,
            sources=chosen,
            prototype_units=wider,
            refine_prototypes=refine_prototypes,
            relaxing=relaxing,
            formats=formats,
            progress=not quiet,
            on_start=on_start,
            on_records=_Tables() if printed == "table" else None,
            on_result=make_report if report else None,
            further="report" if report else "",
        )
        if printed == "json":
            print_json(run.records)
        record.write(out, run, len(targets))
        if not quiet:
            _say_end(run, len(targets))
            record.say_times(verbose=verbose)
    if run.failures:
        typer.echo(f"{_formulas(len(run.failures))} got no candidate: see {out / 'failures.json'}", err=True)
        return 3
    return 0


@contextmanager
def _saying_how_to_go_on(out: Path, *, quiet: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if not quiet:
            said = f"interrupted: what is finished is in {out}, and the same command goes on from there"
            typer.echo(said, err=True)
        raise


class _Tables:
    """Prints the candidates of a formula at a time, so that the first are there long before the last."""

    def __init__(self) -> None:
        self._any = False

    def __call__(self, records: list[dict[str, Any]]) -> None:
        if self._any:
            print()
        self._any = True
        _report(records)
        # whoever reads a pipe need not wait either
        sys.stdout.flush()


def _formulas(count: int) -> str:
    return f"{count} formula{'' if count == 1 else 's'}"


def _say_end(run: PredictionRun, formulas: int) -> None:
    if run.discarded:
        typer.echo(f"{run.discarded} samples were no crystals and are left out (samples.jsonl says why)", err=True)
    if run.earlier:
        typer.echo(f"{run.earlier} of {_formulas(formulas)} had been finished by an earlier run", err=True)
    for version, count in run.other_versions.items():
        said = f"{count} of {_formulas(formulas)} had been finished by DAO {version}, not {dao.__version__}"
        typer.echo(f"{said}: what fits the settings is kept; remove the folder to make it anew", err=True)


def _say_cells(
    targets: Mapping[Composition, tuple[int, ...]], prototypes: Mapping[Composition, tuple[int, ...]] | None
) -> None:
    if len(targets) > MANY:
        atoms = [z * composition.num_atoms for composition, units in targets.items() for z in units]
        typer.echo(f"{_formulas(len(targets))}, in cells of {min(atoms)} to {max(atoms)} atoms", err=True)
        return
    from dao.prediction.oxidation import charge_hint

    for composition, units in targets.items():
        sizes = ", ".join(f"{z} ({z * composition.num_atoms} atoms)" for z in units)
        largest = max(units if prototypes is None else prototypes[composition])
        if largest > max(units):
            sizes += f"; prototypes up to {largest} ({largest * composition.num_atoms} atoms)"
        typer.echo(f"{composition}: formula units a cell: {sizes}", err=True)
        typer.echo(f"{composition}: {charge_hint(composition).words}", err=True)


def _compositions(formulas: list[str], file: Path | None) -> list[Composition]:
    from dao.prediction.composition import parse_formula, read_formula_file

    compositions = [parse_formula(formula) for formula in formulas]
    if file is not None:
        compositions += read_formula_file(file)
    if not compositions:
        raise InputError("no formula given: try dao predict SrTiO3, or --file with one formula a line")
    return compositions


def _report(records: list[dict[str, Any]]) -> None:
    from dao.cli.output import print_table

    columns = dict(COLUMNS)
    for key in ("confidence", "e_above_hull"):
        if not any(key in record for record in records):
            del columns[key]
    relaxed = {record["energy_by"] for record in records if "energy_by" in record}
    if relaxed:
        columns["energy"] = f"energy by {' and '.join(sorted(relaxed))} (eV/atom)"
    else:
        del columns["energy"]
    if not any(record.get("prototype") for record in records):
        del columns["prototype"]
    print_table([record | _four_decimals(record) for record in records], columns)


def _four_decimals(record: dict[str, Any]) -> dict[str, str]:
    """Energies, of which two decimals say little, as text, with their expected error."""
    said = {name: f"{record[name]:.4f}" for name in ("e_above_hull", "energy") if record.get(name) is not None}
    if "e_above_hull" in said and record.get("e_above_hull_error") is not None:
        said["e_above_hull"] += f" ± {record['e_above_hull_error']:.4f}"
    return said
