from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import Fit, fitting, recipe


@pytest.fixture
def fit(tmp_path: Path, toy_file: Path) -> Fit:
    """Train by the tiny recipe with changes; returns the run's folder."""
    return fitting(tmp_path, toy_file, recipe)
