"""Condense a set of crystals to its prototypes.

Isostructural crystals (same space group, occupied Wyckoff positions up to the group's normaliser, and geometric
fingerprint within a tolerance, whichever of their elements of equal count stands for which) become one prototype. It
has the free coordinates and the shape of the member nearest to their mean, averaged over those whose description in
the standard setting is the same but for small shifts; of the others only the elements, and how much volume they take,
are kept. No ids and no energies are. Unless they are asked for as they are, values are coarsened, so that prototypes of
a single crystal do not hold it.

Shapes: S slots (elements) of a crystal by rising count, K orbits, M members of a prototype, P assignments of slots.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dao.constants import MAX_ATOMIC_NUMBER
from dao.data.labels import LABEL_SYMPREC
from dao.data.store import PackedCrystals
from dao.data.symmetrized import without_symmetry
from dao.errors import InputError
from dao.geometry.fingerprint import fingerprint
from dao.geometry.lattice import fit_atomic_volumes, volume
from dao.geometry.symmetrized import SymmetricCrystal, symmetrized
from dao.geometry.wyckoff import WyckoffPosition, wyckoff_positions
from dao.geometry.wyckoff_equivalents import letter_exchanges
from dao.prediction.prototype_table import Prototype, PrototypeTable, metric_of
from dao.prediction.substitution import MAX_ASSIGNMENTS, assignments

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SAME = 0.2
"""Members of a prototype differ from its first one by less than this part of all neighbours (of the fingerprint)."""

AVERAGED_SHIFT = 0.05
"""Free coordinates that differ by more are descriptions of other origins or axes, and are not averaged."""

AVERAGED_STRAIN = 0.15
"""Likewise entries of the metric, in units of its mean diagonal."""


@dataclass(frozen=True, eq=False)
class _Member:
    """One crystal with its elements on slots.

    Attributes:
        space_group: 1 to 230.
        elements: (S,) atomic numbers by rising amount.
        amounts: (S,) atoms of each in the primitive cell.
        orbits: K of (slot, letter).
        free_coords: (K, 3).
        metric: (6,) of the primitive cell at a volume of 1 per atom.
        mark: (S, S, BINS) fingerprint.
        volume_ratio: its volume in units of what the per-element volumes say.

    """

    space_group: int
    elements: Integers
    amounts: Integers
    orbits: tuple[tuple[int, str], ...]
    free_coords: Floats
    metric: Floats
    mark: Floats
    volume_ratio: float

    def exchanged(self, way: Integers) -> _Member:
        """Slot i is what was slot way[i], of as many atoms."""
        back = np.argsort(way)
        return replace(
            self,
            elements=self.elements[way],
            orbits=tuple((int(back[slot]), letter) for slot, letter in self.orbits),
            mark=self.mark[way][:, way],
        )


def build_table(
    crystals: PackedCrystals,
    record: dict[str, Any],
    *,
    same: float = SAME,
    min_sets: int = 1,
    exact: bool = False,
    advance: Callable[[int], None] | None = None,
) -> PrototypeTable:
    """Condense a set of crystals (some ms each).

    Args:
        crystals: of elements 1 to 94.
        record: what they are, in plain JSON; counts and tolerances are added.
        same: tolerance of the fingerprint.
        min_sets: keep prototypes that were seen with at least so many different element sets; from 2 on, no prototype
            is a single known crystal.
        exact: keep values as they are, for crystals that may be given away.
        advance: told how many more crystals are described.

    Raises:
        InputError: an element beyond plutonium, or a cell without a volume.

    """
    described = []
    failed = 0
    for row in range(len(crystals)):
        crystal = crystals.crystal(row)
        try:
            described.append(symmetrized(crystal, LABEL_SYMPREC))
        except InputError:
            failed += 1
            described.append(without_symmetry(crystal))
        if advance is not None:
            advance(1)
    record = {**record, "without_symmetry": failed}
    return condense(described, fitted_volumes(crystals), record, same=same, min_sets=min_sets, exact=exact)


def fitted_volumes(crystals: PackedCrystals) -> Floats:
    """(E,) A^3 per element, by least squares.

    Raises:
        InputError: an element beyond plutonium, or a cell without a volume.

    """
    if int(crystals.atomic_numbers.max()) > MAX_ATOMIC_NUMBER:
        raise InputError(f"an element beyond atomic number {MAX_ATOMIC_NUMBER}")
    cells = volume(crystals.lattice.double())
    if not bool((cells > 0.0).all()):
        raise InputError(f"{crystals.ids[int(cells.argmin())]}: the cell has no volume")
    return np.asarray(fit_atomic_volumes(crystals.element_counts(), cells).numpy(), dtype=np.float64)


def condense(
    described: Sequence[SymmetricCrystal],
    atomic_volumes: Floats,
    record: dict[str, Any],
    *,
    same: float = SAME,
    min_sets: int = 1,
    exact: bool = False,
) -> PrototypeTable:
    """Prototypes of these crystals, those of few atoms, then of many members first; see :func:`build_table`.

    Raises:
        InputError: none is left.

    """
    kinds: dict[Any, list[int]] = defaultdict(list)
    for row, one in enumerate(described):
        kinds[_kind(one)].append(row)
    found = [
        _averaged(cluster)
        for rows in kinds.values()
        for cluster in _clusters([_member(described[row], atomic_volumes) for row in rows], same)
    ]

    found = [one for one in found if len(one.elements) >= min_sets]
    if not found:
        raise InputError(f"no prototype was seen with {min_sets} element sets")

    def order(one: Prototype) -> tuple[Any, ...]:
        return int(one.amounts.sum()), one.amounts.tolist(), -int(one.members.sum()), -one.space_group

    found.sort(key=order)
    said = {
        **record,
        "crystals": len(described),
        "prototypes": len(found),
        "condensed": sum(int(one.members.sum()) for one in found),
        "single_member": sum(int(one.members.sum()) == 1 for one in found),
        "symprec": LABEL_SYMPREC,
        "same": same,
        "min_sets": min_sets,
    }
    table = PrototypeTable.pack(found, atomic_volumes, said)
    return table if exact else table.coarsened()


def _kind(one: SymmetricCrystal) -> tuple[Any, ...]:
    """Space group and, up to the normaliser, how many atoms of unnamed elements are on which positions."""
    multiplicity = {position.letter: position.multiplicity for position in wyckoff_positions(one.space_group)}
    letters: dict[int, list[str]] = defaultdict(list)
    for element, letter in one.orbits:
        letters[element].append(letter)
    counts = {element: sum(multiplicity[letter] for letter in own) for element, own in letters.items()}
    ways = (
        tuple(sorted((counts[element], tuple(sorted(map(moved.__getitem__, own)))) for element, own in letters.items()))
        for moved in letter_exchanges(one.space_group)
    )
    return one.space_group, min(ways)


def _member(one: SymmetricCrystal, atomic_volumes: Floats) -> _Member:
    crystal = one.crystal()
    counts = crystal.counts
    slots = sorted((count, element) for element, count in counts.items())
    elements, amounts = np.array([element for _, element in slots]), np.array([count for count, _ in slots])
    number = {int(element): slot for slot, element in enumerate(elements)}
    return _Member(
        space_group=one.space_group,
        elements=elements,
        amounts=amounts,
        orbits=tuple((number[element], letter) for element, letter in one.orbits),
        free_coords=one.free_coords,
        metric=metric_of(crystal.lattice, crystal.num_atoms),
        mark=fingerprint(
            np.array([number[int(z)] for z in crystal.atomic_numbers]), crystal.frac_coords, crystal.lattice
        ),
        volume_ratio=crystal.volume / float(atomic_volumes[elements] @ amounts),
    )


def _clusters(members: Sequence[_Member], same: float) -> Iterator[list[_Member]]:
    """Members that are alike, their slots exchanged so that they are those of the first of each cluster."""
    amounts = members[0].amounts
    size = math.prod(math.factorial(equal) for equal in Counter(amounts.tolist()).values())
    ways = assignments(amounts.tolist()) if size <= MAX_ASSIGNMENTS else np.arange(len(amounts))[None]
    clusters: list[list[_Member]] = []
    leaders = np.empty((len(members), members[0].mark.size))
    for one in members:
        known = leaders[: len(clusters)]
        scale = 0.5 * (known.sum(1) + one.mark.sum())
        best, place, chosen = same, -1, ways[0]
        for way in ways if clusters else ():
            apart = np.abs(known - one.mark[way][:, way].ravel()).sum(1) / scale
            nearest = int(apart.argmin())
            if apart[nearest] < best:
                best, place, chosen = float(apart[nearest]), nearest, way
        if place >= 0:
            clusters[place].append(one.exchanged(chosen))
        else:
            leaders[len(clusters)] = one.mark.ravel()
            clusters.append([one])
    yield from clusters


def _averaged(cluster: Sequence[_Member]) -> Prototype:
    """The prototype of a cluster."""
    mean = np.mean([one.mark for one in cluster], axis=0)
    middle = min(cluster, key=lambda one: float(np.abs(one.mark - mean).sum()))
    positions = {one.letter: one for one in wyckoff_positions(middle.space_group)}
    agreeing = [shift for one in cluster if (shift := _shifts(middle, one, positions)) is not None]
    free_coords = middle.free_coords + np.mean([shift for shift, _ in agreeing], axis=0)
    sets: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for one in cluster:
        sets[tuple(one.elements.tolist())].append(one.volume_ratio)
    ordered = sorted(sets, key=lambda elements: (-len(sets[elements]), elements))
    return Prototype(
        space_group=middle.space_group,
        amounts=middle.amounts,
        orbits=middle.orbits,
        free_coords=free_coords - np.floor(free_coords),
        metric=np.mean([metric for _, metric in agreeing], axis=0),
        elements=np.array(ordered),
        members=np.array([len(sets[elements]) for elements in ordered]),
        volume_ratios=np.array([np.mean(sets[elements]) for elements in ordered]),
    )


def _shifts(middle: _Member, one: _Member, positions: dict[str, WyckoffPosition]) -> tuple[Floats, Floats] | None:
    """(K, 3) from the middle's free coordinates to a member's, and the member's metric; None if not comparable."""
    if one is middle:
        return np.zeros_like(middle.free_coords), middle.metric
    if np.abs(one.metric - middle.metric).max() > AVERAGED_STRAIN * middle.metric[:3].mean():
        return None
    left = list(range(len(one.orbits)))
    shifts = np.zeros_like(middle.free_coords)
    for k, (orbit, free) in enumerate(zip(middle.orbits, middle.free_coords, strict=True)):
        position = positions[orbit[1]]
        best, chosen = np.inf, -1
        for other in left:
            if one.orbits[other] != orbit:
                continue
            # any atom of an orbit may be called its first
            for atom in position.expand(one.free_coords[other]) if position.degrees else one.free_coords[other][None]:
                found = position.free_coordinates(atom[None])[0] if position.degrees else atom
                apart = (found - free - np.rint(found - free)) * (position.maps[0] != 0).any(0)
                if np.abs(apart).max() < best:
                    best, chosen = float(np.abs(apart).max()), other
                    shifts[k] = apart
        if best > AVERAGED_SHIFT:
            return None
        left.remove(chosen)
    return shifts, one.metric
