"""Configuration of the processes: plain data, without torch, so that recipes are read and checked at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from dao.errors import InputError

METHODS: Final[dict[str, tuple[str, ...]]] = {
    "flow": ("euler", "midpoint"),
    "symmetric_flow": ("euler",),
    "diffusion": ("predictor-corrector",),
}
"""Samplers of each process, the default first."""


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """Which process, how it sees the lattice, and the weights of its losses."""

    __pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # noqa: RUF012 -- read by pydantic where recipes and weights are parsed

    kind: Literal["flow", "symmetric_flow", "diffusion"] = "flow"
    lattice: Literal["log_metric", "matrix", "conventional_log_metric"] = "log_metric"
    """``conventional_log_metric`` belongs to ``symmetric_flow``, and it alone to that."""
    coordinate_weight: float = 1.0
    """Weight of the coordinate loss, whose unit is the loss of predicting zero."""
    lattice_weight: float = 1.0
    assignment: Literal["none", "element"] = "none"
    """Flow only: pair noise with equal atoms by least torus distance (``element``) or at random (``none``)."""
    timesteps: int = 1000
    """Diffusion only: T."""
    sigma_min: float = 0.005
    sigma_max: float = 0.5
    """Diffusion only: range of the wrapped normal's standard deviation, in cell units."""

    def __post_init__(self) -> None:
        """Check what would otherwise fail deep inside."""
        if self.timesteps < 1 or not 0 < self.sigma_min < self.sigma_max <= 1:
            raise InputError("process needs timesteps >= 1 and 0 < sigma_min < sigma_max <= 1")
        if (self.kind == "symmetric_flow") != (self.lattice == "conventional_log_metric"):
            raise InputError("process symmetric_flow and lattice conventional_log_metric need each other")
        if min(self.coordinate_weight, self.lattice_weight) < 0:
            raise InputError("process loss weights must not be negative")


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How to walk back from noise to data. A model saves the settings chosen for it on validation."""

    __pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # noqa: RUF012

    steps: int = 50
    method: Literal["", "euler", "midpoint", "predictor-corrector"] = ""
    """Empty: the process's default (``euler`` for flow, ``predictor-corrector`` for diffusion)."""
    coordinate_velocity_scale: float = 0.0
    """s in v (1 + s (1 - t)), flow only: speeds the coordinates up towards the data."""
    lattice_velocity_scale: float = 0.0
    volume_noise: float = 1.0
    """How much noise of the cell's volume a walk from noise begins with, in units of training's; ``symmetric_flow``
    only. With 0 the volume is the one that the network expects, not one of those that it holds for possible."""
    shape_noise: float = 1.0
    """The same for the other numbers of the cell."""
    corrector_step: float = 1e-5
    """Langevin step of the corrector, in units of (sigma_t / sigma_1)^2 (diffusion)."""
    corrector_first: bool = True
    """Order within a step: the published code corrects, then predicts; the paper's Algorithm 1 the reverse."""
    space_group_temperature: float = 1.0
    """Samples share out space groups, or proposals of symmetry, by softmax(logits / temperature)."""

    free_probability: float = 0.0
    """Of finding what no proposal of symmetry finds by a sample that none is handed to, every atom free in space group
    1. No share of the samples: it says how early such samples come among a composition's (0.0125: six of 20, on
    average). For networks that were trained so, too (``data.free_share`` of a recipe)."""

    subgroup_probability: float = 0.0
    """Likewise of samples with part of a symmetry, each in a small subgroup: of finding in one what no whole symmetry
    finds, to be multiplied by the prior's probability that the crystal has that description. For flows and priors
    that were trained so, too (``data.subgroup_share``)."""

    attempts: int = 4
    """A walk that ends in no crystal (two atoms in one place, a collapsed cell) starts again from other noise, up to
    this many times."""

    walks: int = 1
    """Walks of each sample with four or more coordinates free, of which the likeliest is kept: see
    :mod:`dao.prediction.walk_choice`. With nothing to choose by, one walk is all it takes."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's products; states stay as they are. ``bfloat16`` is 1.6 times faster on a CPU with AMX, and gives
    other samples of the same quality (docs/experiments.md)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.steps < 1:
            raise InputError(f"sampler steps must be at least 1, got {self.steps}")
        for name in ("attempts", "walks"):
            if getattr(self, name) < 1:
                raise InputError(f"sampler {name} must be at least 1, got {getattr(self, name)}")
        if self.space_group_temperature <= 0:
            raise InputError("sampler space_group_temperature must be positive")
        for name in ("free_probability", "subgroup_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"sampler {name} must be in [0, 1], got {getattr(self, name):g}")
        for name in ("volume_noise", "shape_noise"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"sampler {name} must be in [0, 1], got {getattr(self, name):g}")
        if self.corrector_step < 0:
            raise InputError(f"sampler corrector_step must not be negative, got {self.corrector_step:g}")

    def updated(self, **changes: Any) -> SamplerSettings:  # noqa: ANN401 -- field values of any type
        """The same settings with those of ``changes`` that are not None."""
        return replace(self, **{key: value for key, value in changes.items() if value is not None})


def check_sampler(process: ProcessConfig, sampler: SamplerSettings) -> None:
    """Check that a process can be walked back in that way.

    Raises:
        InputError: a method or setting of another process, or more steps than a diffusion has.

    """
    if process.kind != "symmetric_flow" and (sampler.volume_noise, sampler.shape_noise) != (1.0, 1.0):
        raise InputError(f"sampler.volume_noise and shape_noise must be 1 for process.kind {process.kind!r}")
    methods = METHODS[process.kind]
    if sampler.method and sampler.method not in methods:
        raise InputError(
            f"sampler.method {sampler.method!r} does not belong to process.kind {process.kind!r} "
            f"(its samplers: {', '.join(methods)})"
        )
    if process.kind == "diffusion" and sampler.steps > process.timesteps:
        raise InputError(f"sampler.steps must be at most process.timesteps ({process.timesteps}), got {sampler.steps}")
