from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from dao.geometry.lattice import volume
from dao.processes.representations import (
    LEAST_DEVIATION,
    REPRESENTATIONS,
    LatticeRepresentation,
    LogMetricLattice,
    MatrixLattice,
)

ELEMENTS = 95


def training_set(crystals: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """Lattices whose volumes follow from their elements but for 5 %; elements with padding; counts per element."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(1, 30, (crystals, 6), generator=generator)
    numbers[:, 3:] *= torch.rand(crystals, 3, generator=generator).sort(descending=True).values > 0.5
    counts = torch.nn.functional.one_hot(numbers, ELEMENTS).sum(1).float()
    counts[:, 0] = 0
    size = counts @ torch.linspace(0, 50, ELEMENTS) * torch.exp(0.05 * torch.randn(crystals, generator=generator))
    shape = torch.eye(3) + 0.2 * torch.randn(crystals, 3, 3, generator=generator)
    return shape * (size / volume(shape)).pow(1 / 3)[:, None, None], numbers, counts


def fitted(name: str) -> LatticeRepresentation:
    representation = REPRESENTATIONS[name]()
    lattice, _, counts = training_set()
    representation.fit(lattice, counts)
    return representation


@st.composite
def lattices(draw: st.DrawFn) -> Tensor:
    shape = draw(hnp.arrays(np.float32, (2, 3, 3), elements=st.floats(-0.3125, 0.3125, width=32)))
    return torch.from_numpy(draw(st.floats(2.0, 20.0, width=32)) * (np.eye(3, dtype=np.float32) + shape))


NUMBERS = torch.tensor([[3, 8, 90], [26, 0, 0]])


def test_table_names_each_by_its_name() -> None:
    assert {name: kind().name for name, kind in REPRESENTATIONS.items()} == {
        "matrix": "matrix",
        "log_metric": "log_metric",
        "conventional_log_metric": "conventional_log_metric",
    }


@given(lattices(), st.sampled_from(["matrix", "log_metric"]))
def test_round_trip_in_single_precision(lattice: Tensor, name: str) -> None:
    representation = fitted(name)
    numbers = representation.encode(lattice, NUMBERS)
    assert numbers.shape == (2, representation.dimension)
    again = representation.decode(numbers, NUMBERS)
    scale = lattice.square().sum((-1, -2))[:, None, None]
    torch.testing.assert_close((again @ again.mT) / scale, (lattice @ lattice.mT) / scale, atol=1e-5, rtol=0)
    if name == "matrix":
        assert torch.equal(again, lattice)


@given(hnp.arrays(np.float64, (2, 6), elements=st.floats(-3, 3)).map(torch.from_numpy))
def test_log_metric_numbers_round_trip(numbers: Tensor) -> None:
    representation = fitted("log_metric").double()
    again = representation.encode(representation.decode(numbers, NUMBERS), NUMBERS)
    torch.testing.assert_close(again, numbers, atol=1e-5, rtol=0)


@given(lattices())
def test_features_do_not_see_rotation_or_reflection(lattice: Tensor) -> None:
    turn = torch.tensor([[0.0, -0.6, 0.8], [1.0, 0.0, 0.0], [0.0, 0.8, 0.6]])
    for name in REPRESENTATIONS:
        representation = fitted(name)
        features = [
            representation.features(representation.encode(one, NUMBERS), NUMBERS) for one in (lattice, lattice @ turn)
        ]
        assert features[0].shape == (2, 6)
        torch.testing.assert_close(features[1], features[0], atol=2e-3, rtol=1e-4)


def test_fitted_numbers_are_standardised_over_the_training_set() -> None:
    lattice, numbers, _ = training_set()
    encoded = fitted("log_metric").encode(lattice, numbers)
    torch.testing.assert_close(encoded.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(encoded.std(0, correction=0), torch.ones(6), atol=1e-4, rtol=0)


def test_fitted_volumes_tell_the_size_of_a_cell() -> None:
    representation = fitted("log_metric")
    lattice, numbers, _ = training_set()
    average = representation.decode(torch.zeros(len(lattice), 6), numbers)
    assert float((volume(average) / volume(lattice)).log().std()) < 0.08


def test_padding_and_order_of_atoms_change_nothing() -> None:
    representation = fitted("log_metric")
    lattice = torch.eye(3)[None] * 4
    padded = representation.encode(lattice, torch.tensor([[8, 3, 0, 0]]))
    torch.testing.assert_close(padded, representation.encode(lattice, torch.tensor([[3, 8]])))


@pytest.mark.parametrize("count", [1, 5])
def test_numbers_that_never_vary_stay_finite(count: int) -> None:
    representation = LogMetricLattice()
    lattice = torch.eye(3).expand(count, 3, 3) * 4.0
    counts = torch.zeros(count, ELEMENTS)
    counts[:, 11] = 2
    representation.fit(lattice, counts)
    assert (representation.deviation == LEAST_DEVIATION).all()
    numbers = torch.full((count, 2), 11)
    torch.testing.assert_close(
        representation.decode(representation.encode(lattice, numbers), numbers), lattice, atol=1e-5, rtol=0
    )


def test_scalers_are_saved_with_the_model_and_a_matrix_has_none() -> None:
    saved = fitted("log_metric").state_dict()
    assert set(saved) == {"atomic_volumes", "mean", "deviation"}
    other = LogMetricLattice()
    other.load_state_dict(saved)
    lattice, numbers, _ = training_set()
    assert torch.equal(other.encode(lattice, numbers), fitted("log_metric").encode(lattice, numbers))
    assert MatrixLattice().state_dict() == {}
