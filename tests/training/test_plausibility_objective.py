from __future__ import annotations

import math

import pytest
import torch
from toys import toy_crystals

from dao.data.store import pack_crystals
from dao.geometry.lattice import volume
from dao.recipes.schema import JitterRecipe
from dao.training.fit import TrainingNoise
from dao.training.plausibility_objective import jittered, listwise

STILL = {"list_volume": 0, "volume": 0, "strain": 0, "displacement": 0, "other_settings": False}


def noise(batch: int) -> TrainingNoise:
    return TrainingNoise(batch, torch.Generator().manual_seed(0), torch.device("cpu"))


def test_the_loss_by_hand() -> None:
    # odds 1 : 2 : 3, the second is right; odds 4 : 1 : 5, the first two are
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0, 1.0, 5.0]).log().requires_grad_()
    right = torch.tensor([False, True, False, True, True, False])
    places = torch.tensor([[0, 1, 2], [3, 4, 5]])
    objective = listwise(scores, right, places)
    assert objective.total.item() == pytest.approx((math.log(6 / 2) + math.log(10 / 5)) / 2, rel=1e-6)
    assert float(objective.parts["first_right"]) == 0.0
    objective.total.backward()
    # softmax over all less softmax over the right ones, halved
    expected = torch.tensor([1 / 6, 2 / 6 - 1, 3 / 6, 0.4 - 0.8, 0.1 - 0.2, 0.5]) / 2
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, expected)


def test_lists_of_different_lengths_and_constants_of_a_list() -> None:
    scores = torch.tensor([1.0, 3.0, 2.0, 2.0, 1.0]).log().requires_grad_()
    right = torch.tensor([False, True, True, False, True])
    places = torch.tensor([[0, 1, -1, -1], [2, 3, 4, -1]])
    objective = listwise(scores, right, places)
    assert objective.total.item() == pytest.approx((math.log(4 / 3) + math.log(5 / 3)) / 2, rel=1e-6)
    assert float(objective.parts["first_right"]) == 1.0
    shifted = listwise(scores + torch.tensor([7.0, 7.0, -2.0, -2.0, -2.0]), right, places)
    assert shifted.total.item() == pytest.approx(objective.total.item(), rel=1e-5)
    shifted.total.backward()
    assert scores.grad is not None
    assert bool(scores.grad.isfinite().all())
    # all are right: nothing to learn
    assert float(listwise(torch.randn(2), torch.ones(2, dtype=torch.bool), torch.tensor([[0, 1]])).total) == 0.0


def test_jitter() -> None:
    packed = pack_crystals(toy_crystals()[:6])
    batch = packed.batch(torch.arange(6))
    first = torch.tensor([0, 0, 0, 3, 3, 3])
    same = jittered(batch, first, noise(6), JitterRecipe.model_validate(STILL))
    torch.testing.assert_close(same.lattice, batch.lattice)
    torch.testing.assert_close(same.frac_coords, batch.frac_coords)

    grown = jittered(batch, first, noise(6), JitterRecipe.model_validate(STILL | {"list_volume": 0.1}))
    ratio = volume(grown.lattice) / volume(batch.lattice)
    torch.testing.assert_close(ratio, ratio[first])
    assert abs(float(ratio[0] / ratio[3]) - 1) > 1e-3
    each = jittered(batch, first, noise(6), JitterRecipe.model_validate(STILL | {"volume": 0.1}))
    ratio = volume(each.lattice) / volume(batch.lattice)
    assert len(set(ratio.tolist())) == 6

    moved = jittered(batch, first, noise(6), JitterRecipe.model_validate(STILL | {"displacement": 0.05}))
    shift = moved.frac_coords - batch.frac_coords
    distance = ((shift - shift.round()) @ batch.lattice).norm(dim=-1)
    assert 0 < float(distance[batch.mask].max()) < 0.3
    assert bool((moved.frac_coords[~batch.mask] == 0).all())

    usual = jittered(batch, first, noise(6), JitterRecipe())
    assert bool((volume(usual.lattice).abs() > 0).all())
    assert bool(((usual.frac_coords >= 0) & (usual.frac_coords < 1)).all())
    # the same numbers, the same blur
    again = jittered(batch, first, noise(6), JitterRecipe())
    assert torch.equal(usual.lattice, again.lattice)
