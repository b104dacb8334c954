from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
eval "$(dao --show-completion bash)"
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_dao_completion dao
printf '%s\\n' "${COMPREPLY[@]}"
"""


BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (("dao", "pre"), ["predict"]),
        (("dao", "evaluate", "st"), ["stability"]),
        (("dao", "predict", "--qui"), ["--quiet"]),
        (("dao", "predict", "NaCl", "--weights", "small"), ["small", "small-52"]),
        (("dao", "train", "mp20-flow-"), ["mp20-flow-nano", "mp20-flow-small"]),
        (("dao", "evaluate", "csp", "--data", "o"), ["ours"]),
        (("dao", "predict", "--write", "cif,po"), ["cif,poscar"]),
        (("dao", "doctor", "--format", "j"), ["json"]),
    ],
    ids=" ".join,
)
def test_bash_completes(tmp_path: Path, line: tuple[str, ...], expected: list[str]) -> None:
    command = tmp_path / "bin" / "dao"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dao "$@"\n')
    command.chmod(0o755)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ours.parquet").touch()
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DAO_DATA": str(tmp_path / "data")}
    done = subprocess.run(
        [str(BASH), "-c", SCRIPT, "bash", *line], env=environment, capture_output=True, text=True, check=True
    )
    assert sorted(done.stdout.split()) == expected
    assert done.stderr == ""


def test_nothing_heavy_is_imported_to_complete(tmp_path: Path) -> None:
    script = "import sys; from dao.cli.completion import *; weights(''), tables(''), recipes(''), data_sets('')\n"
    script += "formats(''), file_formats('cif,'), sources(''), devices('')\n"
    script += "print([name for name in ('torch', 'pymatgen', 'ase', 'scipy', 'pyarrow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"
