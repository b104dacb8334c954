"""What samples can be guided by: a predictor's energy, or any other property that it was finetuned on.

Shapes: B crystals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dao.crystal import CrystalBatch
from dao.errors import InputError
from dao.models import Predictor
from dao.processes.config import ProcessConfig
from dao.processes.guidance import Guidance


@dataclass(frozen=True)
class PredictedProperty:
    """A predictor's property downwards (upwards with a negative strength), or its distance from a target.

    Attributes:
        predictor: on the generator's device or another, in any precision.
        target: value to come near to, in the property's unit; None: the lower the better.

    Raises:
        InputError: a target that is not finite.

    """

    predictor: Predictor
    target: float | None = None

    def __post_init__(self) -> None:
        """Check the target."""
        if self.target is not None and not math.isfinite(self.target):
            raise InputError(f"guidance target must be a finite number, got {self.target:g}")

    def knows_noise_of(self, process: ProcessConfig) -> bool:
        """Where the predictor was trained with the same noise; a distance from a target is of clean crystals alone."""
        own = self.predictor.config.process
        noise = ("kind", "lattice", "sigma_min", "sigma_max")
        return self.target is None and all(getattr(own, name) == getattr(process, name) for name in noise)

    def value(self, batch: CrystalBatch, time: float) -> Float[Tensor, " b"]:
        """The predictor's f (beta times the standardised property), or beta |property - target| / deviation."""
        model = self.predictor
        mean = model.energy_mean
        found = model.energy(batch.to(device=mean.device, dtype=mean.dtype), time)
        unit = model.config.beta / model.energy_deviation
        return unit * (found - mean) if self.target is None else unit * (found - self.target).abs()

    def record(self) -> dict[str, Any]:
        """The predictor's fingerprint and the target."""
        return {"predictor": self.predictor.fingerprint, "target": self.target}


def property_guidance(predictor: Predictor | None, strength: float, target: float | None = None) -> Guidance | None:
    """Guidance by a predictor; None where the strength is 0.

    Raises:
        InputError: no predictor, a target without a strength or with a negative one, or numbers that are not finite.

    """
    if strength == 0:
        if target is not None:
            raise InputError("a guidance target needs a guidance strength")
        return None
    if predictor is None:
        raise InputError("guidance needs the weights of a predictor")
    if target is not None and strength < 0:
        raise InputError(f"guidance to a target needs a positive strength, got {strength:g}")
    return Guidance(PredictedProperty(predictor, target), strength)


def guidance_note(guidance: Guidance | None) -> str:
    """Guidance in words, for reports; ``none`` without."""
    if guidance is None:
        return "none"
    told = [f"strength {guidance.strength:g}"]
    objective = guidance.objective
    if isinstance(objective, PredictedProperty):
        config = objective.predictor.config
        told.append(f"{config.label} of {config.name} ({objective.predictor.fingerprint})")
        if objective.target is not None:
            told.append(f"target {objective.target:g}")
    return ", ".join(told)
