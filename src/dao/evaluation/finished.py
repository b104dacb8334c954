"""An evaluation that ``dao evaluate csp`` has finished, read back from its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dao.crystal import Crystal
from dao.errors import InputError
from dao.evaluation.csp import requests_for
from dao.evaluation.scores import Scores
from dao.evaluation.targets import Targets, load_targets
from dao.jsonl import read_made_by
from dao.sample_file import SampleFile

_OF_THE_EVALUATION = ("targets", "time limit")
"""What an evaluation was made by beyond what its samples were."""


@dataclass(frozen=True)
class Finished:
    """Targets, the samples of its first seed, and what the matcher said of them.

    Attributes:
        targets: M of them.
        crystals: M rows of K samples, None where one is no crystal.
        scores: of these samples.
        made_by: what the samples were made by.
        settings: of the evaluation, as its report prints them.

    """

    targets: Targets
    crystals: tuple[tuple[Crystal | None, ...], ...]
    scores: Scores
    made_by: dict[str, Any]
    settings: dict[str, str]


def read_finished(folder: Path, data: Path, *, split: str | None) -> Finished:
    """Read the folder of an evaluation.

    Args:
        folder: what ``dao evaluate csp --out`` wrote.
        data: the crystals that it was given as ``--data``, which no folder holds.
        split: of them.

    Raises:
        InputError: no such folder, an evaluation that is not finished, was of other data or kept no samples.

    """
    made_by = read_made_by(folder / "evaluation.jsonl", "results of an evaluation")
    if "content" in made_by:
        raise InputError(f"{folder}: an evaluation of --predictions, which keeps no samples; only ours are kept")
    try:
        seed = int(made_by["seed"])
        fingerprint = str(made_by["targets"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{folder / 'evaluation.jsonl'}: not a file of results of an evaluation") from None
    scores = Scores.from_json(_object(folder / "scores.json"))
    settings = _object(folder / "results.json").get("settings")
    available = load_targets(data, split=split)
    rows = {name: row for row, name in enumerate(available.ids)}
    targets = available.select([rows[name] for name in scores.ids if name in rows], "those of the evaluation")
    if targets.ids != scores.ids or targets.fingerprint() != fingerprint:
        of = "" if split is None else f", split {split}"
        raise InputError(f"{folder}: its targets are not crystals of {data}{of}: give the --data and --split it was of")
    signature = {key: value for key, value in made_by.items() if key not in _OF_THE_EVALUATION}
    done = SampleFile(folder, signature, f"samples-{seed}.jsonl").read()
    requests = requests_for(targets, scores.samples)
    if any(request not in done for row in requests for request in row):
        raise InputError(f"{folder / f'samples-{seed}.jsonl'}: lacks samples: run dao evaluate csp to its end")
    crystals = tuple(tuple(done[request].crystal for request in row) for row in requests)
    return Finished(targets, crystals, scores, signature, dict(settings) if isinstance(settings, dict) else {})


def _object(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent}: holds no {path.name}: run dao evaluate csp to its end") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: not a JSON object")
    return record
