"""Progress of work that is counted in pieces, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@final
class FormulaProgress:
    """A bar over the structures of some formulas; it makes room for results that are printed meanwhile, and goes.

    Where stderr is no terminal, a line says of each formula that it is finished; of a single one nothing is said.
    """

    def __init__(self, formulas: int, structures: int, *, enabled: bool) -> None:
        """A bar over ``structures`` to come; without any it counts the formulas."""
        self._console = Console(stderr=True)
        self._formulas, self._finished = formulas, 0
        self._structures = structures > 0
        columns = [TextColumn("{task.fields[done]}")] if formulas > 1 else []
        counted = "structures" if self._structures else "formulas"
        self._bar = Progress(
            TextColumn("predicting" if formulas > 1 else "sampling"),
            BarColumn(),
            *columns,
            TextColumn("{task.completed}/{task.total} " + counted),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not enabled or not self._console.is_terminal,
            transient=True,
            # results on standard output are not this bar's to redirect
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._lines = enabled and not self._console.is_terminal and formulas > 1
        self._task = self._bar.add_task("", total=structures or formulas, done=self._count())

    def _count(self) -> str:
        return f"{self._finished}/{self._formulas} formulas" if self._structures else ""

    def advance(self, structures: int) -> None:
        """Count structures that are there."""
        if self._structures:
            self._bar.advance(self._task, structures)

    def finish(self, formula: str, candidates: int) -> None:
        """Count a formula."""
        self._finished += 1
        self._bar.update(self._task, done=self._count(), advance=0 if self._structures else 1)
        if self._lines:
            found = "1 candidate" if candidates == 1 else f"{candidates or 'no'} candidates"
            self._console.print(f"{self._finished}/{self._formulas} {formula}: {found}", highlight=False)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Off the screen, for something else to be printed."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def __enter__(self) -> FormulaProgress:
        """Start showing."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        self._bar.stop()
