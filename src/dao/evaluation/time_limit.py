"""A limit on the wall-clock time of a call, for code that never looks at the clock itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

REPEAT = 1.0
"""Seconds after which the alarm rings again, should some code have swallowed the exception."""


class TooSlowError(BaseException):
    """Not an Exception, so that no ``except Exception`` on the way out stops it."""


def _ring(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlowError


def within(seconds: float, call: Callable[[], T]) -> T:
    """What the call returns.

    The limit needs SIGALRM: there is none on Windows and outside the main thread.

    Raises:
        TooSlowError: it took longer; noticed as soon as Python code runs again.

    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return call()
    before = signal.signal(signal.SIGALRM, _ring)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT)
            return call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        # once more: the alarm may have rung on the very line above
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
