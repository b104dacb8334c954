"""``dao train RECIPE``: train a model by a recipe, and go on after an interruption."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dao.cli import completion
from dao.cli.options import MAX_SEED, Device, Quiet, check_device, check_out_folder
from dao.errors import InputError

EXAMPLES = """\b
Examples:
  dao train mp20-flow-nano --data mp20.parquet --out runs/nano
  dao train mp20-flow-nano --out runs/wide --set network.width=256 --set crystals=2000000
  dao train mp20-flow-nano --out runs/nano --set crystals=9000000 --resume
  dao train mp20-symmetry --data mp20.parquet --out runs/symmetry
  dao train pool-predictor-small --data POOL --out runs/predictor
  dao train plausibility-small --data POOL --out runs/plausibility

\b
A training that was interrupted goes on where it stopped when the same command is given again."""


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="Name of a recipe, or path of a recipe file.", autocompletion=completion.recipes
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the recipe; may be repeated."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the last checkpoint in --out even if lengths or rates have changed.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for checkpoints and logs; runs/RECIPE if not given.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Training data (Parquet, CSV, extxyz, folder); the recipe's if not given."),
    ] = None,
    device: Device = "auto",
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="Seed of everything random; the recipe's if not given.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a model by a recipe; the best weights by validation are kept in the output folder."""
    overrides = parse_settings(settings or [])
    if seed is not None:
        overrides["seed"] = str(seed)
    check_device(device)
    if data is not None and not data.exists():
        raise InputError(f"--data {str(data)!r}: no such file or folder")
    folder = out or Path("runs") / Path(recipe).stem
    check_out_folder(folder)

    from dao.recipes import load

    chosen = load(recipe, overrides)

    note = None if quiet else partial(typer.echo, err=True)
    if chosen.task == "symmetry":
        from dao.training.fit_symmetry import train_symmetry

        train_symmetry(chosen, out=folder, data=data, device=device, resume=resume, progress=not quiet, note=note)
        return
    if chosen.task == "plausibility":
        from dao.training.fit_plausibility import train_plausibility

        train_plausibility(chosen, out=folder, data=data, device=device, resume=resume, progress=not quiet, note=note)
        return
    if chosen.task == "property":
        raise InputError(f"recipe {recipe}: finetuning to a property is done by dao finetune property")
    from dao.training.fit import train as fit

    fit(chosen, out=folder, data=data, device=device, resume=resume, progress=not quiet, note=note)


def parse_settings(settings: list[str]) -> dict[str, str]:
    """``["network.width=256"]`` as ``{"network.width": "256"}``; the recipe decides what the text means.

    Raises:
        InputError: no ``=``, an empty key, or the same key twice.

    """
    overrides: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"--set {setting!r}: write key=value, e.g. --set batch_size=128")
        if key in overrides:
            raise InputError(f"--set {setting!r}: {key} is set twice")
        overrides[key] = value.strip()
    return overrides
