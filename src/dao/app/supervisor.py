"""The queue, and the worker that goes through it: one job after another, each of which may be cancelled at any moment.

Lives in the server's event loop. A job is ended by ending the worker: whatever it does, that works, and what it had
written stays whole. Another worker starts at once and gets ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dao.app.jobs import INTERRUPTED, REPEATABLE, UNFINISHED, Job, State, Store, now
from dao.app.worker import STAGES

KILLED = -9
"""Exit code of a process that was ended by SIGKILL."""


class QueueFullError(Exception):
    """As many jobs wait as may."""


class NotPossibleError(Exception):
    """A job does not stand as it must for what is asked; the message says so in one line."""


@dataclass(frozen=True)
class Progress:
    """How far the running job is.

    Attributes:
        stage: one of :data:`dao.app.worker.STAGES`.
        done: finished samples, those under way counted by how far they are.
        total: how many there will be; 0 where the stage cannot be counted.

    """

    stage: str = STAGES[0]
    done: float = 0.0
    total: int = 0


class Supervisor:
    """Takes jobs, has them done in turn, and knows how each stands."""

    def __init__(
        self, store: Store, command: Sequence[str], *, max_queue: int, made_with: Callable[[], dict[str, str]]
    ) -> None:
        """Nothing runs before :meth:`start`.

        Args:
            store: where jobs are kept.
            command: starts a worker.
            max_queue: jobs that may wait.
            made_with: says, as things stand, what a worker that starts now makes samples with (see
                :class:`dao.app.jobs.Job`); a worker that was started with something else is replaced.

        """
        self.store = store
        self.max_queue = max_queue
        self._command = command
        self._made_with = made_with
        self._waiting: dict[str, Job] = {}
        self._running: Job | None = None
        self._progress = Progress()
        self._cancelled = False
        self._arrival = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._started_with: dict[str, str] = {}
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the worker and whatever goes through the queue."""
        self._loop = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """End the worker. Unfinished jobs stay as they are on disk, which a later server calls interrupted."""
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        await self._end_worker()

    # ---- what clients ask ----

    def add(self, formula: str, units: tuple[int, ...], samples: int, seed: int, cells: str = "auto") -> Job:
        """Put a new job at the end of the queue.

        Raises:
            QueueFullError: as many wait as may.
            OSError: it cannot be put down.

        """
        return self._enqueue(self.store.new(formula, units, samples, seed, self._made_with(), cells))

    def again(self, job: Job) -> Job:
        """Queue a job that failed, was cancelled or interrupted; samples that it has are kept.

        Where they were made with something else, such as weights that have been trained anew since, a new job is queued
        that begins afresh, and the other one stays as it is.

        Raises:
            NotPossibleError: it waits, runs or is done.
            QueueFullError: as many wait as may.
            OSError: it cannot be put down.

        """
        if job.state not in REPEATABLE:
            raise NotPossibleError(f"this prediction is {job.state}: only one that stopped short can be run again")
        if job.made_with != self._made_with():
            return self.add(job.formula, job.units, job.samples, job.seed, job.cells)
        fresh = {"state": "queued", "message": "", "started": None, "finished": None}
        return self._enqueue(job.model_copy(update=fresh))

    def cancel(self, job: Job) -> Job:
        """Take a job out of the queue, or end it.

        Raises:
            NotPossibleError: it neither waits nor runs.
            OSError: it cannot be put down.

        """
        if job.id in self._waiting:
            del self._waiting[job.id]
            return self._put_down(job, "cancelled")
        if self._running is not None and self._running.id == job.id:
            self._cancelled = True
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            return job
        raise NotPossibleError(f"this prediction is {job.state}: there is nothing to cancel")

    def job(self, job_id: str) -> Job | None:
        """How a job stands; None where there is none."""
        if self._running is not None and self._running.id == job_id:
            return self._running
        return self._waiting.get(job_id) or self.settled(self.store.read(job_id))

    def settled(self, job: Job | None) -> Job | None:
        """A job read from disk, as it stands: what nobody is working on will not be finished by itself."""
        if job is None or job.state not in UNFINISHED:
            return job
        live = self._waiting.get(job.id)
        if self._running is not None and self._running.id == job.id:
            live = self._running
        return live or job.model_copy(update={"state": "interrupted", "message": INTERRUPTED})

    def position(self, job: Job) -> int | None:
        """Place in the queue, 1 for the next; None where it does not wait."""
        return [*self._waiting].index(job.id) + 1 if job.id in self._waiting else None

    def progress(self, job: Job) -> Progress | None:
        """How far it is; None where it does not run."""
        return self._progress if self._running is not None and self._running.id == job.id else None

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._running is not None

    # ---- the queue ----

    def _enqueue(self, job: Job) -> Job:
        if len(self._waiting) >= self.max_queue:
            raise QueueFullError
        self.store.write(job)
        self._waiting[job.id] = job
        self._arrival.set()
        return job

    def _put_down(self, job: Job, state: State, message: str = "", **found: Any) -> Job:  # noqa: ANN401 -- of a job
        """The job in its last state, on disk too."""
        ended = job.model_copy(update={"state": state, "message": message, "finished": now(), **found})
        self.store.write(ended)
        return ended

    async def _work(self) -> None:
        while True:
            # before there is a job, so that the next one need not wait for it
            with contextlib.suppress(OSError):  # no process to be had: the job will try again, and say so
                await self._ensure_worker()
            while not self._waiting:
                self._arrival.clear()
                await self._arrival.wait()
            job = self._waiting.pop(next(iter(self._waiting)))
            self._running = job.model_copy(update={"state": "running", "started": now()})
            self._progress, self._cancelled = Progress(), False
            try:
                await self._do(self._running)
            except Exception as error:  # noqa: BLE001 -- a full disk, say: the next job may have more luck
                traceback.print_exc()
                await self._end_worker()
                with contextlib.suppress(OSError):
                    self._put_down(self._running, "failed", f"internal error: {type(error).__name__}: {error}")
            finally:
                self._running = None

    async def _do(self, job: Job) -> None:
        """Have a job done and put down how it ended."""
        self.store.write(job)
        said: dict[str, Any] = {}
        how = ""
        # a second time where a worker had died before it read the job, and nobody had noticed yet
        for _ in range(2):
            await self._ensure_worker()
            said = {} if self._cancelled else await self._ask(job)
            if said and not self._cancelled:
                break
            how = await self._end_worker()
            if self._cancelled or self._progress != Progress():
                break
        if "finished" in said:
            count, best = self.store.best(job)
            self._put_down(job, "done", str(said["finished"]), candidates=count, best=best)
        elif "failed" in said:
            self._put_down(job, "failed", str(said["failed"]))
        elif self._cancelled:
            self._put_down(job, "cancelled")
        else:
            self._put_down(
                job, "failed", f"The process that predicts {how}. It has been started again; the other jobs go on."
            )

    # ---- the worker ----

    async def _ensure_worker(self) -> None:
        """Start one where there is none, it has died, or what it has loaded is no longer there."""
        made_with = self._made_with()
        if self._process is not None and self._process.returncode is None:
            if self._started_with == made_with:
                return
            await self._end_worker()
        self._started_with = made_with
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C is for the server, which ends the worker itself
            start_new_session=True,
        )

    async def _end_worker(self) -> str:
        """End the worker if it has not ended, and say how it did, in words."""
        process, self._process = self._process, None
        if process is None:
            return "has ended"
        if process.returncode is None:
            with contextlib.suppress(TimeoutError):
                # one that has closed its output is about to end, and its own code says more than ours
                await asyncio.wait_for(process.wait(), 0.5 if process.stdout and process.stdout.at_eof() else 0.0)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        code = process.returncode or 0
        if code == KILLED:
            return "was killed, which is often a lack of memory: try fewer samples or smaller cells"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended unexpectedly (exit code {code})"

    async def _ask(self, job: Job) -> dict[str, Any]:
        """The worker's last word on a job; empty where it ended without one."""
        process = self._process
        assert process is not None  # noqa: S101 -- started before any job
        assert process.stdin is not None  # noqa: S101 -- a pipe
        assert process.stdout is not None  # noqa: S101 -- a pipe
        task = {
            "formula": job.formula,
            "units": job.units,
            "cells": job.cells,
            "samples": job.samples,
            "seed": job.seed,
            "folder": str(self.store.folder(job.id)),
        }
        with contextlib.suppress(ConnectionError):  # of a worker that has died meanwhile: its output has ended
            process.stdin.write(json.dumps(task).encode() + b"\n")
            await process.stdin.drain()
        async for line in process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "stage" in said:
                self._progress = Progress(str(said["stage"]), float(said["done"]), int(said["total"]))
            elif "ready" not in said:
                return said
        return {}
