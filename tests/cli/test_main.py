from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import dao
from dao import weights
from dao.errors import InputError
from dao.prediction.composition import parse_formula
from dao.prediction.judging import Judging
from dao.prediction.sources import choose_sources

Run = Callable[..., tuple[int, str, str]]


@dataclass
class FakePipeline:
    """Stands in for dao.prediction.folders: remembers the call, finds one candidate a formula."""

    calls: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    error: BaseException | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    discarded: int = 0
    earlier: int = 0
    other_versions: dict[str, int] = field(default_factory=dict)

    def predict_to_folder(
        self,
        targets: Any,
        on_start: Callable[[], None],
        on_records: Callable[[list[dict[str, Any]]], None] | None,
        **settings: Any,
    ) -> FakePipeline:
        self.calls.append((targets, settings))
        if self.error:
            raise self.error
        on_start()
        for composition in targets:
            record = {"rank": 1, "formula": str(composition), "space_group": "Pm-3m", "volume_per_atom": 11.955}
            self.records.append(record)
            if on_records is not None:
                on_records([record])
        return self


@pytest.fixture
def shelf(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the weights that ship: ``nano`` and ``small``."""
    shelf = tmp_path_factory.mktemp("weights")
    for name, parameters in (("nano", 2_900_000), ("small", 8_000_000)):
        (shelf / name).mkdir()
        config = {"model": "generator", "name": name, "format_version": 1, "parameters": parameters}
        config |= {"training": {"hours": 2.5}}
        (shelf / name / "config.json").write_text(json.dumps(config))
        (shelf / name / "model.safetensors").write_bytes(b"\0" * 1_500_000)
    (shelf / "nano" / "README.md").write_text("# nano\nTrained on MP-20.\n")
    monkeypatch.setattr(weights, "_SHELF", shelf)
    monkeypatch.setattr(weights, "DEFAULT", "nano")
    return shelf


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, shelf: Path) -> FakePipeline:
    assert shelf.is_dir()
    fake, module = FakePipeline(), ModuleType("dao.prediction.folders")
    module.predict_to_folder = fake.predict_to_folder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dao.prediction.folders", module)
    return fake


@pytest.mark.parametrize(
    "verb",
    [
        (),
        ("doctor",),
        ("predict",),
        ("prototypes", "build"),
        ("prototypes", "list"),
        ("train",),
        ("weights",),
        ("weights", "list"),
        ("weights", "info"),
    ],
)
def test_help_has_an_example(run: Run, verb: tuple[str, ...]) -> None:
    code, out, err = run(*verb, "--help")
    assert (code, err) == (0, "")
    assert "Example" in out
    assert f"  dao {' '.join(verb)}".rstrip() in out


def test_no_arguments_show_help(run: Run) -> None:
    code, out, _ = run()
    assert code == 0
    assert out.startswith("Usage: dao")


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"{dao.__version__}\n", "")


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["predict"], "no formula given: try dao predict SrTiO3"),
        (["predict", ""], "empty formula"),
        (["predict", "XxO2"], "formula 'XxO2': unknown element 'Xx'"),
        (["predict", "Li0"], "count of Li is zero"),
        (["predict", "C1000000000"], "1e+09 atoms, more than the limit of 512"),
        (["predict", "NaCl", "--samples", "-3"], "'--samples'"),
        (["predict", "NaCl", "--samples", "many"], "'--samples'"),
        (["predict", "NaCl", "--steps", "0"], "'--steps'"),
        (["predict", "NaCl", "--batch-size", "0"], "'--batch-size'"),
        (["predict", "NaCl", "--seed", "-1"], "'--seed'"),
        (["predict", "NaCl", "--cells", "0"], "cells '0'"),
        (["predict", "NaCl", "--cells", "4", "--max-atoms", "6"], "8 atoms, more than the limit of 6"),
        (["predict", "NaCl", "--device", "gpu"], "--device 'gpu': use auto, cpu, cuda or cuda:N"),
        (["predict", "NaCl", "--format", "xml"], "--format 'xml': use table or json, or files to write: cif,poscar,"),
        (["predict", "NaCl", "--format", ""], "--format '': use table or json"),
        (["predict", "NaCl", "--format", "table,json"], "--format 'table,json': use table or json"),
        (["predict", "NaCl", "--write", "cif,xml"], "--write 'cif,xml': use cif,poscar,extxyz,json,csv"),
        (["predict", "NaCl", "--write", "cif", "--format", "poscar"], "give one of the two"),
        (["predict", "NaCl", "--quiet", "--verbose"], "contradict each other"),
        (["predict", "NaCl", "--weights", "huge"], "neither shipped (nano, small) nor a folder"),
        (["predict", "NaCl", "--weights", "."], "the folder holds no config.json"),
        (["predict", "NaCl", "--out", f"{__file__}/results"], "is not a folder"),
        (["predict", "--file", "missing.txt"], "missing.txt: No such file or directory"),
        (["predict", "NaCl", "--nope"], "no such option: --nope (see dao predict --help)"),
        (["predic", "NaCl"], "no such command 'predic'. Did you mean 'predict'? (see dao --help)"),
        (["weights"], "missing command (see dao weights --help)"),
        (["weights", "info"], "missing argument 'NAME|FOLDER' (see dao weights info --help)"),
        (["weights", "info", "huge"], "neither shipped (nano, small) nor a folder"),
        (["weights", "info", "someone/something"], "not the Hub"),
        (["train"], "missing argument 'RECIPE' (see dao train --help)"),
        (["train", "mp20-flow-nano", "--set", "epochs"], "--set 'epochs': write key=value"),
        (["train", "mp20-flow-nano", "--set", "a=1", "--set", "a=2"], "--set 'a=2': a is set twice"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_writes_nothing(
    run: Run, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("dao: error: ")
    assert complaint in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("sys.platform == 'win32'")
def test_folder_without_permission(run: Run, monkeypatch: pytest.MonkeyPatch, shelf: Path) -> None:
    # the tests may run as root, whom no permission stops
    monkeypatch.setattr("dao.cli.options.os.access", lambda *_: False)
    code, _, err = run("predict", "NaCl", "--out", "results", "--weights", str(shelf / "nano"))
    assert code == 2
    assert "no permission to write in" in err


def test_predict_passes_everything_on(run: Run, pipeline: FakePipeline, shelf: Path) -> None:
    options = ["--samples", "7", "--cells", "2,1", "--steps", "9", "--walks", "4", "--seed", "5"]
    more = ["--weights", "small", "--device", "cpu", "--batch-size", "3", "--out", "results", "--quiet"]
    code, out, err = run("predict", "SrTiO3", "Na2Cl2", "NaCl", *options, *more)
    assert (code, err) == (0, "")
    (targets, settings), *others = pipeline.calls
    assert others == []
    assert targets == {parse_formula("SrTiO3"): (2, 1), parse_formula("NaCl"): (2, 1)}
    assert settings == {
        "out": Path("results"),
        "on_result": None,
        "weights": shelf / "small",
        "samples": 7,
        "steps": 9,
        "walks": 4,
        "seed": 5,
        "device": "cpu",
        "batch_size": 3,
        "judging": Judging(generator=shelf / "small"),
        "sources": choose_sources(None),
        "prototype_units": {parse_formula("SrTiO3"): (2, 1), parse_formula("NaCl"): (2, 1)},
        "refine_prototypes": None,
        "relaxing": None,
        "formats": ("cif", "extxyz", "json", "csv"),
        "further": "",
        "progress": False,
    }
    tables = out.split("\n\n")
    assert [table.splitlines()[0].split()[0] for table in tables] == ["rank", "rank"]
    assert [table.splitlines()[2].split() for table in tables] == [
        ["1", formula, "Pm-3m", "-", "-", "11.96", "-", "-"] for formula in ("SrTiO3", "NaCl")
    ]


def test_predict_reads_a_file_and_prints_json(run: Run, pipeline: FakePipeline, tmp_path: Path, shelf: Path) -> None:
    (tmp_path / "formulas.txt").write_text("GaAs\n# comment\nMgO\n")
    code, out, err = run("predict", "--file", "formulas.txt", "--format", "json")
    assert code == 0
    assert [record["formula"] for record in json.loads(out)] == ["GaAs", "MgO"]
    assert "GaAs: formula units a cell: 1 (2 atoms), 2 (4 atoms), 3 (6 atoms), 4 (8 atoms)" in err
    _, settings = pipeline.calls[0]
    assert settings["weights"] == shelf / "nano"
    assert settings["steps"] is None


def test_hub_ids_are_passed_on(run: Run, pipeline: FakePipeline) -> None:
    assert run("predict", "NaCl", "--quiet", "--weights", "someone/dao-small")[0] == 0
    assert pipeline.calls[0][1]["weights"] == "someone/dao-small"


def test_partly_done_is_3(run: Run, pipeline: FakePipeline) -> None:
    pipeline.failures = ["NaCl"]
    code, _, err = run("predict", "NaCl", "--quiet")
    assert code == 3
    assert err == f"1 formula got no candidate: see {Path('predictions') / 'failures.json'}\n"


def test_discarded_samples_are_counted(run: Run, pipeline: FakePipeline) -> None:
    pipeline.discarded = 3
    assert "\n3 samples were no crystals and are left out (samples.jsonl says why)\n" in run("predict", "NaCl")[2]
    assert run("predict", "NaCl", "--quiet")[2] == ""


def test_another_version_is_a_note(run: Run, pipeline: FakePipeline) -> None:
    pipeline.other_versions = {"0.0.1": 1}
    code, _, err = run("predict", "NaCl")
    assert code == 0
    assert f"\n1 of 1 formula had been finished by DAO 0.0.1, not {dao.__version__}: what fits" in err
    assert run("predict", "NaCl", "--quiet")[2] == ""


def test_an_error_of_the_pipeline_is_the_only_line(run: Run, pipeline: FakePipeline) -> None:
    pipeline.error = InputError("weights are truncated")
    assert run("predict", "NaCl") == (2, "", "dao: error: weights are truncated\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("weights 'x':\n truncated"), 2, "dao: error: weights 'x': truncated\n"),
        (ZeroDivisionError("a\nb"), 1, "dao: error: internal: ZeroDivisionError: a b (set DAO_TRACEBACK=1"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_goes_wrong_inside(run: Run, pipeline: FakePipeline, error: BaseException, code: int, line: str) -> None:
    pipeline.error = error
    found, out, err = run("predict", "NaCl", "--quiet")
    assert (found, out) == (code, "")
    assert err.startswith(line)
    assert err.count("\n") == (1 if line else 0)


def test_an_interrupted_run_says_how_to_go_on(run: Run, pipeline: FakePipeline) -> None:
    pipeline.error = KeyboardInterrupt()
    said = "interrupted: what is finished is in predictions, and the same command goes on from there\n"
    assert run("predict", "NaCl") == (130, "", said)


@pytest.mark.skipif("sys.platform == 'win32'")
@pytest.mark.parametrize("arguments", [["weights", "info", "small"], ["weights", "list"]])
def test_whoever_reads_may_stop(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "dao", *arguments]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_traceback_on_request(run: Run, pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAO_TRACEBACK", "1")
    pipeline.error = ZeroDivisionError("oops")
    code, _, err = run("predict", "NaCl", "--quiet")
    assert code == 1
    assert "Traceback (most recent call last)" in err


@pytest.mark.parametrize(
    ("options", "printed", "files"),
    [
        ((), "table", ("cif", "extxyz", "json", "csv")),
        (("--format", "json"), "json", ("cif", "extxyz", "json", "csv")),
        (("--format", "JSON", "--write", "cif"), "json", ("cif",)),
        (("--write", "poscar, cif"), "table", ("cif", "poscar")),
        (("--format", "cif,poscar,extxyz,json"), "table", ("cif", "poscar", "extxyz", "json")),
        (("--format", "poscar"), "table", ("poscar",)),
    ],
)
def test_what_is_printed_and_written(
    run: Run, pipeline: FakePipeline, options: tuple[str, ...], printed: str, files: tuple[str, ...]
) -> None:
    code, out, _ = run("predict", "NaCl", *options)
    assert code == 0
    assert out.startswith("[" if printed == "json" else "rank")
    assert pipeline.calls[0][1]["formats"] == files


def test_times_are_said_and_written(run: Run, pipeline: FakePipeline, tmp_path: Path) -> None:
    _, _, err = run("predict", "NaCl")
    assert re.fullmatch(r"[0-9.]+ s: .*", err.splitlines()[-1])
    said = json.loads((tmp_path / "predictions" / "run.json").read_text())
    assert said["formulas"] == said["candidates"] == len(pipeline.calls) == 1
    assert said["seconds_total"] >= said["seconds"]["start-up"] >= 0.0
    assert said["versions"]["dao"] == dao.__version__
    _, out, err = run("predict", "NaCl", "--verbose")
    assert re.search(r"^versions: dao .*, torch ", err)
    assert re.search(r"^start-up +[0-9.]+ s +[0-9.]+%$", err, re.MULTILINE)
    assert "start-up" not in out
    assert run("predict", "NaCl", "--quiet")[2] == ""


@pytest.mark.usefixtures("pipeline")
def test_many_formulas_are_counted_not_listed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "formulas.txt").write_text("NaCl\nMgO\nGaAs\nSi\nGe\nSrTiO3\n")
    assert run("predict", "--file", "formulas.txt")[2].startswith("6 formulas, in cells of 1 to 20 atoms\n")


@pytest.mark.usefixtures("shelf")
def test_weights_list(run: Run) -> None:
    code, out, err = run("weights", "list")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[:4] for row in rows] == [
        ["nano", "generator", "2900000", "1.50"],
        ["small", "generator", "8000000", "1.50"],
    ]
    code, out, _ = run("weights", "list", "--format", "json")
    assert [(row["name"], row["default"]) for row in json.loads(out)] == [("nano", True), ("small", False)]


def test_weights_info(run: Run, shelf: Path) -> None:
    code, out, err = run("weights", "info", "nano")
    assert (code, err) == (0, "")
    assert "training.hours: 2.5" in out
    assert out.endswith("# nano\nTrained on MP-20.\n")
    code, out, _ = run("weights", "info", str(shelf / "small"), "--format", "json")
    assert json.loads(out)["config"]["parameters"] == 8_000_000
    assert json.loads(out)["card"] == ""


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"a": 1'])
def test_damaged_weights_config(run: Run, shelf: Path, content: bytes) -> None:
    (shelf / "nano" / "config.json").write_bytes(content)
    code, out, err = run("weights", "info", "nano")
    assert (code, out) == (2, "")
    assert "config.json: not " in err


def test_train_passes_everything_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    recipes, fit = ModuleType("dao.recipes"), ModuleType("dao.training.fit")
    chosen = SimpleNamespace(task="generator")

    def load(name: str, overrides: dict[str, str]) -> SimpleNamespace:
        chosen.asked = (name, overrides)
        return chosen

    recipes.load = load  # type: ignore[attr-defined]
    fit.train = lambda recipe, **settings: calls.append((recipe, settings))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dao.recipes", recipes)
    monkeypatch.setitem(sys.modules, "dao.training.fit", fit)
    data = tmp_path / "data.parquet"
    data.touch()
    settings = ["--set", "batch_size = 5", "--set", "network.width=256", "--seed", "3"]
    code, _, err = run("train", "recipes/own.toml", *settings, "--resume", "--data", str(data), "--quiet")
    assert (code, err) == (0, "")
    quiet = {"progress": False, "note": None}
    expected = {"out": Path("runs/own"), "data": data, "device": "auto", "resume": True, **quiet}
    assert chosen.asked == ("recipes/own.toml", {"batch_size": "5", "network.width": "256", "seed": "3"})
    assert calls == [(chosen, expected)]
    assert run("train", "own", "--data", "nowhere.parquet")[0] == 2
    assert run("train", "own", "--device", "tpu")[0] == 2
    assert len(calls) == 1
