"""Cells of a crystal: reduction, symmetry, heights and closest approach (by moyopy and NumPy).

Lattices are row vectors in A. Every crystal returned keeps ``material_id`` and ``info`` and has a right-handed cell.
Tolerances (``symprec``) are distances in A.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Float64, Int64

from dao.crystal import Crystal
from dao.errors import InputError
from dao.geometry.symmetry import TRUSTED_SYMPREC, SymmetryDataset, symmetry_dataset

SYMPREC = TRUSTED_SYMPREC
"""Default tolerance in A, as in pymatgen's ``SpacegroupAnalyzer``: for relaxed or experimental structures."""

REFINE_SYMPRECS = (0.01, 0.05, 0.1, 0.2)
"""Tolerances in A tried on structures that carry a model's noise; 0.1 is what the Materials Project reports at."""

REFINE_MAX_DISPLACEMENT = 0.1
"""Farthest in A that symmetrisation may move an atom for :func:`refine_space_group` to believe it."""

REFINE_MAX_STRAIN = 0.03
"""Largest principal strain of the cell that :func:`refine_space_group` believes (3 % of a length)."""

_IMAGES = np.array(list(product((-1.0, 0.0, 1.0), repeat=3)))
_PAIRS_AT_ONCE = 20_000


def heights(crystal: Crystal) -> Float64[np.ndarray, " 3"]:
    """Distances in A between the opposite faces of the cell: V / |b x c|, V / |c x a|, V / |a x b| (0 if flat)."""
    a, b, c = crystal.lattice
    areas = [float(np.linalg.norm(np.cross(*pair))) for pair in ((b, c), (c, a), (a, b))]
    return np.array([crystal.volume / area if area > 0 else 0.0 for area in areas])


def min_distance(crystal: Crystal) -> float:
    """Smallest distance in A between any two atoms, periodic images (also of the same atom) included.

    Exact for cells of any shape: in a Minkowski-reduced cell each height is at least its vector's length by sqrt(2),
    so no pair closer than the shortest lattice vector lies more than one cell away, and 27 images are enough.

    Raises:
        InputError: the lattice vectors are not independent.

    """
    from moyopy import minkowski_reduce

    basis, transformation = _reduce(crystal, minkowski_reduce)
    closest = float(np.linalg.norm(basis, axis=1).min())
    if crystal.num_atoms == 1:
        return closest
    coords = _in_new_basis(crystal, transformation)
    images = _IMAGES @ basis
    first, second = np.triu_indices(crystal.num_atoms, k=1)
    for start in range(0, first.size, _PAIRS_AT_ONCE):
        pairs = slice(start, start + _PAIRS_AT_ONCE)
        difference = coords[second[pairs]] - coords[first[pairs]]
        difference = (difference - np.rint(difference)) @ basis
        squared = ((difference[:, None] + images) ** 2).sum(-1)
        closest = min(closest, float(np.sqrt(squared.min())))
    return closest


def niggli_reduce(crystal: Crystal) -> Crystal:
    """The same crystal in its Niggli cell: same atoms in the same order, same cartesian frame, right-handed.

    Raises:
        InputError: the lattice vectors are not independent, or too far sheared to reduce.

    """
    from moyopy import niggli_reduce as reduce_basis

    basis, transformation = _reduce(crystal, reduce_basis)
    return _rebuilt(crystal, crystal.atomic_numbers, _in_new_basis(crystal, transformation), basis)


def is_niggli(crystal: Crystal, tolerance: float = 1e-2) -> bool:
    """Whether the cell is a Niggli cell within rounding (``tolerance`` in units of its shortest vector squared).

    Of a crystal with vectors or angles that are alike, several cells are, and rounding picks one of them.
    """
    gram = crystal.lattice @ crystal.lattice.T
    a, b, c = gram.diagonal()
    angles = np.array([2.0 * gram[1, 2], 2.0 * gram[0, 2], 2.0 * gram[0, 1]])
    off = tolerance * float(gram.diagonal().min())
    shortest = a <= b + off and b <= c + off and bool((np.abs(angles) <= np.array([b, a, a]) + off).all())
    acute, obtuse = bool((angles >= -off).all()), bool((angles <= off).all()) and angles.sum() + a + b >= -off
    return bool(shortest and (acute or obtuse))


def primitive(crystal: Crystal, symprec: float = SYMPREC) -> Crystal:
    """The primitive cell, Niggli-reduced, in the crystal's own frame and not symmetrised.

    Atoms that a lattice translation carries into each other within ``symprec`` become one at their mean position;
    they appear in the order of their first member. :func:`symmetrize` gives the standardised, symmetrised cell.

    Raises:
        InputError: no symmetry can be determined (coinciding atoms, degenerate cell, absurd ``symprec``).

    """
    dataset = symmetry_dataset(crystal, symprec)
    to_primitive = dataset.to_primitive
    coords = crystal.frac_coords @ np.linalg.inv(to_primitive).T
    _, firsts, members = np.unique(dataset.sites, return_index=True, return_inverse=True)
    offsets = coords - coords[firsts[members]]
    offsets -= np.rint(offsets)
    means = np.stack([np.bincount(members, weights=offsets[:, axis]) for axis in range(3)], axis=1)
    merged = coords[firsts] + means / np.bincount(members)[:, None]
    order = np.argsort(firsts)
    small = _rebuilt(crystal, crystal.atomic_numbers[firsts[order]], merged[order], to_primitive.T @ crystal.lattice)
    return niggli_reduce(small)


def reduced(crystal: Crystal) -> Crystal:
    """The crystal in a primitive Niggli cell; itself, if it is in one.

    That is what predictors are trained on, and to them the same crystal in another cell is another crystal: one put
    rock salt in its cube of eight atoms 0.09 eV/atom higher than in its primitive cell.
    """
    try:
        small = primitive(crystal)
    except InputError:  # no symmetry can be determined
        small = niggli_reduce(crystal)
    return crystal if small.num_atoms == crystal.num_atoms and is_niggli(crystal) else small


def space_group(crystal: Crystal, symprec: float = SYMPREC) -> tuple[int, str]:
    """Space group number (1 to 230) and short international symbol (``Fm-3m``, ``P2_1/c``) within ``symprec``.

    Raises:
        InputError: no symmetry can be determined (coinciding atoms, degenerate cell, absurd ``symprec``).

    """
    number = symmetry_dataset(crystal, symprec).number
    return number, _symbol(number)


def symmetrize(crystal: Crystal, symprec: float = SYMPREC) -> Crystal:
    """The standardised primitive cell (spglib's convention), lattice and positions refined to the space group.

    Raises:
        InputError: no symmetry can be determined (coinciding atoms, degenerate cell, absurd ``symprec``).

    """
    dataset = symmetry_dataset(crystal, symprec)
    return _rebuilt(crystal, dataset.atomic_numbers, dataset.frac_coords, dataset.lattice)


def refine_space_group(
    crystal: Crystal,
    symprecs: Sequence[float] = REFINE_SYMPRECS,
    *,
    max_displacement: float = REFINE_MAX_DISPLACEMENT,
    max_strain: float = REFINE_MAX_STRAIN,
) -> tuple[int, str, float]:
    """Highest-symmetry reading of a structure that carries a model's noise: number, symbol and tolerance in A.

    A generated rocksalt whose atoms are 0.03 A off is P1 at 0.01 A; its reader means Fm-3m. Each tolerance is tried,
    and its reading is believed if symmetrising moves no atom farther than ``max_displacement`` and strains the cell by
    no more than ``max_strain``. Of those the one with the most symmetry operations in the cell wins (pure translations
    count, so that a smaller primitive cell is a higher symmetry); the tolerance returned is the tightest that gives it,
    so a value of 0.01 says that the symmetry is simply there. Small true distortions (off-centre BaTiO3, tilts below
    0.1 A) do disappear in this reading: give it beside :func:`space_group`, not instead.

    Raises:
        InputError: no symmetry can be determined at any of the tolerances.

    """
    best: tuple[int, int, float] | None = None
    for symprec in sorted(symprecs):
        try:
            dataset = symmetry_dataset(crystal, symprec)
        except InputError:
            continue
        displacement, strain = _distortion(crystal, dataset)
        # not dataset.operations, from which those that a supercell's lattice lacks are left out
        translations = crystal.num_atoms // dataset.atomic_numbers.size
        operations = translations * _point_group_order(dataset.number)
        if displacement > max_displacement or strain > max_strain:
            continue
        if best is None or operations > best[0]:
            best = (operations, dataset.number, symprec)
    if best is None:
        raise InputError(
            f"{crystal.name}: no space group at a tolerance of {', '.join(f'{value:g}' for value in symprecs)} A"
        )
    return best[1], _symbol(best[1]), best[2]


def _distortion(crystal: Crystal, dataset: SymmetryDataset) -> tuple[float, float]:
    """Farthest that symmetrising moves an atom (A, uniform shift removed) and its largest principal strain."""
    to_primitive, basis = dataset.to_primitive, dataset.lattice
    coords = (crystal.frac_coords - dataset.origin_shift) @ np.linalg.inv(to_primitive).T
    moved = coords - dataset.frac_coords[dataset.sites]
    moved = (moved - np.rint(moved)) @ basis
    moved -= moved.mean(0)
    # the ideal cell is rotated to its standard setting: singular values do not see that
    stretch = np.linalg.svd(np.linalg.solve(to_primitive.T @ crystal.lattice, basis), compute_uv=False)
    return float(np.linalg.norm(moved, axis=1).max()), float(np.abs(stretch - 1.0).max())


@cache
def _point_group_order(number: int) -> int:
    from moyopy import operations_from_number

    return len(operations_from_number(number, primitive=True))


def _symbol(number: int) -> str:
    from moyopy import SpaceGroupType

    return SpaceGroupType(number).hm_short.replace(" ", "")


def _reduce(
    crystal: Crystal, reduce_basis: Callable[[list[list[float]]], tuple[list[list[float]], list[list[int]]]]
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3 3"]]:
    """Reduced basis and the integer matrix T of reduced = T @ lattice."""
    try:
        _, transposed = reduce_basis(crystal.lattice.tolist())
    except ValueError as error:
        raise InputError(f"{crystal.name}: cell cannot be reduced ({error})") from error
    transformation = np.array(transposed, dtype=np.float64).T
    # recomputed, as the library's own basis carries the rounding of each of its steps
    return transformation @ crystal.lattice, transformation


def _in_new_basis(crystal: Crystal, transformation: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "n 3"]:
    # a unimodular matrix has an integer inverse
    return crystal.frac_coords @ np.rint(np.linalg.inv(transformation))


def _rebuilt(
    crystal: Crystal,
    atomic_numbers: Int64[np.ndarray, " n"],
    frac_coords: Float64[np.ndarray, "n 3"],
    lattice: Float64[np.ndarray, "3 3"],
) -> Crystal:
    return Crystal(atomic_numbers, frac_coords, lattice, material_id=crystal.material_id, info=crystal.info)
