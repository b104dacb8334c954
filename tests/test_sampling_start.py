"""Walks that begin from a crystal, noised within its symmetry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from symmetric_toys import assert_has_operations, request, symmetric_crystal, tiny_symmetric_generator
from toys import tiny_generator

from dao.crystal import Crystal
from dao.errors import InputError
from dao.geometry.symmetrized import SymmetricCrystal
from dao.models import Generator
from dao.sampling import Sample, SampleRequest, batches, sample
from dao.sampling_start import Start, times_from
from dao.trajectory import walk_again

GROUPS = (1, 62, 139, 194, 225)


@pytest.fixture(scope="module")
def model() -> Generator:
    return tiny_symmetric_generator().double()


@pytest.fixture(autouse=True)
def _lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is finite counts as a crystal: untrained networks make few that are."""
    monkeypatch.setattr(Crystal, "validate", lambda *_: None)


def known(group: int) -> SymmetricCrystal:
    return symmetric_crystal(group, np.random.default_rng(group))


def made(model: Generator, requests: list[SampleRequest], batch_size: int | None = None) -> list[Sample]:
    found = {one.request: one for batch in sample(model, requests, seed=3, batch_size=batch_size) for one in batch}
    return [found[one] for one in requests]


def crystal_of(one: Sample) -> Crystal:
    assert one.crystal is not None, one.failure
    return one.crystal


def apart(one: Crystal, two: Crystal) -> float:
    """Largest difference of coordinates and of metrics, relative."""
    shift = one.frac_coords - two.frac_coords
    metric, other = (crystal.lattice @ crystal.lattice.T for crystal in (one, two))
    return max(
        float(np.abs(shift - shift.round()).max()), float(np.abs(metric / metric[0, 0] - other / metric[0, 0]).max())
    )


@pytest.mark.parametrize("group", GROUPS)
def test_the_earlier_a_walk_begins_the_more_of_the_crystal_is_kept(model: Generator, group: int) -> None:
    crystal = known(group)
    late, early = (crystal_of(made(model, [SampleRequest.starting(Start(crystal, t))])[0]) for t in (1.0, 1e-5))
    for one in (late, early):
        assert_has_operations(one, group)
        assert one.atomic_numbers.tolist() == crystal.crystal().atomic_numbers.tolist()
    assert apart(early, crystal.crystal()) < 1e-3
    assert apart(late, crystal.crystal()) > 1e-2


def test_a_walk_has_steps_as_long_as_others(model: Generator) -> None:
    states = walk_again(model, SampleRequest.starting(Start(known(62), 0.5)), seed=0)
    np.testing.assert_allclose(states.times, [0.5, 1 / 3, 0.0])
    assert times_from([1.0, 0.5, 0.0], []) == [1.0, 0.5, 0.0]
    assert times_from([1.0, 0.5, 0.0], [Start(known(62), 0.5)]) == [0.5, 0.0]


def test_independent_of_batches_whatever_is_with_them(model: Generator) -> None:
    requests = [SampleRequest.starting(Start(known(group), time), 7) for group in GROUPS for time in (0.3, 0.6)]
    requests += [request(group) for group in GROUPS]
    together, alone = made(model, requests), made(model, requests, 1)
    assert max(apart(crystal_of(one), crystal_of(two)) for one, two in zip(together, alone, strict=True)) < 1e-9
    other = made(model, [replace(requests[0], index=8)])[0]
    assert apart(crystal_of(other), crystal_of(together[0])) > 1e-4
    begins = [[one.start.time if one.start else None for one in batch] for batch in batches(requests, None)]
    assert [set(batch) for batch in begins] == [{None}, {0.6}, {0.3}]


@pytest.mark.parametrize("time", [0.0, -0.1, 1.5, float("nan")])
def test_other_times_are_refused(time: float) -> None:
    with pytest.raises(InputError, match="a walk starts at a time over 0"):
        Start(known(62), time)


def test_starts_that_do_not_fit_are_refused(model: Generator) -> None:
    asked = SampleRequest.starting(Start(known(62), 0.5))
    for wrong in (replace(asked, orbits=None), replace(request(225), start=asked.start)):
        with pytest.raises(InputError, match=r"only from a crystal of the space group|no symmetry prior"):
            sample(model, [wrong])
    with pytest.raises(InputError, match="without symmetry"):
        sample(tiny_generator(), [asked])
