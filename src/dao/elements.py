"""Symbols and Pauling electronegativities of the elements 1 (H) to 94 (Pu), without importing pymatgen.

Values as in pymatgen (MIT), whose order of the elements in a formula follows from them; a test holds the two together.
"""

from __future__ import annotations

from typing import Final

_NONE: Final = float("inf")  # helium, neon and argon have no electronegativity and come last in a formula

# fmt: off
SYMBOLS: Final[tuple[str, ...]] = (
    "",
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca",
    "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr", "Y",
    "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce",
    "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir",
    "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu",
)
"""Element symbols by atomic number; entry 0 is empty (padding)."""

ELECTRONEGATIVITY: Final[tuple[float, ...]] = (
    _NONE,
    2.2, _NONE, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, _NONE, 0.93, 1.31, 1.61, 1.9, 2.19, 2.58, 3.16, _NONE,
    0.82, 1.0, 1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.9, 1.65, 1.81, 2.01, 2.18, 2.55, 2.96, 3.0, 0.82,
    0.95, 1.22, 1.33, 1.6, 2.16, 1.9, 2.2, 2.28, 2.2, 1.93, 1.69, 1.78, 1.96, 2.05, 2.1, 2.66, 2.6, 0.79, 0.89, 1.1,
    1.12, 1.13, 1.14, 1.13, 1.17, 1.2, 1.2, 1.1, 1.22, 1.23, 1.24, 1.25, 1.1, 1.27, 1.3, 1.5, 2.36, 1.9, 2.2, 2.2,
    2.28, 2.54, 2.0, 1.62, 2.33, 2.02, 2.0, 2.2, 2.2, 0.7, 0.9, 1.1, 1.3, 1.5, 1.38, 1.36, 1.28,
)
"""Pauling electronegativity by atomic number (dimensionless); infinite where there is none."""
# fmt: on

ATOMIC_NUMBERS: Final[dict[str, int]] = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}
"""Atomic number by element symbol."""
