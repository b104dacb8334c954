"""The most probable descriptions of a composition's crystals with part of their symmetry.

A crystal of space group G has a description in every subgroup H of it. Which G it is, and which Wyckoff positions its
atoms have there, is often wrong where nothing similar is known; but many G have the same H, so H and the positions
in it are right more often, and a flow within H still has much less to find than one without symmetry.

Shapes: B compositions, S kinds of subgroups, G = 231 groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from dao.data.symmetry_batch import composition_sequence, symmetry_batch
from dao.data.symmetry_memory import SymmetryMemory
from dao.geometry.subgroups import small_subgroups
from dao.geometry.wyckoff import SPACE_GROUPS
from dao.networks.symmetry import SymmetryPrior
from dao.networks.symmetry_search import SymmetryProposal, search, sequences_of, shares_of

BEAMS = 4
"""Kept a composition, kind and step. With 32 the search takes three times as long and finds the same."""

LEAST_ODDS = 0.03
"""Kinds of subgroups that a composition's crystals have less often are left out."""


@torch.no_grad()
def propose_in_subgroups(
    model: SymmetryPrior,
    compositions: Sequence[Mapping[int, int]],
    count: int,
    memory: SymmetryMemory | None = None,
) -> list[list[SymmetryProposal]]:
    """The ``count`` most probable assignments of each composition in each kind of small subgroup that it may well have.

    Their probability is that of the description: that the crystal's group has such a subgroup (of the same mixture as
    in :func:`~dao.networks.symmetry_search.propose`), times that of the positions given it (without similar
    compositions, whose whole symmetries are known).

    Args:
        model: in evaluation mode.
        compositions: atoms of each element (atomic number) in a primitive cell.
        count: most assignments wanted of each composition in each.
        memory: known assignments to look similar compositions up in.

    """
    if not compositions:
        return []
    kinds = small_kinds()
    odds = subgroup_odds(model, compositions, kinds, memory)
    found: list[list[SymmetryProposal]] = [[] for _ in compositions]
    pairs = (odds.round(decimals=3) >= LEAST_ODDS).nonzero().tolist()
    if not pairs:
        return found
    sequences = [composition_sequence(compositions[i]) for i, _ in pairs]
    inside = search(model, sequences, symmetry_batch(sequences), count, [kinds[j] for _, j in pairs], BEAMS)
    for (i, j), proposals in zip(pairs, inside, strict=True):
        found[i] += [replace(one, probability=float(odds[i, j]) * one.probability) for one in proposals]
    return found


@torch.no_grad()
def subgroup_odds(
    model: SymmetryPrior,
    compositions: Sequence[Mapping[int, int]],
    kinds: Sequence[int],
    memory: SymmetryMemory | None = None,
) -> Float[Tensor, "b s"]:
    """(B, S) probability that a crystal's space group has a proper subgroup of each kind."""
    odds = torch.zeros(len(compositions), len(kinds), dtype=torch.float64)
    for share, near in shares_of(model, memory):
        batch = symmetry_batch(sequences_of(compositions, near))
        encoded, _ = model.encode(batch)
        odds += share * torch.softmax(model.group_logits(encoded, batch).double(), dim=-1) @ _having(tuple(kinds))
    return odds


@cache
def small_kinds() -> tuple[int, ...]:
    """Space groups of the small subgroups that there are."""
    every = (small_subgroups(group) for group in range(1, SPACE_GROUPS + 1))
    return tuple(sorted({kind for kinds in every for kind in kinds}))


@cache
def _having(kinds: tuple[int, ...]) -> Float[Tensor, "g s"]:
    """(231, S) 1 where a space group has a small subgroup of the kind."""
    table = torch.zeros(SPACE_GROUPS + 1, len(kinds), dtype=torch.float64)
    for group in range(1, SPACE_GROUPS + 1):
        for column, kind in enumerate(kinds):
            table[group, column] = kind in small_subgroups(group)
    return table
