"""Relaxation keeps space groups in a potential that knows nothing of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from symmetric_toys import disguised, symmetric_crystal
from torch import Tensor
from toys import tiny_predictor, toy

from dao.crystal import Crystal, CrystalBatch
from dao.errors import InputError
from dao.geometry.cells import space_group
from dao.geometry.lattice import log_metric
from dao.geometry.symmetric_moves import SymmetricMoves
from dao.geometry.symmetry import symmetry_operations
from dao.potential import EnergyForcesStress, Potential, differentiate
from dao.relaxation import RelaxationSettings, Relaxed, relax

SETTINGS = RelaxationSettings(iterations=20, force_tolerance=1e-5, max_volume_change=0.3, min_distance=0.0)
FREE = RelaxationSettings(
    iterations=20, force_tolerance=1e-5, max_volume_change=0.3, min_distance=0.0, keep_symmetry=False
)
TIGHT = 1e-4


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@dataclass
class Lopsided:
    """Every atom in a random landscape of its own, fixed to the cell, and a cell of random shape. Keeps energies."""

    energies: list[float] = field(default_factory=list)

    def energy(self, batch: CrystalBatch) -> Tensor:
        atoms = batch.frac_coords.shape[1]
        wave, phase = _drawn(3, 6).round(), _drawn(64, 6)[:atoms]
        landscape = 0.3 * torch.cos(2.0 * torch.pi * batch.frac_coords @ wave + phase).sum(-1)
        cell = log_metric(batch.lattice) - torch.tensor([1.5, 1.4, 1.3, 0.1, 0.0, -0.1], dtype=torch.float64)
        return (landscape * batch.mask).sum(1) + 4.0 * (cell.square() * (1.5 + _drawn(6).sin())).sum(1)

    def energy_forces_stress(self, batch: CrystalBatch) -> EnergyForcesStress:
        made = differentiate(self.energy, batch)
        self.energies += made.energy.tolist()
        return made


def rutile() -> Crystal:
    u = 0.305
    oxygen = [[u, u, 0], [-u, -u, 0], [0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]]
    coords = np.array([[0, 0, 0], [0.5, 0.5, 0.5], *oxygen])
    return Crystal([22, 22, 8, 8, 8, 8], coords, np.diag([4.59, 4.59, 2.96]), "rutile")


def hexagonal(a: float, c: float) -> np.ndarray:
    return np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]])


def wurtzite() -> Crystal:
    coords = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.382], [2 / 3, 1 / 3, 0.882]]
    return Crystal([30, 30, 8, 8], coords, hexagonal(3.25, 5.21), "wurtzite")


def hcp() -> Crystal:
    return Crystal([12, 12], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], hexagonal(3.21, 5.21), "hcp")


def known() -> list[tuple[int, Crystal]]:
    return [
        (225, toy("rocksalt", ("Na", "Cl"), 5.64)),
        (221, toy("perovskite", ("Sr", "Ti", "O"), 3.9)),
        (136, rutile()),
        (186, wurtzite()),
        (194, hcp()),
    ]


def anyone() -> list[tuple[int, Crystal]]:
    """All crystal systems, in settings that nobody would choose."""
    draw = np.random.default_rng(5)
    made = [(group, symmetric_crystal(group, draw).crystal()) for group in (2, 5, 15, 43, 62, 122, 148, 160, 198, 230)]
    return [(group, disguised(one, draw)) for group, one in [*known(), *made]]


def mirrored(crystal: Crystal) -> Crystal:
    """Axes in another order, and one backwards: a left-handed cell, or the mirror image's."""
    change = np.array([[0, 0, 1], [0, -1, 0], [-1, 0, 0]])
    return Crystal(crystal.atomic_numbers, crystal.frac_coords @ np.linalg.inv(change), change @ crystal.lattice)


def number(crystal: Crystal) -> int:
    return space_group(crystal, TIGHT)[0]


@pytest.mark.parametrize("crystals", [known(), anyone(), [(i, mirrored(one)) for i, one in known()]])
def test_space_groups_are_kept(crystals: list[tuple[int, Crystal]]) -> None:
    groups, starts = [group for group, _ in crystals], [one for _, one in crystals]
    assert [number(one) for one in starts] == groups
    made = relax(Lopsided(), starts, SETTINGS)
    assert [number(one.crystal) for one in made] == groups
    assert all(one.energy < one.energy_before - 1e-3 for one in made)
    # the potential would have broken every one of them
    free = relax(Lopsided(), starts, FREE)
    assert all(number(one.crystal) <= 2 for one in free)
    assert all(one.energy < kept.energy for one, kept in zip(free, made, strict=True))


def test_a_predictor_keeps_space_groups() -> None:
    groups, starts = zip(*known(), strict=True)
    model: Potential = tiny_predictor().double()
    settings = RelaxationSettings(iterations=8, force_tolerance=1e-5)
    assert tuple(number(one.crystal) for one in relax(model, starts, settings)) == groups


def test_the_energy_never_rises() -> None:
    for _, start in known():
        potential = Lopsided()
        (made,) = relax(potential, [start], SETTINGS)
        # whatever is lower is taken, as no atoms are too close here; what is higher never is
        assert made.energy_before == potential.energies[0]
        assert made.energy == min(potential.energies)


def test_what_the_group_leaves_free_moves() -> None:
    salt, perovskite, oxide, zinc, metal = (
        one.crystal for one in relax(Lopsided(), [one for _, one in known()], SETTINGS)
    )
    for cubic, cell in ((salt, toy("rocksalt", ("Na", "Cl"), 5.64)), (perovskite, known()[1][1])):
        ratio = np.linalg.solve(cell.lattice, cubic.lattice)
        np.testing.assert_allclose(ratio, ratio[0, 0] * np.eye(3), atol=1e-12)
        assert abs(ratio[0, 0] - 1) > 1e-3
    before = rutile()
    np.testing.assert_allclose(oxide.lattice, np.diag(np.diag(oxide.lattice)), atol=1e-12)
    a, b, c = np.diag(oxide.lattice)
    assert a == pytest.approx(b, abs=1e-12)
    assert abs(c / a - 2.96 / 4.59) > 1e-3
    u, v, w = oxide.frac_coords[2] - oxide.frac_coords[0]
    assert u == pytest.approx(v, abs=1e-12)
    assert abs(w) < 1e-12
    assert abs(u - before.frac_coords[2, 0]) > 1e-3
    height = zinc.frac_coords[2] - zinc.frac_coords[0]
    np.testing.assert_allclose(height[:2], 0, atol=1e-12)
    assert abs(height[2] - 0.382) > 1e-3
    for one in (zinc, metal):
        a, b, c = np.linalg.norm(one.lattice, axis=1)
        assert a == pytest.approx(b, abs=1e-12)
        assert min(abs(c / a - 5.21 / 3.25), abs(c / a - 5.21 / 3.21)) > 1e-3
    np.testing.assert_allclose(metal.frac_coords, hcp().frac_coords, atol=1e-12)


def equal(one: Relaxed, other: Relaxed, tolerance: float) -> None:
    assert (one.iterations, one.outcome) == (other.iterations, other.outcome)
    assert one.energy == pytest.approx(other.energy, abs=tolerance)
    np.testing.assert_allclose(one.crystal.frac_coords, other.crystal.frac_coords, atol=tolerance)
    np.testing.assert_allclose(one.crystal.lattice, other.crystal.lattice, atol=tolerance)


def test_a_crystal_without_symmetry_is_relaxed_as_ever() -> None:
    draw = np.random.default_rng(2)
    start = Crystal([8, 14, 22, 8], draw.random((4, 3)), 4.5 * np.eye(3) + 0.3 * draw.normal(size=(3, 3)))
    assert number(start) == 1
    (kept,), (free,) = (relax(Lopsided(), [start], settings) for settings in (SETTINGS, FREE))
    assert kept.iterations == 20
    equal(kept, free, 0.0)


def test_batches_change_nothing() -> None:
    crystals = [one for _, one in (*known(), *anyone()[5:9])]
    settings = RelaxationSettings(iterations=6, force_tolerance=1e-3, min_distance=0.0)
    together = relax(Lopsided(), crystals, settings)
    for one, crystal in zip(together, crystals, strict=True):
        equal(one, relax(Lopsided(), [crystal], settings)[0], 1e-9)


def test_what_is_nearly_symmetric_stays_so() -> None:
    """It starts from the very crystal that was given; what is off is neither undone nor made worse."""
    ideal = known()[1][1]
    off = 5e-4 * np.random.default_rng(4).normal(size=(5, 3))
    start = Crystal(ideal.atomic_numbers, ideal.frac_coords + off, ideal.lattice)
    assert (number(start), space_group(start, 0.01)[0]) == (1, 221)
    potential = Lopsided()
    (made,) = relax(potential, [start], SETTINGS)
    before = potential.energy(CrystalBatch.from_crystals([start], dtype=torch.float64))
    assert made.energy_before == float(before[0])
    assert space_group(made.crystal, 0.01)[0] == 221
    change = made.crystal.frac_coords - start.frac_coords
    np.testing.assert_allclose(change - change.round(), 0, atol=1e-9)
    assert made.crystal.volume != pytest.approx(start.volume, rel=1e-2)
    # of a tolerance below that it has no symmetry
    settings = RelaxationSettings(iterations=20, force_tolerance=1e-5, symprec=1e-5)
    (free,) = relax(Lopsided(), [start], settings)
    assert space_group(free.crystal, 0.01)[0] == 1
    with pytest.raises(InputError, match="relaxation: "):
        RelaxationSettings(symprec=0.0)


def test_projections_are_orthogonal() -> None:
    crystals = [one for _, one in anyone()]
    moves, rows = SymmetricMoves(crystals, 0.01), torch.arange(len(crystals))
    atoms = max(one.num_atoms for one in crystals)
    displacements, strains = _drawn(len(crystals), atoms, 3), _drawn(len(crystals), 3, 3)
    for project, start in ((moves.displacements, displacements), (moves.strains, strains)):
        once = project(start, rows)
        torch.testing.assert_close(project(once, rows), once, atol=1e-10, rtol=0)
        lost = (once * (start - once)).flatten(1).sum(1)
        torch.testing.assert_close(lost, torch.zeros_like(lost), atol=1e-9, rtol=0)
    # some of the crystals, in another order
    torch.testing.assert_close(
        moves.strains(strains[[4, 1]], torch.tensor([4, 1])), moves.strains(strains, rows)[[4, 1]]
    )


def test_a_doubled_cell_keeps_its_translations() -> None:
    salt = toy("rocksalt", ("Na", "Cl"), 5.64)
    coords = np.concatenate([(salt.frac_coords + np.array([0, 0, shift])) / [1, 1, 2] for shift in (0, 1)])
    double = Crystal([11, 17, 11, 17], coords, np.diag([1, 1, 2]) @ salt.lattice)
    rotations, _ = symmetry_operations(double, 0.01)
    assert len(rotations) > 1
    (made,) = relax(Lopsided(), [double], SETTINGS)
    shift = made.crystal.frac_coords[2:] - made.crystal.frac_coords[:2] - [0, 0, 0.5]
    np.testing.assert_allclose(shift - np.rint(shift), 0, atol=1e-10)


def test_a_crystal_that_no_group_is_found_for_is_relaxed() -> None:
    start = Crystal([11, 11], [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], 4.0 * np.eye(3))
    with pytest.raises(InputError, match="no space group"):
        symmetry_operations(start, 0.01)
    (made,) = relax(Lopsided(), [start], SETTINGS)
    assert made.energy < made.energy_before
