"""From many samples of a composition to a short list: the same crystal once, the most recurrent or most stable first.

A crystal that a generator finds again and again from independent noise is its best guess; ties go to the smaller cell,
then to the higher symmetry. Where a predictor (DAO-P) gives energies above the hull, these rank too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dao.constants import STRICT_ANGLE_TOL, STRICT_LTOL, STRICT_STOL
from dao.crystal import Crystal
from dao.errors import InputError
from dao.geometry.cells import heights, niggli_reduce, refine_space_group, symmetrize
from dao.geometry.fingerprint import BINS, fingerprint
from dao.prediction.composition import Composition
from dao.prediction.oxidation import charge_hint

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from dao.evaluation.matching_search import Reduced
    from dao.prediction.novelty import Novelty


SAME_ENERGY = 4
"""Decimals (eV/atom) to which energies are compared: rounding, which depends on the batch, must not decide a rank."""

ALIKE, UNLIKE = 0.2, 1.0
"""Summed difference of two :func:`neighbourhoods` (0 to 2) below and beyond which the matcher need not be asked.

Of 2,645 pairs of samples and proposals, 59 % lie beyond, 0.1 % of which the matcher would have called the same, and 1 %
below, which it all called the same.
"""

SUPERCELL = 0.02
"""The same below which crystals are one although their primitive cells differ in size: a supercell, hardly distorted.

Among 4,777 proposals and samples that were one at :data:`ALIKE`, 25 differed in size. The matcher would have called
none of these the same; 7 differed by less than 0.01, the others by more than 0.05: polytypes, such as cubic and
hexagonal diamond (0.16), and other distortions.
"""

FLAT = 0.2
"""Smallest height of a cell in units of (V/N)^(1/3) whose neighbours are counted."""

COUNT_WEIGHT = 0.3
"""eV/atom by which a candidate found e times as often may lie higher; chosen on validation (docs/experiments.md)."""


@dataclass(frozen=True)
class Reading:
    """A sample as a crystallographer reads it: symmetrised primitive cell and space group."""

    crystal: Crystal
    number: int
    symbol: str
    symprec: float | None
    """Tolerance in A at which the sample has that symmetry; None where none was found and the cell is as sampled."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One distinct predicted crystal."""

    rank: int
    formula: str
    crystal: Crystal
    """Symmetrised primitive cell."""
    space_group: str
    space_group_number: int
    symprec: float | None
    """Tolerance (A) at which the sampled structure has that symmetry; it was symmetrised to it."""
    formula_units: int
    """Formula units in the primitive cell."""
    count: int
    """How many of the samples are this crystal."""
    samples: int
    """How many samples the composition had."""
    source: str
    sample_indices: tuple[tuple[int, int], ...] = field(default=())
    """(formula units sampled, sample index) of each of them."""
    e_above_hull: float | None = None
    """Predicted, eV/atom; NaN where the predictor has no answer, None where no predictor was asked."""
    e_above_hull_error: float | None = None
    """How far off that energy is expected to be, eV/atom; None where no predictor says so."""
    plausibility: float | None = None
    """Log odds to be the known crystal of its composition (:mod:`dao.prediction.plausibility`), up to a constant that
    its fellow candidates share; None where no such network was asked."""
    judged_volume: float | None = None
    """Volume (A^3 per atom) at which its plausibility is judged, where that is not the one it is shown at."""
    log_symmetry: float | None = None
    """Log probability of its space group and Wyckoff positions given its composition, by the generator's prior
    (:mod:`dao.prediction.symmetry_odds`); None where no such prior was asked, NaN where it has no answer."""
    prototype: str | None = None
    """The known crystal whose kind it has, as a formula; None where no such kind is known."""
    energy: float | None = None
    """Of the relaxed crystal by a potential, eV/atom, which may be compared at this composition; None: not relaxed."""
    energy_by: str | None = None
    """Which potential that was."""
    novelty: Novelty | None = None
    """How far it is from what is known; None where there is no table of prototypes."""
    prototype_distance: float | None = None
    """How far its elements are from those of that crystal, 0 for the same (dimensionless)."""
    prototype_members: int | None = None
    """Known crystals of that kind, whatever their elements."""
    prototype_share: float | None = None
    """Share of this kind in the votes of all known crystals of like elements (:class:`~dao.prediction.prototypes`)."""
    space_group_share: float | None = None
    """The same of all kinds of its space group; None where no prototypes were asked."""
    asked_atoms: int | None = None
    """Atoms of the smallest cell in which it was asked for; more than it has where it turned out to be smaller."""
    confidence: float | None = None
    """Estimated probability that it is the known crystal of its composition; None unless the learned ranker ranked."""

    @property
    def structure(self) -> Structure:
        """The crystal as a pymatgen ``Structure``."""
        return self.crystal.to_structure()

    @property
    def num_atoms(self) -> int:
        """Atoms in the primitive cell."""
        return self.crystal.num_atoms

    @property
    def volume_per_atom(self) -> float:
        """A^3 per atom."""
        return self.crystal.volume_per_atom

    def record(self) -> dict[str, Any]:
        """Everything but the crystal, as plain JSON: the table's fields and the primitive cell (A, degrees)."""
        a, b, c, alpha, beta, gamma = self.crystal.to_structure().lattice.parameters
        energy: dict[str, float | None] = {}
        if self.e_above_hull is not None:
            energy = {"e_above_hull": _rounded(self.e_above_hull)}
        if self.e_above_hull_error is not None:
            energy["e_above_hull_error"] = _rounded(self.e_above_hull_error)
        relaxed = {} if self.energy is None else {"energy": round(self.energy, 6), "energy_by": self.energy_by}
        if self.confidence is not None:
            energy["confidence"] = round(self.confidence, 4)
        return {
            "rank": self.rank,
            "formula": self.formula,
            "space_group": self.space_group,
            "space_group_number": self.space_group_number,
            "symprec": self.symprec,
            "formula_units": self.formula_units,
            "num_atoms": self.num_atoms,
            "volume_per_atom": round(self.volume_per_atom, 4),
            "a": round(a, 4),
            "b": round(b, 4),
            "c": round(c, 4),
            "alpha": round(alpha, 3),
            "beta": round(beta, 3),
            "gamma": round(gamma, 3),
            **energy,
            **relaxed,
            "count": self.count,
            "samples": self.samples,
            "source": self.source,
            "prototype": self.prototype,
            **({} if self.novelty is None else self.novelty.record()),
            "oxidation_states": charge_hint(Composition.from_counts(self.crystal.counts)).states or None,
            "prototype_distance": None if self.prototype_distance is None else round(self.prototype_distance, 4),
            "prototype_members": self.prototype_members,
        }


def _rounded(energy: float) -> float | None:
    """For JSON, which has no NaN."""
    return round(energy, 6) if math.isfinite(energy) else None


def read_symmetry(crystal: Crystal) -> Reading:
    """The sample's most symmetric sensible reading as a symmetrised primitive cell; P1 as sampled if none is found."""
    try:
        number, symbol, symprec = refine_space_group(crystal)
        return Reading(niggli_reduce(symmetrize(crystal, symprec)), number, symbol, symprec)
    except InputError:
        return Reading(crystal, 1, "P1", None)


def same_crystals(crystals: Sequence[Crystal], distinct: int = 0) -> list[list[int]]:
    """Numbers of the crystals that are the same: each joins the group whose first member it fits, the nearest first.

    What fits, pymatgen's StructureMatcher says at its own tolerances, tighter than the benchmark's, so that polymorphs
    stay apart; where neighbourhoods leave no doubt (:data:`ALIKE`, :data:`UNLIKE`) it is not asked, nor of cells of
    different size, which never fit (:data:`SUPERCELL`). The crystals must be primitive and of one composition; the
    first ``distinct`` are known to differ from each other.
    """
    from dao.evaluation.matching_search import Tolerances, TooLargeError, fits, reduced

    tolerances = Tolerances(STRICT_STOL, STRICT_LTOL, STRICT_ANGLE_TOL)

    @cache
    def cell(number: int) -> Reduced:
        return reduced(crystals[number], primitive=False)

    marks = neighbourhoods(crystals)

    def same(one: int, two: int, apart: float) -> bool:
        if crystals[one].num_atoms != crystals[two].num_atoms:
            return apart < SUPERCELL
        if apart < ALIKE or apart > UNLIKE:
            return apart < ALIKE
        try:
            return fits(cell(one), cell(two), tolerances)
        except (TooLargeError, ArithmeticError, LookupError, ValueError):
            # a flat cell or a needle, which only other tools' samples can be, is like no other
            return False

    groups: list[list[int]] = [[number] for number in range(distinct)]
    for number in range(distinct, len(crystals)):
        apart = np.abs(marks[[group[0] for group in groups]] - marks[number]).sum(axis=-1)
        for place in np.argsort(apart, kind="stable").tolist():
            if same(groups[place][0], number, float(apart[place])):
                groups[place].append(number)
                break
        else:
            groups.append([number])
    return groups


def neighbourhoods(crystals: Sequence[Crystal]) -> npt.NDArray[np.float64]:
    """(C, D) neighbours by pair of elements and distance of crystals of one composition; each row's sum is 1.

    Half the sum of absolute differences of two rows, 0 to 1, is the part of the neighbours in which they differ. A cell
    that is flat or a needle, which only other tools' samples can be, has nan.
    """
    kinds = len(crystals[0].counts) if crystals else 0
    marks = np.full((len(crystals), kinds * kinds * BINS), math.nan)
    for row, one in zip(marks, crystals, strict=True):
        if one.volume > 0 and heights(one).min() > FLAT * np.cbrt(one.volume_per_atom):
            slots = np.unique(one.atomic_numbers, return_inverse=True)[1]
            own = fingerprint(slots, one.frac_coords, one.lattice).ravel()
            row[:] = own / max(own.sum(), 1e-9)
    return marks


def scaled(crystal: Crystal, volume_per_atom: float) -> Crystal:
    """The crystal at another volume, its shape and symmetry kept."""
    if crystal.volume_per_atom == volume_per_atom:
        return crystal
    factor = (volume_per_atom / crystal.volume_per_atom) ** (1 / 3)
    return replace(crystal, lattice=crystal.lattice * factor)


def rank_by_recurrence(
    formula: str, atoms_per_formula: int, samples: Sequence[tuple[int, int, Crystal]], *, total: int, source: str
) -> list[Candidate]:
    """Distinct crystals among ``samples`` (formula units, index, crystal), the most recurrent first.

    A group is shown by the member of median volume among those with the group's commonest space group that were sampled
    in the smallest cell (fewest atoms to place), scaled to their median volume: volumes of independent samples scatter
    by several per cent.
    """
    readings = [read_symmetry(crystal) for _, _, crystal in samples]
    groups = same_crystals([reading.crystal for reading in readings])

    def shown(group: list[int]) -> Reading:
        commonest = Counter(readings[i].number for i in group).most_common(1)[0][0]
        alike = [i for i in group if readings[i].number == commonest]
        smallest = min(samples[i][0] for i in alike)
        members = sorted(
            (readings[i] for i in alike if samples[i][0] == smallest), key=lambda r: r.crystal.volume_per_atom
        )
        middle = members[len(members) // 2]
        return replace(middle, crystal=scaled(middle.crystal, median(one.crystal.volume_per_atom for one in members)))

    def order(item: tuple[list[int], Reading]) -> tuple[int, int, int, int]:
        group, reading = item
        return -len(group), reading.crystal.num_atoms, -reading.number, group[0]

    ordered = sorted(((group, shown(group)) for group in groups), key=order)
    return [
        Candidate(
            rank=rank,
            formula=formula,
            crystal=reading.crystal,
            space_group=reading.symbol,
            space_group_number=reading.number,
            symprec=reading.symprec,
            formula_units=reading.crystal.num_atoms // atoms_per_formula or 1,
            count=len(group),
            samples=total,
            source=source,
            sample_indices=tuple(samples[i][:2] for i in group),
            asked_atoms=atoms_per_formula * min(samples[i][0] for i in group),
        )
        for rank, (group, reading) in enumerate(ordered, start=1)
    ]


def with_energies(
    candidates: Sequence[Candidate], energies: Sequence[float], errors: Sequence[float | None] | None = None
) -> list[Candidate]:
    """The candidates with their energies above the hull and expected errors (eV/atom); what is not finite is NaN."""
    said = zip(candidates, energies, errors or [None] * len(candidates), strict=True)
    return [
        replace(one, e_above_hull=energy, e_above_hull_error=error)
        if math.isfinite(energy)
        else replace(one, e_above_hull=math.nan)
        for one, energy, error in said
    ]


def with_plausibilities(candidates: Sequence[Candidate], log_odds: Sequence[float]) -> list[Candidate]:
    """The candidates with their log odds to be the known crystal; NaN where there is no finite answer."""
    return [
        replace(one, plausibility=odds if math.isfinite(odds) else math.nan)
        for one, odds in zip(candidates, log_odds, strict=True)
    ]


def with_symmetries(candidates: Sequence[Candidate], log_probabilities: Sequence[float]) -> list[Candidate]:
    """The candidates with the log probabilities of their symmetries; NaN and minus infinity stay what they are."""
    return [replace(one, log_symmetry=said) for one, said in zip(candidates, log_probabilities, strict=True)]


def rank_by_energy(candidates: Sequence[Candidate], count_weight: float = 0.0) -> list[Candidate]:
    """Candidates of one composition, the lowest energy above the hull first, those without one last.

    With a weight T (eV/atom) the energy is lowered by T log(count): a crystal that the generator found often may lie
    somewhat higher, as in a Boltzmann distribution. Energies that agree to ``SAME_ENERGY`` decimals leave the order as
    it was: that of recurrence.
    """

    def order(one: Candidate) -> tuple[bool, float, int]:
        if one.e_above_hull is None or math.isnan(one.e_above_hull):
            return True, 0.0, one.rank
        return False, round(one.e_above_hull - count_weight * math.log(max(one.count, 1)), SAME_ENERGY), one.rank

    return [replace(one, rank=rank) for rank, one in enumerate(sorted(candidates, key=order), start=1)]
