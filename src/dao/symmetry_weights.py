"""The symmetry prior with its memory, saved and loaded as one folder of safetensors and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from dao.data.symmetry_memory import SymmetryMemory
from dao.errors import InputError
from dao.models import Generator, local_folder
from dao.networks.symmetry import SymmetryPrior
from dao.networks.symmetry_config import SymmetryPriorConfig
from dao.weight_files import WEIGHTS, load_weights, memory_tensors, write_weights
from dao.weights import CONFIG, resolve

MODEL = "symmetry"
"""What ``model`` in the ``config.json`` of such a folder says."""

GENERATOR = "generator"
"""What it says in one of a generator, whose prior may be wanted."""

FORMAT_VERSION = 1
"""Raised when a saved folder changes its meaning; older folders are refused with their number."""


@dataclass(frozen=True, kw_only=True)
class _Config:
    """Everything that is not a tensor: ``config.json``."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    model: str = MODEL
    format_version: int = FORMAT_VERSION
    symmetry: SymmetryPriorConfig
    parameters: int = 0
    training: dict[str, Any] = field(default_factory=dict)


def save_symmetry(
    folder: Path,
    prior: SymmetryPrior,
    memory: SymmetryMemory,
    record: dict[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write ``model.safetensors`` and ``config.json``; nothing is ever left half written.

    Args:
        folder: made where it is missing.
        prior: whose parameters are saved as ``dtype``.
        memory: saved as :meth:`~dao.data.symmetry_memory.SymmetryMemory.to_tensors` says.
        record: of the training: recipe, data, crystals seen, hours, validation figures.
        dtype: of the parameters in the file.

    """
    tensors = {name: value.detach().cpu().to(dtype).contiguous() for name, value in prior.state_dict().items()}
    parameters = sum(parameter.numel() for parameter in prior.parameters())
    config = _Config(symmetry=prior.config, parameters=parameters, training=record)
    write_weights(folder, tensors | memory_tensors(memory), asdict(config))


def load_symmetry(source: Path | str) -> tuple[SymmetryPrior, SymmetryMemory, dict[str, Any]]:
    """A prior in evaluation mode, its memory, and the record of its training.

    Args:
        source: shipped name, folder or Hugging Face Hub id of a prior, or of a generator that has one; a ``Path`` is
            always a folder.

    Raises:
        InputError: no such weights, a broken or foreign file, a version this code does not know, or a generator without
            a prior.

    """
    folder = source if isinstance(source, Path) else local_folder(resolve(source))
    raw = _read_json(folder / CONFIG)
    if raw.get("model") == GENERATOR:
        return _prior_of(Generator.load(folder), folder)
    config = _checked(raw, folder / CONFIG)
    prior = SymmetryPrior(config.symmetry)
    memory = load_weights(folder / WEIGHTS, prior)
    if memory is None:
        raise InputError(f"{folder / WEIGHTS}: holds no memory of known assignments")
    return prior.eval(), memory, config.training


def _prior_of(model: Generator, folder: Path) -> tuple[SymmetryPrior, SymmetryMemory, dict[str, Any]]:
    if model.symmetry_prior is None or model.symmetry_memory is None:
        raise InputError(f"{folder}: this generator has no symmetry prior")
    # of weights that were put together, the prior's own
    record = model.config.training.get("symmetry")
    if not isinstance(record, dict):
        record = {"data": f"what {model.config.name} was trained on"}
    return model.symmetry_prior.eval(), model.symmetry_memory, record


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(raw, dict) or raw.get("model") not in {MODEL, GENERATOR}:
        raise InputError(f"{path}: 'model' must be {MODEL!r}, or {GENERATOR!r} with a symmetry prior")
    return raw


def _checked(raw: dict[str, Any], path: Path) -> _Config:
    if raw.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: format version {raw.get('format_version')}, this code reads {FORMAT_VERSION}")
    try:
        return TypeAdapter(_Config).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
