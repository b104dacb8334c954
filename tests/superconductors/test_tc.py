from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from superconducting_toys import EXTRA, write_generated
from toys import tiny_predictor

from dao.data.properties import load_property
from dao.data.properties.superconductors import GROUPED, RANDOM
from dao.errors import InputError
from dao.superconductors.augmentation import augmented
from dao.superconductors.cross_validation import (
    choose,
    cross_validate,
    first_member_errors,
    read_chosen,
    test_predictions,
)
from dao.superconductors.tables import PAPER
from dao.superconductors.tc import load_tc
from dao.training.finetune import FinetuneSettings
from dao.weight_files import ROW_SCALE, in_eight_bits, load_weights, write_weights

Run = Callable[..., tuple[int, str, str]]

test_predictions.__test__ = False  # type: ignore[attr-defined] # it is no test but reads what was predicted of test crystals


@pytest.mark.usefixtures("toys")
def test_each_fold_takes_the_setting_that_is_best_on_its_own_validation(trained: Path) -> None:
    chosen = read_chosen(trained)
    assert [fold["name"] for fold in chosen["folds"]] == ["0", "3"]
    assert not chosen["complete"]
    for fold in chosen["folds"]:
        assert set(fold["tried"]) == {"rate-1e-06-decay-0.01", "rate-0.01-decay-0.01"}
        assert fold["setting"] == min(fold["tried"], key=fold["tried"].__getitem__)
        assert fold["rate"] == (1e-2 if fold["setting"].startswith("rate-0.01-") else 1e-6)
    assert chosen["mae"] == pytest.approx(np.mean([fold["mae"] for fold in chosen["folds"]]))
    labels, said = test_predictions(trained)
    assert np.abs(labels - said).mean() == pytest.approx(chosen["mae"], rel=0.02)  # folds are of 10 crystals, or 11
    # even where the other setting is better on test crystals
    other = {"rate-1e-06-decay-0.01", "rate-0.01-decay-0.01"} - {chosen["folds"][0]["setting"]}
    path = trained / other.pop() / "results.json"
    results = json.loads(path.read_text())
    results["folds"][0]["mae"] = 0.0
    path.write_text(json.dumps(results))
    assert choose(trained, load_property(RANDOM))["folds"] == chosen["folds"]


@pytest.mark.usefixtures("toys")
def test_the_same_call_goes_on(trained: Path, once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dao.training.finetune._train", lambda *_, **__: pytest.fail("trained again"))
    settings = FinetuneSettings(weights=once / "weights", epochs=2, batch_size=8)
    before = (trained / "chosen.json").read_bytes()
    data = load_property(RANDOM)
    cross_validate(
        data, settings, out=trained, rates=[1e-6, 1e-2], decays=[0.01], folds=["0", "3"], device="cpu", progress=False
    )
    assert (trained / "chosen.json").read_bytes() == before
    with pytest.raises(InputError, match="holds no run of dao superconductors train"):
        read_chosen(tmp_path)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("claimed", [True, False])
def test_a_folder_takes_no_other_run(trained: Path, once: Path, tmp_path: Path, *, claimed: bool) -> None:
    settings = FinetuneSettings(weights=once / "weights", epochs=2, batch_size=8)
    how: dict[str, Any] = {"rates": [0.5], "decays": [0.0], "device": "cpu", "progress": False}
    if not claimed:  # as older versions left it: its trainings say what it is
        (trained / "run.json").unlink()
    extended = augmented(load_property(RANDOM), write_generated(tmp_path / "g.parquet", EXTRA))
    for data, one, message in (
        (load_property(GROUPED), settings, "data is"),
        (load_property(RANDOM), replace(settings, epochs=3), "epochs is 2 there and 3 here"),
        (load_property(RANDOM), replace(settings, from_scratch=True), "from_scratch is false there and true here"),
        (extended, settings, "notes is"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            cross_validate(data, one, out=trained, **how)
        assert "\n" not in str(raised.value)
    assert not (trained / "rate-0.5-decay-0").exists()


@pytest.mark.usefixtures("toys")
def test_generated_crystals_are_known_by_more_than_their_number(
    once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dao.superconductors.cross_validation.finetune", lambda *_, **__: None)
    settings = FinetuneSettings(weights=once / "weights", epochs=2, batch_size=8)
    how: dict[str, Any] = {"out": tmp_path / "run", "rates": [0.5], "decays": [0.0], "device": "cpu"}
    plain = load_property(RANDOM)
    first = augmented(plain, write_generated(tmp_path / "g.parquet", EXTRA))
    other = augmented(plain, write_generated(tmp_path / "h.parquet", EXTRA, tc=[1.0, 2.0, 3.0]))
    with pytest.raises(InputError, match="none of its trainings is finished"):
        cross_validate(first, settings, **how)
    with pytest.raises(InputError, match="none of its trainings is finished"):
        cross_validate(first, settings, **how)
    with pytest.raises(InputError, match="extra is"):
        cross_validate(other, settings, **how)


@pytest.mark.usefixtures("toys")
def test_complete_is_all_that_was_asked(trained: Path) -> None:
    data = load_property(RANDOM)
    two = replace(data, folds=(data.folds[0], data.folds[3]))
    assert choose(trained, two)["complete"]
    assert not choose(trained, data)["complete"]
    assert not choose(trained, two, ["rate-0.5-decay-0.01"])["complete"]
    path = trained / "rate-0.01-decay-0.01" / "results.json"
    results = json.loads(path.read_text())
    whole = json.dumps(results)
    results["folds"].pop()
    path.write_text(json.dumps(results))
    assert not choose(trained, two)["complete"]
    for folder in trained.glob("rate-*"):  # two members were asked for
        found = json.loads((folder / "results.json").read_text() if folder != path.parent else whole)
        found["settings"]["members"] = 2
        (folder / "results.json").write_text(json.dumps(found))
    assert not choose(trained, two)["complete"]


@pytest.mark.usefixtures("toys")
def test_trainings_of_different_runs_are_not_mixed(trained: Path) -> None:
    path = trained / "rate-0.01-decay-0.01" / "results.json"
    results = json.loads(path.read_text())
    results["data"] = GROUPED
    path.write_text(json.dumps(results))
    with pytest.raises(InputError, match="trainings of different runs"):
        choose(trained, load_property(RANDOM))
    path.write_text("{")
    with pytest.raises(InputError, match=r"results.json: no results of a training"):
        choose(trained, load_property(RANDOM))


def _damage(trained: Path, **values: Any) -> None:
    path = trained / "chosen.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"folds": []}, "no run of"),
        ({"folds": [{"name": "0"}]}, "no run of"),
        ({"folds": 3}, "no run of"),
        ({"settings": {}}, "no run of"),
        ({"mae": "much"}, "no run of"),
        ({"data": GROUPED}, "of other trainings"),
    ],
)
def test_a_damaged_choice_is_bad_input(trained: Path, run: Run, values: dict[str, Any], message: str) -> None:
    _damage(trained, **values)
    for arguments in (("superconductors", "evaluate", str(trained)), ("tc", "NaCl", "--weights", str(trained))):
        code, _, err = run(*arguments)
        assert (code, len(err.splitlines())) == (2, 1)
        assert message in err


def test_trainings_that_are_gone_are_bad_input(trained: Path, run: Run) -> None:
    fold = read_chosen(trained)["folds"][1]
    shutil.move(trained / fold["setting"] / "fold-3", trained / "elsewhere")
    for arguments in (("superconductors", "evaluate", str(trained)), ("tc", "NaCl", "--weights", str(trained))):
        code, _, err = run(*arguments)
        assert (code, len(err.splitlines())) == (2, 1)
        assert "the trainings of fold 3" in err


@pytest.mark.usefixtures("toys")
def test_errors_of_what_ships_are_those_of_first_members(trained: Path) -> None:
    data = load_property(RANDOM)
    found = first_member_errors(trained, data)
    assert found["mae"] == pytest.approx(np.mean([fold["mae_of_one"] for fold in read_chosen(trained)["folds"]]))
    assert found["families"]["others"]["crystals"] == sum(len(data.folds[k].test) for k in (0, 3))
    with pytest.raises(InputError, match="tested on other crystals"):
        first_member_errors(trained, replace(data, folds=data.folds[::-1][:1] + data.folds[:3]))
    # of two members whose errors cancel, one alone is as far off as it is
    for fold in read_chosen(trained)["folds"]:
        folder = trained / fold["setting"] / f"fold-{fold['name']}"
        lines = [line.split(",") for line in (folder / "seed-0" / "test.csv").read_text().splitlines()[1:]]
        for seed, shift in ((0, 1.0), (1, -1.0)):
            (folder / f"seed-{seed}").mkdir(exist_ok=True)
            text = "".join(f"{name},{label},{float(label) + shift}\n" for name, label, _ in lines)
            (folder / f"seed-{seed}" / "test.csv").write_text("material_id,label,prediction\n" + text)
    _damage(trained, folds=[{**fold, "members": 2} for fold in read_chosen(trained)["folds"]])
    labels, said = test_predictions(trained)
    np.testing.assert_allclose(labels, said, atol=1e-6)
    found = first_member_errors(trained, data)
    assert found["mae"] == pytest.approx(1.0)
    assert found["families"]["others"]["bias"] == pytest.approx(1.0)


def test_bad_input_is_one_line(toys: Path, run: Run, tmp_path: Path) -> None:
    for arguments, message in (
        (("tc", "none.cif"), "none.cif: no such file or folder"),
        (("tc", "Xx2O"), "unknown element"),
        (("tc", "NaCl", "--weights", "nowhere"), "nowhere"),
        (("superconductors", "train", "--out", "o", "--rates", "fast"), "--rates 'fast'"),
        (("superconductors", "train", "--out", "o", "--rates", "7"), "must be from"),
        (("superconductors", "evaluate", "nowhere"), "holds no run of dao superconductors train"),
    ):
        code, _, err = run(*arguments)
        assert code == 2, arguments
        assert message in err
        assert len(err.splitlines()) == 1
    tiny_predictor().save(tmp_path / "weights")
    assert run("tc", str(toys / "supercon3d.parquet"), "--weights", "weights")[0] == 2


@pytest.mark.usefixtures("toys")
def test_counts_tables_and_figures_are_written(trained: Path, run: Run, tmp_path: Path) -> None:
    code, out, err = run("superconductors", "data", "--out", "counted")
    assert (code, err) == (0, "")
    assert "with structure (SC-s): 50" in out
    assert {path.name for path in (tmp_path / "counted").iterdir()} == {
        "superconductors.json", "tc_distribution.png", "tc_distribution.svg"
    }  # fmt: skip
    code, out, err = run("superconductors", "evaluate", "own", "--out", "tables")
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {
        "tc.md", "tc.json", "tc_parity.png", "tc_parity.svg"
    }  # fmt: skip
    assert all(name in out for name, _, _ in PAPER)
    line = next(line for line in out.splitlines() if "ours, without augmentation, 2 epochs" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    folds = read_chosen(trained)["folds"]
    assert cells[1] == f"{folds[0]['mae']:.3f}"
    assert cells[4] == f"{folds[1]['mae']:.3f}"
    assert (cells[2], cells[6][-9:]) == ("–", "(2 folds)")
    crystals = max(fold["train"] for fold in folds)
    assert f"({-(-2 * crystals // 8)} steps)" in line


def test_eight_bits_are_close(tmp_path: Path) -> None:
    model = tiny_predictor()
    state = {name: value.detach() for name, value in model.state_dict().items()}
    kept = in_eight_bits(state)
    matrices = [name for name, value in state.items() if value.ndim == 2]
    assert matrices
    assert {name.removeprefix(ROW_SCALE) for name in kept if name.startswith(ROW_SCALE)} == set(matrices)
    write_weights(tmp_path, kept, {})
    other = tiny_predictor(seed=1)
    load_weights(tmp_path / "model.safetensors", other)
    for name, value in other.state_dict().items():
        if name in matrices:
            step = state[name].abs().amax(1, keepdim=True) / 127
            assert ((value - state[name]).abs() <= 0.501 * step + 1e-12).all()
            assert not torch.equal(value, state[name])
        else:
            assert torch.equal(value, state[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_scale.a": None}, "no scale a row for a"),
        ({"a": None}, "no matrix of 8 bits for a"),
        ({"a": torch.zeros((), dtype=torch.int8)}, "scale of a does not fit"),
        ({"row_scale.a": torch.ones(3, 1)}, "scale of a does not fit"),
        ({"row_scale.a": torch.tensor(1.0)}, "scale of a does not fit"),
        ({"a": torch.zeros(2, 2)}, "no matrix of 8 bits for a"),
    ],
)
def test_eight_bits_without_their_scales_are_bad_input(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    kept = in_eight_bits({"a": torch.eye(2)}) | change
    write_weights(tmp_path, {name: value for name, value in kept.items() if value is not None}, {})
    with pytest.raises(InputError, match=message):
        load_weights(tmp_path / "model.safetensors", torch.nn.Linear(2, 2))


def test_what_is_not_finite_is_not_made_bytes() -> None:
    with pytest.raises(InputError, match="a has a number that is not finite"):
        in_eight_bits({"a": torch.tensor([[1.0, math.nan]])})


def _tool(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).resolve().parents[2] / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("toys")
def test_what_ships_says_its_own_errors(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = _tool("ship_tc")
    with pytest.raises(InputError, match="is not finished on 5 folds"):
        tool.main([str(trained), "--out", str(tmp_path / "shelf")])
    with pytest.raises(InputError, match="supercon_tc_grouped is needed"):
        tool.measured(trained, GROUPED)
    _damage(trained, complete=True, mae=0.001)  # as if the mean of some members
    with pytest.raises(InputError, match="is not finished on 5 folds"):
        tool.main([str(trained), "--out", str(tmp_path / "shelf")])
    monkeypatch.setattr(tool, "FOLDS", 2)
    tool.main([str(trained), "--out", str(tmp_path / "shelf")])
    said = json.loads((tmp_path / "shelf" / "ensemble.json").read_text())
    assert said["random"] == first_member_errors(trained, load_property(RANDOM))
    assert said["random"]["mae"] > 0.001
    ensemble = load_tc(str(tmp_path / "shelf"), "cpu")
    assert (ensemble.error, ensemble.grouped_error) == (said["random"]["mae"], None)
    assert len(ensemble.predictors.members) == 2
