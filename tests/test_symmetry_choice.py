"""Which samples get which symmetry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from symmetric_toys import tiny_symmetric_generator
from toys import tiny_generator

import dao.symmetry_choice
from dao.networks.symmetry_search import SymmetryProposal
from dao.processes.config import SamplerSettings
from dao.sampling import SampleRequest
from dao.symmetry_choice import FREE, SymmetryChoice, discoveries, free_coordinates

NUMBERS = (8, 8, 14)
PROPOSED = [SymmetryProposal(164, ((8, "d"), (14, "a")), 0.6), SymmetryProposal(12, ((8, "i"), (14, "a")), 0.4)]


@pytest.fixture(autouse=True)
def _proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    def propose(_model: Any, compositions: Sequence[Any], *_: Any, **__: Any) -> list[list[SymmetryProposal]]:
        return [PROPOSED for _ in compositions]

    monkeypatch.setattr(dao.symmetry_choice, "propose", propose)


def chosen(free_probability: float, requests: Sequence[SampleRequest], subgroup_probability: float = 0.0) -> list[int]:
    """Space group of each."""
    model = tiny_symmetric_generator()
    model.symmetry_prior = torch.nn.Identity()  # type: ignore[assignment]
    choice = SymmetryChoice(
        model, SamplerSettings(free_probability=free_probability, subgroup_probability=subgroup_probability)
    )
    symmetry = choice.of_batch(requests, len(NUMBERS))
    assert symmetry is not None
    found: list[int] = symmetry.space_group.tolist()
    for group, maps in zip(found, symmetry.maps, strict=True):
        # every atom goes where its own three coordinates say, or where its orbit's do
        assert torch.equal(maps, torch.eye(3).expand(len(NUMBERS), 3, 3)) == (group == 1)
    return found


def first(count: int, *arguments: Any) -> list[int]:
    return list(islice(discoveries(*arguments), count))


def test_the_likeliest_proposal_comes_first_and_each_before_any_again() -> None:
    """One and two coordinates are free: a second sample of the same would seldom find anything else."""
    assert chosen(0.0, [SampleRequest(NUMBERS, i) for i in range(3)]) == [164, 12, 12]
    assert chosen(0.0, [SampleRequest(NUMBERS, i) for i in (2, 0, 1)]) == [12, 164, 12]
    assert [free_coordinates(one.space_group, one.orbits) for one in PROPOSED] == [1, 2]


def test_a_choice_with_much_freedom_gets_several_samples() -> None:
    shares = np.array([0.7, 0.25, 0.05])
    assert first(5, shares, np.array([0, 0, 0]), 0.0) == [0, 1, 2, 0, 1]
    assert first(6, shares, np.array([30, 30, 30]), 0.0).count(0) == 4
    # the first is the likeliest, the next the likeliest to be right
    assert first(2, np.array([0.6, 0.4]), np.array([40, 0]), 0.0) == [0, 1]


def test_nothing_is_lost_of_the_order_where_all_is_used_up() -> None:
    many = first(2000, np.array([0.6, 0.4]), np.array([0, 0]), 0.0)
    assert many == [0, 1] * 1000


def test_samples_without_symmetry_come_among_the_unlikely_proposals() -> None:
    shares = np.array([0.8, 0.15, 0.03, 0.01, 0.005])
    order = first(30, shares, np.zeros(5, dtype=np.int64), 0.0125)
    # each finds less than the one before: others get their turn, in the end once more
    assert order[:9] == [0, 1, 2, FREE, 3, FREE, FREE, FREE, 4]
    assert [one for one in order[9:] if one != FREE] == [0, 1, 2]
    assert FREE not in first(30, shares, np.zeros(5, dtype=np.int64), 0.0)
    assert 1 in chosen(0.5, [SampleRequest(NUMBERS, i) for i in range(4)])


def test_an_assignment_proposed_twice_is_one_choice() -> None:
    choice = SymmetryChoice(tiny_symmetric_generator(), SamplerSettings(subgroup_probability=0.1))
    part = SymmetryProposal(2, ((8, "i"), (14, "a")), 0.9)
    weighed = choice._weighed(PROPOSED, [part, SymmetryProposal(12, PROPOSED[1].orbits, 0.5)])
    assert [one.space_group for one in weighed] == [164, 12, 2]
    assert [one.probability for one in weighed] == pytest.approx([0.6, 0.45, 0.09])
    assert choice._weighed([], [part]) == []


def test_proposals_in_subgroups_are_asked_for_where_the_settings_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    part = SymmetryProposal(2, ((8, "i"), (14, "a")), 0.9)

    def inside(_model: Any, compositions: Sequence[Any], *_: Any) -> list[list[SymmetryProposal]]:
        return [[part] for _ in compositions]

    monkeypatch.setattr(dao.symmetry_choice, "propose_in_subgroups", inside)
    requests = [SampleRequest(NUMBERS, i) for i in range(4)]
    assert 2 in chosen(0.0, requests, subgroup_probability=0.5)
    assert 2 not in chosen(0.0, requests, subgroup_probability=0.0)
    # who asks for a space group gets no other
    assert 2 not in chosen(0.0, [replace(one, space_group=12) for one in requests], subgroup_probability=0.5)


def test_free_samples_have_every_atom_on_the_general_position() -> None:
    choice = SymmetryChoice(tiny_symmetric_generator(), SamplerSettings(free_probability=1.0))
    choice._proposals[NUMBERS, None] = PROPOSED
    assert choice._chosen(SampleRequest(NUMBERS, 1)) == (1, ((8, "a"), (8, "a"), (14, "a")))


def test_freedom_of_what_a_sample_was_given() -> None:
    choice = SymmetryChoice(tiny_symmetric_generator(), SamplerSettings())
    choice._proposals[NUMBERS, None] = PROPOSED
    assert choice.freedom(SampleRequest(NUMBERS)) == 1
    assert choice.freedom(SampleRequest(NUMBERS, 1)) == 2
    free = SampleRequest(NUMBERS, 0, 1, orbits=((8, "a"), (8, "a"), (14, "a")))
    assert choice.freedom(free) == 9
    assert SymmetryChoice(tiny_generator(), SamplerSettings()).freedom(SampleRequest(NUMBERS)) == 9


def test_of_a_space_group_that_is_asked_for_none_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the prior is asked for proposals of that group."""
    asked: list[int | None] = []

    def propose(_model: Any, compositions: Sequence[Any], *_: Any, space_group: int | None) -> list[Any]:
        asked.append(space_group)
        return [[one for one in PROPOSED if one.space_group == space_group] for _ in compositions]

    monkeypatch.setattr(dao.symmetry_choice, "propose", propose)
    assert chosen(1.0, [SampleRequest(NUMBERS, i, space_group=12) for i in range(8)]) == [12] * 8
    assert asked == [12]
