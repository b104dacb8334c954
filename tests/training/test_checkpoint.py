from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dao.errors import InputError
from dao.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint, save_checkpoint


def some(step: int) -> Checkpoint:
    tensors = {"weight": torch.full((3, 2), float(step)), "random": torch.arange(5, dtype=torch.uint8)}
    return Checkpoint(tensors, {"step": step, "loader": {"epoch": 1, "position": 2}})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_and_only_the_newest_is_kept(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nowhere") is None
    for step in (5, 10, 1000):
        path = save_checkpoint(tmp_path / "run", step, some(step))
        assert latest_checkpoint(tmp_path / "run") == path
        assert names(tmp_path / "run") == [f"checkpoint-{step:09d}"]
    loaded = load_checkpoint(path)
    assert loaded.state == some(1000).state
    assert all(torch.equal(loaded.tensors[name], value) for name, value in some(1000).tensors.items())


def test_half_written_ones_do_not_count_and_are_cleared(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, some(5))
    (tmp_path / "checkpoint-000000009.part").mkdir()
    (tmp_path / "checkpoint-000000009.part" / "state.json").write_text("{")
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-000000005"
    save_checkpoint(tmp_path, 9, some(9))
    assert names(tmp_path) == ["checkpoint-000000009"]
    assert load_checkpoint(tmp_path / "checkpoint-000000009").state["step"] == 9


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("after", range(9))
def test_a_kill_at_any_time_leaves_one_that_loads(tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 5, some(5))
    calls = 0

    def deadly(original: object) -> object:
        def call(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls > after:
                raise KilledError
            assert callable(original)
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr("dao.training.checkpoint.save_file", deadly(save_file))
        patched.setattr(Path, "write_text", deadly(Path.write_text))
        patched.setattr(os, "fsync", deadly(os.fsync))
        patched.setattr(Path, "replace", deadly(Path.replace))
        patched.setattr(shutil, "rmtree", deadly(shutil.rmtree))
        with pytest.raises(KilledError):
            save_checkpoint(tmp_path, 6, some(6))
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert load_checkpoint(found).state["step"] in (5, 6)
    save_checkpoint(tmp_path, 6, some(6))
    assert [name for name in names(tmp_path) if name != "checkpoint-000000005"] == ["checkpoint-000000006"]


def test_one_that_exists_is_never_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 5, some(5))
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: pytest.fail("removed"))
    assert save_checkpoint(tmp_path, 5, some(5)) == tmp_path / "checkpoint-000000005"


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("share", [None, 0.0, 0.1, 0.5, 0.99])
def test_truncated_ones_are_refused(tmp_path: Path, name: str, share: float | None) -> None:
    path = save_checkpoint(tmp_path, 5, some(5))
    if share is None:
        (path / name).unlink()
    else:
        raw = (path / name).read_bytes()
        (path / name).write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(InputError, match=r"checkpoint .*checkpoint-000000005: not readable") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
