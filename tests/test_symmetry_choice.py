"""Which samples get which symmetry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from symmetric_toys import tiny_symmetric_generator

import dao.symmetry_choice
from dao.networks.symmetry_search import SymmetryProposal
from dao.processes.config import SamplerSettings
from dao.sampling import SampleRequest
from dao.symmetry_choice import SymmetryChoice

NUMBERS = (8, 8, 14)
PROPOSED = [SymmetryProposal(164, ((8, "d"), (14, "a")), 0.6), SymmetryProposal(12, ((8, "i"), (14, "a")), 0.4)]


@pytest.fixture(autouse=True)
def _proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    def propose(_model: Any, compositions: Sequence[Any], *_: Any, **__: Any) -> list[list[SymmetryProposal]]:
        return [PROPOSED for _ in compositions]

    monkeypatch.setattr(dao.symmetry_choice, "propose", propose)


def groups(free_share: float, requests: Sequence[SampleRequest]) -> list[int]:
    model = tiny_symmetric_generator()
    model.symmetry_prior = torch.nn.Identity()  # type: ignore[assignment]
    choice = SymmetryChoice(model, SamplerSettings(free_share=free_share))
    symmetry = choice.of_batch(requests, len(NUMBERS))
    assert symmetry is not None
    found: list[int] = symmetry.space_group.tolist()
    for group, maps in zip(found, symmetry.maps, strict=True):
        # every atom goes where its own three coordinates say, or where its orbit's do
        assert torch.equal(maps, torch.eye(3).expand(len(NUMBERS), 3, 3)) == (group == 1)
    return found


def test_without_a_free_share_all_samples_get_a_proposal() -> None:
    found = groups(0.0, [SampleRequest(NUMBERS, i) for i in range(5)])
    assert found == [164, 12, 164, 12, 164]


def test_a_share_of_samples_is_free_and_the_others_share_the_proposals_as_before() -> None:
    found = groups(0.3, [SampleRequest(NUMBERS, i) for i in range(15)])
    assert [i for i, group in enumerate(found) if group == 1] == [8, 11, 14]
    assert [group for group in found if group != 1] == groups(0.0, [SampleRequest(NUMBERS, i) for i in range(12)])
    assert [i for i, group in enumerate(groups(0.5, [SampleRequest(NUMBERS, i) for i in range(10)])) if group == 1] == [
        6,
        8,
    ]


def test_free_samples_have_every_atom_on_the_general_position() -> None:
    choice = SymmetryChoice(tiny_symmetric_generator(), SamplerSettings(free_share=1.0))
    assert choice._chosen(SampleRequest(NUMBERS, 5)) == (1, ((8, "a"), (8, "a"), (14, "a")))


def test_a_space_group_that_is_asked_for_is_given() -> None:
    found = groups(1.0, [SampleRequest(NUMBERS, i, space_group=12) for i in range(8)])
    assert 1 not in found
