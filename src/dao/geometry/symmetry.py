"""Symmetry of a structure by moyo, in a process of its own that a pathological cell cannot hang.

At tolerances that a generated structure needs, moyo (0.21) may take rotations for symmetries that form no group, and
then closes them into an ever larger set: seen on a 38 A high layered cell at 0.2 A, after 44,000 samples without. It
holds Python's lock meanwhile, so neither a thread nor a signal can stop it. Loose tolerances are therefore asked of a
process that limits its own processor time; where it dies, the structure has no symmetry at that tolerance.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from jaxtyping import Float64, Int64

from dao.errors import InputError
from dao.geometry.wyckoff import primitive_coordinates

if TYPE_CHECKING:
    from dao.crystal import Crystal

TRUSTED_SYMPREC = 0.01
"""Largest tolerance in A that is looked up in this process."""

CPU_SECONDS = 2
"""Processor time for one structure (a common one takes 0.001 s); limits are whole seconds."""

MEMORY = 4 << 30
"""Bytes that the process may hold."""

# without a handler Python prints what moyo remarks (left-out operations of a supercell, say) to stderr
logging.getLogger("moyo").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class SymmetryDataset:
    """What moyo says of a structure of N atoms whose standardised primitive cell has P.

    Attributes:
        number: space group, 1 to 230.
        to_primitive: (3, 3) integer or rational matrix of the standardised primitive cell (moyo's ``prim_std_linear``).
        origin_shift: (3,) ``prim_std_origin_shift``.
        sites: (N,) atom of the primitive cell that each atom is (``mapping_std_prim``).
        atomic_numbers: (P,) of the standardised primitive cell.
        frac_coords: (P, 3) of the same.
        lattice: (3, 3) its row vectors in A.

    """

    number: int
    to_primitive: Float64[np.ndarray, "3 3"]
    origin_shift: Float64[np.ndarray, " 3"]
    sites: Int64[np.ndarray, " n"]
    atomic_numbers: Int64[np.ndarray, " p"]
    frac_coords: Float64[np.ndarray, "p 3"]
    lattice: Float64[np.ndarray, "3 3"]


def symmetry_dataset(crystal: Crystal, symprec: float) -> SymmetryDataset:
    """Symmetry within ``symprec`` (A).

    Raises:
        InputError: none can be determined (coinciding atoms, degenerate cell, absurd tolerance, a cell moyo fails on).

    """
    cell = [crystal.lattice.tolist(), crystal.frac_coords.tolist(), crystal.atomic_numbers.tolist(), symprec]
    answer = look_up(cell) if symprec <= TRUSTED_SYMPREC else _GUARDED.look_up(cell)
    if "error" in answer:
        raise InputError(f"{crystal.name}: no space group at a tolerance of {symprec:g} A ({answer['error']})")
    return SymmetryDataset(
        number=int(answer["number"]),
        to_primitive=np.array(answer["to_primitive"], dtype=np.float64),
        origin_shift=np.array(answer["origin_shift"], dtype=np.float64),
        sites=np.array(answer["sites"], dtype=np.int64),
        atomic_numbers=np.array(answer["atomic_numbers"], dtype=np.int64),
        frac_coords=np.array(answer["frac_coords"], dtype=np.float64),
        lattice=np.array(answer["lattice"], dtype=np.float64),
    )


def symmetry_operations(
    crystal: Crystal, symprec: float
) -> tuple[Int64[np.ndarray, "g 3 3"], Float64[np.ndarray, "g 3"]]:
    """Operations of the space group within ``symprec`` (A) in the crystal's own cell: x goes to W x + w, in fractions.

    Returns:
        (G, 3, 3) rotations W and (G, 3) translations w. A cell that is not primitive has those of its centring too.

    Raises:
        InputError: as :func:`symmetry_dataset`.

    """
    cell = [crystal.lattice.tolist(), crystal.frac_coords.tolist(), crystal.atomic_numbers.tolist(), symprec]
    answer = (look_up if symprec <= TRUSTED_SYMPREC else _GUARDED.look_up)([*cell, "operations"])
    if "error" in answer:
        raise InputError(f"{crystal.name}: no space group at a tolerance of {symprec:g} A ({answer['error']})")
    return np.array(answer["rotations"], dtype=np.int64), np.array(answer["translations"], dtype=np.float64)


@dataclass(frozen=True)
class StandardCell:
    """A crystal in its space group's standard setting, one choice of origin and axes of many.

    Attributes:
        number: space group, 1 to 230.
        letters: Wyckoff letter of each of the P atoms of the primitive cell.
        atomic_numbers: (P,)
        frac_coords: (P, 3) in the conventional cell's axes.
        lattice: (3, 3) row vectors of the conventional cell in A.

    """

    number: int
    letters: tuple[str, ...]
    atomic_numbers: Int64[np.ndarray, " p"]
    frac_coords: Float64[np.ndarray, "p 3"]
    lattice: Float64[np.ndarray, "3 3"]


def standard_cell(crystal: Crystal, symprec: float) -> StandardCell:
    """The standard cell, symmetrised within ``symprec`` (A).

    Of the descriptions that the group's Euclidean normaliser makes equal, the one whose sorted list of (element,
    letter) comes first: sodium chloride always has the lighter element on a.

    Raises:
        InputError: as :func:`symmetry_dataset`.

    """
    cell = [crystal.lattice.tolist(), crystal.frac_coords.tolist(), crystal.atomic_numbers.tolist(), symprec]
    answer = _GUARDED.look_up([*cell, "standard"])
    if "error" in answer:
        raise InputError(f"{crystal.name}: no space group at a tolerance of {symprec:g} A ({answer['error']})")
    to_conventional = np.linalg.inv(primitive_coordinates(int(answer["number"])))
    linear = np.array(answer["linear"], dtype=np.float64)
    return StandardCell(
        number=int(answer["number"]),
        letters=tuple(answer["letters"]),
        atomic_numbers=np.array(answer["atomic_numbers"], dtype=np.int64),
        frac_coords=np.array(answer["frac_coords"]) @ (linear @ to_conventional).T + np.array(answer["shift"]),
        lattice=np.linalg.inv(linear).T @ np.array(answer["lattice"], dtype=np.float64),
    )


_NORMALISERS: dict[tuple[int, str], list[tuple[list[list[int]], list[float], dict[str, str]]]] = {}
"""By space group and occupied letters: transformations (linear, shift) and where they take each letter."""


def _look_up_standard(cell: list[Any]) -> dict[str, Any]:
    from moyopy import Cell, MoyoDataset, Setting

    lattice, positions, numbers, symprec = cell
    try:
        dataset = MoyoDataset(Cell(lattice, positions, numbers), symprec=symprec, setting=Setting.standard())
        letters = dataset.wyckoffs
        key = (dataset.number, "".join(sorted(set(letters))))
        # the normaliser moves positions as a whole, so what it can do depends on the occupied letters alone
        if key not in _NORMALISERS:
            _NORMALISERS[key] = _normaliser(dataset)
    except ValueError as error:
        return {"error": str(error)}
    sites = Counter(zip(numbers, letters, strict=True))

    def order(choice: tuple[Any, Any, dict[str, str]]) -> list[tuple[int, bool, str, int]]:
        # capital A, the 27th letter, comes last
        moved = [(number, choice[2][letter], -count) for (number, letter), count in sites.items()]
        return sorted((number, letter < "a", letter, count) for number, letter, count in moved)

    linear, shift, renamed = min(_NORMALISERS[key], key=order)
    primitive = dataset.prim_std_cell
    by_site = dict(zip(dataset.mapping_std_prim, letters, strict=True))
    return {
        "number": dataset.number,
        "letters": [renamed[by_site[site]] for site in range(len(primitive.numbers))],
        "atomic_numbers": primitive.numbers,
        "frac_coords": primitive.positions,
        "lattice": dataset.std_cell.basis,
        "linear": linear,
        "shift": shift,
    }


def _normaliser(dataset: Any) -> list[tuple[list[list[int]], list[float], dict[str, str]]]:  # noqa: ANN401 -- moyo's
    found = dataset.normalizer_wyckoff_positions(primitive=False)
    before = [one.letter for one in found.wyckoffs]
    return [
        (move.linear, move.origin_shift, dict(zip(before, [one.letter for one in sequence], strict=True)))
        for move, sequence in found.coset_representatives
    ]


def look_up(cell: list[Any]) -> dict[str, Any]:
    """Ask moyo; ``cell`` is lattice, coordinates, atomic numbers, tolerance, "standard" or "operations" if asked."""
    from moyopy import Cell, MoyoDataset

    if cell[4:] == ["standard"]:
        return _look_up_standard(cell[:4])
    lattice, positions, numbers, symprec = cell[:4]
    try:
        dataset = MoyoDataset(Cell(lattice, positions, numbers), symprec=symprec)
    except ValueError as error:
        return {"error": str(error)}
    if cell[4:] == ["operations"]:
        return {"rotations": dataset.operations.rotations, "translations": dataset.operations.translations}
    primitive = dataset.prim_std_cell
    return {
        "number": dataset.number,
        "to_primitive": dataset.prim_std_linear,
        "origin_shift": dataset.prim_std_origin_shift,
        "sites": dataset.mapping_std_prim,
        "atomic_numbers": primitive.numbers,
        "frac_coords": primitive.positions,
        "lattice": primitive.basis,
    }


@final
class _Guarded:
    """The process that looks up loose tolerances; begun when first needed, and again after it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.close)

    def look_up(self, cell: list[Any]) -> dict[str, Any]:
        if sys.platform == "win32":  # no limits of processor time there
            return look_up(cell)
        answer = b""
        try:
            process = self._running()
            assert process.stdin is not None  # noqa: S101 -- for the type checker: it was asked for
            assert process.stdout is not None  # noqa: S101
            process.stdin.write(json.dumps(cell).encode() + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            pass
        except BaseException:
            # Ctrl-C between question and answer: the answer would be taken for the next one's
            self.close()
            raise
        if not answer.endswith(b"\n"):
            self.close()
            return {"error": f"moyo found no end in {CPU_SECONDS} s"}
        return dict(json.loads(answer))

    def _running(self) -> subprocess.Popen[bytes]:
        # a forked child must not share its parent's
        if self._process is None or self._owner != os.getpid():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dao.geometry.symmetry"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
            self._owner = os.getpid()
        return self._process

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                # closing flushes, and there may be nobody to read it
                with suppress(OSError):
                    pipe.close()
        process.wait()


_GUARDED = _Guarded()


def _serve() -> None:
    """Answer lines of JSON until there are no more."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    for line in sys.stdin:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + CPU_SECONDS, hard))
        print(json.dumps(look_up(json.loads(line))), flush=True)  # noqa: T201 -- the answer to the parent


if __name__ == "__main__":
    _serve()
