"""The web application: pages for people, the same as JSON under ``/api/``, and the files of finished jobs."""

from __future__ import annotations

import html
import io
import json
import re
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import dao
from dao.app.jobs import Defaults, Job, is_id, read_order
from dao.app.pages import Pages, asset, script, style
from dao.app.protection import POLICY, Hosts, Protection
from dao.app.supervisor import NotPossibleError, QueueFullError, Supervisor
from dao.errors import InputError

CIF_TYPE = "chemical/x-cif"
TABLES = ("candidates.json", "candidates.csv", "candidates.extxyz")


def make_app(supervisor: Supervisor, hosts: Hosts, defaults: Defaults) -> Protection:
    """The application; the worker lives as long as it does."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await supervisor.start()
        try:
            yield
        finally:
            await supervisor.stop()

    one = _Handlers(supervisor, defaults)
    app = Starlette(
        routes=[
            Route("/", one.home),
            Route("/jobs/{id}", one.page),
            Route("/static/{name}", one.static),
            Route("/favicon.ico", one.icon),
            Route("/healthz", one.health),
            Route("/api/jobs", one.listed, methods=["GET"]),
            Route("/api/jobs", one.submit, methods=["POST"]),
            Route("/api/jobs/{id}", one.shown),
            Route("/api/jobs/{id}/cancel", one.cancel, methods=["POST"]),
            Route("/api/jobs/{id}/again", one.again, methods=["POST"]),
            Route("/api/jobs/{id}/candidates.json", one.candidates),
            Route("/api/jobs/{id}/candidates.zip", one.zipped),
            Route("/api/jobs/{id}/report.html", one.report),
            Route("/api/jobs/{id}/{rank}.cif", one.cif),
        ],
        exception_handlers={HTTPException: one.refused, Exception: one.broken},
        lifespan=lifespan,
    )
    # outermost, so that it sees the answers to our own faults too
    return Protection(app, hosts)


class _Handlers:
    """What answers each address."""

    def __init__(self, supervisor: Supervisor, defaults: Defaults) -> None:
        self._supervisor = supervisor
        self._store = supervisor.store
        self._defaults = defaults
        self._pages = Pages()

    # ---- pages ----

    async def home(self, request: Request) -> Response:
        """The form and the history."""
        number = _page_number(request)
        jobs, pages = await self._history(number)
        page = self._pages.home(
            jobs=[self._told(job) for job in jobs], number=number, pages=pages, defaults=self._defaults
        )
        return HTMLResponse(page)

    async def page(self, request: Request) -> Response:
        """A job: its report where it is done, and how it stands where it is not."""
        job = self._job(request)
        if job.state != "done":
            return HTMLResponse(self._pages.job(self._told(job)))
        text = await run_in_threadpool(self._file(job, "report.html").read_text, "utf-8")
        policy = _policy_of(text)
        page = text.replace("<body>", f"<body>\n{self._pages.bar(self._told(job))}", 1)
        return HTMLResponse(page, headers={"content-security-policy": policy})

    async def static(self, request: Request) -> Response:
        """Style sheet and script, whose addresses change with their contents."""
        known = {"style.css": ("text/css", style()), "app.js": ("text/javascript", script())}
        name = request.path_params["name"]
        if name not in known:
            raise HTTPException(404, "there is no such file")
        kind, text = known[name]
        return Response(text, media_type=kind, headers={"cache-control": "max-age=31536000, immutable"})

    async def icon(self, _: Request) -> Response:
        """The page's icon."""
        return Response(
            asset("static/icon.svg"), media_type="image/svg+xml", headers={"cache-control": "max-age=86400"}
        )

    async def health(self, _: Request) -> Response:
        """Whether the server works, for whatever watches it."""
        held = {"running": self._supervisor.busy, "waiting": self._supervisor.waiting}
        return JSONResponse({"status": "ok", "version": dao.__version__, **held})

    # ---- the same as JSON ----

    async def listed(self, request: Request) -> Response:
        """A page of the history."""
        number = _page_number(request)
        jobs, pages = await self._history(number)
        return JSONResponse({"jobs": [self._told(job) for job in jobs], "page": number, "pages": pages})

    async def submit(self, request: Request) -> Response:
        """Queue a job."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "send JSON, as content-type application/json")
        try:
            payload = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise HTTPException(400, "what was sent is not JSON") from None
        try:
            order = read_order(payload, self._defaults)
        except InputError as error:
            raise HTTPException(400, str(error)) from None
        with _answering(self._supervisor):
            job = self._supervisor.add(*order)
        return JSONResponse(self._told(job), 201, headers={"location": f"/api/jobs/{job.id}"})

    async def shown(self, request: Request) -> Response:
        """How a job stands."""
        return JSONResponse(self._told(self._job(request)))

    async def cancel(self, request: Request) -> Response:
        """Stop a job."""
        with _answering(self._supervisor):
            return JSONResponse(self._told(self._supervisor.cancel(self._job(request))), 202)

    async def again(self, request: Request) -> Response:
        """Queue a job that stopped short."""
        with _answering(self._supervisor):
            return JSONResponse(self._told(self._supervisor.again(self._job(request))), 202)

    # ---- files ----

    async def candidates(self, request: Request) -> Response:
        """Records and crystals of all candidates."""
        job = self._done(request)
        return _download(self._file(job, "candidates.json"), "application/json", f"{job.formula}-candidates.json")

    async def cif(self, request: Request) -> Response:
        """One candidate."""
        rank = request.path_params["rank"]
        job = self._done(request)
        if not re.fullmatch(r"[1-9][0-9]{0,3}", rank):
            raise HTTPException(404, "there is no such candidate")
        found = sorted(self._store.results(job).glob(f"{int(rank):03d}_*.cif"))
        if not found:
            raise HTTPException(404, "there is no such candidate")
        return _download(found[0], CIF_TYPE, f"{job.formula}-{found[0].name}")

    async def zipped(self, request: Request) -> Response:
        """All candidates, as CIF files and tables."""
        job = self._done(request)
        packed = await run_in_threadpool(_zip, self._store.results(job), job.formula)
        return Response(packed, media_type="application/zip", headers=_attached(f"{job.formula}-candidates.zip"))

    async def report(self, request: Request) -> Response:
        """The report as one file."""
        job = self._done(request)
        return _download(self._file(job, "report.html"), "text/html", f"{job.formula}-report.html")

    # ---- what goes wrong ----

    async def refused(self, request: Request, error: Exception) -> Response:
        """One line: JSON for programs, a page for people."""
        assert isinstance(error, HTTPException)  # noqa: S101 -- by registration
        if request.url.path.startswith(("/api/", "/static/")):
            return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
        return HTMLResponse(self._pages.error(error.detail), error.status_code, headers=error.headers)

    async def broken(self, _: Request, error: Exception) -> Response:
        """Our fault; the server's log has the traceback."""
        return JSONResponse({"error": f"internal error: {type(error).__name__}"}, 500)

    # ---- helpers ----

    def _job(self, request: Request) -> Job:
        name = request.path_params["id"]
        job = self._supervisor.job(name) if is_id(name) else None
        if job is None:
            raise HTTPException(404, "there is no such prediction")
        return job

    def _done(self, request: Request) -> Job:
        job = self._job(request)
        if job.state != "done":
            raise HTTPException(409, f"this prediction is {job.state}: there is nothing to download")
        return job

    def _file(self, job: Job, name: str) -> Path:
        path = self._store.results(job) / name
        if not path.is_file():
            raise HTTPException(404, f"{name} of this prediction is no longer there")
        return path

    async def _history(self, number: int) -> tuple[list[Job], int]:
        jobs, pages = await run_in_threadpool(self._store.page, number)
        settled = map(self._supervisor.settled, jobs)
        return [job for job in settled if job is not None], pages

    def _told(self, job: Job) -> dict[str, Any]:
        """A job as clients see it."""
        progress = self._supervisor.progress(job)
        return job.model_dump() | {
            "position": self._supervisor.position(job),
            "progress": None if progress is None else asdict(progress),
        }


@contextmanager
def _answering(supervisor: Supervisor) -> Iterator[None]:
    """Turns what the supervisor refuses into answers."""
    try:
        yield
    except QueueFullError:
        said = f"the queue is full ({supervisor.max_queue} waiting): try again later, or cancel one"
        raise HTTPException(429, said) from None
    except NotPossibleError as error:
        raise HTTPException(409, str(error)) from None
    except OSError as error:
        raise HTTPException(507, f"the folder of the history cannot be written ({error.strerror})") from None


def _page_number(request: Request) -> int:
    text = request.query_params.get("page", "1")
    if not re.fullmatch(r"[1-9][0-9]{0,6}", text):
        raise HTTPException(400, "page: a number from 1 on")
    return int(text)


def _policy_of(report: str) -> str:
    """The policy that a report carries, as a header, and that nothing may frame it.

    It names the report's own scripts by their hashes, which those of an earlier version of the software differ in.
    """
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', report[:4000])
    policy = html.unescape(found[1]) if found else ""
    scripts = re.search(r"script-src((?: 'sha256-[A-Za-z0-9+/=]{44}')+);", policy)
    if scripts is None:
        return POLICY
    return (
        f"default-src 'none'; script-src{scripts[1]}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _attached(name: str) -> dict[str, str]:
    # a report that a browser opens all the same may do nothing here
    return {
        "content-disposition": f'attachment; filename="{name}"',
        "content-security-policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
    }


def _download(path: Path, kind: str, name: str) -> Response:
    return FileResponse(path, media_type=kind, headers=_attached(name))


def _zip(folder: Path, formula: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (*sorted(folder.glob("[0-9]*_*.cif")), *(folder / name for name in TABLES)):
            if path.is_file():
                archive.write(path, f"{formula}/{path.name}")
    return packed.getvalue()
