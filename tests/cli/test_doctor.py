from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from toys import tiny_generator, tiny_predictor

from dao import diagnosis, weights

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shelf(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small stand-ins for the weights that ship."""
    shelf = tmp_path_factory.mktemp("weights")
    tiny_generator().save(shelf / "small")
    tiny_predictor().save(shelf / "predictor")
    monkeypatch.setattr(weights, "_SHELF", shelf)
    monkeypatch.setattr(diagnosis, "KNOWN_ENERGY", 1e6)  # they know nothing
    return shelf


def statuses(out: str) -> dict[str, str]:
    return {one["name"]: one["status"] for one in json.loads(out)["findings"]}


@pytest.mark.usefixtures("shelf")
def test_all_well(run: Run) -> None:
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    assert {line.split()[0] for line in out.splitlines() if not line.startswith(" ")} <= {"ok", "warn"}
    assert "NaCl, 2 samples: " in out
    code, out, _ = run("doctor", "--format", "json")
    assert code == 0
    assert json.loads(out)["works"] is True
    wanted = {"software", "platform", "processor", "memory", "accelerator", "weights small", "data", "folder"}
    assert wanted | {"prediction", "energy"} <= statuses(out).keys()


def test_damaged_weights_fail_and_the_rest_is_checked_all_the_same(run: Run, shelf: Path) -> None:
    path = shelf / "small" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    code, out, err = run("doctor", "--format", "json")
    assert (code, err) == (1, "")
    found = statuses(out)
    assert found["weights small"] == found["prediction"] == "fail"
    assert found["weights predictor"] == found["energy"] == "ok"
    code, out, _ = run("doctor", "--quiet")
    assert code == 1
    assert out.startswith("fail  weights small")
    assert "-> install DAO again" in out


def test_missing_weights_and_wrong_energies_fail(run: Run, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "KNOWN_ENERGY", 0.0)
    assert statuses(run("doctor", "--format", "json")[1])["energy"] == "fail"
    (shelf / "predictor" / "config.json").unlink()
    found = statuses(run("doctor", "--format", "json")[1])
    assert found["weights predictor"] == "fail"
    assert "energy" not in found


@pytest.mark.usefixtures("shelf")
def test_what_may_not_work_is_a_warning(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAO_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(diagnosis, "LEAST_DISK", 1e9)
    monkeypatch.setattr(diagnosis, "LEAST_MEMORY", 1e9)
    code, out, _ = run("doctor", "--format", "json")
    assert code == 0
    assert [statuses(out)[name] for name in ("data", "folder", "memory")] == ["warn"] * 3
