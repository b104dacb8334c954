"""Ranked top-1: of a target's samples our own ranking picks one candidate, no truth used, and that one is compared.

The ranking is that of ``dao predict``: by recurrence, or by a predictor's energy. Finished targets are appended to a
file, as samples and matches are.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dao.crystal import Crystal
from dao.evaluation.csp import Predicted
from dao.evaluation.matching import match_pairs
from dao.evaluation.targets import Targets
from dao.jsonl import JsonLines
from dao.prediction.judging import Judge, Judging
from dao.prediction.ranking import rank_by_recurrence

Task = tuple[int, Crystal, list[Crystal]]

AT_A_TIME = 64
"""Targets between two writes."""


Answer = tuple[int, float | None]
"""Target's row, and RMS distance of the candidate ranked first to it (None: no match, or no candidate)."""


def first_candidate(task: Task, seconds: float, judge: Judge | None = None) -> Answer:
    """Rank a target's samples, by recurrence or as ``judge`` does, and compare the first candidate."""
    row, target, samples = task
    found = [(1, index, crystal) for index, crystal in enumerate(samples)]
    ranked = rank_by_recurrence(target.name, target.num_atoms, found, total=len(found), source="evaluation")
    if judge is not None:
        ranked = judge.rank(ranked)
    if not ranked:
        return row, None
    (match,) = match_pairs([ranked[0].crystal], [target], [(0, 0)], seconds=seconds)
    return row, match.rms


class Ranking:
    """The ranked candidates of all targets, in a file of the evaluation's folder."""

    def __init__(self, targets: Targets, predicted: Predicted, path: Path, judging: Judging | None = None) -> None:
        """Read what an earlier run has ranked; ``judging`` by a predictor's energy, or None by recurrence.

        Raises:
            InputError: it was of other predictions or targets, by another predictor, or there is no such predictor.

        """
        self.targets, self.predicted, self._judging = targets, predicted, judging
        self._judge = None if judging is None else judging.load("cpu")
        made_by = {
            "targets": targets.fingerprint(),
            "predictions": predicted.made_by,
            "samples": predicted.samples,
        }
        if self._judge is not None and self._judge.ranker is not None:
            made_by |= {"predictor": self._judge.ranker.fingerprint, "rank": self._judge.order}
        if self._judge is not None and self._judge.learned is not None:
            made_by["ranker"] = self._judge.learned.fingerprint
        if self._judge is not None and self._judge.plausibility is not None:
            made_by["plausibility"] = self._judge.plausibility.fingerprint
        if self._judge is not None and self._judge.symmetry is not None:
            made_by["symmetry prior"] = self._judge.symmetry.fingerprint
        self._file = JsonLines(path, made_by, "ranked candidates")
        self.done: dict[int, float | None] = dict(
            self._file.read(lambda line: (int(line[0]), None if line[1] is None else float(line[1])))
        )

    @property
    def missing(self) -> list[int]:
        """Rows of targets that are not ranked yet."""
        return [row for row in range(len(self.targets.crystals)) if row not in self.done]

    def run(self, advance: Callable[[int], None], *, workers: int, seconds: float) -> npt.NDArray[np.float64]:
        """Rank what is missing; (M,) RMS distance of each target's first candidate, nan = no match."""
        tasks = [
            (
                row,
                _bare(self.targets.crystals[row]),
                [_bare(one) for one in self.predicted.crystals[row] if one is not None],
            )
            for row in self.missing
        ]
        with closing(self._answers(tasks, workers, seconds)) as answers:
            while batch := list(islice(answers, AT_A_TIME)):
                self._file.append([list(answer) for answer in batch])
                self.done.update(batch)
                advance(len(batch))
        values = [self.done[row] for row in range(len(self.targets.crystals))]
        return np.array([np.nan if value is None else value for value in values])

    def _answers(self, tasks: Sequence[Task], workers: int, seconds: float) -> Generator[Answer]:
        if workers == 1:
            yield from map(partial(first_candidate, seconds=seconds, judge=self._judge), tasks)
            return
        # spawned, not forked: a fork of a process that runs torch's threads can hang
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(self._judging,)) as pool:
            yield from pool.map(partial(_answer, seconds=seconds), tasks, chunksize=4)


_WORKER: list[Judge] = []
"""The judge of a worker process, loaded once."""


def _begin(judging: Judging | None) -> None:
    """In a worker."""
    if judging is not None:
        import torch

        torch.set_num_threads(1)
        _WORKER.append(judging.load("cpu"))


def _answer(task: Task, seconds: float) -> Answer:
    """In a worker."""
    return first_candidate(task, seconds, _WORKER[0] if _WORKER else None)


def _bare(crystal: Crystal) -> Crystal:
    """Without what only costs time on its way to another process."""
    return Crystal(crystal.atomic_numbers, crystal.frac_coords, crystal.lattice, crystal.material_id)
