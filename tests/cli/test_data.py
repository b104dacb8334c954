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
from toys import listing, toy, toy_crystals, write_parquet

from dao.cli import main
from dao.crystal import Crystal

REFERENCES = toy_crystals()


def near(crystal: Crystal, name: str, seed: int, amount: float) -> Crystal:
    shift = amount * np.random.default_rng(seed).uniform(-1, 1, (crystal.num_atoms, 3))
    return Crystal(crystal.atomic_numbers, crystal.frac_coords + shift, crystal.lattice, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """References in splits, and a pool of crystals near to and far from them."""
    folder = tmp_path_factory.mktemp("data")
    write_parquet(folder / "mp20.parquet", REFERENCES, split=["val", "test"] * 25)
    pool = [near(REFERENCES[i % 50], f"p-{i}", i, 0.25 * (i % 3)) for i in range(200)]
    pool += [REFERENCES[0], toy("cscl", ("Rb", "F"), 3.5, "unlike")]
    energies = [None if i % 5 == 0 else 0.3 * (i % 5) for i in range(len(pool))]
    write_parquet(folder / "pool.parquet", pool, e_above_hull=energies)
    return folder


@pytest.fixture(autouse=True)
def _data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAO_DATA", str(folder))


def test_deduplicate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.parquet"
    arguments = ["data", "deduplicate", "pool", "--against", "mp20:val", "--against", "mp20:test", "--quiet"]
    limits = ["--min-atoms", "2", "--max-atoms", "3", "--max-e-above-hull", "1.0"]
    assert main([*arguments, *limits, "--out", str(out), "--format", "json"]) == 0
    printed, err = capsys.readouterr()
    report = json.loads(printed)
    assert err == ""
    assert report == json.loads((tmp_path / "out.json").read_text())
    assert report["rows_in"] == 202 == report["rows_out"] + sum(report["dropped"].values())
    assert min(report["dropped"][why] for why in ("num_atoms", "e_above_hull", "no_energy", "structure")) > 0
    table = pq.read_table(out)
    assert table.num_rows == report["rows_out"] > 0
    assert max(table["num_atoms"].to_pylist()) == 3
    assert max(table["e_above_hull"].to_pylist()) < 1.0
    # displaced by nothing: each is a reference
    assert not any(int(name[2:]) % 3 == 0 for name in table["material_id"].to_pylist() if name[:2] == "p-")
    assert main([*arguments, *limits, "--keep-unknown", "--out", str(out)]) == 0
    assert "dropped by structure" in capsys.readouterr().out
    assert pq.read_table(out)["e_above_hull"].null_count > 0


def test_splits_matter(tmp_path: Path) -> None:
    kept = {}
    for against in ("mp20", "mp20:val", "mp20:test"):
        out = tmp_path / "out.parquet"
        assert main(["data", "deduplicate", "pool", "--against", against, "--quiet", "--out", str(out)]) == 0
        kept[against] = set(pq.read_table(out)["material_id"].to_pylist())
    assert kept["mp20"] < kept["mp20:val"]
    assert kept["mp20"] < kept["mp20:test"]
    # the first reference is one of val
    assert REFERENCES[0].name in kept["mp20:test"] - kept["mp20:val"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--against", "nope:val"], "'nope': neither a file or folder"),
        (["--against", "x" * 300 + ":val"], "neither a file or folder"),
        (["--against", "mp20", "--out", "x" * 300 + ".parquet"], "--out"),
        (["--against", "mp20:nope"], "no row has split 'nope'"),
        (["--against", "mp20:"], "names no split"),
        (["--against", "mp20", "--stol", "nan"], "--stol"),
        (["--against", "mp20", "--time-limit", "nan"], "--time-limit"),
        (["--against", "mp20", "--max-e-above-hull", "nan"], "nan is no finite number"),
        (["--against", "mp20", "--stol", "-1"], "--stol"),
        (["--against", "mp20", "--max-atoms", "2", "--min-atoms", "3"], "--max-atoms 2 is less"),
        (["--against", "mp20", "--keep-unknown"], "--keep-unknown says something only"),
        (["--against", "mp20", "--out", "out.csv"], "must be a file called something.parquet"),
        (["--against", "mp20", "--out", "@/pool.parquet"], "would overwrite"),
        (["--against", "mp20", "--min-atoms", "40"], "no crystal passes the filters"),
        ([], "--against"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    before = listing([tmp_path, folder])
    given = ["--out", str(tmp_path / "out.parquet"), *(one.replace("@", str(folder)) for one in more)]
    assert main(["data", "deduplicate", "pool", *given]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert listing([tmp_path, folder]) == before


def test_a_broken_pool_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = tmp_path / "torn.parquet"
    pool.write_bytes(b"PAR1 and nothing more")
    before = listing([tmp_path])
    arguments = ["data", "deduplicate", str(pool), "--against", "mp20", "--out", str(tmp_path / "out.parquet")]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"dao: error: {pool}: cannot be read")
    assert listing([tmp_path]) == before


@pytest.mark.skipif("sys.platform == 'win32'")
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    arguments = ["data", "deduplicate", "pool", "--against", "mp20", "--quiet", "--work"]
    assert main([*arguments, str(tmp_path / "work-whole"), "--out", str(whole)]) == 0
    answers = tmp_path / "work" / "comparisons.jsonl"
    # every answer at once, for a kill amidst them
    script = "import sys, dao.data.deduplicate as m; m._FLUSH = 0; from dao.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments, str(tmp_path / "work"), "--out", str(out)],
    )
    deadline = time.monotonic() + 120
    while not (answers.exists() and answers.read_bytes().count(b"\n") > 20):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    raw = answers.read_bytes()
    before = raw[: raw.rfind(b"\n") + 1]
    expected = (tmp_path / "work-whole" / "comparisons.jsonl").read_text().splitlines()
    assert 20 < before.count(b"\n") < len(expected)
    assert not out.exists()
    assert main([*arguments, str(tmp_path / "work"), "--out", str(out)]) == 0
    assert answers.read_bytes().startswith(before)
    lines = answers.read_text().splitlines()
    assert len(lines) == len(set(lines))
    assert sorted(lines) == sorted(expected)
    assert out.read_bytes() == whole.read_bytes()
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
