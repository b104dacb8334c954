"""Energies above the hull: by hand, by pymatgen's phase diagram, and by the Materials Project's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element
from toys import listing, toy_crystals, write_parquet

from dao.cli import main
from dao.constants import MAX_ATOMIC_NUMBER
from dao.data.hull import e_above_hull
from dao.errors import InputError


def counts(*formulas: str) -> np.ndarray:
    rows = np.zeros((len(formulas), MAX_ATOMIC_NUMBER + 1), dtype=np.int64)
    for row, formula in zip(rows, formulas, strict=True):
        for element, amount in Composition(formula).items():
            row[element.Z] = int(amount)
    return rows


def test_by_hand() -> None:
    # Li2O2 at -1.0 is on the hull; Li2O lies on the line from Li to it at -2/3
    formulas = ("Li2O2", "LiO", "Li2O", "Li", "Li4", "Na", "Na2O", "O2")
    energies = np.array([-1.0, -0.75, -0.5, 0.25, -0.125, np.nan, 0.5, np.nan])
    # lithium has a form below the reference, which makes the line to Li2O2 lower: 1/3 (-1/8) + 2/3 (-1)
    line = -0.125 / 3 - 2 / 3
    expected = [0.0, 0.25, -0.5 - line, 0.375, 0.0, np.nan, 0.5, np.nan]
    np.testing.assert_allclose(e_above_hull(counts(*formulas), energies), expected, atol=1e-9)


def test_as_pymatgen_has_it() -> None:
    rng = np.random.default_rng(1)
    elements = np.array([3, 8, 15, 26, 38])
    table = np.zeros((300, MAX_ATOMIC_NUMBER + 1), dtype=np.int64)
    for row in table:
        chosen = rng.choice(elements, size=rng.integers(1, 6), replace=False)
        row[chosen] = rng.integers(1, 5, size=chosen.size)
    energies = rng.normal(-1.0, 0.7, size=300) * ((table > 0).sum(1) > 1) + rng.random(300) * 0.1
    found = e_above_hull(table, energies)
    entries = [
        PDEntry(Composition({Element.from_Z(int(z)): int(row[z]) for z in np.flatnonzero(row)}), energy * row.sum())
        for row, energy in zip(table, energies, strict=True)
    ]
    pure = [PDEntry(Composition({Element.from_Z(int(z)): 1}), 0.0) for z in elements]
    diagram = PhaseDiagram([*entries, *pure])
    expected = [diagram.get_e_above_hull(entry) for entry in entries]
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert 3 < (found < 1e-9).sum() < 100


def test_too_many_elements() -> None:
    rows = np.zeros((1, MAX_ATOMIC_NUMBER + 1), dtype=np.int64)
    rows[0, 1:15] = 1
    with pytest.raises(InputError, match="14 elements"):
        e_above_hull(rows, np.array([-1.0]))


def pool(path: Path) -> None:
    """The toys of two sources, the second two eV/atom lower; some state their energy above the hull."""
    crystals = toy_crystals()
    formation = [None if i % 5 == 0 else -1.0 - 2.0 * (i % 2) for i in range(50)]
    write_parquet(
        path,
        crystals,
        formation_energy=formation,
        e_above_hull=[0.5 if i % 5 == 1 else None for i in range(50)],
        source=["a" if i % 2 == 0 else "b" for i in range(50)],
    )


def test_a_file_is_filled_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool(tmp_path / "pool.parquet")
    before = pq.read_table(tmp_path / "pool.parquet")
    out = tmp_path / "out.parquet"
    assert main(["data", "hull", str(tmp_path / "pool.parquet"), "--out", str(out), "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(row["group"], row["phases"], row["filled"], row["compared"]) for row in report] == [
        ("a", 20, 15, 5), ("b", 20, 15, 5)
    ]  # fmt: skip
    # every toy has a composition of its own, on the hull of its source: what they state is off by all of it
    assert [row["mae"] for row in report] == pytest.approx([0.5, 0.5])
    table = pq.read_table(out)
    assert table.drop_columns(["e_above_hull", "e_above_hull_source"]).equals(before.drop_columns(["e_above_hull"]))
    for i, row in enumerate(table.select(["e_above_hull", "e_above_hull_source"]).to_pylist()):
        expected = {0: (None, None), 1: (0.5, None)}.get(i % 5, (0.0, f"hull:{'ab'[i % 2]}"))
        assert (row["e_above_hull"], row["e_above_hull_source"]) == pytest.approx(expected)
    # one hull of all, where the sources do mix: nothing of the first is stable
    one = before.drop_columns(["source"])
    pq.write_table(one, tmp_path / "one.parquet")
    assert main(["data", "hull", str(tmp_path / "one.parquet"), "--out", str(out), "--all"]) == 0
    assert "all" in capsys.readouterr().out
    energies = pq.read_table(out)["e_above_hull"].to_pylist()
    assert [energies[i] for i in (0, 1)] == [None, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["@", "--group", "nope"], "no column 'nope'"),
        (["@", "--out", "@"], "would overwrite"),
        (["bare", "--out", "x.parquet"], "no column 'formation_energy'"),
        (["null", "--out", "x.parquet"], "no row has a formation_energy"),
        (["infinite", "--out", "x.parquet"], "no row has a formation_energy"),
        (["torn", "--out", "x.parquet"], "cannot be read"),
        (["nope", "--out", "x.parquet"], "neither a file or folder"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAO_DATA", str(tmp_path))
    pool(tmp_path / "@.parquet")
    bare = pq.read_table(tmp_path / "@.parquet").drop_columns(["formation_energy"])
    pq.write_table(bare, tmp_path / "bare.parquet")
    pq.write_table(bare.append_column("formation_energy", pa.nulls(50, pa.float32())), tmp_path / "null.parquet")
    infinite = pa.array([np.inf, -np.inf] * 25)
    pq.write_table(bare.append_column("formation_energy", infinite), tmp_path / "infinite.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and nothing more")
    before = listing([tmp_path])
    given = [word.replace("@", str(tmp_path / "@.parquet")) for word in arguments]
    assert main(["data", "hull", *given, *([] if "--out" in given else ["--out", "x.parquet"])]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert listing([tmp_path]) == before


@pytest.mark.science
def test_the_pool_as_its_own_source_has_it(data_dir: Path) -> None:
    table = pq.read_table(data_dir / "mp_pool.parquet")
    sources = np.array([str(value) for value in table["formation_energy_source"].to_pylist()])
    stated_by = np.array([str(value) for value in table["e_above_hull_source"].to_pylist()])
    rows = np.isin(sources, ("mp20", "mpts52"))
    numbers = table["atomic_numbers"].to_pylist()
    table_of_counts = np.zeros((table.num_rows, MAX_ATOMIC_NUMBER + 1), dtype=np.int64)
    for row in np.flatnonzero(rows):
        np.add.at(table_of_counts[row], numbers[row], 1)
    stated = table["e_above_hull"].to_numpy(zero_copy_only=False).astype(float)
    formation = table["formation_energy"].to_numpy(zero_copy_only=False).astype(float)
    off = np.abs(e_above_hull(table_of_counts[rows], formation[rows]) - stated[rows])
    assert off[stated_by[rows] == "hull:mp2021"].mean() < 2e-4
    assert off[(stated_by == "database")[rows] & (sources == "mp20")[rows]].mean() < 0.003
