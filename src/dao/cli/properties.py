"""``dao property FILE...``: properties of structures, by predictors finetuned to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dao.cli.options import BatchSize, Device, Files, FormatOption, Quiet, check_device, check_files, check_out_folder

EXAMPLES = """\b
Examples:
  dao property POSCAR --weights runs/phonons
  dao property structures/ --weights runs/phonons --weights runs/bulk_modulus --format json

\b
Weights are made by dao finetune property. Given the folder of a run, all of its predictors are asked: "spread" is the
standard deviation of what they say, and less than how far they can be wrong. "doubts" says in what a structure is
unlike the training set. Exit code 3: some structures could not be read (stderr and --out say which)."""

COLUMNS = {
    "file": "file",
    "id": "structure",
    "formula": "formula",
    "num_atoms": "atoms",
    "property": "property",
    "value": "value",
    "spread": "spread",
    "unit": "unit",
    "doubts": "doubts",
}
"""Keys of a record that the table shows, and their headings."""


def predict_property(
    files: Files,
    weights: Annotated[
        list[str],
        typer.Option(
            metavar="FOLDER|HUB_ID",
            help="A run of dao finetune property, or one set of its weights; repeat it for several properties.",
        ),
    ],
    device: Device = "auto",
    batch_size: BatchSize = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder for properties.csv, properties.json and failures.json; none if unset."
        ),
    ] = None,
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> int:
    """Predict properties of structures by finetuned weights."""
    check_files(files)
    check_device(device)
    if out is not None:
        check_out_folder(out)

    from dao.cli.output import print_json, print_table
    from dao.prediction.energies import read_structures
    from dao.prediction.properties import load_ensemble, property_records, write_properties

    ensembles = [load_ensemble(source, device) for source in weights]
    structures = read_structures(files)
    records = property_records(ensembles, structures, batch_size=batch_size, progress=not quiet)
    if out is not None:
        write_properties(out, records, structures.failures)
    if output == "json":
        print_json(records)
    else:
        numbers = ("value", "spread")
        print_table(
            [
                record | {key: None if record[key] is None else f"{record[key]:g}" for key in numbers}
                for record in records
            ],
            COLUMNS,
        )
    for failure in structures.failures:
        typer.echo(f"left out: {failure['reason']}", err=True)
    return 3 if structures.failures else 0
