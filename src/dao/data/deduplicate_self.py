"""Crystals of a set that repeat others of it: the decision of Algorithm 2, taken within the set.

Only crystals of one reduced composition are compared. Of those that match, the first in the file is kept: a crystal is
dropped if it matches one before it that is kept itself, so no two that are left match, and nothing is dropped for
likeness to what is dropped.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dao.jsonl import JsonLines
from dao.progress import CountProgress

if TYPE_CHECKING:
    from dao.data.store import PackedCrystals
    from dao.evaluation.matching_search import Tolerances

_PAIRS = 1000
"""Comparisons between two writes: what a kill may cost."""

Composition = tuple[tuple[int, int], ...]


def repeated_rows(
    path: Path,
    rows: Sequence[int],
    work: Path,
    made_by: dict[str, Any],
    *,
    tolerances: tuple[Tolerances, ...],
    workers: int,
    seconds: float,
    progress: bool,
) -> list[int]:
    """Those of ``rows`` whose id or structure is that of a row before them which stays.

    Args:
        path: Parquet of the uniform layout.
        rows: numbers of the rows to compare, rising.
        work: folder for the comparisons, which a later call finds done.
        made_by: what else the comparisons depend on.
        tolerances: of StructureMatcher.
        workers: processes that compare.
        seconds: time limit of each reduction and search; a pair that exceeds it counts as no match, so both stay.
        progress: show a bar on stderr.

    Raises:
        InputError: unreadable, or a folder that cannot be written.

    """
    from dao.data.store import read_packed

    packed = read_packed(path)
    digest = hashlib.sha256(np.array(rows, dtype=np.int64).tobytes()).hexdigest()[:12]
    lines = JsonLines(work / f"repeats-{digest}.jsonl", made_by, "comparisons")
    # row -> rows before it that it matches
    done: dict[int, list[int]] = dict(lines.read(lambda line: (int(line[0]), [int(row) for row in line[1]])))
    buckets = [bucket for bucket in _buckets(packed, rows) if len(bucket) > 1]
    count = sum(map(len, buckets))
    with CountProgress(count, len(done), enabled=progress, what="comparing with itself", of="crystals") as bar:
        for some in _portions([bucket for bucket in buckets if bucket[-1] not in done]):
            found = _matches(packed, some, tolerances, workers, seconds)
            lines.append(found.items())
            done |= found
            bar.advance(len(found))
    return _later_ones(rows, packed.ids, done)


def _buckets(packed: PackedCrystals, rows: Sequence[int]) -> list[list[int]]:
    """Rows of each reduced composition, in their order."""
    counts = packed.element_counts()[list(rows)].numpy().astype(np.int64)
    reduced = counts // np.gcd.reduce(counts, axis=1, keepdims=True)
    buckets: dict[bytes, list[int]] = defaultdict(list)
    for row, composition in zip(rows, reduced.astype(np.uint16), strict=True):
        buckets[composition.tobytes()].append(row)
    return list(buckets.values())


def _portions(buckets: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Whole buckets of about as many pairs."""
    some: list[list[int]] = []
    pairs = 0
    for bucket in buckets:
        some.append(bucket)
        pairs += len(bucket) * (len(bucket) - 1) // 2
        if pairs >= _PAIRS:
            yield some
            some, pairs = [], 0
    if some:
        yield some


def _matches(
    packed: PackedCrystals,
    buckets: Sequence[list[int]],
    tolerances: tuple[Tolerances, ...],
    workers: int,
    seconds: float,
) -> dict[int, list[int]]:
    """Of each row of the buckets, the rows before it that it matches."""
    from dao.evaluation.matching import match_pairs

    rows = [row for bucket in buckets for row in bucket]
    place = {row: number for number, row in enumerate(rows)}
    crystals = [packed.crystal(row) for row in rows]
    pairs = [(place[later], place[earlier]) for bucket in buckets for earlier, later in combinations(bucket, 2)]
    found: dict[int, list[int]] = {row: [] for row in rows}
    for match in match_pairs(crystals, crystals, pairs, workers=workers, seconds=seconds, tolerances=tolerances):
        if match.rms is not None:
            found[rows[match.prediction]].append(rows[match.reference])
    return found


def _later_ones(rows: Sequence[int], ids: Sequence[str], matches: dict[int, list[int]]) -> list[int]:
    kept: set[int] = set()
    names: set[str] = set()
    dropped: list[int] = []
    for row in rows:
        if ids[row] in names or not kept.isdisjoint(matches.get(row, ())):
            dropped.append(row)
        else:
            kept.add(row)
            names.add(ids[row])
    return dropped
