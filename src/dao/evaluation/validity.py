"""Which crystals count in the "filtered" match rate: those of a plausible composition whose atoms do not overlap.

The two rules are CDVAE's (T. Xie et al., ICLR 2022); DiffCSP, FlowMM, CrystalFlow and the paper count by them too. A
pair is unmatched if either crystal fails them. As the composition is given in structure prediction, they mostly refuse
true crystals: of the test targets 90.9 % pass on MP-20 (reconstructed, 97.3 %) and 91.4 % on MPTS-52, which no model's
filtered match rate can exceed.

The composition rule depends on the version of SMACT: the published figures stand on 2.x, which needs NumPy 1, and 4
decides otherwise. So the columns of SMACT 2.6's tables that matter are kept in ``smact26.json`` (MIT licence, D. W.
Davies et al., Journal of Open Source Software 4, 1361 (2019)). CDVAE's function on SMACT 2.6 itself decides alike for
all 111,655 compositions tried: MP-20, MPTS-52, a pool of the Materials Project and random ones of elements 1 to 103.
DiffCSP gives up on more than 10^7 combinations of oxidation states; no composition of those data sets has as many.
CDVAE also refuses a crystal that matminer's CrystalNN fingerprint fails on; we do not (0 of 568 MP-20 targets do).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from dao.crystal import DEFAULT_LIMITS, Crystal
from dao.errors import InputError
from dao.smact import smact_elements

MIN_DISTANCE = 0.5
"""Smallest distance in A between two different atoms, over all periodic images; an atom's own images do not count."""

MIN_VOLUME = 0.1
"""Smallest volume of a cell, in A^3."""

_FLAT = 1e-12
"""Volume by product of the vectors' lengths below which a cell is flat up to rounding."""


@lru_cache(maxsize=2**16)
def _neutral(composition: tuple[tuple[int, int], ...]) -> bool:
    """Is there one oxidation state an element so that charges cancel and all cations are less electronegative?

    SMACT tries every combination of states, which explodes with the number of elements. But cations must be strictly
    less electronegative than anions, so some electronegativity parts the two; then only the reachable totals matter.
    """
    elements = [(smact_elements()[number - 1], count) for number, count in composition]
    scale = [element.electronegativity for element, _ in elements]
    # SMACT's test fails where one is unknown
    known = [value for value in scale if value is not None]
    if len(known) < len(scale):
        return False
    for highest_cation in set(known):
        charges = {0}
        for (element, count), electronegativity in zip(elements, known, strict=True):
            is_cation = electronegativity <= highest_cation
            states = [state for state in element.oxidation_states if (state > 0) == is_cation]
            charges = {charge + count * state for charge in charges for state in states}
        if 0 in charges:
            return True
    return False


def valid_composition(counts: Mapping[int, int]) -> bool:
    """CDVAE's ``smact_validity`` with the tables of SMACT 2.6, for atomic number -> atoms in the cell.

    Elements and alloys of nothing but metals pass. Anything else needs one oxidation state an element, at these counts
    divided by their greatest common divisor, with no net charge and every cation strictly less electronegative
    (Pauling) than every anion; so compounds of an element without electronegativity (He, Ne, Ar, Pm, Rn, Lr) fail.

    Raises:
        InputError: no atoms, a negative count, or an element beyond lawrencium (103), of which SMACT knows nothing.

    """
    present = {number: count for number, count in sorted(counts.items()) if count}
    if not present or min(present.values()) < 0:
        raise InputError(f"composition {dict(counts)}: needs positive numbers of atoms")
    unknown = [number for number in present if not 1 <= number <= len(smact_elements())]
    if unknown:
        raise InputError(f"composition: SMACT has no data on atomic number {unknown[0]}")
    if len(present) == 1 or all(smact_elements()[number - 1].metal for number in present):
        return True
    divisor = math.gcd(*present.values())
    return _neutral(tuple((number, count // divisor) for number, count in present.items()))


def valid_structure(crystal: Crystal) -> bool:
    """CDVAE's ``structure_validity``: a cell of :data:`MIN_VOLUME` whose atoms keep :data:`MIN_DISTANCE`.

    Raises:
        InputError: more atoms than :class:`dao.crystal.Limits` allows; time and memory grow with their square.

    """
    DEFAULT_LIMITS.check_num_atoms(crystal.num_atoms, crystal.name)
    # flat cells go first, those of which rounding makes a volume too: pymatgen fails to reduce them for nearest images
    rounding = _FLAT * float(np.linalg.norm(crystal.lattice, axis=1).prod())
    if not crystal.volume >= max(MIN_VOLUME, rounding):
        return False
    from pymatgen.core import Lattice

    distances = Lattice(crystal.lattice).get_all_distances(crystal.frac_coords, crystal.frac_coords)
    return bool(distances[~np.eye(crystal.num_atoms, dtype=bool)].min(initial=math.inf) >= MIN_DISTANCE)


def valid(crystal: Crystal) -> bool:
    """Does the crystal count in the filtered match rate: :func:`valid_composition` and :func:`valid_structure`?

    Raises:
        InputError: as those two.

    """
    return valid_composition(crystal.counts) and valid_structure(crystal)
