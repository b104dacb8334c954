"""``dao serve``: the web page, for this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dao.cli.options import Device, Predictor, SourcesOption, Table, check_device, check_out_folder, sources_option

EXAMPLES = """\b
Examples:
  dao serve
  dao serve --port 8001 --out runs/history --samples 50
  dao serve --weights runs/mine/best --max-queue 5

\b
Every prediction is kept in a folder of its own below --out, and shown again by the next dao serve with the same --out.
The server is for this machine alone unless --host says otherwise; it asks nobody for a password."""


def serve(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")] = 8000,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the history.")] = Path("predictions/served"),
    samples: Annotated[
        int, typer.Option(min=1, max=500, help="Structures to generate where the page asks for no other number.")
    ] = 20,
    steps: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Sampler steps; the weights' own number if not given.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER|HUB_ID", help="Shipped name (see dao weights list), folder, or Hugging Face Hub id."
        ),
    ] = None,
    device: Device = "auto",
    predictor: Predictor = None,
    sources: SourcesOption = None,
    table: Table = None,
    max_queue: Annotated[int, typer.Option(min=1, max=1000, help="Predictions that may wait.")] = 20,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name by which browsers may call this server; may be repeated."),
    ] = None,
) -> int:
    """Open the web page: type a formula, watch its prediction, look at the candidates."""
    from dao.app.jobs import Defaults
    from dao.app.run import loopback, require_server, worker_command
    from dao.app.run import serve as run
    from dao.app.worker import Predicting
    from dao.prediction.judging import Judging
    from dao.report.diffraction import require_diffraction
    from dao.weights import DEFAULT, largest_trained_cell, resolve

    require_server()
    require_diffraction()
    check_device(device)
    trained_on = resolve(DEFAULT if weights is None else weights)
    sources_option(sources, table)
    Judging(predictor=predictor).source()
    check_out_folder(out)
    predicting = Predicting(
        weights=weights, predictor=predictor, sources=sources, table=table, device=device, steps=steps
    )

    def say(address: str) -> None:
        typer.echo(f"{address}  (history in {out}; Ctrl-C stops the server)")
        if not loopback(host):
            typer.echo("anyone who can reach this address can use it: there is no password", err=True)

    run(
        out,
        worker_command(predicting),
        made_with=predicting.described,
        defaults=Defaults(samples=samples, trained=largest_trained_cell(trained_on), weights=weights or DEFAULT),
        host=host,
        port=port,
        max_queue=max_queue,
        allowed=allow_host or (),
        say=say,
    )
    return 0
