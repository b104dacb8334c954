from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from symmetric_toys import tiny_symmetric_generator

from dao.data.symmetry_batch import SymmetryLabel
from dao.data.symmetry_memory import SymmetryMemory
from dao.errors import InputError
from dao.models import Generator
from dao.networks.symmetry import SymmetryPrior
from dao.networks.symmetry_config import SymmetryPriorConfig
from dao.networks.symmetry_search import propose
from dao.symmetry_weights import load_symmetry, save_symmetry
from dao.training.initial import give_symmetry

LABELS = [SymmetryLabel(225, ((11, "a"), (17, "b"))), SymmetryLabel(221, ((17, "a"), (55, "b")))]


@pytest.fixture
def prior() -> SymmetryPrior:
    torch.manual_seed(0)
    return SymmetryPrior(SymmetryPriorConfig(width=16, encoder_blocks=1, decoder_blocks=1, heads=2)).eval()


@pytest.fixture
def memory() -> SymmetryMemory:
    return SymmetryMemory.build(LABELS, np.ones((95, 95), dtype=np.float32))


@pytest.fixture
def folder(tmp_path: Path, prior: SymmetryPrior, memory: SymmetryMemory) -> Path:
    save_symmetry(tmp_path / "prior", prior, memory, {"data": "two crystals"})
    return tmp_path / "prior"


def test_what_is_loaded_proposes_the_same(folder: Path, prior: SymmetryPrior, memory: SymmetryMemory) -> None:
    loaded, known, record = load_symmetry(folder)
    assert not loaded.training
    assert record == {"data": "two crystals"}
    compositions = [{19: 1, 35: 1}, {8: 2, 22: 1}]
    assert propose(loaded, compositions, 5, known) == propose(prior, compositions, 5, memory)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert json.loads((folder / "config.json").read_text())["model"] == "symmetry"


def test_half_precision_is_half_the_size(folder: Path, prior: SymmetryPrior, memory: SymmetryMemory) -> None:
    before = (folder / "model.safetensors").stat().st_size
    save_symmetry(folder, prior, memory, {}, dtype=torch.bfloat16)
    assert (folder / "model.safetensors").stat().st_size < 0.65 * before
    loaded, _, _ = load_symmetry(folder)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "predictor"}, "'model' must be 'symmetry'"),
        ({"format_version": 2}, "format version 2, this code reads 1"),
        ({"symmetry": {"width": 17, "heads": 2}}, "symmetry: .*not a multiple"),
        ({"symmetry": {"width": "wide"}}, "symmetry.width: "),
        ({"symmetry": {"width": 32, "heads": 2}}, "tensors do not fit config.json"),
        ({"surprise": 1}, "surprise: "),
    ],
)
def test_configurations_that_do_not_fit(folder: Path, changes: dict[str, object], message: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=message) as error:
        load_symmetry(folder)
    assert "\n" not in str(error.value)


def test_a_generator_hands_out_its_prior(tmp_path: Path, prior: SymmetryPrior, memory: SymmetryMemory) -> None:
    flow = tiny_symmetric_generator()
    flow.save(tmp_path / "without")
    with pytest.raises(InputError, match="without: this generator has no symmetry prior"):
        load_symmetry(str(tmp_path / "without"))
    model = Generator(replace(flow.config, symmetry=prior.config, training={"symmetry": {"data": "two crystals"}}))
    give_symmetry(model, prior, memory)
    model.save(tmp_path / "generator")
    loaded, known, record = load_symmetry(str(tmp_path / "generator"))
    assert not loaded.training
    assert record == {"data": "two crystals"}
    compositions = [{19: 1, 35: 1}, {8: 2, 22: 1}]
    assert propose(loaded, compositions, 5, known) == propose(prior, compositions, 5, memory)


def test_the_shipped_prior_has_a_name() -> None:
    prior, memory, record = load_symmetry("small")
    assert prior.config.width == 192
    assert len(memory.labels) > 20_000
    assert record["data"].startswith("mp20.parquet")
    with pytest.raises(InputError, match="weights 'smal': neither shipped"):
        load_symmetry("smal")


def test_broken_files(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for changed, message in (
        ({**tensors, "memory.elements": tensors["memory.elements"] + 200}, "symmetry memory: an element is outside"),
        ({name: value for name, value in tensors.items() if name != "memory.offsets"}, "'offsets' is missing"),
        ({name: value for name, value in tensors.items() if name != "group_bias"}, r"fit config.json \(first: group_b"),
        ({**tensors, "other": torch.zeros(1)}, r"fit config.json \(first: other"),
    ):
        save_file(changed, path)
        with pytest.raises(InputError, match=message) as error:
            load_symmetry(folder)
        assert str(error.value).startswith(f"{path}: ")
    path.write_bytes(b"\x80\x04nonsense")
    with pytest.raises(InputError, match="not readable as safetensors"):
        load_symmetry(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        load_symmetry(folder)
    with pytest.raises(InputError, match="not readable as JSON"):
        load_symmetry(tmp_path / "nowhere")
