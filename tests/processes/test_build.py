from __future__ import annotations

import pytest

from dao.errors import InputError
from dao.processes.build import build_process
from dao.processes.config import METHODS, ProcessConfig, SamplerSettings, check_sampler
from dao.processes.diffusion import Diffusion
from dao.processes.flow import Flow


@pytest.mark.parametrize("lattice", ["matrix", "log_metric"])
def test_a_configuration_becomes_its_process(lattice: str) -> None:
    weights = {"coordinate_weight": 3.0, "lattice_weight": 0.5}
    flow = build_process(ProcessConfig(kind="flow", lattice=lattice, assignment="element", **weights))  # type: ignore[arg-type]
    assert isinstance(flow, Flow)
    assert flow.assignment == "element"
    diffusion = build_process(
        ProcessConfig(kind="diffusion", lattice=lattice, timesteps=50, sigma_min=0.01, sigma_max=0.3, **weights)  # type: ignore[arg-type]
    )
    assert isinstance(diffusion, Diffusion)
    assert diffusion.timesteps == 50
    assert diffusion.sigma[[0, 1, 50]].tolist() == pytest.approx([0, 0.01, 0.3])
    for process in (flow, diffusion):
        assert process.representation.name == lattice
        assert (process.coordinate_weight, process.lattice_weight) == (3.0, 0.5)
        assert process.methods == METHODS[process.name]


def test_a_sampler_is_checked_against_its_process() -> None:
    flow, diffusion = ProcessConfig(), ProcessConfig(kind="diffusion", timesteps=100)
    check_sampler(flow, SamplerSettings(steps=5000, method="midpoint"))
    check_sampler(diffusion, SamplerSettings(steps=100))
    with pytest.raises(
        InputError, match=r"'predictor-corrector' does not belong to process.kind 'flow' \(its samplers: eu"
    ):
        check_sampler(flow, SamplerSettings(method="predictor-corrector"))
    with pytest.raises(InputError, match=r"'midpoint' does not belong to process.kind 'diffusion'"):
        check_sampler(diffusion, SamplerSettings(method="midpoint"))
    with pytest.raises(InputError, match=r"steps must be at most process.timesteps \(100\), got 101"):
        check_sampler(diffusion, SamplerSettings(steps=101))


def test_settings_change_only_where_something_is_given() -> None:
    settings = SamplerSettings(steps=7, method="midpoint")
    assert settings.updated(steps=None, method=None) == settings
    assert settings.updated(steps=9) == SamplerSettings(steps=9, method="midpoint")
    with pytest.raises(InputError, match="steps must be at least 1"):
        settings.updated(steps=0)
