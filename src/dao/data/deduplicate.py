"""Training data without the crystals of benchmarks: Algorithm 2 of the paper (section 2.5), with filters before it.

A crystal is dropped if its material id is that of a reference, or if it matches a reference of the same reduced
formula. Here a match is what the benchmarks count as one, ``StructureMatcher.get_rms_dist``. Algorithm 2 has the
narrower ``fit``, which bounds the farthest atom instead of the RMS distance, so all that it drops is dropped here too.

The source is read three times, some thousand rows at a time (to judge its rows, to compare, to copy), so memory does
not grow with it; :mod:`dao.data.deduplicate_self`, which compares it with itself, holds it packed. Comparisons are kept
on disk as they come: a killed run goes on, and other filters find them done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dao.constants import MATCHER_ANGLE_TOL, MATCHER_LTOL
from dao.crystal import Crystal
from dao.data.deduplicate_rows import ENERGY, Fate, Filters, References, Report, read_references
from dao.data.deduplicate_self import repeated_rows
from dao.data.sources import read_parquet
from dao.data.sources.failures import reading
from dao.data.uniform import COLUMNS, as_parquet, file_hash
from dao.errors import InputError
from dao.jsonl import JsonLines
from dao.progress import CountProgress

if TYPE_CHECKING:
    from dao.evaluation.matching import Match

STOL = 0.1
"""Algorithm 2's tolerance, in units of (V/N)^(1/3); ltol and angle_tol are the benchmark's."""

EVERYTHING = Filters()

_AT_ONCE = 16384
"""Crystals compared, and rows copied, at a time: some 20 MB."""

_FLUSH = 5.0
"""Seconds of comparisons that a kill may cost."""

__all__ = ["STOL", "Fate", "Filters", "References", "Report", "deduplicate", "read_references"]

Found = list[tuple[int, float | None]]
"""Of one crystal: each reference that it matches with the RMS distance, or that it timed out on with None."""


def deduplicate(
    source: Path,
    references: Sequence[References],
    out: Path,
    *,
    stol: float = STOL,
    filters: Filters = EVERYTHING,
    itself: bool = False,
    work: Path | None = None,
    workers: int = 1,
    seconds: float = 10.0,
    progress: bool = False,
) -> Report:
    """Write the crystals of ``source`` that pass the filters and are in no reference set, and of equals one.

    ``out`` receives the uniform columns and all labels of the source, in its order; beside it, the report as JSON.
    Both appear when all is done. The same command goes on where it was stopped.

    Args:
        source: whatever :func:`dao.data.sources.read_crystals` knows; other kinds than Parquet are held in memory.
        references: what to keep out of the training data.
        out: the Parquet file to write.
        stol: of StructureMatcher, in units of (V/N)^(1/3).
        filters: applied first; what they drop is not compared.
        itself: of the crystals that are left, drop each whose id or structure is that of one before it.
        work: folder for the comparisons, which stays, so that runs with other filters can use them; by default one
            beside ``out`` that is removed in the end.
        workers: processes that compare.
        seconds: time limit of each reduction and each search; a crystal that exceeds it counts as a duplicate.
        progress: show a bar on stderr.

    Raises:
        InputError: unreadable or malformed data, nothing left by the filters, or comparisons in ``work`` that were made
            with something else. Nothing has been written by then. Or a folder that cannot be written.

    """
    from dao.evaluation.matching import match_pairs
    from dao.evaluation.matching_search import Tolerances

    everyone = [one for each in references for one in each.crystals]
    tolerances = (Tolerances(stol, MATCHER_LTOL, MATCHER_ANGLE_TOL),)
    match = partial(match_pairs, references=everyone, workers=workers, seconds=seconds, tolerances=tolerances)
    folder = out.with_name(f"{out.name}.work") if work is None else work
    with as_parquet(source) as path:
        made_by = {"source": file_hash(path), "references": _hash_of(everyone), "stol": stol, "time limit": seconds}
        lines = JsonLines(folder / "comparisons.jsonl", made_by, "comparisons")
        done = dict(lines.read(lambda line: _parsed(line, len(everyone))))
        rows = _judge(path, source, everyone, filters)
        todo = {row for row in rows.candidates if row not in done}
        count = len(rows.candidates)
        with CountProgress(count, count - len(todo), enabled=progress, what="comparing", of="crystals") as bar:
            _compare(path, todo, everyone, match, _Keeper(lines, done, bar))
        for row in rows.candidates:
            if done[row]:
                matched = any(rms is not None for _, rms in done[row])
                rows.fates[row] = Fate.STRUCTURE if matched else Fate.TIMED_OUT
        if itself:
            left = np.flatnonzero(rows.fates == Fate.KEPT).tolist()
            comparing = partial(repeated_rows, tolerances=tolerances, workers=workers, seconds=seconds)
            rows.fates[comparing(path, left, folder, made_by, progress=progress)] = Fate.REPEATED
        settings = {
            "source": str(source),
            "itself": itself,
            "stol": stol,
            "ltol": MATCHER_LTOL,
            "angle_tol": MATCHER_ANGLE_TOL,
        }
        report = Report(
            settings={**settings, "seconds": seconds, **asdict(filters)},
            rows_in=len(rows.fates),
            dropped={fate.name.lower(): int((rows.fates == fate).sum()) for fate in Fate if fate != Fate.KEPT},
            rows_out=int((rows.fates == Fate.KEPT).sum()),
            references=_by_references(rows, references, done),
        )
        _write(path, rows.fates == Fate.KEPT, out, report)
    if work is None:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _hash_of(crystals: Iterable[Crystal]) -> str:
    digest = hashlib.sha256()
    for crystal in crystals:
        for array in (crystal.atomic_numbers, crystal.frac_coords, crystal.lattice):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _parsed(line: Any, references: int) -> tuple[int, Found]:  # noqa: ANN401 -- what JSON holds
    row, found = line
    if row < 0 or not all(0 <= number < references for number, _ in found):
        raise ValueError
    return int(row), [(int(number), None if rms is None else float(rms)) for number, rms in found]


@dataclass
class _Rows:
    """The rows of the source.

    Attributes:
        fates: (M,) :class:`Fate` of each.
        candidates: rows to compare.
        by_id: row -> number of each reference with its id.

    """

    fates: npt.NDArray[np.uint8]
    candidates: list[int]
    by_id: dict[int, list[int]]


def _judge(path: Path, source: Path, everyone: Sequence[Crystal], filters: Filters) -> _Rows:
    """Read every row, so that whatever is malformed shows before anything is written."""
    from dao.evaluation.matching import reduced_composition

    with reading(str(source)):
        present = pq.read_schema(path).names
    needed = [*COLUMNS, *([ENERGY] if filters.max_e_above_hull is not None else [])]
    missing = [name for name in needed if name not in present]
    if missing:
        raise InputError(f"{source}: no column {missing[0]!r}")
    ids: dict[str, list[int]] = defaultdict(list)
    for number, reference in enumerate(everyone):
        if reference.material_id is not None:
            ids[reference.material_id].append(number)
    compositions = {reduced_composition(reference) for reference in everyone}
    fates: list[Fate] = []
    candidates: list[int] = []
    by_id: dict[int, list[int]] = {}
    for row, crystal in enumerate(read_parquet(path, columns=[ENERGY] if ENERGY in needed else [])):
        fate = filters.fate(crystal)
        if fate == Fate.KEPT and crystal.name in ids:
            fate, by_id[row] = Fate.ID, ids[crystal.name]
        elif fate == Fate.KEPT and reduced_composition(crystal) in compositions:
            candidates.append(row)
        fates.append(fate)
    if not {Fate.KEPT, Fate.ID} & set(fates):
        raise InputError(f"{source}: no crystal passes the filters")
    return _Rows(np.array(fates, dtype=np.uint8), candidates, by_id)


class _Keeper:
    """Puts the answers of a crystal together, and on the disk every few seconds."""

    def __init__(self, lines: JsonLines, done: dict[int, Found], bar: CountProgress) -> None:
        self.done = done
        self._lines = lines
        self._bar = bar
        self._open: dict[int, Found] = {}
        self._left: dict[int, int] = {}
        self._unwritten: list[tuple[int, Found]] = []
        self._written = time.monotonic()

    def expect(self, row: int, answers: int) -> None:
        """A crystal is compared with so many references."""
        self._open[row], self._left[row] = [], answers

    def note(self, row: int, match: Match) -> None:
        """One of its answers."""
        if match.timed_out or match.rms is not None:
            self._open[row].append((match.reference, match.rms))
        self._left[row] -= 1
        if self._left[row] == 0:
            self.done[row] = sorted(self._open.pop(row))
            self._unwritten.append((row, self.done[row]))
            self._bar.advance(1)
        if time.monotonic() - self._written > _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write what is whole."""
        self._lines.append(self._unwritten)
        self._unwritten, self._written = [], time.monotonic()


def _compare(
    path: Path, todo: set[int], everyone: Sequence[Crystal], match: Callable[..., list[Match]], keeper: _Keeper
) -> None:
    """Compare these rows with the references of their composition."""
    from dao.evaluation.matching import reduced_composition

    members: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for number, reference in enumerate(everyone):
        members[reduced_composition(reference)].append(number)
    chosen = ((row, crystal) for row, crystal in enumerate(read_parquet(path)) if row in todo)
    while some := list(islice(chosen, _AT_ONCE)):
        rows, crystals = [row for row, _ in some], [crystal for _, crystal in some]
        partners = [members[reduced_composition(crystal)] for crystal in crystals]
        for row, numbers in zip(rows, partners, strict=True):
            keeper.expect(row, len(numbers))
        pairs = [(index, number) for index, numbers in enumerate(partners) for number in numbers]
        try:
            match(crystals, pairs=pairs, on_match=lambda one, rows=rows: keeper.note(rows[one.prediction], one))
        finally:
            keeper.flush()


def _by_references(
    rows: _Rows, references: Sequence[References], done: Mapping[int, Found]
) -> list[dict[str, str | int]]:
    """Of each set, the rows that it alone would have had dropped."""
    owner = [index for index, each in enumerate(references) for _ in each.crystals]
    counts: list[Counter[str]] = [Counter() for _ in references]
    for numbers in rows.by_id.values():
        for index in {owner[number] for number in numbers}:
            counts[index]["id"] += 1
    for row in rows.candidates:
        matched = {owner[number] for number, rms in done[row] if rms is not None}
        for index in {owner[number] for number, _ in done[row]}:
            counts[index]["structure" if index in matched else "timed_out"] += 1
    return [
        {
            "name": each.name,
            "crystals": len(each.crystals),
            **{why: count[why] for why in ("id", "structure", "timed_out")},
        }
        for each, count in zip(references, counts, strict=True)
    ]


def _write(path: Path, kept: npt.NDArray[np.bool_], out: Path, report: Report) -> None:
    """Copy the rows that are kept, then show them and the report at once."""
    record = out.with_suffix(".json")
    parts = {file: file.with_name(f".{file.name}.part") for file in (out, record)}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        parquet = pq.ParquetFile(path)
        first = 0
        with pq.ParquetWriter(parts[out], parquet.schema_arrow, compression="zstd") as writer:
            for batch in parquet.iter_batches(batch_size=_AT_ONCE):
                writer.write_batch(batch.filter(pa.array(kept[first : first + batch.num_rows])))
                first += batch.num_rows
        parts[record].write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
        for file, part in parts.items():
            part.replace(file)
    except OSError as error:
        raise InputError(f"{out.parent}: cannot be written ({error.strerror})") from None
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
