"""Guided samples of whole generators: towards known energies, within their space group, each for itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from symmetric_toys import assert_has_operations, request, tiny_symmetric_generator
from torch import Tensor
from toys import tiny_generator, tiny_predictor

from dao.crystal import Crystal, CrystalBatch
from dao.errors import InputError
from dao.geometry.lattice import volume
from dao.models import Generator, Predictor
from dao.objectives import PredictedProperty, guidance_note, property_guidance
from dao.processes.config import ProcessConfig, SamplerSettings
from dao.processes.guidance import Guidance, Objective
from dao.sampling import Sample, SampleRequest, sample

pytestmark = pytest.mark.usefixtures("lenient")

PLAIN = [
    *(SampleRequest((11, 17), i) for i in range(4)),
    *(SampleRequest((8, 8, 8, 22, 38), i) for i in range(4)),
]
SYMMETRIC = [request(group, index) for group in (1, 12, 139, 166, 194, 216) for index in range(2)]


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is finite counts as a crystal: untrained networks make few that are."""
    monkeypatch.setattr(Crystal, "validate", lambda *_: None)


@dataclass(frozen=True)
class Toy:
    """A known energy: 10 (log volume per atom - log 40)^2, or a preferred distance of the first and the last atom."""

    kind: str

    def knows_noise_of(self, process: ProcessConfig) -> bool:  # noqa: ARG002 -- of clean crystals only
        return False

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def value(self, batch: CrystalBatch, time: float) -> Tensor:
        assert time == 0.0
        if self.kind == "volume":
            return 10.0 * (volume(batch.lattice) / batch.num_atoms / 40.0).log().square()
        # they want to be half a cell apart along every axis
        last = batch.frac_coords.gather(1, (batch.num_atoms - 1)[:, None, None].expand(-1, 1, 3))[:, 0]
        return 10.0 * torch.cos(2.0 * torch.pi * (last - batch.frac_coords[:, 0])).sum(-1)


def model_of(kind: str) -> Generator:
    if kind == "symmetric":
        return tiny_symmetric_generator().double()
    return tiny_generator("diffusion" if kind == "diffusion" else "flow", space_groups=False).double()


def strong_predictor(kind: Any = "flow", lattice: Any = "log_metric", *, beta: float = 1.0) -> Predictor:
    """One whose energies differ by more than an untrained head's."""
    predictor = tiny_predictor(kind, lattice, beta=beta).double()
    with torch.no_grad():
        for parameter in predictor.energy_head.parameters():
            parameter.mul_(10.0)
    return predictor


def generate(model: Generator, guidance: Guidance | None, **options: Any) -> dict[SampleRequest, Sample]:
    requests = SYMMETRIC if model.symmetry_table is not None else PLAIN
    chosen: dict[str, Any] = {"requests": requests, "seed": 3, "settings": SamplerSettings(steps=10)} | options
    found = sample(model, chosen.pop("requests"), guidance=guidance, **chosen)
    return {one.request: one for batch in found for one in batch}


def crystals(made: dict[SampleRequest, Sample]) -> list[Crystal]:
    found = [made[key].crystal for key in sorted(made, key=repr)]
    assert all(one is not None for one in found)
    return [one for one in found if one is not None]


def mean_energy(objective: Objective, made: dict[SampleRequest, Sample]) -> float:
    return float(objective.value(CrystalBatch.from_crystals(crystals(made)), 0.0).mean())


def difference(one: dict[SampleRequest, Sample], two: dict[SampleRequest, Sample]) -> float:
    largest = 0.0
    for first, second in zip(crystals(one), crystals(two), strict=True):
        shift = first.frac_coords - second.frac_coords
        largest = max(largest, float(np.abs(shift - np.rint(shift)).max()))
        largest = max(largest, float(np.abs(first.lattice - second.lattice).max()))
    return largest


@pytest.mark.parametrize("objective", ["volume", "distance"])
@pytest.mark.parametrize("kind", ["flow", "diffusion", "symmetric"])
def test_guided_samples_have_lower_energy(kind: str, objective: str) -> None:
    model, toy = model_of(kind), Toy(objective)
    energies = {s: mean_energy(toy, generate(model, Guidance(toy, s))) for s in (-1.0, 0.0, 1.0)}
    assert energies[1.0] < energies[0.0] < energies[-1.0]
    assert energies[1.0] < energies[0.0] - 0.1 * abs(energies[0.0])


@pytest.mark.parametrize("kind", ["flow", "diffusion", "symmetric"])
def test_no_strength_is_no_guidance(kind: str) -> None:
    model = model_of(kind)
    plain, zero = generate(model, None), generate(model, Guidance(Toy("volume"), 0.0))
    for one, other in zip(crystals(plain), crystals(zero), strict=True):
        assert one.frac_coords.tobytes() == other.frac_coords.tobytes()
        assert one.lattice.tobytes() == other.lattice.tobytes()
    assert difference(plain, generate(model, Guidance(Toy("volume"), 1e-3))) > 0.0


def test_guided_samples_keep_their_space_group() -> None:
    model = model_of("symmetric")
    guidance = property_guidance(strong_predictor(), 3.0)
    made = generate(model, guidance)
    assert difference(made, generate(model, None)) > 1e-3
    for asked, one in made.items():
        assert asked.space_group is not None
        assert one.crystal is not None
        assert_has_operations(one.crystal, asked.space_group)


@pytest.mark.parametrize("kind", ["flow", "diffusion", "symmetric"])
@pytest.mark.parametrize(("process", "lattice"), [("flow", "log_metric"), ("diffusion", "matrix")])
def test_independent_of_the_others_of_the_batch(kind: str, process: Any, lattice: Any) -> None:
    """By predictors of the generator's own process and representation, and of others."""
    model = model_of(kind)
    guidance = property_guidance(strong_predictor(process, lattice), 1.0)
    how = SamplerSettings(steps=3)
    together = generate(model, guidance, settings=how)
    assert difference(together, generate(model, guidance, settings=how, batch_size=1)) < 1e-9
    some = list(together)[1:6:2]
    alone = generate(model, guidance, settings=how, requests=some[::-1])
    assert difference({key: together[key] for key in some}, alone) < 1e-9
    assert difference(together, generate(model, None, settings=how)) > 1e-4


def test_which_energies_are_asked_at_which_time() -> None:
    flow, diffusion = tiny_predictor("flow"), tiny_predictor("diffusion")
    process = model_of("flow").config.process
    assert PredictedProperty(flow).knows_noise_of(process)
    assert not PredictedProperty(flow, target=0.2).knows_noise_of(process)
    assert not PredictedProperty(diffusion).knows_noise_of(process)
    assert not PredictedProperty(tiny_predictor("flow", "matrix")).knows_noise_of(process)
    assert not PredictedProperty(flow).knows_noise_of(model_of("symmetric").config.process)
    assert PredictedProperty(diffusion).knows_noise_of(model_of("diffusion").config.process)
    assert not PredictedProperty(diffusion).knows_noise_of(replace(diffusion.config.process, sigma_max=0.4))


def mean_property(model: Predictor, made: dict[SampleRequest, Sample]) -> Tensor:
    with torch.no_grad():
        return model.energy(CrystalBatch.from_crystals(crystals(made), dtype=torch.float64))


def test_a_target_value_is_come_nearer_to() -> None:
    model, predictor = model_of("flow"), strong_predictor()
    free = mean_property(predictor, generate(model, None))
    spread = float(free.std())
    target = float(free.mean()) + 2.0 * spread  # above
    guided = mean_property(predictor, generate(model, property_guidance(predictor, 1.0, target)))
    assert float((guided - target).abs().mean()) < float((free - target).abs().mean()) - 0.2 * spread
    raised = mean_property(predictor, generate(model, property_guidance(predictor, -1.0)))
    lowered = mean_property(predictor, generate(model, property_guidance(predictor, 1.0)))
    assert float(lowered.mean()) < float(free.mean()) < float(raised.mean())


def test_the_property_in_units_of_its_deviation() -> None:
    predictor = strong_predictor(beta=2.0)
    batch = CrystalBatch.from_crystals(crystals(generate(model_of("flow"), None)), dtype=torch.float64)
    energy = predictor.energy(batch)
    said = predictor(batch.atomic_numbers, batch.mask, predictor.encode(batch), torch.zeros(8).double()).energy
    torch.testing.assert_close(PredictedProperty(predictor).value(batch, 0.0), said)
    expected = 2.0 * (energy - 0.3).abs() / predictor.energy_deviation
    torch.testing.assert_close(PredictedProperty(predictor, 0.3).value(batch, 0.0), expected)
    # a single-precision generator asks a double-precision predictor
    assert PredictedProperty(predictor).value(batch.to(dtype=torch.float32), 0.0).dtype == torch.float64


def test_what_samples_are_made_by() -> None:
    predictor = tiny_predictor()
    guidance = property_guidance(predictor, 2.0, 0.1)
    assert guidance is not None
    assert guidance.record() == {"strength": 2.0, "predictor": predictor.fingerprint, "target": 0.1}
    assert guidance_note(guidance) == f"strength 2, e_above_hull of tiny ({predictor.fingerprint}), target 0.1"
    assert guidance_note(None) == "none"


def test_guidance_that_makes_no_sense() -> None:
    predictor = tiny_predictor()
    assert property_guidance(None, 0.0) is None
    for strength, target, complaint in (
        (0.0, 1.0, "a guidance target needs a guidance strength"),
        (-1.0, 1.0, "needs a positive strength, got -1"),
        (1.0, float("nan"), "guidance target must be a finite number"),
        (float("inf"), None, "guidance strength must be a finite number"),
    ):
        with pytest.raises(InputError, match=complaint):
            property_guidance(predictor, strength, target)
    with pytest.raises(InputError, match="guidance needs the weights of a predictor"):
        property_guidance(None, 1.0)
