"""Write ``src/dao/weights/prototypes/aflow.safetensors``: the AFLOW prototypes that pymatgen distributes.

They are the crystals of the AFLOW Library of Crystallographic Prototypes (Mehl et al., Computational Materials Science
136, S1-S828, 2017), which pymatgen (MIT licence) holds as JSON. Their volumes are measured in the per-element volumes
of a larger table, since a few hundred crystals do not say how large every element is.

    python tools/aflow_table.py [TABLE.safetensors] [OUT.safetensors]
"""

from __future__ import annotations

import gzip
import json
import sys
from importlib import metadata, resources
from pathlib import Path

from pymatgen.core import Structure

from dao.crystal import Limits
from dao.data.labels import LABEL_SYMPREC
from dao.errors import InputError
from dao.geometry.symmetrized import symmetrized
from dao.interop.pymatgen import from_structure
from dao.prediction.prototype_build import condense
from dao.prediction.prototype_table import PrototypeTable
from dao.prediction.sources import TABLES

LIMITS = Limits(max_atoms=52)
"""As many atoms as in the other table."""


def main(companion: Path, out: Path) -> None:
    """Read, describe, condense, write."""
    text = resources.files("pymatgen.analysis.prototypes").joinpath("aflow_prototypes.json.gz").read_bytes()
    entries = json.loads(gzip.decompress(text))
    described, left_out = [], []
    for entry in entries:
        try:
            crystal = from_structure(
                Structure.from_dict(entry["snl"]).get_primitive_structure(), entry["tags"]["aflow"]
            )
            crystal.validate(LIMITS)
            described.append(symmetrized(crystal, LABEL_SYMPREC))
        except InputError as error:
            left_out.append(str(error))
    record = {
        "source": "pymatgen aflow_prototypes.json.gz",
        "version": metadata.version("pymatgen"),
        "splits": [],
        "read": len(entries),
        "max_atoms": LIMITS.max_atoms,
        "notes": left_out,
    }
    table = condense(described, PrototypeTable.load(companion).atomic_volumes, record)
    table.save(out)
    print(f"{out}: {len(table)} prototypes of {len(described)} crystals, {out.stat().st_size / 1e3:.0f} kB")
    print(*left_out, sep="\n")


if __name__ == "__main__":
    given = [Path(text) for text in sys.argv[1:]]
    main(*(given + [TABLES / "pool.safetensors", TABLES / "aflow.safetensors"][len(given) :]))
