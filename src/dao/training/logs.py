"""What a run says while it runs: CSV logs, TensorBoard where wanted, and a progress bar with the time left."""

from __future__ import annotations

import csv
from pathlib import Path
from types import TracebackType
from typing import Any, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from dao.errors import InputError


def check_tensorboard() -> None:
    """Refuse to log to TensorBoard where it is not installed.

    Raises:
        InputError: says how to install it.

    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise InputError("record.tensorboard needs TensorBoard: pip install '.[train]' in the folder of DAO") from None


@final
class RunLog:
    """``log.csv`` and ``validation.csv`` of a run; lines past the step resumed from are dropped first."""

    def __init__(self, folder: Path, step: int, *, tensorboard: bool) -> None:
        """Open the logs of a run that stands at ``step``; for ``tensorboard`` see :func:`check_tensorboard`."""
        self.folder = folder
        for name in ("log.csv", "validation.csv"):
            _truncate(folder / name, step)
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def training(self, step: int, crystals: int, seconds: float, figures: dict[str, float]) -> None:
        """One line of training figures."""
        self._write("log.csv", step, crystals, seconds, figures)

    def validation(self, step: int, crystals: int, seconds: float, figures: dict[str, float]) -> None:
        """One line of validation figures."""
        self._write("validation.csv", step, crystals, seconds, figures)

    def _write(self, name: str, step: int, crystals: int, seconds: float, figures: dict[str, float]) -> None:
        row = {"step": step, "crystals": crystals, "seconds": round(seconds, 1)} | {
            key: f"{value:.6g}" for key, value in figures.items()
        }
        path = self.folder / name
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, row.keys())
            if new:
                writer.writeheader()
            writer.writerow(row)
        if self._writer is not None:
            for key, value in figures.items():
                self._writer.add_scalar(f"{name.removesuffix('.csv')}/{key}", value, step)

    def __enter__(self) -> RunLog:
        """Use as a context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close TensorBoard."""
        if self._writer is not None:
            self._writer.close()


def _truncate(path: Path, step: int) -> None:
    """Keep the header and whole lines up to ``step``: a killed run may have logged past its checkpoint."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines[1:] if line.endswith("\n") and line.partition(",")[0].isdigit()]
    kept = [line for line in kept if int(line.partition(",")[0]) <= step]
    if not kept:
        path.unlink()
    else:
        part = path.with_name(f".{path.name}.part")
        part.write_text("".join([lines[0], *kept]), encoding="utf-8")
        part.replace(path)


@final
class TrainingProgress:
    """Progress bar on stderr: loss, crystals/s and time left."""

    def __init__(self, name: str, steps: int, step: int, *, enabled: bool) -> None:
        """Make a bar for a run of ``steps`` that stands at ``step``."""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._task = self._bar.add_task(name, total=steps, completed=step, figures="", note="")
        self._loss: float | None = None

    def update(self, step: int, figures: dict[str, Tensor], rate: float) -> None:
        """Show a step; the loss is smoothed over about a hundred."""
        loss = float(figures["loss"])
        self._loss = loss if self._loss is None else 0.99 * self._loss + 0.01 * loss
        text = f"loss {self._loss:.4f}  {rate:.0f} crystals/s"
        self._bar.update(self._task, completed=step, figures=text)

    def note(self, text: str) -> None:
        """Show a remark behind the bar."""
        self._bar.update(self._task, note=text)

    def __enter__(self) -> TrainingProgress:
        """Start showing."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        self._bar.stop()
