"""docs/serve.md says what is so, and its example runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="dao serve needs starlette and uvicorn (extra serve)")

from serving import FAKE_WORKER, serving
from starlette.applications import Starlette
from starlette.routing import Route

from dao.app import jobs, protection
from dao.app.jobs import Defaults, Job, Store
from dao.app.server import make_app
from dao.app.supervisor import Supervisor
from dao.app.worker import STAGES

TEXT = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_runs(tmp_path: Path) -> None:
    with serving(tmp_path, FAKE_WORKER) as address:
        script = block("python").replace("http://127.0.0.1:8000", address).replace("time.sleep(1)", "time.sleep(0.05)")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "done 1 Pm-3m\ndata_NaCl\n\n"


def test_the_job_has_the_fields_of_a_job() -> None:
    shown = json.loads(block("json"))
    assert list(shown) == [*Job.model_fields, "position", "progress"]
    Job.model_validate({key: value for key, value in shown.items() if key in Job.model_fields})
    for stage in STAGES:
        assert f"`{stage}`" in TEXT


def test_the_table_has_every_address(tmp_path: Path) -> None:
    supervisor = Supervisor(Store(tmp_path), [], max_queue=1, made_with=dict)
    app = make_app(supervisor, protection.Hosts("127.0.0.1"), Defaults(samples=1, trained=None, weights=""))
    listed = {
        (verb, path.partition("?")[0]) for verb, path in re.findall(r"^\| `(GET|POST) ([^`]+)` \|", TEXT, re.MULTILINE)
    }
    assert isinstance(app.app, Starlette)
    routes = [route for route in app.app.routes if isinstance(route, Route)]
    there = {
        (verb, route.path)
        for route in routes
        for verb in route.methods or ()
        if verb != "HEAD" and route.path.startswith(("/api/", "/healthz"))
    }
    assert listed == there


def test_the_limits_are_these() -> None:
    assert f"{jobs.MAX_FORMULA} characters, a cell at most {jobs.MAX_ATOMS} atoms" in TEXT
    assert f"at most {jobs.MAX_SAMPLES} samples" in TEXT
    assert f"{jobs.PAGE} jobs, the newest first" in TEXT
    assert f"at most {protection.MAX_BODY // 1024} kB" in TEXT
