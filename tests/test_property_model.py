from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import tiny_network, tiny_predictor, toy_crystals

from dao.crystal import CrystalBatch
from dao.data.store import pack_crystals
from dao.errors import InputError
from dao.model_config import PropertyConfig, Scale, TrustLimits
from dao.models import Generator, Predictor, read_config
from dao.processes.config import ProcessConfig
from dao.property_model import PropertyPredictor


def model(scale: Scale = "linear") -> PropertyPredictor:
    torch.manual_seed(1)
    network = replace(tiny_network(space_groups=False), conditioning="scale_shift")
    config = PropertyConfig(network=network, process=ProcessConfig(), label="hardness", unit="GPa", scale=scale)
    made = PropertyPredictor(config).eval()
    packed = pack_crystals(toy_crystals())
    made.process.representation.fit(packed.lattice, packed.element_counts())
    return made


@pytest.mark.parametrize("scale", ["linear", "log10"])
def test_predictions_undo_the_standardisation(scale: Scale) -> None:
    made = model(scale)
    labels = torch.tensor([1.0, 10.0, 100.0, float("nan")])
    made.fit_labels(labels)
    standard = made.standardised(labels[:3])
    assert float(standard.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(standard.std(correction=0)) == pytest.approx(1.0)
    if scale == "log10":
        torch.testing.assert_close(standard, torch.tensor([-1.5, 0.0, 1.5]) / 1.5**0.5)
    batch = CrystalBatch.from_crystals(toy_crystals()[:3], dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(made.standardised(made.predict(batch)), made(batch), atol=1e-5, rtol=1e-4)


def test_labels_that_cannot_be_learned() -> None:
    with pytest.raises(InputError, match="-1 has no logarithm"):
        model("log10").fit_labels(torch.tensor([3.0, -1.0]))
    with pytest.raises(InputError, match="no crystal of the training set has a label 'hardness'"):
        model().fit_labels(torch.tensor([float("nan")]))
    made = model()
    made.fit_labels(torch.tensor([5.0, 5.0]))
    assert made.standardised(torch.tensor([5.0, 6.0])).tolist() == [0.0, 1.0]


def test_tiny_units_keep_their_deviation() -> None:
    made = model()
    made.fit_labels(torch.tensor([1e-6, 3e-6]))
    torch.testing.assert_close(made.standardised(torch.tensor([1e-6, 3e-6])), torch.tensor([-1.0, 1.0]))


def test_saved_and_loaded(tmp_path: Path) -> None:
    made = model("log10")
    made.config = replace(made.config, trust=TrustLimits(elements=(3, 9), energy=(1.0, 2.0)))
    made.fit_labels(torch.tensor([1.0, 20.0]))
    made.save(tmp_path)
    loaded = PropertyPredictor.load(tmp_path)
    assert loaded.fingerprint == made.fingerprint
    assert replace(loaded.config, parameters=0) == made.config
    assert read_config(tmp_path).model == "property"
    for kind in (Predictor, Generator):
        with pytest.raises(InputError, match=f"holds a property, and a {kind.kind} is needed"):
            kind.load(tmp_path)
    tiny_predictor().save(tmp_path / "predictor")
    with pytest.raises(InputError, match="holds a predictor, and a property is needed"):
        PropertyPredictor.load(tmp_path / "predictor")


def test_symmetry_is_refused() -> None:
    with pytest.raises(InputError, match="works without known symmetry"):
        PropertyConfig(network=tiny_network(space_groups=True), process=ProcessConfig(), label="x")
