"""What a generator has before its first step: scalers, a symmetry prior, other weights.

Shapes: M crystals.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dao.data.store import PackedCrystals
from dao.data.symmetry_memory import SymmetryMemory
from dao.errors import InputError
from dao.models import Generator
from dao.networks.symmetry import SymmetryPrior
from dao.symmetry_weights import load_symmetry


def fit_scalers(model: Generator, training_set: PackedCrystals) -> None:
    """Fit how the process sees lattices; a symmetric one sees conventional cells."""
    lattice, counts = training_set.lattice, training_set.element_counts()
    if model.symmetry_table is not None:
        cell = model.symmetry_table.cell.to(lattice)[training_set.labels["space_group"]]
        lattice, counts = torch.linalg.solve(cell, lattice), counts / torch.linalg.det(cell)[:, None].abs()
    model.process.representation.fit(lattice, counts)


def give_symmetry(model: Generator, prior: SymmetryPrior, memory: SymmetryMemory) -> None:
    """Hand a trained symmetry prior to a generator, which keeps it as it is."""
    if model.symmetry_prior is None:
        return
    model.symmetry_prior.load_state_dict(prior.state_dict())
    model.symmetry_prior.requires_grad_(requires_grad=False)
    model.symmetry_memory = memory


def load_initial_weights(model: Generator, source: str) -> str:
    """Copy parameters and fitted scalers of other weights into ``model``; returns what they were trained on, in words.

    Raises:
        InputError: no such weights, or weights of another network or process.

    """
    other = Generator.load(source)
    for section in ("network", "process"):
        mine, theirs = (getattr(config, section) for config in (model.config, other.config))
        if section == "process":
            # weights of losses belong to a training, not to a model
            theirs = replace(theirs, coordinate_weight=mine.coordinate_weight, lattice_weight=mine.lattice_weight)
        if mine != theirs:
            raise InputError(f"initial_weights {source}: trained with another {section} than this recipe's")
    # the symmetry prior, where there is one, is this training's own
    mine = {name: value for name, value in model.state_dict().items() if name.startswith("symmetry_prior.")}
    theirs = {name: value for name, value in other.state_dict().items() if not name.startswith("symmetry_prior.")}
    model.load_state_dict(theirs | mine)
    return _history(other.config.training)


def load_initial_symmetry(model: SymmetryPrior, folder: Path) -> str:
    """Copy the parameters of a trained prior into ``model``; returns what they were trained on, in words.

    Raises:
        InputError: no such weights, or weights of another size.

    """
    other, _, record = load_symmetry(folder)
    wrong = [
        name
        for name in ("width", "encoder_blocks", "decoder_blocks", "heads")
        if getattr(other.config, name) != getattr(model.config, name)
    ]
    if wrong:
        raise InputError(f"initial_weights {folder}: trained with another {wrong[0]} than this recipe's")
    model.load_state_dict(other.state_dict())
    return _history(record)


def _history(record: dict[str, Any]) -> str:
    """What weights have been trained on, from their record."""
    before = f"{record['pretraining']}; then " if record.get("pretraining") else ""
    return f"{before}{record.get('crystals_seen', 0) / 1e6:.2f} M crystals of {record.get('data', 'unknown data')}"
