from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from ase.build import bulk
from scipy.optimize import minimize_scalar
from torch import Tensor
from toys import tiny_predictor, toy_crystals

from dao.crystal import Crystal, CrystalBatch
from dao.errors import InputError
from dao.geometry.cells import min_distance
from dao.geometry.lattice import log_metric
from dao.geometry.torus import log_map
from dao.potential import EnergyForcesStress, Potential, differentiate
from dao.relaxation import RelaxationSettings, Relaxed, relax

IMAGES = torch.tensor(list(itertools.product(range(-4, 5), repeat=3)), dtype=torch.float64)
SIGMA = 2.5


@dataclass
class LennardJones:
    """Argon-like, of one element, cut off smoothly at 3 sigma; for compact cells. Counts what it is asked."""

    calls: list[int] = field(default_factory=list)

    def energy(self, batch: CrystalBatch) -> Tensor:
        difference = batch.frac_coords[:, :, None, None] - batch.frac_coords[:, None, :, None] + IMAGES
        square = (difference @ batch.lattice[:, None, None]).square().sum(-1) / SIGMA**2
        pair = (batch.mask[:, :, None] & batch.mask[:, None])[..., None] & (square > 1e-8) & (square < 9.0)
        ratio = 1.0 / torch.where(pair, square, torch.ones_like(square)) ** 3
        return 2.0 * ((ratio**2 - ratio) * (1.0 - square / 9.0) ** 3 * pair).sum((1, 2, 3))

    def energy_forces_stress(self, batch: CrystalBatch) -> EnergyForcesStress:
        self.calls.append(len(batch))
        return differentiate(self.energy, batch)


@dataclass
class Quadratic:
    """Springs to given fractional coordinates, and of the cell's log-metric to that of a cube."""

    target: Tensor
    side: float = 4.0

    def energy(self, batch: CrystalBatch) -> Tensor:
        offset = log_map(self.target, batch.frac_coords)
        cell = log_metric(batch.lattice) - log_metric(self.side * torch.eye(3, dtype=torch.float64))
        springs = 40.0 * (offset.square().sum(-1) * batch.mask).sum(1)
        return springs + 30.0 * cell.square().sum(1) + 1.5

    def energy_forces_stress(self, batch: CrystalBatch) -> EnergyForcesStress:
        return differentiate(self.energy, batch)


LONG = RelaxationSettings(iterations=200, force_tolerance=1e-7, max_volume_change=0.5)


def distorted(a: float, seed: int, atoms: int = 1) -> Crystal:
    """Face-centred cubic argon, strained and (with more atoms) rattled."""
    draw = np.random.default_rng(seed)
    made = bulk("Ar", "fcc", a=a) * (1, 1, atoms)
    strain = draw.normal(size=(3, 3)) * 0.03
    cell = made.cell.array @ (np.eye(3) + strain + strain.T)
    coords = made.get_scaled_positions() + draw.normal(size=(atoms, 3)) * 0.02
    return Crystal(made.numbers, coords, cell, f"ar-{seed}")


def test_lennard_jones_reaches_the_cubic_minimum() -> None:
    potential = LennardJones()

    def cubic(a: float) -> float:
        crystal = Crystal.from_atoms(bulk("Ar", "fcc", a=a))
        return float(potential.energy(CrystalBatch.from_crystals([crystal], dtype=torch.float64))[0])

    best = minimize_scalar(cubic, bounds=(1.3 * SIGMA, 1.8 * SIGMA), method="bounded", options={"xatol": 1e-10})
    assert best.fun < -4.0
    made = relax(potential, [distorted(a, seed) for seed, a in enumerate((3.5, 3.9, 4.2))], LONG)
    for one in made:
        assert one.outcome == "converged"
        assert one.max_force < 1e-7
        assert one.energy == pytest.approx(best.fun, abs=1e-8)
        assert one.energy < one.energy_before
        # the Gram matrix of the primitive cell of a cube of that side
        gram = one.crystal.lattice @ one.crystal.lattice.T
        expected = best.x**2 / 4 * (1 + np.eye(3))
        np.testing.assert_allclose(gram, expected, atol=1e-4)
        assert one.crystal.material_id is not None


def test_a_quadratic_is_solved_in_few_steps() -> None:
    target = torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draw = np.random.default_rng(1)
    start = Crystal([11] * 5, target.numpy() + draw.normal(size=(5, 3)) * 0.03, np.diag([4.2, 3.9, 4.1]))
    settings = RelaxationSettings(iterations=40, force_tolerance=1e-6, min_distance=0.0)
    (made,) = relax(Quadratic(target[None]), [start], settings)
    assert made.outcome == "converged"
    assert made.iterations < 30
    assert made.energy == pytest.approx(1.5, abs=1e-10)
    np.testing.assert_allclose(made.crystal.lattice @ made.crystal.lattice.T, 16 * np.eye(3), atol=1e-5)
    offset = made.crystal.frac_coords - target.numpy()
    np.testing.assert_allclose(offset - np.rint(offset), 0, atol=1e-6)


def rattled(count: int) -> list[Crystal]:
    """Toy crystals whose atoms and cells are off their symmetry."""
    draw = np.random.default_rng(0)
    return [
        Crystal(
            one.atomic_numbers,
            one.frac_coords + draw.normal(size=(one.num_atoms, 3)) * 0.03,
            one.lattice @ (np.eye(3) + draw.normal(size=(3, 3)) * 0.03),
            one.material_id,
        )
        for one in toy_crystals()[:count]
    ]


def same(one: Relaxed, other: Relaxed, tolerance: float = 1e-9) -> None:
    assert (one.outcome, one.iterations, one.crystal.name) == (other.outcome, other.iterations, other.crystal.name)
    assert math.isclose(one.energy, other.energy, abs_tol=tolerance)
    offset = one.crystal.frac_coords - other.crystal.frac_coords
    np.testing.assert_allclose(offset - np.rint(offset), 0, atol=tolerance)
    np.testing.assert_allclose(one.crystal.lattice, other.crystal.lattice, atol=tolerance)


@pytest.mark.parametrize("name", ["lennard-jones", "predictor"])
def test_batches_and_order_change_nothing(name: str) -> None:
    if name == "predictor":
        potential: Potential = tiny_predictor().double()
        crystals, settings = rattled(8), RelaxationSettings(iterations=8, force_tolerance=1e-3)
    else:
        potential = LennardJones()
        crystals = [distorted(3.6 + 0.1 * i, i, atoms=1 + i % 3) for i in range(6)]
        settings = RelaxationSettings(iterations=12, force_tolerance=0.05)
    together = relax(potential, crystals, settings)
    alone = [relax(potential, [crystal], settings)[0] for crystal in crystals]
    turned = relax(potential, crystals[::-1], settings, batch_size=3)[::-1]
    assert name == "predictor" or len({one.iterations for one in together}) > 1
    for one, other, third in zip(together, alone, turned, strict=True):
        same(one, other)
        same(one, third)


def test_a_predictor_s_energy_falls() -> None:
    model = tiny_predictor().double()
    crystals = rattled(10)
    made = relax(model, crystals, RelaxationSettings(iterations=20, force_tolerance=1e-5))
    before = model.energy(CrystalBatch.from_crystals(crystals, dtype=torch.float64)).detach()
    after = model.energy(CrystalBatch.from_crystals([one.crystal for one in made], dtype=torch.float64)).detach()
    for i, one in enumerate(made):
        assert one.energy_before == pytest.approx(float(before[i]) * crystals[i].num_atoms, abs=1e-9)
        assert one.energy == pytest.approx(float(after[i]) * crystals[i].num_atoms, abs=1e-9)
        assert one.energy <= one.energy_before
    assert sum(one.energy_before - one.energy for one in made) > 1e-3


def test_finished_crystals_cost_nothing_more() -> None:
    potential = LennardJones()
    (done,) = relax(potential, [distorted(3.9, 0)], LONG)
    potential.calls.clear()
    results = relax(
        potential, [done.crystal, distorted(3.7, 1)], RelaxationSettings(iterations=6, force_tolerance=1e-5)
    )
    assert potential.calls == [2, 1, 1, 1, 1, 1, 1]
    assert (results[0].outcome, results[0].iterations) == ("converged", 0)
    assert (results[1].outcome, results[1].iterations) == ("iterations", 6)


@pytest.mark.parametrize("change", [0.02, 0.1])
def test_the_volume_stays_within_its_bounds(change: float) -> None:
    start = distorted(5.0, 2)
    (made,) = relax(LennardJones(), [start], RelaxationSettings(iterations=60, max_volume_change=change))
    assert made.crystal.volume / start.volume == pytest.approx(1 - change, rel=1e-6)
    (free,) = relax(LennardJones(), [start], LONG)
    assert free.crystal.volume / start.volume < 1 - change - 0.01


def test_one_step_is_bounded() -> None:
    start = distorted(3.1, 3, atoms=3)
    (made,) = relax(LennardJones(), [start], RelaxationSettings(iterations=1, max_step=0.05))
    assert made.energy < made.energy_before
    strain = np.linalg.solve(start.lattice, made.crystal.lattice)
    assert np.abs(strain - np.eye(3)).max() < 1.1 * 0.05 / 3**0.5
    offset = made.crystal.frac_coords - start.frac_coords
    moved = np.linalg.norm((offset - np.rint(offset)) @ start.lattice, axis=1)
    assert moved.max() < 0.05 + 1e-9
    assert max(moved.max(), np.abs(strain - np.eye(3)).max() * 3**0.5) > 0.04


@dataclass
class Stiff(Quadratic):
    """Forces for which the first step is much longer than is allowed, and too long. Keeps where it was asked."""

    asked: list[Tensor] = field(default_factory=list)

    def energy_forces_stress(self, batch: CrystalBatch) -> EnergyForcesStress:
        self.asked.append(batch.frac_coords)
        return differentiate(lambda moved: 200.0 * self.energy(moved), batch)


def test_a_step_that_was_cut_is_shortened_from_there() -> None:
    potential = Stiff(torch.tensor([[[0.5, 0.5, 0.5]]], dtype=torch.float64))
    start = Crystal([11], [[0.5, 0.5, 0.51]], 4.0 * np.eye(3))
    # an atom alone is a centre of inversion, and stays where it is if that is kept
    (made,) = relax(potential, [start], RelaxationSettings(iterations=3, keep_symmetry=False))
    assert made.energy < made.energy_before
    steps = [float((asked - potential.asked[0]).norm()) * 4.0 for asked in potential.asked[1:3]]
    assert steps == pytest.approx([0.2, 0.06], rel=1e-3)


def test_atoms_never_come_closer_than_allowed() -> None:
    """Springs that pull two atoms into one place."""
    target = torch.tensor([[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]], dtype=torch.float64)
    start = Crystal([11, 11], [[0.3, 0.5, 0.5], [0.7, 0.5, 0.55]], 4.0 * np.eye(3))
    (made,) = relax(Quadratic(target), [start], RelaxationSettings(iterations=100, min_distance=1.0, max_step=0.1))
    assert 1.0 <= min_distance(made.crystal) < 1.2
    assert made.outcome == "stuck"
    # one that starts closer is not refused, but comes no closer
    near = Crystal([11, 11], [[0.4, 0.5, 0.5], [0.6, 0.5, 0.5]], 4.0 * np.eye(3))
    (kept,) = relax(Quadratic(target), [near], RelaxationSettings(min_distance=1.0))
    assert min_distance(kept.crystal) >= 0.8 - 1e-9


class Broken:
    def energy_forces_stress(self, batch: CrystalBatch) -> EnergyForcesStress:
        nan = torch.full((len(batch),), math.nan, dtype=torch.float64)
        return EnergyForcesStress(nan, batch.frac_coords * math.nan, batch.lattice * math.nan)


def test_a_potential_that_fails_leaves_the_crystal_as_it_was() -> None:
    start = distorted(3.9, 0)
    (made,) = relax(Broken(), [start], RelaxationSettings(iterations=20))
    assert made.outcome == "stuck"
    assert math.isinf(made.energy)
    np.testing.assert_allclose(made.crystal.lattice, start.lattice)


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"iterations": 0}, {"max_volume_change": 1.0}, {"max_step": -0.1}, {"min_distance": -1.0}):
        with pytest.raises(InputError, match="relaxation: "):
            RelaxationSettings(**wrong)
    assert (RelaxationSettings().iterations, RelaxationSettings().learning_rate) == (5, 1.0)


def test_batches_are_reported_as_they_finish() -> None:
    seen: list[dict[int, Relaxed]] = []
    crystals = [distorted(3.9, i, atoms=2 - i % 2) for i in range(4)]
    made = relax(LennardJones(), crystals, RelaxationSettings(iterations=1), batch_size=2, on_batch=seen.append)
    assert [sorted(one) for one in seen] == [[1, 3], [0, 2]]
    assert all(seen[i % 2 == 0][i] is made[i] for i in range(4))
