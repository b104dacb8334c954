"""A generator that keeps symmetry, from request to crystal, and as files."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from symmetric_toys import assert_has_operations, request, symmetric_set, tiny_symmetric_generator
from torch import Tensor

from dao.crystal import Crystal
from dao.geometry.cells import space_group as group_of
from dao.geometry.wyckoff import orbit_sites
from dao.models import Generator
from dao.processes.config import SamplerSettings
from dao.sampling import Sample, SampleRequest, sample
from dao.training.objectives import generator_objective

GROUPS = (1, 2, 5, 15, 43, 62, 88, 122, 139, 148, 160, 186, 194, 198, 216, 225)
"""Of every crystal system and centring, with and without polar directions."""


class Noise:
    """One stream for a batch."""

    def __init__(self, batch: int) -> None:
        self.batch, self.generator = batch, torch.Generator().manual_seed(0)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.batch, *shape, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.batch, *shape, generator=self.generator)


REQUESTS = [request(group, index) for group in GROUPS for index in range(2)]


@pytest.fixture(scope="module")
def model() -> Generator:
    return tiny_symmetric_generator().double()


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is finite counts as a crystal: untrained networks make few that are."""
    monkeypatch.setattr(Crystal, "validate", lambda *_: None)


def generate(
    model: Generator, requests: list[SampleRequest], batch_size: int | None = None
) -> dict[SampleRequest, Sample]:
    return {one.request: one for batch in sample(model, requests, seed=3, batch_size=batch_size) for one in batch}


def crystal_of(one: Sample) -> Crystal:
    assert one.crystal is not None, one.failure
    return one.crystal


@pytest.mark.usefixtures("lenient")
def test_samples_have_the_group_they_were_asked_for(model: Generator) -> None:
    """Or a supergroup of it: all its operations must be found again, to the single precision of the model's tables."""
    made = generate(model, REQUESTS)
    higher = 0
    for asked, one in made.items():
        crystal = crystal_of(one)
        assert asked.space_group is not None
        assert crystal.atomic_numbers.tolist() == list(asked.atomic_numbers)
        assert_has_operations(crystal, asked.space_group)
        number, _ = group_of(crystal, 1e-3)
        higher += number != asked.space_group
    assert higher <= 1


@pytest.mark.usefixtures("lenient")
def test_orbits_asked_for_are_the_orbits_made(model: Generator) -> None:
    asked = SampleRequest((8, 8, 8, 22, 38), 0, 221, orbits=((8, "c"), (22, "a"), (38, "b")))
    crystal = crystal_of(generate(model, [asked])[asked])
    found = np.sort(crystal.frac_coords[:3], axis=0)
    np.testing.assert_allclose(found, [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], atol=1e-12)
    np.testing.assert_allclose(crystal.frac_coords[3:], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], atol=1e-12)
    assert group_of(crystal, 1e-3)[0] == 221
    other = replace(asked, orbits=((8, "d"), (22, "b"), (38, "a")))
    np.testing.assert_allclose(
        crystal_of(generate(model, [other])[other]).frac_coords[3:], [[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]], atol=1e-12
    )


@pytest.mark.usefixtures("lenient")
def test_independent_of_batch_size_and_order(model: Generator) -> None:
    requests = REQUESTS[::3]
    together = generate(model, requests, 64)
    for other in (generate(model, requests, 1), generate(model, requests[::-1], 5), generate(model, requests[4:6])):
        for asked, one in other.items():
            first, second = crystal_of(together[asked]), crystal_of(one)
            shift = first.frac_coords - second.frac_coords
            assert np.abs(shift - shift.round()).max() < 1e-9
            assert np.abs(first.lattice - second.lattice).max() < 1e-9
    assert len(together) == len(requests)


@pytest.mark.usefixtures("lenient")
def test_samples_of_one_request_differ(model: Generator) -> None:
    made = generate(model, [request(62, 0), request(62, 1)])
    first, second = (crystal_of(one) for one in made.values())
    assert np.abs(first.lattice - second.lattice).max() > 1e-3
    assert np.abs(first.frac_coords - second.frac_coords).max() > 1e-3


@pytest.mark.usefixtures("lenient")
def test_samples_begin_with_the_noise_of_the_cell_that_is_asked_for(model: Generator) -> None:
    """Without noise of the volume, and with a network that says little, volumes are all but one."""
    asked = [
        SampleRequest(request(1, 0).atomic_numbers, i, space_group=1, orbits=request(1, 0).orbits) for i in range(6)
    ]

    def volumes(noise: float) -> list[float]:
        walked = sample(model, asked, seed=3, settings=SamplerSettings(steps=1, volume_noise=noise))
        return [one.crystal.volume for batch in walked for one in batch if one.crystal is not None]

    spread, still = (np.std(np.log(volumes(noise))) for noise in (1.0, 0.0))
    assert still < 0.5 * spread


def test_files_round_trip(tmp_path: Path) -> None:
    """Without a network that proposes symmetry; the tables of the groups are no weights and are not saved."""
    model = tiny_symmetric_generator()
    model.save(tmp_path)
    loaded = Generator.load(tmp_path)
    assert loaded.config == replace(model.config, parameters=model.parameters_count)
    assert loaded.fingerprint == model.fingerprint
    assert loaded.symmetry_prior is None
    assert not [name for name in model.state_dict() if name.startswith("symmetry_table")]
    asked = [request(62), request(225)]
    for request_, one in generate(loaded, asked).items():
        other = generate(model, asked)[request_]
        assert (one.crystal is None) == (other.crystal is None)
        if one.crystal is not None and other.crystal is not None:
            np.testing.assert_array_equal(one.crystal.frac_coords, other.crystal.frac_coords)
            np.testing.assert_array_equal(one.crystal.lattice, other.crystal.lattice)


def test_a_batch_is_encoded_and_decoded(model: Generator) -> None:
    packed = symmetric_set(GROUPS)
    batch = packed.batch(torch.arange(len(packed))).to("cpu", torch.float64)
    state = model.encode(batch)
    assert state.symmetry is not None
    assert state.symmetry.space_group.tolist() == list(GROUPS)
    back = model.decode(state, batch.atomic_numbers, batch.num_atoms)
    metric, wanted = back.lattice @ back.lattice.mT, batch.lattice @ batch.lattice.mT
    torch.testing.assert_close(metric, wanted, rtol=1e-9, atol=1e-9)
    assert torch.equal(back.frac_coords, batch.frac_coords)
    plain = replace(batch, sites=None)
    with pytest.raises(ValueError, match="needs symmetrised crystals"):
        model.encode(plain)


def test_the_network_is_told_group_and_positions(model: Generator) -> None:
    """Rutile's cell as its own group and as a subgroup: what the network says must differ."""
    packed = symmetric_set((62,))
    batch = packed.batch(torch.tensor([0])).to("cpu", torch.float64)
    state = model.encode(batch)
    time = torch.full((1,), 0.5, dtype=torch.float64)
    assert state.symmetry is not None
    with torch.no_grad():
        said = model(batch.atomic_numbers, batch.mask, state, time)
        for changed in (
            replace(state.symmetry, space_group=torch.tensor([19])),
            replace(state.symmetry, position=state.symmetry.position.clamp_max(1)),
        ):
            other = model(batch.atomic_numbers, batch.mask, replace(state, symmetry=changed), time)
            assert float((other.frac_coords - said.frac_coords).abs().max()) > 1e-6
    assert said.space_group_logits is None


def test_training_has_a_loss_and_gradients() -> None:
    model = tiny_symmetric_generator()
    packed = symmetric_set(GROUPS)
    batch = packed.batch(torch.arange(len(packed)), pad_to=30)
    objective = generator_objective(model, batch, Noise(len(batch)))
    assert set(objective.parts) == {"coordinates", "lattice"}
    assert float(objective.total.detach()) > 0
    objective.total.backward()
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
    gradient = dict(model.network.named_parameters())["wyckoff.weight"].grad
    assert gradient is not None
    assert not gradient[0].any()  # padding


def test_orbit_sites_are_what_requests_occupy() -> None:
    for one in REQUESTS[:4]:
        assert one.space_group is not None
        assert one.orbits is not None
        assert len(orbit_sites(one.space_group, [letter for _, letter in one.orbits])) == len(one.atomic_numbers)
        assert Counter(one.atomic_numbers).keys() == {number for number, _ in one.orbits}
