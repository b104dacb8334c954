"""The example notebook is valid, holds no outputs, and its cells run in order as in a new kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest
from pymatgen.core import Structure

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "predict.ipynb"


def cells() -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_notebook_is_valid() -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install '.[test]'")
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT))


def test_outputs_are_not_stored() -> None:
    assert [cell["outputs"] for cell in cells()] == [[]] * len(cells())
    assert {cell["execution_count"] for cell in cells()} == {None}


def test_cells_run_in_order(tmp_path: Path) -> None:
    """As a script: what Jupyter itself adds is the display of each cell's last value and of its figures."""
    code = "\n\n".join("".join(lines) for cell in cells() if isinstance(lines := cell["source"], list))
    (tmp_path / "cells.py").write_text(code, encoding="utf-8")
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONIOENCODING": "utf-8"}
    run = [sys.executable, "cells.py"]
    done = subprocess.run(
        run, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[0].startswith("rank  space group")
    assert printed[-2].startswith("TiO2 ('P4_2/mnm', 136)")
    assert Structure.from_file(tmp_path / "TiO2.cif").composition.reduced_formula == "TiO2"
    assert ase.io.read(tmp_path / "TiO2.vasp").get_chemical_formula() == "O4Ti2"  # type: ignore[union-attr]
