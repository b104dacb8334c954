"""Progress of work that is counted in pieces, on stderr."""

from __future__ import annotations

from types import TracebackType
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@final
class CountProgress:
    """A bar that counts finished pieces."""

    def __init__(
        self, total: int | None, done: int, *, enabled: bool, what: str = "sampling", of: str = "structures"
    ) -> None:
        """A bar over ``total`` pieces (None: unknown) ``of`` something, of which ``done`` exist already."""
        self._bar = Progress(
            TextColumn(what),
            BarColumn(),
            TextColumn("{task.completed}" + ("" if total is None else "/{task.total}") + f" {of}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._task = self._bar.add_task(what, total=total, completed=done)

    def advance(self, count: int) -> None:
        """Count ``count`` more."""
        self._bar.advance(self._task, count)

    def __enter__(self) -> CountProgress:
        """Start showing."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        self._bar.stop()
