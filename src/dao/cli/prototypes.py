"""``dao prototypes build|list``: tables of known kinds of structures, and what they would propose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dao.cli.options import FormatOption, Quiet, Table, check_out_folder, source_and_splits, sources_option
from dao.errors import InputError

app = typer.Typer(
    help="Tables of prototypes: known kinds of structures that a composition may take.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

BUILD_EXAMPLES = """\b
Examples:
  dao prototypes build mp20:train --out mp20.safetensors
  dao prototypes build mine.extxyz --out mine.safetensors
  dao predict SrTiO3 --sources prototypes --table mine.safetensors

\b
Crystals of the same kind become one prototype. Neither ids nor energies are kept, and coordinates, shapes and volumes
are rounded, so that no crystal can be read back from the table (--exact keeps them as they are)."""

LIST_EXAMPLES = """\b
Examples:
  dao prototypes list
  dao prototypes list --table aflow
  dao prototypes list SrTiO3
  dao prototypes list SrTiO3 --cells 1,2 --table mine.safetensors --format json"""


@app.command(epilog=BUILD_EXAMPLES)
def build(
    crystals: Annotated[
        str, typer.Argument(metavar="NAME|PATH[:SPLIT,SPLIT]", help="Known crystals of any kind that can be read.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="Where to write the table.")],
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|PATH[:SPLIT,SPLIT]", help="Leave out crystals that share an id with these; may repeat."
        ),
    ] = None,
    max_e_above_hull: Annotated[
        float | None,
        typer.Option(min=0.0, help="Leave out crystals known to lie higher above the hull (eV/atom)."),
    ] = None,
    min_sets: Annotated[
        int, typer.Option(min=1, help="Keep prototypes seen with so many element sets; from 2 on, none is one crystal.")
    ] = 1,
    exact: Annotated[
        bool, typer.Option("--exact", help="Keep coordinates, shapes and volumes as they are, for data of your own.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Condense known crystals to a table of prototypes."""
    if out.suffix != ".safetensors" or out.is_dir():
        raise InputError(f"--out {str(out)!r}: must be a file called something.safetensors")
    check_out_folder(out.parent)
    path, splits = source_and_splits(crystals, "crystals")
    without = [source_and_splits(text, "--leave-out") for text in leave_out or []]

    from dao.prediction.prototype_build import build_table
    from dao.prediction.prototype_source import read_known
    from dao.progress import CountProgress

    known, record = read_known(path, splits, without, max_e_above_hull)
    with CountProgress(len(known), 0, enabled=not quiet, what="describing", of="crystals") as bar:
        table = build_table(known, record, min_sets=min_sets, exact=exact, advance=bar.advance)
    table.save(out)
    if not quiet:
        single = table.record["single_member"]
        typer.echo(
            f"{out}: {len(table):,} prototypes of {len(known):,} crystals ({single:,} of a single one),"
            f" {out.stat().st_size / 1e6:.1f} MB",
            err=True,
        )


@app.command("list", epilog=LIST_EXAMPLES)
def list_prototypes(
    formula: Annotated[
        str | None, typer.Argument(metavar="FORMULA", help="Show what would be proposed for it.")
    ] = None,
    table: Table = None,
    cells: Annotated[str, typer.Option(metavar="auto|Z[,Z]", help="Formula units a cell, as in dao predict.")] = "auto",
    count: Annotated[int, typer.Option(min=1, max=10_000, help="Most rows to show.")] = 20,
    output: FormatOption = "table",
) -> None:
    """Show what a table was built from and its commonest prototypes, or what it proposes for a composition."""
    from dao.prediction.composition import parse_cells, parse_formula
    from dao.prediction.sources import PROTOTYPES, shipped_tables

    composition = None if formula is None else parse_formula(formula)
    units = () if composition is None else parse_cells(cells, composition)
    chosen = sources_option(PROTOTYPES, table)
    path = chosen.table
    assert path is not None  # noqa: S101 -- prototypes are among the sources
    from dao.cli.output import print_json, print_table

    if composition is None:
        from dao.prediction.prototype_table import PrototypeTable, commonest

        found = PrototypeTable.load(path)
        rows = commonest(found, count)
        if output == "json":
            print_json({"table": str(path), "record": found.record, "prototypes": rows})
            return
        print(f"shipped: {', '.join(shipped_tables()) or 'none'}")
        print(f"table: {path}")
        for key, value in found.record.items():
            print(f"{key}: {value}")
        print()
        print_table(rows, COMMONEST)
        return
    from dao.prediction.proposals import proposed
    from dao.prediction.prototypes import Proposer

    numbers = {z: composition.numbers_for(z) for z in units}
    candidates = proposed(Proposer.load(path, *chosen.also), composition.reduced_formula, numbers, count)
    records: list[dict[str, Any]] = [candidate.record() for candidate in candidates]
    for record in records:
        del record["count"], record["samples"]
    if output == "json":
        print_json(records)
    elif records:
        print_table(records, PROPOSED)
    else:
        print(
            f"no prototype has the anonymous formula of {composition} in a cell of {', '.join(map(str, units))} units"
        )


COMMONEST = {
    "formula": "cell",
    "space_group_number": "space group",
    "positions": "positions",
    "members": "crystals",
    "element_sets": "element sets",
    "example": "example",
}
"""Keys of a prototype's row, and their headings."""

PROPOSED = {
    "rank": "rank",
    "space_group": "space group",
    "formula_units": "cell (Z)",
    "num_atoms": "atoms",
    "volume_per_atom": "A^3/atom",
    "prototype": "like",
}
"""Likewise of a proposal."""
