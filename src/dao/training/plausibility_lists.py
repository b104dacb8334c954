"""What the judge of candidates learns from: what prototypes propose for known crystals, and which of it is right.

A table proposes for the composition of a crystal as if it had never seen it, so that it may be a table of these very
crystals. Right is what matches the crystal by the benchmark's matcher. A list without a right candidate, or without a
wrong one, has nothing to teach.

Proposing comes after training in the order of the house; of :mod:`dao.prediction` only what knows no models is used.

Shapes: L lists, C candidates of all of them, B candidates of a batch, K most candidates of a list.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dao.crystal import Crystal, CrystalBatch
from dao.data.locate import data_folder, training_file
from dao.data.store import PackedCrystals
from dao.data.training_set import load_packed
from dao.errors import InputError
from dao.evaluation.matching import match_pairs
from dao.geometry.cells import niggli_reduce
from dao.jsonl import JsonLines
from dao.prediction.prototypes import Proposer
from dao.prediction.sources import resolve_table
from dao.progress import CountProgress

if TYPE_CHECKING:
    from dao.recipes.schema import PlausibilitySource

ENERGY = "e_above_hull"

VERSION = 1
"""Raised when the same crystals would get other lists: files written before are not read."""

MATCH_SECONDS = 5.0
"""Time limit of a comparison; a candidate without an answer is left out of its list."""

PORTION = 32
"""Crystals whose lists are written at a time: what a kill loses."""

STEPS = 65536
"""Fractional coordinates are kept as multiples of 1 / this, 0.3 mA in a cell of 20 A."""

PAD_MULTIPLE = 2
"""Batches are padded to a multiple of so many atoms."""


@dataclass(frozen=True)
class ListBatch:
    """Candidates of some lists, end to end.

    Attributes:
        crystals: B of them.
        right: which match.
        places: where in the batch each list's candidates are, -1 where it has fewer than K.
        first: where in the batch the first candidate of the same list is.

    """

    crystals: CrystalBatch
    right: Bool[Tensor, " b"]
    places: Int[Tensor, "l k"]
    first: Int[Tensor, " b"]


@dataclass(frozen=True)
class CandidateLists:
    """Lists of candidates, those of one list next to each other and all of the same composition.

    Attributes:
        crystals: C candidates in their Niggli cells, those of the most similar known crystals first in each list.
        right: (C,) which match.
        offsets: (L + 1,) where each list starts.

    """

    crystals: PackedCrystals
    right: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Count lists."""
        return len(self.offsets) - 1

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(L,) atoms of a cell of each list."""
        return self.crystals.num_atoms.cpu().numpy()[self.offsets[:-1]]

    @property
    def digest(self) -> str:
        """Short hash of everything."""
        return _digest(self.crystals, self.right.tobytes(), self.offsets.tobytes())

    def batch(self, lists: npt.NDArray[np.int64], most: int) -> ListBatch:
        """Up to ``most`` candidates of each list: its first ones and, where none of them is right, the first that is.

        Args:
            lists: their numbers.
            most: candidates of a list, at least 2.

        """
        rows: list[int] = []
        places = np.full((len(lists), most), -1)
        first: list[int] = []
        for i, number in enumerate(lists.tolist()):
            start, end = self.offsets[number : number + 2].tolist()
            chosen = list(range(start, min(end, start + most)))
            if not self.right[chosen].any():
                chosen[-1] = start + int(self.right[start:end].argmax())
            places[i, : len(chosen)] = np.arange(len(rows), len(rows) + len(chosen))
            first += [len(rows)] * len(chosen)
            rows += chosen
        device = self.crystals.offsets.device
        index = torch.tensor(rows, device=device)
        largest = int(self.sizes[lists].max())
        return ListBatch(
            self.crystals.batch(index, -(-largest // PAD_MULTIPLE) * PAD_MULTIPLE),
            torch.from_numpy(self.right[rows]).to(device),
            torch.from_numpy(places).to(device),
            torch.tensor(first, device=device),
        )


@dataclass(frozen=True)
class KnownCrystals:
    """A source that has been read.

    Attributes:
        name: of the source.
        file: what was read.
        crystals: in random order.
        count: for how many of them, from the first, lists are made.
        table: file of the prototypes.
        proposer: of that table.
        proposals: most candidates of a crystal.

    """

    name: str
    file: Path
    crystals: PackedCrystals
    count: int
    table: Path
    proposer: Proposer
    proposals: int


def read_sources(
    sources: Mapping[str, PlausibilitySource], data: Path | None, seed: int, note: Callable[[str], None]
) -> list[KnownCrystals]:
    """Read the crystals of all sources; nothing is written.

    Args:
        sources: by name.
        data: the folder that holds their files; of a single source also the file itself. Default: the data folder.
        seed: of the order of the crystals.
        note: told, in one line each, what is left out.

    Raises:
        InputError: a missing or unfit file or table, or no crystal of the sizes and energies asked for.

    """
    found = []
    for position, (name, source) in enumerate(sources.items()):
        table = resolve_table(source.table)
        proposer = Proposer.load(table)
        path = _file(source.file, data, alone=len(sources) == 1)
        labels = (ENERGY,) if source.max_e_above_hull is not None else ()
        packed = load_packed(
            path, split=source.train_split, max_atoms=source.max_atoms, split_optional=True, labels=labels, note=note
        )
        keep = packed.num_atoms >= source.min_atoms
        if source.max_e_above_hull is not None:
            # unknown ones are kept
            keep &= ~(packed.labels[ENERGY] > source.max_e_above_hull)
        rows = np.random.default_rng((seed, position)).permutation(keep.nonzero()[:, 0].numpy())
        if not len(rows):
            of_energy = f" and at most {source.max_e_above_hull:g} eV/atom above the hull" if labels else ""
            raise InputError(f"{path} has no crystal of {source.min_atoms} to {source.max_atoms} atoms{of_energy}")
        crystals = packed.select(torch.from_numpy(rows))
        count = min(len(crystals), source.count or len(crystals))
        found.append(KnownCrystals(name, path, crystals, count, table, proposer, source.proposals))
    return found


def _file(name: str, data: Path | None, *, alone: bool) -> Path:
    if alone:
        return training_file(name, data)
    if data is not None and data.is_file():
        raise InputError(f"--data {str(data)!r}: the recipe reads several files, give the folder that holds them")
    path = (data_folder() if data is None else data) / name
    if not path.exists():
        hint = " (set DAO_DATA or give --data)" if data is None else ""
        raise InputError(f"training data {path}: no such file{hint}")
    return path


def candidate_lists(
    sources: Sequence[KnownCrystals], folder: Path, *, progress: bool, note: Callable[[str], None]
) -> CandidateLists:
    """Lists of all sources, kept in ``folder``: what is there already is not made again.

    Args:
        sources: of :func:`read_sources`.
        folder: holds a file a source, whose name tells crystals, table and number of proposals.
        progress: show a progress bar on stderr.
        note: told, in one line each, how many lists a source gave.

    Raises:
        InputError: no list has both right and wrong candidates, or a folder that cannot be written.

    """
    every: list[_List] = []
    for source in sources:
        found = _lists_of(source, folder, progress=progress)
        taught = [one for one in found if one is not None]
        note(f"{source.name}: {len(taught)} of {len(found)} crystals have both right and wrong candidates")
        every += taught
    if not every:
        raise InputError("no crystal has both right and wrong candidates: there is nothing to learn from")
    return _packed(every)


@dataclass(frozen=True)
class _List:
    """Candidates of one crystal, all of N atoms."""

    right: npt.NDArray[np.bool_]  # (C,)
    atomic_numbers: npt.NDArray[np.uint8]  # (C, N)
    frac_coords: npt.NDArray[np.uint16]  # (C, N, 3) in units of 1 / STEPS
    lattice: npt.NDArray[np.float32]  # (C, 3, 3)


def _lists_of(source: KnownCrystals, folder: Path, *, progress: bool) -> list[_List | None]:
    """One a crystal; None where there is nothing to learn from it."""
    made_by = {
        "version": VERSION,
        "crystals": _digest(source.crystals),
        "table": hashlib.sha256(source.table.read_bytes()).hexdigest()[:16],
        "proposals": source.proposals,
    }
    digest = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:12]
    lines = JsonLines(folder / f"lists-{digest}.jsonl", made_by, "lists of candidates")
    found = lines.read(_parsed)[: source.count]
    if len(found) == source.count:
        return found
    what = f"candidates for {source.name}"
    with CountProgress(source.count, len(found), enabled=progress, what=what, of="crystals") as bar:
        while len(found) < source.count:
            rows = range(len(found), min(source.count, len(found) + PORTION))
            made = [_line(source.crystals.crystal(row), source.proposer, source.proposals) for row in rows]
            lines.append(made)
            found += map(_parsed, made)
            bar.advance(len(made))
    return found


def _line(target: Crystal, proposer: Proposer, count: int) -> list[Any]:
    """What is kept of a crystal's candidates: which are right and, where there is something to learn, all of them."""
    numbers = target.atomic_numbers.tolist()
    proposals = proposer.propose(numbers, count, exclude_same_composition=True)
    cells = [cell for one in proposals if (cell := _reduced(one.crystal)) is not None]
    matches = match_pairs(cells, [target], [(i, 0) for i in range(len(cells))], seconds=MATCH_SECONDS)
    answered = [one for one in sorted(matches, key=lambda one: one.prediction) if not one.timed_out]
    right = [one.rms is not None for one in answered]
    if not any(right) or all(right):
        return [[int(one) for one in right]]
    kept = [cells[one.prediction] for one in answered]
    coords = np.stack([np.rint(one.frac_coords * STEPS).astype(np.int64) % STEPS for one in kept])
    arrays = (
        np.stack([one.atomic_numbers for one in kept]).astype("<u1"),
        coords.astype("<u2"),
        np.stack([one.lattice for one in kept]).astype("<f4"),
    )
    return [[int(one) for one in right], *(base64.b64encode(one.tobytes()).decode() for one in arrays)]


def _reduced(crystal: Crystal) -> Crystal | None:
    try:
        return niggli_reduce(crystal)
    except InputError:
        return None


def _parsed(line: list[Any]) -> _List | None:
    right = np.array(line[0], dtype=bool)
    if len(line) == 1:
        return None
    numbers, coords, lattice = (base64.b64decode(text, validate=True) for text in line[1:])
    count = len(right)
    return _List(
        right,
        np.frombuffer(numbers, "<u1").reshape(count, -1),
        np.frombuffer(coords, "<u2").reshape(count, -1, 3),
        np.frombuffer(lattice, "<f4").reshape(count, 3, 3),
    )


def _packed(lists: Sequence[_List]) -> CandidateLists:
    counts = np.concatenate([np.full(len(one.right), one.atomic_numbers.shape[1]) for one in lists])
    coords = np.concatenate([one.frac_coords.reshape(-1, 3) for one in lists]).astype(np.float32) / STEPS
    crystals = PackedCrystals(
        atomic_numbers=torch.from_numpy(np.concatenate([one.atomic_numbers.ravel() for one in lists])),
        frac_coords=torch.from_numpy(coords),
        lattice=torch.from_numpy(np.concatenate([one.lattice for one in lists]).astype(np.float32)),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
        ids=tuple(map(str, range(len(counts)))),
        columns={},
    )
    offsets = np.concatenate([[0], np.cumsum([len(one.right) for one in lists])])
    return CandidateLists(crystals, np.concatenate([one.right for one in lists]), offsets)


def _digest(crystals: PackedCrystals, *more: bytes) -> str:
    digest = hashlib.sha256()
    for name in ("atomic_numbers", "frac_coords", "lattice", "offsets"):
        digest.update(getattr(crystals, name).cpu().contiguous().numpy().tobytes())
    for one in more:
        digest.update(one)
    return digest.hexdigest()[:16]
