"""The pages as HTML: everything that was typed or computed is escaped by the template engine."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

import dao
from dao.app.jobs import MAX_FORMULA, MAX_SAMPLES, REPEATABLE, UNFINISHED, Defaults
from dao.app.worker import STAGES
from dao.report.text import formula_parts, pretty_space_group

STATES = {
    "queued": "Waiting",
    "running": "Running",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "interrupted": "Interrupted",
}
"""Of a job, for people."""

STAGE_NAMES = dict(
    zip(
        STAGES,
        ("Loading the model", "Generating structures", "Comparing and ranking them", "Writing the report"),
        strict=True,
    )
)

EXAMPLES = ("SrTiO3", "NaCl", "GaAs", "MgSiO3", "Li3N")
"""Formulas to try; small cells, so that the first try is quick."""


class Pages:
    """Fills in the templates."""

    def __init__(self) -> None:
        """Prepare the template engine; templates are compiled when they are first used."""
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("dao.app"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {"parts": formula_parts, "space_group": pretty_space_group}
        self._environment.globals |= {
            "states": STATES,
            "stages": STAGE_NAMES,
            "unfinished": UNFINISHED,
            "repeatable": REPEATABLE,
            "release": dao.__version__,
            "style": f"/static/style.css?{_version(style())}",
            "script": f"/static/app.js?{_version(script())}",
        }

    def home(self, *, jobs: list[dict[str, Any]], number: int, pages: int, defaults: Defaults) -> str:
        """The form, and a page of the history."""
        return self._render(
            "home.html.j2",
            jobs=jobs,
            number=number,
            pages=pages,
            defaults=defaults,
            examples=EXAMPLES,
            max_samples=MAX_SAMPLES,
            max_formula=MAX_FORMULA,
        )

    def job(self, job: dict[str, Any]) -> str:
        """A job that is not done."""
        return self._render("job.html.j2", job=job)

    def bar(self, job: dict[str, Any]) -> str:
        """What stands above the report of a finished job; brings its own style, as reports load nothing."""
        return self._render("bar.html.j2", job=job, bar_style=Markup(asset("static/bar.css")))  # noqa: S704 -- our own file

    def error(self, message: str) -> str:
        """What went wrong, in one line."""
        return self._render("error.html.j2", message=message)

    def _render(self, template: str, **values: Any) -> str:  # noqa: ANN401 -- whatever the template takes
        return self._environment.get_template(template).render(values)


@cache
def style() -> str:
    """The report's style sheet, and what the other pages add to it."""
    return (
        files("dao.report").joinpath("page.css").read_text("utf-8") + asset("static/bar.css") + asset("static/app.css")
    )


@cache
def script() -> str:
    """The script of all pages but reports."""
    return asset("static/app.js")


@cache
def asset(name: str) -> str:
    """Text of a file of this package."""
    return files("dao.app").joinpath(name).read_text("utf-8")


def _version(text: str) -> str:
    """Another address for another text, so that browsers may keep it."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
