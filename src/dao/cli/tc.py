"""``dao tc FILE|FORMULA...``: critical temperatures of superconductors."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dao.cli import completion
from dao.cli.options import Device, FormatOption, Quiet, Seed, check_device, check_out_folder
from dao.errors import InputError
from dao.weights import DEFAULT

if TYPE_CHECKING:
    from dao.superconductors.tc import TcEnsemble

EXAMPLES = """\b
Examples:
  dao tc POSCAR
  dao tc Nb3Sn
  dao tc structures/ Cr3Os --format json
  dao tc Cr6Os2 --cells 2 --top 3 --out runs/tc-Cr3Os

\b
What is no file or folder is read as a formula, whose structure is predicted first; its first line is over all
candidates, which count by the confidence in them. "from" and "to" are one standard deviation over the predictors (of
that line: over predictors and candidates), which is less than how far off they can be. Exit code 3: some files could
not be read, or some formulas got no structure (stderr and --out say which)."""

COLUMNS = {
    "input": "input",
    "structure": "structure",
    "formula": "formula",
    "num_atoms": "atoms",
    "space_group": "space group",
    "confidence": "confidence",
    "tc": "Tc (K)",
    "tc_low": "from",
    "tc_high": "to",
    "doubts": "doubts",
}
"""Keys of a record that the table shows, and their headings."""


def critical_temperature(
    inputs: Annotated[
        list[str], typer.Argument(metavar="FILE|FORMULA...", help="Structures in files or folders, or compositions.")
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="A run of dao superconductors train; the shipped ones (tc) else.",
            show_default=False,
        ),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER|HUB_ID",
            help="Weights that propose structures of formulas; if not given, shipped ones that know such large cells.",
            autocompletion=completion.weights,
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="Candidates of a formula that are looked at.")] = 5,
    samples: Annotated[int, typer.Option(min=1, max=100_000, help="Structures to generate for a formula.")] = 20,
    cells: Annotated[
        str, typer.Option(metavar="auto|Z[,Z]", help="Formula units a cell to predict; auto tries 1, 2, 3 and 4.")
    ] = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for tc.csv, tc.json and failures.json; none if unset."),
    ] = None,
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> int:
    """Predict critical temperatures of structures, or of compositions by way of their predicted structures."""
    files, formulas = _files_and_formulas(inputs)
    check_device(device)
    if out is not None:
        check_out_folder(out)

    from dao.cli.output import print_json, print_table
    from dao.superconductors.tc import formula_records, load_tc, write_temperatures

    ensemble = load_tc(weights, device)
    records, failures = _of_files(ensemble, files)
    for formula in formulas:
        from dao.prediction.pipeline import predict

        try:
            by = generator or _generator(formula, cells, quiet=quiet)
            found = predict(formula, samples, cells=cells, seed=seed, device=device, weights=by)
            records += formula_records(ensemble, formula, found[:top])
        except InputError as error:
            failures.append({"formula": formula, "reason": f"{formula}: {error}"})
    if not records:
        raise InputError(failures[0]["reason"])
    if out is not None:
        write_temperatures(out, records, ensemble.warnings(), failures)
    if output == "json":
        print_json(records)
    else:
        columns = {key: name for key, name in COLUMNS.items() if any(record[key] is not None for record in records)}
        numbers = ("tc", "tc_low", "tc_high")
        print_table(
            [
                record | {key: None if record[key] is None else f"{record[key]:g}" for key in numbers}
                for record in records
            ],
            columns,
        )
    if not quiet:
        for text in ensemble.warnings():
            typer.echo(f"note: {text}", err=True)
    for failure in failures:
        typer.echo(f"left out: {failure['reason']}", err=True)
    return 3 if failures else 0


def _files_and_formulas(inputs: list[str]) -> tuple[list[Path], list[str]]:
    """Files and folders, and formulas, each known to be one before anything heavy is imported.

    Raises:
        InputError: neither a file nor a formula.

    """
    from dao.prediction.composition import parse_formula

    files, formulas = [], []
    for text in inputs:
        if os.path.lexists(text):
            files.append(Path(text))
            continue
        if os.sep in text or re.search(r"\.[A-Za-z]\w*$", text):
            raise InputError(f"{text}: no such file or folder")
        parse_formula(text)
        formulas.append(text)
    return files, formulas


def _of_files(ensemble: TcEnsemble, files: list[Path]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records of the structures in files, and what could not be read."""
    if not files:
        return [], []
    from dao.prediction.energies import read_structures
    from dao.superconductors.tc import structure_records

    try:
        structures = read_structures(files)
    except InputError as error:
        return [], [{"file": ", ".join(map(str, files)), "reason": str(error)}]
    return structure_records(ensemble, structures), list(structures.failures)


def _generator(formula: str, cells: str, *, quiet: bool) -> str:
    """The default generator, or where a cell is larger than it knows, the shipped one of the smallest sufficient cells.

    Unless ``quiet``, stderr says so.

    Raises:
        InputError: no such cells, or too large ones.

    """
    from dao.prediction.composition import parse_cells, parse_formula
    from dao.weights import largest_trained_cell, read_config, shipped

    known = {
        name: trained
        for name, folder in shipped().items()
        if read_config(folder).get("model") == "generator" and (trained := largest_trained_cell(name)) is not None
    }
    composition = parse_formula(formula)
    atoms = composition.num_atoms * max(parse_cells(cells, composition, trained=known.get(DEFAULT)))
    if atoms <= known.get(DEFAULT, atoms):
        return DEFAULT
    sufficient = [name for name in known if known[name] >= atoms]
    chosen = min(sufficient, key=known.__getitem__) if sufficient else max(known, key=known.__getitem__)
    if not quiet:
        limit = f"{DEFAULT} knows cells of up to {known[DEFAULT]} atoms, {chosen} of up to {known[chosen]}"
        typer.echo(f"note: {formula}: structures of {atoms} atoms by {chosen} ({limit})", err=True)
    return chosen
