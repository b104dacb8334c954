"""Prototype proposals noised within their symmetry and carried back by a generator."""

from __future__ import annotations

import numpy as np
import pytest
from symmetric_toys import tiny_symmetric_generator
from toys import tiny_generator, toy_crystals

from dao.crystal import Crystal
from dao.data.store import pack_crystals
from dao.errors import InputError
from dao.geometry.cells import SYMPREC, space_group
from dao.prediction.proposals import proposed
from dao.prediction.prototype_build import build_table
from dao.prediction.prototypes import Proposer
from dao.prediction.ranking import Candidate
from dao.prediction.refine import Refiner, refiner_of
from dao.prediction.sources import Sources
from dao.processes.config import SamplerSettings

SETTINGS = SamplerSettings(steps=4, method="euler")


@pytest.fixture(scope="module")
def proposals() -> list[Candidate]:
    proposer = Proposer.of(build_table(pack_crystals(toy_crystals()), {"source": "toys"}))
    return proposed(proposer, "MgO", {1: (8, 12)}, 3)


@pytest.mark.usefixtures("_lenient")
def test_geometry_changes_and_symmetry_does_not(proposals: list[Candidate]) -> None:
    model = tiny_symmetric_generator()

    def volumes(time: float, seed: int = 0, batch_size: int | None = None) -> np.ndarray:
        refined = Refiner(model=model, settings=SETTINGS, seed=seed, time=time, batch_size=batch_size)(proposals)
        for before, after in zip(proposals, refined, strict=True):
            assert (after.rank, after.space_group_number) == (before.rank, before.space_group_number)
            assert space_group(after.crystal, SYMPREC)[0] == before.space_group_number
        return np.array([one.volume_per_atom for one in refined])

    before = np.array([one.volume_per_atom for one in proposals])
    assert len(before) == 3
    assert np.abs(volumes(1e-5) / before - 1).max() < 1e-3
    moved = volumes(0.8)
    assert np.abs(moved / before - 1).min() > 1e-3
    np.testing.assert_allclose(volumes(0.8, batch_size=1), moved, rtol=1e-5)
    assert np.abs(volumes(0.8, seed=1) / moved - 1).max() > 1e-3


@pytest.fixture
def _lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crystal, "validate", lambda *_: None)


def test_what_cannot_refine_is_refused() -> None:
    model, other = tiny_symmetric_generator(), tiny_generator()
    for time in (0.0, 1.2, float("nan")):
        with pytest.raises(InputError, match="over 0 and up to 1"):
            Refiner(model=model, settings=SETTINGS, seed=0, time=time)
    with pytest.raises(InputError, match="keep no symmetry"):
        Refiner(model=other, settings=SETTINGS, seed=0, time=0.5)
    with pytest.raises(InputError, match="needs both sources"):
        refiner_of(Sources(), 0.5, model, SETTINGS)
    assert refiner_of(Sources(), None) is None
