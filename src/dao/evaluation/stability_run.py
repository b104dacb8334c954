"""Judge the stability of a finished evaluation's predictions, in a folder.

The folder receives ``energies-CALCULATOR.jsonl`` (with ``-relax-STEPS`` where relaxed; lets a killed run go on),
``stability.json``, ``stability.md`` and, where a judge failed on a structure, ``failures.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dao.constants import STABLE_E_ABOVE_HULL
from dao.crystal import Crystal
from dao.errors import InputError
from dao.evaluation.calculator_energies import FORCE_TOLERANCE, REFERENCE, CalculatorEnergies, Computed, Key
from dao.evaluation.finished import Finished
from dao.evaluation.scores import Interval, plain
from dao.evaluation.stability import (
    LOWER_BY,
    Agreement,
    Difference,
    Judged,
    Judgement,
    StabilityRow,
    agreement,
    differences,
    stability_rows,
)
from dao.evaluation.tables import table, with_interval
from dao.models import Predictor
from dao.prediction.energies import predict_energies
from dao.prediction.files import write_failures, write_text
from dao.progress import CountProgress

RESULTS = "stability.json"


@dataclass(frozen=True, kw_only=True)
class StabilityHow:
    """How predictions are judged.

    Attributes:
        out: folder of the results.
        predictor: judge one, None: left out.
        calculator: name of judge two (:mod:`dao.interop.foundation`), None: left out.
        device: of the calculator.
        relax: steps of its relaxation, 0: none.
        count: judge so many of the targets, a fixed random subset; None: all.
        samples: judge so many of each target's samples, the first ones; None: all.
        progress: show bars on stderr.

    """

    out: Path
    predictor: Predictor | None = None
    calculator: str | None = None
    device: str = "cpu"
    relax: int = 0
    count: int | None = None
    samples: int | None = None
    progress: bool = True


@dataclass(frozen=True)
class Stability:
    """What came out, for the command line to print.

    Attributes:
        rows: figures by judge.
        agreements: of two judges.
        differences: to another run, if there is one.
        failures: structures that a judge failed on.
        left_out: targets whose reference crystal a judge failed on, so that they are in none of its figures.

    """

    rows: list[StabilityRow]
    agreements: list[Agreement]
    differences: list[Difference]
    failures: list[dict[str, Any]]
    left_out: int


def evaluate_stability(finished: Finished, how: StabilityHow, against: Path | None = None) -> Stability:
    """Judge, compare with the results ``against`` which to compare, and write the folder.

    Raises:
        InputError: no judge, results of another kind or other targets, a judge that fails on every reference, or a
            folder that holds or allows something else.

    """
    if how.predictor is None and how.calculator is None:
        raise InputError("no judge: give --calculator chgnet, --predictor FOLDER or, better, both")
    if how.samples is not None and how.samples > finished.scores.samples:
        raise InputError(f"--samples {how.samples}: the evaluation has {finished.scores.samples} samples a target")
    other = None if against is None else read_judged(against)
    rows = chosen_rows(len(finished.targets.crystals), how.count)
    samples = how.samples or finished.scores.samples
    predictions = [finished.crystals[row][:samples] for row in rows]
    references = [finished.targets.crystals[row] for row in rows]
    judgements: list[Judgement] = []
    failures: list[dict[str, Any]] = []
    notes: dict[str, str] = {}
    if how.predictor is not None:
        judgements.append(by_predictor(how.predictor, predictions, references, failures, progress=how.progress))
    if how.calculator is not None:
        judgements += _by_calculator(how.calculator, finished, rows, predictions, how, failures, notes)
    judged = Judged(
        targets=finished.targets.fingerprint(),
        ids=tuple(finished.targets.ids[row] for row in rows),
        matched=~np.isnan(finished.scores.rms[rows][:, :samples]),
        judgements=tuple(judgements),
    )
    found = Stability(
        rows=[line for one in judgements for line in stability_rows(one, judged.matched)],
        agreements=[
            line
            for place, one in enumerate(judgements[:1] if how.predictor is not None else [])
            for second in judgements[place + 1 :]
            for line in agreement(one, second)
        ],
        differences=[] if other is None else differences(judged, other),
        failures=failures,
        left_out=max(int((~one.judged).sum()) for one in judgements),
    )
    settings = _settings(finished, how, len(rows), samples, notes) | (
        {} if against is None else {"Compared with": str(against)}
    )
    _write(how.out, found, judged, settings)
    return found


def chosen_rows(targets: int, count: int | None) -> list[int]:
    """Rows of a fixed random subset, in order; a larger subset holds the smaller ones."""
    order = np.random.default_rng(0).permutation(targets)
    return sorted(order[:count].tolist())


def by_predictor(
    model: Predictor,
    predictions: Sequence[Sequence[Crystal | None]],
    references: Sequence[Crystal],
    failures: list[dict[str, Any]],
    *,
    progress: bool = False,
) -> Judgement:
    """Judge M rows of K predictions by their predicted energy above the hull."""
    name = f"DAO-P {model.config.name} ({model.fingerprint})"
    energies = np.full((len(references), 1 + len(predictions[0])), np.inf)
    places, crystals = [], []
    for row, (reference, own) in enumerate(zip(references, predictions, strict=True)):
        for column, crystal in enumerate((reference, *own)):
            if crystal is None:
                continue
            try:
                crystal.validate()
            except InputError as error:
                failures.append(_failure(references, row, column - 1, name, str(error)))
                continue
            places.append((row, column))
            crystals.append(crystal)
    for place, energy in zip(places, predict_energies(model, crystals, progress=progress), strict=True):
        if np.isfinite(energy):
            energies[place] = energy
        else:
            failures.append(_failure(references, place[0], place[1] - 1, name, f"the energy is {energy}"))
    known = _judged(energies[:, 0], name, failures)
    difference = energies[:, 1:] - np.where(known, energies[:, 0], 0.0)[:, None]
    return Judgement(name, energies[:, 1:], difference, energies[:, 0], known)


def _by_calculator(
    wanted: str,
    finished: Finished,
    rows: Sequence[int],
    predictions: Sequence[Sequence[Crystal | None]],
    how: StabilityHow,
    failures: list[dict[str, Any]],
    notes: dict[str, str],
) -> list[Judgement]:
    from dao.interop.foundation import calculator, identity

    name = identity(wanted)
    made_by = {
        "targets": finished.targets.fingerprint(),
        "predictions": finished.made_by,
        "calculator": name,
        "relaxation": {"steps": how.relax, "force tolerance": FORCE_TOLERANCE} if how.relax else None,
    }
    suffix = f"-relax-{how.relax}" if how.relax else ""
    file = CalculatorEnergies(how.out / f"energies-{wanted}{suffix}.jsonl", made_by)
    tasks = list(_tasks(finished, rows, predictions))
    missing = [task for task in tasks if task[0] not in file.done]
    if missing:
        potential = calculator(wanted, how.device)
        with CountProgress(len(tasks), len(tasks) - len(missing), enabled=how.progress, what=wanted) as bar:
            file.run(missing, potential, how.relax, bar.advance)
    references = [finished.targets.crystals[row] for row in rows]
    for (row, sample), _ in tasks:
        if reason := file.done[row, sample].failure:
            failures.append(_failure(references, rows.index(row), sample, name, reason))
    made = [_against_reference(f"{name}, as given", file.done, rows, predictions, failures)]
    if how.relax:
        found = [file.done[key] for key, _ in tasks]
        notes["Relaxation"] = (
            f"ASE's FIRE on FrechetCellFilter, predictions and references, at most {how.relax} steps, to"
            f" {FORCE_TOLERANCE:g} eV/A; {sum(one.converged for one in found):,} of {len(found):,} converged"
        )
        relaxed = f"{name}, relaxed by at most {how.relax} steps"
        made.append(_against_reference(relaxed, file.done, rows, predictions, failures, relaxed=True))
    return made


def _tasks(
    finished: Finished, rows: Sequence[int], predictions: Sequence[Sequence[Crystal | None]]
) -> Iterator[tuple[Key, Crystal]]:
    for row, own in zip(rows, predictions, strict=True):
        yield (row, REFERENCE), finished.targets.crystals[row]
        for index, crystal in enumerate(own):
            if crystal is not None:
                yield (row, index), crystal


def _against_reference(
    judge: str,
    done: dict[Key, Computed],
    rows: Sequence[int],
    predictions: Sequence[Sequence[Crystal | None]],
    failures: list[dict[str, Any]],
    *,
    relaxed: bool = False,
) -> Judgement:
    def energy(key: Key) -> float:
        one = done.get(key, Computed())
        value = one.relaxed if relaxed else one.energy
        return np.inf if value is None else value

    reference = np.array([energy((row, REFERENCE)) for row in rows])
    known = _judged(reference, judge, failures)
    own = np.array([[energy((row, index)) for index in range(len(predictions[0]))] for row in rows])
    above = own - np.where(known, reference, 0.0)[:, None]
    return Judgement(judge, above, above, None, known)


def _judged(
    reference: npt.NDArray[np.float64], judge: str, failures: Sequence[dict[str, Any]]
) -> npt.NDArray[np.bool_]:
    known = np.isfinite(reference)
    if not known.any():
        reason = failures[0]["reason"] if failures else "unknown"
        raise InputError(f"{judge}: no reference crystal has an energy; the first reason: {reason}")
    return known


def _failure(references: Sequence[Crystal], place: int, sample: int, judge: str, reason: str) -> dict[str, Any]:
    which = "reference" if sample == REFERENCE else sample
    return {"target": references[place].name, "sample": which, "judge": judge, "reason": reason}


def read_judged(folder: Path) -> Judged:
    """What an earlier run wrote in ``folder``, or in the folder ``stability`` of the evaluation ``folder``.

    Raises:
        InputError: neither, or the file is not one of ours.

    """
    path = next((one for one in (folder / RESULTS, folder / "stability" / RESULTS) if one.is_file()), None)
    if path is None:
        raise InputError(f"--against {folder}: holds no {RESULTS}: run dao evaluate stability there first")
    try:
        return Judged.from_json(json.loads(path.read_text(encoding="utf-8"))["judged"])
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise InputError(f"{path}: not what dao evaluate stability writes") from None


def _settings(finished: Finished, how: StabilityHow, count: int, samples: int, notes: dict[str, str]) -> dict[str, str]:
    kept = ("Predictions", "Sampler", "Guidance", "Data")
    total = len(finished.targets.crystals)
    return {
        **{key: str(finished.settings[key]) for key in kept if key in finished.settings},
        "Judged": f"{count:,} of {total:,} targets, first {samples} samples each, seed {finished.made_by['seed']}",
        "Independent judge": how.calculator or "none: these figures are the predictor's own opinion",
        "Stable": f"at most {_THRESHOLD} above the hull (DAO-P) or above the reference crystal",
        **notes,
        "Versions": f"dao {version('dao-crystal')}, ase {version('ase')}",
    }


_THRESHOLD = f"{STABLE_E_ABOVE_HULL:g} eV/atom"

LEGEND = f"""\
Shares of predictions, in percent; no crystal and no energy count as not stable. DAO-P: predicted energy above the hull
at most {_THRESHOLD}, and its median. Others: energy at most {_THRESHOLD} above that of the target's reference
crystal by the same potential, and the median of that difference. Lower: more than {1000 * LOWER_BY:g} meV/atom below
the reference by the same judge. Match: the prediction matches its target (benchmark tolerances, unfiltered). k =
reference: the reference crystals themselves. In brackets, 95 % bootstrap intervals over targets."""
"""What the columns mean, for the reader of a page."""

HEADINGS = {
    "judge": "Judge",
    "k": "k",
    "targets": "Targets",
    "stable": "Stable (%)",
    "energy": "Median (eV/atom)",
    "lower": "Lower (%)",
    "match": "Match (%)",
    "without_energy": "No energy",
}
"""Keys of a record, and their headings."""


def stability_record(row: StabilityRow) -> dict[str, Any]:
    """A row in words."""
    return {
        "judge": row.judge,
        "k": "reference" if row.k is None else str(row.k),
        "targets": row.targets,
        "stable": with_interval(row.stable, 100.0, 1),
        # they may be negative, and a hyphen between them would read as a sign
        "energy": f"{row.energy.value:z.3f} ({row.energy.low:z.3f} to {row.energy.high:z.3f})",
        "lower": with_interval(row.lower, 100.0, 1),
        "match": with_interval(row.match, 100.0, 1),
        "without_energy": row.without_energy,
    }


def difference_record(row: Difference) -> dict[str, Any]:
    """Likewise for a paired difference, in points."""

    def points(one: Interval) -> str:
        return f"{100 * one.value:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"

    own = {"stable": points(row.stable), "lower": points(row.lower), "match": points(row.match)}
    return {"judge": f"difference: {row.judge}", "k": str(row.k), "targets": row.targets, **own}


def _write(out: Path, found: Stability, judged: Judged, settings: dict[str, str]) -> None:
    results = {
        "settings": settings,
        "rows": [asdict(row) | {"energy": _finite(row.energy)} for row in found.rows],
        "agreement": [asdict(row) for row in found.agreements],
        "differences": [asdict(row) for row in found.differences],
        "judged": judged.to_json(),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / RESULTS, json.dumps(plain(results), indent=1, allow_nan=False) + "\n")
        write_text(out / "stability.md", _page(found, settings))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    write_failures(out, found.failures)


def _finite(one: Interval) -> dict[str, float | None]:
    return {key: value if np.isfinite(value) else None for key, value in asdict(one).items()}


def _page(found: Stability, settings: dict[str, str]) -> str:
    body = [[str(value) for value in stability_record(row).values()] for row in found.rows]
    page = [
        "# Stability of predictions",
        table(["Setting", "Value"], list(settings.items()), words=(0, 1)),
        LEGEND,
        table(list(HEADINGS.values()), body),
    ]
    if found.agreements:
        lines = [
            [row.second, str(row.k), *map(str, (row.both, row.first_only, row.second_only, row.neither))]
            for row in found.agreements
        ]
        header = ["Other judge", "k", "Both: stable", "Only DAO-P", "Only the other", "Neither"]
        page += ["## Agreement of the judges", "Number of predictions.", table(header, lines)]
    if found.differences:
        keys = ("judge", "k", "targets", "stable", "lower", "match")
        made = [difference_record(row) for row in found.differences]
        page += [
            "## Difference to the other run",
            "This run less the other, in percentage points, of the same targets (paired bootstrap).",
            table([HEADINGS[key] for key in keys], [[str(line[key]) for key in keys] for line in made]),
        ]
    if found.failures:
        first = found.failures[0]
        lost = f"{len(found.failures):,} structures got no energy of a judge (failures.json)"
        left = f"for want of a reference energy, {found.left_out:,} targets at most were left out"
        page += [f"{lost}; {left}. The first: {first['target']}, sample {first['sample']}: {first['reason']}"]
    return "\n\n".join(page) + "\n"
