"""The main walk: composition -> cells -> samples and prototype proposals -> distinct crystals, ranked -> files.

A formula's folder holds ``samples.jsonl`` (every finished sample, appended batch by batch, so that a kill loses at most
the running one and the same call goes on), ``candidates.json``, ``candidates.csv``, ``candidates.extxyz`` and one CIF a
candidate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao.device import choose_device
from dao.errors import InputError
from dao.models import Generator
from dao.prediction.composition import Composition, parse_cells, parse_formula
from dao.prediction.files import write_candidates, write_failures
from dao.prediction.judging import Judge, Judging, Rank
from dao.prediction.proposals import merged, proposed, with_space_group_shares
from dao.prediction.prototypes import Proposer
from dao.prediction.ranking import Candidate, rank_by_recurrence
from dao.prediction.sources import Sources, choose_sources
from dao.processes.config import SamplerSettings
from dao.progress import CountProgress
from dao.sample_file import SampleFile, signature
from dao.sampling import Sample, SampleRequest, check_requests, check_settings, sample
from dao.weights import DEFAULT, largest_trained_cell

if TYPE_CHECKING:
    from dao.processes.guidance import Guidance


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
    model: Generator | None
    """None where prototypes alone propose."""
    settings: SamplerSettings | None
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
    sources: str | None = None,
    table: Path | str | None = None,
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
        rank: ``learned`` (the default: by a small model that weighs all that is known and says how likely each
            candidate is), by predicted ``energy`` above the hull, by ``recurrence``, or by ``both``.
        sources: ``generator``, ``prototypes`` or ``generator,prototypes``; default both where a table ships.
        table: of prototypes, a shipped name or a file of ``dao prototypes build``.

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
    chosen = choose_sources(sources, table)
    walker = _Walker.load(chosen, Judging(predictor=predictor, guidance=guidance, target=target, rank=rank), device)
    if not chosen.generator:
        return walker.candidates(composition, units, {}, [])
    model = load_generator(weights, device)
    settings = model.config.sampler.updated(steps=steps)
    plan = _plan(model, composition, units, samples)
    guide = walker.judge.guidance
    walk = sample(model, list(plan), seed=seed, settings=settings, batch_size=batch_size, guidance=guide)
    return walker.candidates(composition, units, plan, [one for batch in walk for one in batch])


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
    sources: Sources | None = None,
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
        sources: what proposes; default the generator alone.
        progress: show a progress bar on stderr.
        on_start: called once all that could be refused has been checked, before anything is generated or written.
        on_result: called with each composition's candidates once they are written.

    Raises:
        InputError: weights or settings that cannot be used, a folder that cannot be written, or one with samples made
            otherwise.

    """
    chosen = sources or Sources()
    walker = _Walker.load(chosen, judging or Judging(), device)
    model, settings = None, None
    if chosen.generator:
        model = load_generator(weights, device)
        settings = check_settings(model, model.config.sampler.updated(steps=steps))
        plans, finished = _sampled(
            targets,
            model,
            settings,
            walker.judge.guidance,
            out=out,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            on_start=on_start,
        )
    else:
        plans, finished = {composition: {} for composition in targets}, {}
        if on_start is not None:
            on_start()

    run = PredictionRun([], [], 0)
    for composition, plan in plans.items():
        done = [finished[request] for request in plan]
        candidates = walker.candidates(composition, targets[composition], plan, done)
        folder = out / composition.reduced_formula
        write_candidates(folder, candidates)
        if on_result is not None:
            on_result(
                FormulaResult(
                    composition=composition,
                    folder=folder,
                    candidates=candidates,
                    plan=plan,
                    samples=done,
                    model=model,
                    settings=settings,
                    seed=seed,
                    judge=walker.judge,
                )
            )
        run.candidates.extend(candidates)
        discarded = [one for one in done if one.crystal is None]
        if not candidates:
            reasons = []
            if done:
                reasons.append(f"none of {len(done)} samples is a crystal (the first: {discarded[0].failure})")
            if chosen.table is not None:
                reasons.append("no prototype has this anonymous formula in a cell of this size")
            reason = "; ".join(reasons)
            run.failures.append({"formula": composition.reduced_formula, "reason": reason})
        run = replace(run, discarded=run.discarded + len(discarded))
    write_failures(out, run.failures)
    return run


def _sampled(
    targets: Mapping[Composition, tuple[int, ...]],
    model: Generator,
    settings: SamplerSettings,
    guidance: Guidance | None,
    *,
    out: Path,
    samples: int,
    seed: int,
    batch_size: int | None,
    progress: bool,
    on_start: Callable[[], None] | None,
) -> tuple[dict[Composition, dict[SampleRequest, int]], dict[SampleRequest, Sample]]:
    """What was to be sampled, and all samples, an earlier run's included; see :func:`predict_to_folder`."""
    made_by = signature(model, settings, seed, guidance)
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
        for batch in sample(model, missing, seed=seed, settings=settings, batch_size=batch_size, guidance=guidance):
            for one in batch:
                finished[one.request] = one
            for composition in {owner[one.request] for one in batch}:
                files[composition].append([one for one in batch if owner[one.request] == composition])
            bar.advance(len(batch))
    return plans, finished


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


@dataclass(frozen=True)
class _Walker:
    """What turns samples and prototypes into candidates."""

    sources: Sources
    judge: Judge
    proposer: Proposer | None

    @classmethod
    def load(cls, sources: Sources, judging: Judging, device: str) -> _Walker:
        """Read the table and the predictor.

        Raises:
            InputError: there is none, or guidance without a generator.

        """
        if judging.guidance != 0 and not sources.generator:
            raise InputError("guidance draws samples of the generator, which is not among the sources")
        proposer = None if sources.table is None else Proposer.load(sources.table)
        return cls(sources, judging.load(str(choose_device(device))), proposer)

    def candidates(
        self,
        composition: Composition,
        units: tuple[int, ...],
        plan: Mapping[SampleRequest, int],
        done: list[Sample],
    ) -> list[Candidate]:
        """Of both sources, each crystal once, ranked."""
        formula, size = composition.reduced_formula, composition.num_atoms
        crystals = [(plan[one.request], one.request.index, one.crystal) for one in done if one.crystal is not None]
        found = rank_by_recurrence(formula, size, crystals, total=len(done), source="generator")
        if self.proposer is not None:
            cells = {z: composition.numbers_for(z) for z in units}
            exclude = self.sources.exclude_same_composition
            own = proposed(
                self.proposer,
                formula,
                cells,
                self.sources.proposals,
                samples=len(done),
                exclude_same_composition=exclude,
            )
            found = with_space_group_shares(merged(found, own), self.proposer, cells, exclude_same_composition=exclude)
        return self.judge.rank(found)
