"""Energies of crystals by an ASE calculator, one at a time onto the disk, so that a kill costs at most one of them.

Predictions may be nonsense, and so may be what a potential makes of them: whatever goes wrong with one structure is the
reason why it has no energy, and never ends the run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dao.crystal import DEFAULT_LIMITS, Crystal
from dao.evaluation.time_limit import TooSlowError, within
from dao.jsonl import JsonLines

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

T = TypeVar("T")

Key = tuple[int, int]
"""(row of the target, which of its samples); the reference crystal itself is sample -1."""

REFERENCE = -1

FORCE_TOLERANCE = 0.05
"""A relaxation has converged once no force, and no gradient by the cell, is larger (eV/A)."""

SECONDS = 600.0
"""Time limit of a single point or a relaxation: beyond it the structure has no energy."""


@dataclass(frozen=True)
class Computed:
    """Energies of one structure, eV/atom.

    Attributes:
        energy: as given; None where the calculator failed.
        relaxed: of cell and atoms relaxed; None where it was not asked for, or failed.
        steps: of the relaxation.
        converged: it ended by the force tolerance, not by the number of steps.
        failure: why an energy is missing, else empty.

    """

    energy: float | None = None
    relaxed: float | None = None
    steps: int = 0
    converged: bool = False
    failure: str = ""


def compute(crystal: Crystal, calculator: Calculator, relax_steps: int = 0) -> Computed:
    """Single point of a crystal, and its relaxation by at most so many steps (0: none)."""
    atoms, failure = _attempt(lambda: _atoms(crystal, calculator))
    if atoms is None:
        return Computed(failure=failure)
    energy, failure = _attempt(lambda: _energy(atoms))
    if energy is None or relax_steps == 0:
        return Computed(energy, failure=failure)
    relaxed, failure = _attempt(lambda: _relax(atoms, relax_steps))
    if relaxed is None:
        return Computed(energy, failure=f"relaxation: {failure}")
    return Computed(energy, *relaxed)


class CalculatorEnergies:
    """Energies of many crystals in a file."""

    def __init__(self, path: Path, made_by: dict[str, Any]) -> None:
        """Read what an earlier run has computed.

        Raises:
            InputError: energies of other crystals or by another calculator.

        """
        self._file = JsonLines(path, made_by, "energies")
        self.done: dict[Key, Computed] = dict(self._file.read(_parse))

    def run(
        self,
        tasks: Iterable[tuple[Key, Crystal]],
        calculator: Calculator,
        relax_steps: int,
        advance: Callable[[int], None],
    ) -> None:
        """Compute what is missing, one structure at a time onto the disk."""
        for key, crystal in tasks:
            if key not in self.done:
                found = compute(crystal, calculator, relax_steps)
                self._file.append([[*key, asdict(found)]])
                self.done[key] = found
                advance(1)


def _parse(line: Any) -> tuple[Key, Computed]:  # noqa: ANN401 -- what a line of JSON holds
    target, sample, record = line
    return (int(target), int(sample)), Computed(**record)


def _attempt(call: Callable[[], T]) -> tuple[T | None, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return within(SECONDS, call), ""
    except TooSlowError:
        return None, f"took more than {SECONDS:g} s"
    except Exception as error:  # noqa: BLE001 -- a potential may raise anything on a structure that is no crystal
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _atoms(crystal: Crystal, calculator: Calculator) -> Atoms:
    # two atoms in one place, or a flat cell, can make a neighbour list that fills the memory
    crystal.validate()
    atoms = crystal.to_atoms()
    atoms.info.clear()
    atoms.calc = calculator
    return atoms


def _energy(atoms: Atoms) -> float:
    energy = float(atoms.get_potential_energy()) / len(atoms)  # type: ignore[no-untyped-call]
    if not math.isfinite(energy):
        raise ArithmeticError(f"the energy is {energy}")
    return energy


def _relax(atoms: Atoms, steps: int) -> tuple[float, int, bool]:
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    # FIRE, not a quasi-Newton method: it also walks downhill from structures far from any minimum
    optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)  # type: ignore[no-untyped-call]
    converged = False
    for converged in optimizer.irun(fmax=FORCE_TOLERANCE, steps=steps):  # noqa: B007 -- the last one is wanted
        volume = float(atoms.get_volume()) / len(atoms)  # type: ignore[no-untyped-call]
        # what evaporates or collapses has no energy worth comparing, and collapsed cells can fill the memory
        if not DEFAULT_LIMITS.min_volume_per_atom <= volume <= DEFAULT_LIMITS.max_volume_per_atom:
            raise ArithmeticError(f"the cell reached {volume:.3g} A^3 per atom")
    return _energy(atoms), int(optimizer.nsteps), bool(converged)
