from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from toys import toy

from dao.cli import main
from dao.errors import InputError
from dao.report import diffraction
from dao.report.diffraction import Peak, powder_pattern, require_diffraction


def test_without_pymatgen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(diffraction, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"need pymatgen: pip install '\.\[report\]'"):
        require_diffraction()
    # before anything is generated or written
    assert main(["predict", "NaCl", "--report"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_indices() -> None:
    families: list[dict[str, Any]] = [{"hkl": (1, 0, -1, 2)}, {"hkl": (1, -1, 0)}, {"hkl": (10, 0, 0)}]
    assert diffraction._indices(families) == "(102) (11\u03050) (10 0 0)"


@pytest.fixture
def rocksalt() -> list[Peak]:
    try:
        require_diffraction()
    except InputError:
        pytest.skip("pymatgen's analysis package is not installed")
    assert importlib.util.find_spec("pymatgen.analysis.diffraction.xrd") is not None
    return powder_pattern(toy("rocksalt", ("Na", "Cl"), 5.64))


def test_rock_salt(rocksalt: list[Peak]) -> None:
    """Bragg's law for a = 5.64 A and the odd-even rule of the face-centred cell, whatever cell it is given in."""
    strongest = max(rocksalt, key=lambda peak: peak.intensity)
    assert strongest.two_theta == pytest.approx(31.73, abs=0.02)  # (200)
    assert strongest.spacing == pytest.approx(5.64 / 2, abs=1e-3)
    angles = [peak.two_theta for peak in rocksalt]
    assert angles == sorted(angles)
    squares = [(5.64 / peak.spacing) ** 2 for peak in rocksalt[:6]]
    assert squares == pytest.approx([3, 4, 8, 11, 12, 16], abs=1e-3)
    # Na+ and Cl- nearly cancel in the odd ones
    assert rocksalt[0].intensity < 15
