from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from moyopy import is_niggli_reduced

from dao.crystal import Crystal
from dao.errors import InputError
from dao.geometry.cells import (
    heights,
    is_niggli,
    min_distance,
    niggli_reduce,
    primitive,
    refine_space_group,
    space_group,
    symmetrize,
)

FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
HEXAGONAL = np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [0, 0, 1]])


def rocksalt() -> Crystal:
    return Crystal(
        [11] * 4 + [17] * 4, np.vstack([FCC, FCC + 0.5]), np.eye(3) * 5.64, material_id="NaCl", info={"x": 1}
    )


def zincblende() -> Crystal:
    return Crystal([31] * 4 + [33] * 4, np.vstack([FCC, FCC + 0.25]), np.eye(3) * 5.65)


def diamond() -> Crystal:
    return Crystal([6] * 8, np.vstack([FCC, FCC + 0.25]), np.eye(3) * 3.57)


def perovskite(off_centre: float = 0.0, c: float = 3.905) -> Crystal:
    coords = [[0.0, 0, 0], [0.5, 0.5, 0.5 + off_centre / c], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Crystal([38, 22, 8, 8, 8], coords, np.diag([3.905, 3.905, c]))


def hcp() -> Crystal:
    return Crystal([12, 12], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], HEXAGONAL * [[3.2], [3.2], [5.2]])


def wurtzite() -> Crystal:
    coords = [[1 / 3, 2 / 3, z] for z in (0, 0.382)] + [[2 / 3, 1 / 3, z] for z in (0.5, 0.882)]
    return Crystal([30, 16, 30, 16], coords, HEXAGONAL * [[3.82], [3.82], [6.26]])


PROTOTYPES = [
    (rocksalt, 225, "Fm-3m", 2),
    (zincblende, 216, "F-43m", 2),
    (diamond, 227, "Fd-3m", 2),
    (perovskite, 221, "Pm-3m", 5),
    (hcp, 194, "P6_3/mmc", 2),
    (wurtzite, 186, "P6_3mc", 4),
]


def in_other_cell(crystal: Crystal, matrix: np.ndarray) -> Crystal:
    """The same crystal in the cell ``matrix @ lattice`` (integer, unimodular)."""
    coords = crystal.frac_coords @ np.linalg.inv(matrix)
    return Crystal(crystal.atomic_numbers, coords, matrix @ crystal.lattice, crystal.material_id, crystal.info)


def supercell(crystal: Crystal, repeats: tuple[int, int, int]) -> Crystal:
    shifts = np.array(list(product(*map(range, repeats))))
    coords = (crystal.frac_coords[:, None] + shifts).reshape(-1, 3) / repeats
    lattice = crystal.lattice * np.array(repeats)[:, None]
    return Crystal(np.repeat(crystal.atomic_numbers, len(shifts)), coords, lattice)


def noisy(crystal: Crystal, shift: float, strain: float = 0.0, seed: int = 0) -> Crystal:
    """Atoms moved by at most ``shift`` A, lattice strained by at most ``strain``."""
    rng = np.random.default_rng(seed)
    moves = rng.uniform(-1, 1, (crystal.num_atoms, 3))
    moves *= shift / np.linalg.norm(moves, axis=1).max()
    stretch = rng.uniform(-1, 1, (3, 3))
    stretch *= strain / float(np.linalg.norm(stretch, ord=2))
    coords = crystal.frac_coords + moves @ np.linalg.inv(crystal.lattice)
    return Crystal(crystal.atomic_numbers, coords, crystal.lattice @ (np.eye(3) + stretch))


def sorted_distances(crystal: Crystal, reach: int) -> np.ndarray:
    """Every interatomic distance up to ``reach`` cells away, shortest first: what no change of cell may alter."""
    images = np.array(list(product(range(-reach, reach + 1), repeat=3)))
    difference = crystal.frac_coords[:, None, None] - crystal.frac_coords[None, :, None] + images
    distances = np.sort(np.linalg.norm(difference @ crystal.lattice, axis=-1).ravel())
    return np.asarray(distances[crystal.num_atoms :])


@st.composite
def crystals(draw: st.DrawFn, max_atoms: int = 5) -> Crystal:
    n = draw(st.integers(1, max_atoms))
    shape = draw(hnp.arrays(np.float64, (3, 3), elements=st.floats(-0.3125, 0.3125, width=32)))
    return Crystal(
        draw(hnp.arrays(np.int64, n, elements=st.integers(1, 94))),
        draw(hnp.arrays(np.float64, (n, 3), elements=st.floats(0, 1, width=32))),
        draw(st.sampled_from([-1, 1])) * draw(st.floats(3.0, 9.0, width=32)) * (np.eye(3) + shape),
        material_id="drawn",
        info={"label": 1.5},
    )


@st.composite
def unimodular(draw: st.DrawFn) -> np.ndarray:
    lower, upper = np.eye(3), np.eye(3)
    lower[np.tril_indices(3, -1)] = draw(hnp.arrays(np.int64, 3, elements=st.integers(-2, 2)))
    upper[np.triu_indices(3, 1)] = draw(hnp.arrays(np.int64, 3, elements=st.integers(-2, 2)))
    order = draw(st.permutations([0, 1, 2]))
    return np.asarray((lower @ upper)[order])


@given(crystals())
def test_heights_are_inverse_lengths_of_the_reciprocal_vectors(crystal: Crystal) -> None:
    np.testing.assert_allclose(heights(crystal), 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0), rtol=1e-9)


def test_heights_of_flat_and_vanishing_cells_are_zero() -> None:
    flat = Crystal([1], [[0, 0, 0]], [[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    assert heights(flat).tolist() == [0, 0, 0]
    assert heights(Crystal([1], [[0, 0, 0]], np.zeros((3, 3)))).tolist() == [0, 0, 0]


@given(crystals())
def test_min_distance_is_the_brute_force_one(crystal: Crystal) -> None:
    assert min_distance(crystal) == pytest.approx(sorted_distances(crystal, 3)[0], rel=1e-9, abs=1e-9)


@given(crystals(), unimodular())
def test_min_distance_does_not_depend_on_the_cell(crystal: Crystal, matrix: np.ndarray) -> None:
    sheared = in_other_cell(crystal, matrix)
    assert min_distance(sheared) == pytest.approx(min_distance(crystal), rel=1e-7, abs=1e-7)


def test_min_distance_sees_images_of_the_same_atom_and_is_cut_into_pieces() -> None:
    assert min_distance(Crystal([29], [[0.3, 0.3, 0.3]], np.diag([2.5, 4, 4]))) == pytest.approx(2.5)
    assert min_distance(rocksalt()) == pytest.approx(2.82)
    # 31,125 pairs: more than are held at once
    assert min_distance(supercell(Crystal([29], [[0, 0, 0]], np.eye(3) * 2.5), (10, 5, 5))) == pytest.approx(2.5)


@given(crystals(), unimodular())
def test_niggli_cell(crystal: Crystal, matrix: np.ndarray) -> None:
    reduced = niggli_reduce(in_other_cell(crystal, matrix))
    assert np.linalg.det(reduced.lattice) > 0
    assert reduced.volume == pytest.approx(crystal.volume, rel=1e-9)
    assert is_niggli_reduced(reduced.lattice.tolist())
    assert is_niggli(reduced, tolerance=1e-6)
    assert (reduced.material_id, reduced.info) == ("drawn", {"label": 1.5})
    np.testing.assert_array_equal(reduced.atomic_numbers, crystal.atomic_numbers)
    # same frame: cartesian positions agree up to vectors of the original lattice, and so do the lattices
    moved = (reduced.cart_coords - crystal.cart_coords) @ np.linalg.inv(crystal.lattice)
    np.testing.assert_allclose(moved, np.rint(moved), atol=1e-6)
    change = reduced.lattice @ np.linalg.inv(crystal.lattice)
    np.testing.assert_allclose(change, np.rint(change), atol=1e-6)


@pytest.mark.parametrize(
    "lattice",
    [
        np.diag([4.65, 4.65, 2.97]),  # not in their order
        [[4, 0, 0], [4, 5, 0], [0, 0, 6]],  # sheared
        [[4, 0, 0], [1, 5, 0], [1, -1, 6]],  # acute and obtuse
        [[4, 0, 0], [-2, 4, 0], [-2, -3, 5]],  # a + b + c is shorter than c
    ],
)
def test_what_is_no_niggli_cell(lattice: np.ndarray) -> None:
    crystal = Crystal([29], [[0, 0, 0]], lattice)
    assert not is_niggli(crystal)
    assert not is_niggli_reduced(crystal.lattice.tolist())
    assert is_niggli(niggli_reduce(crystal))


@given(crystals())
def test_niggli_is_idempotent(crystal: Crystal) -> None:
    once = niggli_reduce(crystal)
    twice = niggli_reduce(once)
    np.testing.assert_allclose(twice.lattice @ twice.lattice.T, once.lattice @ once.lattice.T, atol=1e-6)


@given(crystals(), unimodular())
def test_niggli_cell_does_not_depend_on_the_cell_given(crystal: Crystal, matrix: np.ndarray) -> None:
    lengths = [
        np.linalg.norm(niggli_reduce(cell).lattice, axis=1) for cell in (crystal, in_other_cell(crystal, matrix))
    ]
    np.testing.assert_allclose(np.sort(lengths[0]), np.sort(lengths[1]), rtol=1e-4)


@pytest.mark.parametrize("lattice", [np.zeros((3, 3)), np.ones((3, 3))])
def test_degenerate_cells_are_refused_by_name(lattice: np.ndarray) -> None:
    crystal = Crystal([1], [[0, 0, 0]], lattice, material_id="flat")
    for function in (niggli_reduce, min_distance, primitive, space_group, symmetrize, refine_space_group):
        with pytest.raises(InputError, match=r"^flat: ") as error:
            function(crystal)
        assert "\n" not in str(error.value)


def test_a_hopelessly_sheared_cell_is_refused() -> None:
    crystal = Crystal([1], [[0, 0, 0]], np.array([[1, 0, 0], [1e6, 1, 0], [12345.6, 7e5, 1e-3]]), "needle")
    with pytest.raises(InputError, match=r"^needle: cell cannot be reduced"):
        niggli_reduce(crystal)


@pytest.mark.parametrize(("build", "number", "symbol", "num_atoms"), PROTOTYPES)
def test_prototypes(build: Callable[[], Crystal], number: int, symbol: str, num_atoms: int) -> None:
    crystal = build()
    assert space_group(crystal) == (number, symbol)
    assert refine_space_group(crystal) == (number, symbol, 0.01)
    assert primitive(crystal).num_atoms == symmetrize(crystal).num_atoms == num_atoms


@settings(max_examples=40)
@given(
    st.sampled_from([case[0] for case in PROTOTYPES]),
    st.tuples(*[st.integers(1, 2)] * 3),
    unimodular(),
    hnp.arrays(np.float64, 3, elements=st.floats(0, 1)),
    st.sampled_from([-1, 1]),
)
def test_symmetry_does_not_depend_on_how_the_crystal_is_written(
    build: Callable[[], Crystal], repeats: tuple[int, int, int], matrix: np.ndarray, shift: np.ndarray, hand: int
) -> None:
    crystal = build()
    large = in_other_cell(supercell(crystal, repeats), matrix)
    same = Crystal(large.atomic_numbers, large.frac_coords + shift, hand * large.lattice)
    assert space_group(same) == space_group(crystal)
    assert refine_space_group(same) == refine_space_group(crystal)
    small = primitive(same)
    expected = primitive(crystal)
    assert small.counts == expected.counts
    assert small.volume == pytest.approx(expected.volume, rel=1e-6)
    np.testing.assert_allclose(sorted_distances(small, 2)[:20], sorted_distances(expected, 2)[:20], atol=1e-4)


def test_primitive_keeps_frame_name_order_and_noise() -> None:
    crystal = noisy(rocksalt(), 0.003)
    small = primitive(crystal, 0.05)
    assert small.atomic_numbers.tolist() == [11, 17]
    assert np.linalg.det(small.lattice) > 0
    repeats = crystal.lattice @ np.linalg.inv(small.lattice)
    np.testing.assert_allclose(repeats, np.rint(repeats), atol=1e-9)
    # each merged site is the mean of its four members
    for site, members in ((0, slice(0, 4)), (1, slice(4, 8))):
        offset = (crystal.cart_coords[members] - small.cart_coords[site]) @ np.linalg.inv(small.lattice)
        offset -= np.rint(offset)
        assert np.abs(offset).max() > 1e-5
        np.testing.assert_allclose(offset.mean(0), 0, atol=1e-9)
    named = primitive(rocksalt())
    assert (named.material_id, named.info) == ("NaCl", {"x": 1})


def test_primitive_of_a_primitive_crystal_keeps_every_atom_in_place() -> None:
    crystal = noisy(perovskite(), 0.2, 0.01)
    small = primitive(crystal)
    assert small.atomic_numbers.tolist() == crystal.atomic_numbers.tolist()
    np.testing.assert_allclose(sorted_distances(small, 2)[:40], sorted_distances(crystal, 2)[:40], atol=1e-9)


def test_symmetrize_removes_noise() -> None:
    crystal = noisy(rocksalt(), 0.01, 0.001)
    assert space_group(crystal, 1e-4)[0] == 1
    ideal = symmetrize(crystal, 0.1)
    assert space_group(ideal, 1e-6) == (225, "Fm-3m")
    assert np.linalg.det(ideal.lattice) > 0
    assert ideal.volume == pytest.approx(crystal.volume / 4, rel=1e-2)


def test_refined_reading_sees_through_noise() -> None:
    for seed in range(5):
        crystal = noisy(rocksalt(), 0.03, 0.002, seed=seed)
        assert space_group(crystal)[0] < 225
        number, symbol, symprec = refine_space_group(crystal)
        assert (number, symbol) == (225, "Fm-3m")
        assert 0.01 < symprec <= 0.2


def test_refined_reading_ignores_the_order_of_tolerances() -> None:
    crystal = noisy(rocksalt(), 0.03, 0.002)
    assert refine_space_group(crystal, (0.2, 0.01, 0.1, 0.05)) == refine_space_group(crystal)


def test_refined_reading_keeps_true_distortions() -> None:
    # PbTiO3-like: 0.3 A off centre, c/a = 1.06
    assert refine_space_group(perovskite(off_centre=0.3, c=4.14))[:2] == (99, "P4mm")


def test_refined_reading_is_bounded_by_displacement_and_strain() -> None:
    off_centre = perovskite(off_centre=0.1)
    assert space_group(off_centre)[0] == 99
    assert refine_space_group(off_centre)[:2] == (221, "Pm-3m")
    assert refine_space_group(off_centre, max_displacement=0.05) == (99, "P4mm", 0.01)
    stretched = perovskite(c=3.905 * 1.02)
    assert refine_space_group(stretched)[:2] == (221, "Pm-3m")
    assert refine_space_group(stretched, max_strain=0.005) == (123, "P4/mmm", 0.01)


@given(crystals())
def test_refined_reading_is_never_lower_than_the_tightest(crystal: Crystal) -> None:
    assume(min_distance(crystal) > 0.5)
    number, symbol, symprec = refine_space_group(crystal)
    assert symprec in (0.01, 0.05, 0.1, 0.2)
    assert space_group(crystal, symprec) == (number, symbol)


def test_coinciding_atoms_have_no_space_group() -> None:
    crystal = Crystal([1, 1], np.zeros((2, 3)), np.eye(3) * 3, material_id="twice")
    with pytest.raises(InputError, match=r"^twice: no space group at a tolerance of 0.01 A"):
        space_group(crystal)
    with pytest.raises(InputError, match=r"^twice: no space group at a tolerance of 0.01, 0.05, 0.1, 0.2 A"):
        refine_space_group(crystal)


def test_remarks_of_the_library_do_not_reach_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        # moyo remarks that the supercell lacks some of the operations
        assert space_group(supercell(Crystal([29], [[0, 0, 0]], np.eye(3) * 2.5), (2, 1, 1))) == (221, "Pm-3m")
    finally:
        root.handlers = handlers
    assert capfd.readouterr().err == ""
