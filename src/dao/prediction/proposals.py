"""Prototype proposals as candidates, and candidates of both sources as one list.

Where energies rank, they rank the merged list; otherwise it is in the order of :func:`merged`, which was chosen on
validation crystals (docs/experiments.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from dao.crystal import Crystal
from dao.errors import InputError
from dao.geometry.cells import SYMPREC, niggli_reduce, space_group, symmetrize
from dao.geometry.wyckoff import operations
from dao.prediction.composition import AUTO_MAX_ATOMS
from dao.prediction.prototype_table import formula_of
from dao.prediction.prototypes import Proposal, Proposer
from dao.prediction.ranking import Candidate, Reading, same_crystals, scaled
from dao.prediction.sources import Sources

Floats = npt.NDArray[np.float64]

SPARE = 2
"""Proposals asked for in place of each candidate: about half are the same crystal as an earlier one."""

CLOSEST = 0.63
"""Distance of two atoms over the sum of their covalent radii below which a proposal is dropped: coordinates that were
averaged and rounded can bring atoms of a long cell together. None of 2,500 MP-20 validation crystals is below 0.64."""

PROTOTYPE_VOLUME_SHARE, PROTOTYPE_VOLUME_REACH = 0.6, 0.15
"""How much a prototype has to say of the volume of a crystal that the generator found, too: its share where elements
are next to the same, and the distance of elements at which that has fallen to 1/e of it."""

LARGER = 4
"""For so many proposals one more may come from cells beyond ``AUTO_MAX_ATOMS``, unless the smallest cell is beyond."""


def with_proposals(
    generated: Sequence[Candidate],
    proposer: Proposer,
    formula: str,
    cells: Mapping[int, Sequence[int]],
    sources: Sources,
    *,
    samples: int,
    refine: Callable[[Sequence[Candidate]], list[Candidate]] | None = None,
) -> list[Candidate]:
    """The generator's candidates and those from prototypes as one list, each crystal once, not ranked yet.

    Args:
        generated: of one composition; none where the generator is no source.
        proposer: the table.
        formula: reduced formula, for the candidates.
        cells: atomic numbers of the cell, by formula units in it.
        sources: how many proposals, and whether the composition itself counts as unknown.
        samples: how many samples of a generator the composition has.
        refine: what is done to the proposals before.

    """
    exclude = sources.exclude_same_composition
    votes = space_group_votes(proposer, cells, exclude_same_composition=exclude)
    own = proposed(
        proposer, formula, cells, sources.proposals, samples=samples, exclude_same_composition=exclude, votes=votes
    )
    return with_space_group_shares(merged(generated, own if refine is None else refine(own)), votes)


def proposed(
    proposer: Proposer,
    formula: str,
    cells: Mapping[int, Sequence[int]],
    count: int,
    *,
    samples: int = 0,
    exclude_same_composition: bool = False,
    votes: Floats | None = None,
) -> list[Candidate]:
    """Distinct candidates from prototypes, those of the most similar known crystals first.

    Args:
        proposer: the table.
        formula: reduced formula, for the candidates.
        cells: atomic numbers of the cell, by formula units in it.
        count: most candidates, over all cell sizes; those of cells beyond ``AUTO_MAX_ATOMS`` come on top of them.
        samples: how many samples of a generator the composition has, for the candidates.
        exclude_same_composition: see :meth:`~dao.prediction.prototypes.Proposer.propose`.
        votes: of :func:`space_group_votes`, where they are known.

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
    found = [one for own in asked.values() for one in own if _is_crystal(one[1])]
    found.sort(key=lambda item: item[1].distance)
    readings = [_read(one) for _, one in found]
    # at the tolerances that make two samples one crystal, many tilts and distortions are one too
    kept: list[list[int]] = []
    for group in sorted(same_crystals([reading.crystal for reading in readings])):
        if room[is_larger(found[group[0]])]:
            room[is_larger(found[group[0]])] -= 1
            kept.append(group)
    sizes = {units: len(numbers) // units for units, numbers in cells.items()}
    if votes is None:
        votes = space_group_votes(proposer, cells, exclude_same_composition=exclude_same_composition)
    total = votes.sum()
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


def with_space_group_shares(candidates: Sequence[Candidate], votes: Floats) -> list[Candidate]:
    """The candidates of one composition with what known crystals of like elements say of their space groups.

    Args:
        candidates: of either source.
        votes: of :func:`space_group_votes`.

    """
    total = float(votes.sum()) or 1.0
    return [replace(one, space_group_share=float(votes[one.space_group_number]) / total) for one in candidates]


def space_group_votes(
    proposer: Proposer, cells: Mapping[int, Sequence[int]], *, exclude_same_composition: bool = False
) -> Floats:
    """(231,) votes of known crystals of like elements for each space group, of all cells.

    Args:
        proposer: the table.
        cells: as in :func:`proposed`.
        exclude_same_composition: likewise.

    """
    own = [
        proposer.space_group_votes(numbers, exclude_same_composition=exclude_same_composition)
        for numbers in cells.values()
    ]
    return np.asarray(np.sum(own, axis=0), dtype=np.float64)


def _is_crystal(proposal: Proposal) -> bool:
    """Whether no atoms are too close: tables keep coordinates on a grid, which is coarse in long cells."""
    from ase.data import covalent_radii

    radii = covalent_radii[proposal.crystal.atomic_numbers]
    distances = np.array(proposal.crystal.to_structure().distance_matrix)
    np.fill_diagonal(distances, np.inf)
    return bool((distances >= CLOSEST * (radii[:, None] + radii)).all())


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

    A crystal that both found has the more symmetric of its geometries, else the prototype's, at the volume that
    :func:`_volume_of_both` says, the generator's count, and the better of its two places. ``groups`` says which of both
    lists, the prototypes' first, are the same crystal, where that is known.
    """
    every = [*prototypes, *generated]
    places = [*(2 * i for i in range(len(prototypes))), *(2 * i + 1 for i in range(len(generated)))]
    kept: list[tuple[int, Candidate]] = []
    for group in groups or same_crystals([one.crystal for one in every], distinct=len(prototypes)):
        first = every[group[0]]
        others = [every[i] for i in group if i >= len(prototypes)]
        one = _of_both(first, others) if group[0] < len(prototypes) and others else first
        kept.append((min(places[i] for i in group), one))
    kept.sort(key=lambda item: item[0])
    return [replace(one, rank=rank) for rank, (_, one) in enumerate(kept, start=1)]


def _of_both(prototype: Candidate, samples: Sequence[Candidate]) -> Candidate:
    """One candidate of a proposal and those of the generator that are the same crystal.

    A symmetry that samples have only at a looser tolerance than the proposal's is no reason to give up its geometry: it
    would undo true distortions.
    """
    tolerance = _tolerance(prototype)
    shown = max((prototype, *(one for one in samples if _tolerance(one) <= tolerance)), key=_symmetry)
    return replace(
        shown,
        crystal=scaled(shown.crystal, _volume_of_both(prototype, max(samples, key=lambda one: one.count))),
        # plausibility was learned on volumes of prototypes: judged at others, validation lists lose 0.4 points
        judged_volume=shown.volume_per_atom,
        source="both",
        count=sum(one.count for one in samples),
        sample_indices=tuple(pair for one in samples for pair in one.sample_indices),
        asked_atoms=min((one.asked_atoms for one in (prototype, *samples) if one.asked_atoms), default=None),
        prototype=prototype.prototype,
        prototype_distance=prototype.prototype_distance,
        prototype_members=prototype.prototype_members,
        prototype_share=prototype.prototype_share,
    )


def _volume_of_both(prototype: Candidate, sample: Candidate) -> float:
    """A^3 per atom: the prototype's where crystals of it with these very elements are known, else between the two.

    Known crystals of these elements are what is asked for; they hardly occur in benchmarks, so nothing is fitted there.
    Else the geometric mean of both, in which the prototype's counts the more, the more like the elements are that it is
    known with: fitted to validation crystals (docs/experiments.md).
    """
    distance = math.inf if prototype.prototype_distance is None else prototype.prototype_distance
    share = 1.0 if distance == 0.0 else PROTOTYPE_VOLUME_SHARE * math.exp(-distance / PROTOTYPE_VOLUME_REACH)
    return prototype.volume_per_atom**share * sample.volume_per_atom ** (1.0 - share)


def _tolerance(one: Candidate) -> float:
    """In A, at which it has its symmetry."""
    return math.inf if one.symprec is None else one.symprec


def _symmetry(one: Candidate) -> float:
    """Symmetry operations, pure translations included, in a cell of given size (per atom of it)."""
    return len(operations(one.space_group_number)[0]) / one.num_atoms
