"""The pages in a real browser: what a person does, and that nothing else happens."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, Tab, find_chromium

pytest.importorskip("starlette", reason="dao serve needs starlette and uvicorn (extra serve)")

from serving import FAKE_WORKER, serving

from dao.app.run import worker_command
from dao.app.worker import Predicting

SLEEPS, WAITS = 4, 6
DONE = "document.querySelector('h1')?.innerText === 'the report'"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    path = find_chromium()
    if path is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium), or $CHROMIUM")
    with Chromium(path, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "out", FAKE_WORKER) as found:
        yield found


@pytest.fixture
def new_tab(browser: Chromium, tmp_path: Path) -> Iterator[Callable[..., Tab]]:
    """Opens tabs, of which none may have asked for anything elsewhere or complained of anything."""
    opened: list[Tab] = []
    downloads = tmp_path / "downloads"

    def tab(address: str, **options: Any) -> Tab:
        opened.append(browser.tab(downloads, **options))
        opened[-1].open(address)
        return opened[-1]

    downloads.mkdir()
    yield tab
    for one in opened:
        elsewhere = [url for url in one.requests if not re.match(r"(http://127\.0\.0\.1:\d+/|data:|blob:)", url)]
        assert elsewhere == []
        assert one.complaints == []
        one.close()


def ask(tab: Tab, formula: str, **settings: int) -> None:
    """As a person without a mouse: the formula field has the focus when the page opens."""
    tab.wait_for("document.activeElement?.id === 'formula'")
    for name, value in settings.items():
        tab.evaluate(f"document.querySelector('[name={name}]').value = '{value}'")
    tab.type(formula)
    tab.press("Enter", 13)


def on_job_page(tab: Tab) -> str:
    return str(
        tab.wait_for(
            "location.pathname.startsWith('/jobs/') && document.readyState === 'complete' && location.pathname"
        )
    )


def test_from_formula_to_report_with_the_shipped_weights(
    new_tab: Callable[..., Tab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Type, wait, rotate, download: what dao serve is for."""
    from pymatgen.core import Structure

    pytest.importorskip("pymatgen.analysis.diffraction", reason="the report needs pymatgen (extra report)")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with serving(tmp_path / "out", worker_command(Predicting(steps=10))) as address:
        # small, as the processor draws in the place of a graphics card
        tab = new_tab(address, width=600, height=500)
        ask(tab, "NaCl", samples=4)
        on_job_page(tab)
        tab.wait_for("document.documentElement.dataset.ready === 'true'")
        assert re.sub(r"\s", "", tab.text("h1")) == "NaCl"
        assert "predicted crystal structure" in tab.text(".lede")

        # a person turns the structure with the mouse
        eye = "JSON.stringify(document.getElementById('structure')._fullLayout.scene._scene.getCamera().eye)"
        before = json.loads(tab.evaluate(eye))
        tab.drag("#structure", 150, 40)
        tab.wait_for(f"{eye} !== {json.dumps(json.dumps(before, separators=(',', ':')))}")

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of coordinates that are snapped to thirds
            name = str(tab.evaluate("document.querySelector('td .download').download"))
            cif = tab.download("td .download", name).decode()
            structure = Structure.from_str(cif, fmt="cif")
            assert structure.composition.reduced_formula == "NaCl"
            packed = tab.download("a[href$='candidates.zip']", "NaCl-candidates.zip")
            with zipfile.ZipFile(io.BytesIO(packed)) as archive:
                assert archive.read(f"NaCl/{name}").decode() == cif
            full = json.loads(tab.download("a[href$='candidates.json']", "NaCl-candidates.json"))
            assert Structure.from_dict(full[0]["structure"]).composition.reduced_formula == "NaCl"
        report = tab.download("a[href$='report.html']", "NaCl-report.html").decode()
        assert report.count("<html") == 1
        assert "Downloads" not in report
        # every structure is one click away, also from the table's last row
        tab.click("tr:last-of-type button.view, tbody tr button.view")
        assert tab.text("#structure-cell").startswith("Conventional cell")


def test_a_wrong_formula_is_explained_and_can_be_mended(new_tab: Callable[..., Tab], address: str) -> None:
    tab = new_tab(address)
    tab.complaints.clear()
    ask(tab, "srtio3")
    tab.wait_for("document.getElementById('order-error').innerText !== ''")
    assert tab.text("#order-error").startswith("Formula 'srtio3':")
    assert "did you mean SrTiO3?" in tab.text("#order-error")
    assert tab.evaluate("document.getElementById('formula').getAttribute('aria-invalid')") == "true"
    assert tab.evaluate("document.getElementById('order-error').getAttribute('role')") == "alert"
    assert tab.evaluate("document.activeElement.id") == "formula"
    # that the server refuses is all that the browser notes
    assert all("400" in one for one in tab.complaints)
    tab.complaints.clear()
    tab.click("button.example")
    assert tab.text("#order-error") == ""
    tab.press("Enter", 13)
    on_job_page(tab)
    tab.wait_for(DONE)


def test_two_tabs_and_a_reload_during_a_run(new_tab: Callable[..., Tab], address: str, tmp_path: Path) -> None:
    first = new_tab(address)
    ask(first, "NaCl", seed=WAITS)
    path = on_job_page(first)
    first.wait_for("document.getElementById('job-status').innerText.startsWith('Generating structures: 2 of 4')")
    assert first.evaluate("document.getElementById('job-progress').value") == pytest.approx(0.5)
    assert first.evaluate("document.querySelector('[aria-current]').dataset.stage") == "sampling"

    second = new_tab(f"{address}/")
    assert "Running" in second.text("#history")
    ask(second, "MgO")
    on_job_page(second)
    second.wait_for("document.getElementById('job-status').innerText === 'Waiting: next in the queue'")
    third = new_tab(f"{address}/")

    first.reload()
    assert first.evaluate("location.pathname") == path
    first.wait_for("document.getElementById('job-status').innerText.startsWith('Generating structures: 2 of 4')")
    watching = new_tab(f"{address}{path}")
    (tmp_path / "out" / "go").touch()
    for tab in (first, second, watching):
        tab.wait_for(DONE)
    # the list has brought itself up to date
    third.wait_for("document.querySelectorAll('#history [data-state=done]').length === 2")


def test_cancel_and_run_again(new_tab: Callable[..., Tab], address: str) -> None:
    running, waiting = new_tab(address), new_tab(address)
    ask(running, "NaCl", seed=SLEEPS)
    on_job_page(running)
    running.wait_for("document.getElementById('job-status').innerText.startsWith('Generating')")
    ask(waiting, "MgO", seed=SLEEPS)
    on_job_page(waiting)
    waiting.wait_for("document.getElementById('job-status')?.innerText.startsWith('Waiting')")
    for tab in (waiting, running):
        tab.click("button[data-action=cancel]")
        tab.wait_for("document.getElementById('job-heading')?.innerText === 'Cancelled'")
    with running.loading():
        running.click("button[data-action=again]")
    running.wait_for("document.getElementById('job-status')?.innerText.startsWith('Generating')")


def test_a_server_that_has_gone_is_missed_and_found_again(new_tab: Callable[..., Tab], tmp_path: Path) -> None:
    with serving(tmp_path / "out", FAKE_WORKER) as address:
        tab = new_tab(address)
        ask(tab, "NaCl", seed=SLEEPS)
        on_job_page(tab)
        tab.wait_for("document.getElementById('job-status')?.innerText.startsWith('Generating')")
    tab.wait_for("document.getElementById('job-error').innerText.includes('does not answer')")
    assert all("ERR_CONNECTION" in one or "ERR_EMPTY" in one for one in tab.complaints)
    tab.complaints.clear()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_pages_fit_the_window_and_can_be_read(
    new_tab: Callable[..., Tab], address: str, width: int, *, dark: bool
) -> None:
    tab = new_tab(address, width=width, height=844, dark=dark)
    ask(tab, "Ca(OH)2" if dark else "SrTiO3")
    on_job_page(tab)
    tab.wait_for(DONE)
    tab.open(address)
    tab.evaluate("document.querySelector('details').open = true")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    # every field has a name, and text stands out from what is behind it
    unnamed = "[...document.querySelectorAll('input')].filter((one) => !one.labels.length).length"
    assert tab.evaluate(unnamed) == 0
    assert tab.evaluate(CONTRAST) >= 4.5


CONTRAST = """(() => {
  const channels = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = (colour) => channels(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if ((channels(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return Math.min(...[...document.querySelectorAll("h1, h2, p, label, button, a, input, time, .state, footer, summary")]
    .filter((one) => one.innerText || one.value).map((one) => {
      const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    }));
})()"""
"""Least contrast of text on a page, as WCAG 2 counts it."""


def test_pages_can_be_used_without_a_mouse(new_tab: Callable[..., Tab], address: str) -> None:
    tab = new_tab(address)
    tab.wait_for("document.activeElement?.id === 'formula'")
    reached: list[str] = []
    tab.press("Tab", 9)
    while tab.evaluate("document.activeElement !== document.body") and len(reached) < 30:
        reached.append(tab.evaluate("document.activeElement.innerText || document.activeElement.name"))
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        tab.press("Tab", 9)
    assert reached[0] == "Predict"
    assert "Settings" in reached
    assert tab.evaluate("location.pathname") == "/"
