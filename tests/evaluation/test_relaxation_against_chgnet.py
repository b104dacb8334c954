"""The benchmark with a stand-in for CHGNet, which tests do not have."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import relaxation_against_chgnet as benchmark
from ase import Atoms
from ase.calculators.lj import LennardJones
from toys import tiny_predictor, toy_crystals, write_parquet

from dao.crystal import Crystal
from dao.prediction.relaxed_set import Chosen


def attach(atoms: Atoms) -> None:
    atoms.calc = LennardJones(sigma=2.4, epsilon=0.1, rc=5.0, smooth=True)  # type: ignore[no-untyped-call]


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    crystals = toy_crystals()[:4]
    # two atoms on top of each other: no judge could do that one
    crystals[2] = Crystal([11, 17], [[0.0, 0.0, 0.0], [0.001, 0.0, 0.0]], 4 * np.eye(3), "close")
    write_parquet(tmp_path / "pool.parquet", crystals, e_above_hull=[0.2, 0.3, 0.4, 0.01])
    tiny_predictor().save(tmp_path / "weights")
    monkeypatch.setattr(benchmark, "chgnet", lambda steps, fmax: benchmark.Other(attach, steps, fmax))
    return argparse.Namespace(
        data=str(tmp_path / "pool.parquet"),
        weights=str(tmp_path / "weights"),
        out=tmp_path / "out",
        count=9,
        seed=0,
        max_atoms=30,
        chgnet_steps=5,
        fmax=0.05,
    )


def test_it_compares_and_goes_on(given: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    page = benchmark.run(given)
    assert page.startswith("2 of 3 crystals of pool.parquet")
    assert "| Crystals that CHGNet or DAO-P could not do                     |" in page
    lines = given.out / "crystals.jsonl"
    whole = lines.read_text().splitlines(keepends=True)
    lines.write_text("".join(whole[:3]) + whole[3][:40])
    done: list[str] = []
    original = benchmark.compare

    def compare(one: Chosen, *others: object) -> benchmark.Comparison:
        done.append(one.crystal.name)
        return original(one, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(benchmark, "compare", compare)
    benchmark.run(given)
    assert len(done) <= 1
    assert len(lines.read_text().splitlines()) == 4


def test_figures_are_of_the_structures(given: argparse.Namespace) -> None:
    benchmark.run(given)
    found = [json.loads(line) for line in (given.out / "crystals.jsonl").read_text().splitlines()[1:]]
    assert [one["row"] for one in found if "reason" in one] == [2]
    for one in (benchmark.parsed(line) for line in found if "reason" not in line):
        atoms = toy_crystals()[one.row].to_atoms()
        attach(atoms)
        assert benchmark.energy_of(atoms) == pytest.approx(one.start, abs=1e-6)
        # FIRE on Lennard-Jones goes downhill and moves
        assert one.chgnet < one.start
        assert one.start_to_chgnet.strain > 0
        assert one.dao_after <= one.dao_before
