"""Starting and stopping the server."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from dao.app.jobs import Defaults, Store
from dao.app.worker import Predicting
from dao.errors import InputError

LOCK = ".lock"


def require_server() -> None:
    """Refuse to go on without the web framework.

    Raises:
        InputError: it is not installed.

    """
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise InputError("the web page needs starlette and uvicorn: pip install '.[serve]' in the folder of DAO")


def worker_command(predicting: Predicting) -> list[str]:
    """What starts a worker; ``-P`` so that no file of the current folder is taken for a module."""
    return [sys.executable, "-P", "-m", "dao.app.worker", json.dumps(asdict(predicting))]


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one.

    Raises:
        InputError: the port is in use, or the address is not of this machine.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        # what create_server makes of it names the address once more
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise InputError(f"--host {host} --port {port}: cannot listen there ({reason.lower()})") from None


@contextlib.contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Keep other servers out of the folder of the history while this one uses it.

    Raises:
        InputError: another one does, or the folder cannot be written.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("w")
    except OSError as error:
        raise InputError(f"--out {str(folder)!r}: cannot be written ({error.strerror})") from None
    with stream:
        try:
            import fcntl
        except ImportError:  # Windows
            pass
        else:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(f"--out {str(folder)!r}: another dao serve uses this folder") from None
        yield


def serve(
    out: Path,
    command: Sequence[str],
    *,
    made_with: Callable[[], dict[str, str]],
    defaults: Defaults,
    host: str,
    port: int,
    max_queue: int,
    allowed: Sequence[str] = (),
    say: Callable[[str], None],
) -> None:
    """Serve until interrupted.

    Args:
        out: folder of the history.
        command: starts a worker.
        made_with: see :class:`dao.app.supervisor.Supervisor`.
        defaults: what is added to what is asked.
        host: address to listen on.
        port: likewise.
        max_queue: jobs that may wait.
        allowed: names by which the server may be called besides its address and loopback's.
        say: told the address once the server listens.

    Raises:
        InputError: the address or the folder cannot be used.
        KeyboardInterrupt: the way it ends.

    """
    require_server()
    import uvicorn

    from dao.app.protection import Hosts
    from dao.app.server import make_app
    from dao.app.supervisor import Supervisor

    with bound_socket(host, port) as listening, sole_user(out):
        supervisor = Supervisor(Store(out), command, max_queue=max_queue, made_with=made_with)
        app = make_app(supervisor, Hosts(host, allowed), defaults)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on",
            ws="none",
            limit_concurrency=200,
            # answers are quick: only downloads to slow readers are cut off
            timeout_graceful_shutdown=3,
        )
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{listening.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listening])


def loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    return host in {"localhost", "::1"} or host.startswith("127.")
