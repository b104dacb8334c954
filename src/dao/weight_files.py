"""What every folder of weights has in common: one file of tensors beside one of JSON, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dao.data.symmetry_memory import SymmetryMemory
from dao.errors import InputError
from dao.weights import CONFIG

WEIGHTS = "model.safetensors"

MEMORY = "memory."
"""Prefix of the tensors in a file of weights that are no parameters but the symmetry prior's memory."""


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
