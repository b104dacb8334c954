"""Processes that compare pairs of crystals, and outlive pairs that hang or kill them.

Each process has one batch at a time and reports pair by pair, so the parent knows which pair a silent or dead process
was at. Memory is bounded: no batch is built before a process is free for it, and processes are replaced after a while.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from dao.crystal import Crystal

if TYPE_CHECKING:
    from dao.evaluation.matching_search import Tolerances

RECYCLE = 500
"""Batches after which a process is replaced."""

GRACE = 5.0
"""Seconds beyond its time limits after which a silent process is taken to hang in compiled code, and is killed."""

START = 300.0
"""Seconds a process may take to start."""

Answer = tuple[float | None, float | None, bool]
"""RMS distances at the first and at the second tolerances (None = no match); whether the time ran out."""

TIMED_OUT: Answer = (None, None, True)


@dataclass(frozen=True)
class Batch:
    """Pairs to compare.

    Attributes:
        pairs: (position in the caller's list, prediction, reference) each.
        predictions: crystals by the number the pairs use.
        references: the same.
        tolerances: to compare with; None for the usual two.

    """

    pairs: tuple[tuple[int, int, int], ...]
    predictions: dict[int, Crystal]
    references: dict[int, Crystal]
    tolerances: tuple[Tolerances, ...] | None = None


def _work(connection: Connection, seconds: float) -> None:
    """What a process does: answer batches until the parent hangs up."""
    # Ctrl-C reaches the whole group of processes; the parent ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from dao.evaluation.matching import compare

    with suppress(EOFError, ConnectionError):
        connection.send(None)
        for answer in compare(iter(connection.recv, None), seconds):
            connection.send(answer)


@dataclass
class _Worker:
    """A process as the parent sees it: what it has still to answer, and until when it must be heard of."""

    process: BaseProcess
    connection: Connection
    deadline: float
    started: bool = False
    batch: Batch | None = None
    left: deque[int] = field(default_factory=deque)
    batches: int = 0

    @classmethod
    def start(cls, seconds: float) -> _Worker:
        # spawned, not forked: a fork of a process that runs torch's threads can hang
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, seconds), daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours, time.monotonic() + START)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Pool:
    def __init__(self, batches: Iterable[Batch], seconds: float) -> None:
        self.batches = iter(batches)
        self.again: deque[Batch] = deque()
        self.seconds = seconds
        # a pair takes up to three limits: two reductions and the search
        self.patience = 3 * seconds + GRACE
        self.workers: list[_Worker] = []
        self.suspects: set[int] = set()

    def give(self, worker: _Worker) -> bool:
        """Hand the next batch to an idle process; False where there is none."""
        batch = self.again.popleft() if self.again else next(self.batches, None)
        if batch is None:
            return False
        worker.batch, worker.left = batch, deque(position for position, _, _ in batch.pairs)
        worker.batches += 1
        worker.deadline = time.monotonic() + self.patience
        # a process that has died meanwhile shows as soon as we listen to it
        with suppress(ConnectionError):
            worker.connection.send(batch)
        return True

    def put_away(self, worker: _Worker, *, hung: bool) -> list[tuple[int, Answer]]:
        """End a process that hangs or has died, and queue what it had still to do.

        The pair it was at is given up where it hung, or where it was the second process that died of it.

        Raises:
            RuntimeError: it did not even start.

        """
        worker.end()
        self.workers.remove(worker)
        if not worker.started:
            raise RuntimeError(f"a process for matching did not start (exit code {worker.process.exitcode})")
        if worker.batch is None or not worker.left:
            return []
        suspect = worker.left[0]
        given_up = hung or suspect in self.suspects
        self.suspects.add(suspect)
        rest = set(worker.left) - ({suspect} if given_up else set())
        if rest:
            self.again.append(
                replace(worker.batch, pairs=tuple(pair for pair in worker.batch.pairs if pair[0] in rest))
            )
        return [(suspect, TIMED_OUT)] if given_up else []

    def listen(self, worker: _Worker) -> list[tuple[int, Answer]]:
        """What the process has to say; it has died where it hangs up."""
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionError):
            return self.put_away(worker, hung=False)
        worker.deadline = time.monotonic() + self.patience
        if message is None:
            worker.started = True
            return []
        worker.left.popleft()
        return [message]

    def run(self, workers: int) -> Iterator[tuple[int, Answer]]:
        more = True
        while True:
            for worker in [one for one in self.workers if one.started and not one.left]:
                if worker.batches >= RECYCLE or not self.give(worker):
                    worker.end()
                    self.workers.remove(worker)
                    more = worker.batches >= RECYCLE
            while (more or self.again) and len(self.workers) < workers:
                self.workers.append(_Worker.start(self.seconds))
            if not self.workers:
                return
            first = min(worker.deadline for worker in self.workers)
            heard = wait([one.connection for one in self.workers], max(0.0, first - time.monotonic()))
            for worker in list(self.workers):
                if worker.connection in heard:
                    yield from self.listen(worker)
                elif worker.deadline < time.monotonic():
                    yield from self.put_away(worker, hung=True)


def answers(batches: Iterable[Batch], *, workers: int, seconds: float) -> Generator[tuple[int, Answer], None, None]:
    """Compare all pairs in spawned processes, in whatever order they get done.

    Close the iterator (or let it run to its end) and no process is left.

    Args:
        batches: taken one by one as processes become free.
        workers: number of processes.
        seconds: time limit of each reduction and search.

    Raises:
        RuntimeError: a process did not start.

    """
    pool = _Pool(batches, seconds)
    try:
        yield from pool.run(workers)
    finally:
        for worker in pool.workers:
            worker.end()
