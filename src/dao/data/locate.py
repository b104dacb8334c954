"""Where the training data lies: the repository holds none of it."""

from __future__ import annotations

import os
from pathlib import Path

from dao.errors import InputError


def data_folder() -> Path:
    """``$DAO_DATA``, or ../shared/data beside the working folder."""
    return Path(os.environ.get("DAO_DATA", "../shared/data"))


def validation_file(name: str, given: Path | None) -> Path:
    """The file called ``name`` beside (or in) what was given for training; of shards, in the data folder.

    Raises:
        InputError: there is no such file; says which keys of the recipe help.

    """
    folder = data_folder() if given is None else given if given.is_dir() else given.parent
    if given is not None and not (folder / name).is_file():
        from dao.data.shards import shard_files

        folder = data_folder() if shard_files(folder) else folder
    path = folder / name
    if not path.exists():
        raise InputError(
            f"validation data {path}: no such file (--set data.validation_file=FILE names another, "
            "data.validation_file=none takes the training data's own split, validation.crystals=0 trains without)"
        )
    return path


def file_in_folder(name: str, given: Path | None) -> Path:
    """The file called ``name`` in the folder ``given`` (default: the data folder), or in its folder ``properties``.

    Raises:
        InputError: no such folder, or no such file in it.

    """
    folder = data_folder() if given is None else given
    hint = " (set DAO_DATA or give --data)" if given is None else ""
    if not folder.is_dir():
        raise InputError(f"data {folder}: a folder that holds {name} is needed{hint}")
    # in the order in which benchmarks look
    for place in (folder / "properties", folder):
        if (place / name).is_file():
            return place / name
    raise InputError(f"data {folder}: no {name} in it or in its folder properties{hint}")


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
