from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import toy, toy_crystals

from dao.crystal import CrystalBatch
from dao.data.loader import BucketLoader
from dao.data.store import PackedCrystals, pack_crystals


def labelled(packed: PackedCrystals) -> PackedCrystals:
    """Crystals that say who they are."""
    return replace(packed, labels={"row": torch.arange(len(packed))})


PACKED = labelled(pack_crystals(toy_crystals()))


def rows(batch: CrystalBatch) -> list[int]:
    return [int(row) for row in batch.labels["row"]]


@given(batch_size=st.integers(1, 60), window=st.integers(1, 5), seed=st.integers(0, 1000))
def test_an_epoch_covers_each_crystal_once(batch_size: int, window: int, seed: int) -> None:
    loader = BucketLoader(PACKED, batch_size, seed, window=window)
    assert loader.batch_size == min(batch_size, 50)
    assert loader.batches_per_epoch == 50 // loader.batch_size
    batches = iter(loader)
    for _ in range(2):
        epoch = [row for batch in islice(batches, loader.batches_per_epoch) for row in rows(batch)]
        assert len(epoch) == len(set(epoch)) == loader.batches_per_epoch * loader.batch_size
    assert all(len(batch) == loader.batch_size for batch in islice(batches, 3))


def test_the_remainder_changes_from_epoch_to_epoch() -> None:
    loader = BucketLoader(PACKED, 40, 0)
    seen = [frozenset(rows(batch)) for batch in islice(iter(loader), 6)]
    assert len(set(seen)) == 6
    assert frozenset.union(*seen) == set(range(50))


def test_epochs_and_seeds_differ() -> None:
    first, second = (list(islice(iter(BucketLoader(PACKED, 10, seed)), 10)) for seed in (0, 1))
    orders = [tuple(rows(batch)) for batch in (*first, *second)]
    assert len(set(orders)) == 20
    again = islice(iter(BucketLoader(PACKED, 10, 0)), 10)
    assert [tuple(rows(batch)) for batch in again] == orders[:10]


def test_there_are_few_shapes() -> None:
    chains = [toy("rocksalt", ("Na", "Cl"), 5.6)] * 3 + [toy("perovskite", ("Sr", "Ti", "O"), 3.9)] * 5
    loader = BucketLoader(labelled(pack_crystals(chains * 4)), 4, 0, pad_multiple=4)
    shapes = {batch.atomic_numbers.shape[1] for batch in islice(iter(loader), 16)}
    assert shapes == {4, 8}


def test_batches_hold_crystals_of_similar_size() -> None:
    wide = BucketLoader(PACKED, 5, 0, window=10)
    padding = [1.0 - float(batch.mask.float().mean()) for batch in islice(iter(wide), 10)]
    unsorted = BucketLoader(PACKED, 5, 0, window=1)
    more = [1.0 - float(batch.mask.float().mean()) for batch in islice(iter(unsorted), 10)]
    assert sum(padding) < 0.75 * sum(more)


@pytest.mark.parametrize("done", [0, 1, 4, 5, 6, 13])
def test_goes_on_in_the_middle_exactly(done: int) -> None:
    loader = BucketLoader(PACKED, 10, 7)
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    resumed = BucketLoader(PACKED, 10, 7)
    resumed.load_state_dict(loader.state_dict())
    for one, other in zip(islice(batches, 12), islice(iter(resumed), 12), strict=True):
        assert rows(one) == rows(other)
        assert torch.equal(one.frac_coords, other.frac_coords)
        assert one.atomic_numbers.shape == other.atomic_numbers.shape


def test_of_two_descriptions_an_epoch_has_one_of_each_crystal() -> None:
    loader = BucketLoader(PACKED, 5, 0, shares=(0.4,))
    assert (loader.num_crystals, loader.batches_per_epoch) == (25, 5)
    batches, second = iter(loader), 0
    for _ in range(40):
        epoch = [row for batch in islice(batches, 5) for row in rows(batch)]
        assert sorted(row % 25 for row in epoch) == list(range(25))
        second += sum(row >= 25 for row in epoch)
    assert 0.34 < second / 1000 < 0.46
    resumed = BucketLoader(PACKED, 5, 0, shares=(0.4,))
    resumed.load_state_dict({"epoch": 1, "position": 2})
    again = BucketLoader(PACKED, 5, 0, shares=(0.4,))
    assert rows(next(iter(resumed))) == rows(list(islice(iter(again), 8))[-1])


def test_each_description_has_its_share() -> None:
    loader = BucketLoader(PACKED.select(torch.arange(24)), 4, 0, shares=(0.1, 0.3, 0.2))
    assert (loader.num_crystals, loader.batches_per_epoch) == (6, 1)
    drawn = [row for batch in islice(iter(loader), 500) for row in rows(batch)]
    shares = np.bincount(np.array(drawn) // 6, minlength=4) / len(drawn)
    np.testing.assert_allclose(shares, [0.4, 0.1, 0.3, 0.2], atol=0.04)
