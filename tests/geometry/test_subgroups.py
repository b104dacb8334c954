"""Crystals described with less symmetry than they have: the same structure, and the subgroups that there are."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from symmetric_toys import KINDS, same_structure, symmetric_crystal

import dao.geometry.subgroups as module
from dao.errors import InputError
from dao.geometry.subgroups import SMALL, in_subgroup, small_subgroups
from dao.geometry.symmetrized import SymmetricCrystal
from dao.geometry.wyckoff import operations, wyckoff_positions


def test_small_subgroups_are_those_of_the_international_tables() -> None:
    assert small_subgroups(1) == small_subgroups(2) == {}
    assert list(small_subgroups(14)) == [2, 4, 7]
    # Pnma: maximal P2_12_12_1, P2_1/c, P2_1/m, Pna2_1, Pmc2_1, Pmn2_1, and below them these
    assert {kind: len(alike) for kind, alike in small_subgroups(62).items()} == {
        2: 1, 4: 3, 6: 1, 7: 2, 11: 1, 14: 2, 19: 1, 26: 1, 31: 1, 33: 1,
    }  # fmt: skip
    # Fm-3m: the conjugates of Cm by threes and sixes count as two
    assert len(small_subgroups(225)[8]) == 2


@pytest.mark.parametrize("space_group", [14, 62, 136, 166, 194, 225, 227])
def test_they_are_groups(space_group: int) -> None:
    rotations, translations = operations(space_group)
    for alike in small_subgroups(space_group).values():
        for kept in alike:
            assert kept[0] == 0
            assert 2 <= len(kept) <= SMALL
            own = {rotations[i].tobytes(): translations[i] for i in kept}
            assert len(own) == len(kept)
            for i in kept:
                for j in kept:
                    shift = (
                        rotations[i] @ translations[j] + translations[i] - own[(rotations[i] @ rotations[j]).tobytes()]
                    )
                    np.testing.assert_allclose(shift, np.rint(shift), atol=1e-6)


@pytest.mark.parametrize("space_group", [kind for kind in KINDS if small_subgroups(kind)])
def test_the_same_structure_in_each_of_them(space_group: int) -> None:
    made = symmetric_crystal(space_group, np.random.default_rng(space_group))
    crystal = made.crystal("made")
    for kind, alike in small_subgroups(space_group).items():
        found = in_subgroup(crystal, space_group, alike[-1])
        assert found.space_group == kind
        back = found.crystal()
        assert back.counts == crystal.counts
        assert back.volume == pytest.approx(crystal.volume, rel=1e-5)
        assert same_structure(back, crystal)
        assert freedom(found) >= freedom(made)
        letters = [one.letter for one in wyckoff_positions(kind)]
        assert list(found.orbits) == sorted(found.orbits, key=lambda one: (one[0], letters.index(one[1])))


def freedom(one: SymmetricCrystal) -> int:
    return sum(position.degrees for position in one.positions())


def test_rock_salt_with_its_inversion_centre_alone() -> None:
    """Both atoms stay on centres, the first one on the origin."""
    salt = SymmetricCrystal(225, ((11, "a"), (17, "b")), np.zeros((2, 3)), 5.64 * np.eye(3))
    found = in_subgroup(salt.crystal(), 225, small_subgroups(225)[2][0])
    assert (found.space_group, found.orbits) == (2, ((11, "a"), (17, "h")))
    assert prod(np.linalg.norm(found.lattice, axis=1)) == pytest.approx((5.64 / 2**0.5) ** 3)


def test_another_group_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a mirror plane the points tell too little apart."""
    salt = SymmetricCrystal(225, ((11, "a"), (17, "b")), np.zeros((2, 3)), 5.64 * np.eye(3)).crystal("salt")
    monkeypatch.setattr(module, "_GENERIC", np.array([0.1, 0.1, 0.3]))
    with pytest.raises(InputError, match="salt: moyo finds another group than the subgroup of 2 operations"):
        in_subgroup(salt, 225, small_subgroups(225)[2][0])
