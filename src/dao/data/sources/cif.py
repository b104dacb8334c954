"""Crystals from the text of a CIF, by pymatgen."""

from __future__ import annotations

from dao.crystal import Crystal
from dao.data.sources.failures import reading
from dao.interop.pymatgen import from_structure


def parse_cif(text: str, where: str, name: str) -> list[Crystal]:
    """One crystal for each data block that holds a structure; ``info["warnings"]`` keeps what the parser remarked.

    The cell is kept as the file has it, filled by its symmetry operations. The first crystal is called ``name``, later
    ones ``name-2`` and so on.

    Raises:
        InputError: no structure, or one that is disordered or malformed; starts with ``where``.

    """
    from pymatgen.io.cif import CifParser

    remarks: list[str] = []
    crystals = []
    with reading(where, name) as caught:
        parser = CifParser.from_str(text)
        try:
            # blocks without a structure are legal (a journal's data_global), hence no on_error="raise"
            structures = parser.parse_structures(primitive=False, on_error="ignore")
        except ValueError as error:
            raise ValueError(_reason(parser.warnings, str(error))) from error
        remarks = list(parser.warnings)
        for index, structure in enumerate(structures):
            crystals.append(from_structure(structure, name if index == 0 else f"{name}-{index + 1}"))
    remarks = list(dict.fromkeys([*remarks, *caught]))
    for crystal in crystals:
        if remarks:
            crystal.info["warnings"] = [*crystal.info.get("warnings", []), *remarks]
    return crystals


def _reason(remarks: list[str], otherwise: str) -> str:
    """Why pymatgen dropped the first block; of a missing tag it says no more than its name, in quotes."""
    lines = [line.strip() for remark in remarks for line in remark.splitlines()[1:] if line.strip()]
    if not lines:
        return otherwise
    return f"no tag {lines[0]}" if lines[0].startswith("'_") else lines[0]
