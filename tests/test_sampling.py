from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import tiny_generator

import dao.sampling
from dao.crystal import Crystal
from dao.errors import InputError
from dao.models import Generator
from dao.processes.config import SamplerSettings
from dao.sample_noise import SampleNoise
from dao.sampling import (
    Sample,
    SampleRequest,
    batches,
    check_settings,
    evaluations,
    sample,
    walked,
)
from dao.symmetry_choice import apportioned

Method = Literal["euler", "midpoint", "predictor-corrector"]
Lattice = Literal["log_metric", "matrix"]

# 2 to 10 atoms, three formulas, several samples of each
REQUESTS = [
    *(SampleRequest((11, 17), i) for i in range(4)),
    *(SampleRequest((8, 8, 8, 22, 38), i) for i in range(3)),
    *(SampleRequest((11, 11, 11, 11, 11, 17, 17, 17, 17, 17), i) for i in range(3)),
    SampleRequest((9, 9, 20)),
]

VARIANTS: list[tuple[Method, Lattice]] = [
    ("euler", "log_metric"),
    ("midpoint", "log_metric"),
    ("predictor-corrector", "log_metric"),
    ("euler", "matrix"),
    ("midpoint", "matrix"),
    ("predictor-corrector", "matrix"),
]


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is finite counts as a crystal: untrained networks make few that are."""
    monkeypatch.setattr(Crystal, "validate", lambda *_: None)


def build(method: Method, lattice: Lattice, *, space_groups: bool) -> Generator:
    settings = SamplerSettings(steps=3, method=method, coordinate_velocity_scale=2.0)
    kind: Literal["flow", "diffusion"] = "diffusion" if method == "predictor-corrector" else "flow"
    return tiny_generator(kind, lattice, space_groups=space_groups, sampler=settings)


def generate(model: Generator, requests: list[SampleRequest], **options: Any) -> dict[SampleRequest, Sample]:
    return {one.request: one for batch in sample(model, requests, **options) for one in batch}


def largest_difference(first: dict[SampleRequest, Sample], second: dict[SampleRequest, Sample]) -> float:
    """Over the crystals that both have; whether there is one, and after how many walks, must agree."""
    shared = first.keys() & second.keys()
    assert shared
    largest = 0.0
    for request in shared:
        one, other = first[request], second[request]
        assert (one.crystal is None, one.attempts) == (other.crystal is None, other.attempts)
        if one.crystal is None or other.crystal is None:
            continue
        assert one.crystal.atomic_numbers.tolist() == other.crystal.atomic_numbers.tolist()
        shift = one.crystal.frac_coords - other.crystal.frac_coords
        largest = max(largest, float(np.abs(shift - np.rint(shift)).max()))
        largest = max(largest, float(np.abs(one.crystal.lattice - other.crystal.lattice).max()))
    return largest


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("space_groups", [False, True])
@pytest.mark.parametrize(("method", "lattice"), VARIANTS)
def test_independent_of_batch_size_order_and_company(method: Method, lattice: Lattice, *, space_groups: bool) -> None:
    model = build(method, lattice, space_groups=space_groups).double()
    together = generate(model, REQUESTS, seed=3, batch_size=64)
    assert together.keys() == set(REQUESTS)
    assert all(one.crystal is not None for one in together.values())
    for batch_size in (1, 7, None):
        assert largest_difference(together, generate(model, REQUESTS, seed=3, batch_size=batch_size)) < 1e-9
    assert largest_difference(together, generate(model, REQUESTS[::-1], seed=3, batch_size=4)) < 1e-9
    # without the other formulas, and without the first samples of its own
    assert largest_difference(together, generate(model, REQUESTS[5:7], seed=3)) < 1e-9


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize(("method", "lattice"), VARIANTS[::2])
def test_float32_rounds_only(method: Method, lattice: Lattice) -> None:
    model = build(method, lattice, space_groups=True)
    together = generate(model, REQUESTS, seed=3, batch_size=64)
    assert largest_difference(together, generate(model, REQUESTS, seed=3, batch_size=1)) < 1e-3


@pytest.mark.usefixtures("lenient")
def test_seed_and_index_decide() -> None:
    model = build("euler", "log_metric", space_groups=True)
    first, again, other = (generate(model, REQUESTS, seed=seed) for seed in (0, 0, 1))
    assert largest_difference(first, again) == 0.0
    assert all(largest_difference({request: first[request]}, other) > 1e-3 for request in REQUESTS)
    lattices = [
        one.crystal.lattice for request, one in first.items() if one.crystal and len(request.atomic_numbers) < 3
    ]
    assert all(np.abs(lattices[0] - lattice).max() > 1e-3 for lattice in lattices[1:])


@pytest.mark.usefixtures("lenient")
def test_replicas_differ_in_noise_and_share_the_space_group(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("euler", "log_metric", space_groups=True)
    requests = [replace(request, replica=replica) for request in REQUESTS[:3] for replica in (0, 1)]
    seen: list[list[int]] = []
    forward = Generator.forward

    def spy(self: Generator, numbers: Tensor, mask: Tensor, *rest: Any) -> Any:
        if rest[2:] and rest[2] is not None:
            seen.append(rest[2].tolist())
        return forward(self, numbers, mask, *rest)

    monkeypatch.setattr(Generator, "forward", spy)
    found = generate(model, requests, seed=0)
    groups = seen[0]
    assert groups[0::2] == groups[1::2]
    for one, other in zip(requests[0::2], requests[1::2], strict=True):
        pair = found[one].crystal, found[other].crystal
        assert pair[0] is not None
        assert pair[1] is not None
        assert np.abs(pair[0].lattice - pair[1].lattice).max() > 1e-3
    # replica 0 is the request that names none
    assert largest_difference({requests[0]: found[requests[0]]}, generate(model, REQUESTS[:1], seed=0)) < 1e-4


@pytest.mark.usefixtures("lenient")
def test_bfloat16_gives_nearby_crystals_in_float32() -> None:
    model = build("euler", "log_metric", space_groups=True)
    full = generate(model, REQUESTS, seed=0)
    low = generate(model, REQUESTS, seed=0, settings=model.config.sampler.updated(precision="bfloat16"))
    assert 0.0 < largest_difference(full, low) < 0.5
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_streams_do_not_see_padding(dtype: torch.dtype) -> None:
    like = torch.zeros(1, dtype=dtype)
    small, large = SampleRequest((11, 17)), SampleRequest((8, 8, 8, 22, 38))
    alone, padded = SampleNoise([small], 5, like), SampleNoise([large, small], 5, like)
    for draw in ("uniform", "normal", "uniform"):
        one, two = getattr(alone, draw)(2, 3), getattr(padded, draw)(5, 3)
        assert one.dtype == dtype
        assert torch.equal(one[0], two[1, :2])
        assert not two[1, 2:].any()
        assert torch.equal(getattr(alone, draw)(6)[0], getattr(padded, draw)(6)[1])
    assert not torch.equal(SampleNoise([small], 5, like, 1).normal(6), SampleNoise([small], 5, like, 0).normal(6))


def test_uniform_numbers_stay_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = SampleNoise([SampleRequest((11,))], 0, torch.zeros(1))
    monkeypatch.setattr(noise, "_draw", lambda *_: torch.tensor([[1.0 - 2.0**-53, 0.5]], dtype=torch.float64).float())
    assert noise.uniform(2).tolist() == [[0.0, 0.5]]


def test_batches_hold_everything_once_by_size() -> None:
    cut = list(batches(REQUESTS, 4))
    assert [len(batch) for batch in cut] == [4, 4, 3]
    assert Counter(request for batch in cut for request in batch) == Counter(REQUESTS)
    sizes = [len(request.atomic_numbers) for batch in cut for request in batch]
    assert sizes == sorted(sizes)
    large = [SampleRequest((6,) * 500, i) for i in range(20)]
    assert [len(batch) for batch in batches([*REQUESTS, *large], None)] == [len(REQUESTS), 8, 8, 4]
    assert list(batches([], None)) == []


def spy_on_space_groups(model: Generator, monkeypatch: pytest.MonkeyPatch) -> list[list[int] | None]:
    """Fill the list with the space groups that the network is given."""
    seen: list[list[int] | None] = []
    original = type(model).forward

    def forward(self: Generator, numbers: Tensor, mask: Tensor, state: Any, time: Tensor, group: Any = None) -> Any:
        seen.append(None if group is None else group.tolist())
        return original(self, numbers, mask, state, time, group)

    monkeypatch.setattr(type(model), "forward", forward)
    return seen


def test_space_groups_asked_for_are_given_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("euler", "log_metric", space_groups=True)
    seen = spy_on_space_groups(model, monkeypatch)
    asked = [replace(REQUESTS[0], space_group=225), REQUESTS[1], replace(REQUESTS[2], space_group=1)]
    generate(model, asked, settings=SamplerSettings(steps=3, attempts=1))
    assert len(seen) == evaluations(model, SamplerSettings(steps=3)) == 4
    assert seen[0] is None
    for groups in seen[1:]:
        assert groups is not None
        assert (groups[0], groups[2]) == (225, 1)
        assert 1 <= groups[1] <= 230


@pytest.mark.usefixtures("lenient")
def test_space_groups_asked_for_change_the_crystal() -> None:
    model = build("euler", "log_metric", space_groups=True)
    one, other = (generate(model, [replace(REQUESTS[0], space_group=group)]) for group in (225, 2))
    first, second = (next(iter(samples.values())).crystal for samples in (one, other))
    assert first is not None
    assert second is not None
    assert np.abs(first.lattice - second.lattice).max() > 1e-4


def test_samples_share_out_space_groups() -> None:
    shares = np.array([0.0, 0.6, 0.3, 0.1])
    assert [apportioned(shares, index) for index in range(10)].count(1) == 6
    assert Counter(apportioned(shares, index) for index in range(20)) == {1: 12, 2: 6, 3: 2}
    assert apportioned(shares, 0) == 1


def test_models_without_space_groups_refuse_them() -> None:
    model = build("euler", "log_metric", space_groups=False)
    with pytest.raises(InputError, match="know no space groups"):
        sample(model, [SampleRequest((11, 17), 0, 225)])
    with pytest.raises(InputError, match="space group 231 is outside 1 to 230"):
        sample(build("euler", "log_metric", space_groups=True), [SampleRequest((11, 17), 0, 231)])


@pytest.mark.parametrize(
    ("method", "kind", "complaint"),
    [
        ("predictor-corrector", "flow", "does not belong to a flow model"),
        ("euler", "diffusion", "does not belong to a diffusion model"),
    ],
)
def test_a_sampler_of_another_process_is_refused_at_once(
    method: Method, kind: Literal["flow", "diffusion"], complaint: str
) -> None:
    model = tiny_generator(kind)
    with pytest.raises(InputError, match=complaint):
        sample(model, REQUESTS, settings=SamplerSettings(method=method))


def test_other_bad_requests_are_refused_at_once() -> None:
    model = tiny_generator("diffusion")
    with pytest.raises(InputError, match="at most the 20 of this diffusion model, got 21"):
        sample(model, REQUESTS, settings=SamplerSettings(steps=21))
    with pytest.raises(InputError, match="batch size must be at least 1, got 0"):
        sample(model, REQUESTS, batch_size=0)
    with pytest.raises(InputError, match="0 atoms"):
        sample(model, [SampleRequest(())])
    with pytest.raises(InputError, match="atomic number 95"):
        sample(model, [SampleRequest((95,))])
    with pytest.raises(InputError, match="513 atoms"):
        sample(model, [SampleRequest((6,) * 513)])


def test_the_default_sampler_is_filled_in() -> None:
    assert check_settings(tiny_generator("flow"), SamplerSettings()).method == "euler"
    assert check_settings(tiny_generator("diffusion"), SamplerSettings(steps=2)).method == "predictor-corrector"


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("lattice", ["log_metric", "matrix"])
@pytest.mark.parametrize("poison", [float("nan"), 1e30, -1e30, float("inf")])
def test_collapsed_samples_fail_alone(lattice: Lattice, poison: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("euler", lattice, space_groups=True)
    sound = generate(model, REQUESTS, settings=SamplerSettings(steps=3, attempts=1))
    original = type(model.process.representation).decode

    def decode(self: Any, numbers: Tensor, atomic_numbers: Tensor) -> Tensor:
        poisoned = (atomic_numbers == 20).any(1, keepdim=True)
        return original(self, torch.where(poisoned, torch.full_like(numbers, poison), numbers), atomic_numbers)

    monkeypatch.setattr(type(model.process.representation), "decode", decode)
    broken = generate(model, REQUESTS, settings=SamplerSettings(steps=3, attempts=2), batch_size=64)
    failed = broken.pop(REQUESTS[-1])
    assert failed.crystal is None
    assert failed.failure
    assert "\n" not in failed.failure
    assert failed.attempts == 2
    assert largest_difference(sound, broken) < 1e-4


@pytest.mark.usefixtures("lenient")
def test_a_failed_walk_starts_again_from_other_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("euler", "log_metric", space_groups=False)
    attempts: list[tuple[int, int]] = []
    original: Any = dao.sampling._Walks.once

    def flaky(walks: Any, requests: list[SampleRequest], attempt: int) -> list[Sample]:
        attempts.append((attempt, len(requests)))
        made: list[Sample] = original(walks, requests, attempt)
        return [Sample(one.request, None, "too bad") if attempt < one.request.index else one for one in made]

    monkeypatch.setattr(dao.sampling._Walks, "once", flaky)
    made = generate(model, REQUESTS[:4], settings=SamplerSettings(steps=3, attempts=3))
    assert attempts == [(0, 4), (1, 3), (2, 2)]
    assert [made[request].attempts for request in REQUESTS[:3]] == [1, 2, 3]
    assert (made[REQUESTS[3]].crystal, made[REQUESTS[3]].failure) == (None, "too bad")


@pytest.mark.usefixtures("lenient")
def test_of_several_walks_the_chosen_one_is_kept() -> None:
    model = build("euler", "log_metric", space_groups=False)
    shown: list[list[Crystal]] = []

    def choose(walks: Sequence[Sequence[Crystal]]) -> list[int]:
        shown.extend(map(list, walks))
        return [1] * len(walks)

    asked = [SampleRequest((8, 8, 8, 22, 38), index) for index in range(3)]
    settings = SamplerSettings(steps=3, walks=3)
    made = generate(model, asked, settings=settings, choose=choose)
    assert [len(own) for own in shown] == [3, 3, 3]
    for own, request in zip(shown, asked, strict=True):
        assert made[request].crystal is own[1]
        assert (made[request].attempts, made[request].walk) == (3, settings.attempts)
        again = walked(model, request, made[request].walk, settings=settings).crystal
        assert again is not None
        assert again.lattice == pytest.approx(own[1].lattice, abs=1e-4)
        assert np.abs(own[0].frac_coords - own[1].frac_coords).max() > 1e-3
    # the first walk is the only one where nothing chooses
    alone = generate(model, asked, settings=settings)
    first = {one: Sample(one, own[0]) for one, own in zip(asked, shown, strict=True)}
    assert largest_difference(alone, first) < 1e-4
    assert all((one.attempts, one.walk) == (1, 0) for one in alone.values())


@pytest.mark.usefixtures("lenient")
def test_walks_that_end_in_no_crystal_are_not_chosen_from(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Any = dao.sampling._Walks.once

    def flaky(walks: Any, requests: list[SampleRequest], attempt: int) -> list[Sample]:
        """With two attempts a walk: of sample 0 all walks fail, of 1 the first two, of 2 the second's first attempt."""
        fails = {0: range(6), 1: range(4), 2: (2,), 3: ()}
        made: list[Sample] = original(walks, requests, attempt)
        return [Sample(one.request, None, "no") if attempt in fails[one.request.index] else one for one in made]

    monkeypatch.setattr(dao.sampling._Walks, "once", flaky)
    asked = [SampleRequest((8, 8, 8, 22, 38), index) for index in range(4)]
    settings = SamplerSettings(steps=2, walks=3, attempts=2)
    model = build("euler", "log_metric", space_groups=False)
    lengths: list[int] = []

    def choose(walks: Sequence[Sequence[Crystal]]) -> list[int]:
        lengths.extend(map(len, walks))
        return [1] * len(walks)

    made = generate(model, asked, settings=settings, choose=choose)
    assert lengths == [3, 3]
    assert (made[asked[0]].crystal, made[asked[0]].attempts) == (None, 6)
    assert made[asked[1]].crystal is not None
    assert [(made[one].attempts, made[one].walk) for one in asked[1:]] == [(5, 4), (4, 3), (3, 2)]
