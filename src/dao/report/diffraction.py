"""Simulated X-ray powder patterns, by pymatgen's ``XRDCalculator``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec

from dao.crystal import Crystal
from dao.errors import InputError

RADIATION, WAVELENGTH = "CuKa", 1.54184
"""Copper K-alpha, the mean of K-alpha 1 and 2 weighted 2:1, in A: what ``XRDCalculator`` means by ``CuKa``."""

TWO_THETA = (10.0, 90.0)
"""Degrees."""


@dataclass(frozen=True)
class Peak:
    """A reflection: its angle 2 theta in degrees, height relative to the highest (100), Miller indices and d in A."""

    two_theta: float
    intensity: float
    hkl: str
    spacing: float


def require_diffraction() -> None:
    """Refuse to go on without pymatgen's analysis package, of which pymatgen-core is the core only.

    Raises:
        InputError: it is not installed.

    """
    try:
        found = find_spec("pymatgen.analysis.diffraction") is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise InputError("the report's X-ray patterns need pymatgen: pip install '.[report]' in the folder of DAO")


def powder_pattern(crystal: Crystal) -> list[Peak]:
    """Reflections at Cu K-alpha from 10 to 90 degrees, by rising angle; none weaker than 0.1 % of the strongest.

    Of the crystal as it is in whatever cell, at rest: no thermal motion, texture or width.

    Raises:
        InputError: see :func:`require_diffraction`.

    """
    require_diffraction()
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    with warnings.catch_warnings():
        # of elements without an electronegativity
        warnings.simplefilter("ignore")
        pattern = XRDCalculator(RADIATION).get_pattern(crystal.to_structure(), two_theta_range=TWO_THETA)
    return [
        Peak(float(angle), float(height), _indices(families), float(spacing))
        for angle, height, families, spacing in zip(pattern.x, pattern.y, pattern.hkls, pattern.d_hkls, strict=True)
        if height >= 0.1
    ]


def _indices(families: list[dict[str, tuple[int, ...]]]) -> str:
    """Miller indices of the families that coincide; of hexagonal cells without their third, redundant index."""
    shown = []
    for family in families:
        hkl = family["hkl"]
        three = (hkl[0], hkl[1], hkl[3]) if len(hkl) == 4 else hkl
        apart = " " if any(abs(index) > 9 for index in three) else ""
        shown.append("(" + apart.join(f"{abs(i)}\u0305" if i < 0 else str(i) for i in three) + ")")
    return " ".join(shown)
