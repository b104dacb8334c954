from __future__ import annotations

import json
import time

import numpy as np
import pytest
from symmetric_toys import disguised
from toys import toy, toy_crystals

from dao.crystal import Crystal
from dao.data.store import pack_crystals
from dao.element_distances import element_distances
from dao.geometry.cells import niggli_reduce
from dao.prediction.novelty import KnownKinds, with_novelty
from dao.prediction.prototype_build import build_table
from dao.prediction.prototype_table import PrototypeTable
from dao.prediction.ranking import rank_by_recurrence


@pytest.fixture(scope="module")
def known() -> KnownKinds:
    table = build_table(pack_crystals(toy_crystals()), {"source": "toys"})
    return KnownKinds(table, element_distances(table.atomic_volumes))


def strange() -> Crystal:
    """A cell of 2 atoms that no prototype of the toys is like."""
    return Crystal([11, 17], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.3]], 3.0 * np.diag([1.0, 1.0, 2.3]))


@pytest.mark.parametrize(
    ("crystal", "group", "reading", "like"),
    [
        (toy("rocksalt", ("Na", "Cl"), 5.0), 225, "known crystal", "NaCl"),
        # of rock salt both descriptions are the same: sodium on either site
        (toy("rocksalt", ("Cl", "Na"), 5.0), 225, "known crystal", "NaCl"),
        (toy("zincblende", ("Na", "Cl"), 6.0), 216, "known kind", None),
        (toy("fluorite", ("Sr", "Cl"), 7.0), 225, "known crystal", "SrCl2"),
        # antifluorite: an arrangement that is known, its elements exchanged
        (toy("fluorite", ("O", "Na"), 5.5), 225, "known kind", None),
        (toy("perovskite", ("Sr", "Ti", "O"), 3.9), 221, "known crystal", "SrTiO3"),
        # its two cations exchanged: another crystal of the same kind
        (toy("perovskite", ("Ti", "Sr", "O"), 3.9), 221, "known kind", None),
        (strange(), 99, "new arrangement", None),
    ],
)
def test_readings(known: KnownKinds, crystal: Crystal, group: int, reading: str, like: str | None) -> None:
    found = known.novelty(crystal)
    assert found.reading == reading
    assert found.like is not None
    if like is not None:
        assert found.like == like
    assert (found.distance < 0.05) == (reading != "new arrangement")
    if reading != "new arrangement":
        assert found.space_group == group


def test_neither_cell_nor_order_nor_volume_matter(known: KnownKinds) -> None:
    rng = np.random.default_rng(0)
    perovskite = toy("perovskite", ("Sr", "Ti", "O"), 3.9)
    for _ in range(3):
        other = niggli_reduce(disguised(perovskite, rng))
        assert known.novelty(other).record() == known.novelty(perovskite).record()


def test_without_anything_of_these_counts(known: KnownKinds) -> None:
    five = Crystal([11, 11, 11, 11, 17], np.linspace(0.0, 0.9, 15).reshape(5, 3), 6.0 * np.eye(3))
    found = known.novelty(five)
    assert (found.reading, found.like, found.record()["distance_to_known"]) == ("new arrangement", None, None)
    json.dumps(found.record(), allow_nan=False)


def test_candidates_say_what_they_are_like(known: KnownKinds) -> None:
    samples = [(1, 0, toy("rocksalt", ("Na", "Cl"), 5.6)), (1, 1, strange())]
    ranked = rank_by_recurrence("NaCl", 2, samples, total=2, source="generator")
    made = {one.novelty.reading: one for one in with_novelty(ranked, known) if one.novelty is not None}
    assert made["known crystal"].prototype == "NaCl"
    assert made["new arrangement"].prototype is None
    record = made["new arrangement"].record()
    assert record["novelty"] == "new arrangement"
    assert record["nearest_known"]
    assert record["distance_to_known"] > 0.2


def test_all_of_the_same_counts_are_compared_with(known: KnownKinds) -> None:
    """However many come first."""
    kinds = [build_table(pack_crystals([toy(kind, ("Na", "Cl"), 5.0)]), {}) for kind in ("zincblende", "rocksalt")]
    many, last = (one.prototype(0) for one in kinds)
    table = PrototypeTable.pack([*[many] * 900, last], kinds[0].atomic_volumes, {})
    found = KnownKinds(table, known.distances).novelty(toy("rocksalt", ("Na", "Cl"), 5.6))
    assert (found.reading, found.like, found.space_group) == ("known crystal", "NaCl", 225)


def test_it_is_quick(known: KnownKinds) -> None:
    rng = np.random.default_rng(0)
    large = Crystal([38, 22, 8, 8, 8], rng.random((5, 3)), 4.0 * np.eye(3))
    known.novelty(large)
    begin = time.process_time()
    for _ in range(10):
        known.novelty(large)
    assert time.process_time() - begin < 10 * 0.1
