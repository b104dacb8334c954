from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from toys import toy_crystals, write_parquet

from dao.cli import main
from dao.data.crysdb.figure import place
from dao.data.crysdb.stats import describe
from dao.elements import ATOMIC_NUMBERS, SYMBOLS

CRYSTALS = toy_crystals()
ENERGIES = [None if i % 5 == 0 else 0.02 * i for i in range(50)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of two sources."""
    out = tmp_path / "db"
    out.mkdir()
    for number, rows in enumerate((slice(0, 30), slice(30, 50))):
        source = ["mine" if i % 3 else "yours" for i in range(50)][rows]
        write_parquet(out / f"shard-0000{number}.parquet", CRYSTALS[rows], e_above_hull=ENERGIES[rows], source=source)
    return out


def test_counts(folder: Path) -> None:
    found = describe(folder)
    assert [(one.source, one.crystals) for one in found.sources] == [("mine", 33), ("yours", 17)]
    mine = [energy for i, energy in enumerate(ENERGIES) if i % 3 and energy is not None]
    assert (found.sources[0].known, found.sources[0].stable) == (len(mine), sum(energy <= 0.08 for energy in mine))
    known = [energy for energy in ENERGIES if energy is not None]
    assert sum(found.e_above_hull.counts) == len(known) == 40
    assert found.e_above_hull.counts[:4] == [1, 2, 1, 2]
    assert found.e_above_hull.largest == pytest.approx(0.98)
    volumes = np.array([one.volume for one in CRYSTALS])
    assert found.volume.counts == np.histogram(volumes, np.linspace(0, 1500, 31))[0].tolist()
    assert found.num_atoms == Counter(one.num_atoms for one in CRYSTALS)
    expected = Counter(SYMBOLS[number] for one in CRYSTALS for number in one.counts)
    assert found.elements == expected
    assert list(found.elements) == sorted(expected, key=lambda symbol: ATOMIC_NUMBERS[symbol])
    assert found.rows()[-1] == {"source": "all", "crystals": 50, "known": 40, "stable": 10.0}


def test_what_is_below_the_hull_is_counted(tmp_path: Path) -> None:
    write_parquet(tmp_path / "low.parquet", CRYSTALS, e_above_hull=[-0.1] * 50)
    assert describe(tmp_path / "low.parquet").e_above_hull.counts[0] == 50


def test_the_command_writes_a_picture_and_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "crysdb", "stats", str(folder)]) == 0
    assert "elements; figure:" in capsys.readouterr().out
    assert (folder / "stats" / "crysdb.png").read_bytes().startswith(b"\x89PNG")
    drawing = (folder / "stats" / "crysdb.svg").read_text()
    assert "<svg" in drawing
    numbers = json.loads((folder / "stats" / "stats.json").read_text())
    assert numbers["elements"]["Ca"] == 5
    # a file alone, without sources or energies
    write_parquet(folder / "bare.parquet", CRYSTALS)
    assert main(["data", "crysdb", "stats", str(folder / "bare.parquet"), "--format", "json"]) == 0
    bare = json.loads(capsys.readouterr().out)
    assert bare["sources"] == [{"source": "bare", "crystals": 50, "known": 0, "stable": 0}]
    assert bare["e_above_hull"]["largest"] is None
    # the same figure gives the same file
    assert main(["data", "crysdb", "stats", str(folder), "--out", str(folder / "again")]) == 0
    assert (folder / "again" / "crysdb.svg").read_text() == drawing


def test_the_periodic_table() -> None:
    places = {symbol: place(number) for symbol, number in ATOMIC_NUMBERS.items()}
    assert len(set(places.values())) == len(places)
    expected = {"H": (1, 1), "He": (1, 18), "Be": (2, 2), "B": (2, 13), "Ne": (2, 18), "Sc": (4, 3), "Kr": (4, 18)}
    expected |= {"Ba": (6, 2), "Hf": (6, 4), "Rn": (6, 18), "Ra": (7, 2)}
    assert {symbol: places[symbol] for symbol in expected} == expected
    assert [places[symbol] for symbol in ("La", "Lu", "Ac", "Pu")] == [(8.5, 3), (8.5, 17), (9.5, 3), (9.5, 8)]


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, message in ((tmp_path / "nope", "no such file"), (tmp_path, "")):
        assert main(["data", "crysdb", "stats", str(path)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert message in err
    write_parquet(tmp_path / "x.parquet", CRYSTALS)
    table = pq.read_table(tmp_path / "x.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "x.parquet")
    assert main(["data", "crysdb", "stats", str(tmp_path / "x.parquet")]) == 2
    assert "no crystals" in capsys.readouterr().err
