from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from superconducting_toys import folds, write_files
from toys import tiny_predictor

from dao.cli import main
from dao.data.properties import superconductors


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, with both files of toy superconductors."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_files(folder)
    monkeypatch.setenv("DAO_DATA", str(folder))
    monkeypatch.setattr(superconductors, "_published", folds)
    return folder


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rates on two folds, and what it printed."""
    folder = tmp_path_factory.mktemp("tc")
    write_files(folder)
    tiny_predictor().save(folder / "weights")
    arguments = ["superconductors", "train", "--out", str(folder / "tc"), "--weights", str(folder / "weights")]
    arguments += ["--epochs", "2", "--batch", "8", "--rates", "1e-6,1e-2", "--folds", "0,3"]
    arguments += ["--device", "cpu", "--quiet", "--data", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(superconductors, "_published", folds)
        assert main(arguments) == 0
    return folder


@pytest.fixture
def trained(once: Path, tmp_path: Path) -> Path:
    """A copy of it, in the folder where commands run."""
    return shutil.copytree(once / "tc", tmp_path / "own")
