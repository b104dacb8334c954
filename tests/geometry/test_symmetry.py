"""The process that guards against moyo's endless searches: the same answers, and an end to those."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import toy, toy_crystals

import dao.geometry.symmetry as module
from dao.crystal import Crystal
from dao.errors import InputError
from dao.geometry.cells import refine_space_group
from dao.geometry.symmetry import symmetry_dataset

LAYERS = [0.7051, 0.7967, 0.5382, 0.1639, 0.6719, 0.356, 0.4678, 0.2363, 0.3612, 0.7311, 0.2072, 0.5076]


def layered() -> Crystal:
    """A generated layered cell on which moyo 0.21 never ends at 0.2 A."""
    lattice = np.zeros((3, 3))
    a, b, c = 3.098207622083228, 3.0891670458445275, 37.96319196132075
    alpha, beta, gamma = np.radians([91.29207261867845, 90.38024596703377, 119.29932911959939])
    lattice[0] = [a, 0, 0]
    lattice[1] = [b * np.cos(gamma), b * np.sin(gamma), 0]
    x, y = c * np.cos(beta), c * (np.cos(alpha) - np.cos(beta) * np.cos(gamma)) / np.sin(gamma)
    lattice[2] = [x, y, np.sqrt(c**2 - x**2 - y**2)]
    planes = [(0.2191, 0.0625), (0.5512, 0.7295)]
    side = [0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0]
    coords = np.array([[*planes[which], z] for which, z in zip(side, LAYERS, strict=True)])
    return Crystal([16, 16, 16, 16, 16, 16, 34, 34, 42, 42, 74, 74], coords, lattice)


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    own: Any = module._Guarded()
    monkeypatch.setattr(module, "_GUARDED", own)
    yield own
    own.close()


def pid(guard: Any) -> int:
    return int(guard._process.pid)


@pytest.mark.usefixtures("guard")
def test_the_other_process_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    crystals = [*toy_crystals()[:12], Crystal([11, 17], np.array([[0, 0, 0], [0.5, 0.52, 0.49]]), 4.0 * np.eye(3))]
    guarded = [symmetry_dataset(crystal, 0.1) for crystal in crystals]
    monkeypatch.setattr(module, "TRUSTED_SYMPREC", 1.0)
    for crystal, one in zip(crystals, guarded, strict=True):
        other = symmetry_dataset(crystal, 0.1)
        assert one.number == other.number
        for name in ("to_primitive", "origin_shift", "sites", "atomic_numbers", "frac_coords", "lattice"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_it_is_begun_once_and_only_for_loose_tolerances(guard: Any) -> None:
    crystal = toy("rocksalt", ("Na", "Cl"), 5.64)
    assert symmetry_dataset(crystal, 0.01).number == 225
    assert guard._process is None
    assert symmetry_dataset(crystal, 0.1).number == 225
    first = pid(guard)
    assert symmetry_dataset(crystal, 0.05).number == 225
    assert pid(guard) == first


def test_a_search_without_end_ends(guard: Any) -> None:
    started = time.monotonic()
    # whatever this version of moyo makes of it
    number, _, symprec = refine_space_group(layered())
    assert number >= 1
    assert symprec <= 0.2
    assert time.monotonic() - started < 60
    crystal = toy("rocksalt", ("Na", "Cl"), 5.64)
    assert symmetry_dataset(crystal, 0.1).number == 225
    os.kill(pid(guard), 9)
    with pytest.raises(InputError, match="moyo found no end in 2 s"):
        symmetry_dataset(crystal, 0.1)
    assert symmetry_dataset(crystal, 0.1).number == 225


@pytest.mark.usefixtures("guard")
def test_errors_of_moyo_come_through() -> None:
    twice = Crystal([11, 11], np.array([[0, 0, 0], [0, 0, 1e-6]]), 3.0 * np.eye(3))
    for symprec in (0.005, 0.1):
        with pytest.raises(InputError, match=f"no space group at a tolerance of {symprec:g} A"):
            symmetry_dataset(twice, symprec)


def test_it_limits_its_own_processor_time(tmp_path: Path) -> None:
    """A process that is caught in a loop must end even where its parent is gone."""
    script = tmp_path / "hang.py"
    script.write_text(
        "import dao.geometry.symmetry as module\n"
        "def forever(cell):\n"
        "    while True: pass\n"
        "module.look_up = forever\n"
        "module._serve()\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, str(script)], input=b"[]\n", capture_output=True, check=False, timeout=120)
    assert done.returncode == -24  # SIGXCPU
    assert done.stdout == b""
    assert time.monotonic() - started < 100
