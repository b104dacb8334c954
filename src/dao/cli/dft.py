"""``dao dft relax FILE``: relax a structure by density functional theory, for comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dao.cli.options import FormatOption, Quiet, Seed, check_files, check_out_folder, finite
from dao.errors import InputError

if TYPE_CHECKING:
    from dao.crystal import Crystal

app = typer.Typer(
    help="Density functional theory by GPAW or Quantum ESPRESSO, which generated structures are compared with.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

EXAMPLES = """\b
Examples:
  dao dft relax Cr3Os.cif --cutoff 300 --out dft
  dao dft relax Cr3Os.cif --start perturbed --seed 1 --minutes 60
  dao dft relax Cu2O.cif --code espresso --pseudopotentials pseudo --pseudopotential Cu=Cu.pbe-kjpaw.UPF

\b
Each iteration is a self-consistent calculation, without spin; ASE's BFGS moves atoms and cell. PBE with GPAW, the
pseudopotentials' functional with Quantum ESPRESSO. GPAW is found by its program gpaw, and may belong to another Python.
The folder given by --out receives log.txt, trajectory.extxyz, relaxed.cif, result.json and the code's own files; a run
that was stopped goes on where it stopped when the same command is given again, also with more iterations or minutes.
Exit code 3: a calculation failed (see failures.json)."""

COLUMNS = {
    "formula": "formula",
    "outcome": "outcome",
    "iterations": "iterations",
    "energy": "energy (eV/atom)",
    "max_force": "force left (eV/A)",
    "max_stress": "stress left (GPa)",
    "rms_of_start": "start's RMSE",
    "rms": "RMSE",
    "seconds": "seconds",
    "cpu_seconds": "CPU seconds",
}
"""Keys of the record that the table shows, and their headings."""

Code = Literal["gpaw", "espresso"]
StartName = Literal["given", "perturbed", "random"]


@app.command(epilog=EXAMPLES)
def relax(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One structure: CIF, POSCAR, extxyz, JSON.")],
    code: Annotated[Code, typer.Option(help="What computes.")] = "gpaw",
    start: Annotated[StartName, typer.Option(help="Start from it as given, perturbed, or at random.")] = "given",
    lengths: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="With --start perturbed: change of cell lengths, at most.")
    ] = 0.1,
    angles: Annotated[float, typer.Option(min=0.0, max=60.0, help="Likewise of cell angles, degrees.")] = 10.0,
    coordinates: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Likewise of fractional coordinates, standard deviation.")
    ] = 0.1,
    seed: Seed = 0,
    cutoff: Annotated[float, typer.Option(min=50.0, max=5_000.0, help="Of the plane waves, eV.")] = 400.0,
    k_points: Annotated[str, typer.Option(metavar="N,N,N", help="Monkhorst-Pack grid.")] = "2,2,2",
    width: Annotated[float, typer.Option(min=0.001, max=2.0, help="Of the smearing, eV.")] = 0.1,
    iterations: Annotated[int, typer.Option(min=1, max=100_000, help="Most calculations.")] = 50,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.0, callback=finite, help="Stop after so many, by the clock.", show_default=False),
    ] = None,
    force_tolerance: Annotated[float, typer.Option(min=0.0, help="Largest force of a relaxed structure, eV/A.")] = 0.05,
    fix_cell: Annotated[bool, typer.Option("--fix-cell", help="Move the atoms alone.")] = False,
    pseudopotentials: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of UPF files, for Quantum ESPRESSO.", show_default=False)
    ] = None,
    pseudopotential: Annotated[
        list[str] | None,
        typer.Option(metavar="ELEMENT=FILE", help="Which of them, where there are several; may repeat."),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="gpaw or pw.x elsewhere, or 'mpirun -n 4 pw.x'.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the results.")] = Path("dft"),
    output: FormatOption = "table",
    quiet: Quiet = False,
) -> int:
    """Relax a structure by density functional theory, with the time of each iteration."""
    check_files([file])
    check_out_folder(out)
    grid = _grid(k_points)
    chosen = _chosen(pseudopotential or [])
    if code == "gpaw" and (pseudopotentials is not None or chosen):
        raise InputError("--pseudopotentials and --pseudopotential are for --code espresso")

    from dao.cli.output import print_json, print_table
    from dao.dft.calculators import DftSettings, Pseudopotentials
    from dao.dft.relax import RelaxationLimits
    from dao.dft.run import DftRun, relax_to_folder
    from dao.dft.starts import Start

    run = DftRun(
        code=code,
        settings=DftSettings(cutoff=cutoff, k_points=grid, width=width),
        start=Start(kind=start, lengths=lengths, angles=angles, coordinates=coordinates, seed=seed),
        limits=RelaxationLimits(
            fix_cell=fix_cell,
            force_tolerance=force_tolerance,
            iterations=iterations,
            seconds=None if minutes is None else 60.0 * minutes,
        ),
        pseudopotentials=(
            None if pseudopotentials is None else Pseudopotentials(folder=pseudopotentials, chosen=chosen)
        ),
        command=command,
    )
    record = relax_to_folder(_only(file), run, out, on_iteration=(lambda _: None) if quiet else _say)
    if output == "json":
        print_json(record)
    else:
        print_table([_shown(record)], COLUMNS)
    if record["outcome"] == "failed":
        typer.echo(f"a calculation failed: {record['reason']} (see {out / 'failures.json'})", err=True)
        return 3
    return 0


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    finer = {name: f"{record[name]:.4f}" for name in ("energy", "rms", "rms_of_start") if record.get(name) is not None}
    return {**record, **finer}


def _grid(text: str) -> tuple[int, int, int]:
    words = text.split(",")
    numbers = [int(word) for word in words if word.strip().isdecimal() and len(word) < 5]
    if len(words) != 3 or len(numbers) != 3 or min(numbers) < 1:
        raise InputError(f"--k-points {text!r}: use three whole numbers, as in 2,2,2")
    return numbers[0], numbers[1], numbers[2]


def _chosen(texts: list[str]) -> dict[str, str]:
    chosen = {}
    for text in texts:
        symbol, sign, name = text.partition("=")
        if not sign or not name or "/" in name or not symbol.isalpha():
            raise InputError(f"--pseudopotential {text!r}: use ELEMENT=FILE, a file name of the folder")
        chosen[symbol] = name
    return chosen


def _only(file: Path) -> Crystal:
    """The structure of a file.

    Raises:
        InputError: it cannot be read, or holds none or several.

    """
    from dao.data.sources import read_crystals

    crystals = list(read_crystals(file))
    if len(crystals) != 1:
        raise InputError(f"{file}: holds {len(crystals)} structures, and one is needed")
    return crystals[0]
