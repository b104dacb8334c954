"""``dao energy FILE...``: energy above the hull of structures, by the predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dao.cli.options import (
    BatchSize,
    Device,
    Files,
    PredictorWeights,
    Quiet,
    check_device,
    check_files,
    check_out_folder,
)

EXAMPLES = """\b
Examples:
  dao energy POSCAR candidates.extxyz
  dao energy structures/ --format csv > energies.csv
  dao energy structures/ --weights runs/predictor/best --out energies

\b
The energy is above the convex hull, in eV/atom: 0 is stable, and it is no total energy. "error" is how far off it is
expected to be, "doubts" says in what a structure is unlike the training set. Exit code 3: some structures could not be
read (stderr and --out say which)."""

COLUMNS = {
    "file": "file",
    "id": "structure",
    "formula": "formula",
    "num_atoms": "atoms",
    "e_above_hull": "E above hull (eV/atom)",
    "error": "expected error",
    "doubts": "doubts",
}
"""Keys of a record that the table shows, and their headings."""


def energy(
    files: Files,
    weights: PredictorWeights = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for energies.csv, energies.json and failures.json; none if unset."),
    ] = None,
    output: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="How results are printed.")
    ] = "table",
    quiet: Quiet = False,
) -> int:
    """Predict the energy above the hull (eV/atom) of structures."""
    from dao.weights import DEFAULT_PREDICTOR, resolve

    check_files(files)
    check_device(device)
    source = resolve(DEFAULT_PREDICTOR if weights is None else weights)
    if out is not None:
        check_out_folder(out)

    from dao.cli.output import print_json, print_table
    from dao.prediction.energies import (
        csv_text,
        energy_records,
        load_energy_predictor,
        predict_with_errors,
        read_structures,
        write_energies,
    )

    model = load_energy_predictor(source, device)
    structures = read_structures(files)
    said = predict_with_errors(model, structures.crystals, batch_size=batch_size, progress=not quiet)
    records = energy_records(model, structures, said)
    if out is not None:
        write_energies(out, records, structures.failures)
    if output == "json":
        print_json(records)
    elif output == "csv":
        print(csv_text(records), end="")
    else:
        columns = {key: heading for key, heading in COLUMNS.items() if key in records[0]}
        energies = ("e_above_hull", "error")
        print_table(
            [record | {key: f"{record[key]:.4f}" for key in energies if key in record} for record in records], columns
        )
    for failure in structures.failures:
        typer.echo(f"left out: {failure['reason']}", err=True)
    return 3 if structures.failures else 0
