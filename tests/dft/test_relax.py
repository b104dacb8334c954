from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ase.calculators.emt import EMT

from dao.crystal import Crystal
from dao.dft.relax import Iteration, RelaxationLimits, best, relax
from dao.errors import InputError

COPPER = Crystal(
    [29] * 4,
    [[0.02, 0.0, 0.0], [0.5, 0.52, 0.0], [0.5, 0.0, 0.5], [0.0, 0.47, 0.5]],
    np.diag([3.8, 3.7, 3.6]),
    "copper",
)
"""Askew; the effective medium's edge is 3.59 A."""


class Counting(EMT):
    """Effective medium theory, in place of a code that takes hours."""

    def __init__(self, *, fail_at: int | None = None, sleep: float = 0.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls, self.fail_at, self.sleep = 0, fail_at, sleep

    def calculate(self, *arguments: Any, **named: Any) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("did not\nconverge")
        time.sleep(self.sleep)
        super().calculate(*arguments, **named)  # type: ignore[no-untyped-call]


def same(ours: Sequence[Iteration], theirs: Sequence[Iteration]) -> bool:
    names = ("lattice", "positions", "energy", "forces", "stress")
    return len(ours) == len(theirs) and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for one, other in zip(ours, theirs, strict=True)
        for name in names
    )


def test_cell_and_atoms_are_relaxed() -> None:
    iterations, ending = relax(Counting(), COPPER, RelaxationLimits(force_tolerance=0.01))
    assert ending.outcome == "converged"
    last = iterations[best(iterations, ending)].crystal(COPPER)
    assert np.linalg.norm(last.lattice, axis=1) == pytest.approx([3.59] * 3, abs=0.03)
    assert iterations[-1].max_force < 0.02 < iterations[0].max_force
    assert iterations[-1].max_stress < 0.3 < iterations[0].max_stress
    assert iterations[0].pressure < 0  # it was too large, and wants to shrink
    assert iterations[-1].energy < iterations[0].energy
    assert all(one.seconds > 0 for one in iterations)


def test_atoms_alone() -> None:
    iterations, ending = relax(Counting(), COPPER, RelaxationLimits(fix_cell=True, force_tolerance=0.01))
    assert ending.outcome == "converged"
    assert all(np.allclose(one.lattice, COPPER.lattice) for one in iterations)
    assert iterations[-1].max_stress > 1.0


def test_a_stopped_run_goes_on_to_the_same_end_and_computes_nothing_twice() -> None:
    limits = RelaxationLimits(force_tolerance=0.01)
    whole, ending = relax(Counting(), COPPER, limits)
    for stopped in (1, 4, len(whole)):
        # as they come back from their file
        kept = [Iteration.from_line(one.to_line()) for one in whole[:stopped]]
        told: list[Iteration] = []
        calculator = Counting()
        again, end = relax(calculator, COPPER, limits, kept=kept, keep=told.append)
        assert same(again, whole)
        assert end == ending
        assert len(told) == len(whole) - stopped
        assert calculator.calls == len(whole) - stopped


def test_iterations_run_out() -> None:
    calculator = Counting()
    iterations, ending = relax(calculator, COPPER, RelaxationLimits(iterations=3))
    assert (ending.outcome, len(iterations), calculator.calls) == ("iterations", 3, 3)
    assert iterations[best(iterations, ending)].energy == min(one.energy for one in iterations)


def test_a_calculation_that_fails_keeps_what_came_before() -> None:
    told: list[Iteration] = []
    iterations, ending = relax(Counting(fail_at=3), COPPER, RelaxationLimits(), keep=told.append)
    assert (ending.outcome, ending.reason) == ("failed", "did not converge")
    assert len(iterations) == len(told) == 2


def test_time_runs_out_in_the_middle_of_a_calculation() -> None:
    began = time.monotonic()
    iterations, ending = relax(Counting(sleep=30.0), COPPER, RelaxationLimits(seconds=0.2))
    assert (ending.outcome, iterations) == ("time", [])
    assert time.monotonic() - began < 15.0


def test_what_is_no_crystal_is_not_computed() -> None:
    near = Crystal([29, 29], [[0.0, 0.0, 0.0], [0.05, 0.0, 0.0]], 3.6 * np.eye(3))
    calculator = Counting()
    iterations, ending = relax(calculator, near, RelaxationLimits())
    assert (ending.outcome, iterations, calculator.calls) == ("failed", [], 0)
    assert ending.reason is not None
    assert "two atoms 0.18 A apart" in ending.reason


def test_iterations_of_another_relaxation_are_refused() -> None:
    whole, _ = relax(Counting(), COPPER, RelaxationLimits(iterations=2))
    other = Crystal(COPPER.atomic_numbers, COPPER.frac_coords, 1.01 * COPPER.lattice)
    with pytest.raises(InputError, match="iteration 1 of the run that was stopped is of another structure"):
        relax(Counting(), other, RelaxationLimits(), kept=whole)


@pytest.mark.parametrize("change", [{"energy": "low"}, {"stress": [0.0]}, {"lattice": None}])
def test_lines_that_are_none(change: dict[str, Any]) -> None:
    whole, _ = relax(Counting(), COPPER, RelaxationLimits(iterations=1))
    with pytest.raises((KeyError, TypeError, ValueError)):
        Iteration.from_line(whole[0].to_line() | change)
