"""Many compositions into a folder each: what ``dao predict`` does.

A formula's folder holds ``samples.jsonl`` (every finished sample, appended batch by batch, so that a kill loses at most
the running one and the same call goes on), ``candidates.json``, ``candidates.csv``, ``candidates.extxyz``, one CIF a
candidate, and at last ``settings.json``, which says what all of it was made by: the same call leaves it alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dao.batching import ATOMS_PER_BATCH
from dao.crystal import CrystalBatch
from dao.models import Generator
from dao.prediction.composition import Composition
from dao.prediction.files import write_candidates, write_failures
from dao.prediction.finished import Finished, other_version, read_finished, unfinished, write_finished
from dao.prediction.formats import DEFAULT_FORMATS
from dao.prediction.foundation_relax import Relaxing
from dao.prediction.judging import Judging
from dao.prediction.pipeline import FormulaResult, Walker, load_generator, plan_samples
from dao.prediction.refine import Refiner, refiner_of
from dao.prediction.sources import Sources
from dao.prediction.walk_choice import WalkChooser, with_chooser
from dao.processes.config import SamplerSettings
from dao.progress import FormulaProgress
from dao.sample_file import SampleFile, signature
from dao.sampling import Sample, SampleRequest, check_requests, check_settings, sample
from dao.stages import SAMPLING, WEIGHTS, WRITING, stage
from dao.weights import DEFAULT


@dataclass
class PredictionRun:
    """What a prediction brought: ranked candidates of every formula, and the formulas that got none."""

    records: list[dict[str, Any]] = field(default_factory=list)
    """Of the candidates, as in ``candidates.json`` but without their structures."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    discarded: int = 0
    """Samples that are no crystals (atoms on top of each other, a collapsed cell)."""
    earlier: int = 0
    """Formulas that an earlier run had finished."""
    other_versions: dict[str, int] = field(default_factory=dict)
    """Formulas that another version of the software had finished, by version; what fits the settings is kept."""


def predict_to_folder(  # noqa: PLR0913 -- the options of ``dao predict``
    targets: Mapping[Composition, tuple[int, ...]],
    *,
    out: Path,
    weights: Path | str | Generator | None,
    samples: int,
    steps: int | None = None,
    walks: int | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    judging: Judging | None = None,
    sources: Sources | None = None,
    prototype_units: Mapping[Composition, tuple[int, ...]] | None = None,
    refine_prototypes: float | None = None,
    relaxing: Relaxing | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    progress: bool = True,
    on_start: Callable[[], None] | None = None,
    on_records: Callable[[list[dict[str, Any]]], None] | None = None,
    on_result: Callable[[FormulaResult], None] | None = None,
    on_progress: Callable[[float, int], None] | None = None,
    further: str = "",
) -> PredictionRun:
    """Predict several compositions into a folder each under ``out``, going on where a killed run stopped.

    Samples of some compositions at a time are generated together, and their folders completed one by one.

    Args:
        targets: formula units a cell to try, by composition.
        out: the folder.
        weights: see :func:`dao.prediction.pipeline.predict`, and likewise below; or a generator that is loaded already.
        samples: structures to generate for each composition.
        steps: sampler steps.
        walks: of each sample with four or more coordinates free, of which the likeliest is kept.
        seed: seed.
        device: device.
        batch_size: crystals generated at a time.
        judging: the predictor that guides and ranks; default the shipped one, if any, which ranks.
        sources: what proposes; default the generator alone.
        prototype_units: formula units a cell that prototypes are asked for; default those of ``targets``.
        refine_prototypes: time that their proposals are noised to and carried back from by the generator; None: not.
        relaxing: which potential relaxes the first candidates; default none.
        formats: of :data:`dao.prediction.formats.FORMATS`, to write candidates in.
        progress: show a progress bar on stderr.
        on_start: called once all that could be refused has been checked, before anything is generated or written.
        on_records: called with each composition's records once they are written, an earlier run's included.
        on_result: called next with each composition's candidates, but not with those that an earlier run finished.
        on_progress: called during sampling with how many samples are finished, those under way counted by how far they
            are, and how many there will be, of the compositions that are sampled together.
        further: what ``on_result`` writes: folders that were finished without it are not left alone.

    Raises:
        InputError: weights or settings that cannot be used, a folder that cannot be written, or one with samples made
            otherwise.

    """
    chosen = sources or Sources()
    if judging is None:
        judging = Judging(generator=(DEFAULT if weights is None else weights) if chosen.generator else None)
    work = _Work.prepared(
        targets,
        chosen=chosen,
        judging=judging,
        weights=weights,
        samples=samples,
        steps=steps,
        walks=walks,
        seed=seed,
        device=device,
        batch_size=batch_size,
        prototype_units=prototype_units or targets,
        refine_prototypes=refine_prototypes,
        relaxing=relaxing,
        out=out,
    )
    files = [*formats, further] if further else list(formats)
    known = {one: work.finished(one, files) for one in targets}
    left = sum(len(work.plans[one]) for one in targets if known[one] is None)
    if on_start is not None:
        on_start()
    earlier = Counter(other_version(work.folder(one)) for one in targets)
    run = PredictionRun(other_versions={version: count for version, count in earlier.items() if version is not None})
    with FormulaProgress(len(targets), left, enabled=progress) as bar:
        for group in _groups(work.plans):
            waiting = [one for one in group if known[one] is None]
            with stage(SAMPLING):
                work.sample(waiting, bar.advance, on_progress)
            for one in group:
                finished = known[one]
                if finished is not None:
                    run.earlier += 1
                    with bar.paused():
                        _tell(finished, on_records)
                else:
                    with bar.paused() if relaxing is not None else nullcontext():
                        result = work.result(one, progress=progress)
                    unfinished(result.folder)
                    with stage(WRITING):
                        records = write_candidates(result.folder, result.candidates, formats)
                    finished = Finished(records=records, discarded=result.discarded, failure=work.failure(result))
                    with bar.paused():
                        _tell(finished, on_records)
                    if on_result is not None:
                        on_result(result)
                    write_finished(result.folder, work.made_by(one), files, finished)
                run.records += finished.records
                run.discarded += finished.discarded
                if finished.failure is not None:
                    run.failures.append({"formula": one.reduced_formula, "reason": finished.failure})
                    write_failures(out, run.failures)
                bar.finish(str(one), len(finished.records))
    write_failures(out, run.failures)
    return run


def _tell(finished: Finished, on_records: Callable[[list[dict[str, Any]]], None] | None) -> None:
    if on_records is not None and finished.records:
        on_records(finished.records)


def _groups(plans: Mapping[Composition, Mapping[SampleRequest, int]]) -> Iterator[list[Composition]]:
    """Compositions in their order, as many together as make a batch.

    It depends on what was asked for alone, not on what exists already: a run that goes on cuts the same batches.
    """
    group: list[Composition] = []
    atoms = 0
    for composition, plan in plans.items():
        group.append(composition)
        atoms += sum(len(request.atomic_numbers) for request in plan)
        if atoms >= ATOMS_PER_BATCH or not plan:
            yield group
            group, atoms = [], 0
    if group:
        yield group


@dataclass
class _Gauge:
    """How many samples are finished, those under way counted by how far they are in their walks."""

    walks: int
    """That a sample can take."""
    furthest: float = 0.0
    _finished: int = -1
    _size: int = 0
    _begun: int = 0
    _time: float = 0.0

    def read(self, finished: int, time: float, samples: int) -> float:
        """Told how many are finished, and the time of a walk of so many more: how far all of it is.

        Never less than before, and of a batch never all of it: how many walks it takes, the sampler alone knows.
        """
        if finished != self._finished:
            self._finished, self._size, self._begun, self._time = finished, samples, 0, 0.0
        self._begun += time > self._time
        self._time = time
        share = min(1.0 - 0.1 / self.walks, (self._begun - time) / self.walks)
        self.furthest = max(self.furthest, finished + share * self._size)
        return self.furthest


@dataclass(frozen=True, eq=False, kw_only=True)
class _Work:
    """Everything loaded and checked for some compositions, and what there is of their samples."""

    walker: Walker
    model: Generator | None
    settings: SamplerSettings | None
    seed: int
    out: Path
    batch_size: int | None
    targets: Mapping[Composition, tuple[int, ...]]
    prototype_units: Mapping[Composition, tuple[int, ...]]
    refiner: Refiner | None
    choose: WalkChooser | None
    plans: dict[Composition, dict[SampleRequest, int]]
    signature: dict[str, Any]
    judged_by: dict[str, Any]
    files: dict[Composition, SampleFile]
    done: dict[SampleRequest, Sample]

    @classmethod
    def prepared(  # noqa: PLR0913 -- those of predict_to_folder
        cls,
        targets: Mapping[Composition, tuple[int, ...]],
        *,
        chosen: Sources,
        judging: Judging,
        weights: Path | str | Generator | None,
        samples: int,
        steps: int | None,
        walks: int | None,
        seed: int,
        device: str,
        batch_size: int | None,
        prototype_units: Mapping[Composition, tuple[int, ...]],
        refine_prototypes: float | None,
        relaxing: Relaxing | None,
        out: Path,
    ) -> _Work:
        """Load the models, plan the samples and read those of an earlier run.

        Raises:
            InputError: see :func:`predict_to_folder`.

        """
        model, settings, choose, made_by = None, None, None, {}
        plans: dict[Composition, dict[SampleRequest, int]] = {composition: {} for composition in targets}
        files: dict[Composition, SampleFile] = {}
        done: dict[SampleRequest, Sample] = {}
        with stage(WEIGHTS):
            if chosen.generator:
                model = weights if isinstance(weights, Generator) else load_generator(weights, device)
                # read once, however it was named
                judging = judging if judging.generator is None else replace(judging, generator=model)
            walker = Walker.load(chosen, judging, device, relaxing)
            guide = walker.judge.guidance
            if model is not None:
                settings = check_settings(model, model.config.sampler.updated(steps=steps, walks=walks))
                settings, choose = with_chooser(settings, device)
                made_by = signature(model, settings, seed, guide, choose)
            refiner = refiner_of(
                chosen, refine_prototypes, model, settings, seed=seed, batch_size=batch_size, guidance=guide
            )
            judged_by = walker.record() | {"prototypes_refined_from": refine_prototypes}
        if model is not None:
            for composition, units in targets.items():
                plans[composition] = plan_samples(model, composition, units, samples)
                files[composition] = SampleFile(out / composition.reduced_formula, made_by)
                done |= files[composition].read()
            check_requests(model, [request for plan in plans.values() for request in plan if request not in done])
        return cls(
            walker=walker,
            model=model,
            settings=settings,
            seed=seed,
            out=out,
            batch_size=batch_size,
            targets=targets,
            prototype_units=prototype_units,
            refiner=refiner,
            choose=choose,
            plans=plans,
            signature=made_by,
            judged_by=judged_by,
            files=files,
            done=done,
        )

    def folder(self, composition: Composition) -> Path:
        """Where its files go."""
        return self.out / composition.reduced_formula

    def made_by(self, composition: Composition) -> dict[str, Any]:
        """All that its candidates depend on, as JSON."""
        return {
            "generator": self.signature,
            "samples": len(self.plans[composition]),
            "cells": self.targets[composition],
            "prototype_cells": self.prototype_units[composition],
            **self.judged_by,
        }

    def finished(self, composition: Composition, files: Sequence[str]) -> Finished | None:
        """What an earlier run made of it, if all of that is there."""
        if any(request not in self.done for request in self.plans[composition]):
            return None
        return read_finished(self.folder(composition), self.made_by(composition), files)

    def sample(
        self,
        compositions: Sequence[Composition],
        advance: Callable[[int], None],
        on_progress: Callable[[float, int], None] | None,
    ) -> None:
        """Generate the samples that are missing, and write each down with its composition as soon as it is there."""
        owner = {request: one for one in compositions for request in self.plans[one]}
        missing = [request for request in owner if request not in self.done]
        advance(len(owner) - len(missing))
        if self.model is None or not missing:
            return

        gauge = _Gauge(1 if self.settings is None else self.settings.walks)

        def on_state(time: float, batch: CrystalBatch) -> None:
            if on_progress is not None:
                on_progress(gauge.read(len(owner.keys() & self.done.keys()), time, len(batch)), len(owner))

        walk = sample(
            self.model,
            missing,
            seed=self.seed,
            settings=self.settings,
            batch_size=self.batch_size,
            guidance=self.walker.judge.guidance,
            choose=self.choose,
            on_state=None if on_progress is None else on_state,
        )
        for batch in walk:
            for one in batch:
                self.done[one.request] = one
            for composition in {owner[one.request]: None for one in batch}:
                self.files[composition].append([one for one in batch if owner[one.request] == composition])
            advance(len(batch))
            if on_progress is not None:
                on_progress(float(len(owner.keys() & self.done.keys())), len(owner))

    def result(self, composition: Composition, *, progress: bool) -> FormulaResult:
        """Its candidates, from samples that are all there; they are not needed again."""
        plan = self.plans[composition]
        samples = [self.done.pop(request) for request in plan]
        units = self.prototype_units[composition]
        candidates = self.walker.candidates(composition, units, plan, samples, refiner=self.refiner, progress=progress)
        return FormulaResult(
            composition=composition,
            folder=self.folder(composition),
            candidates=candidates,
            plan=plan,
            samples=samples,
            model=self.model,
            settings=self.settings,
            seed=self.seed,
            walker=self.walker,
            refined_from=None if self.refiner is None else self.refiner.time,
        )

    def failure(self, result: FormulaResult) -> str | None:
        """Why it has no candidate, if it has none."""
        if result.candidates:
            return None
        reasons = []
        if result.samples:
            first = next(one.failure for one in result.samples if one.crystal is None)
            reasons.append(f"none of {len(result.samples)} samples is a crystal (the first: {first})")
        if self.walker.sources.table is not None:
            reasons.append("no prototype has this anonymous formula in a cell of this size")
        return "; ".join(reasons)
