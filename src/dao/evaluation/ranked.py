"""Ranked top-1: of a target's samples our own ranking picks one candidate, no truth used, and that one is compared.

The ranking is that of ``dao predict``. Finished targets are appended to a file, as samples and matches are.
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
from dao.prediction.ranking import rank_by_recurrence

Task = tuple[int, Crystal, list[Crystal]]

AT_A_TIME = 64
"""Targets between two writes."""


def first_candidate(task: Task, seconds: float) -> tuple[int, float | None]:
    """Target's row, and RMS distance of the candidate ranked first to it (None: no match, or no candidate)."""
    row, target, samples = task
    found = [(1, index, crystal) for index, crystal in enumerate(samples)]
    ranked = rank_by_recurrence(target.name, target.num_atoms, found, total=len(found), source="evaluation")
    if not ranked:
        return row, None
    (match,) = match_pairs([ranked[0].crystal], [target], [(0, 0)], seconds=seconds)
    return row, match.rms


class Ranking:
    """The ranked candidates of all targets, in a file of the evaluation's folder."""

    def __init__(self, targets: Targets, predicted: Predicted, path: Path) -> None:
        """Read what an earlier run has ranked.

        Raises:
            InputError: it was of other predictions or targets.

        """
        self.targets, self.predicted = targets, predicted
        made_by = {
            "targets": targets.fingerprint(),
            "predictions": predicted.made_by,
            "samples": predicted.samples,
        }
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
        with closing(_answers(tasks, workers, seconds)) as answers:
            while batch := list(islice(answers, AT_A_TIME)):
                self._file.append([list(answer) for answer in batch])
                self.done.update(batch)
                advance(len(batch))
        values = [self.done[row] for row in range(len(self.targets.crystals))]
        return np.array([np.nan if value is None else value for value in values])


def _bare(crystal: Crystal) -> Crystal:
    """Without what only costs time on its way to another process."""
    return Crystal(crystal.atomic_numbers, crystal.frac_coords, crystal.lattice, crystal.material_id)


def _answers(tasks: Sequence[Task], workers: int, seconds: float) -> Generator[tuple[int, float | None]]:
    answer = partial(first_candidate, seconds=seconds)
    if workers == 1:
        yield from map(answer, tasks)
        return
    # spawned, not forked: a fork of a process that runs torch's threads can hang
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(answer, tasks, chunksize=4)
