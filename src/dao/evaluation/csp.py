"""Crystal structure prediction scored against known crystals (paper section 2.3.1): predictions in, scores out.

Two sources of predictions, one way to score them: samples of our generator, made here, or the output of any tool. Both
samples and matches are appended to files in the evaluation's folder, so that a killed evaluation goes on where it
stopped, does nothing twice and loses nothing.

A generator is told the composition of a target's cell and nothing else. Targets that share a composition are each
predicted as if they stood alone, from noise of their own.

Shapes: M targets, K samples each.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dao.crystal import Crystal
from dao.evaluation.matching import Match, match_pairs
from dao.evaluation.scores import Scores
from dao.evaluation.targets import Targets
from dao.evaluation.validity import valid
from dao.jsonl import JsonLines
from dao.sample_file import SampleFile, signature
from dao.sampling import Sample, SampleRequest, check_requests, check_settings, sample

if TYPE_CHECKING:
    from dao.models import Generator
    from dao.prediction.walk_choice import WalkChooser
    from dao.processes.config import SamplerSettings
    from dao.processes.guidance import Guidance

Advance = Callable[[int], None]
"""Told how many more samples or pairs are done."""

MATCHES_AT_A_TIME = 500
"""Answers of the matcher between two writes: what a kill can cost."""


@dataclass(frozen=True)
class Predicted:
    """K predictions for each of M targets, None where one is missing or no crystal.

    Attributes:
        crystals: M rows of K.
        made_by: what they depend on; matches are kept under it.
        walks: walks of the generator a sample took on average, 0 for another tool.

    """

    crystals: tuple[tuple[Crystal | None, ...], ...]
    made_by: dict[str, Any]
    walks: float = 0.0

    @property
    def samples(self) -> int:
        """K."""
        return len(self.crystals[0])


def requests_for(targets: Targets, samples: int) -> list[list[SampleRequest]]:
    """M rows of K requests; targets of one composition differ in ``replica``, hence in noise alone."""
    seen: Counter[tuple[int, ...]] = Counter()
    rows = []
    for composition in targets.compositions:
        rows.append([SampleRequest(composition, index, replica=seen[composition]) for index in range(samples)])
        seen[composition] += 1
    return rows


@dataclass(frozen=True)
class Sampling:
    """Samples of a generator for a set of targets, in a file of the evaluation's folder."""

    model: Generator
    settings: SamplerSettings
    seed: int
    rows: Sequence[Sequence[SampleRequest]]
    file: SampleFile
    made_by: dict[str, Any]
    done: dict[SampleRequest, Sample] = field(default_factory=dict)
    guidance: Guidance | None = None
    choose: WalkChooser | None = None

    @classmethod
    def plan(
        cls,
        model: Generator,
        targets: Targets,
        samples: int,
        *,
        seed: int,
        settings: SamplerSettings,
        out: Path,
        guidance: Guidance | None = None,
        choose: WalkChooser | None = None,
    ) -> Sampling:
        """What is to be sampled and what an earlier run has finished; nothing is written yet.

        Raises:
            InputError: settings or targets that the model cannot do, or samples in ``out`` that were made otherwise.

        """
        settings = check_settings(model, settings)
        made_by = signature(model, settings, seed, guidance, choose)
        rows = requests_for(targets, samples)
        check_requests(model, [request for row in rows for request in row])
        file = SampleFile(out, made_by, f"samples-{seed}.jsonl")
        return cls(model, settings, seed, rows, file, made_by, file.read(), guidance, choose)

    @property
    def missing(self) -> list[SampleRequest]:
        """Requests that are not finished."""
        return [request for row in self.rows for request in row if request not in self.done]

    def run(self, advance: Advance, *, batch_size: int | None = None) -> Predicted:
        """Sample what is missing, batch by batch onto the disk."""
        walk = sample(
            self.model,
            self.missing,
            seed=self.seed,
            settings=self.settings,
            batch_size=batch_size,
            guidance=self.guidance,
            choose=self.choose,
        )
        for batch in walk:
            self.file.append(batch)
            self.done.update({one.request: one for one in batch})
            advance(len(batch))
        used = [self.done[request] for row in self.rows for request in row]
        crystals = tuple(tuple(self.done[request].crystal for request in row) for row in self.rows)
        return Predicted(crystals, self.made_by, sum(one.attempts for one in used) / max(1, len(used)))


Key = tuple[int, int, int]
"""(target that a sample was made for, which sample, target it is compared with)."""


@dataclass(frozen=True)
class Matching:
    """Comparisons of predictions with targets, in a file of the evaluation's folder."""

    targets: Targets
    predicted: Predicted
    file: JsonLines
    done: dict[Key, Match]

    @classmethod
    def plan(cls, targets: Targets, predicted: Predicted, *, seconds: float, path: Path) -> Matching:
        """What an earlier run has compared.

        Raises:
            InputError: comparisons of other predictions, targets or another time limit.

        """
        made_by = {"targets": targets.fingerprint(), "predictions": predicted.made_by, "time limit": seconds}
        file = JsonLines(path, made_by, "matches")
        samples = predicted.samples

        def parse(line: Any) -> tuple[Key, Match]:  # noqa: ANN401 -- what a line of JSON holds
            owner, index, target, rms, strict, timed_out = line
            key = (int(owner), int(index), int(target))
            return key, Match(key[0] * samples + key[1], key[2], rms, strict, bool(timed_out))

        return cls(targets, predicted, file, dict(file.read(parse)))

    def pairs(self, within: int | None = None) -> list[Key]:
        """All that is needed: samples with their own target, and the first ``within`` with its namesakes' targets.

        Args:
            within: samples a target to compare with the other targets of the same reduced formula; None: all K.

        """
        groups = defaultdict(list)
        for row, crystal in enumerate(self.targets.crystals):
            groups[crystal.reduced_formula].append(row)
        across = self.predicted.samples if within is None else within
        keys = []
        for rows in groups.values():
            for owner in rows:
                for index in range(self.predicted.samples):
                    compared = rows if index < across else [owner]
                    keys += [(owner, index, target) for target in compared]
        return keys

    def run(self, keys: Iterable[Key], advance: Advance, *, workers: int, seconds: float) -> None:
        """Compare what is missing of ``keys``, onto the disk every few hundred."""
        missing = [key for key in keys if key not in self.done]
        samples = self.predicted.samples
        waiting: list[list[Any]] = []

        def note(match: Match) -> None:
            owner, index = divmod(match.prediction, samples)
            self.done[owner, index, match.reference] = match
            waiting.append([owner, index, match.reference, match.rms, match.strict, match.timed_out])
            if len(waiting) >= MATCHES_AT_A_TIME:
                self._flush(waiting, advance)

        try:
            match_pairs(
                [crystal for row in self.predicted.crystals for crystal in row],
                self.targets.crystals,
                [(owner * samples + index, target) for owner, index, target in missing],
                workers=workers,
                seconds=seconds,
                on_match=note,
            )
        finally:
            self._flush(waiting, advance)

    def _flush(self, waiting: list[list[Any]], advance: Advance) -> None:
        lines = list(waiting)
        # first, so that Ctrl-C or a full disk during the write cannot have the same lines written again on the way out
        waiting.clear()
        if lines:
            self.file.append(lines)
            advance(len(lines))

    def distances(self, *, strict: bool = False) -> npt.NDArray[np.float64]:
        """(M, K) RMS distance of each sample to its own target, nan = no match."""
        table = np.full((len(self.targets.crystals), self.predicted.samples), np.nan)
        for (owner, index, target), match in self.done.items():
            value = match.strict if strict else match.rms
            if owner == target and index < table.shape[1] and value is not None:
                table[owner, index] = value
        return table

    def everyone(self, k: int) -> npt.NDArray[np.float64]:
        """(M,) smallest RMS distance of a target to the first k samples of all targets of its formula, nan = none."""
        best = np.full(len(self.targets.crystals), np.nan)
        for (_, index, target), match in self.done.items():
            if index < k and match.rms is not None:
                best[target] = np.fmin(best[target], match.rms)
        return best

    def scores(self, *, everyone: Sequence[int], ranked: npt.NDArray[np.float64] | None = None) -> Scores:
        """Everything that the metrics need."""
        crystals = self.targets.crystals
        samples = [[one is not None and valid(one) for one in row] for row in self.predicted.crystals]
        return Scores(
            ids=self.targets.ids,
            formulas=tuple(crystal.reduced_formula for crystal in crystals),
            num_atoms=np.array([crystal.num_atoms for crystal in crystals]),
            num_elements=np.array([len(crystal.counts) for crystal in crystals]),
            rms=self.distances(),
            strict=self.distances(strict=True),
            target_valid=np.array([valid(crystal) for crystal in crystals]),
            sample_valid=np.array(samples),
            ranked=ranked,
            everyone={k: self.everyone(k) for k in everyone},
            subsets=dict(self.targets.subsets),
            # an earlier run may have compared more samples a target
            timeouts=sum(match.timed_out for key, match in self.done.items() if key[1] < self.predicted.samples),
        )
