"""Is everything here that DAO needs, and does it work: what ``dao doctor`` finds.

Each check says one thing in plain words and what to do about it. A check that breaks is itself a finding.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from dao.errors import InputError
from dao.system import cores, memory, version_of, versions

Status = Literal["ok", "warn", "fail"]

LEAST_MEMORY = 1.0
"""GiB free; a prediction takes about 0.6."""

LEAST_DISK = 0.1
"""GiB free in the current folder."""

KNOWN_ENERGY = 0.1
"""eV/atom: rock salt lies on the hull, and the predictor must say so to within this."""

PURPOSES = {
    "chgnet": "dao evaluate stability --calculator chgnet",
    "mp": "dao data crysdb build --source mp",
    "report": "the X-ray patterns of dao predict --report",
    "serve": "dao serve",
    "torch-sim": "dao.interop.torchsim",
    "train": "TensorBoard logs of dao train",
}
"""What the optional packages are for."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: of what was checked.
        status: ``fail`` where something that should work does not, ``warn`` where it may not.
        text: in words.
        remedy: what to do; empty where there is nothing to do.

    """

    name: str
    status: Status
    text: str
    remedy: str = ""


def diagnose(device: str = "auto") -> Iterator[Finding]:
    """Every finding, as soon as it is there; the slowest, a small prediction, last.

    Args:
        device: on which to predict.

    """
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "software": _software,
        "machine": _machine,
        "accelerator": _accelerator,
        "weights": _weights,
        "prototypes": _prototypes,
        "extras": _extras,
        "data": _data,
        "folder": _folder,
        "prediction": lambda: _prediction(device),
        "energy": lambda: _energy(device),
    }
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 -- whatever is broken here is what we are looking for
            said = " ".join(str(error).split())
            yield Finding(name, "fail", f"{type(error).__name__}: {said}", "install DAO again, or report this")


def _software() -> Iterator[Finding]:
    said = versions()
    missing = [name for name, number in said.items() if number == "missing"]
    text = ", ".join(f"{name} {number}" for name, number in said.items())
    if missing:
        yield Finding("software", "fail", text, f"pip install {' '.join(missing)}")
    else:
        yield Finding("software", "ok", text)


def _machine() -> Iterator[Finding]:
    yield Finding("platform", "ok", f"{platform.platform()}, {platform.machine()}")
    import torch

    threads = torch.get_num_threads()
    available = cores()
    text = f"{available} core{'' if available == 1 else 's'}, torch uses {threads} thread{'' if threads == 1 else 's'}"
    if threads > available:
        yield Finding("processor", "warn", text, f"set OMP_NUM_THREADS={available}: more threads than cores are slow")
    else:
        yield Finding("processor", "ok", text)
    known = memory()
    if known is None:
        yield Finding("memory", "ok", "unknown on this system")
        return
    free, total = known
    text = f"{free:.1f} GiB free of {total:.1f}"
    low = free < LEAST_MEMORY
    yield Finding("memory", "warn" if low else "ok", text, "close other programs" if low else "")


def _accelerator() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(i)
            yield Finding("accelerator", "ok", f"cuda:{i} {found.name}, {found.total_memory / 2**30:.0f} GiB")
    elif shutil.which("nvidia-smi"):
        text = f"there is an NVIDIA driver, but torch {torch.__version__} finds no CUDA device"
        yield Finding("accelerator", "warn", text, "install a torch built for CUDA; CPUs work, more slowly")
    else:
        yield Finding("accelerator", "ok", "none; predictions take seconds on CPU cores")


def _weights() -> Iterator[Finding]:
    from dao.models import Generator, Predictor
    from dao.weight_files import WEIGHTS
    from dao.weights import DEFAULT, DEFAULT_PREDICTOR, read_config, shipped

    again = "install DAO again: files of this installation are damaged or missing"
    known = shipped()
    for name in {DEFAULT: None, DEFAULT_PREDICTOR: None, **known}:
        title = f"weights {name}"
        if name not in known:
            yield Finding(title, "fail", "missing", again)
            continue
        path = known[name] / WEIGHTS
        try:
            kind = Generator if read_config(known[name]).get("model") == "generator" else Predictor
            size = kind.load(known[name]).parameters_count
            checksum, right = _checksum(path)
        except (InputError, OSError) as error:
            yield Finding(title, "fail", " ".join(str(error).split()), again)
            continue
        text = f"{size:,} parameters, {path.stat().st_size / 1e6:.1f} MB, sha256 {checksum[:16]}"
        if right is False:
            yield Finding(title, "fail", f"{text}, not what was installed", again)
        else:
            yield Finding(title, "ok", text)


def _checksum(path: Path) -> tuple[str, bool | None]:
    """SHA-256, and whether it is the one that the installer noted; None where it noted none."""
    digest = hashlib.sha256(path.read_bytes())
    try:
        noted = distribution("dao-crystal").files or []
    except PackageNotFoundError:
        noted = []
    for one in noted:
        if one.hash is not None and one.hash.mode == "sha256" and Path(str(one.locate())) == path:
            return digest.hexdigest(), one.hash.value == urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    return digest.hexdigest(), None


def _prototypes() -> Iterator[Finding]:
    from dao.prediction.prototype_table import PrototypeTable
    from dao.prediction.sources import shipped_tables

    tables = shipped_tables()
    for name, path in tables.items():
        count = len(PrototypeTable.load(path))
        checksum, right = _checksum(path)
        text = f"{count:,} prototypes, {path.stat().st_size / 1e6:.1f} MB, sha256 {checksum[:16]}"
        status: Status = "fail" if right is False else "ok"
        yield Finding(f"prototypes {name}", status, text, "" if status == "ok" else "install DAO again")
    if not tables:
        yield Finding("prototypes", "ok", "no table ships; dao prototypes build makes one")


def _extras() -> Iterator[Finding]:
    """From what the installed distribution says of itself: ``chgnet>=0.4.2; extra == 'chgnet'``."""
    wanted: dict[str, list[str]] = {}
    for text in distribution("dao-crystal").requires or []:
        found = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?[^;]*;\s*extra == ['\"]([\w-]+)['\"]", text)
        if found and found[2] != "test":
            wanted.setdefault(found[2], []).append(found[1])
    for extra, packages in sorted(wanted.items()):
        numbers = {package: version_of(package) for package in packages}
        missing = [package for package, number in numbers.items() if number is None]
        purpose = f"needed only for {PURPOSES[extra]}" if extra in PURPOSES else "optional"
        if missing:
            text = f"not installed; {purpose}: pip install '.[{extra}]' in the folder of DAO"
        else:
            text = ", ".join(f"{package} {number}" for package, number in numbers.items())
        yield Finding(f"extra {extra}", "ok", text)


def _data() -> Iterator[Finding]:
    from dao.data.locate import data_folder

    folder = data_folder()
    names = sorted(path.stem for path in folder.glob("*.parquet")) if folder.is_dir() else []
    if names:
        yield Finding("data", "ok", f"{folder}: {', '.join(names)}")
    elif "DAO_DATA" in os.environ:
        problem = "holds no Parquet files" if folder.is_dir() else "no such folder"
        yield Finding("data", "warn", f"DAO_DATA={folder}: {problem}", "set DAO_DATA to the folder of benchmarks")
    else:
        yield Finding("data", "ok", "DAO_DATA is not set; only training and benchmarks need it")


def _folder() -> Iterator[Finding]:
    here = Path.cwd()
    try:
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(b"dao")
        free = shutil.disk_usage(here).free / 2**30
    except OSError as error:
        yield Finding("folder", "warn", f"{here}: {error.strerror}", "write results elsewhere: --out FOLDER")
        return
    low = free < LEAST_DISK
    text = f"{here}: can be written, {free:.1f} GiB free"
    yield Finding("folder", "warn" if low else "ok", text, "make room, or use --out FOLDER" if low else "")


def _prediction(device: str) -> Iterator[Finding]:
    from dao.prediction.pipeline import predict

    began = time.perf_counter()
    found = predict("NaCl", 2, cells="1", device=device)
    seconds = time.perf_counter() - began
    if found:
        best = found[0]
        yield Finding("prediction", "ok", f"NaCl, 2 samples: {best.space_group} first, in {seconds:.1f} s")
    else:
        yield Finding("prediction", "fail", "NaCl, 2 samples: no candidate", "report this, please")


def _energy(device: str) -> Iterator[Finding]:
    import numpy as np

    from dao.crystal import Crystal
    from dao.prediction.energies import load_energy_predictor, predict_with_errors
    from dao.weights import DEFAULT_PREDICTOR, shipped

    if DEFAULT_PREDICTOR not in shipped():
        return  # said above
    half = 5.640 / 2
    salt = Crystal([11, 17], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], half * (np.ones((3, 3)) - np.eye(3)))
    model = load_energy_predictor(DEFAULT_PREDICTOR, device)
    began = time.perf_counter()
    energy = predict_with_errors(model, [salt])[0].energy
    seconds = time.perf_counter() - began
    text = f"rock salt is {energy:.3f} eV/atom above the hull (0 is right), in {seconds:.2f} s"
    if abs(energy) < KNOWN_ENERGY:
        yield Finding("energy", "ok", text)
    else:
        yield Finding("energy", "fail", text, "report this, please")
