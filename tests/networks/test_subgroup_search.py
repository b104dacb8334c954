"""Descriptions with part of the symmetry: their probability is that of the subgroup times that of the positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dao.data.symmetry_batch import SymmetryLabel
from dao.data.symmetry_memory import SymmetryMemory
from dao.geometry.subgroups import small_subgroups
from dao.networks.subgroup_search import propose_in_subgroups, subgroup_odds
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


def test_proposals_are_those_given_the_group_times_the_odds(model: SymmetryPrior, memory: SymmetryMemory) -> None:
    found = propose_in_subgroups(model, COMPOSITIONS, KINDS, 3, memory)
    odds = subgroup_odds(model, COMPOSITIONS, KINDS, memory)
    for i, proposals in enumerate(found):
        expected = [
            replace(one, probability=float(odds[i, j]) * one.probability)
            for j, kind in enumerate(KINDS)
            for one in propose(model, [COMPOSITIONS[i]], 3, space_group=kind)[0]
        ]
        assert [(one.space_group, one.orbits) for one in proposals] == [
            (one.space_group, one.orbits) for one in expected
        ]
        np.testing.assert_allclose(
            [one.probability for one in proposals], [one.probability for one in expected], rtol=1e-4
        )
    # P2_1/c has no room for three atoms of one kind but on its centres, of which two atoms share each
    assert {one.space_group for one in found[2]} == {2, 8}


def test_nothing_asked_nothing_proposed(model: SymmetryPrior) -> None:
    assert propose_in_subgroups(model, [], KINDS, 2) == []
    assert propose_in_subgroups(model, COMPOSITIONS, (), 2) == [[], [], []]
