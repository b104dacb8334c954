"""What every folder of weights has in common: one file of tensors beside one of JSON, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dao.data.symmetry_memory import SymmetryMemory
from dao.errors import InputError
from dao.weights import CONFIG

WEIGHTS = "model.safetensors"

MEMORY = "memory."
"""Prefix of the tensors in a file of weights that are no parameters but the symmetry prior's memory."""


ROW_SCALE = "row_scale."
"""Prefix of the scales of a matrix that is kept in 8 bits, one a row."""

_LARGEST_BYTE = 127


def in_eight_bits(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as 8-bit integers and a scale a row, other parameters as they are: half of what bfloat16 takes.

    Raises:
        InputError: a number that is not finite.

    """
    kept: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise InputError(f"{name} has a number that is not finite")
        if value.ndim != 2 or not value.is_floating_point():
            kept[name] = value
            continue
        scale = value.float().abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / _LARGEST_BYTE
        kept[name] = (value.float() / scale).round().to(torch.int8)
        kept[ROW_SCALE + name] = scale
    return kept


def _from_eight_bits(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    scales = {name.removeprefix(ROW_SCALE): value for name, value in tensors.items() if name.startswith(ROW_SCALE)}
    rest = {name: value for name, value in tensors.items() if not name.startswith(ROW_SCALE)}
    in_bytes = {name for name, value in rest.items() if value.dtype == torch.int8 and not name.startswith(MEMORY)}
    for name in sorted(in_bytes ^ scales.keys()):
        missing = "scale a row" if name in in_bytes else "matrix of 8 bits"
        raise InputError(f"{path}: no {missing} for {name}")
    for name, scale in scales.items():
        value = rest[name]
        if value.ndim != 2 or scale.shape != (len(value), 1) or not scale.is_floating_point():
            raise InputError(f"{path}: the scale of {name} does not fit it")
    return rest | {name: rest[name].float() * scale for name, scale in scales.items()}


def memory_tensors(memory: SymmetryMemory | None) -> dict[str, Tensor]:
    """The memory's tensors as they are named in a file of weights; none without a memory."""
    return {} if memory is None else {MEMORY + name: value for name, value in memory.to_tensors().items()}


def write_weights(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write ``model.safetensors`` and ``config.json``, each under another name first; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS}.part"
    save_file(tensors, temporary)
    temporary.chmod(0o644)  # safetensors lets its owner alone read it
    temporary.replace(folder / WEIGHTS)
    temporary = folder / f".{CONFIG}.part"
    temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / CONFIG)


def load_weights(path: Path, model: nn.Module) -> SymmetryMemory | None:
    """Load a file of weights into ``model``, in the types of its parameters; returns the memory that it holds, too.

    Raises:
        InputError: not safetensors, tensors of another model, or a memory that is none.

    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: not readable as safetensors ({str(error).splitlines()[0]})") from None
    tensors = _from_eight_bits(tensors, path)
    memory = {name.removeprefix(MEMORY): tensors.pop(name) for name in list(tensors) if name.startswith(MEMORY)}
    expected = model.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys()) or sorted(
        name for name in expected if expected[name].shape != tensors[name].shape
    )
    if wrong:
        raise InputError(f"{path}: tensors do not fit {CONFIG} (first: {wrong[0]})")
    model.load_state_dict({name: value.to(expected[name].dtype) for name, value in tensors.items()})
    try:
        return SymmetryMemory.from_tensors(memory) if memory else None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
