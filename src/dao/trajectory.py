"""The walk of one sample from noise to data, state by state (paper, Figure 8)."""

from __future__ import annotations

from dataclasses import dataclass

from dao.crystal import Crystal, CrystalBatch
from dao.errors import InputError
from dao.models import Generator
from dao.processes.config import SamplerSettings
from dao.processes.guidance import Guidance
from dao.sampling import SampleRequest, walked


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States of a walk, from noise (the first) to the sample (the last).

    Attributes:
        times: falling from 1 (noise) to 0 (data).
        crystals: the state at each time; only the last is meant to be a crystal that could exist.

    """

    times: tuple[float, ...]
    crystals: tuple[Crystal, ...]

    def thinned(self, frames: int) -> Trajectory:
        """At most ``frames`` (2 or more) of the states, evenly spread, the first and the last among them."""
        last = len(self.times) - 1
        count = min(frames, last + 1)
        kept = [round(i * last / (count - 1)) for i in range(count)]
        return Trajectory(tuple(self.times[i] for i in kept), tuple(self.crystals[i] for i in kept))


def walk_again(
    model: Generator,
    request: SampleRequest,
    walk: int = 0,
    *,
    seed: int,
    settings: SamplerSettings | None = None,
    guidance: Guidance | None = None,
) -> Trajectory:
    """The states through which a sample was made, by making it again, alone.

    Every walk has random numbers of its own, so it ends in the same crystal as it did in its batch, up to rounding.

    Args:
        model: the generator.
        request: of the sample.
        walk: number of the walk that the sample is the end of (:attr:`dao.sampling.Sample.walk`).
        seed: as the sample's, and likewise below.
        settings: the sampler's.
        guidance: what it was drawn towards.

    Raises:
        InputError: as :func:`dao.sampling.sample`, or the walk does not end in a crystal.

    """
    times: list[float] = []
    states: list[CrystalBatch] = []

    def keep(time: float, batch: CrystalBatch) -> None:
        times.append(time)
        states.append(batch)

    made = walked(model, request, walk, seed=seed, settings=settings, guidance=guidance, on_state=keep)
    if made.crystal is None:
        raise InputError(f"the walk does not end in a crystal ({made.failure})")
    return Trajectory(tuple(times), tuple(state.to_crystals()[0] for state in states))
