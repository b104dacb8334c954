"""``dao data hull``: energies above the hull from formation energies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dao.cli.options import FormatOption, check_out_parquet
from dao.errors import InputError

EXAMPLES = """\b
Examples:
  dao data hull crysdb --out with-hull.parquet
  dao data hull mine.parquet --group formation_energy_source --all --out mine-hull.parquet

\b
Give all phases that there are: what the filters of a training set leave out (dao data crysdb build keeps cells of 3 to
30 atoms with a known energy) makes the rest look more stable than it is."""


def hull(
    source: Annotated[
        str, typer.Argument(metavar="NAME|PATH", help="Crystals with a formation_energy (eV/atom): Parquet or shards.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="Where to write the crystals with their energies.")],
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="A hull for each value of this column; the column source if not given."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Compute known energies above the hull anew, too.")] = False,
    output: FormatOption = "table",
) -> None:
    """Fill in e_above_hull where a source gives none, and compare with those that are there."""
    check_out_parquet(out)

    from dao.cli.output import print_json, print_table
    from dao.data.hull_file import add_hull
    from dao.data.uniform import find_source

    path = find_source(source)
    if path.resolve() == out.resolve():
        raise InputError(f"--out {str(out)!r}: would overwrite {path}")
    report = add_hull(path, out, group=group, everything=everything)
    if output == "json":
        print_json(report)
        return
    headings = {
        "group": "hull of",
        "phases": "with formation energy",
        "filled": "filled in",
        "compared": "compared",
        "mae": "MAE (meV/atom)",
        "median": "median (meV/atom)",
    }
    rows = [{**row, **{key: _milli(row[key]) for key in ("mae", "median")}} for row in report]
    print_table(rows, headings)


def _milli(value: float | None) -> float | None:
    return None if value is None else 1000 * value
