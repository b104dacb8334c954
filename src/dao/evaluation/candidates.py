"""The ranked candidates of ``dao predict`` for each target, from prototypes alone or together with a generator.

Once prototypes are among the sources, the k-th try is the k-th candidate of our own ranking: no truth is used, and
best-of-20 counts 20 candidates whatever their source. Finished targets are appended to a file, as samples are.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dao.crystal import Crystal
from dao.errors import InputError
from dao.evaluation.csp import Predicted
from dao.evaluation.targets import Targets
from dao.jsonl import JsonLines
from dao.prediction.judging import Judge, Judging
from dao.prediction.proposals import with_proposals
from dao.prediction.prototype_table import PrototypeTable
from dao.prediction.prototypes import Proposer
from dao.prediction.ranking import rank_by_recurrence
from dao.prediction.sources import Sources
from dao.progress import CountProgress

if TYPE_CHECKING:
    from dao.evaluation.run import How

Task = tuple[int, tuple[int, ...], list[Crystal | None]]
"""A target's row, the atomic numbers of its cell, and the generator's samples, None for one that is no crystal."""

Answer = tuple[int, list[Crystal]]

AT_A_TIME = 32
"""Targets between two writes."""


class Candidates:
    """Ranked candidates of all targets, in a file of the evaluation's folder."""

    def __init__(
        self,
        targets: Targets,
        generated: Predicted | None,
        sources: Sources,
        judging: Judging,
        *,
        count: int,
        path: Path,
    ) -> None:
        """Read what an earlier run has done.

        Args:
            targets: M of them.
            generated: samples of the generator, if it is a source.
            sources: with a table.
            judging: what ranks.
            count: candidates a target to keep.
            path: of the file.

        Raises:
            InputError: it was of other targets, samples or prototypes, or there is no such table or predictor.

        """
        self._maker = _Maker.load(sources, judging)
        self._setup = sources, judging
        self.made_by: dict[str, Any] = {
            **({} if generated is None else generated.made_by),
            "sources": sources.names,
            "prototypes": self._maker.proposer.table.fingerprint,
            "proposals": sources.proposals,
            "exclude same composition": sources.exclude_same_composition,
            "ranked by": self._maker.judge.note(),
        }
        self.targets, self.generated, self.count = targets, generated, count
        samples = 0 if generated is None else generated.samples
        full = {**self.made_by, "targets": targets.fingerprint(), "samples": samples, "candidates": count}
        self._file = JsonLines(path, full, "candidates")
        self.done: dict[int, list[Crystal]] = dict(self._file.read(_from_line))

    @property
    def missing(self) -> list[int]:
        """Rows of targets that are not done."""
        return [row for row in range(len(self.targets.crystals)) if row not in self.done]

    def run(self, advance: Callable[[int], None], *, workers: int) -> Predicted:
        """Do what is missing; the candidates, best first, None where there are fewer."""
        compositions = self.targets.compositions
        tasks = []
        for row in self.missing:
            samples = () if self.generated is None else self.generated.crystals[row]
            bare = [
                None if one is None else Crystal(one.atomic_numbers, one.frac_coords, one.lattice) for one in samples
            ]
            tasks.append((row, compositions[row], bare))
        with closing(self._answers(tasks, workers)) as answers:
            while batch := list(islice(answers, AT_A_TIME)):
                batch = [(row, crystals[: self.count]) for row, crystals in batch]
                self._file.append(map(_to_line, batch))
                self.done.update(batch)
                advance(len(batch))
        rows = []
        for row in range(len(self.targets.crystals)):
            own: list[Crystal | None] = [*self.done[row]]
            rows.append(tuple(own + [None] * (self.count - len(own))))
        walks = 0.0 if self.generated is None else self.generated.walks
        return Predicted(tuple(rows), self.made_by, walks)

    def _answers(self, tasks: Sequence[Task], workers: int) -> Generator[Answer]:
        if workers == 1:
            yield from map(self._maker, tasks)
            return
        # spawned, not forked: a fork of a process that runs torch's threads can hang
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=self._setup) as pool:
            yield from pool.map(_answer, tasks, chunksize=4)


class _Maker:
    """What a process needs to make candidates."""

    def __init__(self, sources: Sources, judge: Judge, proposer: Proposer) -> None:
        self.sources, self.judge, self.proposer = sources, judge, proposer

    @classmethod
    def load(cls, sources: Sources, judging: Judging) -> _Maker:
        if sources.table is None:
            raise ValueError("no table of prototypes")
        alone = judging.ranking()
        judge = Judge() if alone is None else alone.load("cpu")
        return cls(sources, judge, Proposer.load(sources.table, *sources.also))

    def __call__(self, task: Task) -> Answer:
        row, numbers, samples = task
        found = [(1, index, crystal) for index, crystal in enumerate(samples) if crystal is not None]
        # of all that the generator made, as in dao predict
        total = len(samples)
        ranked = rank_by_recurrence("evaluation", len(numbers), found, total=total, source="generator")
        every = with_proposals(ranked, self.proposer, "evaluation", {1: numbers}, self.sources, samples=total)
        return row, [one.crystal for one in self.judge.rank(every)]


_WORKER: list[_Maker] = []
"""Of a worker process, loaded once."""


def _begin(sources: Sources, judging: Judging) -> None:
    """In a worker."""
    import torch

    torch.set_num_threads(1)
    _WORKER.append(_Maker.load(sources, judging))


def _answer(task: Task) -> Answer:
    """In a worker."""
    return _WORKER[0](task)


def _to_line(answer: Answer) -> list[Any]:
    row, crystals = answer
    return [row, [[one.atomic_numbers.tolist(), one.frac_coords.tolist(), one.lattice.tolist()] for one in crystals]]


def _from_line(line: Any) -> Answer:  # noqa: ANN401 -- what a line of JSON holds
    row, crystals = line
    return int(row), [
        Crystal(np.array(numbers), np.array(coords), np.array(cell)) for numbers, coords, cell in crystals
    ]


def check_table(path: Path, data: Path, split: str | None) -> None:
    """Refuse a table unless its record says that the crystals that it is to be scored on are not in it.

    Args:
        path: of the table.
        data: file of the targets.
        split: that they are of; None: all of it.

    Raises:
        InputError: they are or may be, or there is no such table.

    """
    record = PrototypeTable.load(path).record
    left_out = [one for one in record.get("left_out", []) if one["source"] == data.name]
    if any(not one["splits"] or split in one["splits"] for one in left_out):
        return
    of = f" of split {split}" if split else ""
    if record.get("source") != data.name:
        raise InputError(
            f"--table {path}: may hold what it would be scored on: its record does not say that the crystals of"
            f" {data.name}{of} were left out (dao prototypes build --leave-out)"
        )
    splits = record.get("splits", [])
    if split is None or not splits or split in splits:
        raise InputError(f"--table {path}: was built from the crystals of {data.name}{of}, which it would be scored on")


def prototypes_note(sources: Sources) -> dict[str, str]:
    """What a report says of the table that proposed; nothing where none did."""
    if sources.table is None:
        return {}
    built = "; ".join(_built(path) for path in (sources.table, *sources.also))
    if sources.exclude_same_composition:
        built += ", the target's own composition excluded"
    return {
        "Sources": f"{sources.names}; the k-th try is the k-th candidate of our ranking",
        "Prototypes": built,
    }


def _built(path: Path) -> str:
    """How many prototypes a table has of what."""
    table = PrototypeTable.load(path)
    record = table.record
    splits = ", ".join(record.get("splits", [])) or "all splits"
    built = f"{len(table):,} of {record.get('crystals', 0):,} crystals of {record.get('source')} ({splits})"
    for one in record.get("left_out", []):
        built += f", without ids of {one['source']} ({', '.join(one['splits']) or 'all'})"
    return f"{built} ({table.fingerprint})"


def file_name(what: str, how: How) -> str:
    """Of a file in the evaluation's folder: other sources and other rankings have files of their own."""
    judging = how.judging.ranking()
    kind = "recurrence" if judging is None else judging.rank
    return f"{what}-{how.sources.names.replace(',', '-')}-{kind}-{max(how.ks)}.jsonl"


def ranked_candidates(targets: Targets, generated: Predicted | None, how: How) -> Predicted:
    """The first candidates of our ranking, max(ks) a target, best first.

    Raises:
        InputError: as :class:`Candidates`.

    """
    count = max(how.ks)
    making = Candidates(
        targets, generated, how.sources, how.judging, count=count, path=how.out / file_name("candidates", how)
    )
    total, missing = len(targets.crystals), len(making.missing)
    with CountProgress(
        total, total - missing, enabled=how.progress and missing > 0, what="candidates", of="compositions"
    ) as bar:
        return making.run(bar.advance, workers=how.workers)
