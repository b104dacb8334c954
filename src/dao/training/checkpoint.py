"""Checkpoints that a kill cannot break: a folder is written under another name, flushed, and renamed when complete.

A checkpoint is ``tensors.safetensors`` (weights, average, optimizer moments, random states) and ``state.json``
(counters). Its folder counts only under its final name, and the one before is removed only after.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from dao.errors import InputError
from dao.training.ema import ExponentialAverage

_PREFIX = "checkpoint-"
_PART = ".part"


@dataclass(frozen=True)
class Checkpoint:
    """Everything a training needs to go on as if it had never stopped."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names begin so, without that."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def load_model(self, model: nn.Module, optimizer: Optimizer, average: ExponentialAverage | None) -> None:
        """Give back what :func:`model_tensors` took: weights, their average, the optimizer's moments, torch's chance.

        How many updates an average has seen is ``average_updates`` of the state.
        """
        model.load_state_dict(self.under("model."))
        if average is not None:
            average.load_state_dict(self.under("average."), self.state["average_updates"])
        self.load_optimizer(optimizer)
        torch.set_rng_state(self.tensors["random.torch"])

    def load_optimizer(self, optimizer: Optimizer) -> None:
        """Give back the moments that :func:`optimizer_tensors` took."""
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in self.under("optimizer.").items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def model_tensors(model: nn.Module, optimizer: Optimizer, average: ExponentialAverage | None) -> dict[str, Tensor]:
    """What :meth:`Checkpoint.load_model` gives back, by the names that it has in a checkpoint."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    return tensors | optimizer_tensors(optimizer) | {"random.torch": torch.get_rng_state()}


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Moments of an optimizer by the names that they have in a checkpoint."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": value for i, moments in state.items() for name, value in moments.items()}


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write ``folder/checkpoint-STEP`` atomically and remove the others; where it exists already, leave it as it is."""
    final = folder / f"{_PREFIX}{step:09d}"
    if final.exists():
        # to replace a folder it would have to be removed first, and a kill in between would leave none
        return final
    part = final.with_name(final.name + _PART)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()},
        part / "tensors.safetensors",
    )
    (part / "state.json").write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
    for path in (*part.iterdir(), part):
        _flush(path)
    part.replace(final)
    _flush(folder)
    for other in folder.glob(f"{_PREFIX}*"):
        if other != final:
            shutil.rmtree(other, ignore_errors=True)
    return final


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, if there is one."""
    found = sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir() and not path.name.endswith(_PART))
    return found[-1] if found else None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: a file is missing or truncated.

    """
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "tensors.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"checkpoint {path}: not readable ({str(error).splitlines()[0]})") from None
    return Checkpoint(tensors, state)
