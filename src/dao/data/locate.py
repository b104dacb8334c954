"""Where the training data lies: the repository holds none of it."""

from __future__ import annotations

import os
from pathlib import Path

from dao.errors import InputError


def data_folder() -> Path:
    """``$DAO_DATA``, or ../shared/data beside the working folder."""
    return Path(os.environ.get("DAO_DATA", "../shared/data"))


def training_file(name: str, given: Path | None) -> Path:
    """The file called ``name`` in the data folder, or in the folder ``given``, or ``given`` itself where it is a file.

    Raises:
        InputError: there is no such file.

    """
    path = data_folder() / name if given is None else given / name if (given / name).is_file() else given
    if not path.exists():
        hint = "" if given is not None else " (set DAO_DATA or give --data)"
        raise InputError(f"training data {path}: no such file{hint}")
    return path
