"""Jobs: what may be asked, and the folder in which each is kept.

``OUT/<id>/job.json`` says what a job is and how it stands; beside it lies what ``dao predict --report`` would have
written. Ids are made here, and nothing that a client sends ever becomes part of a path but an id of their form.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dao.errors import InputError
from dao.prediction.composition import parse_cells, parse_formula
from dao.prediction.files import write_text

MAX_FORMULA = 200
"""Characters of a formula."""

MAX_SAMPLES = 500
"""Samples of a job."""

MAX_ATOMS = 100
"""Atoms in the largest cell of a job: ten times the atoms take some hundred times as long."""

PAGE = 20
"""Jobs on a page of the history."""

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
UNFINISHED: tuple[State, ...] = ("queued", "running")
REPEATABLE: tuple[State, ...] = ("failed", "cancelled", "interrupted")

_ID = re.compile(r"[0-9a-f]{32}")
_JOB = "job.json"
INTERRUPTED = "The server stopped before this prediction was finished. What it had done is kept."


class Order(BaseModel):
    """What a client may ask."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    formula: str = Field(max_length=MAX_FORMULA)
    samples: int | None = Field(default=None, ge=1, le=MAX_SAMPLES)
    cells: str = Field(default="auto", max_length=40)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a server adds to what is asked.

    Attributes:
        samples: of a job, where none are asked for.
        trained: atoms in the largest cell that the weights were trained on; None where they do not say.
        weights: in words.

    """

    samples: int
    trained: int | None
    weights: str


class Job(BaseModel):
    """A prediction that was asked for, and how it stands."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    formula: str
    """Reduced; also the name of the folder in which the results are."""
    units: tuple[int, ...]
    """Formula units a cell to try."""
    cells: str = "auto"
    """What they were asked for as: prototypes may take other cells where it is ``auto``."""
    samples: int
    seed: int
    state: State = "queued"
    message: str = ""
    """What went wrong, or what else there is to say, in plain words."""
    created: str
    """When, in UTC, as the two below."""
    started: str | None = None
    finished: str | None = None
    candidates: int | None = None
    """How many were found, where the job is done."""
    best: dict[str, Any] | None = None
    """Record of the first of them."""
    made_with: dict[str, str] = Field(default_factory=dict)
    """Weights and whatever else decides the samples, as it was then: those of another making are not gone on with."""


def read_order(payload: object, defaults: Defaults) -> tuple[str, tuple[int, ...], int, int, str]:
    """Formula, formula units a cell, samples, seed and cells as written, of the decoded JSON that a client sent.

    Raises:
        InputError: anything that is not wanted; one line for the one who typed it.

    """
    try:
        order = Order.model_validate(payload)
    except ValidationError as error:
        first = error.errors()[0]
        named = ".".join(str(part) for part in first["loc"])[:40]
        raise InputError(f"{named or 'request'}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    composition = parse_formula(order.formula, MAX_ATOMS)
    automatic = order.cells.strip().lower() == "auto"
    units = parse_cells(order.cells, composition, None if automatic else MAX_ATOMS, trained=defaults.trained)
    return composition.reduced_formula, units, order.samples or defaults.samples, order.seed, order.cells


def is_id(text: str) -> bool:
    """Whether this could be the id of a job."""
    return _ID.fullmatch(text) is not None


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Store:
    """The folder of all jobs. Nothing is kept in memory: its size does not depend on the history's."""

    def __init__(self, root: Path) -> None:
        """Name the folder; it is made when it is needed."""
        self.root = root

    def new(
        self,
        formula: str,
        units: tuple[int, ...],
        samples: int,
        seed: int,
        made_with: dict[str, str],
        cells: str = "auto",
    ) -> Job:
        """A job that is not on disk yet. Its id starts with the time, so that names sort by age, and is random."""
        # microseconds in 13 digits last until 2112; 76 bits are random
        name = f"{time.time_ns() // 1000:013x}{secrets.token_hex(10)}"[:32]
        return Job(
            id=name,
            formula=formula,
            units=units,
            cells=cells,
            samples=samples,
            seed=seed,
            created=now(),
            made_with=made_with,
        )

    def folder(self, job_id: str) -> Path:
        """Where a job is kept.

        Raises:
            ValueError: what is named is no id.

        """
        if not is_id(job_id):
            raise ValueError(f"{job_id!r} is not the id of a job")
        return self.root / job_id

    def results(self, job: Job) -> Path:
        """Folder of the candidates and the report."""
        return self.folder(job.id) / job.formula

    def write(self, job: Job) -> None:
        """Put down how a job stands, wholly or not at all.

        Raises:
            OSError: the folder cannot be written.

        """
        folder = self.folder(job.id)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _JOB, job.model_dump_json(indent=1) + "\n")

    def read(self, job_id: str) -> Job | None:
        """The job as it was put down; None where there is none, or none that can be read."""
        try:
            job = Job.model_validate_json((self.folder(job_id) / _JOB).read_bytes())
            # the folder of the results is named by it: what is not a formula of ours is not followed
            sound = job.id == job_id and parse_formula(job.formula).reduced_formula == job.formula
        except (OSError, ValueError):
            return None
        return job if sound else None

    def page(self, number: int) -> tuple[list[Job], int]:
        """A page of the history, the newest first, and how many pages there are; the first page has number 1."""
        try:
            names = sorted((path.name for path in self.root.iterdir() if is_id(path.name)), reverse=True)
        except FileNotFoundError:
            names = []
        pages = max(1, -(-len(names) // PAGE))
        wanted = names[(number - 1) * PAGE : number * PAGE]
        return [job for job in map(self.read, wanted) if job is not None], pages

    def best(self, job: Job) -> tuple[int, dict[str, Any] | None]:
        """How many candidates a job has, and the record of the first, its crystal left out."""
        records: list[dict[str, Any]] = json.loads((self.results(job) / "candidates.json").read_text(encoding="utf-8"))
        if not records:
            return 0, None
        return len(records), {key: value for key, value in records[0].items() if key != "structure"}
