from __future__ import annotations

import numpy as np
import pytest
from ase.geometry import cell_to_cellpar
from toys import toy

from dao.crystal import Crystal
from dao.dft.starts import Start, make_start
from dao.errors import InputError
from dao.geometry.cells import min_distance

PEROVSKITE = toy("perovskite", ("Sr", "Ti", "O"), 3.9, "toy")


def cellpar(crystal: Crystal) -> np.ndarray:
    return np.asarray(cell_to_cellpar(crystal.lattice))  # type: ignore[no-untyped-call]


def test_given_is_the_structure_itself_and_must_be_a_crystal() -> None:
    assert make_start(PEROVSKITE, Start()) is PEROVSKITE
    flat = Crystal([1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.01]], 4 * np.eye(3))
    with pytest.raises(InputError, match="two atoms"):
        make_start(flat, Start())


def test_a_perturbed_start_stays_within_what_was_asked() -> None:
    # not 0.1 for the coordinates: so many atoms would often meet
    starts = [make_start(PEROVSKITE, Start(kind="perturbed", coordinates=0.03, seed=seed)) for seed in range(60)]
    cells = np.array([cellpar(one) for one in starts])
    lengths, angles = cells[:, :3] / 3.9 - 1.0, cells[:, 3:] - 90.0
    assert 0.08 < np.abs(lengths).max() <= 0.1 + 1e-9
    assert 8.0 < np.abs(angles).max() <= 10.0 + 1e-9
    moves = np.array([one.frac_coords - PEROVSKITE.frac_coords for one in starts])
    moves -= np.rint(moves)
    assert moves.std() == pytest.approx(0.03, rel=0.1)
    assert all((one.atomic_numbers == PEROVSKITE.atomic_numbers).all() for one in starts)


def test_a_random_start_has_the_composition_and_volume_and_its_atoms_apart() -> None:
    starts = [make_start(PEROVSKITE, Start(kind="random", seed=seed)) for seed in range(20)]
    for one in starts:
        assert one.counts == PEROVSKITE.counts
        assert one.volume == pytest.approx(PEROVSKITE.volume)
    assert np.mean([min_distance(one) for one in starts]) > 1.2
    # no direction of the cell and no place is preferred, so that no start tells of the structure
    assert np.ptp([cellpar(one)[:3] for one in starts]) > 1.0


@pytest.mark.parametrize("kind", ["perturbed", "random"])
def test_seeds(kind: str) -> None:
    one, again, other = (
        make_start(PEROVSKITE, Start(kind=kind, coordinates=0.03, seed=seed))  # type: ignore[arg-type]
        for seed in (3, 3, 4)
    )
    assert (one.lattice == again.lattice).all()
    assert (one.frac_coords == again.frac_coords).all()
    assert not np.allclose(one.frac_coords, other.frac_coords)


def test_a_perturbation_that_leaves_no_crystal() -> None:
    crowded = Crystal([6] * 16, np.indices((4, 2, 2)).reshape(3, -1).T / [4, 2, 2], np.diag([2.4, 2.6, 2.6]))
    with pytest.raises(InputError, match="none of 100 perturbed starts was a crystal"):
        make_start(crowded, Start(kind="perturbed", coordinates=1.0))
