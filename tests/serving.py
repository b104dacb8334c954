"""The server of ``dao serve`` in this process, on a free port, with a worker of the test's choice."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn

from dao.app.jobs import Defaults, Store
from dao.app.protection import Hosts
from dao.app.server import make_app
from dao.app.supervisor import Supervisor

FAKE_WORKER = [sys.executable, str(Path(__file__).parent / "app" / "fake_worker.py")]


@contextlib.contextmanager
def serving(out: Path, worker: Sequence[str]) -> Iterator[str]:
    """A server on a free port of this machine; its address."""
    supervisor = Supervisor(Store(out), worker, max_queue=5, made_with=dict)
    app = make_app(supervisor, Hosts("127.0.0.1"), Defaults(samples=4, trained=20, weights="tiny"))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="on", server_header=False))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
