"""Flow matching within space groups: paths stay in the group, end at the data, and are no longer than they need be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from symmetric_toys import KINDS, Orbits, double_table, symmetric_crystal, symmetric_set
from torch import Tensor

from dao.crystal import CrystalBatch
from dao.data.store import pack_crystals
from dao.data.symmetrized import pack_symmetric
from dao.errors import InputError
from dao.geometry.torus import log_map
from dao.geometry.wyckoff import WYCKOFF_POSITIONS, site_table, wyckoff_index
from dao.processes.base import Losses, Noised, NoiseSource, Prediction, State
from dao.processes.build import build_process
from dao.processes.config import ProcessConfig, SamplerSettings
from dao.processes.flow import Flow
from dao.processes.representations import ConventionalLogMetricLattice, LogMetricLattice
from dao.processes.symmetric_flow import SymmetricFlow, equivalent_maps, free_translations, pair_orbits
from dao.processes.symmetry import Symmetry, apply

Noise = Callable[..., NoiseSource]

# orbits of one element on one position, which may be exchanged
CROWDED: dict[int, Orbits] = {
    1: ((8, "a"), (8, "a"), (8, "a"), (8, "a"), (14, "a")),
    2: ((8, "i"), (8, "i"), (8, "i"), (14, "a"), (14, "i")),
    62: ((8, "c"), (8, "c"), (8, "d"), (8, "d"), (14, "c")),
    139: ((8, "e"), (8, "e"), (8, "h"), (14, "a"), (14, "b")),
    160: ((8, "b"), (8, "b"), (8, "a"), (8, "a"), (14, "a")),
    225: ((8, "e"), (8, "e"), (8, "f"), (14, "a")),
}


class Fixed:
    """The same numbers for each atom and crystal, however many places the batch is padded to."""

    def __init__(self, batch: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.atoms = torch.rand(batch, 100, 3, generator=generator, dtype=torch.float64)
        self.lattice = torch.randn(batch, 6, generator=generator, dtype=torch.float64)

    def normal(self, *shape: int) -> Tensor:
        assert shape == (6,)
        return self.lattice

    def uniform(self, *shape: int) -> Tensor:
        return self.atoms[:, : shape[0]]


def process(**weights: float) -> SymmetricFlow:
    made = SymmetricFlow(ConventionalLogMetricLattice(), **weights).double()
    made.representation.mean[:3], made.representation.deviation[:] = 2.2, 0.2
    made.representation.atomic_volumes[1:] = 1.0
    return made


def batch_of(groups: dict[int, Orbits], copies: int = 1, pad_to: int | None = None) -> CrystalBatch:
    rng = np.random.default_rng(0)
    made = [symmetric_crystal(group, rng, orbits) for group, orbits in groups.items() for _ in range(copies)]
    packed = pack_symmetric(made, pack_crystals([one.crystal() for one in made]))
    return packed.batch(torch.arange(len(made)), pad_to).to("cpu", torch.float64)


def encoded(flow: SymmetricFlow, batch: CrystalBatch) -> State:
    assert batch.sites is not None
    symmetry = double_table().of_batch(batch.sites, batch.labels["space_group"])
    # stored in single precision; here exactly on their positions
    coords = symmetry.expand(symmetry.of_orbit(symmetry.free_coords(batch.frac_coords)))
    numbers = flow.representation.encode_primitive(batch.lattice, batch.atomic_numbers, symmetry.cell)
    fixed = symmetry.fixed_lattice / flow.representation.deviation
    return State(coords, symmetry.project_lattice(numbers) + fixed, symmetry)


def noised(flow: SymmetricFlow, batch: CrystalBatch, time: float | Tensor, noise: NoiseSource) -> Noised:
    times = time if isinstance(time, Tensor) else torch.full((len(batch),), time, dtype=torch.float64)
    return flow.noised(encoded(flow, batch), times, batch.atomic_numbers, batch.mask, noise)


def assert_in_group(flow: SymmetricFlow, state: State, mask: Tensor) -> None:
    """Every orbit whole and on its position, the lattice in its crystal system."""
    symmetry = state.known_symmetry
    free = symmetry.free_coords(state.frac_coords)
    torch.testing.assert_close(symmetry.of_orbit(free), free, rtol=0, atol=1e-9)
    torch.testing.assert_close(symmetry.expand(free), state.frac_coords, rtol=0, atol=1e-9)
    fixed = symmetry.fixed_lattice / flow.representation.deviation
    torch.testing.assert_close(symmetry.project_lattice(state.lattice) + fixed, state.lattice, rtol=0, atol=1e-9)
    assert not state.frac_coords[~mask].any()


@pytest.mark.parametrize("groups", [KINDS, CROWDED])
def test_prior_and_paths_stay_in_the_group(groups: dict[int, Orbits], noise: Noise) -> None:
    flow, batch = process(), batch_of(groups)
    clean = encoded(flow, batch)
    assert_in_group(flow, clean, batch.mask)
    prior = flow.prior(batch.mask, noise(len(batch)), clean.symmetry)
    assert_in_group(flow, prior, batch.mask)
    for t in (0.0, 0.3, 1.0):
        made = noised(flow, batch, t, noise(len(batch), 1))
        assert_in_group(flow, made.state, batch.mask)
        assert not made.target.frac_coords[~batch.mask].any()
        symmetry = clean.known_symmetry
        kept = symmetry.project(made.target.frac_coords)
        torch.testing.assert_close(kept, made.target.frac_coords, rtol=0, atol=1e-9)
    start = noised(flow, batch, 0.0, noise(len(batch), 1)).state
    torch.testing.assert_close(start.frac_coords, clean.frac_coords, rtol=0, atol=1e-9)
    torch.testing.assert_close(start.lattice, clean.lattice, rtol=0, atol=1e-9)


@pytest.mark.parametrize("groups", [KINDS, CROWDED])
def test_a_sampler_begins_with_as_little_noise_as_asked_for(groups: dict[int, Orbits], noise: Noise) -> None:
    flow, batch = process(), batch_of(groups)
    clean = encoded(flow, batch)
    symmetry = clean.known_symmetry
    fixed = symmetry.fixed_lattice / flow.representation.deviation
    prior = flow.prior(batch.mask, noise(len(batch)), symmetry)
    for volume, shape in ((1.0, 1.0), (0.0, 1.0), (0.5, 0.0), (0.0, 0.5)):
        settings = SamplerSettings(volume_noise=volume, shape_noise=shape)
        begun = flow.calmed(flow.prior(batch.mask, noise(len(batch)), symmetry), settings)
        assert_in_group(flow, begun, batch.mask)
        assert torch.equal(begun.frac_coords, prior.frac_coords)
        found, given = begun.lattice - fixed, prior.lattice - fixed
        own, full = (numbers[:, :3].mean(1, keepdim=True) for numbers in (found, given))
        torch.testing.assert_close(own, volume * full, rtol=0, atol=1e-12)
        torch.testing.assert_close(found[:, :3] - own, shape * (given[:, :3] - full), rtol=0, atol=1e-12)
        torch.testing.assert_close(found[:, 3:], shape * given[:, 3:], rtol=0, atol=1e-12)
    with pytest.raises(InputError, match=r"volume_noise must be in \[0, 1\], got 2"):
        SamplerSettings(volume_noise=2.0)


def test_noise_is_aligned_along_polar_directions_alone(noise: Noise) -> None:
    """Anywhere else the origin is fixed, and noise that knows of the data would be no draw of the prior."""
    flow, batch = process(), batch_of(KINDS)
    clean = encoded(flow, batch)
    symmetry, end = clean.known_symmetry, flow.prior(batch.mask, noise(len(batch)), clean.symmetry)
    moved = flow._aligned(clean, end, batch.mask) - end.frac_coords
    torch.testing.assert_close(moved, moved[:, :1] * batch.mask[..., None], rtol=0, atol=1e-12)
    torch.testing.assert_close(apply(symmetry.polar, moved[:, 0]), moved[:, 0], rtol=0, atol=1e-12)
    polar = symmetry.polar.abs().sum((1, 2)) > 1e-9
    assert (moved[:, 0].abs().sum(-1) > 1e-6).tolist() == polar.tolist()


def test_the_prior_fills_what_is_free(noise: Noise) -> None:
    """Seeds are fixed; the bounds are 5 standard errors."""
    copies = 3000
    flow = process()
    for group, orbits, deviations in (
        (1, ((8, "a"),), [1.0] * 6),
        (139, ((8, "e"), (14, "a")), [0.5**0.5, 0.5**0.5, 1.0, 0.0, 0.0, 0.0]),
        (225, ((8, "e"), (14, "a")), [3**-0.5] * 3 + [0.0] * 3),
    ):
        batch = batch_of({group: orbits})
        assert batch.sites is not None
        groups = batch.labels["space_group"].expand(copies)
        symmetry = double_table().of_batch(batch.sites.expand(copies, -1), groups)
        prior = flow.prior(batch.mask.expand(copies, -1), noise(copies), symmetry)
        free = symmetry.free_coords(prior.frac_coords)[:, 0]
        used = symmetry.maps[0, 0].abs().sum(0) > 0
        assert (free[:, ~used].abs() < 1e-9).all()
        assert ((free[:, used].mean(0) - 0.5).abs() < 5 * (1 / 12 / copies) ** 0.5).all()
        assert ((free[:, used].var(0) - 1 / 12).abs() < 5 * (1 / 180 / copies) ** 0.5).all()
        wanted = torch.tensor(deviations, dtype=torch.float64)
        assert ((prior.lattice.std(0) - wanted).abs() < 5 * wanted / (2 * copies) ** 0.5 + 1e-9).all()


@pytest.mark.parametrize("groups", [KINDS, CROWDED])
def test_target_is_the_velocity_of_the_path(groups: dict[int, Orbits]) -> None:
    """Up to a common translation along polar directions, which is no information."""
    flow, batch = process(), batch_of(groups)
    t, dt = torch.linspace(0.0, 0.9, len(batch), dtype=torch.float64), 1e-3
    here, there = (noised(flow, batch, time, Fixed(len(batch))) for time in (t, t + dt))
    weight = batch.mask[..., None].double()
    moved = (there.state.frac_coords - here.state.frac_coords) / dt
    mean = (moved * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    torch.testing.assert_close((moved - mean) * weight, here.target.frac_coords, rtol=0, atol=1e-9)
    torch.testing.assert_close(apply(here.state.known_symmetry.polar, mean[:, 0]), mean[:, 0], rtol=0, atol=1e-9)
    velocity = (there.state.lattice - here.state.lattice) / dt
    torch.testing.assert_close(velocity, here.target.lattice, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("steps", "scale"), [(1, 0.0), (7, 0.0), (7, 5.0)])
def test_the_true_velocity_leads_from_noise_to_the_data(steps: int, scale: float, noise: Noise) -> None:
    """On the way, what a network says against the symmetry is not followed."""
    flow, batch = process(), batch_of(KINDS | CROWDED)
    clean, made = encoded(flow, batch), noised(flow, batch, 1.0, noise(len(batch)))
    symmetry = clean.known_symmetry
    settings = SamplerSettings(
        steps=steps, method="euler", coordinate_velocity_scale=scale, lattice_velocity_scale=scale
    )
    generator = torch.Generator().manual_seed(1)

    def denoise(state: State, time: Tensor) -> Prediction:
        """On a straight path x - x_0 = t v."""
        coords = torch.randn(state.frac_coords.shape, generator=generator, dtype=torch.float64)
        lattice = torch.randn(state.lattice.shape, generator=generator, dtype=torch.float64)
        left = (state.frac_coords - goal) / time[:, None, None]
        return Prediction(
            left + coords - symmetry.project(coords),
            (state.lattice - clean.lattice) / time[:, None] + lattice - symmetry.project_lattice(lattice),
        )

    goal = made.state.frac_coords - made.target.frac_coords
    state = made.state
    for t, t_next in pairwise(flow.times(steps)):
        state = flow.step(denoise, state, t, t_next, batch.mask, noise(len(batch)), settings)
        assert_in_group(flow, state, batch.mask)
    torch.testing.assert_close(state.lattice, clean.lattice, rtol=0, atol=1e-9)
    shift = state.frac_coords - clean.frac_coords
    first = shift[:, :1] * batch.mask[..., None]
    torch.testing.assert_close(shift, first, rtol=0, atol=1e-9)
    torch.testing.assert_close(apply(symmetry.polar, shift[:, 0]), shift[:, 0], rtol=0, atol=1e-9)


def losses(flow: SymmetricFlow, made: Noised, mask: Tensor, coords: Tensor, lattice: Tensor) -> Losses:
    return flow.loss(Prediction(coords, lattice), made, mask)


def test_loss_counts_what_keeps_the_symmetry_and_nothing_else(noise: Noise) -> None:
    flow, batch = process(coordinate_weight=3.0, lattice_weight=0.5), batch_of(KINDS)
    made = noised(flow, batch, 0.4, noise(len(batch)))
    symmetry, target = made.state.known_symmetry, made.target
    perfect = losses(flow, made, batch.mask, target.frac_coords, target.lattice)
    assert float(perfect.total) == pytest.approx(0.0, abs=1e-18)
    wild, bent = noise(len(batch), 2).normal(batch.mask.shape[1], 3), noise(len(batch), 3).normal(6)
    drift = apply(symmetry.polar, noise(len(batch), 4).normal(3))[:, None]
    coords = target.frac_coords + wild - symmetry.project(wild) + drift + 1e6 * ~batch.mask[..., None]
    lattice = target.lattice + bent - symmetry.project_lattice(bent)
    assert float(losses(flow, made, batch.mask, coords, lattice).total) == pytest.approx(0.0, abs=1e-18)
    wrong = losses(flow, made, batch.mask, target.frac_coords + symmetry.project(wild), target.lattice + bent)
    assert float(wrong.frac_coords) > 0.1
    assert float(wrong.lattice) == pytest.approx(float(symmetry.project_lattice(bent).square().mean()))
    assert float(wrong.total) == pytest.approx(3 * float(wrong.frac_coords) + 0.5 * float(wrong.lattice))


def test_padding_changes_nothing() -> None:
    flow = process()
    groups = {62: CROWDED[62], 2: CROWDED[2], 216: KINDS[216]}
    made = [noised(flow, batch_of(groups, pad_to=width), 0.6, Fixed(3)) for width in (30, 37)]
    masks = [batch_of(groups, pad_to=width).mask for width in (30, 37)]
    for one, other in (
        (made[0].state.frac_coords, made[1].state.frac_coords[:, :30]),
        (made[0].target.frac_coords, made[1].target.frac_coords[:, :30]),
        (made[0].state.lattice, made[1].state.lattice),
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    zero = [
        losses(flow, one, mask, 0 * one.target.frac_coords, 0 * one.target.lattice)
        for one, mask in zip(made, masks, strict=True)
    ]
    assert float(zero[0].total) == pytest.approx(float(zero[1].total), rel=1e-12)


def test_space_group_1_is_the_flow_without_symmetry(noise: Noise) -> None:
    """Number for number: the same pairing, path and loss."""
    flow, batch = process(), batch_of({1: CROWDED[1]}, copies=20)
    clean = encoded(flow, batch)
    plain = Flow(LogMetricLattice(), assignment="element").double()
    time = noise(20, 5).uniform()
    one = flow.noised(clean, time, batch.atomic_numbers, batch.mask, noise(20))
    other = plain.noised(replace(clean, symmetry=None), time, batch.atomic_numbers, batch.mask, noise(20))
    shift = log_map(other.state.frac_coords, one.state.frac_coords)
    torch.testing.assert_close(shift, torch.zeros_like(shift), rtol=0, atol=1e-9)
    torch.testing.assert_close(one.target.frac_coords, other.target.frac_coords, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.target.lattice, other.target.lattice, rtol=0, atol=1e-9)
    guess = Prediction(noise(20, 6).normal(5, 3), noise(20, 7).normal(6))
    assert float(flow.loss(guess, one, batch.mask).total) == pytest.approx(
        float(plain.loss(guess, other, batch.mask).total)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_are_kept(dtype: torch.dtype) -> None:
    flow, batch = process().to(dtype), batch_of(CROWDED)
    assert batch.sites is not None
    symmetry = double_table().to(dtype).of_batch(batch.sites, batch.labels["space_group"])
    wide = encoded(process(), batch)
    clean = State(wide.frac_coords.to(dtype), wide.lattice.to(dtype), symmetry)

    class Typed(Fixed):
        def normal(self, *shape: int) -> Tensor:
            return super().normal(*shape).to(dtype)

        def uniform(self, *shape: int) -> Tensor:
            return super().uniform(*shape).to(dtype)

    time = torch.full((len(batch),), 0.5, dtype=dtype)
    made = flow.noised(clean, time, batch.atomic_numbers, batch.mask, Typed(len(batch)))
    for tensor in (made.state.frac_coords, made.state.lattice, made.target.frac_coords, made.target.lattice):
        assert tensor.dtype == dtype
    precise = noised(process(), batch, 0.5, Fixed(len(batch)))
    difference = (made.target.frac_coords.double() - precise.target.frac_coords).abs().max()
    assert float(difference) < (1e-12 if dtype == torch.float64 else 1e-4)


# --- pairing --------------------------------------------------------------------------------------------------------


def squares(free: Tensor, end: Tensor, symmetry: Symmetry) -> Tensor:
    """Sum over orbits, each once."""
    begins = symmetry.first == torch.arange(free.shape[1])
    return (log_map(free, end).square().sum(-1) * begins).sum(1)


def matches(points: np.ndarray, others: np.ndarray) -> bool:
    """The same points up to lattice translations, in any order."""
    difference = points[:, None] - others
    distance = np.abs(difference - difference.round()).max(-1)
    return bool(distance.min(1).max() < 1e-7 and distance.min(0).max() < 1e-7)


@pytest.mark.parametrize("groups", [KINDS, CROWDED])
def test_pairing_keeps_the_noise_and_shortens_the_paths(groups: dict[int, Orbits], noise: Noise) -> None:
    """It is the same crystal of noise, moved by a translation that leaves the group as it is."""
    flow, batch = process(), batch_of(groups, copies=3)
    clean = encoded(flow, batch)
    symmetry = clean.known_symmetry
    free = symmetry.free_coords(clean.frac_coords)
    end = symmetry.free_coords(flow.prior(batch.mask, noise(len(batch)), symmetry).frac_coords)
    paired = pair_orbits(free, end, symmetry, batch.atomic_numbers)
    torch.testing.assert_close(symmetry.of_orbit(paired), paired, rtol=0, atol=0)
    before, after = squares(free, end, symmetry), squares(free, paired, symmetry)
    alone = [len(set(orbits)) == len(orbits) for group, orbits in groups.items() for _ in range(3)]
    # with several orbits to exchange, the translation is chosen by a bound
    assert (after <= before + 1e-9)[torch.tensor(alone)].all()
    moved = before > 1e-9
    assert float(after[moved].mean()) < 0.7 * float(before[moved].mean())
    one, other = symmetry.expand(end).numpy(), symmetry.expand(paired).numpy()
    for i, group in enumerate(symmetry.space_group.tolist()):
        elements = batch.atomic_numbers[i].numpy()
        kinds = [elements == z for z in set(elements.tolist()) - {0}]
        assert any(
            all(matches(one[i, kind] + translation, other[i, kind]) for kind in kinds)
            for translation in free_translations(group)
        )


def test_pairing_is_the_best_there_is(noise: Noise) -> None:
    """Two orbits of P-1: eight origins, and two atoms of each to describe it from, all tried."""
    flow, batch = process(), batch_of({2: ((8, "i"), (14, "i"))}, copies=25)
    clean = encoded(flow, batch)
    symmetry = clean.known_symmetry
    free = symmetry.free_coords(clean.frac_coords)
    end = symmetry.free_coords(flow.prior(batch.mask, noise(25), symmetry).frac_coords)
    best = torch.full((25,), torch.inf, dtype=torch.float64)
    for origin in product((0.0, 0.5), repeat=3):
        for one, other in product((1, -1), repeat=2):
            shift = torch.tensor(origin, dtype=torch.float64)
            first = log_map(free[:, 0], one * end[:, 0] + shift).square().sum(-1)
            best = torch.minimum(best, first + log_map(free[:, 2], other * end[:, 2] + shift).square().sum(-1))
    found = squares(free, pair_orbits(free, end, symmetry, batch.atomic_numbers), symmetry)
    torch.testing.assert_close(found, best, rtol=0, atol=1e-9)


@pytest.mark.parametrize("position", range(1, WYCKOFF_POSITIONS + 1, 57))
def test_other_descriptions_of_an_orbit_are_the_same_orbit_or_a_moved_one(position: int) -> None:
    table = site_table()
    rows = np.flatnonzero(table.position == position)
    maps, offsets = table.maps[rows], table.offsets[rows]
    free = np.random.default_rng(position).random(3)
    orbit = maps @ free + offsets
    group = next(number for number in range(230, 0, -1) if wyckoff_index(number, "a") <= position)
    linear, constant = equivalent_maps(frozenset({position}))[position]
    assert len(linear) >= 1
    for a, b in zip(linear.reshape(-1, 3, 3), constant.reshape(-1, 3), strict=True):
        described = maps @ (a @ free + b) + offsets
        assert any(matches(orbit + translation, described) for translation in free_translations(group))
    assert matches(maps @ (linear[0, 0] @ free + constant[0, 0]) + offsets, orbit)


@pytest.mark.parametrize(
    ("space_group", "letter", "count"),
    [(1, "a", (1, 1)), (2, "i", (8, 2)), (2, "a", (1, 1)), (225, "a", (1, 1)), (225, "e", (2, 2)), (225, "l", (2, 48))],
)
def test_descriptions_are_as_many_as_origins_and_atoms(space_group: int, letter: str, count: tuple[int, int]) -> None:
    """International Tables A, Euclidean normalisers: origins that keep the position, atoms on one symmetry element."""
    position = wyckoff_index(space_group, letter)
    assert equivalent_maps(frozenset({position}))[position][0].shape[:2] == count


# --- building -------------------------------------------------------------------------------------------------------


def test_it_is_built_from_its_configuration() -> None:
    made = build_process(
        ProcessConfig(
            kind="symmetric_flow", lattice="conventional_log_metric", coordinate_weight=2.0, lattice_weight=0.5
        )
    )
    assert isinstance(made, SymmetricFlow)
    assert (made.name, made.coordinate_weight, made.lattice_weight) == ("symmetric_flow", 2.0, 0.5)
    assert made.times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert made.evaluations_per_step("euler") == 1
    assert made.methods == ("euler",)


def test_all_kinds_are_in_their_group_at_the_start() -> None:
    """``symmetric_set`` is what other tests train and sample on."""
    packed = symmetric_set(sorted(KINDS))
    assert packed.labels["space_group"].tolist() == sorted(KINDS)
