"""The process that predicts: reads jobs as lines of JSON on standard input and says on standard output how they go.

It is a process of its own so that a prediction never holds up the server, can be stopped at any moment by ending it,
and may run out of memory without taking the server along. The generator stays in memory, and torch warm, from job to
job.

Lines out: ``{"ready": true}``, then for a job ``{"stage": ..., "done": ..., "total": ...}`` and, once and last,
``{"finished": message}`` or ``{"failed": message}``.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dao.errors import InputError

if TYPE_CHECKING:
    from dao.models import Generator
    from dao.prediction.pipeline import FormulaResult
    from dao.prediction.sources import Sources

SECONDS_BETWEEN = 0.2
"""Progress is said no more often."""

STAGES = ("starting", "sampling", "ranking", "report")
"""Of a job, in this order; the first is while the worker itself starts."""

Tell = Callable[[str, float, int], None]
"""Called with the stage, how much of it is done and how much there is (0: not known)."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the worker is to do.

    Attributes:
        formula: reduced.
        units: formula units a cell to try.
        cells: what they were asked for as.
        samples: structures to generate.
        seed: seed.
        folder: where the formula's folder goes.

    """

    formula: str
    units: tuple[int, ...]
    samples: int
    seed: int
    folder: Path
    cells: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Predicting:
    """What every prediction of a server is made with: options of ``dao predict``."""

    weights: str | None = None
    predictor: str | None = None
    sources: str | None = None
    table: str | None = None
    device: str = "auto"
    steps: int | None = None

    def described(self) -> dict[str, str]:
        """What decides the samples of a job, by name, as it stands."""
        import dao
        from dao.weights import DEFAULT, weights_hash

        weights = self.weights or DEFAULT
        found = weights_hash(weights)
        hashed = {} if found is None else {"weights_sha256": found}
        steps = {} if self.steps is None else {"steps": str(self.steps)}
        return {"version": dao.__version__, "weights": weights, **hashed, **steps}


def work(predict: Callable[[Task, Tell], str], warm_up: Callable[[], None]) -> None:
    """Do jobs until standard input ends, which it does when the server is gone; then end at once.

    Args:
        predict: does a job and returns what else there is to say of it; what it raises fails the job.
        warm_up: called before the first.

    """
    # whatever a library prints must not look like an answer
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin, tasks), daemon=True).start()
    try:
        warm_up()
    except InputError as error:  # the jobs will say so too
        sys.stderr.write(f"{error}\n")
    _say(out, {"ready": True})
    while True:
        fields = json.loads(tasks.get())
        task = Task(**fields | {"units": tuple(fields["units"]), "folder": Path(fields["folder"])})
        try:
            message = predict(task, _Teller(out))
        except InputError as error:
            _say(out, {"failed": str(error)})
        except Exception as error:  # noqa: BLE001 -- one job's failure must not be the next one's
            traceback.print_exc()
            _say(out, {"failed": f"internal error: {type(error).__name__}: {error}"[:500]})
        else:
            _say(out, {"finished": message})


class JobPredictor:
    """Does jobs with a generator that it loads once."""

    def __init__(self, made_with: Predicting) -> None:
        """Nothing is loaded before :meth:`warm_up`, or the first job."""
        self._made_with = made_with
        self._model: Generator | None = None

    def warm_up(self) -> None:
        """Import what a job needs, and load the generator.

        Raises:
            InputError: weights that cannot be used.

        """
        import dao.report.results  # noqa: F401 -- imported for later
        from dao.prediction.judging import Judging
        from dao.prediction.pipeline import load_generator

        if self._sources().generator and self._model is None:
            self._model = load_generator(self._made_with.weights, self._made_with.device)
        Judging(predictor=self._made_with.predictor).source()

    def __call__(self, task: Task, tell: Tell) -> str:
        """Predict as ``dao predict --report`` does, less the report's figures as files.

        Returns:
            Why there are no candidates, where there are none.

        Raises:
            InputError: see :func:`dao.prediction.folders.predict_to_folder`.

        """
        from dao.prediction.composition import parse_formula, prototype_cells
        from dao.prediction.folders import predict_to_folder
        from dao.prediction.judging import Judging
        from dao.report.results import report_on
        from dao.stages import REPORT

        def sampled(done: float, total: int) -> None:
            # the last state has been reached; telling the same crystals apart, and their energies, come next
            tell("sampling" if done < total else "ranking", min(done, total), total)

        def report(result: FormulaResult) -> None:
            tell("report", 0.0, 0)
            report_on(result, figures=False)

        self.warm_up()
        composition = parse_formula(task.formula)
        run = predict_to_folder(
            {composition: task.units},
            prototype_units={composition: prototype_cells(task.cells, composition)},
            out=task.folder,
            weights=self._model,
            samples=task.samples,
            steps=self._made_with.steps,
            seed=task.seed,
            device=self._made_with.device,
            judging=Judging(
                predictor=self._made_with.predictor,
                generator=self._model,
            ),
            sources=self._sources(),
            progress=False,
            on_start=lambda: tell("sampling", 0.0, task.samples),
            on_progress=sampled,
            on_result=report,
            further=REPORT,
        )
        return "; ".join(str(failure["reason"]) for failure in run.failures)

    def _sources(self) -> Sources:
        from dao.prediction.sources import choose_sources

        return choose_sources(self._made_with.sources, self._made_with.table)


class _Teller:
    """Says how far a job is: never backwards within a stage, and not more often than anyone could read."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._stage = STAGES[0]
        self._done = -1.0
        self._said = 0.0

    def __call__(self, stage: str, done: float, total: int) -> None:
        clock = time.monotonic()
        if STAGES.index(stage) < STAGES.index(self._stage):
            return  # samples that failed are tried again
        if stage == self._stage and (done <= self._done or clock - self._said < SECONDS_BETWEEN):
            return
        self._stage, self._done, self._said = stage, done, clock
        _say(self._out, {"stage": stage, "done": round(done, 2), "total": total})


def _say(out: TextIO, line: dict[str, Any]) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()


def _read(stream: TextIO, tasks: queue.SimpleQueue[str]) -> None:
    for line in stream:
        tasks.put(line)
    os._exit(0)  # from a thread, while a prediction may be under way


def main() -> None:
    """Work for a server that gives its :class:`Predicting` as JSON in the first argument."""
    predictor = JobPredictor(Predicting(**json.loads(sys.argv[1])))
    work(predictor, predictor.warm_up)


if __name__ == "__main__":
    main()
