"""``dao data deduplicate``: training data without the crystals of benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dao.cli.options import FormatOption, Quiet, check_out_parquet, finite, source_and_splits
from dao.errors import InputError

EXAMPLES = """\b
Examples:
  dao data deduplicate mp_pool --against mp20:val,test --against mpts52:val,test --out pool.parquet
  dao data deduplicate crysdb --self --out crysdb-unique.parquet
  dao data deduplicate mine.extxyz --against mp20:test --stol 0.5 --max-atoms 30 --out mine.parquet

\b
The report lies beside the output (pool.json). The same command goes on where it was stopped; to try several filters,
give them one --work, and the comparisons are made once."""


def deduplicate(
    pool: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH", help="Crystals: a Parquet file of $DAO_DATA by name, shards, or any source."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="Where to write the crystals that are left.")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|PATH[:SPLIT,SPLIT]", help="Crystals to keep out, all or those of some splits; may repeat."
        ),
    ] = None,
    itself: Annotated[
        bool, typer.Option("--self", help="Of crystals in the pool that match each other, keep the first.")
    ] = False,
    stol: Annotated[
        float,
        typer.Option(min=0.001, max=1, callback=finite, help="Site tolerance of a match; 0.5 is the benchmark's own."),
    ] = 0.1,
    min_atoms: Annotated[int, typer.Option(min=1, help="Leave smaller cells out.")] = 1,
    max_atoms: Annotated[int | None, typer.Option(min=1, help="Leave larger cells out.")] = None,
    max_e_above_hull: Annotated[
        float | None, typer.Option(callback=finite, help="Leave crystals higher above the hull out (eV/atom).")
    ] = None,
    keep_unknown: Annotated[
        bool, typer.Option("--keep-unknown", help="Keep crystals without an energy above hull all the same.")
    ] = False,
    work: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep the comparisons here; else they go when all is done."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Processes that compare.")] = 1,
    time_limit: Annotated[
        float,
        typer.Option(min=0.01, max=86_400, help="Seconds after which a pair counts as a match."),
    ] = 10.0,
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> None:
    """Drop crystals that a benchmark holds, or that repeat, by id and by structure (Algorithm 2 of the paper)."""
    if not against and not itself:
        raise InputError("give --against, or --self, or both")
    if max_atoms is not None and max_atoms < min_atoms:
        raise InputError(f"--max-atoms {max_atoms} is less than --min-atoms {min_atoms}")
    if keep_unknown and max_e_above_hull is None:
        raise InputError("--keep-unknown says something only with --max-e-above-hull")
    check_out_parquet(out)

    from dao.cli.output import print_json, print_table
    from dao.data import deduplicate as task
    from dao.data.uniform import find_source

    source = find_source(pool)
    sets = [source_and_splits(text, "--against") for text in against or []]
    for path, _ in [(source, ()), *sets]:
        if path.resolve() in {out.resolve(), out.with_suffix(".json").resolve()}:
            raise InputError(f"--out {str(out)!r}: would overwrite {path}")
    report = task.deduplicate(
        source,
        [task.read_references(path, splits) for path, splits in sets],
        out,
        stol=stol,
        filters=task.Filters(
            min_atoms=min_atoms, max_atoms=max_atoms, max_e_above_hull=max_e_above_hull, keep_unknown=keep_unknown
        ),
        itself=itself,
        work=work,
        workers=workers,
        seconds=time_limit,
        progress=not quiet,
    )
    if output == "json":
        print_json(vars(report))
        return
    rows = [("rows in", report.rows_in), *((WORDS[why], count) for why, count in report.dropped.items())]
    rows.append(("rows out", report.rows_out))
    print_table([{"what": what, "rows": count} for what, count in rows], {"what": "crystals", "rows": "rows"})


WORDS = {
    "num_atoms": "outside the number of atoms",
    "e_above_hull": "too far above the hull",
    "no_energy": "energy unknown",
    "id": "dropped by id",
    "structure": "dropped by structure",
    "timed_out": "dropped for lack of time",
    "repeated": "repeated in the pool",
}
"""What the table calls the drops of a report."""
