from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.io import iread

from dao.cli import main
from dao.crystal import Crystal
from dao.dft.run import DftRun

FILES = {"iterations.jsonl", "log.txt", "trajectory.extxyz", "start.cif", "relaxed.cif", "result.json"}
Run = Callable[..., tuple[int, str, str]]


class Medium(EMT):
    """Effective medium theory, in place of a code that takes hours."""

    versions: dict[str, Any] = {"medium": "1"}  # noqa: RUF012 -- a stand-in

    def __init__(self, fail_at: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls, self.fail_at = 0, fail_at

    def calculate(self, *arguments: Any, **named: Any) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("did not converge")
        super().calculate(*arguments, **named)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        pass


def write_alloy(file: Path) -> None:
    fcc = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    Crystal([79, 29, 29, 29], fcc, 3.75 * np.eye(3)).to_structure().to(str(file), fmt="poscar")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``dao dft relax POSCAR`` in an empty folder with that file."""
    monkeypatch.chdir(tmp_path)
    write_alloy(tmp_path / "POSCAR")

    def call(*arguments: str, file: str = "POSCAR") -> tuple[int, str, str]:
        code = main(["dft", "relax", file, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def media(monkeypatch: pytest.MonkeyPatch) -> list[Medium]:
    """The calculators that were used; one appended by a test is used next."""
    made: list[Medium] = []
    monkeypatch.setattr(DftRun, "calculator", lambda *_: made[-1] if made and not made[-1].calls else new(made))
    return made


def new(made: list[Medium]) -> Medium:
    made.append(Medium())
    return made[-1]


PERTURBED = ("--start", "perturbed", "--coordinates", "0.03")


@pytest.mark.usefixtures("media")
def test_what_is_written_and_said(run: Run) -> None:
    code, out, err = run(*PERTURBED, "--iterations", "200", "--format", "json")
    assert code == 0, err
    record = json.loads(out)
    folder = Path("dft")
    assert record == json.loads((folder / "result.json").read_text())
    assert {path.name for path in folder.iterdir()} == FILES
    assert record["outcome"] == "converged"
    assert record["code_versions"] == {"medium": "1"}
    assert record["rms"] < 0.02 < record["rms_of_start"]
    assert record["energy"] < record["energy_of_start"]
    energies = [one.get_potential_energy() for one in iread(folder / "trajectory.extxyz")]  # type: ignore[no-untyped-call]
    assert len(energies) == record["iterations"] == len(err.splitlines()) - 1
    assert energies[-1] / 4 == pytest.approx(record["energy"], abs=1e-5)
    assert (folder / "log.txt").read_text() == err


def test_a_run_is_prolonged_and_repeated(run: Run, media: list[Medium]) -> None:
    assert run(*PERTURBED, "--iterations", "200", "--out", "whole")[0] == 0
    whole = json.loads(Path("whole/result.json").read_text())
    code, out, _ = run(*PERTURBED, "--iterations", "3")
    assert (code, "iterations" in out) == (0, True)
    # as a kill while a line was written leaves it
    with Path("dft/iterations.jsonl").open("a") as stream:
        stream.write('{"lattice": [[')
    assert run(*PERTURBED, "--iterations", "200")[0] == 0
    assert [one.calls for one in media] == [whole["iterations"], 3, whole["iterations"] - 3]
    for name in ("trajectory.extxyz", "relaxed.cif", "start.cif"):
        assert Path("dft", name).read_text() == Path("whole", name).read_text()
    assert run(*PERTURBED, "--iterations", "200")[0] == 0
    assert media[-1].calls == 0


@pytest.mark.usefixtures("media")
def test_a_folder_of_another_run(run: Run) -> None:
    assert run("--iterations", "2", "--quiet")[0] == 0
    for other in (["--cutoff", "500"], ["--start", "random"], ["--fix-cell"]):
        code, out, err = run("--quiet", *other)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert "choose another --out" in err


def test_a_failed_calculation(run: Run, media: list[Medium]) -> None:
    media.append(Medium(fail_at=3))
    code, _, err = run(*PERTURBED, "--quiet")
    assert code == 3
    assert err == "a calculation failed: did not converge (see dft/failures.json)\n"
    assert json.loads(Path("dft/failures.json").read_text())[0]["reason"] == "did not converge"
    assert json.loads(Path("dft/result.json").read_text())["iterations"] == 2
    # the same command goes on behind what was computed
    assert run(*PERTURBED, "--quiet")[0] == 0
    assert not Path("dft/failures.json").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--command", "no-such-program"], "no-such-program"),
        (["--code", "espresso"], "--pseudopotentials"),
        (["--code", "espresso", "--pseudopotentials", "none", "--command", "true"], "none"),
        (["--pseudopotentials", "."], "--code espresso"),
        (["--code", "espresso", "--pseudopotential", "Cu"], "ELEMENT=FILE"),
        (["--k-points", "2,2"], "--k-points"),
        (["--k-points", "2,2,0"], "--k-points"),
        (["--minutes", "nan"], "--minutes"),
        (["--cutoff", "1"], "cutoff"),
        (["--out", "POSCAR"], "not a folder"),
    ],
)
def test_bad_input(run: Run, arguments: list[str], named: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert named in err
    assert {path.name for path in Path().iterdir()} == {"POSCAR"}


def test_files_that_hold_no_single_structure(run: Run) -> None:
    assert run(file="none.cif")[0] == 2
    Path("two.extxyz").write_text(2 * '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3\nCu 0 0 0\n')
    code, _, err = run(file="two.extxyz")
    assert code == 2
    assert "holds 2 structures" in err


KILLED = """\
import sys, time
sys.path.insert(0, {tests!r})
from test_dft import Medium
from dao.cli import main
from dao.dft.run import DftRun
class Slow(Medium):
    def calculate(self, *arguments, **named):
        time.sleep(0.05)
        super().calculate(*arguments, **named)
DftRun.calculator = lambda *_: Slow()
sys.exit(main({arguments!r}))
"""


def test_killed_and_resumed_to_the_same_files(run: Run, media: list[Medium], tmp_path: Path) -> None:
    arguments = [*PERTURBED, "--iterations", "200", "--quiet"]
    assert run(*arguments, "--out", "whole")[0] == 0
    text = textwrap.dedent(KILLED).format(
        tests=str(Path(__file__).parent), arguments=["dft", "relax", "POSCAR", *arguments, "--out", "killed"]
    )
    process = subprocess.Popen([sys.executable, "-c", text], cwd=tmp_path, stderr=subprocess.DEVNULL)
    lines = tmp_path / "killed" / "iterations.jsonl"
    until = time.monotonic() + 120.0
    while process.poll() is None and time.monotonic() < until:
        if lines.exists() and lines.read_bytes().count(b"\n") > 4:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL
    assert run(*arguments, "--out", "killed")[0] == 0
    assert 0 < media[-1].calls < media[0].calls
    for name in ("trajectory.extxyz", "relaxed.cif", "start.cif"):
        assert Path("killed", name).read_text() == Path("whole", name).read_text()
