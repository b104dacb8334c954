"""Does a predicted crystal match the true one? pymatgen's StructureMatcher decides, at the benchmark's tolerances."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

from dao.constants import MATCHER_ANGLE_TOL, MATCHER_LTOL, MATCHER_STOL
from dao.crystal import Crystal

if TYPE_CHECKING:
    from pymatgen.core.structure_matcher import StructureMatcher

Pair = tuple[Crystal | None, Crystal]


@cache
def matcher() -> StructureMatcher:
    """The judge of every match rate (DESIGN 4.4): stol 0.5, ltol 0.3, angle_tol 10, cells scaled to equal volume."""
    from pymatgen.core.structure_matcher import StructureMatcher

    return StructureMatcher(ltol=MATCHER_LTOL, stol=MATCHER_STOL, angle_tol=MATCHER_ANGLE_TOL)


def rms_distance(pair: Pair) -> float | None:
    """RMS distance of prediction and truth, dimensionless (in units of (V/N)^(1/3)); None where they do not match."""
    predicted, true = pair
    if predicted is None:
        return None
    found = matcher().get_rms_dist(predicted.to_structure(), true.to_structure())
    return None if found is None else float(found[0])


def rms_distances(pairs: Iterable[Pair], *, workers: int = 1) -> list[float | None]:
    """:func:`rms_distance` of many pairs, in ``workers`` processes."""
    if workers == 1:
        return [rms_distance(pair) for pair in pairs]
    # spawned, not forked: a fork of a process that runs torch's threads can hang
    import multiprocessing

    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(rms_distance, pairs, chunksize=64))
