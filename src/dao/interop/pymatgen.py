"""Exact conversion between :class:`~dao.crystal.Crystal` and pymatgen's ``Structure``.

Oxidation states and site properties are dropped. Deuterium and tritium are read as hydrogen, which they are to any
model of electrons; ``info["warnings"]`` says so. Sites that are disordered, partly occupied or of an unknown species,
and cells that are not periodic in three directions, are refused.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from dao.crystal import Crystal
from dao.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import PeriodicSite, Structure

_ID_KEY = "material_id"
_ISOTOPES = ("D", "T")


def formula_of(crystal: Crystal, *, reduced: bool = False) -> str:
    """The cell's formula in pymatgen's spelling and order: ``Sr1 Ti1 O3``, or reduced ``SrTiO3``."""
    from pymatgen.core import Composition, Element

    composition = Composition({Element.from_Z(number): count for number, count in crystal.counts.items()})
    with warnings.catch_warnings():
        # sorting by electronegativity warns of noble gases, which have none
        warnings.simplefilter("ignore")
        return str(composition.reduced_formula if reduced else composition.formula)


def _atomic_number(site: PeriodicSite, index: int, name: str) -> tuple[int, bool]:
    from pymatgen.core import DummySpecies, Element, Species

    if not site.is_ordered:
        raise InputError(f"{name}: site {index + 1} is disordered or partly occupied ({site.species_string})")
    specie = site.specie
    if isinstance(specie, DummySpecies):
        raise InputError(f"{name}: site {index + 1} holds {specie}, which is no element")
    element = specie.element if isinstance(specie, Species) else Element(specie)
    return int(element.Z), element.name in _ISOTOPES


def from_structure(structure: Structure, material_id: str | None = None) -> Crystal:
    """Crystal with the structure's cell and sites in their order.

    The name is ``material_id`` or else ``structure.properties["material_id"]``; other properties go to ``info``.

    Raises:
        InputError: a disordered or unknown site, or a cell not periodic in three directions.

    """
    properties = dict(structure.properties)
    stored_id = properties.pop(_ID_KEY, None)
    if material_id is None and stored_id is not None:
        material_id = str(stored_id)
    name = material_id if material_id is not None else "structure"
    if not all(structure.lattice.pbc):
        raise InputError(f"{name}: periodic in {sum(structure.lattice.pbc)} of 3 directions; a crystal needs all three")
    read = [_atomic_number(site, index, name) for index, site in enumerate(structure)]
    if any(isotope for _, isotope in read):
        properties["warnings"] = [*properties.get("warnings", []), "deuterium or tritium read as hydrogen"]
    return Crystal(
        [number for number, _ in read],
        structure.frac_coords,
        structure.lattice.matrix,
        material_id=material_id,
        info=properties,
    )


def to_structure(crystal: Crystal) -> Structure:
    """Structure with the same cell, the same sites in the same order; ``material_id`` and ``info`` as properties."""
    from pymatgen.core import Element, Lattice, Structure

    properties = dict(crystal.info)
    if crystal.material_id is not None:
        properties[_ID_KEY] = crystal.material_id
    return Structure(
        Lattice(crystal.lattice),
        [Element.from_Z(number) for number in crystal.atomic_numbers.tolist()],
        crystal.frac_coords,
        properties=properties,
    )
