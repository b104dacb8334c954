from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from pymatgen.core.structure_matcher import StructureMatcher
from toys import toy, toy_crystals

from dao.constants import STRICT_ANGLE_TOL, STRICT_LTOL, STRICT_STOL
from dao.crystal import Crystal
from dao.evaluation import matching_pool, matching_search, time_limit
from dao.evaluation.matching import Match, Pair, match_pairs, matcher, rms_distance, rms_distances

TRUE = toy_crystals()[::5]
NACL = toy("rocksalt", ("Na", "Cl"), 5.6)


def moved(crystal: Crystal, seed: int, amount: float) -> Crystal:
    rng = np.random.default_rng(seed)
    coords = crystal.frac_coords + amount * rng.uniform(-1, 1, (crystal.num_atoms, 3)) + rng.random(3)
    lattice = crystal.lattice @ (np.eye(3) + amount * rng.uniform(-1, 1, (3, 3)))
    order = rng.permutation(crystal.num_atoms)
    return Crystal(crystal.atomic_numbers[order], coords[order], lattice)


def in_cell(crystal: Crystal, matrix: list[list[int]]) -> Crystal:
    """The same crystal in another cell of its lattice, or a supercell of it."""
    structure = crystal.to_structure().make_supercell(matrix)
    return Crystal.from_structure(structure)


def rotated(crystal: Crystal, seed: int, *, mirror: bool = False) -> Crystal:
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    if (np.linalg.det(rotation) < 0) != mirror:
        rotation = -rotation
    return Crystal(crystal.atomic_numbers, crystal.frac_coords, crystal.lattice @ rotation)


def crowded(seed: int) -> tuple[Crystal, Crystal]:
    """Two crystals of up to twelve atoms and no symmetry, of the same composition, from near to unlike."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, size=rng.integers(1, 4))
    numbers = np.repeat([8, 22, 113][: len(counts)], counts)
    edge = (12.0 * len(numbers)) ** (1 / 3)
    crystal = Crystal(numbers, rng.random((len(numbers), 3)), edge * (np.eye(3) + 0.3 * rng.uniform(-1, 1, (3, 3))))
    return moved(crystal, seed, float(rng.choice([0.03, 0.1, 0.2, 0.4]))), crystal


def needle(length: float) -> Crystal:
    return Crystal([11, 17], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.5]], np.diag([3.0, 3.0, length]))


CELLS = [[[1, 1, 0], [0, 1, 0], [2, 0, 1]], [[2, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [-1, 1, 0], [0, 0, 2]]]

KINDS = ("rocksalt", "zincblende", "cscl")

PAIRS: list[Pair] = [
    *((moved(crystal, i, 0.02 * (i % 6)), crystal) for i, crystal in enumerate(TRUE)),
    (None, TRUE[0]),
    (NACL, toy("cscl", ("Na", "Cl"), 3.5)),
    (NACL, toy("rocksalt", ("K", "Cl"), 6.3)),
    # cells are scaled to equal volume
    (toy("rocksalt", ("Na", "Cl"), 8.0), NACL),
]

MANY: list[Pair] = [
    *PAIRS,
    *((moved(one, i + j, 0.05 + 0.1 * j), one) for i, one in enumerate(toy_crystals()) for j in range(3)),
    *((in_cell(crystal, cell), crystal) for crystal in TRUE for cell in CELLS),
    *((crystal, moved(in_cell(crystal, cell), i, 0.03)) for i, crystal in enumerate(TRUE) for cell in CELLS),
    *((rotated(moved(one, i, 0.04), i, mirror=i % 2 == 0), one) for i, one in enumerate(TRUE)),
    *((rotated(one, i, mirror=i % 2 == 0), two) for i, (one, two) in enumerate(map(crowded, range(100, 120)))),
    *(crowded(seed) for seed in range(100)),
    *((toy(one, ("Ti", "O"), 4.0), toy(two, ("Ti", "O"), 4.0)) for one in KINDS for two in KINDS),
    (needle(30.0), needle(33.0)),
    (needle(30.0), NACL),
    (NACL, needle(60.0)),
    # no crystals: a flat cell, and two atoms in one place
    (Crystal([11, 17], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], np.diag([3.0, 3.0, 0.0])), NACL),
    (Crystal([11, 17], np.zeros((2, 3)), np.diag([3.0, 3.0, 3.0])), NACL),
]


def judged(judge: StructureMatcher, pair: Pair) -> float | None:
    predicted, true = pair
    if predicted is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = judge.get_rms_dist(predicted.to_structure(), true.to_structure())
        except (ValueError, ZeroDivisionError):
            return None
    return None if found is None else float(found[0])


@cache
def expected() -> list[tuple[float | None, float | None]]:
    loose, strict = StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10), StructureMatcher()
    return [(judged(loose, pair), judged(strict, pair)) for pair in MANY]


def match_all(pairs: Sequence[Pair], *, workers: int = 1, seconds: float = 60.0) -> list[Match]:
    numbers = [(i, i) for i in range(len(pairs))]
    return match_pairs([one for one, _ in pairs], [two for _, two in pairs], numbers, workers=workers, seconds=seconds)


def same(one: float | None, two: float | None) -> bool:
    return one is two if one is None or two is None else abs(one - two) < 1e-9


def test_agrees_with_pymatgen_at_both_tolerances() -> None:
    found = match_all(MANY)
    assert len(MANY) > 300
    for number, (match, (rms, strict)) in enumerate(zip(found, expected(), strict=True)):
        assert same(match.rms, rms), number
        assert same(match.strict, strict), number
    assert not any(match.timed_out for match in found)
    # both kinds of decisions, and both columns, are put to the test
    assert 100 < sum(rms is not None for rms, _ in expected()) < len(MANY) - 50
    assert sum((rms is None) != (strict is None) for rms, strict in expected()) > 20


def fit_or_none(judge: StructureMatcher, one: Crystal, two: Crystal) -> bool | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(judge.fit(one.to_structure(), two.to_structure()))
        except (ValueError, ZeroDivisionError):
            return None


def our_fit_or_none(one: Crystal, two: Crystal, *, primitive: bool) -> bool | None:
    tolerances = matching_search.Tolerances(STRICT_STOL, STRICT_LTOL, STRICT_ANGLE_TOL)
    try:
        cells = [matching_search.reduced(crystal, primitive=primitive) for crystal in (one, two)]
        return matching_search.fits(cells[0], cells[1], tolerances)
    except (ValueError, ZeroDivisionError):
        return None


@pytest.mark.parametrize("primitive", [True, False])
def test_fits_where_pymatgen_says_so(*, primitive: bool) -> None:
    judge = StructureMatcher(primitive_cell=primitive)
    pairs = [(one, two) for one, two in MANY if one is not None]
    wanted = [fit_or_none(judge, one, two) for one, two in pairs]
    assert [our_fit_or_none(one, two, primitive=primitive) for one, two in pairs] == wanted
    assert min(wanted.count(True), wanted.count(False)) > 50
    if primitive:
        # the farthest atom decides, not the RMS distance
        matched = [
            strict is not None for (one, _), (_, strict) in zip(MANY, expected(), strict=True) if one is not None
        ]
        assert any(near and fit is False for near, fit in zip(matched, wanted, strict=True))


def test_strict_tolerances_are_pymatgens_defaults() -> None:
    judge = StructureMatcher()
    assert (judge.stol, judge.ltol, judge.angle_tol) == (STRICT_STOL, STRICT_LTOL, STRICT_ANGLE_TOL)
    assert (matcher().stol, matcher().ltol, matcher().angle_tol) == (0.5, 0.3, 10)


def test_every_pair_of_two_lists_and_each_structure_reduced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    references = [NACL, toy("cscl", ("Na", "Cl"), 3.5), toy("rocksalt", ("K", "Cl"), 6.3)]
    predictions = [moved(one, i, 0.03) for i, one in enumerate([*references, *references])] + [None]
    pairs = [(i, j) for j in range(len(references)) for i in range(len(predictions))][::-1]
    reduced, reduce = [], matching_search.reduced

    def counted(crystal: Crystal) -> matching_search.Reduced:
        reduced.append(crystal)
        return reduce(crystal)

    monkeypatch.setattr(matching_search, "reduced", counted)
    heard: list[Match] = []
    found = match_pairs(predictions, references, pairs, on_match=heard.append)
    assert [(match.prediction, match.reference) for match in found] == pairs
    assert sorted(map(repr, heard)) == sorted(map(repr, found))
    assert len(reduced) == 6 + 3
    for match in found:
        assert same(match.rms, judged(matcher(), (predictions[match.prediction], references[match.reference])))


def test_other_compositions_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching_search, "reduced", lambda _: pytest.fail("reduced"))
    assert rms_distances([PAIRS[-2], (None, NACL)]) == [None, None]
    assert rms_distances([]) == []


def test_the_same_crystal_is_at_distance_zero() -> None:
    assert rms_distance((TRUE[0], TRUE[0])) == pytest.approx(0, abs=1e-7)
    assert rms_distance(PAIRS[-1]) == pytest.approx(0, abs=1e-7)


def test_a_pool_gives_the_same_in_any_order() -> None:
    here = match_all(MANY)
    order = np.random.default_rng(0).permutation(len(MANY)).tolist()
    pooled = match_all([MANY[i] for i in order], workers=2)
    for i, match in zip(order, pooled, strict=True):
        # to rounding: arrays that came through a pipe lie otherwise in memory
        assert same(match.rms, here[i].rms)
        assert same(match.strict, here[i].strict)
    assert not multiprocessing.active_children()


def test_no_smaller_cell_is_overlooked() -> None:
    # 100 atoms of one element need the search for a smaller cell, 3 with counts 1 and 2 do not
    for crystal in (in_cell(NACL, [[5, 0, 0], [0, 2, 0], [0, 0, 5]]), toy("fluorite", ("Ca", "F"), 5.5)):
        found = matching_search.reduced(crystal)
        wanted = StructureMatcher._get_reduced_structure(crystal.to_structure())
        assert np.array_equal(found.frac_coords, wanted.frac_coords)
        assert np.array_equal(found.matrix, wanted.lattice.matrix)
        assert found.elements.tolist() == [site.specie.Z for site in wanted]


def test_a_slow_pair_is_given_up() -> None:
    pairs: list[Pair] = [crowded(3), (NACL, toy("rocksalt", ("K", "Cl"), 6.3))]
    slow, other = match_all(pairs, seconds=1e-4)
    assert (slow.timed_out, slow.rms, slow.strict) == (True, None, None)
    assert not other.timed_out
    # the next one is not harmed
    assert not match_all(pairs)[0].timed_out


def test_a_cell_too_thin_is_given_up_at_once() -> None:
    start = time.monotonic()
    (match,) = match_all([(needle(1e5), NACL)])
    assert match.timed_out
    assert match.rms is None
    assert time.monotonic() - start < 10


def test_the_limit_survives_code_that_swallows_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "REPEAT", 0.05)

    def stubborn() -> None:
        with suppress(BaseException):
            time.sleep(5)
        time.sleep(5)

    before = signal.getsignal(signal.SIGALRM)
    start = time.monotonic()
    with pytest.raises(time_limit.TooSlowError):
        time_limit.within(0.05, stubborn)
    assert time.monotonic() - start < 4
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_other_threads_match_without_a_limit() -> None:
    found: list[float | None] = []
    thread = threading.Thread(target=lambda: found.append(rms_distance((NACL, NACL))))
    thread.start()
    thread.join()
    assert found == [pytest.approx(0, abs=1e-7)]


class Saboteur:
    """Sends a signal to the first process it meets, once, when the first answer of the pool arrives."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.done = False

    def __call__(self, _match: Match) -> None:
        if not self.done and multiprocessing.active_children():
            os.kill(int(multiprocessing.active_children()[0].pid or 0), self.number)
            self.done = True


def numbers(count: int) -> list[tuple[int, int]]:
    return [(i, i) for i in range(count)]


LOOSE: list[Pair] = [crowded(seed) for seed in range(64)]


def test_a_process_that_dies_costs_no_answer() -> None:
    saboteur = Saboteur(signal.SIGKILL)
    ones, twos = [one for one, _ in LOOSE], [two for _, two in LOOSE]
    found = match_pairs(ones, twos, numbers(64), workers=2, seconds=60.0, on_match=saboteur)
    assert saboteur.done
    assert [match.timed_out for match in found] == 64 * [False]
    assert [match.rms is None for match in found] == [match.rms is None for match in match_all(LOOSE)]


def test_a_process_that_hangs_costs_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching_pool, "GRACE", 1.0)
    saboteur = Saboteur(signal.SIGSTOP)
    ones, twos = [one for one, _ in LOOSE], [two for _, two in LOOSE]
    found = match_pairs(ones, twos, numbers(64), workers=2, seconds=1.0, on_match=saboteur)
    assert saboteur.done
    assert sum(match.timed_out for match in found) == 1
    assert not multiprocessing.active_children()


def test_a_pair_that_kills_two_processes_is_given_up() -> None:
    batch = matching_pool.Batch(((0, 0, 0), (1, 0, 0)), {0: NACL}, {0: NACL})
    pool = matching_pool._Pool([], 1.0)
    for given_up in ([], [(0, matching_pool.TIMED_OUT)]):
        worker = matching_pool._Worker.start(1.0)
        worker.started = True
        pool.workers.append(worker)
        pool.again = pool.again or deque([batch])
        pool.give(worker)
        assert pool.put_away(worker, hung=False) == given_up
    assert [rest.pairs for rest in pool.again] == [((1, 0, 0),)]


def test_processes_are_replaced_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching_pool, "RECYCLE", 1)
    started, start = [], matching_pool._Worker.start

    def counted(seconds: float) -> matching_pool._Worker:
        started.append(seconds)
        return start(seconds)

    monkeypatch.setattr(matching_pool._Worker, "start", counted)
    found = match_all(LOOSE, workers=2)
    assert len(started) >= 2
    assert [match.rms is None for match in found] == [match.rms is None for match in match_all(LOOSE)]


def test_an_interruption_leaves_no_process() -> None:
    def interrupt(_match: Match) -> None:
        raise KeyboardInterrupt

    ones, twos = [one for one, _ in LOOSE], [two for _, two in LOOSE]
    with pytest.raises(KeyboardInterrupt):
        match_pairs(ones, twos, numbers(64), workers=2, on_match=interrupt)
    assert not multiprocessing.active_children()


def test_a_process_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    start = matching_pool._Worker.start

    def stillborn(seconds: float) -> matching_pool._Worker:
        worker = start(seconds)
        worker.process.kill()
        return worker

    monkeypatch.setattr(matching_pool._Worker, "start", stillborn)
    with pytest.raises(RuntimeError, match="did not start"):
        match_all(LOOSE, workers=2)
    assert not multiprocessing.active_children()
