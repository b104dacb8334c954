"""Descriptions with part of the symmetry: their probability is that of the subgroup times that of the positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dao.networks.subgroup_search as module
from dao.data.symmetry_batch import SymmetryLabel
from dao.data.symmetry_memory import SymmetryMemory
from dao.geometry.subgroups import small_subgroups
from dao.networks.subgroup_search import LEAST_ODDS, propose_in_subgroups, small_kinds, subgroup_odds
from dao.networks.symmetry import SymmetryPrior
from dao.networks.symmetry_config import SymmetryPriorConfig
from dao.networks.symmetry_search import propose

COMPOSITIONS = [{11: 1, 17: 1}, {8: 2, 22: 1}, {14: 3}]
KINDS = (2, 8, 14)


@pytest.fixture(scope="module")
def model() -> SymmetryPrior:
    torch.manual_seed(0)
    config = SymmetryPriorConfig(width=16, encoder_blocks=1, decoder_blocks=2, heads=2, unaided_share=0.25)
    prior = SymmetryPrior(config).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return prior


@pytest.fixture(scope="module")
def memory() -> SymmetryMemory:
    numbers = np.arange(95, dtype=np.float32)
    known = [SymmetryLabel(225, ((11, "a"), (17, "b"))), SymmetryLabel(136, ((8, "f"), (22, "a")))]
    return SymmetryMemory.build(known, np.abs(numbers[:, None] - numbers) / 20.0)


@pytest.mark.parametrize("aided", [True, False])
def test_odds_are_those_of_the_groups_that_have_the_subgroup(
    model: SymmetryPrior, memory: SymmetryMemory, *, aided: bool
) -> None:
    """As the proposals of whole symmetries say, all of which add up to 1."""
    known = memory if aided else None
    found = subgroup_odds(model, COMPOSITIONS, KINDS, known)
    assert found.shape == (3, 3)
    for row, proposals in zip(found.tolist(), propose(model, COMPOSITIONS, 100_000, known), strict=True):
        for kind, odds in zip(KINDS, row, strict=True):
            having = (one.probability for one in proposals if kind in small_subgroups(one.space_group))
            assert odds == pytest.approx(sum(having), abs=1e-4)


def test_proposals_are_those_given_the_group_times_the_odds(
    model: SymmetryPrior, memory: SymmetryMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAMS", 64)  # an untrained network holds all for about as likely
    found = propose_in_subgroups(model, COMPOSITIONS, 3, memory)
    kinds = small_kinds()
    odds = subgroup_odds(model, COMPOSITIONS, kinds, memory)
    for i, proposals in enumerate(found):
        likely = [(kind, float(odds[i, j])) for j, kind in enumerate(kinds) if odds[i, j] >= LEAST_ODDS]
        assert len(likely) > 3
        inside = {kind: propose(model, [COMPOSITIONS[i]], 3, space_group=kind)[0] for kind, _ in likely}
        for kind, probability in likely:
            own = [one for one in proposals if one.space_group == kind]
            assert [one.orbits for one in own] == [one.orbits for one in inside[kind]]
            np.testing.assert_allclose(
                [one.probability for one in own], [probability * one.probability for one in inside[kind]], rtol=1e-4
            )
        assert {one.space_group for one in proposals} == {kind for kind, _ in likely}


def test_small_kinds_have_no_more_than_four_operations() -> None:
    kinds = small_kinds()
    assert set(range(2, 16)) <= set(kinds)
    assert {19, 36, 44, 82, 146} <= set(kinds)
    assert not {1, 47, 62, 99, 225} & set(kinds)


def test_nothing_asked_nothing_proposed(
    model: SymmetryPrior, memory: SymmetryMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert propose_in_subgroups(model, [], 2, memory) == []
    monkeypatch.setattr(module, "LEAST_ODDS", 1.1)
    assert propose_in_subgroups(model, COMPOSITIONS, 2, memory) == [[], [], []]
