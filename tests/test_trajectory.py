from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from symmetric_toys import tiny_symmetric_generator
from toys import tiny_generator

from dao.crystal import Crystal
from dao.errors import InputError
from dao.models import Generator
from dao.processes.config import SamplerSettings
from dao.sampling import SampleRequest, sample
from dao.trajectory import Trajectory, walk_again

SALT = [SampleRequest((11, 17), index) for index in range(4)]
OXIDE = [SampleRequest((8, 8, 14), index) for index in range(4)]


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is finite counts as a crystal: untrained networks make few that are."""
    monkeypatch.setattr(Crystal, "validate", lambda *_: None)


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize(
    ("model", "requests"),
    [
        (tiny_generator(sampler=SamplerSettings(steps=5)), SALT),
        (tiny_generator("diffusion", sampler=SamplerSettings(steps=5)), SALT),
        (tiny_symmetric_generator(), OXIDE),
    ],
    ids=["flow", "diffusion", "symmetric"],
)
def test_a_walk_ends_in_its_sample(model: Generator, requests: list[SampleRequest]) -> None:
    if model.symmetry_prior is None and model.symmetry_table is not None:
        requests = [
            SampleRequest(
                one.atomic_numbers, one.index, space_group=1, orbits=tuple((n, "a") for n in one.atomic_numbers)
            )
            for one in requests
        ]
    together = [one for batch in sample(model, requests, seed=3) for one in batch]
    alone = walk_again(model, requests[2], seed=3)
    made = together[2].crystal
    assert made is not None
    assert len(alone.times) == len(alone.crystals) == model.config.sampler.steps + 1
    assert all(later < earlier for earlier, later in pairwise(alone.times))
    assert alone.times[-1] == 0.0
    last = alone.crystals[-1]
    assert last.lattice == pytest.approx(made.lattice, rel=1e-4, abs=1e-4)
    apart = last.frac_coords - made.frac_coords
    assert apart - np.rint(apart) == pytest.approx(0.0, abs=1e-4)
    # and it has come a way
    assert np.abs(alone.crystals[0].lattice - last.lattice).max() > 1e-2


@pytest.mark.usefixtures("lenient")
def test_the_walk_that_was_kept_is_shown() -> None:
    def second(walks: Sequence[Sequence[Crystal]]) -> list[int]:
        return [1] * len(walks)

    model = tiny_generator(sampler=SamplerSettings(steps=4, walks=3))
    made = next(one for batch in sample(model, SALT[:1], choose=second) for one in batch)
    walk = walk_again(model, SALT[0], made.walk, seed=0)
    assert made.crystal is not None
    assert len(walk.times) == 5
    assert walk.crystals[-1].lattice == pytest.approx(made.crystal.lattice)
    assert walk_again(model, SALT[0], seed=0).crystals[0].lattice != pytest.approx(walk.crystals[0].lattice)


def test_a_walk_into_no_crystal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise InputError("two atoms in one place")

    monkeypatch.setattr(Crystal, "validate", refuse)
    with pytest.raises(InputError, match="does not end in a crystal"):
        walk_again(tiny_generator(), SALT[0], seed=0)


def test_thinned() -> None:
    states = tuple(Crystal([11], [[0, 0, 0]], (1 + i) * np.eye(3)) for i in range(51))
    walk = Trajectory(tuple(1 - i / 50 for i in range(51)), states).thinned(25)
    assert len(walk.times) == len(walk.crystals) == 25
    assert walk.crystals[0] is states[0]
    assert walk.crystals[-1] is states[-1]
    assert walk.times[0] == 1.0
    assert walk.times[-1] == 0.0
    assert len(walk.thinned(100).times) == 25
