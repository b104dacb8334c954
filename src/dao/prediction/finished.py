"""A formula's folder says in ``settings.json`` what its files were made by: written last, and thus only when all are.

What a later run finds complete and made as it would make it, it leaves alone, whatever version of the software made it:
the version stands there too, and is said where it is another one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dao
from dao.errors import InputError
from dao.prediction.files import CANDIDATES, write_text

SETTINGS = "settings.json"

UNKNOWN = "an unknown version"
"""Of folders that an early version finished, which did not say."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a formula brought.

    Attributes:
        records: of its candidates, the best first.
        discarded: how many of its samples are no crystals.
        failure: why it has no candidate; None where it has.

    """

    records: list[dict[str, Any]]
    discarded: int
    failure: str | None


def read_finished(folder: Path, made_by: dict[str, Any], files: Sequence[str]) -> Finished | None:
    """What the folder holds, where it is complete, made by this, and has these files; None otherwise.

    Args:
        folder: of one formula.
        made_by: all that its candidates depend on, as JSON.
        files: kinds of files that are wanted.

    """
    try:
        said = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if said["made_by"] != _plain(made_by) or not set(files) <= set(said["files"]):
            return None
        records = json.loads((folder / CANDIDATES).read_text(encoding="utf-8"))
        for record in records:
            del record["structure"]
        if len(records) != said["candidates"]:
            return None
        return Finished(records=records, discarded=said["discarded"], failure=said["failure"])
    except (OSError, ValueError, LookupError, TypeError):
        # not there, torn or edited: made again
        return None


def other_version(folder: Path) -> str | None:
    """The version of the software that finished the folder, if that is not this one; None where none did."""
    try:
        said = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        version = str(said.get("version", UNKNOWN))
    except (OSError, ValueError, AttributeError):
        return None
    return None if version == dao.__version__ else version


def write_finished(folder: Path, made_by: dict[str, Any], files: Sequence[str], finished: Finished) -> None:
    """Say that the folder is complete.

    Raises:
        InputError: it cannot be written.

    """
    said = {
        "version": dao.__version__,
        "made_by": _plain(made_by),
        "files": list(files),
        "candidates": len(finished.records),
        "discarded": finished.discarded,
        "failure": finished.failure,
    }
    try:
        write_text(folder / SETTINGS, json.dumps(said, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


def unfinished(folder: Path) -> None:
    """Take back what :func:`write_finished` said: its files are about to be made again.

    Raises:
        InputError: the folder cannot be written.

    """
    try:
        (folder / SETTINGS).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


def _plain(made_by: dict[str, Any]) -> Any:  # noqa: ANN401 -- as JSON gives it back
    return json.loads(json.dumps(made_by))
