from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dao.crystal import DEFAULT_LIMITS, Crystal, CrystalBatch, Limits
from dao.errors import InputError

PEROVSKITE: dict[str, Any] = {
    "atomic_numbers": [38, 22, 8, 8, 8],
    "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    "lattice": np.eye(3) * 3.905,
}


def perovskite(**changes: Any) -> Crystal:
    return Crystal(**{**PEROVSKITE, **changes})


@st.composite
def crystals(draw: st.DrawFn) -> Crystal:
    n = draw(st.integers(1, 9))
    numbers = draw(hnp.arrays(np.int64, n, elements=st.integers(1, 94)))
    coords = draw(hnp.arrays(np.float64, (n, 3), elements=st.floats(-3, 3)))
    shape = draw(hnp.arrays(np.float64, (3, 3), elements=st.floats(-0.3, 0.3)))
    return Crystal(numbers, coords, draw(st.floats(2.0, 9.0)) * (np.eye(3) + shape))


@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(-1e6, 1e6)))
def test_coordinates_are_wrapped_by_whole_cells(coords: np.ndarray) -> None:
    crystal = Crystal([1, 2, 3, 4], coords, np.eye(3) * 5)
    assert crystal.frac_coords.min() >= 0
    assert crystal.frac_coords.max() < 1
    shift = coords - crystal.frac_coords
    np.testing.assert_allclose(shift, np.rint(shift), atol=1e-9)


def test_a_coordinate_just_below_a_face_wraps_onto_it_not_to_one() -> None:
    assert perovskite(frac_coords=np.full((5, 3), -1e-20)).frac_coords.max() == 0.0


def test_arrays_are_typed_read_only_copies() -> None:
    lattice = np.eye(3, dtype=np.float32) * 4
    crystal = Crystal(np.array([11.0]), [[0, 0, 0]], lattice)
    lattice[0, 0] = 99
    assert crystal.lattice[0, 0] == 4
    assert crystal.atomic_numbers.dtype == np.int64
    assert crystal.frac_coords.dtype == crystal.lattice.dtype == np.float64
    for array in (crystal.atomic_numbers, crystal.frac_coords, crystal.lattice):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"atomic_numbers": []}, "N >= 1"),
        ({"atomic_numbers": [[38, 22, 8, 8, 8]]}, "shape"),
        ({"atomic_numbers": [38, 22, 8, 8, 0]}, "atomic number 0"),
        ({"atomic_numbers": [38, 22, 8, 8, 119]}, "atomic number 119"),
        ({"atomic_numbers": [38, 22, 8, 8, 8.5]}, "integers"),
        ({"atomic_numbers": [38, 22, 8, 8, float("nan")]}, "integers"),
        ({"atomic_numbers": [38, 22, 8, 8, 1e300]}, "integers"),
        ({"atomic_numbers": ["Sr", "Ti", "O", "O", "O"]}, "integers"),
        ({"atomic_numbers": [[38], [22, 8]]}, "ragged"),
        ({"frac_coords": np.zeros((4, 3))}, r"\(5, 3\), got \(4, 3\)"),
        ({"frac_coords": np.full((5, 3), np.inf)}, "finite"),
        ({"frac_coords": [["a"] * 3] * 5}, "numbers"),
        ({"frac_coords": np.full((5, 3), 1e7)}, "frac_coords has a value beyond"),
        ({"lattice": np.eye(3) * 1e200}, "lattice has a value beyond"),
        ({"lattice": np.eye(2)}, r"\(3, 3\), got \(2, 2\)"),
        ({"lattice": np.full((3, 3), np.nan)}, "finite"),
    ],
)
def test_malformed_arrays_are_named_in_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        perovskite(material_id="mp-5229", **changes)
    assert str(error.value).startswith("mp-5229: ")
    assert "\n" not in str(error.value)


def test_properties() -> None:
    crystal = perovskite(material_id="mp-5229")
    assert (crystal.num_atoms, crystal.name, crystal.counts) == (5, "mp-5229", {8: 3, 22: 1, 38: 1})
    assert (crystal.formula, crystal.reduced_formula) == ("Sr1 Ti1 O3", "SrTiO3")
    assert crystal.volume == pytest.approx(3.905**3)
    assert crystal.volume_per_atom == pytest.approx(3.905**3 / 5)
    np.testing.assert_allclose(crystal.cart_coords[1], 3.905 / 2)
    assert perovskite(lattice=-np.eye(3)).volume == pytest.approx(1.0)
    assert replace(crystal, material_id=None).name == "crystal"


def test_a_good_crystal_is_valid() -> None:
    perovskite().validate()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"atomic_numbers": [38, 22, 8, 8, 95]}, "atomic number 95 is outside 1 to 94"),
        ({"lattice": np.eye(3) * 2.0}, "1.6 A\\^3 per atom"),
        ({"lattice": np.eye(3) * 12.0}, "345.6 A\\^3 per atom"),
        ({"lattice": np.zeros((3, 3))}, "0 A\\^3 per atom"),
        ({"lattice": np.diag([0.5, 10.0, 10.0])}, "cell only 0.5 A high"),
        ({"lattice": [[4, 0, 0], [0, 4, 0], [40, 0, 4]]}, "cell only 0.398 A high"),
        ({"frac_coords": np.zeros((5, 3))}, "two atoms 0 A apart"),
        ({"frac_coords": [[0.05, 0, 0], [0.96, 0, 0], *PEROVSKITE["frac_coords"][2:]]}, "two atoms 0.351 A apart"),
    ],
)
def test_each_limit_is_checked(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        perovskite(material_id="mp-5229", **changes).validate()
    assert str(error.value).startswith("mp-5229: ")
    assert "\n" not in str(error.value)


def test_count_is_checked_first_and_limits_can_be_changed() -> None:
    with pytest.raises(InputError, match="5 atoms in the cell, outside 1 to 4"):
        perovskite(frac_coords=np.zeros((5, 3)), lattice=np.zeros((3, 3))).validate(Limits(max_atoms=4))
    perovskite(atomic_numbers=[38, 22, 8, 8, 95]).validate(Limits(max_atomic_number=95))
    with pytest.raises(InputError, match=r"two atoms 3.9 A apart"):
        Crystal([38], [[0, 0, 0]], np.eye(3) * 3.905).validate(Limits(min_distance=4.0))


def test_a_huge_composition_costs_nothing() -> None:
    tracemalloc.start()
    started = time.perf_counter()
    for counts in ({11: 10**9, 17: 10**9}, {200: 10**9}, {11: 10**30}):
        with pytest.raises(InputError, match=r"NaCl\.txt: \d+ atoms in the cell, outside 1 to 512"):
            DEFAULT_LIMITS.check_composition(counts, "NaCl.txt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.perf_counter() - started < 0.1
    assert peak < 100_000


@pytest.mark.parametrize("counts", [{}, {11: 0}, {11: -1, 17: 2}, {0: 3}, {95: 1}])
def test_impossible_compositions(counts: dict[int, int]) -> None:
    with pytest.raises(InputError):
        DEFAULT_LIMITS.check_composition(counts)


def test_importing_the_nouns_imports_no_heavy_library() -> None:
    code = "import sys, dao.crystal; print(*(m for m in ('torch', 'pymatgen', 'ase', 'moyopy') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@given(st.lists(crystals(), min_size=1, max_size=5), st.integers(0, 4))
def test_batch_round_trip(listed: list[Crystal], extra: int) -> None:
    width = max(crystal.num_atoms for crystal in listed) + extra
    batch = CrystalBatch.from_crystals(listed, pad_to=width, dtype=torch.float64)
    assert len(batch) == len(listed)
    assert batch.atomic_numbers.shape == batch.mask.shape == (len(listed), width)
    assert batch.mask.sum(1).tolist() == batch.num_atoms.tolist() == [crystal.num_atoms for crystal in listed]
    assert not batch.frac_coords[~batch.mask].any()
    for crystal, back in zip(listed, batch.to_crystals(), strict=True):
        np.testing.assert_array_equal(back.atomic_numbers, crystal.atomic_numbers)
        np.testing.assert_array_equal(back.frac_coords, crystal.frac_coords)
        np.testing.assert_array_equal(back.lattice, crystal.lattice)


@settings(max_examples=30)
@given(crystals(), crystals(), st.randoms(use_true_random=False))
def test_batch_row_depends_on_its_crystal_only(crystal: Crystal, mate: Crystal, random: Any) -> None:
    order = list(range(crystal.num_atoms))
    random.shuffle(order)
    permuted = replace(crystal, atomic_numbers=crystal.atomic_numbers[order], frac_coords=crystal.frac_coords[order])
    n = crystal.num_atoms
    alone = CrystalBatch.from_crystals([crystal])
    together = CrystalBatch.from_crystals([mate, permuted])
    assert torch.equal(together.frac_coords[1, :n], alone.frac_coords[0, order])
    assert torch.equal(together.atomic_numbers[1, :n], alone.atomic_numbers[0, order])
    assert torch.equal(together.lattice[1], alone.lattice[0])


def test_batch_defaults_to_float32_and_stays_below_one() -> None:
    batch = CrystalBatch.from_crystals([perovskite(frac_coords=np.full((5, 3), 1 - 1e-12))])
    assert batch.frac_coords.dtype == batch.lattice.dtype == torch.float32
    assert batch.atomic_numbers.dtype == batch.num_atoms.dtype == torch.int64
    assert float(batch.frac_coords.max()) == 0.0


def test_batch_moves_dtype_of_reals_only() -> None:
    batch = CrystalBatch.from_crystals([perovskite()])
    moved = batch.to("cpu", torch.float64)
    assert moved.frac_coords.dtype == moved.lattice.dtype == torch.float64
    assert moved.atomic_numbers.dtype == torch.int64
    assert batch.to(dtype=torch.bfloat16).lattice.dtype == torch.bfloat16
    assert batch.to("meta").frac_coords.device.type == "meta"
    assert batch.to("cpu").lattice.dtype == torch.float32


def test_impossible_batches() -> None:
    with pytest.raises(ValueError, match="at least one"):
        CrystalBatch.from_crystals([])
    with pytest.raises(ValueError, match="pad_to = 4 is less than the 5 atoms of mp-5229"):
        CrystalBatch.from_crystals([perovskite(material_id="mp-5229")], pad_to=4)
    batch = CrystalBatch.from_crystals([perovskite()])
    changes: dict[str, Any]
    for name, wrong in (("frac_coords", torch.zeros(1, 4, 3)), ("lattice", torch.eye(3)), ("num_atoms", torch.ones(2))):
        changes = {name: wrong}
        with pytest.raises(ValueError, match="batch of shapes"):
            replace(batch, **changes)
