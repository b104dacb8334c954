"""``dao relax FILE...``: relax structures on the predictor's energy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dao.cli.options import (
    BatchSize,
    BreakSymmetry,
    Device,
    Files,
    FormatOption,
    PredictorWeights,
    Quiet,
    check_device,
    check_files,
    check_out_folder,
)

EXAMPLES = """\b
Examples:
  dao relax POSCAR --out relaxed
  dao relax candidates.extxyz --steps 50 --format json

\b
Cell and atoms move downhill in the predicted energy above the hull, which never rises. Each structure keeps
the space group it comes with (within 0.01 A), and so cannot leave a saddle point for a lower symmetry;
--break-symmetry follows all predicted forces, which have no symmetry of their own. Structures are relaxed and written
in their primitive Niggli cells. The folder given by --out receives relaxed.extxyz, relaxed.csv, relaxed.json and one
CIF each; a run that was interrupted goes on where it stopped when the same command is given again. Exit code 3: some
structures could not be relaxed (see failures.json)."""

COLUMNS = {
    "id": "structure",
    "formula": "formula",
    "before": "before (eV/atom)",
    "e_above_hull": "E above hull (eV/atom)",
    "volume_change": "volume change (%)",
    "max_force": "force left (eV/A)",
    "iterations": "steps",
    "outcome": "outcome",
    "cif": "file",
}
"""Keys of a record that the table shows, and their headings."""


def relax(
    files: Files,
    weights: PredictorWeights = None,
    steps: Annotated[
        int, typer.Option(min=1, max=10_000, help="Most steps; the default is what the paper relaxes its data by.")
    ] = 5,
    force_tolerance: Annotated[float, typer.Option(min=0.0, help="Largest force of a relaxed structure, eV/A.")] = 0.01,
    max_volume_change: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Largest relative change of the volume.")
    ] = 0.1,
    break_symmetry: BreakSymmetry = False,
    device: Device = "auto",
    batch_size: BatchSize = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the results.")] = Path("relaxed"),
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> int:
    """Relax the cell and atoms of structures to lower energies above the hull."""
    from dao.weights import DEFAULT_PREDICTOR, resolve

    check_files(files)
    check_device(device)
    source = resolve(DEFAULT_PREDICTOR if weights is None else weights)
    check_out_folder(out)

    from dao.cli.output import print_json, print_table
    from dao.prediction.energies import load_energy_predictor, read_structures, relax_to_folder
    from dao.relaxation import RelaxationSettings

    settings = RelaxationSettings(
        iterations=steps,
        force_tolerance=force_tolerance,
        max_volume_change=max_volume_change,
        keep_symmetry=not break_symmetry,
    )
    model = load_energy_predictor(source, device)
    structures = read_structures(files)
    records, failures = relax_to_folder(model, structures, settings, out=out, batch_size=batch_size, progress=not quiet)
    if output == "json":
        print_json(records)
    else:
        shown = [
            {
                **record,
                "before": f"{record['before']:.4f}",
                "e_above_hull": f"{record['e_above_hull']:.4f}",
                "volume_change": f"{100 * record['volume_change']:+.1f}",
                "max_force": f"{record['max_force']:.3f}",
            }
            for record in records
        ]
        print_table(shown, COLUMNS)
    if failures:
        typer.echo(f"{len(failures)} structures were left out: see {out / 'failures.json'}", err=True)
        return 3
    return 0
