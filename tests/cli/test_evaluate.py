# Over 400 lines: one evaluation that was never stopped is what all tests here compare with.

"""``dao evaluate`` from end to end, on toy crystals with weights that were never trained.

What it reports is compared with pymatgen's own answers, pair by pair; a killed evaluation with one that was not.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from pymatgen.core.structure_matcher import StructureMatcher
from pymatgen.io.cif import CifWriter
from toys import DISORDERED, listing, tiny_generator, toy, toy_crystals, write_parquet

from dao.cli import main
from dao.crystal import Crystal
from dao.prediction.ranking import rank_by_recurrence

NONE = float("nan")
SIBLINGS = [toy("cscl", ("Na", "Cl"), 3.4, "mp-cscl"), toy("zincblende", ("Na", "Cl"), 6.1, "mp-zb")]
OTHERS = [*toy_crystals()[:11], toy("perovskite", ("Sr", "Ti", "O"), 3.9, "mp-perovskite")]
TRUE = [*OTHERS[:5], SIBLINGS[0], *OTHERS[5:], SIBLINGS[1]]
FORMULAS = [crystal.reduced_formula for crystal in TRUE]
EXACT = [i % 3 != 0 for i in range(len(TRUE))]
# the first two were found by a substitution, the others not
TRIED: dict[str, list[float | None]] = {one.name: [None, 0.2] if i < 2 else [None] for i, one in enumerate(TRUE)}


@dataclass
class Place:
    """Where things are, and the evaluation that was never stopped."""

    folder: Path
    out: Path
    printed: list[dict[str, Any]]

    def arguments(self, out: Path, *more: str) -> list[str]:
        """The same command for another folder; what comes later goes before what comes earlier."""
        given = ["--weights", self.folder / "weights", "--data", self.folder / "mp20.parquet", "--device", "cpu"]
        given += ["--prototypes", self.folder / "prototypes.json", "--batch-size", "4", "--quiet"]
        given += ["--rank", "recurrence", "--k", "1,2", "--seeds", "2"]
        return ["evaluate", "csp", *map(str, given), *more, "--out", str(out)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    tiny_generator().save(folder / "weights")
    tiny_generator(seed=1).save(folder / "other-weights")
    write_parquet(folder / "mp20.parquet", TRUE, split=["test"] * len(TRUE), exact=EXACT)
    (folder / "prototypes.json").write_text(json.dumps(TRIED))
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lines.append)
        found = Place(folder, folder / "out", [])
        assert main(found.arguments(found.out, "--format", "json")) == 0
    found.printed = json.loads("".join(lines))
    return found


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are not looked at, they would take most of the time."""
    monkeypatch.setattr("dao.evaluation.run.write_figures", lambda *_, **__: {})


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def answers(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:]


# pymatgen's answers, from the files of samples

Table = list[list[Crystal | None]]


def samples_of(out: Path, seed: int, count: int) -> Table:
    """The samples of each target: the first target of a composition has replica 0, the second 1, and so on."""
    known: dict[Any, Crystal | None] = {}
    for line in map(json.loads, answers(out / f"samples-{seed}.jsonl")):
        crystal = None
        if "failure" not in line:
            crystal = Crystal(line["atomic_numbers"], line["frac_coords"], line["lattice"])
        known[tuple(line["atomic_numbers"]), line.get("replica", 0), line["index"]] = crystal
    seen: Counter[tuple[int, ...]] = Counter()
    table = []
    for crystal in TRUE:
        numbers = tuple(sorted(crystal.atomic_numbers.tolist()))
        table.append([known[numbers, seen[numbers], index] for index in range(count)])
        seen[numbers] += 1
    return table


def distance(judge: StructureMatcher, sample: Crystal | None, target: Crystal) -> float:
    found = None if sample is None else judge.get_rms_dist(sample.to_structure(), target.to_structure())
    return NONE if found is None else float(found[0])


LOOSE, STRICT = StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10), StructureMatcher()


def distances(table: Table, judge: StructureMatcher = LOOSE) -> np.ndarray[Any, Any]:
    return np.array([[distance(judge, one, target) for one in row] for row, target in zip(table, TRUE, strict=True)])


def across(table: Table, k: int) -> np.ndarray[Any, Any]:
    """Smallest distance of each target to the first k samples of all targets of its formula."""
    best = []
    for target, formula in zip(TRUE, FORMULAS, strict=True):
        pool = [one for row, name in zip(table, FORMULAS, strict=True) if name == formula for one in row[:k]]
        best.append(np.fmin.reduce([distance(LOOSE, one, target) for one in pool]))
    return np.array(best)


def rate(best: np.ndarray[Any, Any]) -> float:
    return float(1 - np.isnan(best).mean())


def numbers(rows: Any) -> np.ndarray[Any, Any]:
    return np.array(rows, dtype=np.float64)


def check_against_pymatgen(out: Path, ks: Sequence[int]) -> None:
    """Everything that the folder reports of its first seed."""
    scores, results = read(out / "scores.json"), read(out / "results.json")
    table = samples_of(out, 0, max(ks))
    rms, strict = distances(table), distances(table, STRICT)
    assert scores["ids"] == [one.name for one in TRUE]
    np.testing.assert_allclose(numbers(scores["rms"]), rms, atol=1e-7)
    np.testing.assert_allclose(numbers(scores["strict"]), strict, atol=1e-7)
    members = {"all": np.ones(len(TRUE), bool), "exact": np.array(EXACT)}
    members["beyond prototypes"] = np.array([i >= 2 for i in range(len(TRUE))])
    valid = np.array(scores["sample_valid"]) & np.array(scores["target_valid"])[:, None]
    lines = {(row["subset"], row["k"]): row for row in results["rows"]}
    assert list(lines) == [(subset, k) for subset in members for k in ks]
    for k in ks:
        best, found = np.fmin.reduce(rms[:, :k], axis=1), across(table, k)
        allowed = np.fmin.reduce(np.where(valid, rms, NONE)[:, :k], axis=1)
        np.testing.assert_allclose(numbers(scores["everyone"][str(k)]), found, atol=1e-7)
        for subset, own in members.items():
            row = lines[subset, k]
            assert row["crystals"] == own.sum()
            assert row["unfiltered"]["value"] == pytest.approx(rate(best[own]))
            assert row["filtered"]["value"] == pytest.approx(rate(allowed[own]))
            assert row["strict"]["value"] == pytest.approx(rate(np.fmin.reduce(strict[own, :k], axis=1)))
            assert row["metre"]["value"] == pytest.approx(rate(found[own]))
            assert row["rmse"]["value"] == pytest.approx(np.nanmean(best[own]))
            assert row["crmse"]["value"] == pytest.approx(np.nan_to_num(best[own], nan=0.5).mean())
    first = [
        rank_by_recurrence(target.name, target.num_atoms, found, total=len(found), source="test")
        for target, row in zip(TRUE, table, strict=True)
        for found in [[(1, index, one) for index, one in enumerate(row) if one is not None]]
    ]
    ranked = [distance(LOOSE, one[0].crystal, target) for one, target in zip(first, TRUE, strict=True)]
    np.testing.assert_allclose(numbers(scores["ranked"]), ranked, atol=1e-7)
    assert results["ranked"][0]["unfiltered"]["value"] == pytest.approx(rate(np.array(ranked)))


def test_what_is_reported_is_what_pymatgen_says(place: Place) -> None:
    check_against_pymatgen(place.out, (1, 2))
    rms = numbers(read(place.out / "scores.json")["rms"])
    assert 0 < np.isnan(rms).sum() < rms.size, "untrained weights happen to match some: else this test shows little"


def test_seeds_are_averaged_at_the_first_try(place: Place) -> None:
    assert len(answers(place.out / "samples-0.jsonl")) == 2 * len(TRUE)
    assert len(answers(place.out / "samples-1.jsonl")) == len(TRUE)
    rates = [rate(distances(samples_of(place.out, seed, 1))[:, 0]) for seed in (0, 1)]
    rows = {row["subset"]: row for row in read(place.out / "results.json")["seeds"]}
    assert list(rows) == ["all", "exact", "beyond prototypes"]
    assert rows["all"]["unfiltered"]["mean"] == pytest.approx(np.mean(rates))
    assert rows["all"]["unfiltered"]["deviation"] == pytest.approx(np.std(rates, ddof=1))


def test_polymorphs_are_those_of_the_targets(place: Place) -> None:
    table = samples_of(place.out, 0, 2)
    best = across(table, 2)
    expected = {
        name: sum(not np.isnan(one) for one, own in zip(best, FORMULAS, strict=True) if own == name)
        for name, count in Counter(FORMULAS).items()
        if count > 1
    }
    listed = read(place.out / "results.json")["polymorphs"]["as listed"]
    assert {one["formula"]: one["hits"] for one in listed} == expected
    assert {one["samples"] for one in listed} == {2 * one["conformations"] for one in listed}
    assert "NaCl" in expected


def test_output_report_and_figures_say_the_same(place: Place) -> None:
    results, page = read(place.out / "results.json"), (place.out / "report.md").read_text()
    rows = [row for row in results["rows"] if row["subset"] == "all"]
    for row, printed in zip(rows, place.printed[:2], strict=True):
        assert (printed["subset"], printed["k"], printed["count"]) == ("all", str(row["k"]), len(TRUE))
        text = "{value:.1f} ({low:.1f}-{high:.1f})".format(**{k: 100 * v for k, v in row["unfiltered"].items()})
        assert printed["unfiltered"] == text
        assert text in page
    assert [one["k"] for one in place.printed] == ["1", "2"] * 3 + ["ranked"]
    assert "euler, 3 steps, a walk begun again at most 3 times, float32" in page
    assert "0, 1 (k above 1: 0 alone)" in page
    assert "Prototype substitution" in page
    figures = {path.name for path in (place.out / "figures").iterdir()}
    drawn = [line.split("](")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert drawn
    assert {f"figures/{name}" for name in figures} >= set(drawn)
    assert all((place.out / name).stat().st_size > 1000 for name in drawn)
    assert not (place.out / "failures.json").exists()
    assert not list(place.out.rglob("*.part"))
    # the file is called as the benchmark's is, and this is its test split: published figures stand beside
    assert "DiffCSP" in page


# going on


def test_the_same_command_again_does_nothing_twice(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.out, tmp_path / "out")
    (tmp_path / "out" / "failures.json").write_text("of an earlier file")
    assert main(place.arguments(tmp_path / "out")) == 0
    for path in place.out.glob("*.*"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
    assert not (tmp_path / "out" / "failures.json").exists()


# The real command, with small portions, and a stop where one file is written for the n-th time
SCRIPT = """
import sys, time
from dao.cli import main
from dao.evaluation import csp, ranked
from dao.jsonl import JsonLines
csp.MATCHES_AT_A_TIME, ranked.AT_A_TIME = 4, 3
name, left, *arguments = sys.argv[1:]
append, left = JsonLines.append, int(left)
def stopping(self, lines):
    global left
    left -= self.path.name == name
    if left < 0:
        print("stopped", flush=True)
        time.sleep(600)
    append(self, lines)
JsonLines.append = stopping
sys.exit(main(arguments))
"""


def stopped(file: Path, writes: int, arguments: list[str], number: int) -> int:
    """Start, let ``file`` be written so many times, send the signal; the exit code."""
    command = [sys.executable, "-c", SCRIPT, file.name, str(writes), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            process.send_signal(number)
            rest = process.communicate(timeout=60)
        finally:
            process.kill()
    # Ctrl-C has nothing to say
    assert (line, *rest) == ("stopped\n", "", "")
    return process.returncode


@pytest.mark.skipif("sys.platform == 'win32'")
def test_killed_while_sampling_matching_and_ranking(place: Place, tmp_path: Path) -> None:
    """Must be: nothing scored twice, nothing lost, and the same to the last byte as if never killed."""
    out = tmp_path / "out"
    before: dict[str, bytes] = {}
    for name, writes in (("samples-0.jsonl", 3), ("samples-1.jsonl", 1), ("matches-0.jsonl", 4), ("ranked-2.jsonl", 2)):
        portion = {"samples": 4, "matches": 4, "ranked-": 3}[name[:7]]
        assert stopped(out / name, writes, place.arguments(out), signal.SIGKILL) == -signal.SIGKILL
        assert len(answers(out / name)) == writes * portion < len(answers(place.out / name))
        assert not (out / "scores.json").exists()
        now = {path.name: path.read_bytes() for path in out.glob("*.jsonl")}
        assert all(now[known].startswith(content) for known, content in before.items())
        before = now
        # what a kill in the middle of writing leaves
        with (out / name).open("ab") as stream:
            stream.write((place.out / name).read_bytes().splitlines()[-1][:9])
    done = subprocess.run(
        [sys.executable, "-m", "dao", *place.arguments(out)], check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    for name, content in before.items():
        assert (out / name).read_bytes().startswith(content), name
    for path in place.out.glob("*.jsonl"):
        lines = (out / path.name).read_text().splitlines()
        assert len(lines) == len(set(lines)), path.name
        assert sorted(lines) == sorted(path.read_text().splitlines()), path.name
    for name in ("scores.json", "results.json", "report.md"):
        assert (out / name).read_bytes() == (place.out / name).read_bytes(), name


@pytest.mark.usefixtures("no_figures")
def test_a_kill_within_a_batch_costs_its_last_lines(place: Place, tmp_path: Path) -> None:
    """The rest of a batch is sampled in another batch: the same crystals to rounding."""
    out, raw = tmp_path / "out", (place.out / "samples-0.jsonl").read_bytes()
    out.mkdir()
    (out / "samples-0.jsonl").write_bytes(raw[: raw.index(b"\n", len(raw) // 2) + 9])
    kept = (out / "samples-0.jsonl").read_text().splitlines()[:-1]
    assert (len(kept) - 1) % 4 != 0
    assert main(place.arguments(out)) == 0
    assert (out / "samples-0.jsonl").read_text().splitlines()[: len(kept)] == kept
    found, expected = (read(folder / "scores.json") for folder in (out, place.out))
    np.testing.assert_allclose(numbers(found["rms"]), numbers(expected["rms"]), atol=1e-4)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.skipif("sys.platform == 'win32'")
def test_ctrl_c_is_130_and_keeps_what_is_done(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert stopped(out / "matches-0.jsonl", 2, place.arguments(out), signal.SIGINT) == 130
    assert len(answers(out / "matches-0.jsonl")) == 8
    assert main(place.arguments(out)) == 0
    lines = answers(out / "matches-0.jsonl")
    assert len(lines) == len(set(lines)) == len(answers(place.out / "matches-0.jsonl"))
    assert (out / "scores.json").read_bytes() == (place.out / "scores.json").read_bytes()


@pytest.mark.parametrize(
    ("more", "differing"),
    [
        (["--steps", "2"], "sampler"),
        (["--precision", "bfloat16"], "sampler"),
        (["--weights", "@/other-weights"], "weights"),
        (["--time-limit", "9"], "time limit"),
        (["--seed", "1"], "seed"),
        (["--seed", "7", "--no-ranked", "--k", "1"], "seed"),
        (["--count", "3"], "targets"),
        (["--count", "3", "--k", "1,2,5"], "targets"),
        (["--time-limit", "9", "--k", "1,2,5"], "time limit"),
        (["--max-atoms", "4"], "targets"),
    ],
)
def test_another_evaluation_does_not_enter_the_folder(
    place: Place, capsys: pytest.CaptureFixture[str], more: list[str], differing: str
) -> None:
    before = listing([place.folder])
    assert main(place.arguments(place.out, *(one.replace("@", str(place.folder)) for one in more))) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"made with another {differing}: choose another --out" in err
    assert listing([place.folder]) == before


def test_nor_do_predictions(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing([place.folder])
    arguments = ["--predictions", str(place.folder / "mp20.parquet"), "--data", str(place.folder / "mp20.parquet")]
    assert main(["evaluate", "csp", *arguments, "--out", str(place.out)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "choose another --out" in err
    assert listing([place.folder]) == before


@pytest.mark.usefixtures("no_figures")
def test_more_samples_and_seeds_go_on_with_what_is_there(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(place.out, out)
    assert main(place.arguments(out, "--k", "1,2,3", "--seeds", "3")) == 0
    for path in place.out.glob("*.jsonl"):
        assert (out / path.name).read_bytes().startswith(path.read_bytes()), path.name
    for name in ("samples-0.jsonl", "matches-0.jsonl"):
        lines = answers(out / name)
        assert len(lines) == len(set(lines)) == len(answers(place.out / name)) * 3 // 2
    check_against_pymatgen(out, (1, 2, 3))
    assert read(out / "results.json")["seeds"][0]["seeds"] == 3
    # and back: figures of fewer samples do not see the others
    assert main(place.arguments(out)) == 0
    for name in ("scores.json", "results.json"):
        assert (out / name).read_bytes() == (place.out / name).read_bytes(), name


@pytest.mark.usefixtures("no_figures")
def test_workers_change_nothing(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for path in place.out.glob("samples-*.jsonl"):
        shutil.copy(path, out)
    assert main(place.arguments(out, "--workers", "2")) == 0
    for name in ("scores.json", "results.json"):
        assert (out / name).read_bytes() == (place.out / name).read_bytes(), name


# another tool's output


def moved(crystal: Crystal, amount: float, seed: int) -> Crystal:
    shift = amount * np.random.default_rng(seed).uniform(-1, 1, (crystal.num_atoms, 3))
    return Crystal(crystal.atomic_numbers, crystal.frac_coords + shift, crystal.lattice, crystal.material_id)


PREDICTED: Table = [[moved(one, 0.02, i), moved(one, 0.3, i)] for i, one in enumerate(TRUE)]
BROKEN = (3, 0)
"""Which prediction cannot be read: the first of the fourth crystal."""


def write_extxyz(folder: Path, *, ids: bool) -> tuple[Path, str]:
    """By ASE, but for one frame whose element does not exist; and how its place is called."""
    path = folder / "generated.extxyz"
    frames = []
    for row, target in zip(PREDICTED, TRUE, strict=True):
        for one in row:
            assert one is not None
            atoms = one.to_structure().to_ase_atoms()
            atoms.info = {"material_id": target.name} if ids else {}
            atoms.calc = None
            frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    lines, frame, start = path.read_text().splitlines(), 0, 0
    while frame < BROKEN[0] * 2 + BROKEN[1]:
        frame, start = frame + 1, start + int(lines[start]) + 2
    lines[start + 2] = "Xx" + lines[start + 2][2:]
    path.write_text("\n".join(lines) + "\n")
    return path, f"{path}, frame {frame + 1}"


def write_zip(folder: Path, *, ids: bool) -> tuple[Path, str]:
    """By pymatgen, but for one member that shares a site between two elements."""
    path, broken = folder / "generated.zip", ""
    with zipfile.ZipFile(path, "w") as archive:
        for i, row in enumerate(PREDICTED):
            for j, one in enumerate(row):
                assert one is not None
                name = f"{TRUE[i].name}_{j}.cif" if ids else f"gen_{2 * i + j}.cif"
                archive.writestr(name, DISORDERED if (i, j) == BROKEN else str(CifWriter(one.to_structure())))
                broken = name if (i, j) == BROKEN else broken
    return path, broken


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("write", "key"), [(write_extxyz, "auto"), (write_extxyz, "order"), (write_zip, "id"), (write_zip, "order")]
)
def test_files_of_other_tools_are_scored_but_for_what_is_broken(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[..., tuple[Path, str]], key: str
) -> None:
    path, broken = write(tmp_path, ids=key != "order")
    out = tmp_path / "out"
    data = ["--reference", str(place.folder / "mp20.parquet"), "--predictions", str(path)]
    arguments = ["evaluate", "csp", *data, "--key", key, "--quiet", "--out", str(out), "--format", "json"]
    assert main(arguments) == 3
    printed, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith(f"1 predictions could not be used: see {out / 'failures.json'}")
    (failure,) = read(out / "failures.json")
    assert broken in failure["where"]
    assert failure["reason"]
    table = [[None if (i, j) == BROKEN else one for j, one in enumerate(row)] for i, row in enumerate(PREDICTED)]
    rms = distances(table)
    scores = read(out / "scores.json")
    # text keeps some digits
    np.testing.assert_allclose(numbers(scores["rms"]), rms, atol=1e-4)
    (row, *_) = read(out / "results.json")["rows"]
    assert row["unfiltered"]["value"] == pytest.approx(rate(rms[:, 0])) == 1 - 1 / len(TRUE)
    assert json.loads(printed)[0]["unfiltered"].startswith(f"{100 * rate(rms[:, 0]):.1f} (")
    assert [one["k"] for one in json.loads(printed)] == ["1", "1", "ranked"]
    assert "DiffCSP" in (out / "report.md").read_text()
    before = listing([out])
    assert main(arguments) == 3
    assert listing([out]) == before


@pytest.mark.usefixtures("no_figures")
def test_predictions_that_changed_are_another_evaluation(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = write_zip(tmp_path, ids=True)
    arguments = ["evaluate", "csp", "--data", str(place.folder / "mp20.parquet"), "--predictions", str(path)]
    arguments += ["--out", str(tmp_path / "out"), "--quiet", "--no-ranked"]
    assert main(arguments) == 3
    before = listing([tmp_path / "out"])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{TRUE[0].name}_2.cif", str(CifWriter(TRUE[0].to_structure())))
    capsys.readouterr()
    assert main(arguments) == 2
    assert "holds results made with another content" in capsys.readouterr().err
    assert listing([tmp_path / "out"]) == before


@pytest.mark.usefixtures("no_figures")
def test_polymorphs_alone(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "--weights",
        str(place.folder / "weights"),
        "--data",
        str(place.folder / "mp20.parquet"),
        "--device",
        "cpu",
    ]
    assert main(["evaluate", "polymorphs", *given, "--samples", "3", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert "RMSE" in capsys.readouterr().out
    scores = read(tmp_path / "out" / "scores.json")
    repeated = [one.name for one, name in zip(TRUE, FORMULAS, strict=True) if FORMULAS.count(name) > 1]
    assert scores["ids"] == repeated
    listed = read(tmp_path / "out" / "results.json")["polymorphs"]["as listed"]
    assert [one["formula"] for one in listed] == sorted({name for name in FORMULAS if FORMULAS.count(name) > 1})
    write_parquet(tmp_path / "single.parquet", OTHERS[:2], split=["test"] * 2)
    given[3] = str(tmp_path / "single.parquet")
    assert main(["evaluate", "polymorphs", *given, "--out", str(tmp_path / "none")]) == 2
    assert "no composition has more than one crystal" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
