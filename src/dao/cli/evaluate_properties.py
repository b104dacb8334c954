"""``dao evaluate properties RUN...``: finetuned predictors beside published figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dao.cli.options import FormatOption, check_out_folder

EXAMPLES = """\b
Examples:
  dao evaluate properties runs/phonons runs/phonons-scratch --out runs/tables
  dao evaluate properties runs/* --format json

\b
Runs are folders of dao finetune property. Beside them stand the mean of the training labels and published figures,
with their source and how well it is known. --out receives properties.md and properties.json."""


def properties(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of dao finetune property.")],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for the tables; none if unset.")] = None,
    output: FormatOption = "table",
) -> None:
    """Tables of properties: pretrained and from scratch, published figures, the mean, and counts of data."""
    if out is not None:
        check_out_folder(out)

    from dao.cli.output import print_json
    from dao.evaluation.properties import read_runs, tables, write_tables

    found = read_runs(runs)
    if out is not None:
        write_tables(out, found)
    if output == "json":
        print_json(found)
    else:
        print(tables(found))
