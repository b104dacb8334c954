"""What SMACT 2.6 says of the elements: oxidation states, electronegativity, metal or not (``smact26.json``).

MIT licence, D. W. Davies et al., Journal of Open Source Software 4, 1361 (2019); :mod:`dao.evaluation.validity` says
why it is 2.6.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class SmactElement:
    """One element.

    Attributes:
        oxidation_states: all that SMACT knows of, rare ones among them, rising.
        electronegativity: Pauling; None where it has none.
        metal: whether it is one.

    """

    oxidation_states: tuple[int, ...]
    electronegativity: float | None
    metal: bool


@cache
def smact_elements() -> tuple[SmactElement, ...]:
    """The elements from hydrogen (entry 0) to lawrencium (entry 102)."""
    rows = json.loads((files("dao") / "smact26.json").read_text(encoding="utf-8")).values()
    return tuple(SmactElement(tuple(row["oxidation_states"]), row["electronegativity"], row["metal"]) for row in rows)
