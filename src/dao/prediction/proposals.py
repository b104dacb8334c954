"""Prototype proposals as candidates, and candidates of both sources as one list.

Where energies rank, they rank the merged list; otherwise it is in the order of :func:`merged`, which was chosen on
validation crystals (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from dao.crystal import Crystal
from dao.errors import InputError
from dao.geometry.cells import SYMPREC, min_distance, niggli_reduce, space_group, symmetrize
from dao.prediction.composition import AUTO_MAX_ATOMS
from dao.prediction.prototype_table import formula_of
from dao.prediction.prototypes import Proposal, Proposer
from dao.prediction.ranking import Candidate, Reading, same_crystals, scaled

SPARE = 2
"""Proposals asked for in place of each candidate: about half are the same crystal as an earlier one."""

CLOSEST = 0.5
"""A between the nearest atoms: proposals below it are dropped. Free coordinates, averaged and rounded in a table, can
put two atoms of a long cell on one place; no reader takes such a file, and no structure is valid below it (CDVAE)."""

LARGER = 4
"""For so many proposals one more may come from cells beyond ``AUTO_MAX_ATOMS``, unless the smallest cell is beyond."""


def proposed(
    proposer: Proposer,
    formula: str,
    cells: Mapping[int, Sequence[int]],
    count: int,
    *,
    samples: int = 0,
    exclude_same_composition: bool = False,
) -> list[Candidate]:
    """Distinct candidates from prototypes, those of the most similar known crystals first.

    Args:
        proposer: the table.
        formula: reduced formula, for the candidates.
        cells: atomic numbers of the cell, by formula units in it.
        count: most candidates, over all cell sizes; those of cells beyond ``AUTO_MAX_ATOMS`` come on top of them.
        samples: how many samples of a generator the composition has, for the candidates.
        exclude_same_composition: see :meth:`~dao.prediction.prototypes.Proposer.propose`.

    """
    found: list[tuple[int, Proposal]] = []
    for units, numbers in cells.items():
        own = proposer.propose(numbers, SPARE * count, exclude_same_composition=exclude_same_composition)
        found += [(units, one) for one in own]
    found.sort(key=lambda item: item[1].distance)
    usual = max(AUTO_MAX_ATOMS, min(map(len, cells.values())))
    room = {False: count, True: count // LARGER}

    def is_larger(item: tuple[int, Proposal]) -> bool:
        return len(cells[item[0]]) > usual

    asked = {larger: [one for one in found if is_larger(one) == larger][: SPARE * room[larger]] for larger in room}
    apart = (one for own in asked.values() for one in own if min_distance(one[1].crystal) >= CLOSEST)
    found = sorted(apart, key=lambda item: item[1].distance)
    readings = [_read(one) for _, one in found]
    # at the tolerances that make two samples one crystal, many tilts and distortions are one too
    kept: list[list[int]] = []
    for group in sorted(same_crystals([reading.crystal for reading in readings])):
        if room[is_larger(found[group[0]])]:
            room[is_larger(found[group[0]])] -= 1
            kept.append(group)
    sizes = {units: len(numbers) // units for units, numbers in cells.items()}
    total = _total_votes(proposer, cells, exclude_same_composition=exclude_same_composition).sum()
    return [
        Candidate(
            rank=rank,
            formula=formula,
            crystal=readings[i].crystal,
            space_group=readings[i].symbol,
            space_group_number=readings[i].number,
            symprec=readings[i].symprec,
            formula_units=readings[i].crystal.num_atoms // sizes[found[i][0]] or 1,
            count=0,
            samples=samples,
            source="prototype",
            prototype=formula_of(found[i][1].like, found[i][1].amounts),
            prototype_distance=found[i][1].distance,
            prototype_members=found[i][1].members,
            prototype_share=float(sum(found[j][1].votes for j in group) / total),
            asked_atoms=len(cells[found[i][0]]),
        )
        for rank, (i, group) in enumerate(((group[0], group) for group in kept), start=1)
    ]


def with_space_group_shares(
    candidates: Sequence[Candidate],
    proposer: Proposer,
    cells: Mapping[int, Sequence[int]],
    *,
    exclude_same_composition: bool = False,
) -> list[Candidate]:
    """The candidates of one composition with what known crystals of like elements say of their space groups.

    Args:
        candidates: of either source.
        proposer: the table.
        cells: as in :func:`proposed`.
        exclude_same_composition: likewise.

    """
    votes = _total_votes(proposer, cells, exclude_same_composition=exclude_same_composition)
    total = float(votes.sum()) or 1.0
    return [replace(one, space_group_share=float(votes[one.space_group_number]) / total) for one in candidates]


def _total_votes(
    proposer: Proposer, cells: Mapping[int, Sequence[int]], *, exclude_same_composition: bool
) -> npt.NDArray[np.float64]:
    """(231,) votes for each space group, of all cells."""
    own = [
        proposer.space_group_votes(numbers, exclude_same_composition=exclude_same_composition)
        for numbers in cells.values()
    ]
    return np.asarray(np.sum(own, axis=0), dtype=np.float64)


def _read(proposal: Proposal) -> Reading:
    """Its own symmetry, which is exact: looser tolerances would take true distortions away."""
    crystal = Crystal(proposal.crystal.atomic_numbers, proposal.crystal.frac_coords, proposal.crystal.lattice)
    try:
        number, symbol = space_group(crystal, SYMPREC)
        return Reading(niggli_reduce(symmetrize(crystal, SYMPREC)), number, symbol, SYMPREC)
    except InputError:
        return Reading(crystal, 1, "P1", None)


def merged(
    generated: Sequence[Candidate], prototypes: Sequence[Candidate], groups: Sequence[Sequence[int]] | None = None
) -> list[Candidate]:
    """Both lists as one, each crystal once: in turns, beginning with the prototypes'.

    A crystal that both found has the prototype's geometry, whose symmetry is exact, at the generator's volume, which is
    the better one (docs/experiments.md), the generator's count, and the better of its two places. ``groups`` says which
    of both lists, the prototypes' first, are the same crystal, where that is known.
    """
    every = [*prototypes, *generated]
    places = [*(2 * i for i in range(len(prototypes))), *(2 * i + 1 for i in range(len(generated)))]
    kept: list[tuple[int, Candidate]] = []
    for group in groups or same_crystals([one.crystal for one in every], distinct=len(prototypes)):
        first = every[group[0]]
        others = [every[i] for i in group if i >= len(prototypes)]
        if group[0] < len(prototypes) and others:
            first = replace(
                first,
                crystal=scaled(first.crystal, max(others, key=lambda one: one.count).volume_per_atom),
                source="both",
                count=sum(one.count for one in others),
                asked_atoms=min((one.asked_atoms for one in (first, *others) if one.asked_atoms), default=None),
                sample_indices=tuple(pair for one in others for pair in one.sample_indices),
            )
        kept.append((min(places[i] for i in group), first))
    kept.sort(key=lambda item: item[0])
    return [replace(one, rank=rank) for rank, (_, one) in enumerate(kept, start=1)]
