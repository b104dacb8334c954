"""Whatever a parser raises or warns, turned into one line that names the file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dao.errors import InputError

OnError = Callable[[InputError], None]
"""Called with the error of one unreadable row, frame or file, which is then skipped."""

_LONGEST = 200


def one_line(text: str) -> str:
    """First line of ``text`` that is not empty, without control characters, cut to 200 characters."""
    lines = (line.strip() for line in text.splitlines())
    first = "".join(character for character in next(filter(None, lines), "") if character.isprintable())
    return first if len(first) <= _LONGEST else first[: _LONGEST - 3] + "..."


@contextmanager
def reading(where: str, name: str | None = None) -> Iterator[list[str]]:
    """Raise any error of the block as an :class:`InputError` that starts with ``where``; yields the list of warnings.

    Parsers of crystal files leak ZeroDivisionError, KeyError, AssertionError and more on malformed input, and warn on
    stderr; the list is filled when the block ends. ``name`` is cut from the front of messages, where it would repeat.
    """
    collected: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield collected
        except InputError as error:
            message = str(error).removeprefix(f"{name}: ")
            raise InputError(message if message.startswith(where) else f"{where}: {one_line(message)}") from error
        except FileNotFoundError as error:
            raise InputError(f"{where}: no such file or folder") from error
        except OSError as error:
            raise InputError(f"{where}: {error.strerror or one_line(str(error))}") from error
        except Exception as error:
            detail = one_line(str(error))
            if not isinstance(error, ValueError) or not detail:
                detail = f"{type(error).__name__}: {detail}".removesuffix(": ")
            raise InputError(f"{where}: cannot be read ({detail})") from error
    collected.extend(dict.fromkeys(one_line(str(warning.message)) for warning in caught))


def existing_file(path: Path | str) -> Path:
    """``path``, if it is a file that is not empty.

    Raises:
        InputError: missing, a folder, or empty.

    """
    file = Path(path)
    with reading(str(file)):
        if file.is_dir():
            raise InputError(f"{file}: is a folder")
        if file.stat().st_size == 0:
            raise InputError(f"{file}: is empty")
    return file


def read_text(path: Path | str, max_bytes: int = 20_000_000) -> str:
    """Text of a file in UTF-8, or else Latin-1 (older CIFs); ``max_bytes`` bounds what a parser is given.

    Raises:
        InputError: missing, empty, too large, or binary.

    """
    file = existing_file(path)
    with reading(str(file)):
        if file.stat().st_size > max_bytes:
            raise InputError(f"{file}: larger than {max_bytes / 1e6:g} MB")
        data = file.read_bytes()
        control = sum(data.count(byte) for byte in (*range(9), *range(14, 27)))
        if control:
            raise InputError(f"{file}: is no text file")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return data.decode("latin-1")
