"""GPAW in a Python of its own: answers one structure a line, until its standard input ends.

Run as ``gpaw python gpaw_worker.py`` by :class:`dao.dft.calculators.GpawCalculator`, in whatever Python GPAW lives in
(Debian's, say), so this file imports nothing of DAO. Lines are JSON. The first that comes holds the settings, and is
answered by versions; each other one holds ``numbers``, ``positions`` (A) and ``cell`` (A), and is answered by
``energy`` (eV), ``forces`` (eV/A), ``stress`` (eV/A^3, ASE's order) and ``cpu`` (processor seconds of all processes
since their start), or by ``error`` and its ``kind``. With MPI every process runs this and the first one talks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from importlib import import_module
from typing import Any


def watch(parent: int) -> None:
    """End this process when its parent has gone: a calculation that nobody waits for may take hours."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> None:
    """Answer lines."""
    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
    # Ctrl-C goes to all processes of a terminal: it is for DAO to end this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # libraries may print on standard output: the answers go where only we write
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    gpaw = import_module("gpaw")
    ase = import_module("ase")
    world = import_module("gpaw.mpi").world
    broadcast = import_module("gpaw.mpi").broadcast

    def receive() -> Any:  # noqa: ANN401 -- JSON
        line = broadcast(sys.stdin.readline() if world.rank == 0 else None)
        return json.loads(line) if line.strip() else None

    def send(answer: Any) -> None:  # noqa: ANN401 -- JSON
        if world.rank == 0:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

    settings = receive()
    send({"gpaw": gpaw.__version__, "ase": ase.__version__, "processes": world.size})
    calculator = gpaw.GPAW(
        mode=gpaw.PW(settings["cutoff"]),
        xc=settings["functional"],
        kpts=settings["k_points"],
        occupations=gpaw.FermiDirac(settings["width"]),
        maxiter=settings["scf_iterations"],
        txt=settings["log"],
    )
    while (asked := receive()) is not None:
        try:
            atoms = ase.Atoms(asked["numbers"], positions=asked["positions"], cell=asked["cell"], pbc=True)
            atoms.calc = calculator
            answer = {
                "energy": float(atoms.get_potential_energy()),
                "forces": atoms.get_forces().tolist(),
                "stress": atoms.get_stress().tolist(),
            }
            answer["cpu"] = float(world.sum(time.process_time()))
        except Exception as error:  # noqa: BLE001 -- whatever it is, DAO is to know
            kind = "missing" if isinstance(error, FileNotFoundError) else "failed"
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500], "kind": kind}
        send(answer)


if __name__ == "__main__":
    main()
