"""Where the time of a run goes: any code may name the stage it is in, and whoever wants to know collects the seconds.

    with measured() as stages:
        with stage("sampling"):
            ...
    stages.seconds  # {"sampling": 1.9}

Nothing is measured while nobody collects. Time in an inner stage does not count for the outer one, so that the stages
add up to the whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

WEIGHTS, SAMPLING, SYMMETRY, PROTOTYPES = "loading weights", "sampling", "symmetry and duplicates", "prototypes"
ENERGIES, RELAXATION = "energies and ranking", "relaxation"
WRITING, REPORT, START = "writing", "report", "start-up"


class Stages:
    """Seconds by stage, in the order of their first beginning; what came before counts as ``START``."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._began = _began.get(self._since)
        self.seconds = {START: self._since - self._began}
        self._open: list[str] = []

    @property
    def total(self) -> float:
        """Seconds until now."""
        return time.perf_counter() - self._began

    def enter(self, name: str) -> None:
        """Begin a stage inside the running one."""
        self.seconds.setdefault(name, 0.0)
        self._count()
        self._open.append(name)

    def leave(self) -> None:
        """End the innermost stage."""
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


_began: ContextVar[float] = ContextVar("began")
_collecting: ContextVar[Stages | None] = ContextVar("collecting", default=None)


@contextmanager
def measured() -> Iterator[Stages]:
    """Collect the stages of everything inside."""
    stages = Stages()
    token = _collecting.set(stages)
    try:
        yield stages
    finally:
        _collecting.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """What is inside belongs to this stage."""
    stages = _collecting.get()
    if stages is None:
        yield
        return
    stages.enter(name)
    try:
        yield
    finally:
        stages.leave()


def so_far() -> dict[str, float]:
    """Seconds of the stages that have ended, to the hundredth; empty while nobody collects."""
    stages = _collecting.get()
    return {} if stages is None else rounded(stages.seconds)


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """To the hundredth of a second."""
    return {name: round(value, 2) for name, value in seconds.items()}


def in_words(seconds: Mapping[str, float]) -> str:
    """``start-up 2.9 s, sampling 1.9 s``; what took less than 50 ms is left out."""
    return ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items() if value >= 0.05)


def begin_with_process() -> None:
    """Count from the start of this process, its own start-up included: for whoever is all that the process does."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        since = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        since = 0.0  # not Linux
    _began.set(time.perf_counter() - since)
