"""Does a predicted crystal match the true one? pymatgen's StructureMatcher decides, at the benchmark's tolerances."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from dao.constants import (
    MATCHER_ANGLE_TOL,
    MATCHER_LTOL,
    MATCHER_STOL,
    STRICT_ANGLE_TOL,
    STRICT_LTOL,
    STRICT_STOL,
)
from dao.crystal import Crystal
from dao.evaluation.matching_pool import TIMED_OUT, Answer, Batch, answers
from dao.evaluation.time_limit import TooSlowError, within

if TYPE_CHECKING:
    from pymatgen.core.structure_matcher import StructureMatcher

    from dao.evaluation.matching_search import Reduced, Tolerances

Pair = tuple[Crystal | None, Crystal]
T = TypeVar("T")

BATCH = 32
"""Pairs handed to a process at a time."""

KEPT = 4096
"""Reduced structures that a process remembers, some kB each."""


@cache
def matcher() -> StructureMatcher:
    """The judge of every match rate (DESIGN 4.4): stol 0.5, ltol 0.3, angle_tol 10, cells scaled to equal volume."""
    from pymatgen.core.structure_matcher import StructureMatcher

    return StructureMatcher(ltol=MATCHER_LTOL, stol=MATCHER_STOL, angle_tol=MATCHER_ANGLE_TOL)


@cache
def standard_tolerances() -> tuple[Tolerances, ...]:
    """The benchmark's, and pymatgen's own."""
    from dao.evaluation.matching_search import Tolerances

    return (
        Tolerances(MATCHER_STOL, MATCHER_LTOL, MATCHER_ANGLE_TOL),
        Tolerances(STRICT_STOL, STRICT_LTOL, STRICT_ANGLE_TOL),
    )


@dataclass(frozen=True)
class Match:
    """How one prediction compares with one reference.

    Attributes:
        prediction: its number in the predictions.
        reference: its number in the references.
        rms: RMS distance at the benchmark's tolerances, or the first ones asked for, in units of (V/N)^(1/3); None
            where they do not match.
        strict: the same at pymatgen's default tolerances, or the second ones asked for; None where only one was.
        timed_out: no answer within the limits of time and memory, or a process died of the pair; counts as no match.

    """

    prediction: int
    reference: int
    rms: float | None
    strict: float | None
    timed_out: bool


def reduced_composition(crystal: Crystal) -> tuple[tuple[int, int], ...]:
    """(atomic number, atoms of it in the reduced formula), by rising atomic number."""
    counts = crystal.counts
    units = math.gcd(*counts.values())
    return tuple((number, count // units) for number, count in counts.items())


class _Comparison:
    """Compares pairs in this process, each structure reduced once.

    The time limit holds for each reduction and each search, so what is remembered changes no answer.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._reduced: dict[tuple[str, int], Reduced | Answer] = {}

    def answer(
        self, prediction: tuple[int, Crystal], reference: tuple[int, Crystal], tolerances: tuple[Tolerances, ...]
    ) -> Answer:
        """Compare two crystals; their numbers tell whether they were met before."""
        one, two = self._reduce("prediction", *prediction), self._reduce("reference", *reference)
        return self._compare(one, two, tolerances)

    def _reduce(self, kind: str, number: int, crystal: Crystal) -> Reduced | Answer:
        from dao.evaluation.matching_search import reduced

        key = (kind, number)
        if key not in self._reduced:
            if len(self._reduced) >= KEPT:
                self._reduced.clear()
            self._reduced[key] = self._limit(lambda: reduced(crystal))
        return self._reduced[key]

    def _compare(self, one: Reduced | Answer, two: Reduced | Answer, tolerances: tuple[Tolerances, ...]) -> Answer:
        from dao.evaluation.matching_search import Reduced, rms_distances

        if not isinstance(one, Reduced):
            return one
        if not isinstance(two, Reduced):
            return two

        def search() -> Answer:
            rms, *strict = rms_distances(one, two, tolerances)
            return rms, strict[0] if strict else None, False

        return self._limit(search)

    def _limit(self, call: Callable[[], T]) -> T | Answer:
        from dao.evaluation.matching_search import TooLargeError

        try:
            with warnings.catch_warnings():
                # pymatgen and NumPy warn of cells that are none
                warnings.simplefilter("ignore")
                return within(self._seconds, call)
        except (TooSlowError, TooLargeError):
            return TIMED_OUT
        except (ArithmeticError, LookupError, MemoryError, RuntimeError, ValueError):
            # what pymatgen and NumPy make of a cell that is none: it matches nothing
            return None, None, False


def compare(batches: Iterable[Batch], seconds: float) -> Generator[tuple[int, Answer], None, None]:
    """Compare all pairs in this process: (position, answer) in their order.

    A number must mean the same crystal in all batches.
    """
    comparison = _Comparison(seconds)
    for batch in batches:
        for position, prediction, reference in batch.pairs:
            one, two = batch.predictions[prediction], batch.references[reference]
            tolerances = batch.tolerances or standard_tolerances()
            yield position, comparison.answer((prediction, one), (reference, two), tolerances)


def _batches(
    todo: Sequence[tuple[int, int, int]],
    predictions: Sequence[Crystal | None],
    references: Sequence[Crystal],
    tolerances: tuple[Tolerances, ...] | None,
) -> Iterator[Batch]:
    """Cut the pairs, without what a comparison does not need of the crystals."""

    def bare(crystals: Sequence[Crystal | None], numbers: Iterable[int]) -> dict[int, Crystal]:
        return {
            number: Crystal(crystal.atomic_numbers, crystal.frac_coords, crystal.lattice)
            for number in numbers
            if (crystal := crystals[number]) is not None
        }

    for start in range(0, len(todo), BATCH):
        pairs = tuple(todo[start : start + BATCH])
        ones, twos = ({pair[kind] for pair in pairs} for kind in (1, 2))
        yield Batch(pairs, bare(predictions, ones), bare(references, twos), tolerances)


def match_pairs(
    predictions: Sequence[Crystal | None],
    references: Sequence[Crystal],
    pairs: Iterable[tuple[int, int]],
    *,
    workers: int = 1,
    seconds: float = 10.0,
    on_match: Callable[[Match], None] | None = None,
    tolerances: tuple[Tolerances, ...] | None = None,
) -> list[Match]:
    """Compare predictions with references as ``StructureMatcher.get_rms_dist(prediction, reference)`` does.

    The decisions are pymatgen's, the distances to rounding (:mod:`dao.evaluation.matching_search` says why). Pairs of
    different reduced composition cost nothing, and each structure is reduced once. A prediction that is None or on
    which pymatgen fails matches nothing.

    Args:
        predictions: crystals, or None where there is none.
        references: crystals.
        pairs: (prediction, reference) by number; every pair gets an answer.
        workers: processes; with 1, all is done in this one. Results do not depend on it.
        seconds: time limit of each reduction and each search. It needs SIGALRM: without (Windows, or another than the
            main thread) only processes that hang are stopped, and with one worker nothing is.
        on_match: called here with each answer as it comes, in any order.
        tolerances: one, or two of which the first is the wider; by default the benchmark's and pymatgen's own.

    Returns:
        One answer a pair, in the order of the pairs.

    Raises:
        RuntimeError: a process did not start.

    """
    pairs = list(pairs)
    found: list[Match | None] = [None] * len(pairs)

    def note(position: int, answer: Answer) -> None:
        prediction, reference = pairs[position]
        rms, strict, timed_out = answer
        found[position] = match = Match(prediction, reference, rms, strict, timed_out)
        if on_match is not None:
            on_match(match)

    compositions = {
        kind: [None if crystal is None else reduced_composition(crystal) for crystal in crystals]
        for kind, crystals in (("predictions", predictions), ("references", references))
    }
    todo = []
    for position, (prediction, reference) in enumerate(pairs):
        composition = compositions["predictions"][prediction]
        if composition is not None and composition == compositions["references"][reference]:
            todo.append((composition, prediction, reference, position))
        else:
            note(position, (None, None, False))
    # pairs of one composition, and of one prediction, stay together: each process reduces little twice
    todo.sort()
    ordered = [(position, prediction, reference) for _, prediction, reference, position in todo]
    batches = _batches(ordered, predictions, references, tolerances)
    processes = min(workers, math.ceil(len(todo) / BATCH))
    done = compare(batches, seconds) if workers == 1 else answers(batches, workers=processes, seconds=seconds)
    with closing(done):
        for position, answer in done:
            note(position, answer)
    return [match for match in found if match is not None]


def rms_distances(pairs: Iterable[Pair], *, workers: int = 1) -> list[float | None]:
    """RMS distance of each prediction to its truth at the benchmark's tolerances; see :func:`match_pairs`."""
    pairs = list(pairs)
    numbers = [(number, number) for number in range(len(pairs))]
    matches = match_pairs([one for one, _ in pairs], [two for _, two in pairs], numbers, workers=workers)
    return [match.rms for match in matches]


def rms_distance(pair: Pair) -> float | None:
    """RMS distance of prediction and truth, dimensionless (in units of (V/N)^(1/3)); None where they do not match."""
    return rms_distances([pair])[0]
