"""What ships: one folder of weights a model (safetensors + JSON + model card), and how a name becomes one of them.

Reading a folder's JSON needs no torch: :class:`dao.models.Generator` loads the weights themselves.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from dao.errors import InputError

DEFAULT = "small"
"""The shipped weights that ``dao predict`` uses unless told otherwise."""

DEFAULT_PREDICTOR = "predictor"
"""The shipped weights that ``dao energy`` and ``dao relax`` use unless told otherwise."""

DEFAULT_TRUNK = "predictor-trunk"
"""The shipped weights that finetuning to properties starts from unless told otherwise."""

TC = "tc"
"""The folder of the ensemble that ``dao tc`` uses unless told otherwise."""

CONFIG = "config.json"
CARD = "README.md"

_SHELF = Path(__file__).parent
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def shipped() -> dict[str, Path]:
    """Folders of the weights inside this package by name, the default first."""
    folders = {path.parent.name: path.parent for path in _SHELF.glob(f"*/{CONFIG}")}
    return {name: folders[name] for name in sorted(folders, key=lambda name: (name != DEFAULT, name))}


def resolve(weights: str) -> Path | str:
    """A shipped name or an existing folder as its path; a Hugging Face Hub id (``owner/name``) as it is.

    Raises:
        InputError: none of the three, or a folder without ``config.json``; the message lists the shipped names.

    """
    known = shipped()
    if weights in known:
        return known[weights]
    folder = Path(weights)
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise InputError(f"weights {weights!r}: the folder holds no {CONFIG}")
        return folder
    if _HUB_ID.fullmatch(weights):
        return weights
    names = ", ".join(known) or "none"
    raise InputError(f"weights {weights!r}: neither shipped ({names}) nor a folder nor a Hub id such as owner/name")


def resolve_predictor(weights: str | None, *, needed_by: str | None = None) -> Path | str | None:
    """Predictor weights of that name, by default the shipped ones; None where none are shipped and none needed.

    Raises:
        InputError: as :func:`resolve`, or what they are ``needed_by`` goes without.

    """
    if weights is None and DEFAULT_PREDICTOR not in shipped():
        if needed_by is None:
            return None
        raise InputError(f"{needed_by} needs the weights of a predictor, and none are shipped: give --predictor FOLDER")
    return resolve(DEFAULT_PREDICTOR if weights is None else weights)


def resolve_trunk(weights: str | None) -> Path:
    """Folder of the weights that a finetuning starts from, by default the shipped ones.

    Raises:
        InputError: as :func:`resolve`, or they are on the Hub.

    """
    source = resolve(DEFAULT_TRUNK if weights is None else weights)
    if not isinstance(source, Path):
        raise InputError(f"--weights {weights!r}: finetuning starts from shipped weights or a folder on disk")
    return source


def shipped_ranker() -> Path | None:
    """File of the learned ranker inside this package; None where none ships."""
    path = _SHELF / "ranker" / "ranker.json"
    return path if path.is_file() else None


def shipped_plausibility() -> Path | None:
    """Folder of the network that the learned ranker asks how plausible structures are; None where none ships."""
    folder = _SHELF / "ranker" / "plausibility"
    return folder if (folder / CONFIG).is_file() else None


def shipped_tc() -> Path | None:
    """Folder of the ensemble for critical temperatures inside this package; None where none ships."""
    folder = _SHELF / TC
    return folder if any(folder.glob(f"member-*/{CONFIG}")) else None


def read_config(folder: Path) -> dict[str, Any]:
    """The JSON object in a folder's ``config.json``.

    Raises:
        InputError: no such file, or not a JSON object.

    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise InputError(f"{path}: not JSON") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: not a JSON object")
    return config


def largest_trained_cell(weights: Path | str) -> int | None:
    """Atoms in the largest cell that weights (see :func:`resolve`) were trained on; None where they do not say.

    Raises:
        InputError: no such weights.

    """
    folder = weights if isinstance(weights, Path) else resolve(weights)
    if not isinstance(folder, Path):
        return None  # on the Hub, and not fetched yet
    config = read_config(folder)
    try:
        return int(config["training"]["recipe"]["data"]["max_atoms"])
    except (KeyError, TypeError, ValueError):
        return None


def weights_hash(weights: str) -> str | None:
    """Short hash of the files of weights (see :func:`resolve`) as they are; None where they are on the Hub, or gone.

    It is not the fingerprint that samples carry, which takes torch.
    """
    try:
        folder = resolve(weights)
        if not isinstance(folder, Path):
            return None
        found = [(path, path.stat()) for path in (folder / CONFIG, folder / "model.safetensors")]
        return _hash_of(tuple((path, said.st_mtime_ns, said.st_size) for path, said in found))
    except (InputError, OSError):
        return None


@lru_cache(maxsize=1)
def _hash_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of the contents, read only where time or size of a file have changed."""
    digest = hashlib.sha256()
    for path, _, size in files:
        digest.update(size.to_bytes(8, "little") + path.read_bytes())
    return digest.hexdigest()[:16]


def read_card(folder: Path) -> str:
    """The model card (Markdown) of a folder of weights; empty where it has none.

    Raises:
        InputError: the card cannot be read.

    """
    path = folder / CARD
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from None
