"""Append-only files of JSON lines whose first line says by what the rest was made: what lets a killed run go on.

A kill loses at most the line being written: a torn last line is cut off when the file is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from dao.errors import InputError

T = TypeVar("T")


class JsonLines:
    """One such file."""

    def __init__(self, path: Path, made_by: dict[str, Any], what: str) -> None:
        """Name the file, what its lines must have been made by, and what they are, in the plural, for messages."""
        self.path = path
        self.made_by = made_by
        self.what = what

    def read(self, parse: Callable[[Any], T]) -> list[T]:
        """Every whole line after the first, parsed; none where there is no file yet. A torn last line is cut off.

        Args:
            parse: what to make of the JSON of a line; whatever is wrong with it may raise ValueError, KeyError,
                IndexError or TypeError.

        Raises:
            InputError: the lines were made by something else, or the file is not one of ours.

        """
        try:
            if self.path.parent.exists() and not self.path.parent.is_dir():
                raise InputError(f"{self.path.parent}: is no folder")
            if not self.path.exists():
                return []
            raw = self.path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}") from None
        whole = raw[: raw.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            made_by = dict(lines[0]["made_by"]) if lines else self.made_by
            if not made_by.keys() & self.made_by.keys():
                raise ValueError(made_by)  # noqa: TRY301 -- nothing of ours in it
            # lines of another making may well not parse, and that is not what is wrong with them
            parsed = [parse(line) for line in lines[1:]] if made_by == self.made_by else []
        except (InputError, ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise InputError(f"{self.path}: not a file of {self.what}") from None
        if made_by != self.made_by:
            differing = [key for key in self.made_by if made_by.get(key) != self.made_by[key]]
            differing = differing or [key for key in made_by if key not in self.made_by]
            raise InputError(
                f"{self.path.parent} holds {self.what} made with another {' and '.join(differing)}:"
                " choose another --out, or remove that folder"
            )
        if len(whole) < len(raw):
            try:
                os.truncate(self.path, len(whole))
            except OSError as error:
                raise InputError(f"{self.path}: cannot be written ({error.strerror})") from None
        return parsed

    def append(self, lines: Iterable[Any]) -> None:
        """Add lines and flush them to the disk.

        Raises:
            InputError: the folder cannot be written.

        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists() or self.path.stat().st_size == 0
            with self.path.open("a", encoding="utf-8") as stream:
                if new:
                    stream.write(json.dumps({"made_by": self.made_by}) + "\n")
                stream.writelines(json.dumps(line) + "\n" for line in lines)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise InputError(f"{self.path.parent}: cannot be written ({error.strerror})") from None


def read_made_by(path: Path, what: str) -> dict[str, Any]:
    """What the lines of such a file were made by, for those who cannot know it beforehand.

    Raises:
        InputError: no such file, or not one of ``what``.

    """
    try:
        with path.open("rb") as stream:
            made_by = json.loads(stream.readline())["made_by"]
    except FileNotFoundError:
        raise InputError(f"{path.parent}: holds no {what} ({path.name})") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise InputError(f"{path}: not a file of {what}") from None
    if not isinstance(made_by, dict):
        raise InputError(f"{path}: not a file of {what}")
    return made_by
