"""A set compared with itself: every planted near-duplicate goes, every planted polymorph stays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from toys import RADII, toy, write_parquet

from dao.cli import main
from dao.crystal import Crystal
from dao.data.deduplicate import Filters, References, deduplicate

BASES = {
    "NaCl": toy("rocksalt", ("Na", "Cl"), 5.6),
    "KBr": toy("rocksalt", ("K", "Br"), 6.6),
    "GaAs": toy("zincblende", ("Ga", "As"), 5.65),
    "CaF2": toy("fluorite", ("Ca", "F"), 5.5),
    "SrTiO3": toy("perovskite", ("Sr", "Ti", "O"), 3.9),
    "CsPbI3": toy("perovskite", ("Cs", "Sb", "I"), 6.2),
}
POLYMORPHS = {
    "NaCl": [toy("cscl", ("Na", "Cl"), 3.4), toy("zincblende", ("Na", "Cl"), 6.1)],
    "KBr": [toy("cscl", ("K", "Br"), 4.0), toy("zincblende", ("K", "Br"), 7.1)],
    "GaAs": [toy("cscl", ("Ga", "As"), 3.3), toy("rocksalt", ("Ga", "As"), 5.4)],
}


def renamed(crystal: Crystal, name: str) -> Crystal:
    return Crystal(crystal.atomic_numbers, crystal.frac_coords, crystal.lattice, name)


def perturbed(crystal: Crystal, name: str, rng: np.random.Generator) -> Crystal:
    """Every atom moved by 0.05 A, the cell strained by a percent."""
    steps = rng.normal(size=(crystal.num_atoms, 3))
    steps *= 0.05 / np.linalg.norm(steps, axis=1, keepdims=True)
    strain = np.eye(3) + 0.01 * rng.uniform(-1, 1, (3, 3))
    coords = crystal.frac_coords + steps @ np.linalg.inv(crystal.lattice)
    return Crystal(crystal.atomic_numbers, coords, crystal.lattice @ strain, name)


def rotated(crystal: Crystal, name: str, rng: np.random.Generator) -> Crystal:
    """Turned, its origin moved, in a sheared description of the same lattice."""
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    shear = np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]])
    coords = (crystal.frac_coords + rng.random(3)) @ np.linalg.inv(shear)
    return Crystal(crystal.atomic_numbers, coords, shear @ crystal.lattice @ turn, name)


def supercell(crystal: Crystal, name: str, _rng: np.random.Generator) -> Crystal:
    larger = crystal.to_structure().make_supercell([[2, 0, 0], [1, 1, 0], [0, 0, 1]])
    return renamed(Crystal.from_structure(larger), name)


def relabelled(crystal: Crystal, name: str, rng: np.random.Generator) -> Crystal:
    """Another id, the atoms in another order."""
    order = rng.permutation(crystal.num_atoms)
    return Crystal(crystal.atomic_numbers[order], crystal.frac_coords[order], crystal.lattice, name)


CHANGES = {"perturbed": perturbed, "rotated": rotated, "supercell": supercell, "relabelled": relabelled}


def planted() -> list[Crystal]:
    """Bases and their polymorphs first, then each of the four duplicates of every one of them, shuffled."""
    rng = np.random.default_rng(5)
    originals = [renamed(one, name) for name, one in BASES.items()]
    originals += [renamed(one, f"{name}-poly{i}") for name, some in POLYMORPHS.items() for i, one in enumerate(some)]
    copies = [change(one, f"{one.name}:{kind}", rng) for one in originals for kind, change in CHANGES.items()]
    return [*originals, *(copies[i] for i in rng.permutation(len(copies)))]


ORIGINALS = [*BASES, *(f"{name}-poly{i}" for name, some in POLYMORPHS.items() for i in range(len(some)))]


def names(path: Path) -> list[str]:
    return list(pq.read_table(path)["material_id"].to_pylist())


@pytest.mark.parametrize("stol", [0.1, 0.3])
def test_every_planted_duplicate_goes_and_every_polymorph_stays(tmp_path: Path, stol: float) -> None:
    crystals = planted()
    write_parquet(tmp_path / "pool.parquet", crystals)
    report = deduplicate(tmp_path / "pool.parquet", [], tmp_path / "out.parquet", itself=True, stol=stol)
    assert names(tmp_path / "out.parquet") == ORIGINALS
    assert report.dropped["repeated"] == len(crystals) - len(ORIGINALS) == 4 * len(ORIGINALS)
    # a second time there is nothing left to drop
    assert deduplicate(tmp_path / "out.parquet", [], tmp_path / "2.parquet", itself=True).dropped["repeated"] == 0


@pytest.mark.parametrize("kind", CHANGES)
def test_duplicates_of_a_benchmark_go_and_its_polymorphs_stay(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(3)
    pool = [CHANGES[kind](one, f"copy-{name}", rng) for name, one in BASES.items()]
    stay = [renamed(one, f"{name}{i}") for name, some in POLYMORPHS.items() for i, one in enumerate(some)]
    write_parquet(tmp_path / "pool.parquet", [*pool, *stay])
    benchmark = References("benchmark", tuple(renamed(one, name) for name, one in BASES.items()))
    report = deduplicate(tmp_path / "pool.parquet", [benchmark], tmp_path / "out.parquet", itself=True)
    assert names(tmp_path / "out.parquet") == [one.name for one in stay]
    assert report.dropped["structure"] == len(BASES)


def test_the_first_stays_and_likeness_is_not_handed_on(tmp_path: Path) -> None:
    def shifted(amount: float, name: str) -> Crystal:
        one = toy("perovskite", ("Sr", "Ti", "O"), 3.9)
        coords = one.frac_coords.copy()
        coords[1, 2] += amount / 3.9
        return Crystal(one.atomic_numbers, coords, one.lattice, name)

    # titanium moved up the cell: each is like its neighbours, the first is not like the last
    chain = [shifted(0.45 * i, f"c{i}") for i in range(3)]
    for order, kept in (((0, 1, 2), ["c0", "c2"]), ((1, 0, 2), ["c1"])):
        write_parquet(tmp_path / "pool.parquet", [chain[i] for i in order])
        deduplicate(tmp_path / "pool.parquet", [], tmp_path / "out.parquet", itself=True, stol=0.1)
        assert names(tmp_path / "out.parquet") == kept


def test_the_same_id_goes_too_and_filters_come_first(tmp_path: Path) -> None:
    pool = [supercell(BASES["CaF2"], "large", np.random.default_rng(0)), BASES["CaF2"], BASES["KBr"], BASES["GaAs"]]
    write_parquet(tmp_path / "pool.parquet", [renamed(one, n) for one, n in zip(pool, "abcc", strict=True)])
    out = tmp_path / "out.parquet"
    report = deduplicate(tmp_path / "pool.parquet", [], out, itself=True, filters=Filters(max_atoms=5))
    # the supercell is out before it could stand for the small cell
    assert names(out) == ["b", "c"]
    assert (report.dropped["num_atoms"], report.dropped["repeated"]) == (1, 1)


@pytest.mark.skipif("sys.platform == 'win32'")
def test_a_killed_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = tmp_path / "pool.parquet"
    rng = np.random.default_rng(0)
    crystals = [
        change(toy("rocksalt", (m, x), 2.0 * (RADII[m] + RADII[x])), f"{m}{x}{kind}{i}", rng)
        for m in ("Li", "Na", "K", "Rb", "Cs")
        for x in ("F", "Cl", "Br", "I")
        for kind, change in CHANGES.items()
        for i in range(2)
    ]
    write_parquet(pool, crystals)
    arguments = ["data", "deduplicate", str(pool), "--self", "--quiet", "--work"]
    assert main([*arguments, str(tmp_path / "work-whole"), "--out", str(tmp_path / "whole.parquet")]) == 0
    assert "repeated in the pool" in capsys.readouterr().out
    script = "import sys, dao.data.deduplicate_self as m; m._PAIRS = 20; from dao.cli import main; main(sys.argv[1:])"
    work = tmp_path / "work"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments, str(work), "--out", str(tmp_path / "out.parquet")]
    )
    deadline = time.monotonic() + 120
    while not any(file.read_bytes().count(b"\n") > 20 for file in work.glob("repeats-*.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (file,) = work.glob("repeats-*.jsonl")
    before = file.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    assert 20 < before.count(b"\n") <= len(crystals)
    assert main([*arguments, str(work), "--out", str(tmp_path / "out.parquet")]) == 0
    assert file.read_bytes().startswith(before)
    assert len(names(tmp_path / "out.parquet")) == 20
    for name in ("out.parquet", "out.json"):
        whole = (tmp_path / name.replace("out", "whole")).read_bytes()
        assert (tmp_path / name).read_bytes() == whole
    assert json.loads((tmp_path / "out.json").read_text())["settings"]["itself"] is True


def test_neither_against_nor_self(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_parquet(tmp_path / "pool.parquet", planted()[:2])
    assert main(["data", "deduplicate", str(tmp_path / "pool.parquet"), "--out", str(tmp_path / "o.parquet")]) == 2
    assert "give --against, or --self" in capsys.readouterr().err


def test_shards_are_a_pool(tmp_path: Path) -> None:
    crystals = planted()
    write_parquet(tmp_path / "pool.parquet", crystals)
    shards = tmp_path / "shards"
    shards.mkdir()
    write_parquet(shards / "shard-00000.parquet", crystals[:20])
    write_parquet(shards / "shard-00001.parquet", crystals[20:])
    benchmark = References("benchmark", (BASES["NaCl"],))
    for source, out in (("pool.parquet", "one.parquet"), ("shards", "many.parquet")):
        deduplicate(tmp_path / source, [benchmark], tmp_path / out, itself=True)
    assert (
        pq.read_table(tmp_path / "one.parquet")
        .drop_columns(["split"])
        .equals(pq.read_table(tmp_path / "many.parquet").drop_columns(["split"]))
    )
