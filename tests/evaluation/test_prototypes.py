from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from toys import FCC, toy, toy_crystals

from dao.crystal import Crystal
from dao.data.locate import data_folder
from dao.data.store import pack_crystals
from dao.element_distances import element_distances
from dao.elements import ATOMIC_NUMBERS
from dao.errors import InputError
from dao.evaluation.matching import rms_distance
from dao.evaluation.prototypes import Proposal, PrototypeTable
from dao.geometry.fingerprint import fingerprint


def table(*crystals: Crystal) -> PrototypeTable:
    return PrototypeTable.build(pack_crystals(crystals))


def numbers(*symbols: str) -> list[int]:
    return [ATOMIC_NUMBERS[symbol] for symbol in symbols]


def names(proposals: list[Proposal]) -> list[str]:
    return [proposal.template for proposal in proposals]


KCL = toy("rocksalt", ("K", "Cl"), 6.3, "KCl")
PBTE = toy("rocksalt", ("Pb", "Te"), 6.5, "PbTe")
NACL = toy("rocksalt", ("Na", "Cl"), 5.6, "NaCl")
GAAS = toy("zincblende", ("Ga", "As"), 5.65, "GaAs")
SRTIO3 = toy("perovskite", ("Sr", "Ti", "O"), 3.9, "SrTiO3")


def test_rocksalt_from_other_rocksalts() -> None:
    others = [crystal for crystal in toy_crystals() if crystal.name != "rocksalt-NaCl"]
    proposals = table(*others).propose(numbers("Na", "Cl"), 5)
    assert len({proposal.template.split("-")[0] for proposal in proposals}) == 3, "AB crystals of three kinds"
    first = proposals[0]
    assert first.template.startswith("rocksalt-")
    distance = rms_distance((first.crystal, NACL))
    assert distance is not None
    assert distance < 1e-4
    assert first.crystal.counts == NACL.counts
    # 2 (1.05 + 1.75) A, which the templates' volumes say within a few per cent
    assert first.crystal.volume == pytest.approx(5.6**3 / 4, rel=0.1)


def test_volume_is_the_sum_of_the_fitted_volumes() -> None:
    known = table(KCL, GAAS, SRTIO3)
    volumes = known.atomic_volumes
    for symbols in (("Na", "Cl"), ("K", "Cl"), ("Ba", "Ti", "O", "O", "O")):
        for proposal in known.propose(numbers(*symbols), 20):
            assert proposal.crystal.volume == pytest.approx(volumes[numbers(*symbols)].sum(), rel=1e-6)


def test_most_similar_elements_come_first() -> None:
    # different structures, or the second would be dropped as the same crystal
    far = toy("zincblende", ("Pb", "Te"), 6.5, "PbTe")
    for known in (table(KCL, far), table(far, KCL)):
        proposals = known.propose(numbers("Na", "Cl"), 5)
        assert names(proposals)[:2] == ["KCl", "PbTe"]
        distances = [proposal.distance for proposal in proposals]
        assert distances == sorted(distances)
        assert distances[0] > 0.0
    assert names(table(far, KCL).propose(numbers("Sn", "Te"), 1)) == ["PbTe"]


def test_the_same_elements_are_at_distance_zero() -> None:
    first = table(PBTE, NACL, KCL).propose(numbers("Cl", "Na"), 1)[0]
    assert (first.template, first.distance) == ("NaCl", 0.0)
    assert first.crystal.counts == NACL.counts


def test_same_crystal_is_proposed_once() -> None:
    # rocksalt is itself again with its elements exchanged
    assert names(table(PBTE, NACL, KCL).propose(numbers("Na", "Cl"), 5)) == ["NaCl"]


def test_near_duplicates_are_dropped_and_polymorphs_kept() -> None:
    coords = SRTIO3.frac_coords + np.array([[0.0, 0, 0], [0, 0, 0.01], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    shifted = Crystal(SRTIO3.atomic_numbers, coords, SRTIO3.lattice, "shifted")
    stretched = Crystal(SRTIO3.atomic_numbers, coords, SRTIO3.lattice * [[1.0], [1.0], [1.8]], "stretched")
    proposals = table(SRTIO3, shifted, stretched).propose(numbers("Sr", "Ti", "O", "O", "O"), 20)
    # each with strontium and titanium as they are and exchanged
    assert Counter(names(proposals)) == {"SrTiO3": 2, "stretched": 2}


def test_every_assignment_among_equal_counts() -> None:
    half_heusler = Crystal(numbers("Ti", "Ni", "Sn"), [[0.0] * 3, [0.25] * 3, [0.5] * 3], 5.9 * FCC, "TiNiSn")
    proposals = table(half_heusler).propose(numbers("Zr", "Ni", "Sn"), 20)
    # the middle site may hold any of the three; the other two sites are equivalent
    assert len(proposals) == 3
    assert {int(proposal.crystal.atomic_numbers[1]) for proposal in proposals} == set(numbers("Zr", "Ni", "Sn"))
    assert proposals[0].crystal.atomic_numbers.tolist() == numbers("Zr", "Ni", "Sn")
    assert len(table(half_heusler).propose(numbers("Zr", "Ni", "Sn"), 2)) == 2


def test_counts_stay_with_their_sites() -> None:
    for proposal in table(SRTIO3).propose(numbers("F", "F", "F", "K", "Mg"), 20):
        assert proposal.crystal.atomic_numbers[2:].tolist() == numbers("F", "F", "F")


def test_many_equal_counts_get_the_best_assignment_only() -> None:
    generator = np.random.default_rng(0)
    elements = numbers("Li", "Ca", "Ti", "Fe", "Ga", "Cl", "O", "Br", "Br")
    known = table(Crystal(elements, generator.random((9, 3)), 6.0 * np.eye(3), "seven and a pair"))
    # chlorine would fit best where chlorine is, but there are two of it
    similar = numbers("Na", "Sr", "Zr", "Ru", "In", "Br", "S", "Cl", "Cl")
    proposals = known.propose(sorted(similar), 20)
    assert [proposal.crystal.atomic_numbers.tolist() for proposal in proposals] == [similar]


@pytest.mark.parametrize(
    "composition", [("Na", "Cl", "Cl"), ("Na", "Na", "Cl", "Cl"), ("Na",)], ids=["formula", "cell size", "element"]
)
def test_no_template_no_proposal(composition: tuple[str, ...]) -> None:
    assert table(KCL, SRTIO3).propose(numbers(*composition), 20) == []


def test_exclude() -> None:
    known = table(KCL, NACL, GAAS)
    assert "NaCl" in names(known.propose(numbers("Na", "Cl"), 20))
    assert names(known.propose(numbers("Na", "Cl"), 20, exclude={"NaCl"}))[0] == "KCl"
    assert "NaCl" not in names(known.propose(numbers("Na", "Cl"), 20, exclude_composition=True))
    assert names(known.propose(numbers("K", "Cl"), 1, exclude_composition=True)) == ["NaCl"]
    assert known.propose(numbers("Na", "Cl"), 20, exclude={"NaCl", "KCl", "GaAs"}) == []


def test_deterministic_and_whatever_the_order_of_atoms() -> None:
    known = pack_crystals(toy_crystals())
    runs = [
        PrototypeTable.build(known).propose(numbers(*symbols), 20)
        for symbols in (("Ba", "Zr", "O", "O", "O"), ("O", "Zr", "O", "Ba", "O"))
    ]
    assert names(runs[0]) == names(runs[1])
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one.crystal.atomic_numbers, other.crystal.atomic_numbers)
        np.testing.assert_array_equal(one.crystal.lattice, other.crystal.lattice)


def test_fingerprint_counts_neighbours_whatever_the_cell() -> None:
    slots = np.array([0, 1])
    primitive = fingerprint(slots, KCL.frac_coords, KCL.lattice)
    # rocksalt: 6 and 8 unlike neighbours at 1 and sqrt(3), 12 like ones at sqrt(2), in units of (V/N)^(1/3)
    np.testing.assert_allclose(primitive.sum(-1), [[6, 7], [7, 6]], atol=1e-6)
    np.testing.assert_allclose(primitive[0, 1, 9:12], [0, 3, 0], atol=1e-6)
    change = np.array([[1, 0, 0], [3, 1, 0], [0, -2, 1]])
    sheared = fingerprint(slots, KCL.frac_coords @ np.linalg.inv(change) + 0.3, change @ KCL.lattice)
    np.testing.assert_allclose(sheared, primitive, atol=1e-6)


def test_element_distances() -> None:
    distances = element_distances(np.full(95, 15.0))
    np.testing.assert_array_equal(distances, distances.T)
    assert np.isfinite(distances).all()
    assert not np.diagonal(distances).any()
    unlike = distances[1:, 1:][~np.eye(94, dtype=bool)]
    assert unlike.min() > 0.0
    na, k, pb, cl = numbers("Na", "K", "Pb", "Cl")
    assert distances[na, k] < distances[na, pb] < distances[na, cl]


def test_refuses_what_is_no_composition() -> None:
    with pytest.raises(InputError, match="atomic number 95"):
        table(KCL).propose([95, 17], 20)
    with pytest.raises(InputError, match="0 atoms"):
        table(KCL).propose([], 20)


def test_refuses_templates_beyond_plutonium() -> None:
    with pytest.raises(InputError, match="AmCl"):
        table(KCL, Crystal([95, 17], KCL.frac_coords, KCL.lattice, "AmCl"))


def test_refuses_templates_without_volume() -> None:
    with pytest.raises(InputError, match="template flat: the cell has no volume"):
        table(KCL, Crystal([11, 17], KCL.frac_coords, np.ones((3, 3)), "flat"))


def test_real_templates() -> None:
    """MP-20: sodium chloride without its own kind comes as rocksalt at the first try."""
    path: Path = data_folder() / "mp20.parquet"
    if not path.exists():
        pytest.skip(f"no {path}")
    from dao.data.training_set import load_packed

    known = PrototypeTable.build(load_packed(path, split="train"))
    proposals = known.propose(numbers("Na", "Cl"), 20, exclude_composition=True)
    assert len(proposals) == 20
    distance = rms_distance((proposals[0].crystal, NACL))
    assert distance is not None
    assert distance < 0.01
