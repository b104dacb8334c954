"""Progress of sampling, on stderr."""

from __future__ import annotations

from types import TracebackType
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@final
class SamplingProgress:
    """A bar that counts finished samples."""

    def __init__(self, total: int, done: int, *, enabled: bool) -> None:
        """A bar over ``total`` samples of which ``done`` exist already."""
        self._bar = Progress(
            TextColumn("sampling"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} structures"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._task = self._bar.add_task("sampling", total=total, completed=done)

    def advance(self, count: int) -> None:
        """Count ``count`` more."""
        self._bar.advance(self._task, count)

    def __enter__(self) -> SamplingProgress:
        """Start showing."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        self._bar.stop()
