"""The doors to GPAW and Quantum ESPRESSO: by programs that stand in for them, and by the real ones where they are."""

from __future__ import annotations

import shutil
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dao.dft.calculators import (
    CalculationError,
    DftSettings,
    EspressoCalculator,
    GpawCalculator,
    Pseudopotentials,
)
from dao.errors import InputError

CHEAP = DftSettings(cutoff=150.0, k_points=(1, 1, 1))
DEBIAN = Path("/usr/share/espresso/pseudo")

STAND_IN = """\
#!{python}
import json, sys
assert sys.argv[1] == "python" and sys.argv[2].endswith("gpaw_worker.py")
settings = json.loads(sys.stdin.readline())
print(json.dumps({{"gpaw": "0", "cutoff": settings["cutoff"]}}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    {answer}
"""


def program(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.write_text(textwrap.dedent(text))
    file.chmod(0o755)
    return str(file)


def stand_in(folder: Path, answer: str) -> str:
    return program(folder, "gpaw", STAND_IN.format(python=sys.executable, answer=answer))


def helium() -> Atoms:
    return bulk("He", "fcc", a=4.2)


def energy(atoms: Atoms) -> float:
    return float(atoms.get_potential_energy())  # type: ignore[no-untyped-call]


def forces(atoms: Atoms) -> np.ndarray[Any, Any]:
    return np.asarray(atoms.get_forces())  # type: ignore[no-untyped-call]


def stress(atoms: Atoms) -> np.ndarray[Any, Any]:
    return np.asarray(atoms.get_stress())  # type: ignore[no-untyped-call]


def test_gpaw_is_asked_and_answers(tmp_path: Path) -> None:
    answer = 'print(json.dumps({"energy": asked["cell"][0][1], "forces": [[1, 2, 3]], "stress": [0] * 6, "cpu": 7}))'
    calculator = GpawCalculator(CHEAP, tmp_path / "run", stand_in(tmp_path, f"{answer}; sys.stdout.flush()"))
    atoms = helium()
    atoms.calc = calculator
    with closing(calculator):
        assert calculator.versions == {"gpaw": "0", "cutoff": 150.0}
        assert energy(atoms) == pytest.approx(2.1)
        assert forces(atoms).tolist() == [[1.0, 2.0, 3.0]]
        assert calculator.cpu_seconds == 7.0


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ('{"error": "no data set He.PBE", "kind": "missing"}', InputError, "GPAW: no data set He.PBE"),
        ('{"error": "no convergence", "kind": "failed"}', CalculationError, "no convergence"),
    ],
)
def test_what_gpaw_complains_of(tmp_path: Path, answer: str, kind: type[Exception], message: str) -> None:
    calculator = GpawCalculator(CHEAP, tmp_path, stand_in(tmp_path, f"print('{answer}', flush=True)"))
    atoms = helium()
    atoms.calc = calculator
    with closing(calculator), pytest.raises(kind, match=message):
        energy(atoms)


def test_gpaw_dies(tmp_path: Path) -> None:
    calculator = GpawCalculator(CHEAP, tmp_path, stand_in(tmp_path, 'sys.exit("out of memory")'))
    atoms = helium()
    atoms.calc = calculator
    with closing(calculator), pytest.raises(CalculationError, match="its process ended: out of memory"):
        energy(atoms)


def test_gpaw_does_not_start(tmp_path: Path) -> None:
    broken = program(tmp_path, "gpaw", "#!/bin/sh\necho 'No module named gpaw' >&2\nexit 1\n")
    with pytest.raises(InputError, match="GPAW does not start: its process ended: No module named gpaw"):
        GpawCalculator(CHEAP, tmp_path, broken)


def test_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no program 'gpaw' on the path"):
        GpawCalculator(CHEAP, tmp_path / "run")
    with pytest.raises(InputError, match="'nowhere -n 4 gpaw': no such program"):
        GpawCalculator(CHEAP, tmp_path / "run", "nowhere -n 4 gpaw")
    with pytest.raises(InputError, match=r"Quantum ESPRESSO, 'pw\.x': no such program"):
        EspressoCalculator(CHEAP, tmp_path / "run", Pseudopotentials(folder=tmp_path, chosen={}), ["He"])
    assert not (tmp_path / "run").exists()


def test_pseudopotentials_of_a_folder(tmp_path: Path) -> None:
    for name in ("C.pbe.UPF", "Cu_pbe_v1.upf", "CorelUSPBE.RRKJ3.UPF", "O.pbe.UPF", "O.pz.UPF", "H.pbe.txt"):
        (tmp_path / name).touch()
    ours = Pseudopotentials(folder=tmp_path, chosen={"O": "O.pz.UPF"})
    assert ours.files(["C", "Cu", "O", "C"]) == {"C": "C.pbe.UPF", "Cu": "Cu_pbe_v1.upf", "O": "O.pz.UPF"}
    with pytest.raises(InputError, match=r"no pseudopotential of H "):
        ours.files(["H"])
    with pytest.raises(InputError, match=r"several pseudopotentials of O \(O\.pbe\.UPF, O\.pz\.UPF\)"):
        Pseudopotentials(folder=tmp_path, chosen={}).files(["O"])
    with pytest.raises(InputError, match=r"--pseudopotential C=none.UPF: no such file"):
        Pseudopotentials(folder=tmp_path, chosen={"C": "none.UPF"}).files(["C"])
    with pytest.raises(InputError, match="no such folder"):
        Pseudopotentials(folder=tmp_path / "none", chosen={}).files(["C"])


def test_what_pw_complains_of(tmp_path: Path) -> None:
    (tmp_path / "He.pbe.UPF").touch()
    text = "#!/bin/sh\necho '     Error in routine readpp (1):'\necho '     file He.pbe.UPF is empty'\nexit 1\n"
    ours = Pseudopotentials(folder=tmp_path, chosen={})
    calculator = EspressoCalculator(CHEAP, tmp_path, ours, ["He"], program(tmp_path, "pw.x", text))
    atoms = helium()
    atoms.calc = calculator
    with pytest.raises(CalculationError, match=r"pw.x: Error in routine readpp \(1\): file He.pbe.UPF is empty"):
        energy(atoms)
    asked = (tmp_path / "espresso" / "espresso.pwi").read_text()
    assert "ecutwfc" in asked
    assert "11.02" in asked  # Ry


@pytest.mark.skipif(shutil.which("gpaw") is None, reason="GPAW is not installed (Debian: apt install gpaw gpaw-data)")
def test_gpaw_itself(tmp_path: Path) -> None:
    calculator = GpawCalculator(CHEAP, tmp_path)
    atoms = helium()
    atoms.calc = calculator
    with closing(calculator):
        before = energy(atoms)
        assert np.abs(forces(atoms)).max() < 1e-3
        assert stress(atoms).shape == (6,)
        assert calculator.cpu_seconds > 0.1
        atoms.set_cell(0.9 * atoms.cell.array, scale_atoms=True)  # type: ignore[no-untyped-call]
        # the same process takes another cell
        assert abs(energy(atoms) - before) > 0.1
        unknown = Atoms("Fm", cell=4 * np.eye(3), pbc=True, calculator=calculator)
        with pytest.raises(InputError, match=r"GPAW: FileNotFoundError: .*Fm"):
            energy(unknown)
    assert (tmp_path / "gpaw.txt").stat().st_size > 1000


@pytest.mark.skipif(
    shutil.which("pw.x") is None or not (DEBIAN / "H.pz-vbc.UPF").is_file(),
    reason="Quantum ESPRESSO is not installed (Debian: apt install quantum-espresso quantum-espresso-data)",
)
def test_pw_itself(tmp_path: Path) -> None:
    ours = Pseudopotentials(folder=DEBIAN, chosen={"H": "H.pz-vbc.UPF"})
    calculator = EspressoCalculator(CHEAP, tmp_path, ours, ["H"])
    atoms = bulk("H", "fcc", a=2.5)
    atoms.calc = calculator
    assert -30.0 < energy(atoms) < -10.0
    assert np.abs(forces(atoms)).max() < 1e-3
    assert stress(atoms).shape == (6,)
    assert calculator.versions["pw.x"]
    calculator.close()
    assert not (tmp_path / "espresso" / "scratch").exists()
