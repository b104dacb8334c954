from __future__ import annotations

from pathlib import Path

import pytest
from superconducting_toys import folds, write_files

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
