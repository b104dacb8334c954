"""The machine and the software on it, in the words of a bug report; nothing heavy is imported."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "numpy", "scipy", "pymatgen-core", "ase", "moyopy", "safetensors", "pyarrow")
"""What results depend on."""


def versions() -> dict[str, str]:
    """Versions of DAO, Python and the packages that results depend on; ``missing`` where there is none."""
    packages = {name: version_of(name) or "missing" for name in PACKAGES}
    return {"dao": version_of("dao-crystal") or "missing", "python": platform.python_version(), **packages}


def version_of(package: str) -> str | None:
    """Version of an installed distribution, which is not imported; None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def memory() -> tuple[float, float] | None:
    """Memory that is free and in all, GiB; None where that cannot be read."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        said = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
        return said["MemAvailable"] / 2**20, said["MemTotal"] / 2**20
    except (OSError, ValueError, LookupError):
        return None
