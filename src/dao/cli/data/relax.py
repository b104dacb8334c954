"""``dao data relax``: Stage II's training set, unstable crystals relaxed by a predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dao.cli.options import (
    BatchSize,
    BreakSymmetry,
    Device,
    FormatOption,
    PredictorWeights,
    Quiet,
    check_device,
    check_out_folder,
    check_out_parquet,
    finite,
)
from dao.constants import RELAXED_E_ABOVE_HULL, STABLE_E_ABOVE_HULL
from dao.errors import InputError

EXAMPLES = """\b
Examples:
  dao data relax pool.parquet --weights runs/predictor/best --keep-rest --out stage2.parquet
  dao data relax crysdb --max-atoms 30 --out relaxed.parquet --figure relaxed.png

\b
Relaxed crystals keep their space group, which predicted forces would lower (--break-symmetry lets them), and their id
and labels: e_above_hull is still that of the crystal before. Beside it stand e_above_hull_predicted_before and
e_above_hull_predicted, the predictor's energies, which are null for crystals that were not relaxed. The report lies
beside the output (relaxed.json, relaxed.md). The same command goes on where it was stopped. Exit code 3: some crystals
could not be relaxed and are as they were (see relaxed.failures.json)."""


def relax(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH",
            help="Crystals with e_above_hull: a Parquet file of $DAO_DATA by name, shards, or any source.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="Where to write the crystals.")],
    weights: PredictorWeights = None,
    above: Annotated[
        float, typer.Option(callback=finite, help="Relax crystals that are higher above the hull (eV/atom).")
    ] = STABLE_E_ABOVE_HULL,
    up_to: Annotated[
        float, typer.Option(callback=finite, help="Relax crystals at most so high above the hull (eV/atom).")
    ] = RELAXED_E_ABOVE_HULL,
    max_atoms: Annotated[int | None, typer.Option(min=1, help="Relax no larger cells.")] = None,
    keep_rest: Annotated[
        bool, typer.Option("--keep-rest", help="Write all other crystals too, as they are: a whole training set.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, max=10_000, help="Most steps; the default is the paper's.")] = 5,
    force_tolerance: Annotated[float, typer.Option(min=0.0, help="Largest force of a relaxed structure, eV/A.")] = 0.01,
    max_volume_change: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Largest relative change of the volume.")
    ] = 0.1,
    break_symmetry: BreakSymmetry = False,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Plot the fall of the energies, by energy (and the same as SVG)."),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep what is relaxed here; else it goes when all is done."),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> int:
    """Relax the crystals of a data set that are not far above the hull (paper section 4.3.2)."""
    from dao.weights import DEFAULT_PREDICTOR, resolve

    check_device(device)
    check_out_parquet(out)
    if figure is not None:
        if figure.suffix != ".png":
            raise InputError(f"--figure {str(figure)!r}: must be a file called something.png")
        check_out_folder(figure.parent)

    from dao.data.uniform import find_source

    path = find_source(source)
    written = [out, *(out.with_suffix(suffix) for suffix in (".json", ".md", ".failures.json"))]
    if path.resolve() in {one.resolve() for one in written}:
        raise InputError(f"--out {str(out)!r}: would overwrite {path}")
    found = resolve(DEFAULT_PREDICTOR if weights is None else weights)

    from dataclasses import asdict

    from dao.cli.output import print_json, print_table
    from dao.figure_file import require_matplotlib
    from dao.prediction.energies import load_predictor
    from dao.prediction.relaxed_report import HEADINGS, lines
    from dao.prediction.relaxed_set import Selection, relax_set
    from dao.relaxation import RelaxationSettings

    if figure is not None:
        require_matplotlib()
    report, failures = relax_set(
        load_predictor(found, device),
        path,
        out,
        selection=Selection(above=above, up_to=up_to, max_atoms=max_atoms),
        settings=RelaxationSettings(
            iterations=steps,
            force_tolerance=force_tolerance,
            max_volume_change=max_volume_change,
            keep_symmetry=not break_symmetry,
        ),
        keep_rest=keep_rest,
        figure=figure,
        work=work,
        batch_size=batch_size,
        progress=not quiet,
    )
    if output == "json":
        print_json(asdict(report))
    else:
        rows = [dict(zip(HEADINGS, cells, strict=True)) for cells in lines(report)]
        print_table(rows, {heading: heading for heading in HEADINGS})
    if failures:
        where = out.with_suffix(".failures.json")
        typer.echo(f"{len(failures)} crystals could not be relaxed and are as they were: see {where}", err=True)
        return 3
    return 0
