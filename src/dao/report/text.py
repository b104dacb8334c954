"""Formulas and space groups as they are printed. Imports next to nothing: the web server uses it too."""

from __future__ import annotations

import re


def formula_parts(formula: str) -> list[tuple[str, bool]]:
    """Pieces of a formula, each with whether it is a subscript: SrTiO3 is SrTiO and 3."""
    return [(piece, piece[0].isdigit()) for piece in re.findall(r"[0-9.]+|[^0-9.]+", formula)]


def pretty_space_group(symbol: str) -> str:
    """With overbars and subscripts: Pm-3m as Pm3\u0305m, P6_3/mmc as P6\u2083/mmc."""
    from pymatgen.util.string import unicodeify_spacegroup

    return str(unicodeify_spacegroup(symbol))
