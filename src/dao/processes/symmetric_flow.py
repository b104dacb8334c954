"""Flow matching within a space group: only what the occupied Wyckoff positions and the crystal system leave free moves.

As :mod:`dao.processes.flow`, but noise, paths and velocities live in the free coordinates of each orbit and in the free
numbers of the conventional cell, so that every crystal on the way has the symmetry asked for. The group and its
positions come from the composition first (:mod:`dao.networks.symmetry`). Space group 1 is the flow without symmetry.

Shapes: B crystals, N atoms (padded), K orbits of one element on one position, T translations, R atoms of an orbit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dao.geometry.torus import log_map, remove_mean
from dao.geometry.wyckoff import SPACE_GROUPS, operations, site_table, wyckoff_index
from dao.processes.base import (
    Denoiser,
    Losses,
    Noised,
    NoiseSource,
    Prediction,
    Process,
    State,
    full_time,
    masked_squares,
)
from dao.processes.config import METHODS, SamplerSettings
from dao.processes.flow import UNIFORM_VARIANCE, flow_guidance_scales, velocity_scale
from dao.processes.representations import ConventionalLogMetricLattice
from dao.processes.symmetry import Symmetry, apply, polar_directions

Floats = Float64[np.ndarray, "..."]


class SymmetricFlow(Process):
    """Geodesic flow matching in the free coordinates of a space group's Wyckoff positions."""

    name = "symmetric_flow"
    methods = METHODS["symmetric_flow"]
    coordinate_unit = UNIFORM_VARIANCE**0.5
    representation: ConventionalLogMetricLattice

    def __init__(
        self,
        representation: ConventionalLogMetricLattice,
        *,
        coordinate_weight: float = 1.0,
        lattice_weight: float = 1.0,
    ) -> None:
        """Set the weights of the losses; both are per free or fixed number, in the units of :class:`Flow`."""
        super().__init__(representation)
        self.coordinate_weight = coordinate_weight
        self.lattice_weight = lattice_weight

    def noised(
        self, clean: State, time: Float[Tensor, " b"], atomic_numbers: Tensor, mask: Tensor, noise: NoiseSource
    ) -> Noised:
        """The point at ``time`` on the path to a draw of the prior, and the velocity there."""
        symmetry = clean.known_symmetry
        end = self.prior(mask, noise, symmetry)
        free = symmetry.free_coords(clean.frac_coords)
        end_free = symmetry.free_coords(self._aligned(clean, end, mask))
        end_free = pair_orbits(free, end_free, symmetry, atomic_numbers)
        displacement = log_map(free, end_free)
        frac_coords = symmetry.expand(free + time[:, None, None] * displacement)
        velocity = end.lattice - clean.lattice
        coords_velocity = apply(symmetry.maps, displacement)
        target = Prediction(remove_mean(coords_velocity, mask.to(coords_velocity.dtype)), velocity)
        state = State(frac_coords, clean.lattice + time[:, None] * velocity, symmetry)
        return Noised(state, time, target)

    def _aligned(self, clean: State, end: State, mask: Tensor) -> Tensor:
        """The noise, shifted by its circular mean offset from the data along directions without a fixed origin."""
        symmetry = clean.known_symmetry
        offset = (2.0 * torch.pi) * (end.frac_coords - clean.frac_coords)
        real = mask[..., None]
        shift = torch.atan2((offset.sin() * real).sum(1), (offset.cos() * real).sum(1)) / (2.0 * torch.pi)
        return end.frac_coords - apply(symmetry.polar, shift)[:, None] * real

    def loss(self, prediction: Prediction, noised: Noised, mask: Bool[Tensor, "b n"]) -> Losses:
        """Mean square error of the velocities, after both are made to keep the symmetry."""
        symmetry = noised.state.known_symmetry
        velocity = self._velocity(prediction, symmetry, mask)
        coords = masked_squares(velocity.frac_coords - noised.target.frac_coords, mask).mean() / UNIFORM_VARIANCE
        lattice = (velocity.lattice - noised.target.lattice).square().mean()
        return Losses(self.coordinate_weight * coords + self.lattice_weight * lattice, coords, lattice)

    def _velocity(self, prediction: Prediction, symmetry: Symmetry, mask: Tensor) -> Prediction:
        # the mean over all atoms of a field with the group's symmetry is along its polar directions: no harm to that
        coords = remove_mean(symmetry.project(prediction.frac_coords), mask.to(prediction.frac_coords.dtype))
        return replace(prediction, frac_coords=coords, lattice=symmetry.project_lattice(prediction.lattice))

    def prior(self, mask: Bool[Tensor, "b n"], noise: NoiseSource, symmetry: Symmetry | None = None) -> State:
        """Uniform free coordinates, standard normal free numbers of the lattice."""
        assert symmetry is not None  # noqa: S101 -- the base class has processes without
        free = symmetry.of_orbit(noise.uniform(mask.shape[1], 3) * mask[..., None])
        fixed = symmetry.fixed_lattice / self.representation.deviation
        lattice = symmetry.project_lattice(noise.normal(self.representation.dimension)) + fixed
        return State(symmetry.expand(free), lattice, symmetry)

    def calmed(self, prior: State, settings: SamplerSettings) -> State:
        """With less noise in volume and shape of the cell: fewer and likelier cells are come to."""
        fixed = prior.known_symmetry.fixed_lattice / self.representation.deviation
        free = prior.lattice - fixed
        volume = torch.zeros_like(free)
        volume[..., :3] = free[..., :3].mean(-1, keepdim=True)
        calmed = settings.volume_noise * volume + settings.shape_noise * (free - volume)
        return replace(prior, lattice=calmed + fixed)

    def times(self, steps: int) -> list[float]:
        """Even steps."""
        return [1.0 - i / steps for i in range(steps)] + [0.0]

    def evaluations_per_step(self, method: str) -> int:
        """One: Euler's rule."""
        del method
        return 1

    def clean(self, said: Prediction, state: State, t: float, mask: Bool[Tensor, "b n"]) -> State:
        """Straight back along the velocity, within the symmetry."""
        v = self._velocity(said, state.known_symmetry, mask)
        return replace(state, frac_coords=state.frac_coords - t * v.frac_coords, lattice=state.lattice - t * v.lattice)

    def guidance_scales(self, t: float, *, of_clean: bool) -> tuple[float, float]:
        """As of the flow without symmetry, for gradients by the free coordinates and free numbers of the lattice."""
        return flow_guidance_scales(t, of_clean=of_clean)

    def step(
        self,
        denoise: Denoiser,
        state: State,
        t: float,
        t_next: float,
        mask: Bool[Tensor, "b n"],
        noise: NoiseSource,
        settings: SamplerSettings,
    ) -> State:
        """Follow the velocity back from ``t`` to ``t_next`` by Euler's rule."""
        del noise
        dt = t - t_next
        v = self._velocity(denoise(state, full_time(t, state.lattice)), state.known_symmetry, mask)
        coords_scale = velocity_scale(settings.coordinate_velocity_scale, t, dt)
        lattice_scale = velocity_scale(settings.lattice_velocity_scale, t, dt)
        return replace(
            state,
            frac_coords=state.frac_coords - dt * coords_scale * v.frac_coords,
            lattice=state.lattice - dt * lattice_scale * v.lattice,
        )


@cache
def free_translations(space_group: int) -> Float64[np.ndarray, "t 3"]:
    """Translations (of the primitive cell) after which the group's operations are the same, the zero first.

    By them one crystal has several descriptions with equal letters: eight origins in P2_1/c. Those along polar
    directions, where any translation does, are left out.
    """
    ticks = np.arange(24) / 24
    grid = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(-1, 3)
    rotations = operations(space_group)[0]
    moved = np.einsum("gij,tj->tgi", rotations - np.eye(3), grid)
    kept = grid[np.abs(moved - moved.round()).max((1, 2)) < 1e-6]
    kept = kept - kept @ polar_directions(space_group).T
    kept -= np.floor(kept + 1e-9)
    found: Float64[np.ndarray, "t 3"] = np.unique(kept.round(9), axis=0)
    return found


@cache
def _maps(position: int, space_group: int) -> list[tuple[Floats, Floats]]:
    """For each free translation, the maps u -> A u + b to the free coordinates of the moved orbit, one for each atom.

    Atoms count that lie on the same symmetry element as the first; none do where the translation moves the position to
    another.
    """
    table = site_table()
    first = int(table.first[position])
    count = int((table.position == position).sum())
    basis, offset = table.maps[first], table.offsets[first]
    inverse = np.linalg.pinv(basis)
    shifts = np.stack(np.meshgrid(*[np.arange(-2.0, 3.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    found = []
    for translation in free_translations(space_group):
        linear, constant = [], []
        for image in range(first, first + count):
            a = inverse @ table.maps[image]
            if np.abs(basis @ a - table.maps[image]).max() > 1e-6:
                continue
            moved = table.offsets[image] + translation - offset + shifts
            b = moved @ inverse.T
            off = np.abs(b @ basis.T - moved).max(1)
            if off.min() < 1e-6:
                linear.append(a)
                constant.append(b[int(off.argmin())])
        found.append((np.array(linear), np.array(constant)))
    return found


@cache
def equivalent_maps(positions: frozenset[int]) -> dict[int, tuple[Floats, Floats]]:
    """For each occupied position of one group (T, R, 3, 3) and (T, R, 3): its orbits' other descriptions.

    T are the free translations that leave every one of the positions in its place, R the atoms to start from.
    """
    space_group = int(np.searchsorted(_first_positions(), min(positions), side="right"))
    maps = {position: _maps(position, space_group) for position in positions}
    allowed = [k for k in range(len(free_translations(space_group))) if all(len(maps[p][k][0]) for p in positions)]
    return {
        position: (np.stack([some[k][0] for k in allowed]), np.stack([some[k][1] for k in allowed]))
        for position, some in maps.items()
    }


@cache
def _first_positions() -> Int64[np.ndarray, " g"]:
    return np.array([wyckoff_index(number, "a") for number in range(1, SPACE_GROUPS + 1)])


def pair_orbits(
    free: Float[Tensor, "b n 3"], noise: Float[Tensor, "b n 3"], symmetry: Symmetry, atomic_numbers: Tensor
) -> Float[Tensor, "b n 3"]:
    """Pair the noise with the data so that the sum of squared torus distances of free coordinates is small.

    Three things cost nothing, and shorter paths cross less: to exchange orbits of one element on one position, to
    describe an orbit from another of its atoms, and to move the whole noise by a translation that leaves the group as
    it is. Translations are compared by each orbit's nearest partner, then orbits are assigned. On the CPU, a crystal a
    time.
    """
    positions, first = symmetry.position.cpu().numpy(), symmetry.first.cpu().numpy()
    elements = atomic_numbers.cpu().numpy()
    data, ends = free.detach().double().cpu().numpy(), noise.detach().double().cpu().numpy()
    paired = ends.copy()
    slots_of = np.arange(first.shape[1])
    for i in range(len(data)):
        begins = np.flatnonzero((first[i] == slots_of) & (positions[i] > 0))
        groups: dict[tuple[int, int], list[int]] = {}
        for slot in begins.tolist():
            groups.setdefault((int(elements[i, slot]), int(positions[i, slot])), []).append(slot)
        maps = equivalent_maps(frozenset(position for _, position in groups))
        images, squares = [], []
        total = 0.0
        for (_, position), slots in groups.items():
            linear, constant = maps[position]
            image = np.einsum("trij,kj->tkri", linear, ends[i, slots]) + constant[:, None]
            difference = data[i, slots][None, :, None, None] - image[:, None]
            difference -= np.rint(difference)
            square = (difference**2).sum(-1)  # (translation, data, noise, image)
            images.append(image)
            squares.append(square)
            total = total + square.min(-1).min(-1).sum(-1)
        best = int(np.argmin(total))
        for slots, image, square in zip(groups.values(), images, squares, strict=True):
            cost = square[best]
            order = linear_sum_assignment(cost.min(-1))[1] if len(slots) > 1 else np.zeros(1, dtype=np.int64)
            paired[i, slots] = image[best][order, cost[np.arange(len(slots)), order].argmin(-1)]
    return symmetry.of_orbit(torch.from_numpy(paired).to(noise))
