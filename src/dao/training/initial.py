"""What a model has before its first step: scalers, a symmetry prior, other weights.

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
from dao.geometry.lattice import fit_atomic_volumes, volume
from dao.model_config import TrustLimits
from dao.models import CrystalModel, Generator, Predictor, read_config
from dao.networks.config import CrysformerConfig, NetworkConfig
from dao.networks.symmetry import SymmetryPrior
from dao.property_model import PropertyPredictor
from dao.symmetry_weights import load_symmetry
from dao.training.revival import revive

ENERGY_STATE = ("energy_head.", "energy_mean", "energy_deviation", "error_head.")
"""Names, or their beginnings, of what in a predictor is of its label."""

AUXILIARY_STATE = ("auxiliary_head.", "auxiliary_mean", "auxiliary_deviation")
"""Likewise of its second label."""

GATE_SAMPLE = 256
"""Training crystals on which gates are looked at before their sublayers are begun anew."""


def fit_scalers(model: CrystalModel, training_set: PackedCrystals) -> None:
    """Fit how the process sees lattices; a symmetric one sees conventional cells."""
    lattice, counts = training_set.lattice, training_set.element_counts()
    if isinstance(model, Generator) and model.symmetry_table is not None:
        cell = model.symmetry_table.cell.to(lattice)[training_set.labels["space_group"]]
        lattice, counts = torch.linalg.solve(cell, lattice), counts / torch.linalg.det(cell)[:, None].abs()
    model.process.representation.fit(lattice, counts)
    if isinstance(model, Predictor):
        model.fit_energies(training_set.labels)


def trust_limits(training_set: PackedCrystals, label: str) -> TrustLimits:
    """What the labelled crystals of a training set span.

    Raises:
        InputError: none is labelled.

    """
    energies = training_set.labels[label]
    known = energies.isfinite()
    if not bool(known.any()):
        raise InputError(f"no crystal of the training set has a label {label!r}")
    counts = training_set.element_counts()
    volumes = volume(training_set.lattice.double())
    ratio = volumes / (counts.double() @ fit_atomic_volumes(counts, volumes))
    low, high = ratio[known].quantile(torch.tensor([0.001, 0.999], dtype=ratio.dtype)).tolist()
    return TrustLimits(
        elements=tuple(counts[known].sum(0).nonzero()[:, 0].tolist()),
        max_atoms=int(training_set.num_atoms[known].max()),
        volume_ratio=(low, high),
        energy=(float(energies[known].min()), float(energies[known].max())),
    )


def give_symmetry(model: Generator, prior: SymmetryPrior, memory: SymmetryMemory) -> None:
    """Hand a trained symmetry prior to a generator, which keeps it as it is."""
    if model.symmetry_prior is None:
        return
    model.symmetry_prior.load_state_dict(prior.state_dict())
    model.symmetry_prior.requires_grad_(requires_grad=False)
    model.symmetry_memory = memory


def copy_all_but(model: CrystalModel, other: CrystalModel, own: tuple[str, ...]) -> None:
    """Give a model the parameters and fitted scalers of another, but those whose names begin with one of ``own``.

    Outputs that only one of them has (expected errors, a second label) stay as they are, or are left behind.
    """
    state = model.state_dict()
    state |= {name: value for name, value in other.state_dict().items() if name in state and not name.startswith(own)}
    model.load_state_dict(state)


def load_initial_weights(model: CrystalModel, source: str, training_set: PackedCrystals) -> str:
    """Copy parameters and fitted scalers of other weights into ``model``; returns what they were trained on, in words.

    A symmetry prior that the model has stays its own. A predictor of another label than the weights' takes trunk and
    noise heads; its energy head stays as it is, and its energy scaler is fitted to the training set.

    Raises:
        InputError: no such weights, weights of another network or process (of a predictor of the same label: beta), or
            no crystal with the label.

    """
    other = type(model).load(source)
    for section in ("network", "process"):
        mine, theirs = (getattr(config, section) for config in (model.config, other.config))
        if section == "process":
            # weights of losses belong to a training, not to a model
            theirs = replace(theirs, coordinate_weight=mine.coordinate_weight, lattice_weight=mine.lattice_weight)
        if mine != theirs and not (section == "network" and _only_gates_differ(mine, theirs)):
            raise InputError(f"initial_weights {source}: trained with another {section} than this recipe's")
    history = _history(other.config.training)
    own: tuple[str, ...] = ("symmetry_prior.",)
    if isinstance(model, Predictor) and isinstance(other, Predictor):
        if model.config.label != other.config.label:
            own = (*own, *ENERGY_STATE)
            model.fit_energies(training_set.labels)
            history += f" with label {other.config.label!r}, energy head and scaler begun anew"
        if model.config.auxiliary != other.config.auxiliary:
            own = (*own, *AUXILIARY_STATE)
            model.fit_auxiliary(training_set.labels)
        if model.config.label == other.config.label and model.config.beta != other.config.beta:
            # its fitted energies are in these units
            raise InputError(f"initial_weights {source}: trained with another beta than this recipe's")
    copy_all_but(model, other, own)
    if model.config.network != other.config.network:
        dead = revive(
            model, training_set.batch(torch.arange(0, len(training_set), -(-len(training_set) // GATE_SAMPLE)))
        )
        history += f", gates given a way past them, begun anew: {', '.join(dead) or 'no sublayer'}"
    return history


def _only_gates_differ(mine: NetworkConfig, theirs: NetworkConfig) -> bool:
    """Whether weights of the paper's gate begin a network whose gates have a way past them."""
    if not (isinstance(mine, CrysformerConfig) and isinstance(theirs, CrysformerConfig)):
        return False
    return mine.gate == "bypassed" and theirs.gate == "raw" and mine == replace(theirs, gate="bypassed")


def load_initial_trunk(model: CrystalModel, source: Path | str, own: tuple[str, ...]) -> str:
    """Give ``model`` the trunk, noise heads and lattice scalers of a predictor, or of another property's.

    Returns what they were trained on, in words.

    Args:
        model: of the same network and process.
        source: the weights.
        own: beginnings of the names of what stays as it is.

    Raises:
        InputError: no such weights, or those of a generator.

    """
    is_property = isinstance(source, Path) and read_config(source).model == "property"
    other = PropertyPredictor.load(source) if is_property else Predictor.load(source)
    copy_all_but(model, other, own)
    return f"{_history(other.config.training)} with label {other.config.label!r}"


def load_initial_symmetry(model: SymmetryPrior, source: str) -> str:
    """Copy the parameters of a trained prior into ``model``; returns what they were trained on, in words.

    ``source`` is as :func:`dao.symmetry_weights.load_symmetry` takes it.

    Raises:
        InputError: no such weights, or weights of another size.

    """
    other, _, record = load_symmetry(source)
    wrong = [
        name
        for name in ("width", "encoder_blocks", "decoder_blocks", "heads")
        if getattr(other.config, name) != getattr(model.config, name)
    ]
    if wrong:
        raise InputError(f"initial_weights {source}: trained with another {wrong[0]} than this recipe's")
    model.load_state_dict(other.state_dict())
    return _history(record)


def _history(record: dict[str, Any]) -> str:
    """What weights have been trained on, from their record."""
    before = f"{record['pretraining']}; then " if record.get("pretraining") else ""
    seen = f"{record['crystals_seen'] / 1e6:.2f} M crystals of " if "crystals_seen" in record else ""
    return f"{before}{seen}{record.get('data', 'unknown data')}"
