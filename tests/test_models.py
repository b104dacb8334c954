from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from toys import tiny_generator, toy_crystals

from dao.crystal import CrystalBatch
from dao.errors import InputError
from dao.models import Generator, read_config
from dao.processes.base import Prediction
from dao.weights import DEFAULT, shipped


def predict(model: Generator, dtype: torch.dtype = torch.float32) -> Prediction:
    batch = CrystalBatch.from_crystals(toy_crystals()[:6], dtype=dtype)
    group = torch.arange(6, dtype=torch.long) * 40
    with torch.no_grad():
        return model(batch.atomic_numbers, batch.mask, model.encode(batch), torch.linspace(0, 1, 6, dtype=dtype), group)


def tensors(prediction: Prediction) -> list[Tensor]:
    logits = prediction.space_group_logits
    return [prediction.frac_coords, prediction.lattice, *([] if logits is None else [logits])]


@pytest.mark.parametrize("space_groups", [True, False])
@pytest.mark.parametrize(("kind", "lattice"), [("flow", "log_metric"), ("flow", "matrix"), ("diffusion", "matrix")])
def test_round_trip_is_exact(kind: Any, lattice: Any, tmp_path: Path, *, space_groups: bool) -> None:
    model = tiny_generator(kind, lattice, space_groups=space_groups)
    model.save(tmp_path / "deep" / "folder")
    loaded = Generator.load(str(tmp_path / "deep" / "folder"))
    assert not loaded.training
    assert loaded.config == replace(model.config, parameters=model.parameters_count)
    assert loaded.fingerprint == model.fingerprint
    for one, other in zip(tensors(predict(loaded)), tensors(predict(model)), strict=True):
        assert torch.equal(one, other)
    assert {path.name for path in (tmp_path / "deep" / "folder").iterdir()} == {"config.json", "model.safetensors"}


def test_sixteen_bits_round_parameters_and_keep_scalers(tmp_path: Path) -> None:
    model = tiny_generator()
    model.save(tmp_path / "full")
    model.save(tmp_path / "half", dtype=torch.bfloat16)
    full, half = (load_file(tmp_path / name / "model.safetensors") for name in ("full", "half"))
    parameters = {name for name, _ in model.named_parameters()}
    scalers = full.keys() - parameters
    assert scalers == {f"process.representation.{name}" for name in ("atomic_volumes", "mean", "deviation")}
    for name in parameters:
        assert half[name].dtype == torch.bfloat16
        assert torch.equal(half[name], full[name].bfloat16())
    for name in scalers:
        assert half[name].dtype == torch.float32
        assert torch.equal(half[name], full[name])
    loaded = Generator.load(tmp_path / "half")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    # saving what was rounded rounds no further
    loaded.save(tmp_path / "again", dtype=torch.bfloat16)
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], half[name]) for name in half)


def test_config_file_is_plain_and_complete(tmp_path: Path) -> None:
    model = tiny_generator()
    training = {"recipe": "x", "hours": 1.5, "validation": [{"crystals": 10, "match_rate": 0.5}]}
    model.config = replace(model.config, training=training)
    model.save(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw == {**asdict(model.config), "parameters": model.parameters_count}
    assert read_config(tmp_path) == replace(model.config, parameters=model.parameters_count)


def test_saving_again_replaces(tmp_path: Path) -> None:
    tiny_generator(seed=0).save(tmp_path)
    other = tiny_generator(seed=1, space_groups=False)
    other.save(tmp_path)
    assert Generator.load(tmp_path).fingerprint == other.fingerprint


@pytest.mark.parametrize(("kind", "lattice"), [("flow", "log_metric"), ("diffusion", "matrix")])
def test_double_precision_everywhere(kind: Any, lattice: Any) -> None:
    model = tiny_generator(kind, lattice)
    single, double = tensors(predict(model)), tensors(predict(model.double(), torch.float64))
    for one, other in zip(single, double, strict=True):
        assert one.dtype == torch.float32
        assert other.dtype == torch.float64
        torch.testing.assert_close(one.double(), other, atol=1e-3, rtol=1e-3)


def test_encode_and_decode_are_inverse() -> None:
    model = tiny_generator().double()
    batch = CrystalBatch.from_crystals(toy_crystals()[:6], dtype=torch.float64)
    back = model.decode(model.encode(batch), batch.atomic_numbers, batch.num_atoms)
    assert torch.equal(back.frac_coords, batch.frac_coords)
    torch.testing.assert_close(back.lattice @ back.lattice.mT, batch.lattice @ batch.lattice.mT)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_path_is_a_folder_even_where_weights_of_that_name_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_generator()
    model.save(tmp_path / DEFAULT)
    monkeypatch.chdir(tmp_path)
    assert Generator.load(Path(DEFAULT)).fingerprint == model.fingerprint
    if DEFAULT in shipped():
        assert Generator.load(DEFAULT).fingerprint != model.fingerprint


def shorten(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def rewrite_tensors(folder: Path, **changes: Tensor | None) -> None:
    path = folder / "model.safetensors"
    held = {name: value.clone() for name, value in load_file(path).items()}
    held |= {name: value for name, value in changes.items() if value is not None}
    save_file({name: value for name, value in held.items() if changes.get(name, value) is not None}, path)


HEAD = "coordinate_head.linear.weight"
DEEP = "[" * 100_000

BROKEN: dict[str, tuple[Any, str]] = {
    "no folder": (lambda folder: folder.rename(folder.parent / "moved"), "neither shipped"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    "no tensors": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: not readable"),
    "truncated tensors": (shorten, "model.safetensors: not readable as safetensors"),
    "empty tensors": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "not readable as safetensors"),
    "not tensors": (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04" * 99), "not readable"),
    "tensors are a folder": (
        lambda folder: ((folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()),
        "model.safetensors: not readable",
    ),
    "a tensor too many": (lambda folder: rewrite_tensors(folder, extra=torch.zeros(2)), "do not fit .*extra"),
    "a tensor too few": (lambda folder: rewrite_tensors(folder, **{HEAD: None}), f"do not fit .*{HEAD}"),
    "a tensor too large": (
        lambda folder: rewrite_tensors(folder, **{HEAD: torch.zeros(4, 16)}),
        f"do not fit .*{HEAD}",
    ),
    "not JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json: not readable as JSON"),
    "not text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "config.json: not readable as JSON"),
    "too deep": (lambda folder: (folder / "config.json").write_text(DEEP), "config.json: not readable as JSON"),
    "not an object": (lambda folder: (folder / "config.json").write_text("[]"), "'model' must be one of generator"),
    "unknown model": (lambda folder: edit(folder, model="os.system"), "'model' must be one of generator"),
    "model of another type": (lambda folder: edit(folder, model=["generator"]), "'model' must be one of generator"),
    "no model": (lambda folder: edit(folder, model=None), "'model' must be one of generator"),
    "newer version": (lambda folder: edit(folder, format_version=2), "format version 2, this code reads 1"),
    "no version": (lambda folder: edit(folder, format_version=None), "format version None, this code reads 1"),
    "unknown field": (lambda folder: edit(folder, colour="red"), "config.json: colour"),
    "wrong type": (lambda folder: edit(folder, process={"kind": "gan"}), "config.json: process.kind"),
    "sizes that cannot work": (
        lambda folder: edit(folder, network={"width": 10, "heads": 4}),
        "config.json: network: .*width 10 is not a multiple of its 4 heads",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_weights_are_refused_in_one_line(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    tiny_generator().save(folder)
    break_it, message = BROKEN[how]
    break_it(folder)
    with pytest.raises(InputError, match=message) as caught:
        Generator.load(str(folder))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
