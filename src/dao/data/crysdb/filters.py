"""Which crystals are kept, in which cell, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dao.crystal import Crystal
from dao.data.shards import HULL_SOURCE, number
from dao.data.sources.items import Item
from dao.elements import ATOMIC_NUMBERS
from dao.errors import InputError
from dao.geometry.cells import niggli_reduce

REASONS = {
    "unreadable": "disordered, not periodic or malformed",
    "num_atoms": "outside the number of atoms",
    "elements": "other elements",
    "no_energy": "energy above hull unknown",
    "e_above_hull": "too far above the hull",
    "invalid": "no valid crystal",
    "repeated_id": "id met before",
}
"""Why crystals are dropped, by the first that applies, and what tables call it."""

EXAMPLES = 3
"""Dropped crystals of each reason that a report names."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which crystals are kept; by default those of the paper's CrysDB (section 2.2).

    Attributes:
        min_atoms: of the cell that the source gives.
        max_atoms: of that cell.
        e_above_hull_below: eV/atom, exclusive.
        keep_unknown: keep crystals whose energy above the hull no source states.
        elements: symbols; crystals with any other are dropped. Empty for no limit.

    """

    min_atoms: int = 3
    max_atoms: int = 30
    e_above_hull_below: float = 1.0
    keep_unknown: bool = False
    elements: tuple[str, ...] = ()

    def reason(self, crystal: Crystal) -> str:
        """Why a crystal is dropped, of :data:`REASONS`; empty if it is kept."""
        if not self.min_atoms <= crystal.num_atoms <= self.max_atoms:
            return "num_atoms"
        if self.elements and not crystal.counts.keys() <= {ATOMIC_NUMBERS[symbol] for symbol in self.elements}:
            return "elements"
        energy = number(crystal.info.get("e_above_hull"))
        if energy is None:
            return "" if self.keep_unknown else "no_energy"
        return "" if energy < self.e_above_hull_below else "e_above_hull"


@dataclass
class Sifted:
    """What is left of some items.

    Attributes:
        kept: valid crystals in their Niggli cells.
        dropped: number by reason.
        examples: the first few dropped of each reason, as ``id: why``.

    """

    kept: list[Crystal] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, text: str) -> None:
        """Count one."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(text)


def sift(items: Iterable[Item], filters: Filters) -> Sifted:
    """Keep what passes the filters and is a crystal; the number of atoms is that of the source's own cell."""
    result = Sifted()
    for item in items:
        if item.crystal is None:
            result.drop("unreadable", f"{item.material_id or item.where}: {item.reason}")
            continue
        reason = filters.reason(item.crystal)
        if reason:
            result.drop(reason, item.crystal.name)
            continue
        try:
            crystal = niggli_reduce(item.crystal)
            crystal.validate()
        except InputError as error:
            result.drop("invalid", str(error))
            continue
        energy = number(crystal.info.get("e_above_hull"))
        if energy is not None:
            # OQMD, for one, measures a ground state from the hull of the others: below zero
            crystal.info["e_above_hull"] = max(0.0, energy)
            crystal.info[HULL_SOURCE] = crystal.info.get(HULL_SOURCE) or "database"
        result.kept.append(crystal)
    return result
