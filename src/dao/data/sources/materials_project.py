"""Crystals of the Materials Project by its own client, ``mp-api`` (an optional extra), with the user's key.

A page is all cells of one number of atoms: the client pages by itself, but cannot go on amidst a query.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from dao.data.sources.failures import one_line, reading
from dao.data.sources.items import Item
from dao.data.sources.pages import Page, TemporaryError, attempt
from dao.errors import InputError
from dao.interop.pymatgen import from_structure

KEY = "MP_API_KEY"

LABELS = {
    "formation_energy": "formation_energy_per_atom",
    "e_above_hull": "energy_above_hull",
    "band_gap": "band_gap",
}
"""Our labels in the words of the summaries."""


class MaterialsProject:
    """The current release."""

    def __init__(self, *, name: str, min_atoms: int, max_atoms: int, attempts: int = 6) -> None:
        """Ask nothing yet; crystals have ``min_atoms`` to ``max_atoms`` atoms in the cell.

        Raises:
            InputError: no client installed, or no key in the environment.

        """
        if find_spec("mp_api") is None:
            raise InputError(
                f"--source {name}: needs the Materials Project's client (pip install '.[mp]' in the folder of DAO)"
            )
        key = os.environ.get(KEY, "")
        if not key:
            raise InputError(f"--source {name}: needs an API key of the Materials Project in the environment as {KEY}")
        self.name = name
        self._key = key
        self._sizes = range(min_atoms, max_atoms + 1)
        self._attempts = attempts

    def made_by(self) -> dict[str, object]:
        """See :class:`~dao.data.sources.pages.PagedSource`."""
        return {"materials_project": [self._sizes.start, self._sizes.stop - 1]}

    def fetch(self, cursor: str | None) -> Page:
        """See :class:`~dao.data.sources.pages.PagedSource`; cursors are numbers of atoms.

        Raises:
            ProviderError: errors at every attempt.

        """
        atoms = self._sizes.start if cursor is None else int(cursor)
        documents = attempt(lambda: self._search(atoms), self._attempts)
        # the client asks for several pages at a time, so their order is chance
        items = sorted((_item(document) for document in documents), key=lambda item: item.material_id or "")
        return Page(items, str(atoms + 1) if atoms + 1 in self._sizes else None)

    def _search(self, atoms: int) -> list[dict[str, Any]]:
        from mp_api.client import MPRester

        fields = ["material_id", "structure", *LABELS.values()]
        try:
            with MPRester(self._key, use_document_model=False, mute_progress_bars=True) as client:
                found = client.materials.summary.search(
                    num_sites=(atoms, atoms), deprecated=False, all_fields=False, fields=fields
                )
                return [dict(document) for document in found]
        except Exception as error:  # whatever the client makes of a network or of a refusal
            raise TemporaryError(one_line(str(error).replace(self._key, "***")) or type(error).__name__) from error


def _item(document: dict[str, Any]) -> Item:
    from pymatgen.core import Structure

    material_id = str(document.get("material_id"))
    where = f"mp, {material_id}"
    try:
        with reading(where):
            structure = document["structure"]
            if isinstance(structure, dict):
                structure = Structure.from_dict(structure)
            crystal = from_structure(structure, material_id)
            for label, name in LABELS.items():
                value = document.get(name)
                crystal.info[label] = float(value) if isinstance(value, int | float) else None
            crystal.info["source"] = "mp"
    except InputError as error:
        return Item.unreadable(where, material_id, error)
    return Item(where, material_id, crystal)
