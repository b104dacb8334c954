"""Prototype proposals carried on by the generator's flow: noised to a time within their symmetry, and walked back.

Off unless asked for: on validation it made proposals worse (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dao.errors import InputError
from dao.geometry.cells import SYMPREC, niggli_reduce
from dao.geometry.symmetrized import symmetrized
from dao.models import Generator
from dao.prediction.ranking import Candidate
from dao.prediction.sources import Sources
from dao.processes.config import SamplerSettings
from dao.sampling import SampleRequest, sample
from dao.sampling_start import Start

if TYPE_CHECKING:
    from dao.processes.guidance import Guidance


@dataclass(frozen=True, eq=False, kw_only=True)
class Refiner:
    """What refines proposals.

    Attributes:
        model: a generator that keeps symmetry.
        settings: of its sampler.
        seed: of the noise, which also depends on a proposal's composition and place among the proposals.
        time: that proposals are noised to, over 0 and up to 1: how much of their geometry is forgotten.
        batch_size: proposals at a time.
        guidance: of the walks.

    Raises:
        InputError: another time, or a generator that keeps no symmetry.

    """

    model: Generator
    settings: SamplerSettings
    seed: int
    time: float
    batch_size: int | None = None
    guidance: Guidance | None = None

    def __post_init__(self) -> None:
        """Check."""
        if not 0.0 < self.time <= 1.0:
            raise InputError(f"prototypes are refined from a time over 0 and up to 1, not from {self.time:g}")
        if self.model.symmetry_table is None:
            raise InputError(f"weights {self.model.config.name} keep no symmetry, which refining prototypes needs")

    def __call__(self, proposals: Sequence[Candidate]) -> list[Candidate]:
        """The proposals in their order with refined coordinates and cells; what ends in no crystal stays as it was."""
        places: dict[SampleRequest, int] = {}
        for place, one in enumerate(proposals):
            try:
                start = Start(symmetrized(one.crystal, SYMPREC), self.time)
            except InputError:  # no symmetry to keep
                continue
            places[SampleRequest.starting(start, one.rank)] = place
        made = list(proposals)
        walks = sample(
            self.model,
            list(places),
            seed=self.seed,
            settings=self.settings,
            batch_size=self.batch_size,
            guidance=self.guidance,
        )
        for batch in walks:
            for walked in batch:
                if walked.crystal is not None:
                    place = places[walked.request]
                    made[place] = replace(made[place], crystal=niggli_reduce(walked.crystal))
        return made


def refiner_of(
    sources: Sources,
    time: float | None,
    model: Generator | None = None,
    settings: SamplerSettings | None = None,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    guidance: Guidance | None = None,
) -> Refiner | None:
    """See :class:`Refiner`; None where no ``time`` is given.

    Raises:
        InputError: likewise, or one of the two sources is missing.

    """
    if time is None:
        return None
    if sources.table is None or model is None or settings is None:
        raise InputError("refining prototypes needs both sources, the generator and prototypes")
    return Refiner(model=model, settings=settings, seed=seed, time=time, batch_size=batch_size, guidance=guidance)
