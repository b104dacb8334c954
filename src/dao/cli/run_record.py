"""What a run of ``dao predict`` says of itself: what it was made with and where its time went."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dao.errors import InputError
from dao.stages import Stages, in_words, rounded
from dao.system import cores, versions

if TYPE_CHECKING:
    from dao.prediction.folders import PredictionRun

FILE = "run.json"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The times of a run, and what it uses: weights, predictor and table as they were found."""

    stages: Stages
    device: str
    weights: Path | str | None
    predictor: Path | str | None
    table: Path | None

    def _uses(self) -> dict[str, str | None]:
        names = {"weights": self.weights, "predictor": self.predictor, "table": self.table}
        return {name: None if path is None else str(path) for name, path in names.items()}

    def say_setup(self) -> None:
        """Versions, device and folders, on stderr."""
        import torch

        from dao.device import choose_device

        said = ", ".join(f"{name} {number}" for name, number in versions().items())
        threads = f"{torch.get_num_threads()} threads, {cores()} cores"
        typer.echo(f"versions: {said}", err=True)
        typer.echo(f"device: {choose_device(self.device)} ({threads})", err=True)
        for name, path in self._uses().items():
            typer.echo(f"{name}: {path or 'none'}", err=True)

    def say_times(self, *, verbose: bool) -> None:
        """Seconds by stage, on stderr: in a line, or as a table."""
        if not verbose:
            typer.echo(f"{self.stages.total:.1f} s: {in_words(self.stages.seconds)}", err=True)
            return
        total = self.stages.total
        other = total - sum(self.stages.seconds.values())
        for name, seconds in {**self.stages.seconds, "other": other, "all": total}.items():
            typer.echo(f"{name:<24}{seconds:8.2f} s {seconds / total:6.1%}", err=True)

    def write(self, out: Path, run: PredictionRun, formulas: int) -> None:
        """Write ``run.json`` into the folder of a run.

        Raises:
            InputError: it cannot be written.

        """
        from dao.prediction.files import write_text

        record = {
            "formulas": formulas,
            "formulas_finished_earlier": run.earlier,
            "candidates": len(run.records),
            "failures": len(run.failures),
            "samples_discarded": run.discarded,
            "device": self.device,
            **self._uses(),
            "versions": versions(),
            "seconds": rounded(self.stages.seconds),
            "seconds_total": round(self.stages.total, 2),
        }
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_text(out / FILE, json.dumps(record, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror})") from None
