"""Contacts are sums over periodic neighbours, and no choice of the cell changes them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dao.errors import InputError
from dao.networks.config import CrysformerConfig
from dao.networks.contacts import CUTOFF, SCALE, contacts, radial_functions
from dao.networks.crysformer import Crysformer

CHANGES = ([[1, 1, 0], [0, 1, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[-1, 0, 0], [0, 1, 0], [0, 1, 1]])
"""Cell vectors as combinations of the old ones."""


def crystal(atoms: int, seed: int, length: float = 4.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 3, 3, generator=generator, dtype=torch.float64)
    lattice = length * torch.eye(3, dtype=torch.float64) + 0.4 * noise
    coords = torch.rand(1, atoms, 3, generator=generator, dtype=torch.float64)
    return coords, lattice, torch.ones(1, atoms, dtype=torch.bool)


def by_hand(coords: Tensor, lattice: Tensor, radial: int) -> Tensor:
    atoms = coords.shape[1]
    summed = torch.zeros(radial, atoms, atoms, dtype=torch.float64)
    for i, j in itertools.product(range(atoms), repeat=2):
        for steps in itertools.product(range(-5, 6), repeat=3):
            offset = coords[0, j] - coords[0, i] + torch.tensor(steps, dtype=torch.float64)
            distance = (offset @ lattice[0]).norm()
            if 1e-6 < distance < CUTOFF:
                summed[:, i, j] += SCALE * radial_functions(distance[None], radial)[0]
    return summed


@pytest.mark.parametrize("seed", range(3))
def test_every_image_within_the_cutoff_counts_once(seed: int) -> None:
    coords, lattice, mask = crystal(3, seed, length=2.8)
    made = contacts(coords, lattice, mask, 6)
    assert float(made.sum()) > 1.0
    torch.testing.assert_close(made[0], by_hand(coords, lattice, 6), atol=1e-12, rtol=0)


@given(st.integers(0, 10**6), st.integers(1, 5))
@settings(max_examples=25)
def test_no_choice_of_the_cell_changes_them(seed: int, atoms: int) -> None:
    coords, lattice, mask = crystal(atoms, seed)
    made = contacts(coords, lattice, mask, 5)
    for change in (
        [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
        [[-1, 0, 0], [0, 1, 0], [0, 1, 1]],
    ):
        cell = torch.tensor(change, dtype=torch.float64)
        other = contacts(coords @ torch.linalg.inv(cell) + 0.37, cell @ lattice, mask, 5)
        torch.testing.assert_close(other, made, atol=1e-9, rtol=0)
    torch.testing.assert_close(contacts(-coords, lattice, mask, 5), made, atol=1e-9, rtol=0)
    torch.testing.assert_close(made, made.mT, atol=1e-9, rtol=0)


def test_padding_and_the_rest_of_the_batch_do_not_matter() -> None:
    one, two = crystal(3, 0), crystal(2, 1, length=2.5)
    coords, mask = torch.zeros(2, 4, 3, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.bool)
    for row, (own, _, _) in enumerate((one, two)):
        coords[row, : own.shape[1]], mask[row, : own.shape[1]] = own[0], True
    made = contacts(coords, torch.cat([one[1], two[1]]), mask, 4)
    torch.testing.assert_close(made[0, :, :3, :3], contacts(*one, 4)[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(made[1, :, :2, :2], contacts(*two, 4)[0], atol=1e-12, rtol=0)
    assert not made[0, :, 3].any()
    assert not made[0, :, :, 3].any()


def test_they_are_smooth_where_a_neighbour_leaves() -> None:
    distances = torch.tensor([CUTOFF - 1e-4, CUTOFF], dtype=torch.float64, requires_grad=True)
    values = radial_functions(distances, 4)
    (slope,) = torch.autograd.grad(values.sum(), distances)
    assert float(values.detach().abs().max()) < 1e-8
    assert float(slope.abs().max()) < 1e-3


def test_gradients_are_those_of_finite_differences() -> None:
    coords, lattice, mask = crystal(3, 4)
    coords, lattice = coords.requires_grad_(), lattice.requires_grad_()
    torch.autograd.gradcheck(lambda f, cell: contacts(f, cell, mask, 3), (coords, lattice))


def test_distances_reach_the_features_of_a_network() -> None:
    """Twice the volume: nothing else that the trunk is given here knows it."""
    torch.manual_seed(0)
    coords, lattice, mask = crystal(3, 0)
    for radial, blind in ((0, True), (4, False)):
        config = CrysformerConfig(
            width=8, blocks=2, heads=2, frequencies=2, time_features=4, gram="normalized", contacts=radial
        )
        model = Crysformer(config).double()
        inputs = (torch.tensor([[8, 22, 38]]), coords)
        rest = (torch.zeros(1, 6, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), mask)
        nodes = [model(*inputs, scale * lattice, *rest)[0] for scale in (1.0, 1.26)]
        assert torch.allclose(nodes[0], nodes[1], atol=1e-9) == blind


def test_the_width_must_be_a_multiple() -> None:
    with pytest.raises(InputError, match="not a multiple of its 5 contacts"):
        CrysformerConfig(width=16, heads=4, contacts=5)
