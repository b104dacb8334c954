"""What a model is beside its tensors: the checked content of a ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dao.errors import InputError
from dao.networks.config import NetworkConfig
from dao.networks.symmetry_config import SymmetryPriorConfig
from dao.processes.config import ProcessConfig, SamplerSettings

FORMAT_VERSION = 1
"""Raised when a saved folder changes its meaning; older folders are refused with their number."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything about a model that is not a tensor; the ``config.json`` of its folder."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    model: str
    """Key into the table of classes below: nothing in a file can name any other code."""
    format_version: int = FORMAT_VERSION
    name: str = "untitled"
    network: NetworkConfig
    process: ProcessConfig
    parameters: int = 0
    training: dict[str, Any] = field(default_factory=dict)
    """Record of the training: recipe, data, crystals seen, hours, validation figures."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(ModelConfig):
    """Configuration of a generator."""

    model: str = "generator"
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    symmetry: SymmetryPriorConfig | None = None
    """The network that says space group and Wyckoff positions, for a symmetric process."""
    cells: dict[str, dict[str, int]] = field(default_factory=dict)
    """How often, in the training set, formula units of that many atoms came with that many units a primitive cell."""


@dataclass(frozen=True, kw_only=True)
class TrustLimits:
    """What a predictor was trained on: beyond it, its energies are guesses."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    elements: tuple[int, ...] = ()
    """Atomic numbers that the labelled crystals have."""
    max_atoms: int = 0
    volume_ratio: tuple[float, float] = (0.0, 0.0)
    """0.1 % and 99.9 % quantiles of the cell's volume over the sum of fitted volumes per element."""
    energy: tuple[float, float] = (0.0, 0.0)
    """Least and largest label, eV/atom (of a property: in its unit)."""


@dataclass(frozen=True, kw_only=True)
class PredictorConfig(ModelConfig):
    """Configuration of a predictor."""

    model: str = "predictor"
    label: str = "e_above_hull"
    """What the energy is: the label it was trained on, eV/atom."""
    beta: float = 1.0
    """Inverse temperature of the exponential loss, in units of the labels' standard deviation."""
    errors: bool = False
    """Also says how far off its energies are expected to be."""
    auxiliary: str | None = None
    """A second label that it was trained on, for the sake of the first."""
    error_factor: float = 1.0
    """What expected errors are multiplied by, fitted on crystals that were not trained on."""
    trust: TrustLimits = field(default_factory=TrustLimits)

    def __post_init__(self) -> None:
        """Refuse what needs a known symmetry."""
        _refuse_symmetry(self)
        if not self.beta > 0:
            raise InputError(f"predictor beta must be positive, got {self.beta:g}")


PLAUSIBILITY = "plausibility"
"""Label of the network that says how plausible structures are (:mod:`dao.prediction.plausibility`)."""

Scale = Literal["linear", "log10"]
"""How a property is standardised and learned: as it is, or its decadic logarithm."""


@dataclass(frozen=True, kw_only=True)
class PropertyConfig(ModelConfig):
    """Configuration of a predictor that was finetuned to a property."""

    model: str = "property"
    label: str
    """Short name of the property: a column of the training data."""
    title: str = ""
    """What it is, in words."""
    unit: str = ""
    """Of labels and predictions; empty for a pure number."""
    scale: Scale = "linear"
    trust: TrustLimits = field(default_factory=TrustLimits)

    def __post_init__(self) -> None:
        """Refuse what needs a known symmetry."""
        _refuse_symmetry(self)


def _refuse_symmetry(config: ModelConfig) -> None:
    if config.process.kind == "symmetric_flow" or config.network.space_groups:
        raise InputError("a predictor works without known symmetry: process flow or diffusion, no network space_groups")


CONFIGS: dict[str, type[GeneratorConfig | PredictorConfig | PropertyConfig]] = {
    "generator": GeneratorConfig,
    "predictor": PredictorConfig,
    "property": PropertyConfig,
}
"""Every kind of model that a file of weights can be."""
