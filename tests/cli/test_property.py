from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import ase.io
import pytest
from toys import DISORDERED, tiny_generator, tiny_predictor, toy_crystals, write_parquet

from dao.cli import main
from dao.evaluation.properties import published_properties
from dao.property_model import PropertyPredictor

CRYSTALS = toy_crystals()
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("property")
    tiny_predictor().save(made / "weights")
    tiny_generator().save(made / "generator")
    write_parquet(made / "toys.parquet", CRYSTALS, vpa=[crystal.volume_per_atom for crystal in CRYSTALS])
    ase.io.write(made / "some.extxyz", [crystal.to_atoms() for crystal in CRYSTALS[:3]])
    (made / "bad.cif").write_text(DISORDERED)
    finetune = ["finetune", "property", "--data", str(made / "toys.parquet"), "--target", "vpa", "--unit", "A^3"]
    finetune += ["--weights", str(made / "weights"), "--epochs", "1", "--device", "cpu", "--quiet"]
    assert main([*finetune, "--members", "2", "--out", str(made / "run")]) == 0
    assert main([*finetune, "--from-scratch", "--out", str(made / "scratch")]) == 0
    return made


def test_an_ensemble_predicts_with_spread(folder: Path, run: Run) -> None:
    arguments = ("property", str(folder / "some.extxyz"), "--device", "cpu", "--quiet", "--format", "json")
    code, out, err = run(*arguments, "--weights", str(folder / "run"))
    assert (code, err) == (0, "")
    records = json.loads(out)
    members = [
        json.loads(run(*arguments, "--weights", str(folder / f"run/fold-0/seed-{seed}/best"))[1]) for seed in (0, 1)
    ]
    for record, *single in zip(records, *members, strict=True):
        values = [one["value"] for one in single]
        assert record["value"] == pytest.approx(sum(values) / 2, rel=1e-4)
        assert record["spread"] == pytest.approx(abs(values[0] - values[1]) / 2, rel=2e-2)
        assert [one["spread"] for one in single] == [None, None]
        assert (record["property"], record["unit"]) == ("vpa", "A^3")
    both = json.loads(run(*arguments, "--weights", str(folder / "run"), "--weights", str(folder / "scratch"))[1])
    assert both[:3] == records
    assert len(both) == 6


def test_unfinished_trainings_are_no_members(folder: Path, run: Run, tmp_path: Path) -> None:
    copied = shutil.copytree(folder / "run", tmp_path / "copied")
    (copied / "fold-0" / "seed-1" / "test.csv").unlink()
    arguments = ("property", str(folder / "some.extxyz"), "--device", "cpu", "--quiet", "--format", "json")
    assert [one["spread"] for one in json.loads(run(*arguments, "--weights", str(copied))[1])] == [None] * 3


def test_predictions_do_not_depend_on_the_cell(folder: Path, run: Run, tmp_path: Path) -> None:
    structure = CRYSTALS[0].to_structure()
    structure.to(str(tmp_path / "one.cif"))
    (structure * (2, 1, 1)).to(str(tmp_path / "two.cif"))
    arguments = ("--weights", str(folder / "run"), "--device", "cpu", "--quiet", "--format", "json")
    one, two = (json.loads(run("property", str(tmp_path / f"{name}.cif"), *arguments)[1])[0] for name in ("one", "two"))
    assert one["value"] == pytest.approx(two["value"], rel=1e-3)


def test_the_table_and_files_that_cannot_be_read(folder: Path, run: Run, tmp_path: Path) -> None:
    files = (str(folder / "some.extxyz"), str(folder / "bad.cif"))
    code, out, err = run("property", *files, "--weights", str(folder / "run"), "--out", "said", "--device", "cpu", "-q")
    assert code == 3
    assert out.splitlines()[0].split() == [
        "file", "structure", "formula", "atoms", "property", "value", "spread", "unit", "doubts"
    ]  # fmt: skip
    assert len(out.splitlines()) == 5
    assert "disordered" in err
    assert {path.name for path in (tmp_path / "said").iterdir()} == {
        "properties.csv", "properties.json", "failures.json"
    }  # fmt: skip
    assert len((tmp_path / "said" / "properties.csv").read_text().splitlines()) == 4


def test_finetuning_prints_its_errors_and_refuses_to_mix(folder: Path, run: Run) -> None:
    arguments = ["finetune", "property", "--data", str(folder / "toys.parquet"), "--target", "vpa", "--unit", "A^3"]
    arguments += ["--weights", str(folder / "weights"), "--device", "cpu", "--quiet"]
    again = [*arguments, "--epochs", "1", "--members", "2", "--out", str(folder / "run")]
    code, out, err = run(*again)
    assert (code, err) == (0, "")
    assert "MAE (A^3)" in out.splitlines()[0]
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["0", "mean"]
    code, out, err = run(*arguments, "--epochs", "2", "--members", "2", "--out", str(folder / "run"))
    assert code == 2
    assert "holds another run (epochs is 1 there and 2 here)" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("finetune", "property", "--data", "nonsense"), "neither a file or folder nor one of matbench_phonons"),
        (("finetune", "property", "--data", "@/toys.parquet"), "say by --target which column"),
        (("finetune", "property", "--data", "@/toys.parquet", "--target", "x"), "lacks column 'x'"),
        (("finetune", "property", "--data", "@/toys.parquet", "--target", "vpa", "--weights", "no"), "weights 'no'"),
        (
            ("finetune", "property", "--data", "@/toys.parquet", "--target", "vpa", "--weights", "@/generator"),
            "space_groups",
        ),
        (("property", "@/some.extxyz"), "missing option '--weights'"),
        (("property", "@/some.extxyz", "--weights", "predictor"), "holds a predictor, and a property is needed"),
        (("property", "@/none.cif", "--weights", "@/run"), "no such file"),
        (("evaluate", "properties", "@/weights"), "holds no run of dao finetune property"),
    ],
)
def test_bad_input(folder: Path, run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*(argument.replace("@", str(folder)) for argument in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_tables_put_ours_beside_the_mean(folder: Path, run: Run, tmp_path: Path) -> None:
    runs = (str(folder / "run"), str(folder / "scratch"))
    code, out, err = run("evaluate", "properties", *runs, "--out", "tables")
    assert (code, err) == (0, "")
    assert "50 crystals; train / validation / test 40 / 5 / 5, 1 of 1 folds" in out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert {row[0] for row in rows[2:]} == {
        "ours pretrained, mean of 2", "ours from scratch", "mean of the training labels"
    }  # fmt: skip
    assert (tmp_path / "tables" / "properties.md").read_text() == out
    said = {one["run"]: one["mae"] for one in json.loads((tmp_path / "tables" / "properties.json").read_text())}
    assert said.keys() == {"run", "scratch"}


def test_published_rows() -> None:
    phonons = published_properties("matbench_phonons")
    assert phonons[0].mae < 30 < phonons[-1].mae
    dao = {name: [row.mae for row in published_properties(name) if row.method == "DAO-P"] for name in PAPER}
    assert dao == PAPER


PAPER = {
    "matbench_jdft2d": [34.280],
    "matbench_dielectric": [0.283],
    "matbench_log_kvrh": [0.061],
    "jarvis_mbj_gap": [0.273],
    "jarvis_ehull": [0.046],
    "mp_shear": [0.064],
    "mp_bulk": [0.040],
    "mp_gap": [0.275],
}
"""Table 4 of the paper."""


def test_a_run_on_the_command_line_loads_anywhere(folder: Path) -> None:
    model = PropertyPredictor.load(folder / "run/fold-0/seed-1/best")
    assert model.config.training["seed"] == 1
    assert model.config.trust.max_atoms == 5
