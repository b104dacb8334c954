from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from toys import tiny_generator, toy_crystals

from dao.crystal import CrystalBatch
from dao.data.store import pack_crystals
from dao.models import Generator
from dao.training.objectives import PRIOR_SHARE, SPACE_GROUP_WEIGHT, UNKNOWN_SHARE, generator_objective

PACKED = pack_crystals(toy_crystals())
PACKED = replace(PACKED, labels={"space_group": 1 + torch.arange(50)})


class RowNoise:
    """The numbers of one large batch, seen by some of its rows."""

    def __init__(self, batch: int, rows: slice, seed: int = 0) -> None:
        self.batch, self.rows = batch, rows
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.batch, *shape, generator=self.generator, dtype=torch.float64)[self.rows]

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.batch, *shape, generator=self.generator, dtype=torch.float64)[self.rows]


def batch_of(indices: Tensor) -> CrystalBatch:
    return PACKED.batch(indices, 6).to(dtype=torch.float64)


def spied(model: Generator, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    original = type(model).forward

    def forward(self: Generator, numbers: Tensor, mask: Tensor, state: Any, time: Tensor, group: Any = None) -> Any:
        prediction = original(self, numbers, mask, state, time, group)
        calls.append({"time": time, "group": group, "logits": prediction.space_group_logits})
        return prediction

    monkeypatch.setattr(type(model), "forward", forward)
    return calls


def test_space_groups_are_hidden_by_the_stated_share(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_generator("flow").double()
    calls = spied(model, monkeypatch)
    indices = torch.arange(50).repeat(80)
    with torch.no_grad():
        objective = generator_objective(model, batch_of(indices), RowNoise(4000, slice(None)))
    (call,) = calls
    hidden = call["group"] == 0
    true = PACKED.labels["space_group"][indices]
    assert torch.equal(call["group"][~hidden], true[~hidden])
    assert abs(float(hidden.double().mean()) - UNKNOWN_SHARE) < 0.03
    at_prior = call["time"] == 1.0
    assert abs(float(at_prior.double().mean()) - UNKNOWN_SHARE * PRIOR_SHARE) < 0.03
    # time is pure noise for hidden ones only, uniform for the rest
    assert not (at_prior & ~hidden).any()
    assert abs(float(call["time"][~at_prior].mean()) - 0.5) < 0.03
    # only those whose group was hidden are asked for it
    entropy = functional.cross_entropy(call["logits"][hidden], true[hidden])
    torch.testing.assert_close(objective.parts["space_group"], entropy)
    parts = objective.parts["coordinates"] + objective.parts["lattice"] + SPACE_GROUP_WEIGHT * entropy
    torch.testing.assert_close(objective.total, parts.to(objective.total))


def test_models_without_space_groups_see_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_generator("flow", space_groups=False).double()
    calls = spied(model, monkeypatch)
    objective = generator_objective(model, batch_of(torch.arange(50)), RowNoise(50, slice(None)))
    assert calls[0]["group"] is None
    assert objective.parts.keys() == {"coordinates", "lattice"}
    torch.testing.assert_close(objective.total, objective.parts["coordinates"] + objective.parts["lattice"])


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
@pytest.mark.parametrize("lattice", ["log_metric", "matrix"])
def test_gradients_of_parts_add_up_to_the_whole(
    kind: Literal["flow", "diffusion"], lattice: Literal["log_metric", "matrix"]
) -> None:
    """What accumulation rests on; a space group's mean is over the crystals it is hidden of, which differ in number."""
    model = tiny_generator(kind, lattice, space_groups=False).double()
    indices = torch.arange(24)
    generator_objective(model, batch_of(indices), RowNoise(24, slice(None))).total.backward()
    whole = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    for start in (0, 8, 16):
        rows = slice(start, start + 8)
        (generator_objective(model, batch_of(indices[rows]), RowNoise(24, rows)).total / 3).backward()
    parts = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-9, atol=1e-11)
