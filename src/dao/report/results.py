"""From a prediction to its report: gathers what is to be said, and writes the page and the figures.

Beside the candidates of a formula lie ``report.html`` and the folder ``report`` with ``structures``, ``volume``,
``patterns`` and ``walk``, each as PNG and SVG.
"""

from __future__ import annotations

from pathlib import Path

import dao
from dao.crystal import Crystal
from dao.errors import InputError
from dao.models import Predictor
from dao.prediction.files import cif_text, write_text
from dao.prediction.oxidation import charge_hint
from dao.prediction.pipeline import FormulaResult
from dao.prediction.ranking import Candidate
from dao.report.contents import Report, Walk, energy_text
from dao.report.diffraction import Peak, powder_pattern
from dao.report.figures import pattern_figure, structures_figure, volume_figure, walk_figure
from dao.report.page import render
from dao.report.scenes import Scene, drawn_cell, scene, scenes
from dao.report.text import pretty_space_group
from dao.stages import in_words, so_far
from dao.trajectory import walk_again

PAGE, FIGURES = "report.html", "report"

SHOWN = 4
"""Candidates whose powder patterns and pictures are drawn."""

LISTED = 50
"""Candidates on the page; more are in the table files only."""

FRAMES = 25
"""States of a walk in the animation."""

STRIP = 6
"""States of it in the figure."""


def report_on(result: FormulaResult, *, figures: bool = True) -> Path:
    """Write the report of a formula, its ``figures`` only if asked, and say where it is.

    Raises:
        InputError: the folder cannot be written, or a package is missing.

    """
    best = result.candidates[:LISTED]
    training = {} if result.model is None else result.model.config.training
    trained = training.get("recipe", {}).get("data", {}).get("max_atoms")
    report = Report(
        formula=result.composition.reduced_formula,
        candidates=best,
        settings=_settings(result),
        ranked_by=_ranked_by(result),
        trained_atoms=trained,
        doubts=_doubts(result.judge.ranker, best),
        discarded=sum(one.crystal is None for one in result.samples),
        walk=_walk(result, best),
    )
    write_report(result.folder, report, figures=figures)
    return result.folder / PAGE


def _drawn(candidate: Candidate, cif: str) -> Crystal:
    """Of a sample with atoms on one place, pymatgen reads no CIF: its own cell then, rather than no report."""
    try:
        return drawn_cell(cif)
    except ValueError:
        return candidate.crystal


def write_report(folder: Path, report: Report, *, figures: bool = True) -> None:
    """Write the page, and the ``figures`` if asked, into a formula's folder.

    Raises:
        InputError: the folder cannot be written, or a package is missing.

    """
    cifs = {one.rank: cif_text(one) for one in report.candidates}
    cells = {one.rank: _drawn(one, cifs[one.rank]) for one in report.candidates}
    shown = report.candidates[:SHOWN]
    patterns = {one.rank: powder_pattern(cells[one.rank]) for one in shown}
    walk = [] if report.walk is None else scenes(report.walk.states)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / PAGE, render(report, cifs, cells, patterns, walk, figures=figures))
        if figures:
            _figures(folder / FIGURES, report, cells, patterns, walk)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


def _figures(
    folder: Path,
    report: Report,
    cells: dict[int, Crystal],
    patterns: dict[int, list[Peak]],
    walk: list[Scene],
) -> None:
    shown = report.candidates[:SHOWN]
    if shown:
        structures_figure(folder / "structures", [(_caption(one), scene(cells[one.rank])) for one in shown])
        volume_figure(folder / "volume", report.candidates)
        pattern_figure(folder / "patterns", [(one, patterns[one.rank]) for one in shown])
    if report.walk is not None:
        few = report.walk.states.thinned(STRIP)
        kept = [report.walk.states.times.index(time) for time in few.times]
        walk_figure(folder / "walk", few.times, [walk[i] for i in kept])


def _caption(candidate: Candidate) -> str:
    energy = energy_text(candidate)
    said = f"{energy} eV/atom" if energy else f"found {candidate.count} of {candidate.samples}"
    return f"{candidate.rank}  {pretty_space_group(candidate.space_group)}\n{said}"


def _ranked_by(result: FormulaResult) -> str:
    """In words; what a potential has relaxed stands first, by its energies."""
    relaxed = [one.energy_by for one in result.candidates if one.energy_by is not None]
    if not relaxed:
        return result.judge.note()
    return f"energy after relaxation by {relaxed[0]} (the first {len(relaxed)}), the others by {result.judge.note()}"


def _settings(result: FormulaResult) -> dict[str, str]:
    model, settings, judge = result.model, result.settings, result.judge
    units = sorted(set(result.plan.values()))
    said = {
        "Formula": result.composition.reduced_formula,
        "Oxidation states": charge_hint(result.composition).words,
    }
    if model is not None and settings is not None:
        said |= {
            "Generator": f"{model.config.name} ({model.fingerprint}), {model.config.process.kind.replace('_', ' ')}",
            "Samples": str(len(result.samples)),
            "Formula units a cell": ", ".join(map(str, units)),
            "Sampler": f"{settings.method or model.process.methods[0]}, {settings.steps} steps, {settings.walks} walks",
            "Seed": str(result.seed),
        }
    sources = sorted({one.source for one in result.candidates})
    times = in_words(so_far())
    return said | {
        "Predictor": "none" if judge.ranker is None else f"{judge.ranker.config.name} ({judge.ranker.fingerprint})",
        "Ranked by": _ranked_by(result),
        "Guidance": "none" if judge.guidance is None else f"strength {judge.guidance.strength:g}",
        "Software": f"DAO {dao.__version__}",
        "Sources": ", ".join(sources) or "none",
        **_proposing(result),
        **({"Time, all formulas": times} if times else {}),
    }


def _proposing(result: FormulaResult) -> dict[str, str]:
    """Tables of prototypes, what was done to their proposals, and which potential relaxed how many."""
    said = {}
    sources, proposer, relaxing = result.walker.sources, result.walker.proposer, result.walker.relaxing
    if sources.table is not None and proposer is not None:
        names = ", ".join(path.stem for path in (sources.table, *sources.also))
        said["Prototypes"] = f"{names} ({proposer.table.fingerprint})"
        refined = result.refined_from
        said["Prototypes refined"] = "no" if refined is None else f"from time {refined:g}"
    relaxer = result.walker.relaxer
    if relaxing is not None and relaxer is not None:
        return said | {"Relaxed": f"the first {relaxing.top}, by {relaxer.name}"}
    return said | {"Relaxed": "no"}


def _doubts(model: Predictor | None, candidates: list[Candidate]) -> dict[int, str]:
    if model is None:
        return {}
    from dao.geometry.cells import reduced
    from dao.prediction.energies import doubts

    return {one.rank: doubts(model, reduced(one.crystal)) for one in candidates}


def _walk(result: FormulaResult, candidates: list[Candidate]) -> Walk | None:
    """The walk to the first candidate that was sampled; None where there is none, or it cannot be repeated."""
    if result.model is None:
        return None
    requests = {(units, request.index): request for request, units in result.plan.items()}
    walks = {one.request: one.walk for one in result.samples}
    for candidate in candidates:
        known = [place for place in candidate.sample_indices if place in requests]
        if not known:
            continue
        units, index = place = min(known)
        try:
            states = walk_again(
                result.model,
                requests[place],
                walks[requests[place]],
                seed=result.seed,
                settings=result.settings,
                guidance=result.judge.guidance,
            )
        except InputError:  # a walk through numbers that no crystal has
            return None
        # the smallest cell, in which there is least to place
        cell = "1 formula unit" if units == 1 else f"{units} formula units"
        named = f"sample {index + 1} of those with {cell} a cell"
        symmetric = result.model.symmetry_table is not None
        return Walk(candidate.rank, named, states.thinned(FRAMES), symmetric=symmetric)
    return None
