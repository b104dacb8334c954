"""``dao data crysdb build|stats``: the pretraining set from databases and files, and what is in it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dao.cli.options import FormatOption, Quiet, check_out_folder, finite
from dao.errors import InputError

if TYPE_CHECKING:
    from dao.data.crysdb.build import Report

app = typer.Typer(help="Build and describe CrysDB.", no_args_is_help=True, rich_markup_mode=None)

BUILD_EXAMPLES = """\b
Examples:
  dao data crysdb build --source mp --source oqmd --out crysdb
  dao data crysdb build --source mp_pool --out crysdb-open
  dao data crysdb build --source mine.extxyz --source folder-of-cifs --keep-unknown --out mine
  dao data crysdb build --source optimade:https://optimade.example.org --field e_above_hull=_x_hull --out x

\b
Sources: mp (needs dao-crystal[mp] and MP_API_KEY), oqmd, optimade:URL, a Parquet file of $DAO_DATA by name, or any
file or folder of crystals. The same command goes on where it was stopped, or where a provider failed. Exit code 3:
some provider could not be read to its end (see failures.json); what the others gave is there."""

STATS_EXAMPLES = """\b
Examples:
  dao data crysdb stats crysdb
  dao data crysdb stats mp_pool.parquet --out figures --format json"""


@app.command(epilog=BUILD_EXAMPLES)
def build(
    source: Annotated[
        list[str], typer.Option(metavar="NAME", help="mp, oqmd, optimade:URL, or a local source; may repeat.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write the shards and the report.")],
    min_atoms: Annotated[int, typer.Option(min=1, max=512, help="Leave smaller cells out.")] = 3,
    max_atoms: Annotated[int, typer.Option(min=1, max=512, help="Leave larger cells out.")] = 30,
    e_above_hull_below: Annotated[
        float, typer.Option(callback=finite, help="Keep crystals closer to the hull than that (eV/atom).")
    ] = 1.0,
    keep_unknown: Annotated[
        bool, typer.Option("--keep-unknown", help="Keep crystals without an energy above hull too.")
    ] = False,
    elements: Annotated[str, typer.Option(metavar="A,B,...", help="Keep crystals of these elements only.")] = "",
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL=NAME",
            help="What an OPTIMADE provider calls formation_energy, e_above_hull or band_gap; may repeat.",
        ),
    ] = None,
    page_limit: Annotated[int, typer.Option(min=1, max=10_000, help="Crystals to ask OPTIMADE for at a time.")] = 100,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds to wait for an answer.")] = 60.0,
    attempts: Annotated[int, typer.Option(min=1, max=20, help="How often to ask a provider that fails.")] = 6,
    shard_rows: Annotated[int, typer.Option(min=1, max=10_000_000, help="Crystals in a file.")] = 50_000,
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> int:
    """Collect crystals of databases and files as sharded Parquet (section 2.2 of the paper)."""
    if max_atoms < min_atoms:
        raise InputError(f"--max-atoms {max_atoms} is less than --min-atoms {min_atoms}")
    if math.isnan(timeout):
        raise InputError("--timeout: nan is no number of seconds")
    check_out_folder(out)

    from dataclasses import asdict

    from dao.cli.output import print_json
    from dao.data.crysdb import build as task
    from dao.data.crysdb.filters import Filters
    from dao.data.crysdb.sources import parse_elements, parse_fields, sources_of

    filters = Filters(
        min_atoms=min_atoms,
        max_atoms=max_atoms,
        e_above_hull_below=e_above_hull_below,
        keep_unknown=keep_unknown,
        elements=parse_elements(elements),
    )
    fields = parse_fields(field or [])
    sources = sources_of(source, filters, fields=fields, page_limit=page_limit, timeout=timeout, attempts=attempts)
    report = task.build(sources, out, filters, shard_rows=shard_rows, progress=not quiet)
    if output == "json":
        print_json(asdict(report))
    else:
        _print(report)
    for one in report.sources:
        if one.complete and one.stated is not None and one.stated != one.received and not quiet:
            typer.echo(f"{one.name}: gave {one.received} entries of {one.stated} that it announced", err=True)
    for failure in report.failures:
        typer.echo(
            f"{failure['source']}: page {failure['page']}: {failure['error']}"
            f" (see {out / task.FAILURES}; the same command goes on there)",
            err=True,
        )
    return 3 if report.failures else 0


def _print(report: Report) -> None:
    """A column a source, a row what became of its entries."""
    from dao.cli.output import print_table
    from dao.data.crysdb.filters import REASONS

    reasons = [reason for reason in REASONS if any(one.dropped.get(reason) for one in report.sources)]
    rows = [
        {"what": "received", **{one.name: one.received for one in report.sources}},
        *({"what": REASONS[why], **{one.name: one.dropped.get(why, 0) for one in report.sources}} for why in reasons),
        {"what": "kept", **{one.name: one.kept for one in report.sources}},
    ]
    print_table(rows, {"what": "crystals", **{one.name: one.name for one in report.sources}})
    count = len(report.shards)
    print(f"{report.rows} crystals in {count} {'file' if count == 1 else 'files'}")


@app.command(epilog=STATS_EXAMPLES)
def stats(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER|FILE", help="Shards, or one Parquet file of the uniform layout.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write the figure and the numbers; FOLDER/stats.")
    ] = None,
    output: FormatOption = "table",
) -> None:
    """Draw and tabulate sources, stable share, energies, volumes, sizes and elements (Figure 2 of the paper)."""
    target = out or (folder / "stats" if folder.is_dir() else folder.with_name(f"{folder.stem}-stats"))
    check_out_folder(target)

    from dao.cli.output import print_json, print_table
    from dao.data.crysdb.figure import write_figure
    from dao.data.crysdb.stats import describe, write_stats

    found = describe(folder)
    write_stats(found, target)
    figure = write_figure(found, target)
    if output == "json":
        print_json(found.as_json())
        return
    print_table(
        found.rows(), {"source": "source", "crystals": "crystals", "stable": "stable (%)", "known": "E_hull known"}
    )
    print(f"{len(found.elements)} elements; figure: {figure}; numbers: {target / 'stats.json'}")
