from __future__ import annotations

import math

import torch
from toys import toy_crystals

from dao.crystal import CrystalBatch
from dao.geometry.lattice import volume
from dao.geometry.torus import log_map
from dao.networks.contacts import contacts
from dao.training.deformations import BULK, LARGEST_DILATION, LARGEST_RATTLE, deformed, other_setting
from dao.training.fit import TrainingNoise

BATCH = CrystalBatch.from_crystals(toy_crystals(), dtype=torch.float64)
ALL = torch.ones(len(BATCH), dtype=torch.bool)


class Source(TrainingNoise):
    """Float64 noise, each kind scaled: 0 switches it off."""

    def __init__(self, seed: int = 0, **amplitudes: float) -> None:
        super().__init__(len(BATCH), torch.Generator().manual_seed(seed), torch.device("cpu"))
        self.amplitudes = {(): "dilation", (3, 3): "shear"}
        self.factors = amplitudes

    def normal(self, *shape: int) -> torch.Tensor:
        factor = self.factors.get(self.amplitudes.get(shape, "rattle"), 1.0)
        return factor * super().normal(*shape).double()

    def uniform(self, *shape: int) -> torch.Tensor:
        return super().uniform(*shape).double()


def test_only_the_chosen_are_moved_and_pay_for_it() -> None:
    rows = torch.arange(len(BATCH)) % 3 == 0
    made, energy = deformed(BATCH, rows, Source())
    assert bool((energy[rows] > 0).all())
    assert not energy[~rows].any()
    assert torch.equal((made.lattice != BATCH.lattice).flatten(1).any(1), rows)
    assert bool((log_map(BATCH.frac_coords, made.frac_coords)[~rows].abs() < 1e-12).all())
    assert not made.frac_coords[~BATCH.mask].any()
    assert bool((volume(made.lattice) > 0.4 * volume(BATCH.lattice)).all())


def test_dilation_costs_half_the_bulk_modulus_times_its_square() -> None:
    made, energy = deformed(BATCH, ALL, Source(shear=0.0, rattle=0.0))
    log_volume = (volume(made.lattice) / volume(BATCH.lattice)).log()
    assert float(log_volume.abs().max()) > 0.3 * LARGEST_DILATION
    torch.testing.assert_close(energy, 0.5 * BULK * log_volume**2)


def test_shear_keeps_the_volume_and_costs_energy() -> None:
    made, energy = deformed(BATCH, ALL, Source(dilation=0.0, rattle=0.0))
    torch.testing.assert_close(volume(made.lattice), volume(BATCH.lattice))
    assert bool((energy > 0).all())


def test_rattling_moves_no_centre_of_mass_and_costs_the_mean_square() -> None:
    made, energy = deformed(BATCH, ALL, Source(dilation=0.0, shear=0.0))
    moved = log_map(BATCH.frac_coords, made.frac_coords) @ BATCH.lattice
    several = BATCH.num_atoms > 1
    assert float(moved.sum(1).abs().max()) < 1e-9
    assert LARGEST_RATTLE < float(moved.abs().max()) < 6 * LARGEST_RATTLE
    square = moved.square().sum((1, 2)) / BATCH.num_atoms
    torch.testing.assert_close(energy, 2.5 * square, atol=1e-12, rtol=1e-9)
    assert bool((energy[several] > 0).all())


def test_another_setting_is_the_same_crystal() -> None:
    made = other_setting(BATCH, Source())
    assert not torch.equal(made.lattice, BATCH.lattice)
    before, after = (contacts(one.frac_coords, one.lattice, one.mask, 4) for one in (BATCH, made))
    torch.testing.assert_close(after, before, atol=1e-9, rtol=0)
    # some sites of the toys, and the cubic cells, look the same in every setting
    moved = (made.frac_coords - BATCH.frac_coords).abs().flatten(1).amax(1) > 1e-9
    assert bool(moved.any())
    assert bool((made.lattice != BATCH.lattice).flatten(1).any(1).any())
    assert math.isclose(float(volume(made.lattice).sum()), float(volume(BATCH.lattice).sum()), rel_tol=1e-9)
