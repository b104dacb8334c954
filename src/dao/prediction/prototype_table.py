"""Prototypes: kinds of structures without their elements, the elements seen in each, and the file that holds them.

A prototype is a space group, its occupied Wyckoff positions with their free coordinates, the shape of the cell, and
which elements were seen on which slot, how often, and at what volume. What a table was built from stands in its record,
and so does the grid that its values were coarsened to (:mod:`dao.prediction.prototype_grid`). Files are safetensors;
neither torch nor pymatgen is imported.

Shapes: T prototypes, S slots (elements) of one, K orbits of one, M element sets seen in one, E elements.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dao.constants import MAX_ATOMIC_NUMBER
from dao.crystal import Crystal
from dao.errors import InputError
from dao.geometry.wyckoff import SPACE_GROUPS, operations, wyckoff_positions
from dao.prediction.prototype_grid import GRID, from_grid, to_grid

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Counts = tuple[int, ...]
"""Atoms on each slot, rising: what ABC3 and two formula units are together, (2, 2, 6)."""

FORMAT = "dao prototypes 2"

GRID_RECORD = "grid"
"""Where the record of a table says on which grid its values lie; not there where they are exact."""

_ROWS, _COLUMNS = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)
_ORDER = np.array([[0, 3, 4], [3, 1, 5], [4, 5, 2]])


@dataclass(frozen=True, eq=False)
class Prototype:
    """One kind of structure.

    Attributes:
        space_group: 1 to 230.
        amounts: (S,) atoms on each slot in the primitive cell, rising.
        orbits: K of (slot, Wyckoff letter).
        free_coords: (K, 3) free coordinates of each orbit.
        metric: (6,) entries 11, 22, 33, 12, 13, 23 of L L^T of the primitive cell at a volume of 1 per atom.
        elements: (M, S) atomic numbers seen on the slots.
        members: (M,) how many known crystals each set stands for.
        volume_ratios: (M,) their mean volume, in units of what the per-element volumes say.

    """

    space_group: int
    amounts: Integers
    orbits: tuple[tuple[int, str], ...]
    free_coords: Floats
    metric: Floats
    elements: Integers
    members: Integers
    volume_ratios: Floats

    def crystal(self, elements: Integers, volume: float) -> Crystal:
        """A crystal of this kind whose symmetry is exact to rounding.

        Args:
            elements: (S,) atomic number of each slot.
            volume: of the primitive cell, A^3.

        """
        known = {one.letter: one for one in wyckoff_positions(self.space_group)}
        positions = [known[letter] for _, letter in self.orbits]
        numbers = np.repeat([elements[slot] for slot, _ in self.orbits], [one.multiplicity for one in positions])
        coords = [one.expand(free) for one, free in zip(positions, self.free_coords, strict=True)]
        lattice = np.linalg.cholesky(symmetric_metric(self.space_group, self.metric))
        lattice *= np.cbrt(volume / abs(np.linalg.det(lattice)))
        return Crystal(numbers, np.concatenate(coords), lattice)

    @property
    def formula(self) -> str:
        """Anonymous formula of the cell, the commonest slot last: ``ABC3``."""
        return "".join(f"{chr(65 + i)}{n if n > 1 else ''}" for i, n in enumerate(self.amounts.tolist()))

    @property
    def example(self) -> str:
        """Formula of the set that most crystals were seen with, in the order of the slots."""
        elements = self.elements[int(self.members.argmax())]
        return formula_of(elements.tolist(), self.amounts.tolist())


def formula_of(elements: Iterable[int], amounts: Iterable[int]) -> str:
    """The smallest formula, by rising electronegativity."""
    from dao.prediction.composition import Composition

    return Composition.from_counts(dict(zip(elements, amounts, strict=True))).reduced_formula


def symmetric_metric(space_group: int, metric: Floats) -> Floats:
    """(3, 3) metric of a primitive cell, averaged over the group's rotations so that it has them exactly."""
    full = metric[_ORDER]
    rotations, _ = operations(space_group)
    return np.asarray((rotations.transpose(0, 2, 1) @ full @ rotations).mean(0))


def metric_of(lattice: Floats, num_atoms: int) -> Floats:
    """(6,) of a primitive cell (A), scaled to a volume of 1 per atom."""
    scaled = lattice / np.cbrt(abs(np.linalg.det(lattice)) / num_atoms)
    return (scaled @ scaled.T)[_ROWS, _COLUMNS]


@dataclass(frozen=True, eq=False)
class PrototypeTable:
    """Prototypes as the arrays that lie in the file; :meth:`prototype` reads one of them.

    Attributes:
        record: what it was built from and how, plain JSON.
        atomic_volumes: (E,) A^3 per element fitted to the crystals it was built from.
        arrays: by name. Of T prototypes ``space_group`` and ``metric`` (T, 6); ``slot_first``, ``orbit_first`` and
            ``set_first`` (T + 1,) say where their slots (``amounts``), orbits (``orbit_slot``, ``orbit_position``,
            ``free_coords``) and sets (``members``, ``volume_ratio``) begin; ``elements`` are all sets end to end.

    """

    record: dict[str, Any]
    atomic_volumes: Floats
    arrays: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.arrays["space_group"])

    @classmethod
    def pack(cls, prototypes: Iterable[Prototype], atomic_volumes: Floats, record: dict[str, Any]) -> PrototypeTable:
        """Table of these prototypes in this order."""
        every = list(prototypes)
        letters = {n: {p.letter: i for i, p in enumerate(wyckoff_positions(n))} for n in {p.space_group for p in every}}
        orbits = [(slot, letters[one.space_group][letter]) for one in every for slot, letter in one.orbits]

        def first(lengths: Iterable[int]) -> npt.NDArray[Any]:
            return np.concatenate([[0], np.cumsum(list(lengths))]).astype(np.int32)

        arrays: dict[str, npt.NDArray[Any]] = {
            "space_group": np.array([one.space_group for one in every], dtype=np.uint8),
            "metric": np.array([one.metric for one in every], dtype=np.float32),
            "slot_first": first(len(one.amounts) for one in every),
            "amounts": np.concatenate([one.amounts for one in every]).astype(np.int16),
            "orbit_first": first(len(one.orbits) for one in every),
            "orbit_slot": np.array([slot for slot, _ in orbits], dtype=np.uint8),
            "orbit_position": np.array([position for _, position in orbits], dtype=np.uint8),
            "free_coords": np.concatenate([one.free_coords for one in every]).astype(np.float32),
            "set_first": first(len(one.elements) for one in every),
            "elements": np.concatenate([one.elements.ravel() for one in every]).astype(np.uint8),
            "members": np.concatenate([one.members for one in every]).astype(np.int32),
            "volume_ratio": np.concatenate([one.volume_ratios for one in every]).astype(np.float32),
        }
        return cls(record, atomic_volumes, arrays)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of all that proposals depend on."""
        digest = hashlib.sha256(self.atomic_volumes.tobytes())
        for name in sorted(self.arrays):
            digest.update(name.encode() + self.arrays[name].tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def groups(self) -> dict[Counts, Integers]:
        """Numbers of the prototypes by the atoms on their slots."""
        slots = np.diff(self.arrays["slot_first"])
        amounts = np.zeros((len(self), int(slots.max())), dtype=np.int16)
        amounts[np.arange(amounts.shape[1]) < slots[:, None]] = self.arrays["amounts"]
        # tables are sorted by them, so there are few runs
        starts = np.flatnonzero(np.append(True, (amounts[1:] != amounts[:-1]).any(1))).tolist()
        found: dict[Counts, list[Integers]] = {}
        for start, end in zip(starts, [*starts[1:], len(self)], strict=True):
            found.setdefault(tuple(amounts[start, : slots[start]].tolist()), []).append(np.arange(start, end))
        return {counts: np.concatenate(runs) for counts, runs in found.items()}

    def sets(self, number: int) -> Integers:
        """(M, S) element sets of one prototype."""
        slots = self._slots(number)
        starts, first = self._element_first, self.arrays["set_first"]
        count = int(first[number + 1] - first[number])
        start = int(starts[number])
        return self.arrays["elements"][start : start + count * slots].reshape(count, slots).astype(np.int64)

    def members(self, number: int) -> Integers:
        """(M,) known crystals of each element set of one prototype."""
        first = self.arrays["set_first"]
        return self.arrays["members"][int(first[number]) : int(first[number + 1])].astype(np.int64)

    def prototype(self, number: int) -> Prototype:
        """One of the T."""
        arrays = self.arrays
        slots, orbits, sets = (
            slice(int(arrays[name][number]), int(arrays[name][number + 1]))
            for name in ("slot_first", "orbit_first", "set_first")
        )
        group = int(arrays["space_group"][number])
        letters = [one.letter for one in wyckoff_positions(group)]
        places = zip(arrays["orbit_slot"][orbits].tolist(), arrays["orbit_position"][orbits].tolist(), strict=True)
        return Prototype(
            space_group=group,
            amounts=arrays["amounts"][slots].astype(np.int64),
            orbits=tuple((slot, letters[position]) for slot, position in places),
            free_coords=arrays["free_coords"][orbits].astype(np.float64),
            metric=arrays["metric"][number].astype(np.float64),
            elements=self.sets(number),
            members=arrays["members"][sets].astype(np.int64),
            volume_ratios=arrays["volume_ratio"][sets].astype(np.float64),
        )

    def joined(self, other: PrototypeTable) -> PrototypeTable:
        """With the prototypes of another table after its own, and their volumes in its own units."""
        change = other.set_volumes(other.atomic_volumes) / other.set_volumes(self.atomic_volumes)
        theirs = {**other.arrays, "volume_ratio": (other.arrays["volume_ratio"] * change).astype(np.float32)}
        arrays = {
            key: np.concatenate([mine, theirs[key][1:] + mine[-1] if key.endswith("_first") else theirs[key]])
            for key, mine in self.arrays.items()
        }
        record = {**self.record, "joined": [*self.record.get("joined", []), other.record]}
        return PrototypeTable(record, self.atomic_volumes, arrays)

    def set_volumes(self, atomic_volumes: Floats) -> Floats:
        """Of a primitive cell of each element set of all prototypes, from volumes per element (A^3)."""
        arrays = self.arrays
        prototypes = np.repeat(np.arange(len(self)), np.diff(arrays["set_first"]))
        slots = np.diff(arrays["slot_first"])[prototypes]
        first = np.concatenate([[0], np.cumsum(slots)[:-1]])
        # the slot of every element: those of a prototype, once for each of its sets
        places = np.arange(int(slots.sum())) + np.repeat(arrays["slot_first"][prototypes] - first, slots)
        return np.asarray(np.add.reduceat(atomic_volumes[arrays["elements"]] * arrays["amounts"][places], first))

    def coarsened(self) -> PrototypeTable:
        """With its values on a grid, from which no crystal that it was built from can be read back."""
        arrays = from_grid(to_grid(self.arrays, GRID), GRID)
        return PrototypeTable({**self.record, GRID_RECORD: GRID}, self.atomic_volumes, arrays)

    def _slots(self, number: int) -> int:
        first = self.arrays["slot_first"]
        return int(first[number + 1] - first[number])

    @cached_property
    def _element_first(self) -> Integers:
        sizes = np.diff(self.arrays["slot_first"]).astype(np.int64) * np.diff(self.arrays["set_first"])
        return np.concatenate([[0], np.cumsum(sizes)])

    def save(self, path: Path) -> None:
        """Write the file, at once or not at all.

        Raises:
            InputError: it cannot be written.

        """
        from safetensors.numpy import save_file

        part = path.with_name(f".{path.name}.part")
        metadata = {"format": FORMAT, "record": json.dumps(self.record, sort_keys=True)}
        grid = self.record.get(GRID_RECORD)
        arrays = self.arrays if grid is None else to_grid(self.arrays, grid)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({**arrays, "atomic_volumes": self.atomic_volumes}, part, metadata)
            part.replace(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None

    @classmethod
    def load(cls, path: Path) -> PrototypeTable:
        """Read a file that :meth:`save` wrote.

        Raises:
            InputError: missing, or no such file.

        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise InputError(f"{path}: not a table of prototypes as this version writes them ({FORMAT})")
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- it is no dictionary
            record, volumes = dict(json.loads(metadata["record"])), arrays.pop("atomic_volumes")
            grid = record.get(GRID_RECORD)
            table = cls(record, volumes, arrays if grid is None else from_grid(arrays, grid))
            table._check()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from None
        except (SafetensorError, KeyError, ValueError, IndexError, TypeError) as error:
            raise InputError(f"{path}: not a table of prototypes ({error})") from None
        return table

    def _check(self) -> None:
        """Refuse arrays that do not fit each other.

        Raises:
            ValueError: says which.

        """
        arrays, total = self.arrays, len(self)
        if total == 0 or self.atomic_volumes.shape != (MAX_ATOMIC_NUMBER + 1,):
            raise ValueError("no prototypes or no volumes")
        owned = {
            "slot_first": ("amounts",),
            "orbit_first": ("orbit_slot", "orbit_position", "free_coords"),
            "set_first": ("members", "volume_ratio"),
        }
        for name, others in owned.items():
            first = arrays[name]
            if first.shape != (total + 1,) or first[0] != 0 or (np.diff(first) < 1).any():
                raise ValueError(name)
            wrong = [other for other in others if len(arrays[other]) != first[-1]]
            if wrong:
                raise ValueError(wrong[0])
        elements, groups = arrays["elements"], arrays["space_group"]
        slots = np.repeat(np.diff(arrays["slot_first"]), np.diff(arrays["orbit_first"]))
        floats = (arrays["metric"], arrays["free_coords"], arrays["volume_ratio"], self.atomic_volumes)
        fits = {
            "metric": arrays["metric"].shape == (total, 6),
            "free_coords": arrays["free_coords"].shape[1:] == (3,),
            "elements": len(elements) == self._element_first[-1]
            and 1 <= elements.min() <= elements.max() <= MAX_ATOMIC_NUMBER,
            "space_group": 1 <= groups.min() <= groups.max() <= SPACE_GROUPS,
            "orbit_slot": bool((arrays["orbit_slot"] < slots).all()),
            "members": min(arrays["members"].min(), arrays["amounts"].min()) >= 1,
            "volumes": min(self.atomic_volumes[1:].min(), arrays["volume_ratio"].min()) > 0.0,
            "a number that is not finite": all(bool(np.isfinite(values).all()) for values in floats),
        }
        for name, good in fits.items():
            if not good:
                raise ValueError(name)


def commonest(table: PrototypeTable, count: int) -> list[dict[str, Any]]:
    """The prototypes of most crystals as plain JSON."""
    first = table.arrays["set_first"]
    members = np.add.reduceat(table.arrays["members"], first[:-1])
    rows = []
    for number in np.argsort(-members, kind="stable")[:count].tolist():
        one = table.prototype(number)
        rows.append(
            {
                "formula": one.formula,
                "space_group_number": one.space_group,
                "positions": " ".join(f"{chr(65 + slot)}:{letter}" for slot, letter in one.orbits),
                "members": int(members[number]),
                "element_sets": len(one.elements),
                "example": one.example,
            }
        )
    return rows
