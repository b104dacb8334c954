"""The main walk: composition -> cells -> samples -> distinct crystals, ranked -> files.

A formula's folder holds ``samples.jsonl`` (every finished sample, appended batch by batch, so that a kill loses at most
the running one and the same call goes on), ``candidates.json``, ``candidates.csv``, ``candidates.extxyz`` and one CIF a
candidate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dao.device import choose_device
from dao.errors import InputError
from dao.models import Generator
from dao.prediction.composition import Composition, parse_cells, parse_formula
from dao.prediction.files import write_candidates, write_failures
from dao.prediction.judging import Judge, Judging, Rank
from dao.prediction.ranking import Candidate, rank_by_recurrence
from dao.processes.config import SamplerSettings
from dao.progress import CountProgress
from dao.sample_file import SampleFile, signature
from dao.sampling import Sample, SampleRequest, check_requests, check_settings, sample
from dao.weights import DEFAULT, largest_trained_cell


@dataclass(frozen=True)
class PredictionRun:
    """What a prediction brought: ranked candidates of every formula, and the formulas that got none."""

    candidates: list[Candidate]
    failures: list[dict[str, Any]]
    discarded: int
    """Samples that are no crystals (atoms on top of each other, a collapsed cell)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FormulaResult:
    """A formula's candidates and all that they were made of: what a report is written from."""

    composition: Composition
    folder: Path
    candidates: list[Candidate]
    plan: Mapping[SampleRequest, int]
    """Formula units of each sample that was asked for."""
    samples: list[Sample]
    model: Generator
    settings: SamplerSettings
    seed: int
    judge: Judge


def allocate(
    samples: int, units: tuple[int, ...], atoms_per_formula: int, cells: Mapping[str, Any], *, multiple: int = 1
) -> dict[int, int]:
    """How many of ``samples`` each number of formula units gets.

    Every one is tried at least once where the samples suffice; the rest follow how often formula units of this size
    came with that many to a cell in the training set (``cells``, from the weights), with one count added to each.
    ``cells`` counts the smallest units: of those, a formula that is not divided (O2, Na2O2) is a ``multiple``.
    """
    known = {int(z): count for z, count in cells.get(str(atoms_per_formula // multiple), {}).items()}
    weights = {z: known.get(z * multiple, 0) + 1 for z in units}
    likeliest = sorted(units, key=lambda z: (-weights[z], z))
    share = dict.fromkeys(units, 0)
    for z in likeliest[:samples]:
        share[z] = 1
    for _ in range(samples - sum(share.values())):
        # the one furthest behind its share
        share[max(likeliest, key=lambda z: weights[z] / (share[z] + 0.5))] += 1
    return {z: count for z, count in share.items() if count}


def predict(  # noqa: PLR0913 -- the options of ``dao predict``
    formula: str,
    samples: int = 20,
    *,
    cells: str = "auto",
    max_atoms: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    weights: Path | str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    predictor: Path | str | None = None,
    guidance: float = 0.0,
    target: float | None = None,
    rank: Rank | None = None,
) -> list[Candidate]:
    """Predict crystal structures of a composition.

    Args:
        formula: for example ``SrTiO3``.
        samples: structures to generate, over all cell sizes.
        cells: formula units a cell: ``auto`` (1 to 4 within ``max_atoms``) or numbers such as ``1,2``.
        max_atoms: largest cell to try.
        steps: sampler steps; default the weights' own.
        seed: the result depends on it, the formula and the sample's index only.
        weights: shipped name, folder, or Hugging Face Hub id; default the shipped ones.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: crystals generated at a time; changes no result beyond rounding.
        predictor: weights of a predictor, named like ``weights``; default the shipped ones, if any.
        guidance: strength by which the predictor draws samples to low energy (0: not at all); with a predictor of
            another property to low values of it, and to high ones if negative.
        target: draw to this value of the predictor's property instead.
        rank: by predicted ``energy`` above the hull, the default where there are energies, or by ``recurrence``.

    Returns:
        Distinct candidates, the most stable or the most recurrent first; ``.structure`` is a pymatgen ``Structure``.

    Raises:
        InputError: a formula, cell, or weights that cannot be used.

    """
    if samples < 1:
        raise InputError(f"samples must be at least 1, got {samples}")
    composition = parse_formula(formula)
    trained = largest_trained_cell(DEFAULT if weights is None else weights)
    units = parse_cells(cells, composition, max_atoms, trained=trained)
    model = load_generator(weights, device)
    judge = Judging(predictor=predictor, guidance=guidance, target=target, rank=rank).load(device)
    settings = model.config.sampler.updated(steps=steps)
    plan = _plan(model, composition, units, samples)
    walk = sample(model, list(plan), seed=seed, settings=settings, batch_size=batch_size, guidance=judge.guidance)
    return _rank(composition, plan, [one for batch in walk for one in batch], judge)


def predict_to_folder(  # noqa: PLR0913 -- likewise
    targets: Mapping[Composition, tuple[int, ...]],
    *,
    out: Path,
    weights: Path | str | None,
    samples: int,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    judging: Judging | None = None,
    progress: bool = True,
    on_start: Callable[[], None] | None = None,
    on_result: Callable[[FormulaResult], None] | None = None,
) -> PredictionRun:
    """Predict several compositions into a folder each under ``out``, going on where a killed run stopped.

    Args:
        targets: formula units a cell to try, by composition.
        out: the folder.
        weights: see :func:`predict`, and likewise below.
        samples: structures to generate for each composition.
        steps: sampler steps.
        seed: seed.
        device: device.
        batch_size: crystals generated at a time.
        judging: the predictor that guides and ranks; default the shipped one, if any, which ranks.
        progress: show a progress bar on stderr.
        on_start: called once all that could be refused has been checked, before anything is generated or written.
        on_result: called with each composition's candidates once they are written.

    Raises:
        InputError: weights or settings that cannot be used, a folder that cannot be written, or one with samples made
            otherwise.

    """
    model = load_generator(weights, device)
    judge = (judging or Judging()).load(device)
    settings = check_settings(model, model.config.sampler.updated(steps=steps))
    made_by = signature(model, settings, seed, judge.guidance)
    files: dict[Composition, SampleFile] = {}
    plans: dict[Composition, dict[SampleRequest, int]] = {}
    for composition, units in targets.items():
        files[composition] = SampleFile(out / composition.reduced_formula, made_by)
        plans[composition] = _plan(model, composition, units, samples)
    owner = {request: composition for composition, plan in plans.items() for request in plan}
    finished = {request: one for file in files.values() for request, one in file.read().items()}
    missing = [request for request in owner if request not in finished]
    check_requests(model, missing)
    if on_start is not None:
        on_start()
    with CountProgress(len(owner), len(owner) - len(missing), enabled=progress and bool(missing)) as bar:
        for batch in sample(
            model, missing, seed=seed, settings=settings, batch_size=batch_size, guidance=judge.guidance
        ):
            for one in batch:
                finished[one.request] = one
            for composition in {owner[one.request] for one in batch}:
                files[composition].append([one for one in batch if owner[one.request] == composition])
            bar.advance(len(batch))

    run = PredictionRun([], [], 0)
    for composition, plan in plans.items():
        done = [finished[request] for request in plan]
        candidates = _rank(composition, plan, done, judge)
        write_candidates(files[composition].folder, candidates)
        if on_result is not None:
            on_result(
                FormulaResult(
                    composition=composition,
                    folder=files[composition].folder,
                    candidates=candidates,
                    plan=plan,
                    samples=done,
                    model=model,
                    settings=settings,
                    seed=seed,
                    judge=judge,
                )
            )
        run.candidates.extend(candidates)
        discarded = [one for one in done if one.crystal is None]
        if not candidates:
            reason = f"none of {len(done)} samples is a crystal (the first: {discarded[0].failure})"
            run.failures.append({"formula": composition.reduced_formula, "reason": reason})
        run = replace(run, discarded=run.discarded + len(discarded))
    write_failures(out, run.failures)
    return run


def load_generator(weights: Path | str | None, device: str) -> Generator:
    """The generator of those weights (None: the shipped default) on a device.

    Raises:
        InputError: no such device or weights.

    """
    chosen = choose_device(device)
    return Generator.load(DEFAULT if weights is None else weights, device=chosen)


def _plan(model: Generator, composition: Composition, units: tuple[int, ...], samples: int) -> dict[SampleRequest, int]:
    """Requests of a composition, with the formula units of each."""
    multiple = math.gcd(*composition.amounts)
    shares = allocate(samples, units, composition.num_atoms, model.config.cells, multiple=multiple)
    return {
        SampleRequest(composition.numbers_for(z), index): z for z, count in shares.items() for index in range(count)
    }


def _rank(
    composition: Composition, plan: Mapping[SampleRequest, int], done: list[Sample], judge: Judge
) -> list[Candidate]:
    crystals = [(plan[one.request], one.request.index, one.crystal) for one in done if one.crystal is not None]
    return judge.rank(
        rank_by_recurrence(
            composition.reduced_formula, composition.num_atoms, crystals, total=len(done), source="generator"
        )
    )
