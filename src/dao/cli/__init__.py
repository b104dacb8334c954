"""The command line: one verb a file, each of which imports what it needs when it runs.

Exit codes: 0 done, 1 our fault, 2 bad input or usage (one line on stderr), 3 partly done, 130 interrupted, 141 whoever
read the results stopped reading (as other programs of a pipe end).
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import typer

from dao.errors import InputError

_TRACEBACK = "DAO_TRACEBACK"

CLOSED_PIPE = 141
"""What shells say of a program that a closed pipe ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on ``arguments`` (the process's own by default) and return the exit code."""
    chosen = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        _prepare_process(verbose=not {"-v", "--verbose"}.isdisjoint(chosen))
    try:
        return _run(chosen)
    except InputError as error:
        return _fail(str(error), 2)
    except typer.TyperException as error:
        return _fail(_usage(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:  # noqa: BLE001 - the last line of defence: whatever it is, say so in one line
        kind = type(error).__name__
        return _fail(f"internal: {kind}: {error} (set {_TRACEBACK}=1 for the traceback, and please report it)", 1)


def _run(arguments: list[str]) -> int:
    try:
        code = build_app()(arguments or ["--help"], prog_name="dao", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as error:
        # so typer ends, without a word, where nobody reads what is printed
        if isinstance(error.__context__, BrokenPipeError):
            return CLOSED_PIPE
        raise
    except BrokenPipeError:
        # what is left in the buffer must not complain at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return code if isinstance(code, int) else 0


def _prepare_process(*, verbose: bool) -> None:
    """What concerns the process as a whole: its clock, and that libraries do not talk to our users."""
    import logging
    import warnings

    from dao.stages import begin_with_process

    begin_with_process()
    for stream in (sys.stdout, sys.stderr):
        # a terminal without some letter shows a question mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if verbose:
        warnings.showwarning = _show_warning
    elif not sys.warnoptions:
        warnings.simplefilter("ignore")
        logging.basicConfig(level=logging.ERROR)
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del lineno, file, line  # it is not our users who will look there
    module = "/".join(Path(filename).parts[-2:])
    typer.echo(f"warning: {' '.join(str(message).split())} ({category.__name__} of {module})", err=True)


def build_app() -> typer.Typer:
    """The typer application with every verb."""
    from dao.cli import (
        data,
        dft,
        doctor,
        energy,
        evaluate,
        finetune,
        predict,
        properties,
        prototypes,
        relax,
        serve,
        superconductors,
        tc,
        train,
        weights,
    )

    app = typer.Typer(
        help="Crystal structure prediction: type a composition, get back the crystals it is likely to form.",
        epilog="\b\nExamples:\n  dao predict SrTiO3\n  dao doctor\n  dao --install-completion",
        # rich help would triple the time of `dao --help`
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_root)
    app.command(epilog=predict.EXAMPLES)(predict.predict)
    app.command(epilog=serve.EXAMPLES)(serve.serve)
    app.command(epilog=energy.EXAMPLES)(energy.energy)
    app.command(epilog=relax.EXAMPLES)(relax.relax)
    app.command("property", epilog=properties.EXAMPLES)(properties.predict_property)
    app.command("tc", epilog=tc.EXAMPLES)(tc.critical_temperature)
    app.command(epilog=train.EXAMPLES)(train.train)
    app.command(epilog=doctor.EXAMPLES)(doctor.doctor)
    app.add_typer(data.app, name="data")
    app.add_typer(dft.app, name="dft")
    app.add_typer(evaluate.app, name="evaluate")
    app.add_typer(finetune.app, name="finetune")
    app.add_typer(prototypes.app, name="prototypes")
    app.add_typer(superconductors.app, name="superconductors")
    app.add_typer(weights.app, name="weights")
    return app


def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        import dao

        typer.echo(dao.__version__)
        raise typer.Exit


def _usage(error: typer.TyperException) -> str:
    """What was wrong with the command, and whose help tells more."""
    context = getattr(error, "ctx", None)  # set where typer knows which verb it was parsing
    message = error.format_message().rstrip(". ").replace("Value error, ", "")  # pydantic's prefix
    return f"{message[:1].lower()}{message[1:]} (see {context.command_path if context else 'dao'} --help)"


def _fail(message: str, code: int) -> int:
    if os.environ.get(_TRACEBACK):
        traceback.print_exc()
    # one line whatever the message holds: newlines, tabs and other white space become single spaces
    typer.echo(f"dao: error: {' '.join(message.split())}", err=True)
    return code
