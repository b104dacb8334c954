"""Relaxation by any ASE calculator, each of whose calculations is expensive: kept, timed, and never done twice.

A run is a list of calculations. Each is written down as it ends, and a run that was stopped begins again from its
start, its calculations answered from that list until the list ends: the optimiser has no state of its own to restore.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.units import GPa

from dao.crystal import Crystal
from dao.errors import InputError
from dao.evaluation.time_limit import TooSlowError, within

Floats = npt.NDArray[np.float64]
Outcome = Literal["converged", "iterations", "time", "failed"]

SAME = 1e-6
"""Largest difference in A between a structure asked for and the one kept at its place, from rounding alone."""


@dataclass(frozen=True, eq=False)
class Iteration:
    """One calculation: an iteration of the relaxation, as each takes one.

    Attributes:
        lattice: (3, 3) row vectors in A.
        positions: (N, 3) cartesian in A, not wrapped.
        energy: of the cell, eV.
        forces: (N, 3) eV/A.
        stress: (6,) eV/A^3 in ASE's order, positive under tension.
        seconds: on the wall clock.
        cpu_seconds: of all processes that took part.

    """

    lattice: Floats
    positions: Floats
    energy: float
    forces: Floats
    stress: Floats
    seconds: float
    cpu_seconds: float

    @property
    def max_force(self) -> float:
        """Largest force on an atom, eV/A."""
        return float(np.linalg.norm(self.forces, axis=1).max())

    @property
    def pressure(self) -> float:
        """In GPa, positive where the cell wants to grow."""
        return -float(self.stress[:3].mean()) / GPa

    @property
    def max_stress(self) -> float:
        """Largest component of the stress by magnitude, GPa."""
        return float(np.abs(self.stress).max()) / GPa

    def crystal(self, like: Crystal) -> Crystal:
        """Its structure, with the atoms and the name of another."""
        fractional = np.linalg.solve(self.lattice.T, self.positions.T).T
        return Crystal(like.atomic_numbers, fractional, self.lattice, like.material_id)

    def to_line(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: np.asarray(value).tolist() for name, value in vars(self).items()}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Iteration:
        """From :meth:`to_line`'s.

        Raises:
            KeyError, TypeError, ValueError: it is none.

        """
        lattice, positions, forces, stress = (
            np.array(line[name], dtype=np.float64) for name in ("lattice", "positions", "forces", "stress")
        )
        if lattice.shape != (3, 3) or stress.shape != (6,) or forces.shape != positions.shape:
            raise ValueError(line)
        energy, seconds, cpu_seconds = (float(line[name]) for name in ("energy", "seconds", "cpu_seconds"))
        return cls(lattice, positions, energy, forces, stress, seconds, cpu_seconds)


@dataclass(frozen=True, kw_only=True)
class RelaxationLimits:
    """What is relaxed, and when it ends.

    Attributes:
        fix_cell: move the atoms alone.
        force_tolerance: largest force of a relaxed structure, eV/A; of the cell too, as ASE's cell filter has it
            (the virial's derivative by the number of atoms).
        iterations: most of them, those of an earlier run included; 50 are Quantum ESPRESSO's default and the paper's.
        seconds: most of them on the wall clock, in this run; None: no limit.

    """

    fix_cell: bool = False
    force_tolerance: float = 0.05
    iterations: int = 50
    seconds: float | None = None


@dataclass(frozen=True)
class Ending:
    """How a relaxation ended: its outcome, and why it failed where it did."""

    outcome: Outcome
    reason: str | None = None


class _FailedError(Exception):
    """A calculation gave no energy."""


class _Kept(Calculator):
    """Answers from the iterations kept, then by another calculator, and keeps those."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 -- ASE's own declaration

    def __init__(
        self, inner: Calculator, like: Crystal, kept: list[Iteration], keep: Callable[[Iteration], None], until: float
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inner, self._like, self._iterations, self._keep, self._until = inner, like, kept, keep, until
        self._asked = 0

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results``; ASE calls this."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        assert self.atoms is not None  # noqa: S101 -- set by the line above
        if self._asked == len(self._iterations):
            made = self._compute(self.atoms)
            self._keep(made)
            self._iterations.append(made)
        one = self._iterations[self._asked]
        self._asked += 1
        off = max(np.abs(one.positions - self.atoms.positions).max(), np.abs(one.lattice - self.atoms.cell.array).max())
        if off > SAME:
            raise InputError(
                f"iteration {self._asked} of the run that was stopped is of another structure ({off:.1g} A off):"
                " choose another --out, or remove that folder"
            )
        self.results = {"energy": one.energy, "forces": one.forces, "stress": one.stress}

    def _compute(self, atoms: Atoms) -> Iteration:
        asked = atoms.copy()  # type: ignore[no-untyped-call]
        try:
            # two atoms in one place, or a flat cell, can take all memory and all time
            Crystal(self._like.atomic_numbers, asked.get_scaled_positions(), asked.cell.array).validate()
        except InputError as error:
            raise _FailedError(f"no crystal any more: {error}") from None
        asked.calc = self._inner
        left = self._until - time.monotonic()
        if left <= 0.0:
            raise TooSlowError
        began, used = time.perf_counter(), _cpu_seconds(self._inner)

        def values() -> tuple[float, Floats, Floats]:
            return asked.get_potential_energy(), asked.get_forces(), asked.get_stress()

        try:
            energy, forces, stress = values() if math.isinf(left) else within(left, values)
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001 -- a calculator may raise anything
            raise _FailedError(" ".join(f"{error}".split()) or type(error).__name__) from None
        if not (math.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(stress).all()):
            raise _FailedError("its energy, a force or the stress is not finite")
        return Iteration(
            asked.cell.array.copy(),
            asked.positions.copy(),
            float(energy),
            np.asarray(forces),
            np.asarray(stress),
            time.perf_counter() - began,
            _cpu_seconds(self._inner) - used,
        )


def _cpu_seconds(calculator: Calculator) -> float:
    """Of this process, of those that it waited for, and of one that the calculator keeps."""
    spent = os.times()
    mine = spent.user + spent.system + spent.children_user + spent.children_system
    return mine + float(getattr(calculator, "cpu_seconds", 0.0))


def relax(
    calculator: Calculator,
    start: Crystal,
    limits: RelaxationLimits,
    *,
    kept: Sequence[Iteration] = (),
    keep: Callable[[Iteration], None] = lambda _: None,
) -> tuple[list[Iteration], Ending]:
    """Relax a structure by ASE's BFGS; every iteration, and how it ended.

    Args:
        calculator: of energy (eV), forces (eV/A) and stress (eV/A^3).
        start: where it starts.
        limits: what is relaxed, and when it ends.
        kept: the first iterations, known from the same relaxation.
        keep: told of every further one as it ends.

    Raises:
        InputError: the calculator lacks something that it needs, or ``kept`` is of another relaxation.

    """
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    atoms = start.to_atoms()
    until = math.inf if limits.seconds is None else time.monotonic() + limits.seconds
    iterations = list(kept)[: limits.iterations]
    atoms.calc = _Kept(calculator, start, iterations, keep, until)
    moved = atoms if limits.fix_cell else FrechetCellFilter(atoms)  # type: ignore[no-untyped-call]
    try:
        # BFGS's first structure is its iteration 0
        optimiser = BFGS(moved, logfile=None)  # type: ignore[arg-type]
        converged = optimiser.run(fmax=limits.force_tolerance, steps=limits.iterations - 1)  # type: ignore[no-untyped-call]
    except TooSlowError:
        return iterations, Ending("time")
    except _FailedError as error:
        return iterations, Ending("failed", str(error))
    return iterations, Ending("converged" if converged else "iterations")


def best(iterations: Sequence[Iteration], ending: Ending) -> int:
    """Which iteration a run ends with: the last where it converged, the one of lowest energy where it was cut short."""
    if ending.outcome == "converged":
        return len(iterations) - 1
    return int(np.argmin([one.energy for one in iterations]))
