from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dao.data.symmetry_batch import NO_NEIGHBOURS, SymmetryLabel, symmetry_batch, symmetry_sequence
from dao.data.symmetry_memory import SymmetryMemory
from dao.errors import InputError
from dao.geometry.wyckoff import wyckoff_positions
from dao.networks.symmetry import SymmetryPrior
from dao.networks.symmetry_config import SymmetryPriorConfig
from dao.networks.symmetry_search import SymmetryProposal, propose

ROCK_SALT = SymmetryLabel(225, ((11, "a"), (17, "b")))
PEROVSKITE = SymmetryLabel(221, ((8, "c"), (22, "a"), (38, "b")))
FLUORITE = SymmetryLabel(225, ((9, "c"), (20, "a")))
RUTILE = SymmetryLabel(136, ((8, "f"), (22, "a")))
SPINEL = SymmetryLabel(227, ((8, "e"), (12, "a"), (13, "d")))
LABELS = (ROCK_SALT, PEROVSKITE, FLUORITE, RUTILE, SPINEL)


@pytest.fixture(scope="module")
def memory() -> SymmetryMemory:
    numbers = np.arange(95, dtype=np.float32)
    return SymmetryMemory.build(LABELS, np.abs(numbers[:, None] - numbers) / 20.0)


@pytest.fixture(scope="module")
def model() -> SymmetryPrior:
    torch.manual_seed(0)
    config = SymmetryPriorConfig(width=16, encoder_blocks=1, decoder_blocks=2, heads=2)
    prior = SymmetryPrior(config).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return prior


def log_probability(
    model: SymmetryPrior,
    composition: dict[int, int],
    proposals: Sequence[SymmetryProposal],
    memory: SymmetryMemory | None,
) -> list[float]:
    near = NO_NEIGHBOURS if memory is None else memory.neighbours(composition)
    labels = [SymmetryLabel(one.space_group, one.orbits) for one in proposals]
    with torch.no_grad():
        group, orbits = model.log_probability(symmetry_batch([symmetry_sequence(one, near) for one in labels]))
    return (group + orbits).tolist()


def test_a_share_of_the_proposals_is_made_without_memory(model: SymmetryPrior, memory: SymmetryMemory) -> None:
    composition = {11: 1, 35: 1}
    half = SymmetryPrior(replace(model.config, unaided_share=0.5)).eval()
    half.load_state_dict(model.state_dict())
    every, aided, unaided = (
        {(one.space_group, one.orbits): one.probability for one in propose(some, [composition], 10_000, known)[0]}
        for some, known in ((half, memory), (model, memory), (model, None))
    )
    assert sum(every.values()) == pytest.approx(1.0)
    for key, probability in every.items():
        assert probability == pytest.approx(0.5 * (aided[key] + unaided[key]))
    best = [one.probability for one in propose(half, [composition], 5, memory)[0]]
    assert best == sorted(best, reverse=True)
    assert len(best) == 5
    assert propose(half, [composition], 5) == propose(model, [composition], 5)


def test_each_part_of_a_memory_has_an_equal_share(model: SymmetryPrior, memory: SymmetryMemory) -> None:
    composition = {11: 1, 35: 1}
    other = SymmetryMemory.build([SymmetryLabel(221, ((11, "a"), (53, "b")))], memory.distances)
    half = SymmetryPrior(replace(model.config, unaided_share=0.2)).eval()
    half.load_state_dict(model.state_dict())
    every, first, second, unaided = (
        {(one.space_group, one.orbits): one.probability for one in propose(some, [composition], 10_000, known)[0]}
        for some, known in (
            (half, replace(memory, further=other)),
            (model, memory),
            (model, other),
            (model, None),
        )
    )
    assert any(first[key] != pytest.approx(second[key], rel=1e-2) for key in first)
    for key, probability in every.items():
        assert probability == pytest.approx(0.4 * first[key] + 0.4 * second[key] + 0.2 * unaided[key])


@pytest.mark.parametrize("known", [True, False])
def test_search_and_teacher_forcing_agree(model: SymmetryPrior, memory: SymmetryMemory, *, known: bool) -> None:
    compositions = [label.composition() for label in LABELS]
    look_up = memory if known else None
    for composition, proposals in zip(compositions, propose(model, compositions, 8, look_up), strict=True):
        assert len(proposals) == 8
        expected = np.exp(log_probability(model, composition, proposals, look_up))
        np.testing.assert_allclose([one.probability for one in proposals], expected, rtol=2e-4)


def test_neighbours_change_the_answer(model: SymmetryPrior, memory: SymmetryMemory) -> None:
    composition = {12: 1, 8: 1}
    (without,), (with_memory,) = propose(model, [composition], 1000), propose(model, [composition], 1000, memory)

    def rock_salt(proposals: list[SymmetryProposal]) -> float:
        return next(
            one.probability for one in proposals if one.orbits == ((8, "a"), (12, "b")) and one.space_group == 225
        )

    assert rock_salt(with_memory) > 5 * rock_salt(without)


@pytest.mark.parametrize("composition", [{11: 1, 17: 1}, {14: 2}, {22: 1, 8: 2}])
def test_probabilities_of_all_assignments_add_up_to_one(
    model: SymmetryPrior, memory: SymmetryMemory, composition: dict[int, int]
) -> None:
    (proposals,) = propose(model, [composition], 100_000, memory)
    assert len({(one.space_group, one.orbits) for one in proposals}) == len(proposals)
    assert sum(one.probability for one in proposals) == pytest.approx(1.0, abs=1e-4)


def test_one_space_group_alone(model: SymmetryPrior, memory: SymmetryMemory) -> None:
    composition = {11: 1, 17: 1}
    (every,) = propose(model, [composition], 10_000, memory)
    expected = [one for one in every if one.space_group == 221]
    (found,) = propose(model, [composition], 10_000, memory, space_group=221)
    assert len(found) == len(expected) > 1
    total = sum(one.probability for one in expected)
    wanted = {one.orbits: one.probability / total for one in expected}
    assert {one.orbits: one.probability for one in found} == pytest.approx(wanted, rel=1e-3)
    assert {one.space_group for one in found} == {221}


def test_a_space_group_that_cannot_hold_a_composition(model: SymmetryPrior) -> None:
    none, some = propose(model, [{14: 1, 8: 1}, {14: 2}], 3, space_group=227)
    assert none == []
    assert {one.orbits for one in some} == {((14, "a"),), ((14, "b"),)}
    with pytest.raises(InputError, match="space group 231 is outside 1 to 230"):
        propose(model, [{14: 2}], 3, space_group=231)


@given(st.dictionaries(st.integers(1, 94), st.integers(1, 9), min_size=1, max_size=4))
@settings(max_examples=15)
def test_proposals_are_feasible_complete_and_ranked(model: SymmetryPrior, composition: dict[int, int]) -> None:
    (proposals,) = propose(model, [composition], 5)
    assert proposals
    assert [one.probability for one in proposals] == sorted((one.probability for one in proposals), reverse=True)
    for one in proposals:
        label = SymmetryLabel(one.space_group, one.orbits)
        assert label.composition() == dict(sorted(composition.items()))
        fixed = {place.letter for place in wyckoff_positions(one.space_group) if place.degrees == 0}
        taken = [letter for _, letter in one.orbits if letter in fixed]
        assert len(taken) == len(set(taken))


def test_compositions_of_a_batch_do_not_see_each_other(model: SymmetryPrior, memory: SymmetryMemory) -> None:
    compositions = [label.composition() for label in LABELS]
    together = propose(model, compositions, 5, memory)
    for composition, found in zip(compositions, together, strict=True):
        (alone,) = propose(model, [composition], 5, memory)
        assert [(one.space_group, one.orbits) for one in alone] == [(one.space_group, one.orbits) for one in found]
        np.testing.assert_allclose([one.probability for one in alone], [one.probability for one in found], rtol=1e-4)


def test_it_learns() -> None:
    torch.manual_seed(0)
    prior = SymmetryPrior(SymmetryPriorConfig(width=16, encoder_blocks=1, decoder_blocks=1, heads=2, dropout=0.0))
    batch = symmetry_batch([symmetry_sequence(label) for label in LABELS])
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    for _ in range(60):
        group, orbits = prior.log_probability(batch)
        optimizer.zero_grad()
        (-(group + orbits).mean()).backward()
        optimizer.step()
    for label, found in zip(LABELS, propose(prior.eval(), [one.composition() for one in LABELS], 1), strict=True):
        assert (found[0].space_group, found[0].orbits) == (label.space_group, label.orbits)


def test_orbits_out_of_order_are_refused() -> None:
    with pytest.raises(InputError, match="space group 225: no such orbits"):
        symmetry_sequence(SymmetryLabel(225, ((17, "b"), (11, "a"))))
    with pytest.raises(InputError, match="no such orbits"):
        symmetry_sequence(SymmetryLabel(225, ((11, "a"), (17, "a"))))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"width": 10, "heads": 4}, "multiple"), ({"heads": 0}, "positive"), ({"dropout": 1.0}, "dropout")],
)
def test_configuration_is_checked(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SymmetryPriorConfig(**wrong)
