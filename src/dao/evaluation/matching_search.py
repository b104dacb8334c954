"""The search of pymatgen's StructureMatcher, faster and to the same bits (scale on, no supercells).

``StructureMatcher.get_rms_dist`` reduces both structures (Niggli, then primitive), scales them to one volume, lists
the cells of the first lattice that resemble the second's, and for each such cell and each translation that puts a
rarest atom on its like assigns atoms to atoms. :func:`reduced` and :func:`rms_distances` do the same arithmetic in the
same order, so ties that rounding decides (half-cell distances, equal assignments) fall the same way, without building
structures, sites and lattices on the way, and for several tolerances at a time; :func:`fits` gives the decision of
``StructureMatcher.fit`` from the same search. What is left out, and why it is safe:

* the search for a smaller cell, where the elements' counts have no common divisor or no translation maps every atom
  near to a like one: no sublattice of an index above 1 can then pass pymatgen's test;
* cells of another determinant than +-1, and structures of different composition: pymatgen drops them as well;
* lattice reduction (LLL) of an average cell that is clearly reduced: it would return the cell itself;
* narrower tolerances for a cell and translation that the widest ones refuse: every test compares with a bound that
  grows with its tolerance. Only which of several distances below 1e-5 is met first depends on the order of the list,
  hence on the tolerances; such pairs are searched once more.

Shapes: N atoms, L candidate cells. Lattices are row vectors in A.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64, Int64
from pymatgen.core import Element, IStructure, Lattice
from pymatgen.util.coord_cython import is_coord_subset_pbc, pbc_shortest_vectors
from scipy.optimize import linear_sum_assignment

from dao.crystal import Crystal

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

EXACT = 1e-5
"""pymatgen stops at the first distance below this."""

PRIMITIVE_TOLERANCE = 0.25
"""A, per cartesian axis of the cell: pymatgen's default for what a smaller cell may average over."""

MARGIN = 1e-9
"""Relative; a bound that is met by less than this is left to pymatgen's own arithmetic."""

MAX_ANGLES = 4_000_000
"""Angles between candidate lattice vectors; beyond, they would not fit into memory (cells like needles)."""

MAX_POINTS = 2_000_000
"""Lattice points looked through, and cells made of them; the same. Cells 500 times as long as thin stay below."""


class TooLargeError(Exception):
    """A cell so thin that the search would take gigabytes and minutes."""


@dataclass(frozen=True)
class Tolerances:
    """What StructureMatcher calls ``stol`` (in units of (V/N)^(1/3)), ``ltol`` (a fraction) and ``angle_tol`` (deg)."""

    stol: float
    ltol: float
    angle_tol: float

    def __ge__(self, other: Tolerances) -> bool:
        """No narrower in any of the three."""
        return self.stol >= other.stol and self.ltol >= other.ltol and self.angle_tol >= other.angle_tol


@dataclass(frozen=True)
class Reduced:
    """A structure in the cell that pymatgen compares.

    Attributes:
        elements: (N,) atomic numbers, in pymatgen's order of the sites.
        frac_coords: (N, 3).
        matrix: (3, 3) row vectors in A, in the memory layout pymatgen has it in.
        volume: A^3.

    """

    elements: Int64[np.ndarray, " n"]
    frac_coords: Float64[np.ndarray, "n 3"]
    matrix: Float64[np.ndarray, "3 3"]
    volume: float


def _may_have_smaller_cell(elements: npt.NDArray[np.int64], frac_coords: Floats, lattice: Lattice) -> bool:
    """Whether ``get_primitive_structure`` could do anything but copy.

    It tries sublattices of an index up to the greatest common divisor g of the elements' counts, whose vectors must
    lie near translations that take every atom near to a like one. If zero is the only such translation, none passes:
    the inverse of an integer matrix of determinant 2 to g has an entry that is 1/g or more from any integer.
    """
    counts = Counter(elements.tolist())
    units = reduce(math.gcd, counts.values())
    if units == 1:
        return False
    near = np.divide(PRIMITIVE_TOLERANCE, lattice.abc) * (1 + MARGIN) + MARGIN
    if not float(near.max()) < 1 / units:
        return True
    # the smallest first and, of these, the alphabetically first, which pymatgen takes the translations from
    order = sorted(counts, key=lambda number: (counts[number], Element.from_Z(number).symbol))
    groups = [frac_coords[elements == number] for number in order]
    translations = groups[0][1:] - groups[0][0]
    for group in groups:
        between = group[:, None] - group[None]
        off = between[None] - translations[:, None, None]
        close = (np.abs(off - np.rint(off)) <= 2 * near).all(axis=-1)
        translations = translations[close.any(axis=1).all(axis=1)]
        if not len(translations):
            return False
    return True


def _lengths(vectors: npt.NDArray[np.floating]) -> Floats:
    return np.sqrt(np.sum(vectors**2, axis=-1))


def _check_size(matrix: Floats, radius: float) -> None:
    """Refuse a lattice with too many points within a radius in A."""
    if not np.prod(2 * np.ceil(radius * _lengths(np.linalg.inv(matrix).T)) + 1) <= MAX_POINTS:
        raise TooLargeError


def reduced(crystal: Crystal, *, primitive: bool = True) -> Reduced:
    """Niggli cell, then primitive cell unless not asked for, as StructureMatcher prepares a structure.

    Raises:
        TooLargeError: a needle of a cell.
        ValueError: a flat cell, or one that pymatgen cannot reduce.

    """
    given = Lattice(crystal.lattice)
    if not given.volume > 0:
        # pymatgen fails as well, after much noise from LAPACK
        raise ValueError("the cell is flat")
    _check_size(given.matrix, float(_lengths(given.lll_matrix).max()))
    lattice = given.get_niggli_reduced_lattice()
    elements, frac_coords = crystal.atomic_numbers, crystal.frac_coords
    if lattice != given:
        cart_coords = [np.dot(row, given.matrix) for row in np.array(frac_coords)]
        frac_coords = np.mod([np.dot(row, lattice.inv_matrix) for row in cart_coords], 1)
    else:
        lattice = given
    if primitive and _may_have_smaller_cell(elements, frac_coords, lattice):
        structure = IStructure(lattice, [Element.from_Z(number) for number in elements.tolist()], frac_coords)
        smaller = structure.get_primitive_structure()
        elements = np.array([site.specie.Z for site in smaller], dtype=np.int64)
        frac_coords, lattice = smaller.frac_coords, smaller.lattice
    return Reduced(elements, frac_coords, lattice.matrix, lattice.volume)


def _parameters(matrices: Floats) -> Floats:
    """(L, 3, 3) -> (L, 6): lengths in A and angles in degrees."""
    a, b, c = (np.ascontiguousarray(matrices[:, i]) for i in range(3))
    lengths = _lengths(matrices)
    angles = np.empty_like(lengths)
    # vecdot and dot share their inner loop, so they round alike
    for i, (one, two) in enumerate(((b, c), (c, a), (a, b))):
        j, k = (i + 1) % 3, (i + 2) % 3
        angles[:, i] = np.clip(np.vecdot(one, two) / (lengths[:, j] * lengths[:, k]), -1, 1)
    return np.concatenate([lengths, np.rad2deg(np.arccos(angles))], axis=1)


def _from_parameters(parameters: Floats) -> Floats:
    """(L, 6) -> (L, 3, 3), as ``Lattice.from_parameters`` orients them."""
    a, b, c = parameters[:, 0], parameters[:, 1], parameters[:, 2]
    radians = np.radians(parameters[:, 3:])
    cos_alpha, cos_beta, cos_gamma = np.cos(radians).T
    sin_alpha, sin_beta, _ = np.sin(radians).T
    gamma_star = np.arccos(np.clip((cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta), -1, 1))
    zero = np.zeros_like(a)
    rows = [
        [a * sin_beta, zero, a * cos_beta],
        [-b * sin_alpha * np.cos(gamma_star), b * sin_alpha * np.sin(gamma_star), b * cos_alpha],
        [zero, zero, c],
    ]
    return np.ascontiguousarray(np.array(rows).transpose(2, 0, 1))


def _similar_cells(matrix: Floats, target: Floats, tolerances: tuple[Tolerances, ...]) -> tuple[Floats, list[Bools]]:
    """Cells of the lattice ``matrix`` with lengths and angles near those of ``target``, in pymatgen's order.

    Returns:
        (L, 3, 3) cells within the first tolerances, and for each tolerances (L,) which cells are within these.

    Raises:
        TooLargeError: too many lattice vectors to list.

    """
    widest = tolerances[0]
    lengths, angles = target[0, :3], target[0, 3:]
    lattice = Lattice(matrix)
    radius = float(lengths.max()) * (1 + widest.ltol)
    _check_size(matrix, radius)
    frac, distances, _, _ = lattice.get_points_in_sphere([[0, 0, 0]], [0, 0, 0], radius, zip_results=False)
    cart = lattice.get_cartesian_coords(frac)
    ratios = [distances / length for length in lengths.tolist()]
    chosen = [np.flatnonzero((ratio < 1 + widest.ltol) & (ratio > 1 / (1 + widest.ltol))) for ratio in ratios]
    a, b, c = (cart[rows] for rows in chosen)
    if max(len(b) * len(c), len(a) * len(c), len(a) * len(b)) > MAX_ANGLES:
        raise TooLargeError
    off = []
    for (one, two), angle in zip(((b, c), (a, c), (a, b)), angles.tolist(), strict=True):
        cosines = np.inner(one, two) / _lengths(one)[:, None] / _lengths(two)
        off.append(np.abs(np.rad2deg(np.arccos(np.clip(cosines, -1, 1))) - angle))
    alpha, beta, gamma = (value <= widest.angle_tol for value in off)
    # some vectors of a at a time: all triples of a needle would not fit into memory
    step = max(1, MAX_ANGLES // max(1, len(b) * len(c)))
    found = [np.empty((0, 3), dtype=np.int64)]
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        found.append(np.argwhere(gamma[rows, :, None] & beta[rows, None, :] & alpha[None]) + np.array([start, 0, 0]))
        if sum(map(len, found)) > MAX_POINTS:
            raise TooLargeError
    triples = np.concatenate(found)
    numbers = np.stack([chosen[axis][triples[:, axis]] for axis in range(3)], axis=1)
    # integers, so exact
    vectors = frac[numbers]
    determinants = np.sum(np.cross(vectors[:, 0], vectors[:, 1]) * vectors[:, 2], axis=1)
    kept = np.abs(determinants) == 1
    numbers, (i, j, k) = numbers[kept], triples[kept].T
    within = []
    for each in tolerances:
        near = [(ratio < 1 + each.ltol) & (ratio > 1 / (1 + each.ltol)) for ratio in ratios]
        right = np.logical_and.reduce([near[axis][numbers[:, axis]] for axis in range(3)])
        for value, one, two in zip(off, (j, i, i), (k, k, j), strict=True):
            right &= value[one, two] <= each.angle_tol
        within.append(right)
    return cart[numbers], within


def _reciprocal_lengths(matrices: Floats) -> Floats:
    """(L, 3, 3) -> (L, 3) lengths of the reciprocal vectors, 2 pi included, in 1/A."""
    return _lengths(np.swapaxes(np.linalg.inv(matrices), 1, 2) * 2 * np.pi)


class _AverageCell:
    """As much of a Lattice as ``pbc_shortest_vectors`` asks for."""

    pbc = (True, True, True)

    def __init__(self, matrix: Floats, reciprocal_lengths: Floats, *, is_reduced: bool) -> None:
        self.lll_matrix = matrix
        self.reciprocal_lengths = reciprocal_lengths
        self._inverse: Floats | None = None
        if not is_reduced:
            lattice = Lattice(matrix)
            self.lll_matrix = lattice.lll_matrix
            self.reciprocal_lengths = _reciprocal_lengths(self.lll_matrix[None])[0]
            if not np.array_equal(lattice.lll_mapping, np.eye(3)):
                self._inverse = lattice.lll_inverse

    def get_lll_frac_coords(self, frac_coords: Floats) -> Floats:
        """(N, 3) in the reduced cell."""
        return frac_coords if self._inverse is None else np.dot(frac_coords, self._inverse)


def _clearly_reduced(matrices: Floats) -> Bools:
    """(L, 3, 3) -> (L,) whether LLL reduction (delta = 0.75) returns the cell itself, rounding aside."""
    a, b, c = matrices[:, 0], matrices[:, 1], matrices[:, 2]

    def along(vector: Floats, base: Floats) -> Floats:
        return np.sum(vector * base, axis=1) / np.sum(base * base, axis=1)

    ab, ac = along(b, a), along(c, a)
    b_star = b - ab[:, None] * a
    bc = along(c, b_star)
    c_star = c - ac[:, None] * a - bc[:, None] * b_star
    norms = [np.sum(vector * vector, axis=1) for vector in (a, b_star, c_star)]
    size = np.maximum.reduce([np.abs(ab), np.abs(ac), np.abs(bc)]) < 0.5 - MARGIN
    lovasz = [
        upper > (1 + MARGIN) * (0.75 - factor**2) * lower
        for (lower, upper), factor in zip(pairwise(norms), (ab, bc), strict=True)
    ]
    return size & lovasz[0] & lovasz[1]


def _assigned_distances(
    cell: _AverageCell, one: Floats, two: Floats, mask: npt.NDArray[np.int64], normalization: float, stol: float
) -> Floats:
    """(N,) distances of the atoms ``one`` to those of ``two`` they are assigned to, after the best translation."""
    frac_tol = cell.reciprocal_lengths * stol / (np.pi * normalization)
    vectors, squares = pbc_shortest_vectors(cell, two, one, mask, return_d2=True, lll_frac_tol=frac_tol)
    rows, columns = linear_sum_assignment(squares)
    shortest = vectors[rows, columns]
    # reduce is what np.mean and np.sum come to
    rest = np.add.reduce((shortest - np.add.reduce(shortest, axis=0) / len(shortest)) ** 2, axis=-1)
    distances: Floats = rest**0.5 * normalization
    return distances


def _distances(one: Reduced, two: Reduced, tolerances: tuple[Tolerances, ...]) -> Iterator[tuple[int, Floats]]:
    """(which tolerances, (N,) distances) of each cell and translation that they admit, in pymatgen's order.

    Both crystals must have the same composition, and the first tolerances must be the widest.
    """
    ratio = (two.volume / one.volume) ** (1 / 6)
    matrix, target = np.array(one.matrix * ratio), np.array(two.matrix / ratio)
    target_parameters = _parameters(target[None])
    cells, within = _similar_cells(matrix, target_parameters, tolerances)
    # each atom for itself, as pymatgen's sites do: a product of whole arrays may round differently
    cart_coords = np.array([np.dot(row, matrix) for row in one.frac_coords])
    mask = np.array(two.elements[:, None] != one.elements[None], dtype=np.int64)
    anchor = int(np.argmax(np.sum(mask, axis=-1)))
    like_anchor = np.flatnonzero(mask[anchor] == 0)

    averages = _from_parameters((_parameters(cells) + target_parameters) / 2)
    volumes = np.abs(np.vecdot(np.cross(averages[:, 0], averages[:, 1]), np.ascontiguousarray(averages[:, 2])))
    # Python's power: NumPy's may round differently
    normalizations = [(len(mask) / volume) ** (1 / 3) for volume in volumes.tolist()]
    reciprocal_lengths = _reciprocal_lengths(averages)
    scales = np.pi * np.array(normalizations)[:, None]
    frac_tols = [reciprocal_lengths * each.stol / scales for each in tolerances]
    inverses = np.linalg.inv(cells)
    is_reduced = _clearly_reduced(averages).tolist()

    # opposite and, in symmetric lattices, rotated cells share their average
    met: dict[bytes, _AverageCell] = {}
    for index, normalization in enumerate(normalizations):
        coords = np.dot(cart_coords, inverses[index])
        coords -= np.floor(coords)
        for moved in two.frac_coords + (coords[like_anchor] - two.frac_coords[anchor])[:, None]:
            for which, each in enumerate(tolerances):
                if not within[which][index]:
                    continue
                if not is_coord_subset_pbc(moved, coords, frac_tols[which][index], mask):
                    break
                key = averages[index].tobytes()
                if key not in met:
                    met[key] = _AverageCell(averages[index], reciprocal_lengths[index], is_reduced=is_reduced[index])
                yield which, _assigned_distances(met[key], coords, moved, mask, normalization, each.stol)


def _same_composition(one: Reduced, two: Reduced) -> bool:
    return np.array_equal(np.sort(one.elements), np.sort(two.elements))


def fits(one: Reduced, two: Reduced, tolerances: Tolerances) -> bool:
    """Whether no atom is farther than ``stol`` from its like in some cell and translation: ``StructureMatcher.fit``.

    pymatgen stops at the first such cell and translation, so which ones there are decides, not their order.

    Raises:
        TooLargeError: a needle of a cell.
        ArithmeticError, LookupError, ValueError: what NumPy and pymatgen make of cells that are none.

    """
    return _same_composition(one, two) and any(
        distances.max() < tolerances.stol for _, distances in _distances(one, two, (tolerances,))
    )


def rms_distances(one: Reduced, two: Reduced, tolerances: tuple[Tolerances, ...]) -> list[float | None]:
    """RMS distance in units of (V/N)^(1/3) under each of the tolerances, None for no match.

    The first tolerances must be the widest.

    Raises:
        TooLargeError: a needle of a cell.
        ArithmeticError, LookupError, ValueError: what NumPy and pymatgen make of cells that are none.

    """
    if not _same_composition(one, two):
        return [None] * len(tolerances)
    best = [math.inf] * len(tolerances)
    order_matters: set[int] = set()
    for which, distances in _distances(one, two, tolerances):
        distance = math.sqrt(distances.dot(distances)) / len(distances) ** 0.5
        best[which] = min(best[which], distance)
        if distance < EXACT and which > 0:
            order_matters.add(which)
        elif distance < EXACT:
            order_matters.update(range(1, len(tolerances)))
            break
    found = [value if value < each.stol else None for value, each in zip(best, tolerances, strict=True)]
    for which in order_matters:
        found[which] = rms_distances(one, two, (tolerances[which],))[0]
    return found
