"""The main walk: composition -> cells -> samples and prototype proposals -> distinct crystals, ranked.

:mod:`dao.prediction.folders` walks it for many compositions, into files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dao.device import choose_device
from dao.errors import InputError
from dao.models import Generator
from dao.prediction.composition import Composition, parse_cells, parse_formula, prototype_cells
from dao.prediction.foundation_relax import RELAX_TOP, Relaxer, Relaxing
from dao.prediction.judging import Judge, Judging, Rank
from dao.prediction.novelty import KnownKinds, with_novelty
from dao.prediction.proposals import with_proposals
from dao.prediction.prototypes import Proposer
from dao.prediction.ranking import Candidate, rank_by_recurrence
from dao.prediction.refine import Refiner, refiner_of
from dao.prediction.sources import Sources, choose_sources
from dao.prediction.walk_choice import with_chooser
from dao.processes.config import SamplerSettings
from dao.sampling import Sample, SampleRequest, sample
from dao.stages import ENERGIES, PROTOTYPES, RELAXATION, SYMMETRY, stage
from dao.weights import DEFAULT, largest_trained_cell


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
    walker: Walker
    refined_from: float | None
    """Time that prototype proposals were noised to; None: they were not."""

    @property
    def judge(self) -> Judge:
        """What ranked, and guided."""
        return self.walker.judge

    @property
    def discarded(self) -> int:
        """Samples that are no crystals."""
        return sum(one.crystal is None for one in self.samples)


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
    walks: int | None = None,
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
    refine_prototypes: float | None = None,
    relax: str | None = None,
    relax_top: int = RELAX_TOP,
) -> list[Candidate]:
    """Predict crystal structures of a composition.

    Args:
        formula: for example ``SrTiO3``.
        samples: structures to generate, over all cell sizes.
        cells: formula units a cell: ``auto`` (1 to 4 within ``max_atoms``) or numbers such as ``1,2``.
        max_atoms: largest cell to try.
        steps: sampler steps; default the weights' own.
        walks: of each sample with four or more coordinates free, the likeliest of which is kept; default the weights'
            own.
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
        refine_prototypes: noise prototype proposals to this time and let the generator's flow carry them back.
        relax: relax the first candidates by this potential, and rank them by its energy: ``chgnet``, ``mace``,
            ``sevennet``, ``mattersim``, ``orb`` (to be installed by yourself) or ``predictor``.
        relax_top: how many.

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
    model = load_generator(weights, device) if chosen.generator else None
    judging = Judging(predictor=predictor, guidance=guidance, target=target, generator=model, rank=rank)
    relaxing = None if relax is None else Relaxing(potential=relax, top=relax_top)
    walker = Walker.load(chosen, judging, device, relaxing)
    wider = prototype_cells(cells, composition, max_atoms)
    if model is None:
        refiner_of(chosen, refine_prototypes)
        return walker.candidates(composition, wider, {}, [])
    settings, choose = with_chooser(model.config.sampler.updated(steps=steps, walks=walks), device)
    plan = plan_samples(model, composition, units, samples)
    guide = walker.judge.guidance
    refiner = refiner_of(chosen, refine_prototypes, model, settings, seed=seed, batch_size=batch_size, guidance=guide)
    walk = sample(
        model,
        list(plan),
        seed=seed,
        settings=settings,
        batch_size=batch_size,
        guidance=guide,
        choose=choose,
    )
    return walker.candidates(composition, wider, plan, [one for batch in walk for one in batch], refiner=refiner)


def load_generator(weights: Path | str | None, device: str) -> Generator:
    """The generator of those weights (None: the shipped default) on a device.

    Raises:
        InputError: no such device or weights.

    """
    chosen = choose_device(device)
    return Generator.load(DEFAULT if weights is None else weights, device=chosen)


def plan_samples(
    model: Generator, composition: Composition, units: tuple[int, ...], samples: int
) -> dict[SampleRequest, int]:
    """Requests of a composition, with the formula units of each."""
    multiple = math.gcd(*composition.amounts)
    shares = allocate(samples, units, composition.num_atoms, model.config.cells, multiple=multiple)
    return {
        SampleRequest(composition.numbers_for(z), index): z for z, count in shares.items() for index in range(count)
    }


@dataclass(frozen=True)
class Walker:
    """What turns samples and prototypes into candidates."""

    sources: Sources
    judge: Judge
    proposer: Proposer | None
    known: KnownKinds | None
    relaxing: Relaxing | None
    relaxer: Relaxer | None

    @classmethod
    def load(cls, sources: Sources, judging: Judging, device: str, relaxing: Relaxing | None = None) -> Walker:
        """Read the table, the predictor and the potential.

        Raises:
            InputError: there is none, or guidance without a generator.

        """
        if judging.guidance != 0 and not sources.generator:
            raise InputError("guidance draws samples of the generator, which is not among the sources")
        proposer = None if sources.table is None else Proposer.load(sources.table, *sources.also)
        known = None if proposer is None else KnownKinds(proposer.table, proposer.distances)
        on = str(choose_device(device))
        judge = judging.load(on)
        relaxer = None if relaxing is None else relaxing.load(on, judge.ranker)
        return cls(sources, judge, proposer, known, relaxing, relaxer)

    def candidates(
        self,
        composition: Composition,
        units: tuple[int, ...],
        plan: Mapping[SampleRequest, int],
        done: list[Sample],
        *,
        refiner: Refiner | None = None,
        progress: bool = False,
    ) -> list[Candidate]:
        """Of both sources, each crystal once, ranked; prototypes are asked for ``units`` a cell."""
        formula, size = composition.reduced_formula, composition.num_atoms
        crystals = [(plan[one.request], one.request.index, one.crystal) for one in done if one.crystal is not None]
        with stage(SYMMETRY):
            found = rank_by_recurrence(formula, size, crystals, total=len(done), source="generator")
        if self.proposer is not None:
            cells = {z: composition.numbers_for(z) for z in units}
            with stage(PROTOTYPES):
                found = with_proposals(
                    found, self.proposer, formula, cells, self.sources, samples=len(done), refine=refiner
                )
        with stage(ENERGIES):
            ranked = self.judge.rank(found)
        if self.relaxer is not None:
            with stage(RELAXATION):
                ranked = self.relaxer(ranked, progress=progress)
        return ranked if self.known is None else with_novelty(ranked, self.known)

    def record(self) -> dict[str, Any]:
        """What candidates depend on beside the samples, as JSON."""
        table = None if self.proposer is None else self.proposer.table.fingerprint
        relaxing = None
        if self.relaxing is not None and self.relaxer is not None:
            relaxing = {**asdict(self.relaxing), "by": self.relaxer.name}
        # the fingerprint is that of all tables, joined
        return {
            "sources": {**asdict(replace(self.sources, also=())), "table": table},
            "ranked_by": self.judge.note(),
            # its energies are shown whatever ranks
            "predictor": None if self.judge.ranker is None else self.judge.ranker.fingerprint,
            "relaxed_by": relaxing,
        }
