"""Batched relaxation of cell and atoms: L-BFGS a crystal, each with its own history, step and stopping (DESIGN 4.3).

The variables of a crystal are the displacements u of its atoms in the frame of the starting cell L0, in A, and the
logarithm S of the symmetric deformation of the cell, in units of sqrt(N) A so that atoms and cell are about equally
stiff: L = L0 exp(S), f = f0 + u L0^-1. A trial step that raises the energy, or brings two atoms too close, is taken
back and shortened: the energy of a crystal never rises, and no crystal sees what the others of its batch do.

Forces, stress and steps are projected on the moves that keep the crystal's space group. Those form a linear subspace of
the variables that sums of gradients, shortened steps and changes of the volume stay in: no step ever leaves it. A true
potential energy surface needs none of this: its gradients have the symmetry of the crystal. A network's do not.

Shapes: B crystals, N atoms (padded), M steps of history, D = 3 N + 9 variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dao.batching import batches
from dao.crystal import Crystal, CrystalBatch
from dao.errors import InputError
from dao.geometry.cells import min_distance
from dao.geometry.symmetric_moves import SymmetricMoves
from dao.geometry.torus import wrap
from dao.potential import Potential

STIFFNESS = 10.0
"""Curvature (eV/A^2) taken for granted before the first step has shown one."""

SHORTER = 0.3
"""Factor by which a step that was taken back is shortened."""

SHORTEST = 1e-3
"""Share of the full step below which a crystal is given up: no lower energy is found along its direction."""

SHORTEST_KEPT = 1e-10
"""Steps below this (A) leave no history: where the volume's bound leaves no way to go, they are rounding."""

Outcome = Literal["converged", "iterations", "stuck"]


@dataclass(frozen=True, kw_only=True)
class RelaxationSettings:
    """How far and how carefully to relax. ``iterations`` and ``learning_rate`` are the paper's (section 4.4).

    Raises:
        InputError: a value out of range.

    """

    iterations: int = 5
    """Evaluations after the first, steps that are taken back among them."""
    learning_rate: float = 1.0
    """Share of the L-BFGS step that is tried first."""
    history: int = 10
    force_tolerance: float = 0.01
    """Converged once no force, and no gradient by the cell's variables, is larger (eV/A)."""
    max_step: float = 0.2
    """Largest displacement of an atom, and change of a cell variable, in one step, A."""
    max_volume_change: float = 0.1
    """Largest relative change of the volume, against the starting cell."""
    min_distance: float = 0.7
    """Closest approach of two atoms, A; where the starting crystal is closer, its own."""
    keep_symmetry: bool = True
    """Whether to make only moves that keep the space group of the starting crystal."""
    symprec: float = 0.01
    """Tolerance within which the starting crystal has its space group, A. What is off by less stays off."""

    def __post_init__(self) -> None:
        """Check ranges."""
        steps = (self.iterations, self.history, self.learning_rate, self.max_step)
        least = min(*steps, self.max_volume_change, self.symprec)
        if least <= 0 or self.max_volume_change >= 1 or min(self.force_tolerance, self.min_distance) < 0:
            raise InputError(
                "relaxation: iterations, history, steps and bounds must be positive, volume change below 1"
            )


@dataclass(frozen=True)
class Relaxed:
    """A relaxed crystal.

    Attributes:
        crystal: with the name and ``info`` of what it was relaxed from.
        energy_before: of the cell, eV.
        energy: of the relaxed cell, never higher.
        max_force: largest force left, eV/A; of what the symmetry leaves of forces, where it is kept.
        iterations: evaluations after the first.
        outcome: ``converged``; ``iterations`` used up; or ``stuck``, no lower energy found within the bounds.

    """

    crystal: Crystal
    energy_before: float
    energy: float
    max_force: float
    iterations: int
    outcome: Outcome


def relax(
    potential: Potential,
    crystals: Sequence[Crystal],
    settings: RelaxationSettings | None = None,
    *,
    batch_size: int | None = None,
    on_batch: Callable[[dict[int, Relaxed]], None] | None = None,
) -> list[Relaxed]:
    """Relax crystals, those of like sizes together; results do not depend on batches or order (beyond rounding).

    Args:
        potential: energies to lower, e.g. a :class:`dao.models.Predictor`.
        crystals: what to relax.
        settings: the paper's by default.
        batch_size: crystals a batch; by number of atoms if not given.
        on_batch: told the results of each batch by place in ``crystals`` as soon as they are there.

    """
    done: dict[int, Relaxed] = {}
    for places in batches(crystals, batch_size):
        results = _Batch(potential, [crystals[i] for i in places], settings or RelaxationSettings()).run()
        made = dict(zip(places, results, strict=True))
        done |= made
        if on_batch is not None:
            on_batch(made)
    return [done[i] for i in range(len(crystals))]


@dataclass(frozen=True)
class _Point:
    """Where crystals are: variables, energy, gradient by the variables, and forces."""

    z: Float[Tensor, "b d"]
    energy: Float[Tensor, " b"]
    gradient: Float[Tensor, "b d"]
    max_force: Float[Tensor, " b"]

    def updated(self, rows: Tensor, other: _Point) -> _Point:
        """Those rows (indices) replaced by the other's, one for each."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__}
        return _Point(**{name: mine.index_copy(0, rows, theirs) for name, (mine, theirs) in pairs.items()})

    def rows(self, rows: Tensor) -> _Point:
        """Those rows alone."""
        return _Point(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


class _Batch:
    """Crystals that are relaxed together, each for itself; double precision, whatever the potential's."""

    def __init__(self, potential: Potential, crystals: Sequence[Crystal], settings: RelaxationSettings) -> None:
        self.potential, self.crystals, self.settings = potential, crystals, settings
        self.start = CrystalBatch.from_crystals(crystals, dtype=torch.float64)
        self.scale = self.start.num_atoms.double().sqrt()
        closest = [min(settings.min_distance, min_distance(crystal)) for crystal in crystals]
        self.closest = torch.tensor(closest, dtype=torch.float64)
        self.symmetry = SymmetricMoves(crystals, settings.symprec) if settings.keep_symmetry else None

    def run(self) -> list[Relaxed]:
        """Relax all of them."""
        settings, count = self.settings, len(self.crystals)
        everyone = torch.arange(count)
        here = self._evaluate(
            torch.zeros(count, 3 * self.start.frac_coords.shape[1] + 9, dtype=torch.float64), everyone
        )
        first = here.energy
        length = torch.ones(count, dtype=torch.float64)
        used = torch.zeros(count, dtype=torch.long)
        converged = self._converged(here)
        history = _History(settings.history, here.z)
        for _ in range(settings.iterations):
            active = (~converged & (length >= SHORTEST)).nonzero()[:, 0]
            if len(active) == 0:
                break
            now = here.rows(active)
            step = self._symmetric(history.direction(now.gradient, active) * settings.learning_rate, active)
            step = self._capped(step)
            trial = self._evaluate(self._within_volume(now.z + step * length[active, None], active), active)
            used[active] += 1
            good = trial.energy.isfinite() & (trial.energy <= now.energy) & self._apart(trial.z, active)
            taken = active[good]
            history.add(taken, (trial.z - now.z)[good], (trial.gradient - now.gradient)[good])
            here = here.updated(taken, trial.rows(good))
            length[active] = torch.where(good, 1.0, SHORTER * length[active])
            converged = self._converged(here)
        final = self._moved(here.z, everyone).to_crystals()
        return [
            Relaxed(
                crystal=Crystal(one.atomic_numbers, one.frac_coords, one.lattice, before.material_id, before.info),
                energy_before=float(first[i]),
                energy=float(here.energy[i]),
                max_force=float(here.max_force[i]),
                iterations=int(used[i]),
                outcome="converged" if bool(converged[i]) else "stuck" if bool(length[i] < SHORTEST) else "iterations",
            )
            for i, (before, one) in enumerate(zip(self.crystals, final, strict=True))
        ]

    def _symmetric(self, step: Float[Tensor, "b d"], rows: Tensor) -> Float[Tensor, "b d"]:
        """The step is in the symmetric subspace but for rounding, of which a history may make much."""
        if self.symmetry is None:
            return step
        atoms = self.symmetry.displacements(step[:, :-9].unflatten(-1, (-1, 3)), rows)
        cell = self.symmetry.strains(step[:, -9:].unflatten(-1, (3, 3)), rows)
        return torch.cat([atoms.flatten(1), cell.flatten(1)], dim=1)

    def _deformation(self, z: Float[Tensor, "b d"], rows: Tensor) -> Float[Tensor, "b 3 3"]:
        return torch.linalg.matrix_exp(z[:, -9:].reshape(-1, 3, 3) / self.scale[rows, None, None])

    def _moved(self, z: Float[Tensor, "b d"], rows: Tensor) -> CrystalBatch:
        """Some of the crystals, with those variables."""
        lattice = self.start.lattice[rows]
        displacement = torch.linalg.solve(lattice.mT, z[:, :-9].unflatten(-1, (-1, 3)).mT).mT
        numbers = self.start.atomic_numbers[rows]
        return CrystalBatch(
            atomic_numbers=numbers,
            frac_coords=wrap(self.start.frac_coords[rows] + displacement) * (numbers > 0)[..., None],
            lattice=lattice @ self._deformation(z, rows),
            num_atoms=self.start.num_atoms[rows],
        )

    def _evaluate(self, z: Float[Tensor, "b d"], rows: Tensor) -> _Point:
        batch = self._moved(z, rows)
        made = self.potential.energy_forces_stress(batch)
        energy, forces, stress = (one.detach().cpu().double() for one in (made.energy, made.forces, made.stress))
        if self.symmetry is not None:
            # before they become gradients: the directions of the starting cell are those of all cells on the way, as
            # a symmetric strain commutes with the rotations
            forces = self.symmetry.displacements(forces, rows)
            stress = self.symmetry.strains(stress, rows)
        # f = f0 + u L0^-1, and -forces L^T is the gradient by f
        start = self.start.lattice[rows]
        by_atoms = torch.linalg.solve(start, (-forces @ batch.lattice.mT).mT).mT * batch.mask[..., None]
        # dE/dL = L^-T (V stress) at fixed f, L = L0 D, D = exp(S)
        virial = torch.linalg.det(batch.lattice).abs()[:, None, None] * stress
        with torch.enable_grad():
            exponent = (z[:, -9:].reshape(-1, 3, 3) / self.scale[rows, None, None]).requires_grad_()
            deformation = torch.linalg.matrix_exp(exponent)
            by_deformation = start.mT @ torch.linalg.solve(batch.lattice.mT, virial)
            (by_cell,) = torch.autograd.grad(deformation, exponent, by_deformation)
        by_cell = 0.5 * (by_cell + by_cell.mT) / self.scale[rows, None, None]
        # a potential that fails there says NaN: as bad as can be, and no direction
        energy = energy.nan_to_num(nan=math.inf)
        gradient = torch.cat([by_atoms.flatten(1), by_cell.flatten(1)], dim=1).nan_to_num(0.0, 0.0, 0.0)
        return _Point(z, energy, gradient, forces.norm(dim=-1).amax(1))

    def _converged(self, point: _Point) -> Bool[Tensor, " b"]:
        atoms = point.gradient[:, :-9].unflatten(-1, (-1, 3)).norm(dim=-1).amax(1)
        largest = torch.maximum(atoms, point.gradient[:, -9:].abs().amax(1))
        return point.energy.isfinite() & (largest <= self.settings.force_tolerance)

    def _capped(self, step: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """No more than the largest step allowed; what is taken back is then shortened from there."""
        atoms = step[:, :-9].unflatten(-1, (-1, 3)).norm(dim=-1).amax(1)
        largest = torch.maximum(atoms, step[:, -9:].abs().amax(1))
        return step * (self.settings.max_step / largest.clamp_min(self.settings.max_step))[:, None]

    def _within_volume(self, moved: Float[Tensor, "b d"], rows: Tensor) -> Float[Tensor, "b d"]:
        """Variables with the volume kept within its largest change."""
        # the trace of S is the logarithm of the volume's ratio
        cell = moved[:, -9:].reshape(-1, 3, 3)
        trace = cell.diagonal(dim1=-2, dim2=-1).sum(-1)
        low, high = (math.log(1 + sign * self.settings.max_volume_change) * self.scale[rows] for sign in (-1, 1))
        excess = trace - trace.clamp(low, high)
        cell = cell - excess[:, None, None] / 3.0 * torch.eye(3, dtype=cell.dtype)
        return torch.cat([moved[:, :-9], cell.flatten(1)], dim=1)

    def _apart(self, z: Float[Tensor, "b d"], rows: Tensor) -> Bool[Tensor, " b"]:
        crystals = self._moved(z, rows).to_crystals()
        return torch.tensor([min_distance(one) for one in crystals], dtype=torch.float64) >= self.closest[rows]


class _History:
    """Last steps and changes of gradient of each crystal; one without any has its gradient divided by a stiffness."""

    def __init__(self, length: int, z: Float[Tensor, "b d"]) -> None:
        self.steps = z.new_zeros(z.shape[0], length, z.shape[1])
        self.changes = torch.zeros_like(self.steps)
        self.inverse = z.new_zeros(z.shape[0], length)
        """1 / (step . change); 0 where there is none, which leaves it out of all sums."""

    def add(self, rows: Tensor, step: Float[Tensor, "r d"], change: Float[Tensor, "r d"]) -> None:
        """Keep a step of some crystals, unless the gradient did not grow along it (no positive curvature)."""
        product, length = (step * change).sum(-1), step.norm(dim=-1)
        keep = (product > 1e-10 * length * change.norm(dim=-1)) & (length > SHORTEST_KEPT)
        rows = rows[keep]
        for table, value in ((self.steps, step), (self.changes, change), (self.inverse, 1.0 / product)):
            table[rows] = torch.cat([table[rows][:, 1:], value[keep][:, None]], dim=1)

    def direction(self, gradient: Float[Tensor, "r d"], rows: Tensor) -> Float[Tensor, "r d"]:
        """Downhill by the two-loop recursion (Nocedal, 1980)."""
        steps, changes, inverse = self.steps[rows], self.changes[rows], self.inverse[rows]
        q = gradient
        shares: list[Tensor] = []
        for i in reversed(range(steps.shape[1])):
            shares.append(inverse[:, i] * (steps[:, i] * q).sum(-1))
            q = q - shares[-1][:, None] * changes[:, i]
        known = inverse[:, -1] > 0
        squares = changes[:, -1].square().sum(-1)
        softness = 1.0 / (inverse[:, -1] * squares).where(known, torch.tensor(STIFFNESS, dtype=squares.dtype))
        q = q * softness[:, None]
        for i, share in zip(range(steps.shape[1]), reversed(shares), strict=True):
            q = q + (share - inverse[:, i] * (changes[:, i] * q).sum(-1))[:, None] * steps[:, i]
        return -q
