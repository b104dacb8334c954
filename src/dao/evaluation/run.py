"""One evaluation from beginning to end, in a folder: sample, match, rank, score, report.

The folder receives ``evaluation.jsonl`` (what is evaluated; anything else is refused there), ``samples-SEED.jsonl``,
``matches-SEED.jsonl`` and ``ranked-K.jsonl`` (which let a killed run go on), then ``results.json`` (settings and
metrics), ``scores.json`` (RMS distance of every sample), ``report.md``, ``figures`` and, where something could not be
read, ``failures.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dao.constants import (
    MATCHER_ANGLE_TOL,
    MATCHER_LTOL,
    MATCHER_STOL,
    STRICT_ANGLE_TOL,
    STRICT_LTOL,
    STRICT_STOL,
)
from dao.errors import InputError
from dao.evaluation.candidates import file_name, prototypes_note, ranked_candidates
from dao.evaluation.csp import Matching, Predicted, Sampling
from dao.evaluation.figures import write_figures
from dao.evaluation.matching import match_pairs
from dao.evaluation.metrics import Bootstrap, over_seeds, ranked_row, rows
from dao.evaluation.notes import sampler_note, training_note
from dao.evaluation.polymorphs import Polymorph, polymorph_groups, polymorphs
from dao.evaluation.predictions import Failure, PredictionSet
from dao.evaluation.published import published
from dao.evaluation.scores import EVERY, Row, Scores, plain
from dao.evaluation.tables import report, table
from dao.evaluation.targets import Targets, crystals_fingerprint, with_prototypes
from dao.jsonl import JsonLines
from dao.prediction.judging import Judging
from dao.prediction.sources import Sources
from dao.progress import CountProgress

if TYPE_CHECKING:
    from dao.models import Generator
    from dao.processes.config import SamplerSettings


@dataclass(frozen=True, kw_only=True)
class How:
    """How an evaluation is done, whatever made the predictions.

    Attributes:
        out: its folder.
        ks: samples a target to report.
        workers: processes that match and rank.
        seconds: time limit of a comparison.
        ranked: also rank the samples of each target and compare the first candidate.
        progress: show bars on stderr.
        prototypes: material id -> RMS distance of each prototype substitution (None: no match), for the subset "beyond
            prototypes" and the baseline beside.
        judging: the predictor that guides sampling and ranks, if any.
        sources: what proposes; with prototypes, the k-th try is the k-th candidate of our ranking.

    """

    out: Path
    ks: tuple[int, ...] = (1, 5, 20)
    workers: int = 1
    seconds: float = 10.0
    ranked: bool = True
    progress: bool = True
    prototypes: Mapping[str, Sequence[float | None]] | None = None
    judging: Judging = field(default_factory=Judging)
    sources: Sources = field(default_factory=Sources)


@dataclass(frozen=True)
class Evaluation:
    """What came out, for the command line to print."""

    scores: Scores
    rows: list[Row]
    ranked: Row | None
    page: str
    failures: list[Failure]


def evaluate_generator(
    model: Generator,
    targets: Targets,
    how: How,
    *,
    seeds: Sequence[int],
    settings: SamplerSettings,
    batch_size: int | None = None,
    title: str = "",
) -> Evaluation:
    """Sample the targets, the first seed max(ks) times and each further one once, and score the samples.

    Raises:
        InputError: settings, targets or a folder that cannot be used; before anything is written.

    """
    from dao.objectives import guidance_note
    from dao.prediction.walk_choice import with_chooser
    from dao.sampling import evaluations

    judge = how.judging.load(str(next(model.parameters()).device))
    if how.prototypes is not None:
        targets = with_prototypes(targets, how.prototypes)
    if how.sources.table is not None and len(seeds) > 1:
        raise InputError("several seeds are of the generator alone: leave prototypes out of the sources")
    counts = [max(how.ks), *(1 for _ in seeds[1:])]
    settings, choose = with_chooser(settings, str(next(model.parameters()).device))
    plans = [
        Sampling.plan(
            model, targets, count, seed=seed, settings=settings, out=how.out, guidance=judge.guidance, choose=choose
        )
        for seed, count in zip(seeds, counts, strict=True)
    ]
    _claim(targets, how, plans[0].made_by)
    total = len(targets.crystals) * sum(counts)
    missing = sum(len(plan.missing) for plan in plans)
    with CountProgress(total, total - missing, enabled=how.progress and missing > 0) as bar:
        predicted = [plan.run(bar.advance, batch_size=batch_size) for plan in plans]
    bad = sum(one is None for row in predicted[0].crystals for one in row)
    if how.sources.table is not None:
        predicted = [ranked_candidates(targets, predicted[0], how)]
    names = [f"matches-{seed}.jsonl" if how.sources.table is None else file_name("matches", how) for seed in seeds]
    matchings = [_match(targets, one, how, name) for name, one in zip(names, predicted, strict=True)]
    if how.sources.table is not None:
        ranked = matchings[0].distances()[:, 0] if how.ranked else None
    else:
        ranked = _rank(targets, predicted[0], how) if how.ranked and predicted[0].samples > 1 else None
    scores = matchings[0].scores(everyone=how.ks, ranked=ranked)
    others = [matching.scores(everyone=()) for matching in matchings[1:]]
    config = model.config
    spent = evaluations(model, settings)
    walks = predicted[0].walks
    described = {
        "Predictions": title or f"weights {config.name}",
        "Parameters": f"{model.parameters_count / 1e6:.2f} M",
        "Network evaluations": f"{spent * walks:.0f} a sample ({spent} a walk, {walks:.2f} walks)",
        "Sampler": sampler_note(plans[0].settings),
        **({} if judge.guidance is None else {"Guidance": guidance_note(judge.guidance)}),
        "Seeds": ", ".join(map(str, seeds)) + (f" (k above 1: {seeds[0]} alone)" if len(seeds) > 1 else ""),
        "Pretraining": str(config.training.get("pretraining") or "none"),
        "Training": training_note(config.training),
        "Samples that are no crystal": f"{bad:,}",
        **prototypes_note(how.sources),
    }
    return _finish(targets, how, matchings[0], scores, [scores, *others] if others else [], described, [])


def evaluate_prototypes(targets: Targets, how: How) -> Evaluation:
    """Score prototype proposals alone, in the order of our ranking.

    Raises:
        InputError: a table or folder that cannot be used; before anything is written.

    """
    if how.prototypes is not None:
        targets = with_prototypes(targets, how.prototypes)
    _claim(targets, how, {"sources": how.sources.names})
    predicted = ranked_candidates(targets, None, how)
    matching = _match(targets, predicted, how, file_name("matches", how))
    scores = matching.scores(everyone=how.ks, ranked=matching.distances()[:, 0] if how.ranked else None)
    none = sum(all(one is None for one in row) for row in predicted.crystals)
    described = {
        "Predictions": "prototypes",
        **prototypes_note(how.sources),
        "Targets without a proposal (counted as no match)": f"{none:,}",
    }
    return _finish(targets, how, matching, scores, [], described, [])


def evaluate_predictions(targets: Targets, given: PredictionSet, how: How, *, title: str) -> Evaluation:
    """Score the output of another tool.

    Raises:
        InputError: a folder that cannot be used; before anything is written.

    """
    if how.prototypes is not None:
        targets = with_prototypes(targets, how.prototypes)
    samples = max(prediction.index for prediction in given.predictions) + 1
    table_of: list[list[Any]] = [[None] * samples for _ in targets.crystals]
    for prediction in given.predictions:
        table_of[prediction.target][prediction.index] = prediction.crystal
    crystals = tuple(tuple(row) for row in table_of)
    made_by = {"file": title, "content": crystals_fingerprint(one for row in crystals for one in row)}
    predicted = Predicted(crystals, made_by)
    _claim(targets, how, made_by)
    how = replace(how, ks=tuple(k for k in how.ks if k <= samples) or (1,))
    matching = _match(targets, predicted, how, "matches.jsonl")
    ranked = _rank(targets, predicted, how) if how.ranked and samples > 1 else None
    scores = matching.scores(everyone=how.ks, ranked=ranked)
    without = len(targets.crystals) - len({prediction.target for prediction in given.predictions})
    described = {
        "Predictions": title,
        "Samples a target": f"{samples} at most",
        "Targets without a prediction (counted as no match)": f"{without:,}",
        "Predictions that could not be used": f"{len(given.failures):,}",
    }
    return _finish(targets, how, matching, scores, [], described, given.failures)


def _claim(targets: Targets, how: How, predictions: Mapping[str, Any]) -> None:
    """Make the folder that of this evaluation, before anything costs time.

    More seeds and more samples a target are the same evaluation, continued.

    Raises:
        InputError: the folder is that of another evaluation.

    """
    made_by = {**predictions, "targets": targets.fingerprint(), "time limit": how.seconds}
    file = JsonLines(how.out / "evaluation.jsonl", made_by, "results")
    file.read(lambda line: line)
    file.append([])


def _match(targets: Targets, predicted: Predicted, how: How, name: str) -> Matching:
    matching = Matching.plan(targets, predicted, seconds=how.seconds, path=how.out / name)
    keys = matching.pairs()
    missing = sum(key not in matching.done for key in keys)
    with CountProgress(
        len(keys), len(keys) - missing, enabled=how.progress and missing > 0, what="matching", of="pairs"
    ) as bar:
        matching.run(keys, bar.advance, workers=how.workers, seconds=how.seconds)
    return matching


def _rank(targets: Targets, predicted: Predicted, how: How) -> npt.NDArray[np.float64]:
    from dao.evaluation.ranked import Ranking

    # a ranking depends on the number of samples and on what ranks: with others, a new file is begun
    judging = how.judging.ranking()
    by = "" if judging is None else f"{judging.rank}-"
    name = f"ranked-{by}{predicted.samples}.jsonl"
    ranking = Ranking(targets, predicted, how.out / name, judging)
    total, missing = len(targets.crystals), len(ranking.missing)
    with CountProgress(
        total, total - missing, enabled=how.progress and missing > 0, what="ranking", of="compositions"
    ) as bar:
        return ranking.run(bar.advance, workers=how.workers, seconds=how.seconds)


def polymorphs_of(matching: Matching, how: How) -> tuple[list[Polymorph], list[Polymorph]]:
    """Polymorphs among the targets, as listed and with references merged that match each other."""
    targets, samples = matching.targets, matching.predicted.samples
    groups = polymorph_groups([crystal.reduced_formula for crystal in targets.crystals])
    tables = {}
    for formula, members in groups.items():
        tables[formula] = np.full((len(members), len(members) * samples), np.nan)
        for row, target in enumerate(members):
            for place, owner in enumerate(members):
                for index in range(samples):
                    match = matching.done[owner, index, target]
                    if match.rms is not None:
                        tables[formula][row, place * samples + index] = match.rms
    pairs = [(a, b) for members in groups.values() for a in members for b in members if a != b]
    alike = match_pairs(targets.crystals, targets.crystals, pairs, workers=how.workers, seconds=how.seconds)
    known = {(match.prediction, match.reference): match.rms for match in alike}
    references = {
        formula: np.array([[known.get((a, b)) for b in members] for a in members], dtype=np.float64)
        for formula, members in groups.items()
    }
    return polymorphs(tables), polymorphs(tables, references)


def _finish(
    targets: Targets,
    how: How,
    matching: Matching,
    scores: Scores,
    seeds: Sequence[Scores],
    described: dict[str, str],
    failures: list[Failure],
) -> Evaluation:
    listed, distinct = polymorphs_of(matching, how)
    # published figures are of the test split
    known = published(targets.benchmark) if targets.benchmark and targets.split == "test" else []
    settings = _settings(targets, how, described)
    figures: dict[str, str] = {}
    if find_spec("matplotlib") is not None:
        drawn = write_figures(scores, how.out / "figures", published=known, listed=listed, distinct=distinct)
        figures = {caption: f"figures/{name}" for caption, name in drawn.items()}
    sections = {}
    if how.prototypes is not None:
        sections["Prototype substitution beside"] = _prototype_section(targets, how.prototypes)
    page = report(
        f"{described['Predictions']} on {targets.name}",
        settings,
        scores,
        ks=how.ks,
        seeds=seeds,
        published=known,
        listed=listed,
        distinct=distinct,
        figures=figures,
        sections=sections,
    )
    lines = rows(scores, how.ks)
    subsets = [EVERY, *scores.subsets]
    first = [line for line in (ranked_row(scores, subset) for subset in subsets) if line is not None]
    results = {
        "settings": settings,
        "rows": [asdict(line) for line in lines],
        "ranked": [asdict(line) for line in first],
        "seeds": [asdict(over_seeds(seeds, subset)) for subset in subsets if scores.members(subset).any()]
        if seeds
        else [],
        "polymorphs": {
            "as listed": [one.record() for one in listed],
            "distinct": [one.record() for one in distinct],
        },
    }
    _write(how.out / "scores.json", json.dumps(scores.to_json()) + "\n")
    _write(how.out / "results.json", json.dumps(plain(results), indent=1, allow_nan=False) + "\n")
    _write(how.out / "report.md", page)
    path = how.out / "failures.json"
    if failures:
        _write(path, json.dumps([asdict(failure) for failure in failures], indent=1) + "\n")
    else:
        path.unlink(missing_ok=True)
    return Evaluation(scores, lines, first[0] if first else None, page, failures)


def _settings(targets: Targets, how: How, described: dict[str, str]) -> dict[str, str]:
    split = f", split {targets.split}" if targets.split else ""
    count = f"{len(targets.crystals):,} of {targets.total:,} crystals"
    drawn = f", {targets.choice}" if targets.choice else ""
    judging = how.judging.ranking() if how.ranked else None
    return {
        **described,
        **({} if judging is None else {"Ranked": f"by {judging.load('cpu').note()}"}),
        "Data": f"{targets.name}{split}: {count}{drawn}",
        "Match": (
            f"pymatgen StructureMatcher, stol {MATCHER_STOL}, ltol {MATCHER_LTOL}, angle_tol {MATCHER_ANGLE_TOL:g};"
            f" strict: {STRICT_STOL}, {STRICT_LTOL}, {STRICT_ANGLE_TOL:g} (pymatgen's defaults)"
        ),
        "Filter (F)": "SMACT 2.6 composition check and 0.5 A check on both sides; failing pairs count as no match",
        "Time limit of a comparison": f"{how.seconds:g} s",
        "Versions": f"dao {version('dao-crystal')}, pymatgen-core {version('pymatgen-core')}",
    }


def _prototype_section(targets: Targets, prototypes: Mapping[str, Sequence[float | None]]) -> str:
    tried = max((len(prototypes[name]) for name in targets.ids), default=0)
    distances = np.full((len(targets.ids), max(1, tried)), np.nan)
    for row, name in enumerate(targets.ids):
        own = [np.nan if one is None else one for one in prototypes[name]]
        distances[row, : len(own)] = own
    bootstrap = Bootstrap(len(distances), 1000, 0)
    body = []
    for k in (1, 5, 20):
        found = np.fmin.reduce(distances[:, :k], axis=1)
        rate, rmse = bootstrap.rate(found), bootstrap.rmse(found)
        body.append(
            [
                str(k),
                f"{100 * rate.value:.1f} ({100 * rate.low:.1f}-{100 * rate.high:.1f})",
                f"{rmse.value:.4f} ({rmse.low:.4f}-{rmse.high:.4f})",
            ]
        )
    none = np.mean([not prototypes[name] for name in targets.ids])
    text = (
        "Elements substituted into known crystals of the same anonymous formula and cell size, the most similar first,"
        f" on the same targets. {100 * none:.1f} % of them have no such template."
    )
    return f"{text}\n\n{table(['k', 'Match rate U (%)', 'RMSE'], body)}"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written ({error.strerror})") from None
