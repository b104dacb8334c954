"""The reference OPTIMADE server on loopback with crystals of a test's own, and a small one that fails on demand."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

from dao.crystal import Crystal
from dao.elements import SYMBOLS

FIELDS = ("formation_energy", "e_above_hull")
"""Properties of the server's own, as ``_toys_e_above_hull``."""


def entry(crystal: Crystal, prefix: str = "", **labels: float | None) -> dict[str, Any]:
    """A crystal as the JSON of an OPTIMADE structure; the reference server puts the prefix before labels by itself."""
    symbols = [SYMBOLS[number] for number in crystal.atomic_numbers]
    elements = sorted(set(symbols))
    counts = [symbols.count(symbol) for symbol in elements]
    units = int(np.gcd.reduce(counts))
    reduced = "".join(f"{symbol}{n // units if n > units else ''}" for symbol, n in zip(elements, counts, strict=True))
    letters = sorted((n // units for n in counts), reverse=True)
    anonymous = "".join(f"{'ABCDE'[i]}{n if n > 1 else ''}" for i, n in enumerate(letters))
    return {
        "id": crystal.name,
        "type": "structures",
        "attributes": {
            "immutable_id": crystal.name,
            "last_modified": "2026-01-01T00:00:00Z",
            "elements": elements,
            "nelements": len(elements),
            "elements_ratios": [n / len(symbols) for n in counts],
            "chemical_formula_descriptive": reduced,
            "chemical_formula_reduced": reduced,
            "chemical_formula_anonymous": anonymous,
            "dimension_types": [1, 1, 1],
            "nperiodic_dimensions": 3,
            "lattice_vectors": crystal.lattice.tolist(),
            "cartesian_site_positions": crystal.cart_coords.tolist(),
            "nsites": crystal.num_atoms,
            "species_at_sites": symbols,
            "species": [{"name": one, "chemical_symbols": [one], "concentration": [1.0]} for one in elements],
            "structure_features": [],
            **{f"{prefix}{name}": value for name, value in labels.items()},
        },
    }


def write_entries(path: Path, entries: Sequence[dict[str, Any]]) -> Path:
    """An OPTIMADE JSON lines file, as the reference server reads it."""
    info = {
        "type": "info",
        "id": "structures",
        "properties": {f"_toys_{name}": {"type": "float", "unit": "eV", "description": name} for name in FIELDS},
    }
    lines = [{"x-optimade": {"meta": {"api_version": "1.2.0"}}}, info, *entries]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def server_python() -> str:
    """A Python that has the server: this one, or ``$DAO_OPTIMADE_PYTHON``; the test is skipped without."""
    given = os.environ.get("DAO_OPTIMADE_PYTHON")
    if given and shutil.which(given):
        return given
    if find_spec("optimade") is None or find_spec("mongomock") is None or find_spec("uvicorn") is None:
        pytest.skip("needs the reference OPTIMADE server: pip install 'optimade[server]' (or $DAO_OPTIMADE_PYTHON)")
    return sys.executable


@contextmanager
def reference_server(entries: Sequence[dict[str, Any]], folder: Path) -> Iterator[str]:
    """The base URL of ``optimade[server]`` with its in-memory backend, with these entries and no others."""
    python = server_python()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "insert_test_data": False,
        "insert_from_jsonl": str(write_entries(folder / "entries.jsonl", entries)),
        "database_backend": "mongomock",
        "provider": {"prefix": "toys", "name": "toys", "description": "toys", "homepage": None},
        "provider_fields": {
            "structures": [{"name": n, "type": "float", "unit": "eV", "description": n} for n in FIELDS]
        },
        "page_limit_max": 50,
        "log_dir": str(folder / "log"),
        "base_url": f"http://127.0.0.1:{port}",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [python, "-m", "uvicorn", "optimade.server.main:app", "--port", str(port), "--log-level", "warning"],
            env=environment | {"OPTIMADE_CONFIG_FILE": str(folder / "config.json")},
            stdout=log,
            stderr=log,
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}/v1/info", folder / "server.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(url, timeout=5):  # noqa: S310 - loopback
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log.read_text()}")


Answer = Callable[[BaseHTTPRequestHandler, str], None]


@contextmanager
def small_server(answer: Answer) -> Iterator[str]:
    """A base URL whose answers to a path and query are ``answer``'s own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # the client may not wait
            with suppress(BrokenPipeError, ConnectionResetError):
                answer(self, self.path)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, body: object, status: int = 200, **headers: str) -> None:
    """Answer with JSON, or with bytes as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(raw)
