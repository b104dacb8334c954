"""GPAW and Quantum ESPRESSO as ASE calculators, wherever on this machine they are installed.

Neither is a dependency. GPAW is compiled against the Python that it is installed for (Debian's is the system's), so it
runs in a process of that Python, :mod:`dao.dft.gpaw_worker`, which keeps its state from one structure to the next.
Quantum ESPRESSO is a program, ``pw.x``, which ASE runs anew for every structure.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.units import Ry

from dao.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

CodeName = Literal["gpaw", "espresso"]

FUNCTIONAL = "PBE"
"""GPAW's; Quantum ESPRESSO takes that of the pseudopotentials."""

DENSITY_CUTOFF = 8.0
"""Cutoff of the density over that of the wave functions for Quantum ESPRESSO: enough for ultrasoft pseudopotentials
and PAW (norm-conserving ones would do with 4)."""

SCF_THRESHOLD = 1e-6
"""Quantum ESPRESSO's ``conv_thr`` in Ry, as in the paper's table 7; GPAW's criteria are its own defaults."""

SCF_ITERATIONS = 100
"""Most iterations to self-consistency in both codes, Quantum ESPRESSO's default: what takes more hardly ever ends."""

GPAW_MISSING = "GPAW: no program 'gpaw' on the path (Debian: apt install gpaw gpaw-data); see --command"
ESPRESSO_MISSING = "no such program (Debian: apt install quantum-espresso); see --command"


class CalculationError(Exception):
    """A code ran and gave no energy; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class DftSettings:
    """What a self-consistent calculation depends on, in both codes; not spin-polarised, PBE.

    Attributes:
        cutoff: of the plane waves, eV.
        k_points: of the Monkhorst-Pack grid by direction; Gamma is in it where they are odd.
        width: of the smearing, eV (Fermi-Dirac with GPAW, Gaussian with Quantum ESPRESSO).

    """

    cutoff: float = 400.0
    k_points: tuple[int, int, int] = (2, 2, 2)
    width: float = 0.1


class GpawCalculator(Calculator):
    """GPAW in another process."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 -- ASE's own declaration

    def __init__(self, settings: DftSettings, folder: Path, command: str | None = None) -> None:
        """Start the process, which writes GPAW's own log to ``gpaw.txt`` in a folder.

        Args:
            settings: of the calculations.
            folder: for the log; made if need be.
            command: the ``gpaw`` program, with ``mpirun -n 4`` before it to use so many processes.

        Raises:
            InputError: there is no such program, or it does not start.

        """
        super().__init__()  # type: ignore[no-untyped-call]
        words = shlex.split(command or "gpaw")
        if not words or shutil.which(words[0]) is None:
            raise InputError(GPAW_MISSING if command is None else f"--command {command!r}: no such program")
        # what this Python imports from there may be compiled for this Python alone
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.cpu_seconds = 0.0
        """Processor time of the process up to its last answer; it becomes this process's own once that is closed."""
        folder.mkdir(parents=True, exist_ok=True)
        self._errors = folder / "gpaw.err"
        with self._errors.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(  # noqa: S603 -- the program that the user asks for
                [*words, "python", str(Path(__file__).with_name("gpaw_worker.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        try:
            self.versions = self._ask(
                {
                    "cutoff": settings.cutoff,
                    "k_points": settings.k_points,
                    "width": settings.width,
                    "functional": FUNCTIONAL,
                    "scf_iterations": SCF_ITERATIONS,
                    "log": str(folder / "gpaw.txt"),
                }
            )
        except CalculationError as error:
            self.close()
            raise InputError(f"GPAW does not start: {error}") from None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results``; ASE calls this.

        Raises:
            InputError: no data set of an element.
            CalculationError: GPAW gave no energy.

        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        assert self.atoms is not None  # noqa: S101 -- set by the line above
        answer = self._ask(
            {
                "numbers": self.atoms.numbers.tolist(),
                "positions": self.atoms.positions.tolist(),
                "cell": self.atoms.cell.array.tolist(),
            }
        )
        self.cpu_seconds = float(answer["cpu"])
        self.results = {
            "energy": float(answer["energy"]),
            "forces": np.array(answer["forces"]),
            "stress": np.array(answer["stress"]),
        }

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: PT018, S101 -- pipes
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            said = self._errors.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((text.strip() for text in reversed(said) if text.strip()), "it said nothing")
            raise CalculationError(f"its process ended: {last[:300]}")
        answer: dict[str, Any] = json.loads(line)
        if answer.get("kind") == "missing":
            raise InputError(f"GPAW: {answer['error']} (Debian: apt install gpaw-data)")
        if "error" in answer:
            raise CalculationError(answer["error"])
        return answer


@dataclass(frozen=True, kw_only=True)
class Pseudopotentials:
    """Which file of a folder stands for which element.

    Attributes:
        folder: of files in UPF.
        chosen: file names by element, needed where the folder has several of one.

    """

    folder: Path
    chosen: Mapping[str, str]

    def files(self, symbols: Iterable[str]) -> dict[str, str]:
        """The file name of each element.

        Raises:
            InputError: no such folder or file, or several files of an element of which none is chosen.

        """
        if not self.folder.is_dir():
            raise InputError(f"--pseudopotentials {str(self.folder)!r}: no such folder")
        names = sorted(path.name for path in self.folder.iterdir() if path.suffix.lower() == ".upf")
        found = {}
        for symbol in dict.fromkeys(symbols):
            # Cu.pbe-kjpaw.UPF, cu_pbe_v1.2.uspp.F.UPF, Cu-high.upf; but Cu for neither C nor CorelUSPBE
            pattern = re.compile(rf"{symbol}[._-]", re.IGNORECASE)
            own = [name for name in names if pattern.match(name)]
            wanted = self.chosen.get(symbol)
            if wanted is not None:
                own = [name for name in names if name == wanted]
                if not own:
                    raise InputError(f"--pseudopotential {symbol}={wanted}: no such file in {self.folder}")
            if not own:
                raise InputError(f"{self.folder}: no pseudopotential of {symbol} (a file {symbol}.*.UPF)")
            if len(own) > 1:
                raise InputError(
                    f"{self.folder}: several pseudopotentials of {symbol} ({', '.join(own)}):"
                    f" choose by --pseudopotential {symbol}=FILE"
                )
            found[symbol] = own[0]
        return found


class EspressoCalculator(Calculator):
    """Quantum ESPRESSO's ``pw.x``, each calculation from scratch; its files are kept until the next one."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 -- ASE's own declaration

    def __init__(
        self,
        settings: DftSettings,
        folder: Path,
        pseudopotentials: Pseudopotentials,
        symbols: Iterable[str],
        command: str | None = None,
    ) -> None:
        """Find the program and the pseudopotentials.

        Args:
            settings: of the calculations.
            folder: for input and output files (``espresso/``).
            pseudopotentials: where they are.
            symbols: elements of the structures to come.
            command: the ``pw.x`` program, with ``mpirun -n 4`` before it to use so many processes.

        Raises:
            InputError: there is no such program, or a pseudopotential is missing.

        """
        from ase.calculators.espresso import Espresso, EspressoProfile

        super().__init__()  # type: ignore[no-untyped-call]
        words = shlex.split(command or "pw.x")
        if not words or shutil.which(words[0]) is None:
            raise InputError(f"Quantum ESPRESSO, {command or 'pw.x'!r}: {ESPRESSO_MISSING}")
        files = pseudopotentials.files(symbols)
        self._folder = folder / "espresso"
        self.versions: dict[str, Any] = {"pseudopotentials": files}
        self._inner = Espresso(  # type: ignore[no-untyped-call]
            profile=EspressoProfile(  # type: ignore[no-untyped-call]
                command=shlex.join(words), pseudo_dir=str(pseudopotentials.folder.resolve())
            ),
            directory=str(self._folder),
            pseudopotentials=files,
            kpts=settings.k_points,
            koffset=tuple(1 - number % 2 for number in settings.k_points),
            input_data={
                "control": {"tprnfor": True, "tstress": True, "disk_io": "none", "outdir": "scratch"},
                "system": {
                    "ecutwfc": settings.cutoff / Ry,
                    "ecutrho": DENSITY_CUTOFF * settings.cutoff / Ry,
                    "occupations": "smearing",
                    "smearing": "gaussian",
                    "degauss": settings.width / Ry,
                },
                "electrons": {"conv_thr": SCF_THRESHOLD, "mixing_beta": 0.4, "electron_maxstep": SCF_ITERATIONS},
            },
        )

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results``; ASE calls this.

        Raises:
            CalculationError: ``pw.x`` gave no energy.

        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        assert self.atoms is not None  # noqa: S101 -- set by the line above
        inner = self.atoms.copy()
        inner.calc = self._inner
        try:
            self.results = {
                "energy": float(inner.get_potential_energy()),
                "forces": inner.get_forces(),
                "stress": inner.get_stress(),
            }
        except Exception as error:  # noqa: BLE001 -- ASE's, the program's, or of an output that cannot be read
            raise CalculationError(self._reason(error)) from None
        version = re.search(r"Program PWSCF v\.(\S+)", self._output())
        if version:
            self.versions["pw.x"] = version[1]

    def close(self) -> None:
        """Remove what ``pw.x`` left for a continuation."""
        shutil.rmtree(self._folder / "scratch", ignore_errors=True)

    def _output(self) -> str:
        file = self._folder / "espresso.pwo"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def _reason(self, error: Exception) -> str:
        """What ``pw.x`` itself said of it, if anything: two lines after ``Error in routine``."""
        said = re.search(r"Error in routine[^\n]*\n[^\n]*|convergence NOT achieved[^\n]*", self._output())
        return " ".join((f"pw.x: {said[0]}" if said else f"{type(error).__name__}: {error}").split())[:500]
