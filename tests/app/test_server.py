from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="dao serve needs starlette and uvicorn (extra serve)")

from serving import FAKE_WORKER
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from dao.app import server
from dao.app.jobs import INTERRUPTED, PAGE, Defaults, Store
from dao.app.protection import HEADERS, MAX_BODY, Hosts, Protection
from dao.app.server import make_app
from dao.app.supervisor import Supervisor

FAILS, BREAKS, DIES, SLEEPS, KILLED, WAITS, EMPTY = range(1, 8)
EVERYWHERE = "0.0.0.0"  # noqa: S104 -- compared, not bound
Open = Callable[..., TestClient]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Starts servers on one folder of history, one after another or at once."""
    with ExitStack() as stack:

        def start(bound: str = "127.0.0.1", *, max_queue: int = 20, made_with: str = "a") -> TestClient:
            return stack.enter_context(running(tmp_path, bound, max_queue=max_queue, made_with=made_with))

        yield start


@contextmanager
def running(
    out: Path,
    bound: str = "127.0.0.1",
    *,
    max_queue: int = 20,
    made_with: str = "a",
    worker: Sequence[str] = FAKE_WORKER,
) -> Iterator[TestClient]:
    current = {"weights": made_with}
    supervisor = Supervisor(Store(out), worker, max_queue=max_queue, made_with=lambda: dict(current))
    app = make_app(supervisor, Hosts(bound, ["crystals.lan"]), Defaults(samples=5, trained=20, weights="tiny"))
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        client.supervisor = supervisor  # type: ignore[attr-defined]
        client.current = current  # type: ignore[attr-defined]
        yield client


def submit(client: TestClient, formula: str = "NaCl", **more: Any) -> dict[str, Any]:
    answer = client.post("/api/jobs", json={"formula": formula, **more})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/api/jobs/{answer.json()['id']}"
    return dict(answer.json())


def until(client: TestClient, job: dict[str, Any], *states: str) -> dict[str, Any]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        told = dict(client.get(f"/api/jobs/{job['id']}").json())
        if told["state"] in states:
            return told
        time.sleep(0.02)
    raise AssertionError(told)


def under_way(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    """Until the worker has said how far it is."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        told = until(client, job, "running")
        if told["progress"]["stage"] == "sampling":
            return told
        time.sleep(0.02)
    raise AssertionError(told)


# ---- a prediction from the formula to the files ----


def test_a_job_from_formula_to_files(opened: Open, tmp_path: Path) -> None:
    client = opened()
    asked = submit(client, " Na Cl ", cells="1,2", seed=11)
    assert asked["formula"] == "NaCl"
    assert (asked["units"], asked["samples"], asked["seed"]) == ([1, 2], 5, 11)
    job = until(client, asked, "done")
    assert (job["candidates"], job["message"], job["position"], job["progress"]) == (1, "", None, None)
    # whatever a record holds, but not the crystal
    assert job["best"] == {"rank": 1, "space_group": "Pm-3m", "cif": "001_Pm-3m.cif", "confidence": 0.5}
    assert job["created"] <= job["started"] <= job["finished"]

    files = f"/api/jobs/{job['id']}"
    cif = client.get(f"{files}/1.cif")
    assert cif.text == "data_NaCl\n"
    assert cif.headers["content-type"].startswith("chemical/x-cif")
    assert cif.headers["content-disposition"] == 'attachment; filename="NaCl-001_Pm-3m.cif"'
    assert client.get(f"{files}/candidates.json").json()[0]["structure"] == {"sites": []}
    packed = client.get(f"{files}/candidates.zip")
    assert packed.headers["content-disposition"] == 'attachment; filename="NaCl-candidates.zip"'
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert archive.namelist() == ["NaCl/001_Pm-3m.cif", "NaCl/candidates.json"]
        assert archive.testzip() is None
    report = client.get(f"{files}/report.html")
    assert report.headers["content-disposition"] == 'attachment; filename="NaCl-report.html"'
    assert report.content == (tmp_path / job["id"] / "NaCl" / "report.html").read_bytes()

    page = client.get(f"/jobs/{job['id']}").text
    assert "<h1>the report</h1>" in page
    for name in ("candidates.zip", "candidates.json", "report.html"):
        assert f'href="{files}/{name}"' in page
    assert f'href="/jobs/{job["id"]}">NaCl</a>' in client.get("/").text


def test_nothing_found(opened: Open) -> None:
    client = opened()
    job = until(client, submit(client, seed=EMPTY), "done")
    assert (job["candidates"], job["best"]) == (0, None)
    assert job["message"] == "none of 5 samples is a crystal"
    page = client.get(f"/jobs/{job['id']}").text
    assert job["message"] in page
    assert "candidates.zip" not in page
    assert "no structure found" in client.get("/").text


def test_nothing_to_download_before_it_is_done(opened: Open) -> None:
    client = opened()
    job = submit(client, seed=SLEEPS)
    for name in ("1.cif", "candidates.json", "candidates.zip", "report.html"):
        answer = client.get(f"/api/jobs/{job['id']}/{name}")
        assert answer.status_code == 409
        assert "nothing to download" in answer.json()["error"]


def test_progress_and_what_two_clients_see(opened: Open, tmp_path: Path) -> None:
    client = opened()
    first, second = submit(client, seed=WAITS), submit(client, "MgO")
    told = under_way(client, first)
    assert told["progress"]["total"] == 5
    assert 0 <= told["progress"]["done"] <= 2.5
    other = TestClient(client.app, base_url="http://localhost:1")
    seen = other.get(f"/api/jobs/{second['id']}").json()
    assert (seen["state"], seen["position"]) == ("queued", 1)
    assert [job["id"] for job in other.get("/api/jobs").json()["jobs"]] == [second["id"], first["id"]]
    assert client.get("/healthz").json().items() >= {"status": "ok", "running": True, "waiting": 1}.items()
    page = client.get(f"/jobs/{first['id']}").text
    assert 'aria-live="polite"' in page
    assert "Waiting, next" in client.get("/").text
    (tmp_path / "go").touch()
    until(client, second, "done")


# ---- cancel, crash, restart ----


def test_cancel(opened: Open) -> None:
    client = opened()
    running_, waiting = submit(client, seed=SLEEPS), submit(client, "MgO")
    answer = client.post(f"/api/jobs/{waiting['id']}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    under_way(client, running_)
    assert client.post(f"/api/jobs/{running_['id']}/cancel").status_code == 202
    until(client, running_, "cancelled")
    refused = client.post(f"/api/jobs/{running_['id']}/cancel")
    assert refused.status_code == 409
    assert refused.json() == {"error": "this prediction is cancelled: there is nothing to cancel"}
    assert "Run again" in client.get(f"/jobs/{running_['id']}").text
    # a new worker has taken over
    until(client, submit(client, "KCl"), "done")


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (FAILS, "the weights are gone"),
        (BREAKS, "internal error: KeyError: 'bug'"),
        (DIES, "The process that predicts ended unexpectedly (exit code 7)."),
        (KILLED, "The process that predicts was killed, which is often a lack of memory"),
    ],
)
def test_a_job_that_fails_says_why_and_the_next_one_goes_on(opened: Open, seed: int, message: str) -> None:
    client = opened()
    failing, next_ = submit(client, seed=seed), submit(client, "MgO")
    job = until(client, failing, "failed")
    assert job["message"].startswith(message)
    assert message.partition("'")[0] in client.get(f"/jobs/{job['id']}").text
    assert until(client, next_, "done")["candidates"] == 1
    again = client.post(f"/api/jobs/{job['id']}/again").json()
    assert (again["id"], again["state"], again["message"]) == (job["id"], "queued", "")
    until(client, failing, "failed")


def test_a_worker_that_dies_while_idle_is_not_missed(opened: Open) -> None:
    client = opened()
    until(client, submit(client), "done")
    process = client.supervisor._process  # type: ignore[attr-defined]
    os.kill(process.pid, signal.SIGKILL)
    until(client, submit(client, "MgO"), "done")
    assert client.supervisor._process.pid != process.pid  # type: ignore[attr-defined]


def test_a_worker_that_cannot_start(tmp_path: Path) -> None:
    with running(tmp_path, worker=[sys.executable, "-c", "raise SystemExit(3)"]) as client:
        for _ in range(2):
            job = until(client, submit(client), "failed")
            assert job["message"].startswith("The process that predicts ended unexpectedly (exit code 3).")


def test_cancel_while_a_worker_starts(tmp_path: Path) -> None:
    slow = [sys.executable, "-c", "import time; time.sleep(600)"]
    with running(tmp_path, worker=slow) as client:
        job = submit(client)
        assert until(client, job, "running")["progress"] == {"stage": "starting", "done": 0.0, "total": 0}
        client.post(f"/api/jobs/{job['id']}/cancel")
        until(client, job, "cancelled")


def test_unfinished_jobs_are_interrupted_by_a_restart_and_can_be_run_again(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        first, second = submit(client, seed=WAITS), submit(client, "MgO")
        under_way(client, first)
        process = client.supervisor._process  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    with running(tmp_path) as client:
        jobs = client.get("/api/jobs").json()["jobs"]
        assert [(job["id"], job["state"]) for job in jobs] == [
            (second["id"], "interrupted"),
            (first["id"], "interrupted"),
        ]
        assert INTERRUPTED in client.get(f"/jobs/{first['id']}").text
        refused = client.post(f"/api/jobs/{first['id']}/cancel")
        assert (refused.status_code, "nothing to cancel" in refused.text) == (409, True)
        (tmp_path / "go").touch()
        assert client.post(f"/api/jobs/{first['id']}/again").status_code == 202
        assert client.post(f"/api/jobs/{first['id']}/again").status_code == 409
        until(client, first, "done")
        kept = (tmp_path / first["id"] / "NaCl" / "samples.jsonl").read_text()
        assert len(kept.splitlines()) == 2
        assert client.post(f"/api/jobs/{first['id']}/again").status_code == 409


def test_run_again_with_weights_that_were_trained_anew_is_a_new_job(opened: Open, tmp_path: Path) -> None:
    client = opened()
    first = submit(client, cells="1,2", samples=3, seed=WAITS)
    under_way(client, first)
    client.post(f"/api/jobs/{first['id']}/cancel")
    until(client, first, "cancelled")
    until(client, submit(client, "MgO"), "done")
    worker = client.supervisor._process.pid  # type: ignore[attr-defined]
    client.current["weights"] = "b"  # type: ignore[attr-defined]
    (tmp_path / "go").touch()
    answer = client.post(f"/api/jobs/{first['id']}/again")
    again = answer.json()
    assert answer.status_code == 202
    assert again["id"] != first["id"]
    same = ("formula", "units", "cells", "samples", "seed")
    assert [again[key] for key in same] == [first[key] for key in same]
    assert until(client, again, "done")["made_with"] == {"weights": "b"}
    lines = {one["id"]: (tmp_path / one["id"] / "NaCl" / "samples.jsonl").read_text() for one in (first, again)}
    assert {name: text.count("\n") for name, text in lines.items()} == {first["id"]: 1, again["id"]: 1}
    # the first one stays as it was, and the worker that had loaded the old weights is gone
    assert until(client, first, "cancelled")["made_with"] == {"weights": "a"}
    assert client.supervisor._process.pid != worker  # type: ignore[attr-defined]


def test_the_queue_is_bounded(opened: Open) -> None:
    client = opened(max_queue=2)
    running_ = submit(client, seed=SLEEPS)
    under_way(client, running_)
    waiting = [submit(client, "MgO") for _ in range(2)]
    refused = client.post("/api/jobs", json={"formula": "KCl"})
    assert refused.status_code == 429
    assert refused.json() == {"error": "the queue is full (2 waiting): try again later, or cancel one"}
    assert len(client.get("/api/jobs").json()["jobs"]) == 3
    client.post(f"/api/jobs/{waiting[0]['id']}/cancel")
    assert client.post(f"/api/jobs/{waiting[0]['id']}/again").status_code == 202
    assert client.post("/api/jobs", json={"formula": "KCl"}).status_code == 429


def test_a_folder_that_cannot_be_written(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", full)
        refused = client.post("/api/jobs", json={"formula": "KCl"})
    assert refused.status_code == 507
    assert refused.json()["error"] == "the folder of the history cannot be written (No space left on device)"
    waiting = submit(client, seed=WAITS)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", full)
        (client.supervisor.store.root / "go").touch()  # type: ignore[attr-defined]
        until(client, waiting, "running", "interrupted")
        until(client, waiting, "interrupted")
    until(client, submit(client), "done")


# ---- what is refused ----


@pytest.mark.parametrize(
    ("order", "complaint"),
    [
        ({"formula": "XyO2"}, "formula 'XyO2': unknown element 'Xy'"),
        ({"formula": "srtio3"}, "did you mean SrTiO3?"),
        ({"formula": ""}, "empty formula"),
        ({"formula": "../../etc"}, "unexpected '.' at character 1"),
        ({"formula": "C" * 300}, "formula: string should have at most 200 characters"),
        ({"formula": "C101"}, "101 atoms, more than the limit of 100"),
        ({"formula": "SrTiO3", "cells": "40"}, "200 atoms, more than the limit of 100"),
        ({"formula": "SrTiO3", "cells": "many"}, "write 'auto' or formula units"),
        ({"formula": "SrTiO3", "cells": "9" * 41}, "cells: string should have at most 40 characters"),
        ({"formula": "SrTiO3", "samples": 0}, "samples: input should be greater than or equal to 1"),
        ({"formula": "SrTiO3", "samples": 501}, "samples: input should be less than or equal to 500"),
        ({"formula": "SrTiO3", "samples": "5"}, "samples: input should be a valid integer"),
        ({"formula": "SrTiO3", "seed": -1}, "seed: input should be greater than or equal to 0"),
        ({"formula": "SrTiO3", "out": "/etc"}, "out: extra inputs are not permitted"),
        ({"formula": ["SrTiO3"]}, "formula: input should be a valid string"),
        ({}, "formula: field required"),
        ([], "request: input should be a valid dictionary"),
        (None, "request: input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_bad_orders_are_one_line(opened: Open, tmp_path: Path, order: object, complaint: str) -> None:
    answer = opened().post("/api/jobs", content=json.dumps(order), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert complaint in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert list(tmp_path.iterdir()) == []


def test_bodies_that_are_not_json(opened: Open) -> None:
    client = opened()
    as_json = {"content-type": "application/json"}
    for content in (b"{", b"\xff\xfe", b"[" * 10_000, b""):
        assert client.post("/api/jobs", content=content, headers=as_json).status_code == 400
    # what a form of another page could send
    plain = client.post("/api/jobs", content=b'{"formula": "NaCl"}', headers={"content-type": "text/plain"})
    assert plain.status_code == 415


@pytest.mark.parametrize(
    "name",
    ["x", "%2e%2e", "%2e%2e%2fetc", "0" * 31, "0" * 33, "0" * 32, "A" * 32, "0" * 32 + "%0a", "0" * 31 + "٣"],
)
def test_ids_that_are_none(opened: Open, name: str) -> None:
    client = opened()
    for path in (f"/api/jobs/{name}", f"/jobs/{name}", f"/api/jobs/{name}/report.html", f"/api/jobs/{name}/1.cif"):
        assert client.get(path).status_code == 404
    for verb in ("again", "cancel"):
        assert client.post(f"/api/jobs/{name}/{verb}").status_code == 404


def test_ranks_that_are_none(opened: Open) -> None:
    client = opened()
    job = until(client, submit(client), "done")
    for rank in ("0", "2", "01", "-1", "1e0", "x", "*", "..%2f001", "9" * 5000, "١"):
        assert client.get(f"/api/jobs/{job['id']}/{rank}.cif").status_code == 404
    for path in ("/static/app.py", "/static/..%2fjobs.py", "/nothing", "/api/nothing"):
        assert client.get(path).status_code == 404
    for page in ("0", "-1", "x", "1" * 9):
        assert client.get(f"/?page={page}").status_code == 400
        assert client.get(f"/api/jobs?page={page}").status_code == 400


@pytest.mark.parametrize(
    ("bound", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8000", 200),
        ("127.0.0.1", "localhost", 200),
        ("127.0.0.1", "LOCALHOST:9", 200),
        ("127.0.0.1", "[::1]:8000", 200),
        ("127.0.0.1", "crystals.lan:8000", 200),
        ("127.0.0.1", "evil.example", 421),
        ("127.0.0.1", "127.0.0.1.evil.example", 421),
        ("127.0.0.1", "localhost.", 421),
        ("127.0.0.1", "10.0.0.7", 421),
        ("127.0.0.1", "", 421),
        (EVERYWHERE, "10.0.0.7:8000", 200),
        (EVERYWHERE, "[fe80::1]:8000", 200),
        (EVERYWHERE, "evil.example", 421),
        ("10.0.0.7", "10.0.0.7", 200),
        ("10.0.0.7", "10.0.0.8", 421),
    ],
)
def test_hosts(opened: Open, bound: str, host: str, status: int) -> None:
    client = opened(bound)
    for path in ("/", "/api/jobs", "/healthz"):
        assert client.get(path, headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),  # a program
        ({"origin": "http://127.0.0.1:8000"}, True),
        ({"origin": "http://127.0.0.1:9000"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8000"}, True),
        # what Chromium sends of a page without referrer
        ({"sec-fetch-site": "same-origin", "origin": "null"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:8000"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "none"}, False),
    ],
)
def test_other_pages_may_change_nothing(opened: Open, headers: dict[str, str], *, allowed: bool) -> None:
    client = opened()
    answer = client.post("/api/jobs", json={"formula": "NaCl"}, headers=headers)
    assert answer.status_code == (201 if allowed else 403)
    job = submit(client, seed=SLEEPS)
    answer = client.post(f"/api/jobs/{job['id']}/cancel", headers=headers)
    assert answer.status_code == (202 if allowed else 403)
    # looking is not changing; browsers keep what they get from other pages
    assert client.get("/", headers=headers).status_code == 200


def test_long_bodies_are_refused(opened: Open) -> None:
    client = opened()
    long = b" " * (MAX_BODY + 1)
    assert client.post("/api/jobs", content=long).status_code == 413
    for length in ("-1", "x", "9" * 40):
        assert client.post("/api/jobs", content=b"", headers={"content-length": length}).status_code == 413
    # of unknown length
    pieces = client.post("/api/jobs", content=iter([b" "] * 3 + [long]), headers={"content-type": "application/json"})
    assert pieces.status_code == 413


def test_every_answer_carries_the_headers(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened()
    job = until(client, submit(client), "done")
    answers = [
        client.get(path) for path in ("/", "/api/jobs", "/healthz", "/static/app.js", "/nothing", "/favicon.ico")
    ]
    answers += [client.get(f"/api/jobs/{job['id']}/{name}") for name in ("1.cif", "candidates.zip", "report.html")]
    answers += [client.get("/", headers={"host": "evil.example"}), client.delete("/api/jobs"), client.post("/api/jobs")]
    monkeypatch.setattr(server, "read_order", lambda *_, **__: 1 / 0)
    broken = client.post("/api/jobs", json={})
    assert (broken.status_code, broken.json()) == (500, {"error": "internal error: ZeroDivisionError"})
    for answer in [*answers, broken]:
        for name, value in HEADERS.items():
            if name not in {"cache-control", "content-security-policy"}:
                assert answer.headers[name] == value
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
    assert "sandbox" in client.get(f"/api/jobs/{job['id']}/report.html").headers["content-security-policy"]


def test_websockets_are_refused(opened: Open) -> None:
    client = opened()
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/"):
        pass


def test_the_policy_of_a_report_is_its_own_or_none() -> None:
    good = (
        "default-src 'none'; script-src 'sha256-"
        + "A" * 43
        + "=' 'sha256-"
        + "B" * 43
        + "='; style-src 'unsafe-inline'"
    )
    meta = '<meta http-equiv="Content-Security-Policy" content="{}">'
    found = server._policy_of(meta.format(good.replace("'", "&#39;")))
    assert f"script-src 'sha256-{'A' * 43}=' 'sha256-{'B' * 43}=';" in found
    assert "frame-ancestors 'none'" in found
    for bad in ("script-src *;", "script-src 'unsafe-inline';", good.replace("; style", " *; style"), "\r\nx: y"):
        assert server._policy_of(meta.format(bad)) == HEADERS["content-security-policy"]


# ---- history ----


def test_the_history_is_paged_and_skips_what_is_not_a_job(tmp_path: Path) -> None:
    store = Store(tmp_path)
    jobs = [store.new("NaCl", (1,), 5, seed, {}).model_copy(update={"state": "done"}) for seed in range(PAGE + 5)]
    for job in jobs:
        store.write(job)
    (tmp_path / "notes").mkdir()
    broken = store.new("KCl", (1,), 5, 0, {})
    store.write(broken)
    (tmp_path / broken.id / "job.json").write_text('{"id": ')
    page, pages = store.page(2)
    assert pages == 2
    assert [job.seed for job in page] == [5, 4, 3, 2, 1, 0]
    assert store.page(3) == ([], 2)
    with running(tmp_path) as client:
        html = client.get("/?page=2").text
        assert html.count("<li>") == 6
        assert "Page 2 of 2" in html
        assert 'href="/?page=1#history"' in html
        assert client.get("/api/jobs?page=2").json()["pages"] == 2
        assert client.get(f"/jobs/{broken.id}").status_code == 404


@pytest.mark.parametrize("formula", ["..", "../..", "/etc", "Cl1Na1", "ClNa", "<b>", ""])
def test_a_job_file_that_leads_elsewhere_is_not_followed(tmp_path: Path, formula: str) -> None:
    store = Store(tmp_path)
    store.write(store.new("NaCl", (1,), 5, 0, {}).model_copy(update={"formula": formula, "state": "done"}))
    assert store.page(1) == ([], 1)


def test_ids_make_paths_only_if_they_are_ids(tmp_path: Path) -> None:
    for name in ("..", "/", "a" * 31, "A" * 32, "a" * 32 + "\n"):
        with pytest.raises(ValueError, match="is not the id of a job"):
            Store(tmp_path).folder(name)


def test_text_of_jobs_is_escaped(tmp_path: Path) -> None:
    store = Store(tmp_path)
    hostile = "<script>alert(1)</script>"
    job = store.new("NaCl", (1,), 5, 0, {}).model_copy(update={"state": "failed", "message": hostile})
    store.write(job)
    with running(tmp_path) as client:
        for path in ("/", f"/jobs/{job.id}"):
            page = client.get(path).text
            assert hostile not in page
            assert "&lt;script&gt;" in page


def test_pages_hold_no_inline_script_and_load_nothing_from_elsewhere(opened: Open) -> None:
    client = opened()
    job = submit(client, seed=SLEEPS)
    for path in ("/", f"/jobs/{job['id']}", "/nothing"):
        page = client.get(path).text
        assert re.findall(r"<script[^>]*>[^<]", page) == []
        assert re.findall(r"\son\w+=|style=|<style|javascript:", page) == []
        for address in re.findall(r'\s(?:src|href|action)="([^"]*)"', page):
            assert address.startswith("/")
            if address.startswith("/static/"):
                assert client.get(address).status_code == 200
    for path in ("/static/style.css", "/static/app.js"):
        text = client.get(path).text
        assert not re.search(r"https?:|url\(|@import|\beval\(|\.innerHTML\s*=[^=]", text)


def test_a_request_without_host_is_refused() -> None:
    """As an old program would send it; no client library does."""

    async def never(*_: object) -> None:
        raise AssertionError

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    for hosts in ([], [(b"host", b"localhost"), (b"host", b"evil.example")]):
        scope = {"type": "http", "method": "GET", "path": "/", "headers": hosts}
        asyncio.run(Protection(never, Hosts("127.0.0.1"))(scope, never, send))  # type: ignore[arg-type]
        assert sent[0]["status"] == 421
        sent.clear()
