from __future__ import annotations

import pytest
from toys import toy

from dao.data.store import pack_crystals
from dao.data.symmetrized import symmetrized_set
from dao.data.symmetry_batch import SymmetryLabel
from dao.data.symmetry_labels import symmetry_labels


def test_labels_of_known_structures() -> None:
    crystals = pack_crystals(
        [
            toy("rocksalt", ("Na", "Cl"), 5.6),
            toy("rocksalt", ("Cl", "Na"), 5.6),
            toy("fluorite", ("Ca", "F"), 5.5),
            toy("cscl", ("Cs", "Cl"), 4.1),
            toy("zincblende", ("Ga", "As"), 5.65),
        ]
    )
    rock_salt = SymmetryLabel(225, ((11, "a"), (17, "b")))
    assert symmetry_labels(symmetrized_set(crystals)) == [
        # whichever of the two is at the origin
        rock_salt,
        rock_salt,
        SymmetryLabel(225, ((9, "c"), (20, "a"))),
        SymmetryLabel(221, ((17, "a"), (55, "b"))),
        SymmetryLabel(216, ((31, "a"), (33, "c"))),
    ]
    with pytest.raises(ValueError, match="symmetrised"):
        symmetry_labels(crystals)
