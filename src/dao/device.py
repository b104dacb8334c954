"""Which device to compute on."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from dao.errors import InputError

M = TypeVar("M", bound=nn.Module)


def choose_device(name: str) -> torch.device:
    """The device called ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: no such device here.

    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r}: use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            raise InputError(f"device {name!r}: torch finds {count or 'no'} CUDA device{'s' if count > 1 else ''} here")
    elif device.type != "cpu":
        raise InputError(f"device {name!r}: use auto, cpu, cuda or cuda:N")
    return device


def on_cpu(module: M) -> M:
    """The module itself where it is on the CPU, else a copy of it there."""
    parameter = next(module.parameters(), None)
    return module if parameter is None or parameter.device.type == "cpu" else copy.deepcopy(module).cpu()
