"""From a configuration to a process."""

from __future__ import annotations

from dao.processes.base import Process
from dao.processes.config import ProcessConfig
from dao.processes.flow import Flow
from dao.processes.representations import REPRESENTATIONS, ConventionalLogMetricLattice


def build_process(config: ProcessConfig) -> Process:
    """The process of that configuration, its scalers not yet fitted."""
    representation = REPRESENTATIONS[config.lattice]()
    if config.kind == "flow":
        return Flow(
            representation,
            coordinate_weight=config.coordinate_weight,
            lattice_weight=config.lattice_weight,
            assignment=config.assignment,
        )
    if isinstance(representation, ConventionalLogMetricLattice):
        from dao.processes.symmetric_flow import SymmetricFlow

        return SymmetricFlow(
            representation, coordinate_weight=config.coordinate_weight, lattice_weight=config.lattice_weight
        )
    from dao.processes.diffusion import Diffusion

    return Diffusion(
        representation,
        coordinate_weight=config.coordinate_weight,
        lattice_weight=config.lattice_weight,
        timesteps=config.timesteps,
        sigma_range=(config.sigma_min, config.sigma_max),
    )
