from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from toys import toy, toy_crystals

from dao.crystal import Crystal
from dao.evaluation.matching import rms_distances
from dao.evaluation.predictions import PredictionSet, read_predictions

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "convert_torch_outputs.py"
CRYSTALS = [*toy_crystals()[:6], toy("perovskite", ("Sr", "Ti", "O"), 3.91, "mp-30")]
SAMPLES = 3


def output(crystals: list[Crystal], samples: int = SAMPLES) -> dict[str, Any]:
    """What DiffCSP's evaluate.py saves: the k-th sample of each crystal has its first atom moved by k / 1000."""
    coords = torch.cat([torch.tensor(crystal.frac_coords) for crystal in crystals]).repeat(samples, 1, 1)
    sizes = torch.tensor([crystal.num_atoms for crystal in crystals])
    first = sizes.cumsum(0) - sizes
    coords[:, first, 0] += torch.arange(samples)[:, None] / 1000
    cells = [crystal.to_structure().lattice for crystal in crystals]
    return {
        "frac_coords": coords.float(),
        "num_atoms": sizes.repeat(samples, 1),
        "atom_types": torch.cat([torch.tensor(crystal.atomic_numbers) for crystal in crystals]).repeat(samples, 1),
        "lattices": torch.tensor([cell.matrix.tolist() for cell in cells]).repeat(samples, 1, 1, 1),
        "lengths": torch.tensor([list(cell.abc) for cell in cells]).repeat(samples, 1, 1),
        "angles": torch.tensor([list(cell.angles) for cell in cells]).repeat(samples, 1, 1),
        "time": 12.5,
    }


def script() -> Any:
    spec = importlib.util.spec_from_file_location("convert_torch_outputs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def convert(content: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Path:
    torch.save(content, folder / "eval_diff.pt")
    out = folder / "predictions.jsonl"
    monkeypatch.setattr(sys, "argv", ["convert", str(folder / "eval_diff.pt"), str(out), *options])
    script().main()
    return out


def write_ids(path: Path, crystals: list[Crystal]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["", "material_id", "cif"])
        writer.writerows((row, crystal.material_id, "data_x\n") for row, crystal in enumerate(crystals))
    return path


def assert_identity(result: PredictionSet, crystals: list[Crystal], samples: int = SAMPLES) -> None:
    assert result.failures == []
    assert [(one.target, one.index) for one in result.predictions] == [
        (target, index) for target in range(len(crystals)) for index in range(samples)
    ]
    found = rms_distances((one.crystal, crystals[one.target]) for one in result.predictions)
    for distance, one in zip(found, result.predictions, strict=True):
        assert distance is not None
        assert one.crystal is not None
        assert one.crystal.counts == crystals[one.target].counts
        # the moved atom tells the samples apart
        assert (distance < 1e-5) == (one.index == 0)


def test_the_script_alone_converts_and_the_result_scores_as_identity(tmp_path: Path) -> None:
    torch.save(output(CRYSTALS), tmp_path / "eval_diff.pt")
    out = tmp_path / "predictions.jsonl"
    # -I: no DAO on the path but what is installed, no environment
    command = [sys.executable, "-I", str(SCRIPT), str(tmp_path / "eval_diff.pt"), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert done.stderr == f"{len(CRYSTALS) * SAMPLES} structures in {out}\n"
    assert_identity(read_predictions(out, CRYSTALS), CRYSTALS)


def test_with_ids_any_order_of_the_references_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = convert(output(CRYSTALS), tmp_path, monkeypatch, "--ids", str(write_ids(tmp_path / "test.csv", CRYSTALS)))
    backwards = CRYSTALS[::-1]
    assert_identity(read_predictions(out, backwards), backwards)
    with pytest.raises(SystemExit, match="6 ids for 7 crystals"):
        convert(output(CRYSTALS), tmp_path, monkeypatch, "--ids", str(write_ids(tmp_path / "b.csv", CRYSTALS[1:])))


@pytest.mark.parametrize("removed", [("lattices",), ("lengths", "angles")])
def test_either_form_of_the_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: tuple[str, ...]) -> None:
    content = {key: value for key, value in output(CRYSTALS).items() if key not in removed}
    assert_identity(read_predictions(convert(content, tmp_path, monkeypatch), CRYSTALS), CRYSTALS)


def test_one_sample_without_its_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {key: value[0] if key != "time" else value for key, value in output(CRYSTALS, 1).items()}
    assert_identity(read_predictions(convert(content, tmp_path, monkeypatch), CRYSTALS), CRYSTALS, 1)


def test_flowmm_from_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # two processes: even and odd rows, the first row once more to fill the second's last batch
    order = [0, 2, 4, 6, 1, 3, 5, 0]
    shuffled = output([CRYSTALS[row] for row in order])
    content = {key: list(value) for key, value in shuffled.items() if key != "time"}
    content["batch_indices"] = [torch.tensor(order)] * SAMPLES
    assert_identity(read_predictions(convert(content, tmp_path, monkeypatch), CRYSTALS), CRYSTALS)


def test_failed_samples_keep_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = output(CRYSTALS)
    content["angles"][0, 1] = torch.tensor([10.0, 10.0, 170.0])
    content["frac_coords"][1, 0, 0] = torch.nan
    content["angles"][2, 2, 2] = 0.0
    result = read_predictions(convert(content, tmp_path, monkeypatch), CRYSTALS)
    assert len(result.predictions) == len(CRYSTALS) * SAMPLES
    assert [(one.target, one.index) for one in result.predictions if one.crystal is None] == [(0, 1), (1, 0), (2, 2)]
    assert {failure.reason for failure in result.failures} == {"a coordinate or the cell is not finite"}


class Evil:
    """Pickles as a call that writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def foreign_module() -> ModuleType:
    """A module that exists only while saving, with a class made as PyTorch Geometric makes its batches."""
    module = ModuleType("foreign_geometric")

    class Getter:
        def __call__(self, *_: Any) -> Any:
            return None

    class Batch:
        def __reduce__(self) -> tuple[Any, ...]:
            slices: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
            slices["x"]["y"] = torch.arange(3)
            return Getter(), (Batch, Batch), {"slices": slices}

    for one in (Getter, Batch):
        one.__module__ = module.__name__
        one.__qualname__ = one.__name__
        setattr(module, one.__name__, one)
    return module


def test_foreign_objects_are_neither_imported_nor_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = foreign_module()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    content = output(CRYSTALS) | {
        "eval_setting": argparse.Namespace(path=tmp_path, label=""),
        "input_data_batch": module.Batch(),
        "evil": Evil(tmp_path / "marker"),
    }
    torch.save(content, tmp_path / "eval_diff.pt")
    monkeypatch.delitem(sys.modules, module.__name__)
    loaded = script().load(tmp_path / "eval_diff.pt")
    assert type(loaded["input_data_batch"]).__name__ == type(loaded["evil"]).__name__ == "Placeholder"
    assert torch.equal(loaded["num_atoms"], content["num_atoms"])
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"frac_coords": torch.zeros(3, 5, 3)}, "5 coordinates"),
        ({"num_atoms": torch.zeros(3, 7, 2)}, "number of dimensions"),
    ],
)
def test_tensors_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(SystemExit, match=says):
        convert(output(CRYSTALS) | change, tmp_path, monkeypatch)


@pytest.mark.parametrize("content", [[1], {"state_dict": {}}])
def test_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any) -> None:
    with pytest.raises(SystemExit, match="holds"):
        convert(content, tmp_path, monkeypatch)


def test_lines_are_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = convert(output(CRYSTALS), tmp_path, monkeypatch)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["target"], line["sample"]) for line in lines[:4]] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert lines[-1]["atomic_numbers"] == CRYSTALS[-1].atomic_numbers.tolist()
