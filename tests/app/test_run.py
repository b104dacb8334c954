from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="dao serve needs starlette and uvicorn (extra serve)")

from serving import FAKE_WORKER

from dao.app import run as app_run
from dao.app.run import bound_socket, loopback, require_server, sole_user
from dao.errors import InputError

Run = Callable[..., tuple[int, str, str]]
EVERYWHERE = "0.0.0.0"  # noqa: S104 -- compared, not bound


def test_a_port_in_use_is_one_line_and_exit_2(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("pymatgen.analysis.diffraction", reason="dao serve writes reports (extra report)")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = run("serve", "--port", str(port), "--out", str(tmp_path / "out"))
    assert (code, out) == (2, "")
    assert err == f"dao: error: --host 127.0.0.1 --port {port}: cannot listen there (address already in use)\n"
    assert list(tmp_path.iterdir()) == []


def test_help_has_an_example(run: Run) -> None:
    code, out, err = run("serve", "--help")
    assert (code, err) == (0, "")
    assert "Examples:" in out
    assert "  dao serve" in out


def test_the_server_imports_neither_torch_nor_the_rest_of_the_models() -> None:
    script = "import sys, dao.app.server, dao.app.supervisor; print({'torch', 'matplotlib', 'ase'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--host", "203.0.113.1", "--port", "0"], "--host 203.0.113.1 --port 0: cannot listen there"),
        (["--host", "no such name", "--port", "0"], "cannot listen there"),
        (["--port", "70000"], "'--port'"),
        (["--samples", "501"], "'--samples'"),
        (["--max-queue", "0"], "'--max-queue'"),
        (["--weights", "huge"], "neither shipped"),
        (["--predictor", "huge"], "neither shipped"),
        (["--sources", "stars"], "--sources 'stars'"),
        (["--device", "gpu"], "--device 'gpu'"),
        (["--out", __file__], "is not a folder"),
    ],
)
def test_bad_options_are_one_line(run: Run, tmp_path: Path, arguments: list[str], complaint: str) -> None:
    pytest.importorskip("pymatgen.analysis.diffraction", reason="dao serve writes reports (extra report)")
    code, out, err = run("serve", "--out", str(tmp_path / "out"), *arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_the_framework_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_run, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install '\.\[serve\]'"):
        require_server()


def test_one_server_a_folder(tmp_path: Path) -> None:
    with sole_user(tmp_path / "out"), pytest.raises(InputError, match="another dao serve uses this folder"):
        sole_user(tmp_path / "out").__enter__()
    with sole_user(tmp_path / "out"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        sole_user(tmp_path / "file").__enter__()


@pytest.mark.parametrize(
    ("host", "only_here"), [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
                            (EVERYWHERE, False), ("192.168.0.2", False), ("::", False)],
)  # fmt: skip
def test_loopback(host: str, *, only_here: bool) -> None:
    assert loopback(host) is only_here


def test_any_free_port_of_both_families() -> None:
    for host in (
        "127.0.0.1",
        "localhost",
        *(["::1"] if socket.has_ipv6 and Path("/proc/net/if_inet6").exists() else []),
    ):
        with bound_socket(host, 0) as found:
            assert found.getsockname()[1] > 0


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_server_and_worker_and_loses_nothing(tmp_path: Path, how: signal.Signals) -> None:
    pytest.importorskip("pymatgen.analysis.diffraction", reason="dao serve writes reports (extra report)")
    command = [sys.executable, "-m", "dao", "serve", "--port", "0", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        said = server.stdout.readline()
        address = said.split()[0]
        assert address.startswith("http://127.0.0.1:")
        assert f"history in {tmp_path}" in said
        body = json.dumps({"formula": "SrTiO3", "samples": 500}).encode()
        asked = urllib.request.Request(f"{address}/api/jobs", body, {"content-type": "application/json"})  # noqa: S310 -- http, ours
        with urllib.request.urlopen(asked) as answer:  # noqa: S310
            job = json.load(answer)
        workers = [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
        server.send_signal(how)
        assert server.wait(60) in {130, 0, -how}
        assert server.stderr.read() == ""
    assert len(workers) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(workers[0], 0)
    kept = json.loads((tmp_path / job["id"] / "job.json").read_text())
    assert kept["state"] in {"queued", "running"}
    assert kept["formula"] == "SrTiO3"


def test_the_worker_does_not_outlive_a_server_that_is_killed(tmp_path: Path) -> None:
    """Its standard input ends, whatever it is doing."""
    with subprocess.Popen(
        FAKE_WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"ready": True}
        task = {"formula": "NaCl", "units": [1], "samples": 2, "seed": 4, "folder": str(tmp_path)}
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.flush()
        # nothing that libraries print comes between
        assert json.loads(process.stdout.readline()) == {"stage": "sampling", "done": 0.0, "total": 2}
        process.stdin.close()
        assert process.wait(60) == 0
