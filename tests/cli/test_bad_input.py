"""Bad input: one line on standard error, exit code 2, nothing written; by the real command line on real files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from toys import DISORDERED, listing, tiny_generator, tiny_recipe, toy_crystals, write_parquet, write_toml

from dao.cli import main
from dao.recipes.schema import Recipe
from dao.training.fit import train


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sound things, and with broken ones of every kind."""
    folder = tmp_path_factory.mktemp("materials")
    crystals = toy_crystals()
    write_parquet(folder / "toys.parquet", crystals)
    tiny = write_toml(folder / "tiny.toml", tiny_recipe(crystals=16))
    tiny_generator().save(folder / "weights")

    (folder / "torn.parquet").write_bytes((folder / "toys.parquet").read_bytes()[:-100])
    (folder / "cifs").mkdir()
    crystals[0].to_structure().to(str(folder / "cifs" / "good.cif"))
    (folder / "cifs" / "bad.cif").write_text(DISORDERED)
    for name, file in (("torn-weights", "model.safetensors"), ("torn-config", "config.json")):
        shutil.copytree(folder / "weights", folder / name)
        raw = (folder / name / file).read_bytes()
        (folder / name / file).write_bytes(raw[: len(raw) // 2])
    tiny_generator(space_groups=False).save(folder / "mixed")
    shutil.copy(folder / "weights" / "config.json", folder / "mixed" / "config.json")

    recipe = Recipe.model_validate(tiny_recipe(crystals=16))
    train(recipe, out=folder / "run", data=folder / "toys.parquet", device="cpu", progress=False)
    shutil.rmtree(folder / "run" / "last")
    (checkpoint,) = (folder / "run").glob("checkpoint-*")
    raw = (checkpoint / "tensors.safetensors").read_bytes()
    (checkpoint / "tensors.safetensors").write_bytes(raw[: len(raw) // 2])

    (folder / "cifs" / "none").mkdir()
    (folder / "hello.json").write_text("hello")
    (folder / "nan.json").write_text('{"a": [NaN]}')
    (folder / "prototypes.json").write_text("{}")
    (folder / "junk.zip").write_bytes(b"junk")
    (folder / "tensors.pt").touch()

    (folder / "formulas.txt").write_text("NaCl\n# fine so far\nNaCl2x\n")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "empty.txt").touch()
    (folder / "bad.toml").write_text("name = ")
    (folder / "file").touch()
    assert tiny.is_file()
    return folder


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(materials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in an empty folder; ``@`` stands for the folder of materials."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main([argument.replace("@", str(materials)) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


PREDICT = ["predict", "NaCl", "--weights", "@/weights"]
TRAIN = ["train", "@/tiny.toml", "--data", "@/toys.parquet", "--device", "cpu"]

CSP = ["evaluate", "csp", "--data", "@/toys.parquet", "--device", "cpu"]
GENERATED = [*CSP, "--weights", "@/weights", "--k", "1"]
GIVEN = [*CSP, "--predictions", "@/toys.parquet"]

BAD: list[tuple[list[str], str]] = [
    # the ten
    (["predict", "XxO2", "--weights", "@/weights"], "unknown element 'Xx'"),
    (["predict", "Na0Cl", "--weights", "@/weights"], "count of Na is zero"),
    (["predict", "C1000000000", "--weights", "@/weights"], "1e+09 atoms, more than the limit of 512"),
    (["predict", "", "--weights", "@/weights"], "empty formula"),
    (["train", "@/tiny.toml", "--data", "@/cifs", "--device", "cpu"], "bad.cif"),
    ([*TRAIN[:2], "--data", "@/nowhere.parquet"], "no such file"),
    (["predict", "--file", "@/nowhere.txt", "--weights", "@/weights"], "No such file"),
    ([*TRAIN, "--out", "@/run"], "checkpoint-000000001: not readable"),
    (["predict", "NaCl", "--weights", "@/torn-weights"], "model.safetensors: not readable"),
    ([*TRAIN, "--set", "network.widht=3"], "unknown key 'network.widht'"),
    ([*PREDICT, "--samples", "-3"], "'--samples'"),
    ([*PREDICT, "--out", "@/file"], "is not a folder"),
    ([*TRAIN, "--out", "@/file/run"], "is not a folder"),
    # formulas
    (["predict", "--weights", "@/weights"], "no formula given"),
    (["predict", "NaCl", "Q", "--weights", "@/weights"], "unknown element 'Q'"),
    (["predict", "Na-1Cl", "--weights", "@/weights"], "unexpected '-'"),
    (["predict", "Am", "--weights", "@/weights"], "element 'Am' is not supported"),
    (["predict", "--file", "@/formulas.txt", "--weights", "@/weights"], "formulas.txt line 3"),
    (["predict", "--file", "@/binary.txt", "--weights", "@/weights"], "not a UTF-8 text file"),
    (["predict", "--file", "@/empty.txt", "--weights", "@/weights"], "holds no formula"),
    (["predict", "--file", "@", "--weights", "@/weights"], "Is a directory"),
    # numbers
    ([*PREDICT, "--samples", "0"], "'--samples'"),
    ([*PREDICT, "--cells", "0"], "cells '0'"),
    ([*PREDICT, "--cells", "1,,2"], "cells '1,,2'"),
    ([*PREDICT, "--cells", "300"], "600 atoms, more than the limit of 512"),
    ([*PREDICT, "--cells", "auto", "--max-atoms", "1"], "has 2 atoms, more than the limit of 1"),
    ([*PREDICT, "--steps", "0"], "'--steps'"),
    ([*PREDICT, "--seed", "-1"], "'--seed'"),
    ([*PREDICT, "--batch-size", "0"], "'--batch-size'"),
    # weights and devices
    (["predict", "NaCl", "--weights", "huge"], "neither shipped"),
    (["predict", "NaCl", "--weights", "@/torn-config"], "config.json"),
    (["predict", "NaCl", "--weights", "@/cifs"], "holds no config.json"),
    (["predict", "NaCl", "--weights", "@/mixed"], "tensors do not fit config.json"),
    ([*PREDICT, "--device", "gpu"], "--device 'gpu'"),
    ([*PREDICT, "--device", "cuda:99"], "torch finds"),
    ([*TRAIN[:4], "--device", "cuda:99"], "torch finds"),
    (["weights", "info", "@/torn-config"], "config.json: not JSON"),
    # recipes and data
    (["train", "nothing"], "no recipe 'nothing'"),
    (["train", "@/bad.toml"], "not TOML"),
    (["train", "@/nowhere.toml"], "No such file"),
    ([*TRAIN, "--set", "batch_size"], "write key=value"),
    ([*TRAIN, "--set", "batch_size=0"], "batch_size"),
    ([*TRAIN, "--set", "batch_size=many"], "batch_size"),
    ([*TRAIN, "--set", "optimizer=3"], "optimizer"),
    ([*TRAIN, "--set", "batch_size.x=3"], "batch_size"),
    ([*TRAIN, "--set", "network.heads=3"], "not a multiple"),
    ([*TRAIN, "--set", "sampler.method=predictor-corrector"], "predictor-corrector"),
    (["train", "@/tiny.toml", "--data", "@/torn.parquet", "--device", "cpu"], "as Parquet"),
    (["train", "@/tiny.toml", "--data", "@/formulas.txt", "--device", "cpu"], "unknown kind"),
    ([*TRAIN, "--set", "data.train_split=training"], "no rows of split 'training'"),
    ([*TRAIN, "--set", "validation.crystals=3", "--set", "data.validation_split=v"], "nothing to validate on"),
    ([*TRAIN, "--out", "@/run", "--set", "seed=5"], "seed is 0 there and 5 here"),
    ([*TRAIN, "--out", "@/run", "--resume", "--set", "network.blocks=3"], "network.blocks is 2 there and 3 here"),
    # evaluation: the true crystals
    (["evaluate", "csp", "--data", "nothing"], "neither a file or folder nor"),
    (["evaluate", "csp", "--data", "x" * 300], "neither a file or folder nor"),
    (["evaluate", "csp", "--data", "@/torn.parquet"], "as Parquet"),
    (["evaluate", "csp", "--data", "@/cifs/none"], "no *.cif"),
    (["evaluate", "csp", "--data", "@/cifs"], "bad.cif"),
    (["evaluate", "csp", "--data", "@/formulas.txt"], "unknown kind"),
    ([*GENERATED, "--split", "tset"], "no rows of split 'tset'"),
    ([*GENERATED, "--max-atoms", "1"], "at most 1 atoms"),
    ([*GENERATED, "--count", "0"], "'--count'"),
    (["evaluate", "polymorphs", "--data", "nothing"], "neither a file or folder nor"),
    # settings
    ([*GENERATED, "--k", ""], "--k '': write rising whole numbers"),
    ([*GENERATED, "--k", "0,1"], "--k '0,1'"),
    ([*GENERATED, "--k", "5,1"], "--k '5,1'"),
    ([*GENERATED, "--k", "1,1"], "--k '1,1'"),
    ([*GENERATED, "--k", "1,,5"], "--k '1,,5'"),
    ([*GENERATED, "--k", "1.5"], "--k '1.5'"),
    ([*GENERATED, "--k", "1001"], "--k '1001'"),
    ([*GENERATED, "--seeds", "0"], "'--seeds'"),
    ([*GENERATED, "--steps", "0"], "'--steps'"),
    ([*GENERATED, "--workers", "0"], "'--workers'"),
    ([*GENERATED, "--time-limit", "0"], "'--time-limit'"),
    ([*GENERATED, "--time-limit", "nan"], "'--time-limit'"),
    ([*GENERATED, "--time-limit", "inf"], "'--time-limit'"),
    ([*GENERATED, "--device", "gpu"], "--device 'gpu'"),
    ([*GENERATED, "--out", "@/file"], "is not a folder"),
    ([*GENERATED, "--out", "@/file/x"], "is not a folder"),
    ([*GENERATED, "--out", "z" * 300], "File name too long"),
    ([*CSP, "--weights", "huge"], "neither shipped"),
    ([*CSP, "--weights", "@/torn-weights"], "model.safetensors: not readable"),
    ([*GENERATED, "--prototypes", "@/nowhere.json"], "No such file"),
    ([*GENERATED, "--seen", "nowhere:train"], "'nowhere': neither a file or folder nor"),
    ([*GENERATED, "--seen", "@/file:"], "names no split after the colon"),
    ([*GENERATED, "--prototypes", "@/hello.json"], "hello.json: not a mapping"),
    ([*GENERATED, "--prototypes", "@/nan.json"], "nan.json: not a mapping"),
    ([*GENERATED, "--prototypes", "@/prototypes.json"], "5 of the targets were not tried"),
    ([*GIVEN, "--prototypes", "@/prototypes.json"], "5 of the targets were not tried"),
    # predictions
    ([*GIVEN, "--weights", "@/weights"], "leave out --weights"),
    ([*GIVEN, "--seeds", "2"], "leave out --weights, --seeds"),
    ([*GIVEN, "--steps", "2"], "leave out --weights"),
    ([*GIVEN, "--precision", "float32"], "leave out --weights"),
    ([*GIVEN, "--key", "name"], "'--key'"),
    ([*GIVEN, "--key", "order", "--samples-per-target", "3"], "by order, 15 are needed"),
    ([*GIVEN, "--samples-per-target", "0"], "'--samples-per-target'"),
    ([*GENERATED, "--guidance", "nan"], "--guidance and --target must be finite numbers"),
    ([*GENERATED, "--target", "1"], "a guidance target needs a positive guidance strength"),
    ([*GENERATED, "--predictor", "@/weights", "--rank", "energy"], "holds a generator, and a predictor is needed"),
    ([*GIVEN, "--guidance", "1"], "--predictions is scored as it is: leave out --guidance"),
    ([*CSP, "--predictions", "@/nowhere.zip"], "does not exist"),
    ([*CSP, "--predictions", "@/cifs/none"], "no *.cif"),
    ([*CSP, "--predictions", "@/hello.json"], "hello.json: cannot be read"),
    ([*CSP, "--predictions", "@/nan.json"], "none of 1 predictions can be read"),
    ([*CSP, "--predictions", "@/junk.zip"], "junk.zip: cannot be read"),
    ([*CSP, "--predictions", "@/tensors.pt"], "pickled data is never opened"),
    ([*CSP, "--predictions", "@/formulas.txt"], "unknown kind"),
]


@pytest.mark.parametrize(("arguments", "complaint"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_one_line_exit_2_and_nothing_written(
    run: Run, materials: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    before = listing([materials, tmp_path])
    code, out, err = run(*arguments)
    assert (code, out) == (2, ""), err
    assert re.fullmatch(r"dao: error: [^\n]+\n", err)
    assert complaint in err
    assert listing([materials, tmp_path]) == before


def test_samples_of_another_seed_are_one_line_too(run: Run, materials: Path, tmp_path: Path) -> None:
    assert run(*PREDICT, "--samples", "2", "--cells", "1", "--quiet")[0] in (0, 3)
    before = listing([materials, tmp_path])
    code, out, err = run(*PREDICT, "--samples", "2", "--cells", "1", "--seed", "1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "samples made with another seed" in err
    (tmp_path / "predictions" / "NaCl" / "samples.jsonl").write_text("hello\n")
    code, out, err = run(*PREDICT, "--samples", "2", "--cells", "1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert len(listing([materials, tmp_path])) == len(before)


def dao(*arguments: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dao", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["predict", "NaCl", "--weights", "@/torn-weights"], "model.safetensors: not readable"),
        (["train", "@/tiny.toml", "--data", "@/cifs", "--device", "cpu"], "bad.cif"),
        (["predict", "Na0Cl"], "count of Na is zero"),
        ([*CSP, "--predictions", "@/nan.json"], "none of 1 predictions can be read"),
    ],
)
def test_as_a_process(materials: Path, tmp_path: Path, arguments: list[str], complaint: str) -> None:
    done = dao(*(argument.replace("@", str(materials)) for argument in arguments), folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"dao: error: [^\n]+\n", done.stderr)
    assert complaint in done.stderr
    assert list(tmp_path.iterdir()) == []


@contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions do not stop root."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.skipif("sys.platform != 'linux'")
@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "NaCl", "--weights", "weights"],
        ["train", "mp20-flow-nano"],
        ["evaluate", "csp", "--data", "toys.parquet"],
    ],
)
def test_a_folder_without_permission(
    materials: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest's own folders are closed to everybody else
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(materials / "weights", folder / "weights")
        folder.chmod(0o555)
        monkeypatch.chdir(folder)
        with as_nobody():
            code = main([*arguments, "--out", "results"])
        assert (code, capsys.readouterr()) == (
            2,
            ("", f"dao: error: --out 'results': no permission to write in {name}\n"),
        )
        assert [path.name for path in folder.iterdir()] == ["weights"]
        monkeypatch.undo()


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "NaCl", "--weights", "huge"],
        ["predict", "NaCl", "--device", "gpu", "--weights", "@/weights"],
        ["predict", "NaCl", "--samples", "-1"],
        ["predict", "--file", "@/formulas.txt"],
        ["predict", "NaCl", "--cells", "0"],
        ["predict", "NaCl", "--weights", "@/weights", "--out", "@/file"],
        ["train", "@/tiny.toml", "--set", "network.widht=3"],
        ["train", "@/tiny.toml", "--data", "@/nowhere"],
        ["train", "nothing"],
        [*GENERATED, "--k", "5,1"],
        [*GENERATED, "--out", "@/file"],
        [*GIVEN, "--steps", "3"],
        [*CSP, "--predictions", "@/nowhere.zip"],
    ],
)
def test_flags_are_checked_before_torch_is_imported(materials: Path, tmp_path: Path, arguments: list[str]) -> None:
    chosen = [argument.replace("@", str(materials)) for argument in arguments]
    script = "import sys; from dao.cli import main; code = main(sys.argv[1:]); print(code, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *chosen], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "2 False\n"
