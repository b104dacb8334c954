"""The reverse loop: from compositions to crystals, in batches of similar size.

What comes out for a sample depends on (seed, its elements, its index) alone: every sample draws from a random stream of
its own, never from its batch's. Batch size and order change results by rounding only (a different summation order),
and the choice among several walks only where two of them are as good as each other.

Shapes: B crystals of a batch, N atoms (padded).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import torch
from torch import Tensor

from dao.batching import of_like_sizes
from dao.crystal import DEFAULT_LIMITS, Crystal, CrystalBatch
from dao.elements import SYMBOLS
from dao.errors import InputError
from dao.geometry.wyckoff import check_space_group, wyckoff_positions
from dao.geometry.wyckoff_assignments import fits
from dao.models import Generator
from dao.networks.config import SPACE_GROUPS
from dao.processes.base import Denoiser, Prediction, State, full_time
from dao.processes.config import SamplerSettings
from dao.processes.guidance import Guidance, guided
from dao.sample_noise import SampleNoise
from dao.sampling_start import Start, started, times_from
from dao.symmetry_choice import SymmetryChoice, apportioned

OnState = Callable[[float, CrystalBatch], None]
"""Called with the time (1 = noise, 0 = data) and the crystals of a batch at it."""

ChooseWalks = Callable[[Sequence[Sequence[Crystal]]], Sequence[int]]
"""Which of each list of crystals, all of one composition, is the likeliest."""

CHOICE_FREEDOM = 4
"""Free coordinates from which on a sample takes several walks: with fewer, next to all end in one crystal."""


@dataclass(frozen=True)
class SampleRequest:
    """One crystal to generate: the elements of its cell in rising order, and which of its samples this is."""

    atomic_numbers: tuple[int, ...]
    index: int = 0
    space_group: int | None = None
    """Ask for this space group (1-230) instead of one drawn from the model; needs a network that knows them."""
    replica: int = 0
    """Other noise for the same ``index``: crystals to predict that share a composition each get samples of their own,
    as if each stood alone (``index`` decides the share of space groups, ``replica`` only the noise)."""
    orbits: tuple[tuple[int, str], ...] | None = None
    """With ``space_group``: (element, Wyckoff letter) of each orbit, for generators that keep symmetry."""
    start: Start | None = None
    """With ``orbits``: the crystal of that symmetry that the walk begins from, noised, instead of from noise alone."""

    @classmethod
    def starting(cls, start: Start, index: int = 0) -> SampleRequest:
        """One that walks back to data from a crystal noised within its symmetry."""
        one = start.crystal
        numbers = tuple(one.crystal().atomic_numbers.tolist())
        return cls(numbers, index, one.space_group, orbits=one.orbits, start=start)


@dataclass(frozen=True)
class Sample:
    """A generated crystal; None with a ``failure`` where the walk ended in something that is no crystal."""

    request: SampleRequest
    crystal: Crystal | None
    failure: str = ""
    attempts: int = 1
    """Walks that it took."""
    walk: int = 0
    """Number of the one that it is the end of, by which its noise is drawn (:func:`walked`)."""


def batches(requests: Sequence[SampleRequest], batch_size: int | None) -> Iterator[list[SampleRequest]]:
    """Requests in batches as :func:`dao.batching.of_like_sizes` cuts them; walks of one begin at one time.

    Those from noise come first.
    """

    def walk(request: SampleRequest) -> tuple[bool, float]:
        return request.start is not None, -1.0 if request.start is None else -request.start.time

    for _, alike in groupby(sorted(requests, key=walk), key=walk):
        together = list(alike)
        for places in of_like_sizes([len(request.atomic_numbers) for request in together], batch_size):
            yield [together[i] for i in places]


def sample(
    model: Generator,
    requests: Sequence[SampleRequest],
    *,
    seed: int = 0,
    settings: SamplerSettings | None = None,
    batch_size: int | None = None,
    guidance: Guidance | None = None,
    choose: ChooseWalks | None = None,
    on_state: OnState | None = None,
) -> Iterator[list[Sample]]:
    """Generate crystals, a batch at a time, smallest cells first.

    Args:
        model: the generator, on the device to use.
        requests: what to generate.
        seed: see the module docstring.
        settings: the sampler's; default those saved with the model.
        batch_size: crystals a batch; default by number of atoms.
        guidance: what to draw the samples towards; None, like strength 0: nothing.
        choose: which of a sample's ``settings.walks`` walks is kept; None: one walk is all it takes.
        on_state: is shown every state of every walk, noise and data included.

    Raises:
        InputError: at once, before anything is generated: see :func:`check_settings` and :func:`check_requests`, or a
            batch size below 1.

    """
    walks = _Walks.checked(model, requests, seed, settings, guidance, choose, on_state)
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch size must be at least 1, got {batch_size}")
    return (walks.samples(batch) for batch in batches(requests, batch_size))


def walked(
    model: Generator,
    request: SampleRequest,
    walk: int = 0,
    *,
    seed: int = 0,
    settings: SamplerSettings | None = None,
    guidance: Guidance | None = None,
    on_state: OnState | None = None,
) -> Sample:
    """One walk of a sample, alone; of a :class:`Sample` that was made so, ``walk`` is the one that it is the end of.

    Args:
        model: as :func:`sample`, and likewise below.
        request: what to generate.
        walk: number of the walk.
        seed: seed.
        settings: the sampler's.
        guidance: what to draw it towards.
        on_state: is shown every state.

    Raises:
        InputError: as :func:`sample`.

    """
    walks = _Walks.checked(model, [request], seed, settings, guidance, None, on_state)
    return walks.once([request], walk)[0]


def check_settings(model: Generator, settings: SamplerSettings) -> SamplerSettings:
    """The settings with the model's default sampler filled in where they name none.

    Raises:
        InputError: a sampler that the model's process does not have, or more steps than it has.

    """
    method = settings.method or model.process.methods[0]
    if method not in model.process.methods:
        known = ", ".join(model.process.methods)
        raise InputError(f"sampler {method!r} does not belong to a {model.process.name} model (its samplers: {known})")
    model.process.times(settings.steps)
    return settings.updated(method=method)


def check_requests(model: Generator, requests: Sequence[SampleRequest]) -> None:
    """Refuse what the model cannot generate, before anything is allocated.

    Raises:
        InputError: no atoms or too many, an unknown element, or a space group asked of a model that knows none.

    """
    for request in requests:
        DEFAULT_LIMITS.check_composition(Counter(request.atomic_numbers), "sample")
        if request.orbits is not None:
            _check_orbits(model, request)
        if request.start is not None and (request.start.crystal.space_group, request.start.crystal.orbits) != (
            request.space_group,
            request.orbits,
        ):
            raise InputError("a walk can start only from a crystal of the space group and orbits asked for")
        if model.symmetry_table is not None and request.orbits is None and model.symmetry_prior is None:
            raise InputError("these weights hold no symmetry prior: each sample needs its space group and orbits")
        if request.space_group is None:
            continue
        if model.space_group_head is None and model.symmetry_table is None:
            raise InputError(f"space group {request.space_group} is asked of weights that know no space groups")
        if not 1 <= request.space_group <= SPACE_GROUPS:
            raise InputError(f"space group {request.space_group} is outside 1 to {SPACE_GROUPS}")
        if model.symmetry_table is not None and request.orbits is None:
            counts = Counter(request.atomic_numbers)
            if not fits(request.space_group, [counts[number] for number in sorted(counts)]):
                atoms = " ".join(f"{SYMBOLS[number]}{counts[number]}" for number in sorted(counts))
                raise InputError(f"no Wyckoff positions of space group {request.space_group} hold {atoms}")


def _check_orbits(model: Generator, request: SampleRequest) -> None:
    """Refuse orbits that are not, in their order, the atoms asked for."""
    if model.symmetry_table is None or request.space_group is None:
        raise InputError("orbits are asked of weights without symmetry, or without their space group")
    check_space_group(request.space_group)
    known = {one.letter: one.multiplicity for one in wyckoff_positions(request.space_group)}
    orbits = request.orbits or ()
    unknown = next((letter for _, letter in orbits if letter not in known), None)
    if unknown is not None:
        raise InputError(f"space group {request.space_group} has no Wyckoff position {unknown!r}")
    if tuple(number for number, letter in orbits for _ in range(known[letter])) != request.atomic_numbers:
        raise InputError(f"orbits of space group {request.space_group} do not hold the atoms asked for, in their order")


@dataclass(frozen=True)
class _Walks:
    """What all walks of a call of :func:`sample` share."""

    model: Generator
    seed: int
    settings: SamplerSettings
    choice: SymmetryChoice
    guidance: Guidance | None
    choose: ChooseWalks | None
    on_state: OnState | None

    @classmethod
    def checked(
        cls,
        model: Generator,
        requests: Sequence[SampleRequest],
        seed: int,
        settings: SamplerSettings | None,
        guidance: Guidance | None,
        choose: ChooseWalks | None,
        on_state: OnState | None,
    ) -> _Walks:
        """Of requests that the model can do; the sampler's settings are by default the model's own."""
        settings = check_settings(model, settings or model.config.sampler)
        check_requests(model, requests)
        if guidance is not None and guidance.strength == 0:
            guidance = None
        return cls(model, seed, settings, SymmetryChoice(model, settings), guidance, choose, on_state)

    def samples(self, batch: list[SampleRequest]) -> list[Sample]:
        """Of a batch, each the likeliest of its walks where there is something to choose."""
        samples = self._with_retries(batch, 0)
        if self.choose is None or self.settings.walks == 1:
            return samples
        free = [i for i, request in enumerate(batch) if self.choice.freedom(request) >= CHOICE_FREEDOM]
        ended = [[samples[i]] for i in free]
        for number in range(1, self.settings.walks):
            again = self._with_retries([batch[i] for i in free], number)
            for own, another in zip(ended, again, strict=True):
                own.append(another)
        for i, one in zip(free, _likeliest(ended, self.choose), strict=True):
            samples[i] = one
        return samples

    def _with_retries(self, batch: list[SampleRequest], number: int) -> list[Sample]:
        """Walk for the ``number``-th time until each sample is a crystal, or its attempts are used up.

        Two atoms of one element that meet can never part again: the network is equivariant to their exchange, so what
        it says of both is the same. Only other noise helps.
        """
        waiting, samples = list(range(len(batch))), [Sample(request, None) for request in batch]
        for attempt in range(self.settings.attempts):
            if not waiting:
                break
            walk = number * self.settings.attempts + attempt
            for i, one in zip(waiting, self.once([batch[i] for i in waiting], walk), strict=True):
                samples[i] = replace(one, attempts=attempt + 1)
            waiting = [i for i in waiting if samples[i].crystal is None]
        return samples

    @torch.no_grad()
    def once(self, requests: list[SampleRequest], walk: int) -> list[Sample]:
        """Where the walks of that number end."""
        model, settings, guidance, on_state = self.model, self.settings, self.guidance, self.on_state
        like = next(model.parameters())
        width = max(len(request.atomic_numbers) for request in requests)
        numbers = torch.zeros(len(requests), width, dtype=torch.long)
        for row, request in zip(numbers, requests, strict=True):
            row[: len(request.atomic_numbers)] = torch.tensor(request.atomic_numbers)
        numbers = numbers.to(like.device)
        mask = numbers > 0
        noise = SampleNoise(requests, self.seed, like, walk)

        symmetry = self.choice.of_batch(requests, width)
        starts = [request.start for request in requests if request.start is not None]
        if starts and symmetry is not None:
            state = started(model.process, starts, symmetry, numbers, mask, noise)
        else:
            state = model.process.calmed(model.process.prior(mask, noise, symmetry), settings)
        groups = _space_groups(model, requests, numbers, mask, self.seed, settings)

        def denoise(at: State, time: Tensor) -> Prediction:
            with torch.autocast(like.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                return model(numbers, mask, at, time, groups)

        denoiser: Denoiser = denoise
        if guidance is not None:
            denoiser = guided(
                guidance,
                denoise,
                model.process,
                lambda at: model.decode(at, numbers, mask.sum(1)),
                mask,
                intermediate=guidance.objective.knows_noise_of(model.config.process),
            )
        times = times_from(model.process.times(settings.steps), starts)
        if on_state is not None:
            on_state(times[0], model.decode(state, numbers, mask.sum(1)))
        for t, t_next in pairwise(times):
            state = model.process.step(denoiser, state, t, t_next, mask, noise, settings)
            if on_state is not None:
                on_state(t_next, model.decode(state, numbers, mask.sum(1)))
        return _finish(model.decode(state, numbers, mask.sum(1)), requests, walk)


def _likeliest(ended: Sequence[Sequence[Sample]], choose: ChooseWalks) -> list[Sample]:
    """Of each list, which are the ends of one sample's walks, the likeliest crystal; all of its walks are counted."""
    sound = [[i for i, one in enumerate(own) if one.crystal is not None] for own in ended]
    asked = [number for number, places in enumerate(sound) if len(places) > 1]
    crystals = [[crystal for one in ended[number] if (crystal := one.crystal) is not None] for number in asked]
    best = choose(crystals) if crystals else []
    place = {number: sound[number][i] for number, i in zip(asked, best, strict=True)}
    # else the only one that is a crystal, or any: none is
    kept = [place.get(number, sound[number][0] if sound[number] else 0) for number in range(len(ended))]
    return [replace(own[i], attempts=sum(one.attempts for one in own)) for own, i in zip(ended, kept, strict=True)]


def evaluations(model: Generator, settings: SamplerSettings) -> int:
    """Network evaluations that one walk costs.

    A sample is one walk, or more where one ends in no crystal, or where the likeliest of several is kept.
    """
    method = settings.method or model.process.methods[0]
    return settings.steps * model.process.evaluations_per_step(method) + (model.space_group_head is not None)


def _space_groups(
    model: Generator,
    requests: list[SampleRequest],
    numbers: Tensor,
    mask: Tensor,
    seed: int,
    settings: SamplerSettings,
) -> Tensor | None:
    """Space group of each sample: the one asked for, else its share of the model's distribution over them."""
    if model.space_group_head is None:
        return None
    unknown = [i for i, request in enumerate(requests) if request.space_group is None]
    groups = torch.tensor([request.space_group or 0 for request in requests], device=numbers.device)
    if not unknown:
        return groups
    # one prior state for each composition, so that all its samples share one distribution
    first = SampleNoise([SampleRequest(one.atomic_numbers) for one in requests], seed, next(model.parameters()))
    state = model.process.prior(mask, first)
    logits = model(numbers, mask, state, full_time(1.0, state.lattice)).space_group_logits
    shares = torch.softmax(logits.double() / settings.space_group_temperature, dim=-1).cpu().numpy()
    for i in unknown:
        groups[i] = apportioned(shares[i], requests[i].index)
    return groups


def _finish(batch: CrystalBatch, requests: list[SampleRequest], walk: int) -> list[Sample]:
    samples = []
    numbers = batch.atomic_numbers.cpu().numpy()
    coords, lattices = batch.frac_coords.double().cpu().numpy(), batch.lattice.double().cpu().numpy()
    for i, request in enumerate(requests):
        count = len(request.atomic_numbers)
        try:
            crystal = Crystal(numbers[i, :count], coords[i, :count], lattices[i])
            crystal.validate()
            samples.append(Sample(request, crystal, walk=walk))
        except InputError as error:
            samples.append(Sample(request, None, str(error), walk=walk))
    return samples
