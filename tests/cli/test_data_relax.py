from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from toys import listing, tiny_generator, tiny_predictor, toy, toy_crystals, write_parquet

from dao.cli import main
from dao.crystal import Crystal, CrystalBatch
from dao.data.sources import read_parquet
from dao.data.training_set import load_packed
from dao.geometry.cells import is_niggli, space_group
from dao.models import Predictor
from dao.prediction.relaxed_report import RelaxedRow, bin_edges, report_of

ENERGIES: list[float | None] = [0.05, 0.08, 0.0801, 0.1, 0.3, 0.5, 0.5001, 0.9, None, float("nan"), 0.25, 0.45, 0.15]
RELAXED = [2, 3, 4, 5, 10, 11, 12]
"""Rows of the toy file with 0.08 < e_above_hull <= 0.5; those at the limits are 0.08 and 0.5 as float32."""

CRYSTALS = toy_crystals()[: len(ENERGIES)]
BEFORE, AFTER = "e_above_hull_predicted_before", "e_above_hull_predicted"
Run = Callable[..., tuple[int, str, str]]


def write(path: Path, crystals: list[Crystal], energies: list[float | None], **more: Any) -> None:
    write_parquet(path, crystals, e_above_hull=pa.array(energies, pa.float32()), **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    # atoms off their special positions, or there would be little to relax
    shaken = [
        Crystal(one.atomic_numbers, one.frac_coords + 0.02 * noise, one.lattice, one.material_id)
        for one, noise in zip(CRYSTALS, map(noise_of, CRYSTALS), strict=True)
    ]
    write(made / "pool.parquet", shaken, ENERGIES, band_gap=[0.5 * i for i in range(len(ENERGIES))])
    tiny_predictor().save(made / "weights")
    tiny_generator().save(made / "generator")
    return made


def noise_of(crystal: Crystal) -> np.ndarray:
    return np.random.default_rng(crystal.num_atoms).uniform(-1, 1, (crystal.num_atoms, 3))


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``dao data relax`` in an empty folder; ``@`` stands for the folder of data."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, weights: str = "@/weights", out: str = "out.parquet") -> tuple[int, str, str]:
        # so small a predictor has forces of that size
        given = ["--force-tolerance", "0", "--weights", weights, "--out", out, "--device", "cpu", "--quiet", *arguments]
        code = main(["data", "relax", *(argument.replace("@", str(folder)) for argument in given)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_what_is_selected_is_relaxed_and_keeps_its_labels(run: Run, folder: Path) -> None:
    code, out, err = run("@/pool.parquet", "--format", "json", "--batch-size", "3")
    assert (code, err) == (0, ""), err
    report = json.loads(out)
    assert report == json.loads(Path("out.json").read_text())
    assert (report["rows_in"], report["selected"], report["relaxed"], report["rows_out"]) == (13, 7, 7, 7)
    assert {path.name for path in Path().iterdir()} == {"out.parquet", "out.json", "out.md"}
    source, made = pq.read_table(folder / "pool.parquet"), pq.read_table("out.parquet")
    assert made.column_names == [*source.column_names, BEFORE, AFTER]
    chosen = source.take(RELAXED)
    for name in ("material_id", "atomic_numbers", "num_atoms", "split", "e_above_hull", "band_gap"):
        assert made[name].combine_chunks().equals(chosen[name].combine_chunks()), name
    assert all(made.schema.field(name).type == source.schema.field(name).type for name in source.column_names)
    before, after = made[BEFORE].to_numpy(), made[AFTER].to_numpy()
    assert (after <= before).all()
    assert (after < before).any()
    # of the crystals as they stand in the files, some of them in another cell than they were relaxed in
    assert 0 < report["new_cells"] < 7
    model = Predictor.load(folder / "weights")
    for name, file, rows in ((BEFORE, folder / "pool.parquet", RELAXED), (AFTER, Path("out.parquet"), range(7))):
        crystals = list(read_parquet(file))
        with torch.no_grad():
            energies = [float(model.energy(CrystalBatch.from_crystals([crystals[row]]))[0]) for row in rows]
        assert energies == pytest.approx(made[name].to_pylist(), abs=2e-5)
    for one in read_parquet("out.parquet"):
        one.validate()
        assert is_niggli(one)
    # a training set
    assert len(load_packed(Path("out.parquet"), labels=("e_above_hull",))) == 7


def test_the_rest_is_kept_as_it_is(run: Run, folder: Path) -> None:
    assert run("@/pool.parquet", "--keep-rest", "--max-atoms", "3", "--above", "0.1", "--up-to", "0.3")[0] == 0
    source, made = pq.read_table(folder / "pool.parquet"), pq.read_table("out.parquet")
    small = [row for row in (4, 10, 12) if CRYSTALS[row].num_atoms <= 3]
    assert 0 < len(small) < 3
    assert [i for i, value in enumerate(made[AFTER].to_pylist()) if value is not None] == small
    rest = [row for row in range(len(CRYSTALS)) if row not in small]
    for name in source.column_names:
        # as text: NaN is no equal of NaN
        assert repr(made[name].take(rest).to_pylist()) == repr(source[name].take(rest).to_pylist()), name
    assert made["material_id"].equals(source["material_id"])
    for row in small:
        assert made["frac_coords"][row] != source["frac_coords"][row]


def test_cells_become_primitive(run: Run) -> None:
    double = CRYSTALS[2].to_structure().make_supercell([2, 1, 1], in_place=False)
    write(Path("double.parquet"), [Crystal.from_structure(double, "double"), CRYSTALS[2]], [0.2, 0.2])
    assert run("double.parquet", "--keep-rest")[0] == 0
    made = pq.read_table("out.parquet")
    assert made["num_atoms"].to_pylist() == [CRYSTALS[2].num_atoms] * 2
    assert [len(value) for value in made["frac_coords"].to_pylist()] == [3 * CRYSTALS[2].num_atoms] * 2
    first, second = made[BEFORE].to_pylist()
    assert first == pytest.approx(second, abs=1e-4)


def test_what_is_not_lower_in_its_new_cell_stays_as_it_was(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rising = iter([1.0, -1.0] * 7)
    module = "dao.prediction.relaxed_set.predict_energies"
    monkeypatch.setattr(module, lambda _, crystals, **__: [next(rising) for _ in crystals])
    assert run("@/pool.parquet")[0] == 0
    assert json.loads(Path("out.json").read_text())["outcomes"]["not lower"] == 4
    source, made = pq.read_table(folder / "pool.parquet").take(RELAXED), pq.read_table("out.parquet")
    same = [before == after for before, after in zip(made[BEFORE].to_pylist(), made[AFTER].to_pylist(), strict=True)]
    assert sum(same) == 4
    for name in ("frac_coords", "lattice"):
        assert [a == b for a, b in zip(source[name].to_pylist(), made[name].to_pylist(), strict=True)] == same


@pytest.mark.parametrize("lines", [2, 4])
def test_an_interrupted_run_goes_on_to_the_same_files(run: Run, monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    arguments = ("@/pool.parquet", "--batch-size", "2", "--keep-rest", "--work", "work", "--figure", "fall.png")
    Path("whole").mkdir()
    Path("broken").mkdir()
    monkeypatch.chdir("whole")
    assert run(*arguments)[0] == 0
    whole = (Path("work") / "relaxed.jsonl").read_text().splitlines(keepends=True)
    assert len(whole) == 8
    monkeypatch.chdir("../broken")
    # as a kill in the middle of a batch, and of a line, leaves it
    Path("work").mkdir()
    (Path("work") / "relaxed.jsonl").write_text("".join(whole[:lines]) + whole[lines][:50])
    assert run(*arguments)[0] == 0
    monkeypatch.chdir("..")
    made = [{Path(k).relative_to(name): v for k, v in listing([Path(name)]).items()} for name in ("whole", "broken")]
    assert made[0] == made[1]
    # and what is done is not done again
    monkeypatch.chdir("broken")
    monkeypatch.setattr("dao.prediction.relaxed_set.relax", None)
    assert run(*arguments)[0] == 0
    code, _, err = run(*arguments, "--steps", "7")
    assert code == 2
    assert "made with another settings" in err


@pytest.mark.skipif("sys.platform == 'win32'")
def test_a_killed_run_goes_on(folder: Path, tmp_path: Path) -> None:
    given = [str(folder / "pool.parquet"), "--weights", str(folder / "weights"), "--device", "cpu", "--quiet"]
    given += ["--force-tolerance", "0", "--batch-size", "1", "--keep-rest", "--figure"]
    command = [sys.executable, "-m", "dao", "data", "relax", *given]
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        arguments = [str(tmp_path / name / "fall.png"), "--out", str(tmp_path / name / "out.parquet")]
        if name == "broken":
            process = subprocess.Popen([*command, *arguments], env=os.environ)
            lines = tmp_path / name / "out.parquet.work" / "relaxed.jsonl"
            deadline = time.monotonic() + 120
            while not (lines.exists() and lines.read_bytes().count(b"\n") > 2):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
            process.kill()
            process.wait()
            assert {path.name for path in (tmp_path / name).iterdir()} == {"out.parquet.work"}
        assert main(["data", "relax", *given, *arguments]) == 0
    made = [{Path(k).name: v for k, v in listing([tmp_path / name]).items()} for name in ("whole", "broken")]
    assert set(made[0]) == {"out.parquet", "out.json", "out.md", "fall.png", "fall.svg"}
    assert made[0] == made[1]


def test_what_cannot_be_relaxed_stays_and_is_said(run: Run) -> None:
    close = Crystal([11, 17], [[0.0, 0.0, 0.0], [0.02, 0.0, 0.0]], 4 * np.eye(3), "close")
    write(Path("some.parquet"), [CRYSTALS[0], close, CRYSTALS[1]], [0.2, 0.2, 0.2])
    code, _, err = run("some.parquet", "--figure", "fall.png")
    assert code == 3
    assert err == "1 crystals could not be relaxed and are as they were: see out.failures.json\n"
    (failure,) = json.loads(Path("out.failures.json").read_text())
    assert (failure["row"], failure["id"]) == (1, "close")
    assert "apart" in failure["reason"]
    source, made = pq.read_table("some.parquet"), pq.read_table("out.parquet")
    assert made["frac_coords"][1] == source["frac_coords"][1]
    assert [value is None for value in made[AFTER].to_pylist()] == [False, True, False]
    # mended: the file of failures goes
    write(Path("some.parquet"), CRYSTALS[:2], [0.2, 0.2])
    assert run("some.parquet")[0] == 0
    assert not Path("out.failures.json").exists()


def test_energies_that_are_no_numbers_are_failures(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Predictor.energy

    def energy(self: Predictor, batch: CrystalBatch, time: float = 0.0) -> torch.Tensor:
        values = original(self, batch, time)
        return torch.where(batch.num_atoms == 5, torch.nan, values)

    monkeypatch.setattr(Predictor, "energy", energy)
    assert run("@/pool.parquet", "--keep-rest")[0] == 3
    failed = [failure["row"] for failure in json.loads(Path("out.failures.json").read_text())]
    assert failed == [row for row in RELAXED if CRYSTALS[row].num_atoms == 5] != []
    source, made = pq.read_table(folder / "pool.parquet"), pq.read_table("out.parquet")
    for row in failed:
        assert made["lattice"][row] == source["lattice"][row]
        assert made[AFTER][row].as_py() is None


def test_shards(run: Run) -> None:
    Path("set").mkdir()
    write(Path("set/shard-00000.parquet"), CRYSTALS[:2], [0.2, 0.0])
    write(Path("set/shard-00001.parquet"), CRYSTALS[2:4], [0.3, 0.7])
    assert run("set", "--keep-rest")[0] == 0
    made = pq.read_table("out.parquet")
    assert made["material_id"].to_pylist() == [crystal.name for crystal in CRYSTALS[:4]]
    assert [value is None for value in made[AFTER].to_pylist()] == [False, True, False, True]


@pytest.mark.parametrize(
    ("arguments", "options", "complaint"),
    [
        (["nowhere.parquet"], {}, "'nowhere.parquet': neither a file or folder"),
        (["@/pool.parquet"], {"weights": "@/generator"}, "holds a generator, and a predictor is needed"),
        (["@/pool.parquet"], {"weights": "nothing"}, "weights 'nothing': neither shipped"),
        (["@/pool.parquet", "--above", "0.9"], {}, "nothing is above 0.9 and at most 0.5 eV/atom"),
        (["@/pool.parquet", "--above", "nan"], {}, "nan is no finite number"),
        (["@/pool.parquet", "--above", "5", "--up-to", "6"], {}, "no crystal with 5 < e_above_hull <= 6"),
        (["@/pool.parquet", "--max-atoms", "1"], {}, "and at most 1 atoms"),
        (["@/pool.parquet", "--figure", "fall.pdf"], {}, "must be a file called something.png"),
        (["@/pool.parquet"], {"out": "@/pool.parquet"}, "would overwrite"),
        (["@/pool.parquet"], {"out": "out.csv"}, "must be a file called something.parquet"),
        (["@/torn.parquet"], {}, "torn.parquet: cannot be read"),
        (["@/bare.parquet"], {}, "no column 'e_above_hull'"),
        (["@/again.parquet"], {}, "it was relaxed before"),
        (["@/broken.parquet"], {}, "row 1: "),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    run: Run, folder: Path, arguments: list[str], options: dict[str, str], complaint: str
) -> None:
    (folder / "torn.parquet").write_bytes(b"PAR1 and nothing more")
    write_parquet(folder / "bare.parquet", CRYSTALS)
    write(folder / "again.parquet", CRYSTALS, ENERGIES, **{AFTER: ENERGIES})
    write(folder / "broken.parquet", CRYSTALS[:2], [0.2, 0.2], lattice=[[1.0] * 9, [1.0] * 8])
    before = listing([folder])
    code, printed, err = run(*arguments, **options)
    assert (code, printed, len(err.splitlines())) == (2, "", 1)
    assert complaint in err
    assert list(Path().iterdir()) == []
    assert listing([folder]) == before


def test_a_predictor_of_another_label_is_refused(run: Run, folder: Path) -> None:
    model = tiny_predictor()
    model.config = replace(model.config, label="band_gap")
    model.save(folder / "gap")
    code, _, err = run("@/pool.parquet", weights="@/gap")
    assert (code, "these weights predict 'band_gap'" in err) == (2, True)


def test_bins_are_the_papers() -> None:
    assert bin_edges(0.08, 0.5) == [0.08, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert bin_edges(0.0, 0.2) == [0.0, 0.1, 0.2]
    assert bin_edges(0.25, 0.28) == [0.25, 0.28]
    assert bin_edges(-0.15, 0.05) == [-0.15, -0.1, 0.0, 0.05]


def row(e_above_hull: float, before: float, after: float) -> RelaxedRow:
    crystal = toy("rocksalt", ("Na", "Cl"), 5.6)
    return RelaxedRow(
        row=0,
        e_above_hull=e_above_hull,
        before=before,
        after=after,
        displacement=before,
        volume_change=-after,
        same_space_group=before > 0.1,
        new_cell=False,
        outcome="iterations",
        atomic_numbers=crystal.atomic_numbers.tolist(),
        frac_coords=crystal.frac_coords.ravel().tolist(),
        lattice=crystal.lattice.ravel().tolist(),
    )


def test_the_figures_of_a_bin() -> None:
    # 0.2 as float32 is more than 0.2, and belongs below all the same
    rows = [row(float(np.float32(0.2)), 0.2, 0.1), row(0.11, 0.1, 0.07), row(0.15, 0.06, 0.05), row(0.3, 0.3, 0.3)]
    options: dict[str, Any] = {"settings": {"weights": "tiny"}, "rows_in": 9, "selected": 5, "rows_out": 5}
    report = report_of(rows, limits=(0.08, 0.5), **options)
    assert [one.crystals for one in report.bins] == [0, 3, 1, 0, 0]
    one = report.bins[1]
    assert one.mean_fall == pytest.approx((0.1 + 0.03 + 0.01) / 3)
    assert one.quartiles == pytest.approx((0.02, 0.03, 0.065))
    assert one.mae == pytest.approx((0.0 + 0.01 + 0.09) / 3)
    assert (one.stable_before, one.stable) == pytest.approx((1 / 3, 2 / 3))
    assert (one.displacement, one.volume_change) == pytest.approx((0.1, 0.07))
    assert one.same_space_group == pytest.approx(1 / 3)
    assert report.every.crystals == 4
    assert report.bins[0].mean_fall is None


def test_space_groups_are_kept_unless_they_may_break(run: Run, folder: Path) -> None:
    crystals = CRYSTALS[:6]
    write(folder / "symmetric.parquet", crystals, [0.3] * len(crystals))
    groups = [space_group(one)[0] for one in crystals]
    assert min(groups) > 200
    assert run("@/symmetric.parquet")[::2] == (0, "")
    kept = list(read_parquet("out.parquet"))
    assert [space_group(one, 1e-3)[0] for one in kept] == groups
    assert any(abs(one.volume / before.volume - 1) > 1e-3 for one, before in zip(kept, crystals, strict=True))
    assert run("@/symmetric.parquet", "--break-symmetry", out="broken.parquet")[0] == 0
    broken = [space_group(one, 1e-3)[0] for one in read_parquet("broken.parquet")]
    assert any(one < group for one, group in zip(broken, groups, strict=True))
    settings = [json.loads(Path(name).read_text())["settings"]["settings"] for name in ("out.json", "broken.json")]
    assert [one["keep_symmetry"] for one in settings] == [True, False]
