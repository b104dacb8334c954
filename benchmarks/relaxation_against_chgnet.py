"""DAO-P's relaxation against CHGNet's, of the same crystals.

    python benchmarks/relaxation_against_chgnet.py pool.parquet --weights FOLDER --out chgnet [--count 100] [--seed 0]

A seeded choice of crystals with 0.08 < e_above_hull <= 0.5 eV/atom, as Stage II relaxes them, each relaxed in its
primitive Niggli cell by DAO-P (the paper's setting: 5 iterations) and by CHGNet (FIRE on cell and atoms through ASE's
FrechetCellFilter, at most ``--chgnet-steps`` steps, to ``--fmax`` eV/A). CHGNet then judges: its energy of the start,
of DAO-P's end and of its own. Distances between structures are RMS displacements in A less the mean displacement (atoms
keep their order) and the largest principal strain of the cell. It judges what it was trained for (the Materials
Project's relaxations) and is no truth either. Needs ``pip install chgnet``, whose weights come with it. Finished
crystals are kept in ``--out``/crystals.jsonl, and the same command goes on; the table is ``--out``/table.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from ase import Atoms

from dao.constants import RELAXED_E_ABOVE_HULL, STABLE_E_ABOVE_HULL
from dao.crystal import Crystal
from dao.data.uniform import file_hash, find_source
from dao.errors import InputError
from dao.evaluation.tables import NONE, table
from dao.geometry.cells import reduced
from dao.geometry.motion import largest_strain, rms_displacement, volume_change
from dao.jsonl import JsonLines
from dao.models import Predictor
from dao.prediction.files import write_text
from dao.prediction.relaxed_set import Chosen, Selection, choose
from dao.progress import CountProgress
from dao.relaxation import RelaxationSettings, relax

LEAST_FALL = 0.001
"""Falls of CHGNet's energy below this (eV/atom) are left out of the shares of it that DAO-P gets: noise over noise."""

RISE = 1e-4
"""Rises of CHGNet's energy above this (eV/atom) count."""


@dataclass(frozen=True, kw_only=True)
class Distance:
    """From one structure to another: A, relative, relative."""

    displacement: float
    strain: float
    volume_change: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Of one crystal; energies in eV/atom, DAO-P's above the hull and CHGNet's total ones; times in seconds."""

    row: int
    id: str
    num_atoms: int
    e_above_hull: float
    dao_before: float
    dao_after: float
    start: float
    dao: float
    chgnet: float
    chgnet_steps: int
    converged: bool
    """CHGNet's relaxation."""
    dao_seconds: float
    chgnet_seconds: float
    start_to_dao: Distance
    start_to_chgnet: Distance
    dao_to_chgnet: Distance


def distance(one: Crystal, other: Crystal) -> Distance:
    return Distance(
        displacement=rms_displacement(one, other),
        strain=largest_strain(one, other),
        volume_change=volume_change(one, other),
    )


def energy_of(atoms: Atoms) -> float:
    return float(atoms.get_potential_energy()) / len(atoms)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Other:
    """Another potential for ASE: a function that gives atoms a calculator, and how far it relaxes."""

    attach: Callable[[Atoms], None]
    steps: int
    fmax: float

    def energy(self, crystal: Crystal) -> float:
        """Per atom, eV."""
        atoms = crystal.to_atoms()
        self.attach(atoms)
        return energy_of(atoms)

    def relax(self, crystal: Crystal) -> tuple[Crystal, float, int, bool]:
        """The relaxed crystal, its energy in eV/atom, steps, and whether it converged."""
        from ase.filters import FrechetCellFilter
        from ase.optimize import FIRE

        atoms = crystal.to_atoms()
        self.attach(atoms)
        optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)  # type: ignore[no-untyped-call]
        converged = bool(optimizer.run(fmax=self.fmax, steps=self.steps))
        relaxed = Crystal.from_atoms(atoms, crystal.material_id)
        return relaxed, energy_of(atoms), int(optimizer.nsteps), converged


def chgnet(steps: int, fmax: float) -> Other:
    """CHGNet as it comes.

    Raises:
        InputError: it is not installed.

    """
    try:
        dynamics = import_module("chgnet.model.dynamics")
    except ImportError:
        raise InputError("this benchmark needs CHGNet: pip install chgnet") from None
    # it says on standard output where it runs
    with contextlib.redirect_stdout(io.StringIO()):
        # an atom without a neighbour within 6 A is no crystal: better no energy than one that means nothing
        calculator = dynamics.CHGNetCalculator(use_device="cpu", on_isolated_atoms="error")

    def attach(atoms: Atoms) -> None:
        atoms.calc = calculator

    return Other(attach, steps, fmax)


def compare(one: Chosen, model: Predictor, other: Other) -> Comparison:
    """Relax a crystal both ways, and judge."""
    start = reduced(one.crystal)
    began = time.perf_counter()
    (mine,) = relax(model, [start], RelaxationSettings())
    relaxed = time.perf_counter()
    energy = other.energy(start)
    judged = time.perf_counter()
    theirs, lowest, steps, converged = other.relax(start)
    return Comparison(
        row=one.row,
        id=start.name,
        num_atoms=start.num_atoms,
        e_above_hull=one.energy,
        dao_before=mine.energy_before / start.num_atoms,
        dao_after=mine.energy / start.num_atoms,
        start=energy,
        dao=other.energy(mine.crystal),
        chgnet=lowest,
        chgnet_steps=steps,
        converged=converged,
        dao_seconds=relaxed - began,
        chgnet_seconds=time.perf_counter() - judged,
        start_to_dao=distance(start, mine.crystal),
        start_to_chgnet=distance(start, theirs),
        dao_to_chgnet=distance(mine.crystal, theirs),
    )


def parsed(line: dict[str, object]) -> Comparison:
    distances = {name: Distance(**line.pop(name)) for name in list(line) if "_to_" in name}  # type: ignore[arg-type]
    return Comparison(**line, **distances)  # type: ignore[arg-type]


def page(found: Sequence[Comparison], failed: int, about: str) -> str:
    """Markdown of what was found."""
    pairs = {
        "start to DAO-P's end": [one.start_to_dao for one in found],
        "start to CHGNet's end": [one.start_to_chgnet for one in found],
        "DAO-P's end to CHGNet's": [one.dao_to_chgnet for one in found],
    }
    apart = table(
        [
            "",
            "RMS displacement (Å), median",
            "mean",
            "Largest strain (%), median",
            "Volume change (%), median",
            "of size",
        ],
        [
            [
                name,
                f"{np.median([one.displacement for one in some]):.4f}",
                f"{np.mean([one.displacement for one in some]):.4f}",
                f"{100 * np.median([one.strain for one in some]):.2f}",
                f"{100 * np.median([one.volume_change for one in some]):+.2f}",
                f"{100 * np.median([abs(one.volume_change) for one in some]):.2f}",
            ]
            for name, some in pairs.items()
        ],
    )
    mine = np.array([one.start - one.dao for one in found])
    theirs = np.array([one.start - one.chgnet for one in found])
    falls = table(
        ["Fall of the energy (meV/atom)", "Median", "Mean", "Rises in"],
        [
            [name, f"{1000 * np.median(fall):.1f}", f"{1000 * fall.mean():.1f}", _share(fall < -RISE)]
            for name, fall in {
                "CHGNet's, by DAO-P's relaxation": mine,
                "CHGNet's, by its own": theirs,
                "DAO-P's, by its own": np.array([one.dao_before - one.dao_after for one in found]),
            }.items()
        ],
    )
    enough = theirs >= LEAST_FALL
    shares = mine[enough] / theirs[enough]
    nearer = {
        "displacement": [one.dao_to_chgnet.displacement < one.start_to_chgnet.displacement for one in found],
        "strain": [one.dao_to_chgnet.strain < one.start_to_chgnet.strain for one in found],
    }
    facts = [
        ["Share of CHGNet's fall that DAO-P gets, median", f"{100 * np.median(shares):.0f} %" if shares.size else NONE],
        ["the same, mean", f"{100 * shares.mean():.0f} %" if shares.size else NONE],
        ["the same, sum over sum", f"{100 * mine.sum() / theirs.sum():.0f} %" if theirs.sum() > 0 else NONE],
        [f"of crystals whose fall is at least {1000 * LEAST_FALL:g} meV/atom", f"{enough.sum()} of {len(found)}"],
        *([f"DAO-P's end is nearer to CHGNet's than the start: {by}", _share(np.array(v))] for by, v in nearer.items()),
        ["CHGNet's relaxation converged", _share(np.array([one.converged for one in found]))],
        ["Seconds a crystal, DAO-P alone in a batch, median", f"{np.median([one.dao_seconds for one in found]):.2f}"],
        ["Seconds a crystal, CHGNet, median", f"{np.median([one.chgnet_seconds for one in found]):.2f}"],
        ["Steps of CHGNet, median", f"{np.median([one.chgnet_steps for one in found]):.0f}"],
        ["Crystals that CHGNet or DAO-P could not do", str(failed)],
    ]
    return f"{about}\n\n{apart}\n\n{falls}\n\n{table(['', ''], facts, words=(0,))}\n"


def _share(which: np.ndarray) -> str:
    return f"{which.sum()} of {which.size}"


def main() -> int:
    """Choose, relax, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a Parquet file of crystals with e_above_hull")
    parser.add_argument("--weights", required=True, help="of a predictor")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-atoms", type=int, default=30)
    parser.add_argument("--chgnet-steps", type=int, default=100)
    parser.add_argument("--fmax", type=float, default=0.05, help="eV/A")
    given = parser.parse_args()
    try:
        print(run(given))
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


def run(given: argparse.Namespace) -> str:
    """The page, written too."""
    other = chgnet(given.chgnet_steps, given.fmax)
    model = Predictor.load(Path(given.weights) if Path(given.weights).is_dir() else given.weights)
    path = find_source(given.data)
    everyone = choose(path, Selection(max_atoms=given.max_atoms))
    order = np.random.default_rng(given.seed).permutation(len(everyone))
    chosen = [everyone[i] for i in order[: given.count].tolist()]
    made_by = {
        "weights": model.fingerprint,
        "data": file_hash(path),
        "choice": [given.seed, given.max_atoms],
        "CHGNet's": [given.chgnet_steps, given.fmax],
    }
    lines = JsonLines(given.out / "crystals.jsonl", made_by, "compared crystals")
    known: dict[int, Comparison | None] = dict(
        lines.read(lambda line: (line["row"], None if "reason" in line else parsed(line)))
    )
    left = [one for one in chosen if one.row not in known]
    with CountProgress(len(chosen), len(chosen) - len(left), enabled=True, what="comparing", of="crystals") as bar:
        for one in left:
            try:
                one.crystal.validate()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    made = compare(one, model, other)
                known[one.row] = made
                lines.append([asdict(made)])
            except Exception as error:  # noqa: BLE001 -- CHGNet's graphs fail in many ways; the page counts them
                known[one.row] = None
                lines.append([{"row": one.row, "id": one.crystal.name, "reason": str(error)}])
            bar.advance(1)
    results = [known[one.row] for one in chosen]
    found = [one for one in results if one is not None]
    if not found:
        raise InputError(f"none of {len(results)} crystals could be compared: see {lines.path}")
    about = (
        f"{len(found)} of {len(everyone):,} crystals of {path.name} with {STABLE_E_ABOVE_HULL:g} < e_above_hull <= "
        f"{RELAXED_E_ABOVE_HULL:g} eV/atom and at most {given.max_atoms} atoms, seed {given.seed}; DAO-P: "
        f"{model.config.name} {model.fingerprint}, {RelaxationSettings().iterations} iterations; CHGNet: FIRE, at most "
        f"{given.chgnet_steps} steps, {given.fmax:g} eV/Å."
    )
    text = page(found, len(results) - len(found), about)
    write_text(given.out / "table.md", text)
    return text


if __name__ == "__main__":
    raise SystemExit(main())
