"""``dao weights list|info``: what ships with the package, and what each set of weights says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dao.cli import completion
from dao.cli.options import FormatOption

app = typer.Typer(
    help="Show the weights that ship with the package.",
    epilog="\b\nExamples:\n  dao weights list\n  dao weights info small",
    rich_markup_mode=None,
)

COLUMNS = {
    "name": "name",
    "model": "model",
    "parameters": "parameters",
    "megabytes": "MB",
    "default": "default",
    "folder": "folder",
}


@app.command("list", epilog="\b\nExample:\n  dao weights list --format json")
def list_weights(output: FormatOption = "table") -> None:
    """List the weights that ship with the package."""
    from dao.cli.output import print_json, print_table
    from dao.weights import DEFAULT, DEFAULT_PREDICTOR, TC, read_config, shipped, shipped_tc

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "model": read_config(folder).get("model"),
            "parameters": read_config(folder).get("parameters"),
            "megabytes": _megabytes(folder),
            "default": "yes" if name in {DEFAULT, DEFAULT_PREDICTOR} else "",
            "folder": str(folder),
        }
        for name, folder in shipped().items()
    ]
    ensemble = shipped_tc()
    if ensemble is not None:
        members = sorted(path.parent for path in ensemble.glob("member-*/config.json"))
        said = {
            "name": TC,
            "model": f"property, {len(members)} members",
            "parameters": sum(read_config(member).get("parameters", 0) for member in members),
            "megabytes": round(sum(_megabytes(member) for member in members), 1),
            "default": "yes",
            "folder": str(ensemble),
        }
        rows.append(said)
    if output == "json":
        print_json([{**row, "default": row["default"] == "yes"} for row in rows])
    else:
        print_table(rows, COLUMNS)


@app.command("info", epilog="\b\nExample:\n  dao weights info small")
def info(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FOLDER",
            help="A shipped name, or a folder of weights.",
            autocompletion=completion.weights,
        ),
    ],
    output: FormatOption = "table",
) -> None:
    """Show one set of weights: its settings, training record and model card."""
    from dao.cli.output import print_json
    from dao.errors import InputError
    from dao.weights import TC, read_card, read_config, resolve, shipped_tc

    ensemble = shipped_tc() if name == TC else None
    folder = ensemble or resolve(name)
    if isinstance(folder, str):
        raise InputError(f"weights {name!r}: info reads shipped weights and folders on disk, not the Hub")
    # of an ensemble, the first of its members stands for all
    first = folder if ensemble is None else min(path.parent for path in ensemble.glob("member-*/config.json"))
    config, card = read_config(first), read_card(folder)
    if output == "json":
        print_json({"folder": str(folder), "config": config, "card": card})
        return
    print(f"folder: {folder}")
    for key, value in _flat(config):
        print(f"{key}: {value}")
    if card:
        print(f"\n{card.rstrip()}")


def _megabytes(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6, 1)


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:  # noqa: ANN401 - whatever JSON can hold
    """Leaves of nested JSON objects under dotted keys, in their order; long lists are only counted."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _flat(inner, f"{prefix}.{key}" if prefix else key)]
    if isinstance(value, list) and len(value) > 12:
        return [(prefix, f"[{len(value)} values]")]
    return [(prefix, value)]
