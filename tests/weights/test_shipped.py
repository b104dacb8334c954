"""The weights that ship: small enough, loadable, and still as good as their card says."""

from __future__ import annotations

from pathlib import Path

import pytest

from dao import predict
from dao.models import Generator
from dao.training.validation import match_first, validation_crystals
from dao.weight_files import WEIGHTS
from dao.weights import DEFAULT, largest_trained_cell, read_card, shipped


def test_weights_ship_with_a_card_and_are_small() -> None:
    assert DEFAULT in shipped()
    for folder in shipped().values():
        assert (folder / WEIGHTS).stat().st_size < 20e6
        assert "## Limits" in read_card(folder)


def test_shipped_weights_load_and_know_their_training() -> None:
    for name in shipped():
        model = Generator.load(name)
        assert model.parameters_count == model.config.parameters
        assert model.config.training["crystals_seen"] > 0


def test_shipped_weights_say_which_cells_they_know() -> None:
    assert {name: largest_trained_cell(name) for name in shipped()} == {"small": 20, "small-52": 52}
    assert largest_trained_cell("someone/on-the-hub") is None


def test_rocksalt_is_found_in_a_few_samples() -> None:
    candidates = predict("NaCl", 6, cells="1", sources="generator")
    assert "Fm-3m" in {candidate.space_group for candidate in candidates}


@pytest.mark.science
@pytest.mark.parametrize("formula", ["SrTiO3", "NaCl", "GaAs"])
def test_common_compounds_are_found_within_twenty(formula: str) -> None:
    import common_compounds

    assert common_compounds.find(formula, None, 20, 0) is not None


@pytest.mark.science
def test_match_rate_on_validation_is_what_the_card_says(data_dir: Path) -> None:
    """69.1 % on 1,000; three standard errors below it on 300."""
    crystals = validation_crystals(data_dir / "mp20.parquet", "val", 20, 300, 1)
    result = match_first(Generator.load(DEFAULT), crystals, seed=1)
    assert result.match_rate > 0.691 - 3 * 0.027
    assert result.rmse < 0.08
