"""How plausible is a structure for its composition? A network's log odds, learned from known crystals.

DAO-P's trunk, finetuned to tell which of the prototypes proposed for a known composition is the known crystal, its own
composition having been hidden from the table (``dao train plausibility-small``). Log odds are of one composition's
candidates against each other: they are known up to a constant of the composition.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from dao.batching import said_of
from dao.crystal import Crystal
from dao.device import choose_device
from dao.errors import InputError
from dao.model_config import PLAUSIBILITY
from dao.property_model import PropertyPredictor
from dao.weights import shipped_plausibility


def load_plausibility(weights: Path, device: str) -> PropertyPredictor:
    """The network on a device.

    Raises:
        InputError: no such weights or device, or weights of another property.

    """
    model = PropertyPredictor.load(weights, device=choose_device(device))
    if model.config.label != PLAUSIBILITY:
        raise InputError(f"{weights}: predicts {model.config.label}, and {PLAUSIBILITY} is needed")
    return model


def shipped_network(device: str) -> PropertyPredictor | None:
    """The network that ships, on a device, read once a process; None where none does.

    Raises:
        InputError: no such device, or broken weights.

    """
    path = shipped_plausibility()
    return None if path is None else _loaded(path, str(choose_device(device)))


@lru_cache(maxsize=1)
def _loaded(weights: Path, device: str) -> PropertyPredictor:
    """What ranks candidates and what chooses among walks ask the same network."""
    return load_plausibility(weights, device)


@torch.no_grad()
def log_odds(model: PropertyPredictor, crystals: Sequence[Crystal], *, batch_size: int | None = None) -> list[float]:
    """Log odds of each crystal to be the known one of its composition, up to a constant of the composition.

    Of a primitive Niggli cell, as in training. Batches are of like sizes and change nothing beyond rounding.
    """
    return said_of(crystals, lambda batch: model.predict(batch).tolist(), model.label_mean, batch_size=batch_size)
