"""Shared by all tests: shapes and types of every call into ``dao`` are checked, and one thread a process is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# before the first import of dao: modules imported earlier would run unchecked
install_import_hook("dao", "beartype.beartype")

import torch  # noqa: E402 - as above
from toys import toy_crystals, toy_energies, write_parquet  # noqa: E402

from dao.cli import main  # noqa: E402

torch.set_num_threads(1)

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

_REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of crystal data, ``$DAO_DATA`` or ``../shared/data``; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("DAO_DATA") or _REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs the crystal data: {folder} is absent (set DAO_DATA to its folder)")
    return folder


@pytest.fixture(autouse=True)
def _no_traceback_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of error messages must not depend on the developer's environment."""
    monkeypatch.delenv("DAO_TRACEBACK", raising=False)


@pytest.fixture(scope="session")
def toy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy crystals as Parquet, in splits train, val and test."""
    path = tmp_path_factory.mktemp("toys") / "toys.parquet"
    write_parquet(path, toy_crystals())
    return path


@pytest.fixture(scope="session")
def energy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with energies above the hull, some of them missing."""
    path = tmp_path_factory.mktemp("energies") / "toys.parquet"
    write_parquet(path, toy_crystals(), e_above_hull=toy_energies(toy_crystals()))
    return path


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
