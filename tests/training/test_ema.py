from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dao.training.ema import ExponentialAverage


class One(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value], dtype=torch.float64))
        self.register_buffer("scaler", torch.tensor([7.0]))

    def set(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)


@given(decay=st.floats(0.0, 0.9999), values=st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_closed_form(decay: float, values: list[float]) -> None:
    model = One(3.0)
    average = ExponentialAverage(model, decay)
    for value in values:
        model.set(value)
        average.update(model)
    # each value's weight is what its own update gave it, shrunk by all later ones
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(1, len(values) + 1)]
    expected, left = 0.0, 1.0
    for value, d in zip(reversed(values), reversed(decays), strict=True):
        expected += left * (1.0 - d) * value
        left *= d
    expected += left * 3.0
    assert abs(float(average.shadow["weight"]) - expected) < 1e-9


def test_a_constant_stays() -> None:
    model = One(2.5)
    average = ExponentialAverage(model, 0.9)
    for _ in range(50):
        average.update(model)
    assert float(average.shadow["weight"]) == 2.5


def test_saved_and_copied() -> None:
    model = One(0.0)
    average = ExponentialAverage(model, 0.9)
    model.set(1.0)
    average.update(model)
    assert average.state_dict().keys() == {"weight"}
    restored = ExponentialAverage(One(5.0), 0.9)
    restored.load_state_dict(average.state_dict(), average.updates)
    for one in (average, restored):
        model.set(4.0)
        one.update(model)
    assert torch.equal(average.shadow["weight"], restored.shadow["weight"])
    other = One(0.0)
    average.copy_to(other)
    assert torch.equal(other.weight, average.shadow["weight"])
    # a copy, not the average itself
    other.set(9.0)
    assert float(average.shadow["weight"]) != 9.0
