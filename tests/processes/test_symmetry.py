"""What a space group leaves free of coordinates and cells: projections, held against the groups' own operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from symmetric_toys import KINDS, conventional_lattice, double_table, symmetric_set
from torch import Tensor

from dao.crystal import Crystal, CrystalBatch
from dao.geometry.cells import space_group as group_of
from dao.geometry.lattice import lattice_from_log_metric, log_metric
from dao.geometry.wyckoff import SPACE_GROUPS, operations, primitive_cell, site_table
from dao.processes.representations import HEXAGONAL, ConventionalLogMetricLattice
from dao.processes.symmetry import Symmetry, SymmetryTable, apply, lattice_freedom, polar_directions

KIND = st.sampled_from(sorted(KINDS))
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def table() -> SymmetryTable:
    return double_table()


@pytest.fixture(scope="module")
def batch() -> CrystalBatch:
    """One crystal of each kind, in double precision where the maps are."""
    packed = symmetric_set(sorted(KINDS))
    return packed.batch(torch.arange(len(packed))).to("cpu", torch.float64)


@pytest.fixture(scope="module")
def symmetry(table: SymmetryTable, batch: CrystalBatch) -> Symmetry:
    assert batch.sites is not None
    return table.of_batch(batch.sites, batch.labels["space_group"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- coordinates ----------------------------------------------------------------------------------------------------


def test_a_projected_velocity_is_its_own_projection(symmetry: Symmetry, batch: CrystalBatch) -> None:
    velocity = random(*batch.frac_coords.shape)
    once = symmetry.project(velocity)
    torch.testing.assert_close(symmetry.project(once), once, rtol=0, atol=1e-12)
    assert not once[~batch.mask].any()
    assert float((once - velocity)[batch.mask].abs().max()) > 0.1


def test_velocities_of_free_coordinates_are_kept(symmetry: Symmetry, batch: CrystalBatch) -> None:
    velocity = apply(symmetry.maps, symmetry.of_orbit(random(*batch.frac_coords.shape)))
    torch.testing.assert_close(symmetry.project(velocity), velocity, rtol=0, atol=1e-12)


def test_no_allowed_velocity_is_nearer(symmetry: Symmetry, batch: CrystalBatch) -> None:
    """What least squares leaves is orthogonal to all that it may choose from."""
    velocity = random(*batch.frac_coords.shape) * batch.mask[..., None]
    left = velocity - symmetry.project(velocity)
    for seed in range(1, 4):
        other = apply(symmetry.maps, symmetry.of_orbit(random(*batch.frac_coords.shape, seed=seed)))
        products = (left * other).sum((1, 2))
        torch.testing.assert_close(products, torch.zeros_like(products), rtol=0, atol=1e-10)


def test_a_projected_velocity_has_the_symmetry_of_the_group(symmetry: Symmetry, batch: CrystalBatch) -> None:
    """Each operation takes each atom to another (or itself), and must take its velocity to that atom's."""
    velocity = symmetry.project(random(*batch.frac_coords.shape)).numpy()
    coords, numbers = batch.frac_coords.numpy(), batch.atomic_numbers.numpy()
    for i, count in enumerate(batch.num_atoms.tolist()):
        rotations, translations = operations(int(symmetry.space_group[i]))
        at, v = coords[i, :count], velocity[i, :count]
        for rotation, translation in zip(rotations, translations, strict=True):
            difference = (at @ rotation.T + translation)[:, None] - at
            distance = np.abs(difference - difference.round()).max(-1)
            target = distance.argmin(1)
            assert distance.min(1).max() < 1e-5  # coordinates are stored in single precision
            assert (numbers[i, target] == numbers[i, :count]).all()
            np.testing.assert_allclose(v @ rotation.T, v[target], atol=1e-10)


@given(KIND, SEEDS)
@settings(max_examples=12)
def test_moving_along_it_keeps_the_group(table: SymmetryTable, kind: int, seed: int) -> None:
    """As moyo sees it, in another cell of the crystal system."""
    rng = np.random.default_rng(seed)
    packed = symmetric_set((kind,))
    one = packed.batch(torch.tensor([0])).to("cpu", torch.float64)
    assert one.sites is not None
    symmetry = table.of_batch(one.sites, one.labels["space_group"])
    moved = one.frac_coords + 0.03 * symmetry.project(torch.from_numpy(rng.normal(size=one.frac_coords.shape)))
    lattice = primitive_cell(kind) @ conventional_lattice(kind, rng)
    number, _ = group_of(Crystal(one.atomic_numbers[0].numpy(), moved[0].numpy(), lattice), 1e-3)
    assert number == kind
    free = symmetry.free_coords(moved)
    torch.testing.assert_close(symmetry.expand(free), moved, rtol=0, atol=1e-5)
    torch.testing.assert_close(free, symmetry.of_orbit(free), rtol=0, atol=1e-5)


def test_free_coordinates_come_back(symmetry: Symmetry, batch: CrystalBatch) -> None:
    free = symmetry.of_orbit(torch.rand(batch.frac_coords.shape, dtype=torch.float64)) * 3 - 1
    free = free * (symmetry.maps.abs().sum(-2) > 0)
    torch.testing.assert_close(symmetry.free_coords(symmetry.expand(free)), free, rtol=0, atol=1e-12)
    assert not symmetry.expand(free)[~batch.mask].any()


def test_orbits_begin_where_they_should(symmetry: Symmetry, batch: CrystalBatch) -> None:
    assert batch.sites is not None
    images = site_table().image[batch.sites.numpy()]
    slots = np.arange(images.shape[1])
    wanted = np.where(batch.mask.numpy(), slots - images, slots)
    assert (symmetry.first.numpy() == wanted).all()
    assert ((symmetry.position > 0) == batch.mask).all()


def test_space_group_1_leaves_all_free(table: SymmetryTable) -> None:
    sites = torch.tensor([[1, 1, 1, 0]])
    symmetry = table.of_batch(sites, torch.tensor([1]))
    velocity = random(1, 4, 3)
    assert torch.equal(symmetry.project(velocity)[:, :3], velocity[:, :3])
    numbers = random(1, 6)
    assert torch.equal(symmetry.project_lattice(numbers), numbers)
    assert torch.equal(symmetry.polar[0], torch.eye(3, dtype=torch.float64))
    assert symmetry.first.tolist() == [[0, 1, 2, 3]]


def test_nothing_of_it_is_saved_and_the_shared_table_is_not_written_to() -> None:
    assert SymmetryTable().state_dict() == {}
    assert (site_table().maps[0] == np.eye(3)).all()


def test_polar_directions_are_those_that_no_operation_moves() -> None:
    for number in range(1, SPACE_GROUPS + 1):
        polar, (rotations, _) = polar_directions(number), operations(number)
        np.testing.assert_allclose(polar @ polar, polar, atol=1e-12)
        np.testing.assert_allclose(rotations @ polar, np.broadcast_to(polar, rotations.shape), atol=1e-12)
    rank = {number: int(np.linalg.matrix_rank(polar_directions(number))) for number in range(1, SPACE_GROUPS + 1)}
    # International Tables A, 10 polar point groups: 68 polar space groups
    assert sum(value > 0 for value in rank.values()) == 68
    assert [number for number, value in rank.items() if value == 3] == [1]
    assert [number for number, value in rank.items() if value == 2] == [6, 7, 8, 9]


# --- lattices -------------------------------------------------------------------------------------------------------


def test_a_projected_lattice_has_the_metric_of_the_group() -> None:
    """W^T G W = G for the primitive rotations of all groups, where G is the metric tensor of the primitive cell."""
    for number in range(1, SPACE_GROUPS + 1):
        lattice = primitive_cell(number) @ conventional_lattice(number, np.random.default_rng(number), length=1.0)
        metric = lattice @ lattice.T
        rotations, _ = operations(number)
        np.testing.assert_allclose(rotations.transpose(0, 2, 1) @ metric @ rotations, rotations * 0 + metric, atol=1e-9)


def test_as_much_of_the_lattice_is_free_as_the_crystal_system_says() -> None:
    systems = {range(1, 3): 6, range(3, 16): 4, range(16, 75): 3, range(75, 195): 2, range(195, 231): 1}
    for groups, free in systems.items():
        for number in groups:
            projector, fixed = lattice_freedom(number)
            assert np.linalg.matrix_rank(projector) == free
            np.testing.assert_allclose(projector @ projector, projector, atol=1e-12)
            np.testing.assert_allclose(projector, projector.T, atol=1e-12)
            assert np.abs(projector @ fixed).max() < 1e-12
            assert (fixed != 0).any() == (143 <= number <= 194)
    hexagonal = torch.tensor([[1.0, 0, 0], [-0.5, 3**0.5 / 2, 0], [0, 0, 1.6]], dtype=torch.float64)
    assert float(log_metric(hexagonal)[3]) == pytest.approx(HEXAGONAL, abs=1e-12)


def representation(seed: int = 0) -> ConventionalLogMetricLattice:
    made = ConventionalLogMetricLattice().double()
    generator = torch.Generator().manual_seed(seed)
    lattices = [torch.from_numpy(conventional_lattice(n, np.random.default_rng(n))) for n in (2, 12, 62, 139, 194, 225)]
    made.fit(torch.stack(lattices), torch.randint(1, 3, (6, 95), generator=generator).double())
    return made


def test_lattices_round_trip_in_every_crystal_system(symmetry: Symmetry, batch: CrystalBatch) -> None:
    scaler = representation()
    numbers = scaler.encode_primitive(batch.lattice, batch.atomic_numbers, symmetry.cell)
    back = scaler.decode_primitive(numbers, batch.atomic_numbers, symmetry.cell)
    torch.testing.assert_close(back @ back.mT, batch.lattice @ batch.lattice.mT, rtol=1e-9, atol=1e-9)
    # they lie in the space that the group allows (lattices are stored in single precision)
    fixed = symmetry.fixed_lattice / scaler.deviation
    torch.testing.assert_close(symmetry.project_lattice(numbers) + fixed, numbers, rtol=0, atol=2e-5)


def test_numbers_of_the_space_decode_to_lattices_of_the_group(symmetry: Symmetry, batch: CrystalBatch) -> None:
    scaler = representation()
    numbers = symmetry.project_lattice(random(len(batch), 6)) + symmetry.fixed_lattice / scaler.deviation
    lattice = scaler.decode_primitive(numbers, batch.atomic_numbers, symmetry.cell).numpy()
    for metric, number in zip(lattice @ lattice.transpose(0, 2, 1), symmetry.space_group.tolist(), strict=True):
        rotations, _ = operations(number)
        kept = rotations.transpose(0, 2, 1) @ metric @ rotations
        np.testing.assert_allclose(kept, rotations * 0 + metric, atol=1e-7 * np.abs(metric).max())
    again = scaler.encode_primitive(torch.from_numpy(lattice), batch.atomic_numbers, symmetry.cell)
    torch.testing.assert_close(again, numbers, rtol=0, atol=1e-8)


def test_equal_axes_share_their_scaler_and_fixed_angles_have_none() -> None:
    scaler = representation()
    assert len(set(scaler.mean[:3].tolist())) == len(set(scaler.deviation[:3].tolist())) == 1
    assert scaler.mean[3:].tolist() == [0.0, 0.0, 0.0]
    assert len(set(scaler.deviation[3:].tolist())) == 1
    only_cubic = ConventionalLogMetricLattice().double()
    only_cubic.fit(torch.eye(3).double().expand(4, 3, 3) * 5, torch.ones(4, 95).double())
    assert only_cubic.deviation.tolist() == pytest.approx([0.01] * 6)
    assert float(only_cubic.volume_deviation) == pytest.approx(0.01)


def test_volume_and_shape_have_deviations_of_their_own() -> None:
    """Unit numbers of the training set, although its volumes vary ten times less than its shapes."""
    generator = torch.Generator().manual_seed(0)
    shape, size = torch.randn(500, 1, generator=generator).double(), torch.randn(500, 1, generator=generator).double()
    diagonal = 0.5 * shape * torch.tensor([1.0, 1.0, -2.0]).double() / 6**0.5 + 0.05 * size / 3**0.5
    lattices = torch.diag_embed(5.0 * diagonal.exp())
    scaler = ConventionalLogMetricLattice().double()
    scaler.fit(lattices, torch.ones(500, 95).double())
    numbers = scaler.encode_primitive(
        lattices, torch.tensor([[11]]).expand(500, 1), torch.eye(3).double().expand(500, 3, 3)
    )
    along = 3.0**0.5 * numbers[:, :3].mean(1)
    across = numbers[:, :3] - numbers[:, :3].mean(1, keepdim=True)
    assert float(along.std()) == pytest.approx(1.0, abs=0.01)
    assert float(across.square().sum(1).mean()) == pytest.approx(2.0, abs=0.01)


def test_the_lattice_is_told_from_its_conventional_cells_volume() -> None:
    """With no number of its own, a crystal has the volume that its elements ask for, centred or not."""
    scaler = representation()
    numbers = torch.tensor([[11, 17], [11, 17]])
    cell = torch.stack([torch.eye(3).double(), torch.from_numpy(primitive_cell(225))])
    # equal diagonal numbers are volume alone, which has its own deviation
    middle = (-scaler.mean / torch.cat([scaler.volume_deviation.expand(3), scaler.deviation[3:]])).expand(2, 6)
    volumes = torch.linalg.det(scaler.decode_primitive(middle, numbers, cell)).abs()
    wanted = float(scaler.atomic_volumes[[11, 17]].sum())
    assert volumes.tolist() == pytest.approx([wanted, wanted])
    assert float(torch.linalg.det(lattice_from_log_metric(torch.zeros(6)))) == pytest.approx(1.0)
