"""How plausible a structure is for its composition: what the network is asked, and how the ranker reads it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import tiny_predictor, toy, toy_crystals

from dao import weights
from dao.constants import MAX_ATOMIC_NUMBER
from dao.data.store import pack_crystals
from dao.errors import InputError
from dao.model_config import PLAUSIBILITY, PropertyConfig
from dao.prediction.judging import Judge, Judging
from dao.prediction.plausibility import load_plausibility, log_odds
from dao.prediction.ranker import SITUATIONS, Ranker, Weights
from dao.prediction.ranker_features import features
from dao.prediction.ranking import Candidate, rank_by_recurrence, with_plausibilities
from dao.property_model import PropertyPredictor

VOLUMES = np.full(MAX_ATOMIC_NUMBER + 1, 20.0)


def network(label: str = PLAUSIBILITY) -> PropertyPredictor:
    """Tiny, with weights that know nothing."""
    config = tiny_predictor().config
    model = PropertyPredictor(PropertyConfig(label=label, network=config.network, process=config.process)).eval()
    packed = pack_crystals(toy_crystals())
    model.process.representation.fit(packed.lattice, packed.element_counts())
    return model


def three() -> list[Candidate]:
    cells = [("rocksalt", 5.6)] * 3 + [("cscl", 3.4)] * 2 + [("zincblende", 6.1)]
    samples = [(1, i, toy(kind, ("Na", "Cl"), a)) for i, (kind, a) in enumerate(cells)]
    return rank_by_recurrence("NaCl", 2, samples, total=6, source="generator")


def test_log_odds_do_not_depend_on_the_batch_or_the_cell() -> None:
    model = network()
    crystals = [one.crystal for one in three()]
    together = log_odds(model, crystals)
    assert np.isfinite(together).all()
    assert len(set(together)) == 3
    np.testing.assert_allclose(together, log_odds(model, crystals, batch_size=1), atol=1e-5)
    cell = crystals[0]
    doubled = replace(
        cell,
        atomic_numbers=np.tile(cell.atomic_numbers, 2),
        frac_coords=np.concatenate([cell.frac_coords * [1, 1, 0.5], cell.frac_coords * [1, 1, 0.5] + [0, 0, 0.5]]),
        lattice=cell.lattice * np.array([[1.0], [1.0], [2.0]]),
    )
    np.testing.assert_allclose(log_odds(model, [doubled]), together[:1], atol=1e-5)


def test_only_weights_of_this_kind_are_asked(tmp_path: Path) -> None:
    network("bulk_modulus").save(tmp_path / "modulus")
    with pytest.raises(InputError, match="predicts bulk_modulus, and plausibility is needed"):
        load_plausibility(tmp_path / "modulus", "cpu")
    network().save(tmp_path / "own")
    assert load_plausibility(tmp_path / "own", "cpu").config.label == PLAUSIBILITY


def test_features_are_shares_of_the_list() -> None:
    known = features(with_plausibilities(three(), [7.0, 8.0, math.nan]), VOLUMES)
    np.testing.assert_allclose(known["plausibility below highest"], [-1.0, 0.0, math.nan])
    shares = np.log(np.array([1 / (1 + math.e), math.e / (1 + math.e)]))
    np.testing.assert_allclose(known["log share of plausibility"], [*shares, math.nan])
    np.testing.assert_allclose(known["most plausible"], [0.0, 1.0, math.nan])
    # a constant of the composition changes nothing
    moved = features(with_plausibilities(three(), [-93.0, -92.0, math.nan]), VOLUMES)
    for name, values in known.items():
        np.testing.assert_allclose(moved[name], values)
    unknown = features(three(), VOLUMES)
    assert all(np.isnan(unknown[name]).all() for name in unknown if "plausib" in name)


def test_it_ranks_through_the_ranker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = Weights(np.zeros(1), np.ones(1), 1.0, 0.0, np.zeros(1), 0.0)
    ranker = Ranker(("plausibility below highest",), dict.fromkeys(SITUATIONS, own), VOLUMES, {})
    model = network()
    found = three()
    odds = log_odds(model, [one.crystal for one in found])
    judge = Judge(learned=ranker, plausibility=model, order="learned")
    assert f"plausibility ({model.fingerprint})" in judge.note()
    ranked = judge.rank(found)
    assert [one.plausibility for one in ranked] == sorted(odds, reverse=True)
    # the shipped ones come along where the learned ranker ranks, and only there
    ranker.save(tmp_path / "ranker" / "ranker.json")
    model.save(tmp_path / "ranker" / "plausibility")
    monkeypatch.setattr(weights, "_SHELF", tmp_path)
    loaded = Judging().load("cpu")
    assert loaded.plausibility is not None
    assert loaded.plausibility.fingerprint == model.fingerprint
    assert Judging(rank="recurrence").load("cpu").plausibility is None
