from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones
from toys import toy

from dao.crystal import Crystal
from dao.errors import InputError
from dao.evaluation import calculator_energies
from dao.evaluation.calculator_energies import CalculatorEnergies, Computed, compute

SALT = toy("rocksalt", ("Na", "Cl"), 5.9, "salt")
ATOMS_IN_ONE_PLACE = Crystal([11, 17], [[0.0, 0.0, 0.0], [0.0, 0.0, 1e-4]], SALT.lattice)


def lennard_jones() -> Any:
    return LennardJones(sigma=2.5, epsilon=0.5, rc=6.0, smooth=True)  # type: ignore[no-untyped-call]


class Fixed(Calculator):
    """The same energy, force and pressure whatever comes, and how often it was asked."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 -- ASE's own declaration

    def __init__(self, energy: float, pressure: float = 0.0, error: Exception | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.energy, self.pressure, self.error, self.calls = energy, pressure, error, 0

    def calculate(self, atoms: Any = None, *_: Any, **__: Any) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        stress = np.array([1.0, 1, 1, 0, 0, 0]) * -self.pressure
        self.results = {"energy": self.energy, "forces": np.zeros((len(atoms), 3)), "stress": stress}


def test_energies_are_by_the_atom_and_fall_by_relaxation() -> None:
    atoms: Any = SALT.to_atoms()
    atoms.calc = lennard_jones()
    single = compute(SALT, lennard_jones())
    assert single.energy == pytest.approx(atoms.get_potential_energy() / 2)
    assert single == Computed(single.energy)
    relaxed = compute(SALT, lennard_jones(), 100)
    assert relaxed.energy == single.energy
    assert relaxed.relaxed is not None
    assert single.energy is not None
    assert relaxed.relaxed < single.energy - 0.01
    assert relaxed.converged
    assert 0 < relaxed.steps < 100
    few = compute(SALT, lennard_jones(), 2)
    assert (few.steps, few.converged, few.failure) == (2, False, "")
    assert few.relaxed is not None
    assert relaxed.relaxed < few.relaxed < single.energy


@pytest.mark.parametrize(
    ("crystal", "calculator", "reason"),
    [
        (ATOMS_IN_ONE_PLACE, lennard_jones(), "InputError"),
        (SALT, Fixed(float("nan")), "the energy is nan"),
        (SALT, Fixed(0.0, error=RuntimeError("two\nlines")), "RuntimeError: two lines"),
        (SALT, Fixed(0.0, error=ZeroDivisionError()), "ZeroDivisionError"),
    ],
)
def test_nonsense_has_no_energy_and_a_reason(crystal: Crystal, calculator: Any, reason: str) -> None:
    found = compute(crystal, calculator, 5)
    assert (found.energy, found.relaxed) == (None, None)
    assert reason in found.failure


def test_a_cell_that_falls_apart_keeps_its_single_point() -> None:
    found = compute(SALT, Fixed(-3.0, pressure=5.0), 1000)
    assert (found.energy, found.relaxed, found.converged) == (-1.5, None, False)
    assert found.failure.startswith("relaxation: ")
    assert "A^3 per atom" in found.failure


def test_what_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calculator_energies, "SECONDS", 0.05)

    class Endless(Fixed):
        def calculate(self, *_: Any, **__: Any) -> None:
            while True:
                pass

    assert compute(SALT, Endless(0.0)).failure == "took more than 0.05 s"


def test_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    tasks = [((row, sample), SALT) for row in range(3) for sample in (-1, 0)]
    made_by = {"calculator": "fixed"}
    counted: list[int] = []
    path, calculator = tmp_path / "new" / "energies.jsonl", Fixed(-2.0)
    CalculatorEnergies(path, made_by).run(tasks[:4], calculator, 0, counted.append)
    with path.open("ab") as stream:
        stream.write(b'[2, -1, {"ener')
    again = CalculatorEnergies(path, made_by)
    assert list(again.done) == [key for key, _ in tasks[:4]]
    again.run(tasks, calculator, 0, counted.append)
    assert (calculator.calls, counted) == (6, [1] * 6)
    assert CalculatorEnergies(path, made_by).done == again.done == dict.fromkeys((k for k, _ in tasks), Computed(-1.0))
    with pytest.raises(InputError, match="another calculator"):
        CalculatorEnergies(path, {"calculator": "other"})
    path.write_text(json.dumps({"made_by": made_by}) + "\n[1]\n")
    with pytest.raises(InputError, match="not a file of energies"):
        CalculatorEnergies(path, made_by)
