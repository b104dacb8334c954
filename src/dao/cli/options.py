"""Options that several verbs share, and the checks that can be made before torch is imported or anything written."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dao.cli import completion
from dao.errors import InputError

if TYPE_CHECKING:
    from dao.prediction.foundation_relax import Relaxing
    from dao.prediction.judging import Judging
    from dao.prediction.sources import Sources

MAX_SEED = 2**32 - 1

Device = Annotated[
    str,
    typer.Option(help="auto (CUDA where there is one), cpu, cuda or cuda:N.", autocompletion=completion.devices),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notes on stderr.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also say versions, device, weights, time per stage and warnings.")
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of everything random.")]


Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...", help="Structures: CIF, POSCAR, extxyz, JSON, CSV, Parquet, ZIP of CIFs, ASE db, folders."
    ),
]
PredictorWeights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME|FOLDER|HUB_ID",
        help="Weights of a predictor: a shipped name, a folder, or a Hugging Face Hub id.",
        autocompletion=completion.weights,
    ),
]
Predictor = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FOLDER|HUB_ID",
        autocompletion=completion.weights,
        help="Weights of a predictor, which ranks by energy and guides; the shipped ones, if any.",
        show_default=False,
    ),
]
GuidanceStrength = Annotated[
    float,
    typer.Option(
        "--guidance",
        metavar="STRENGTH",
        help="Draw samples to a low energy of the predictor (0: do not), to a high one if negative.",
    ),
]
GuidanceTarget = Annotated[
    float | None,
    typer.Option(
        "--target",
        metavar="VALUE",
        help="With --guidance: draw samples to this value of the predictor's property.",
        show_default=False,
    ),
]
RankName = Literal["learned", "both", "energy", "recurrence"]
RankBy = Annotated[
    RankName | None,
    typer.Option("--rank", help="What ranks candidates; learned unless told otherwise.", show_default=False),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        "--reference",
        metavar="NAME|PATH",
        help="The true crystals: mp20 or mpts52 of $DAO_DATA, or a file or folder of any kind that can be read.",
        autocompletion=completion.data_sets,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="Split of the data; test where the data has splits.", show_default=False),
]
SourcesOption = Annotated[
    str | None,
    typer.Option(
        "--sources",
        metavar="generator|prototypes|generator,prototypes",
        help="What proposes crystals; both where a table of prototypes ships.",
        autocompletion=completion.sources,
        show_default=False,
    ),
]
Table = Annotated[
    str | None,
    typer.Option(
        "--table",
        metavar="NAME|FILE[,...]",
        help="Prototypes: shipped names (see dao prototypes list) or files of dao prototypes build.",
        autocompletion=completion.tables,
        show_default=False,
    ),
]
Relax = Annotated[
    str | None,
    typer.Option(
        "--relax",
        metavar="chgnet|mace|sevennet|mattersim|orb|predictor",
        help="Relax the first candidates by this potential and rank them by its energy (to be installed by yourself).",
        show_default=False,
    ),
]
RelaxTop = Annotated[int, typer.Option("--relax-top", min=1, help="With --relax: how many candidates.")]
Walks = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100,
        help="Walks of a sample with many coordinates free, the likeliest kept; the weights' own number if not given.",
    ),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Structures computed at a time; changes no result.")]
BreakSymmetry = Annotated[
    bool,
    typer.Option("--break-symmetry", help="Follow forces that lower the symmetry too; else groups are kept."),
]

Format = Literal["table", "json"]
FormatOption = Annotated[Format, typer.Option("--format", help="How results are printed.")]


PrintOrFiles = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="table|json|FILES",
        help="How results are printed: table or json; or files to write, as --write, e.g. cif,poscar.",
        autocompletion=completion.formats,
    ),
]
Write = Annotated[
    str | None,
    typer.Option(
        metavar="FILES",
        help="Files to write for each formula, of cif,poscar,extxyz,json,csv; all but poscar if not given.",
        autocompletion=completion.file_formats,
        show_default=False,
    ),
]


def format_options(output: str, write: str | None) -> tuple[Format, tuple[str, ...]]:
    """What is printed, and which files are written.

    ``table`` and ``json`` alone are what is printed, as with every verb; any other list names files, as ``write`` does.

    Raises:
        InputError: an unknown format, none, or files named by both options.

    """
    from dao.prediction.formats import DEFAULT_FORMATS

    wanted = output.strip().lower()
    if wanted in ("table", "json"):
        printed: Format = "json" if wanted == "json" else "table"
        return printed, DEFAULT_FORMATS if write is None else _file_formats(write, "--write")
    files = _file_formats(output, "--format")
    if write is not None:
        raise InputError(f"--format {output!r} names files as --write does: give one of the two")
    return "table", files


def _file_formats(text: str, option: str) -> tuple[str, ...]:
    """Formats of files, in the order of :data:`dao.prediction.formats.FORMATS`."""
    from dao.prediction.formats import FORMATS

    chosen = {name.strip().lower() for name in text.split(",")}
    if not chosen <= set(FORMATS):
        printing = "table or json, or files to write: " if option == "--format" else ""
        raise InputError(f"{option} {text!r}: use {printing}{','.join(FORMATS)} or some of them")
    return tuple(name for name in FORMATS if name in chosen)


def check_talk(quiet: bool, verbose: bool) -> None:
    """Refuse to be quiet and talk at once.

    Raises:
        InputError: both are asked for.

    """
    if quiet and verbose:
        raise InputError("--quiet and --verbose contradict each other: give one of the two")


def check_device(device: str) -> None:
    """Refuse a device that could not exist; whether it does exist here is torch's to say.

    Raises:
        InputError: not one of auto, cpu, cuda, cuda:N.

    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device):
        raise InputError(f"--device {device!r}: use auto, cpu, cuda or cuda:N")


def judging_options(
    predictor: str | None,
    guidance: float,
    target: float | None,
    rank: RankName | None,
    *,
    generator: Path | str | None = None,
) -> Judging:
    """The predictor and what it is for, its weights found but not loaded; ``generator`` are those of the samples.

    Raises:
        InputError: no such weights, numbers that are not finite, or what is asked needs weights or a strength.

    """
    from dao.prediction.judging import Judging

    if not math.isfinite(guidance) or not math.isfinite(target or 0.0):
        raise InputError("--guidance and --target must be finite numbers")
    judging = Judging(predictor=predictor, guidance=guidance, target=target, generator=generator, rank=rank)
    return replace(judging, predictor=judging.source())


def sources_option(
    sources: str | None, table: str | None, *, supplement: bool = True, exclude_same_composition: bool = False
) -> Sources:
    """What proposes, its table found but not read.

    Raises:
        InputError: no such source or table.

    """
    from dao.prediction.sources import choose_sources

    try:
        return choose_sources(sources, table, supplement=supplement, exclude_same_composition=exclude_same_composition)
    except InputError as error:
        raise InputError(f"--{error}") from None


def relaxing_option(potential: str | None, top: int) -> Relaxing | None:
    """Which potential relaxes candidates, found but not loaded.

    Raises:
        InputError: no such potential, or its package is not installed.

    """
    if potential is None:
        return None
    from dao.prediction.foundation_relax import Relaxing

    relaxing = Relaxing(potential=potential, top=top)
    relaxing.check()
    return relaxing


def check_files(files: list[Path]) -> None:
    """Refuse files that are not there.

    Raises:
        InputError: names the first.

    """
    for file in files:
        try:
            exists = file.exists()
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}") from None
        if not exists:
            raise InputError(f"{file}: no such file or folder")


def check_out_folder(folder: Path) -> None:
    """Refuse an output folder that could not be made or written to, without writing anything.

    Raises:
        InputError: the path, or the nearest part of it that exists, is no folder or not writable.

    """
    nearest = folder.absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise InputError(f"--out {str(folder)!r}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"--out {str(folder)!r}: no permission to write in {nearest}")


def check_out_parquet(out: Path) -> None:
    """Refuse an output file that is none or could not be written, without writing anything.

    Raises:
        InputError: a folder, not called something.parquet, or in no folder that could be written to.

    """
    check_out_folder(out.parent)
    try:
        is_folder = out.is_dir()
    except OSError as error:
        raise InputError(f"--out {str(out)!r}: {error.strerror}") from None
    if is_folder or out.suffix.lower() != ".parquet":
        raise InputError(f"--out {str(out)!r}: must be a file called something.parquet")


def finite(value: float | None) -> float | None:
    """Refuse what is no finite number: nan is in no range, and typer lets it pass.

    Raises:
        typer.BadParameter: nan or infinite.

    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value


def source_and_splits(text: str, option: str) -> tuple[Path, tuple[str, ...]]:
    """``mp20:val,test`` as a path and splits; a path that holds a colon is tried first.

    Raises:
        InputError: no such source, or no split after the colon.

    """
    from dao.data.uniform import find_source

    name, colon, splits = text.rpartition(":")
    try:
        return find_source(text), ()
    except InputError:
        if not colon:
            raise
    wanted = tuple(dict.fromkeys(filter(None, splits.split(","))))
    if not wanted:
        raise InputError(f"{option} {text!r}: names no split after the colon")
    return find_source(name), wanted
