from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Structure
from pymatgen.core.structure_matcher import StructureMatcher
from toys import tiny_predictor, toy, toy_crystals

from dao.crystal import Crystal
from dao.data.store import pack_crystals
from dao.prediction.composition import parse_formula
from dao.prediction.files import cif_text
from dao.prediction.foundation_relax import Relaxing
from dao.prediction.judging import Judge
from dao.prediction.novelty import Novelty
from dao.prediction.pipeline import FormulaResult, Walker
from dao.prediction.prototype_build import build_table
from dao.prediction.prototypes import Proposer
from dao.prediction.ranking import Candidate, rank_by_recurrence, with_energies
from dao.prediction.sources import Sources
from dao.report import results
from dao.report.contents import Report, Walk, general_warnings, significant, warnings_of
from dao.report.diffraction import Peak
from dao.report.page import json_for_html, render
from dao.report.results import write_report
from dao.report.scenes import drawn_cell, nearest, scene, scenes, upright
from dao.report.text import formula_parts
from dao.trajectory import Trajectory

ROCKSALT, CSCL = toy("rocksalt", ("Na", "Cl"), 5.64), toy("cscl", ("Na", "Cl"), 3.5)
HOSTILE = "</script><script>alert(1)</script>&\u2028'\""


def candidates(*crystals: Crystal) -> list[Candidate]:
    return rank_by_recurrence("NaCl", 2, [(1, i, one) for i, one in enumerate(crystals)], total=20, source="generator")


TWO = candidates(ROCKSALT, ROCKSALT, ROCKSALT, CSCL)
STATES = Trajectory((1.0, 0.5, 0.0), tuple(toy("rocksalt", ("Na", "Cl"), a) for a in (8.0, 6.5, 5.64)))


class Page(HTMLParser):
    """What a browser would find: tags with attributes, and the text of each script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.rows: list[list[str]] = []
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        self._open = tag
        if tag == "script":
            self.scripts.append("")
        elif tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"} and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 -- the base class's
        self._open = ""

    def with_attribute(self, name: str) -> list[tuple[str, dict[str, str]]]:
        return [(tag, attributes) for tag, attributes in self.tags if name in attributes]


def page(report: Report, patterns: dict[int, list[Peak]] | None = None) -> str:
    cifs = {one.rank: cif_text(one) for one in report.candidates}
    cells = {rank: drawn_cell(text) for rank, text in cifs.items()}
    return render(report, cifs, cells, patterns or {}, [] if report.walk is None else scenes(report.walk.states))


def test_the_page_loads_nothing() -> None:
    html = page(Report(formula="NaCl", candidates=TWO, walk=Walk(1, "sample 1", STATES)))
    found = Page(html)
    for name in ("src", "srcset", "data", "poster", "background", "action", "formaction", "ping", "manifest"):
        assert found.with_attribute(name) == []
    assert not {tag for tag, _ in found.tags} & {"link", "iframe", "object", "embed", "base", "img", "form"}
    # links are followed by readers, not loaded by the page
    assert {tag for tag, _ in found.with_attribute("href")} == {"a"}
    outside = [
        attributes["href"] for _, attributes in found.with_attribute("href") if "data:" not in attributes["href"]
    ]
    assert outside == ["https://doi.org/10.1038/s41467-026-72362-3"]
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    script = found.scripts[-1]
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|WebSocket|import\(|\beval\(|Function\(", script)
    # plotly.js can upload charts
    assert 'showSendToCloud: false, plotlyServerURL: ""' in script


def test_the_policy_allows_the_two_scripts_only() -> None:
    import gzip
    import hashlib

    found = Page(page(Report(formula="NaCl", candidates=TWO)))
    policy = next(one["content"] for _, one in found.tags if one.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    assert rules["img-src"] == "data: blob:"
    types = [one.get("type") for tag, one in found.tags if tag == "script"]
    assert types == ["application/json", "text/plain", None]
    library = gzip.decompress(base64.b64decode(found.scripts[1])).decode()
    assert "plotly.js" in library[:200]
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in (found.scripts[2], library)
    }
    assert set(rules["script-src"].split()) == hashes


def test_the_table_is_complete_and_its_cifs_are_the_candidates() -> None:
    known = with_energies(TWO, [0.0123, 0.25], [0.02, 0.05])
    found = Page(page(Report(formula="NaCl", candidates=known, doubts={2: "over 20 atoms"})))
    first, second, remark = found.rows[1:4]
    text = ["|".join(part.strip() for part in row) for row in (first, second)]
    assert text[0].startswith(
        "1|Fm3\u0305m (225)|0.012 \u00b1 0.020|3 of 20|22.4|2 (1)|5.64, 5.64, 5.6490.0, 90.0, 90.0|generator"
    )
    assert text[1].startswith(
        "2|Pm3\u0305m (221)|0.250 \u00b1 0.050|1 of 20|21.4|2 (1)|3.50, 3.50, 3.5090.0, 90.0, 90.0|generator"
    )
    # of the second alone, below it
    assert "The predictor doubts its energy: over 20 atoms." in remark[1]
    headings = found.rows[0]
    assert len(headings) == len(first) == len(second)
    assert sum(tag == "th" and one.get("scope") == "col" for tag, one in found.tags) == len(headings)
    assert sum(tag == "th" and one.get("scope") == "row" for tag, one in found.tags) == 2

    links = [one for _, one in found.with_attribute("download")]
    assert [one["download"] for one in links] == ["001_Fm-3m.cif", "002_Pm-3m.cif"]
    exact = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.1, scale=False)
    for link, candidate in zip(links, known, strict=True):
        kind, _, coded = link["href"].partition(";base64,")
        assert kind == "data:chemical/x-cif"
        assert exact.fit(Structure.from_str(base64.b64decode(coded).decode(), fmt="cif"), candidate.structure)


def test_how_new_a_candidate_is() -> None:
    near, far = Novelty("known kind", "KCl", 225, 0.0123), Novelty("new arrangement")
    known = [replace(one, novelty=new) for one, new in zip(TWO, (near, far), strict=True)]
    found = Page(page(Report(formula="NaCl", candidates=known)))
    said = [" ".join(row[-1].split()) for row in found.rows[1:] if len(row) < len(found.rows[0])]
    assert len(said) == len(TWO)
    assert said[0].startswith("Known kind, nearest KCl (difference 0.01).")
    assert said[1].startswith("New arrangement, no known crystal has these counts of atoms.")
    assert "Known kind" not in page(Report(formula="NaCl", candidates=TWO))


def test_settings_say_what_proposed_and_what_relaxed(tmp_path: Path) -> None:
    path = tmp_path / "toys.safetensors"
    build_table(pack_crystals(toy_crystals()), {"source": "toys"}).save(path)
    composition = parse_formula("NaCl")

    def settings(walker: Walker, refined_from: float | None = None) -> dict[str, str]:
        result = FormulaResult(
            composition=composition,
            folder=tmp_path,
            candidates=[],
            plan={},
            samples=[],
            model=None,
            settings=None,
            seed=0,
            walker=walker,
            refined_from=refined_from,
        )
        return results._settings(result)

    bare = settings(Walker(Sources(), Judge(), None, None, None, None))
    assert bare["Relaxed"] == "no"
    assert not {"Prototypes", "Prototypes refined"} & bare.keys()
    sources, proposer = Sources(table=path), Proposer.load(path)
    both = settings(Walker(sources, Judge(), proposer, None, None, None))
    assert both["Prototypes"] == f"toys ({proposer.table.fingerprint})"
    assert both["Prototypes refined"] == "no"
    relaxing = Relaxing(potential="predictor", top=3)
    predictor = tiny_predictor()
    walker = Walker(sources, Judge(), proposer, None, relaxing, relaxing.load("cpu", predictor))
    every = settings(walker, 0.2)
    assert every["Prototypes refined"] == "from time 0.2"
    assert every["Relaxed"] == f"the first 3, by tiny ({predictor.fingerprint})"


def test_hostile_text_stays_text() -> None:
    named = [replace(one, formula=HOSTILE, source=HOSTILE) for one in TWO]
    report = Report(
        formula=HOSTILE, candidates=named, settings={HOSTILE: HOSTILE}, ranked_by=HOSTILE, doubts={1: HOSTILE},
        walk=Walk(1, HOSTILE, STATES),
    )  # fmt: skip
    html = page(report)
    assert "alert(1)</script>" not in html
    found = Page(html)
    # no script more than in any other report
    assert len(found.scripts) == 3
    assert HOSTILE in json.loads(found.scripts[0])["candidates"][0]["warnings"][-1]


def test_json_for_html() -> None:
    assert json.loads(json_for_html({"a": HOSTILE})) == {"a": HOSTILE}
    assert not set("<>&\u2028") & set(json_for_html(HOSTILE))
    with pytest.raises(ValueError, match="JSON"):
        json_for_html(float("nan"))


def test_an_empty_report() -> None:
    html = page(Report(formula="NaCl", candidates=[]))
    assert "there is nothing to show" in html
    assert Page(html).with_attribute("download") == []


def test_energies_that_are_missing() -> None:
    known = with_energies(TWO, [0.01, float("nan")], [None, None])
    found = Page(page(Report(formula="NaCl", candidates=known)))
    assert found.rows[1][2].strip() == "0.010"
    assert found.rows[2][2].strip() == "none"
    data = json.loads(found.scripts[0])
    assert [one["energy"] for one in data["candidates"]] == [0.01, None]
    assert "The predictor gives no energy for it." in warnings_of(Report(formula="NaCl", candidates=known), known[1])


def test_warnings() -> None:
    plain = Report(formula="NaCl", candidates=TWO, trained_atoms=1, discarded=16)
    said = " ".join(general_warnings(plain))
    assert "No energies" in said
    assert "16 of 20 samples were no crystals" in said
    assert "stands out" not in said
    assert warnings_of(plain, TWO[0]) == [
        "Its primitive cell has 2 atoms; the generator was trained on cells of at most 1."
    ]
    # that says nothing of what prototypes propose
    assert warnings_of(plain, replace(TWO[0], source="prototype")) == []
    rare = Report(formula="NaCl", candidates=candidates(ROCKSALT, CSCL))
    assert "No structure stands out: the most frequent was found in 1 of 20 samples." in " ".join(
        general_warnings(rare)
    )
    close = Report(formula="NaCl", candidates=with_energies(TWO, [0.01, 0.02], [0.02, 0.02]))
    said = " ".join(general_warnings(close))
    assert "The energies of the first 2 candidates differ by less than their expected error" in said
    assert "No energies" not in said
    apart = Report(formula="NaCl", candidates=with_energies(TWO, [0.01, 0.2], [0.02, 0.02]))
    assert "expected error" not in " ".join(general_warnings(apart))
    assert "0.200 \u00b1 0.020 eV/atom above the hull" in warnings_of(apart, apart.candidates[1])[-1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.905, "3.90"), (159.26, "159"), (9.996, "10.0"), (0.012345, "0.0123"), (0.0, "0"), (-2.5, "\u22122.50"),
     (1234.0, "1230"), (90.0, "90.0"), (float("nan"), "n/a")],
)  # fmt: skip
def test_significant(value: float, text: str) -> None:
    assert significant(value) == text


def test_formula_parts() -> None:
    assert formula_parts("SrTiO3") == [("SrTiO", False), ("3", True)]
    assert formula_parts("Ca(OH)2") == [("Ca(OH)", False), ("2", True)]


def test_a_scene_repeats_atoms_on_faces_and_joins_neighbours() -> None:
    conventional = drawn_cell(cif_text(TWO[0]))
    drawn = scene(conventional)
    # 14 of one element on corners and faces, 13 of the other on edges and in the middle
    assert sorted(np.unique(drawn.atomic_numbers, return_counts=True)[1]) == [13, 14]
    lengths = np.linalg.norm(drawn.places[drawn.bonds[:, 0]] - drawn.places[drawn.bonds[:, 1]], axis=1)
    assert lengths == pytest.approx(5.64 / 2, abs=1e-3)
    assert len(lengths) == 54
    assert nearest(conventional) == pytest.approx(5.64 / 2, abs=1e-3)


def test_cells_are_turned_not_changed() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        lattice = rng.normal(size=(3, 3))
        turned = upright(lattice)
        assert turned @ turned.T == pytest.approx(lattice @ lattice.T)
        assert np.linalg.det(turned) == pytest.approx(np.linalg.det(lattice))
        assert turned[0, 0] > 0
        assert turned[[0, 0, 1], [1, 2, 2]] == pytest.approx(0.0)


def test_paths_are_unbroken() -> None:
    """An atom that crosses a face of the cell goes on beyond it; it does not jump to the other side."""
    coords = [[0.0, 0.0, 0.02], [0.0, 0.0, 0.98], [0.0, 0.0, 0.9]]
    walk = Trajectory((1.0, 0.5, 0.0), tuple(Crystal([11], [place], 4.0 * np.eye(3)) for place in coords))
    heights = [float(one.places[0, 2]) for one in scenes(walk)]
    assert heights == pytest.approx([4.08, 3.92, 3.6])


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = [Peak(31.7, 100.0, "(200)", 2.82), Peak(27.4, 8.1, "(11\u03051)", 3.26)]
    monkeypatch.setattr(results, "powder_pattern", lambda _: peaks)
    write_report(tmp_path, Report(formula="NaCl", candidates=TWO, walk=Walk(1, "sample 1", STATES)))
    figures = {
        f"report/{name}.{kind}" for name in ("structures", "volume", "patterns", "walk") for kind in ("png", "svg")
    }
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"report.html", *figures}
    html = (tmp_path / "report.html").read_text()
    assert len(html) < 2_500_000
    data: dict[str, Any] = json.loads(Page(html).scripts[0])
    assert data["patterns"][0]["angles"] == [31.7, 27.4]
    assert data["walk"]["volumes"] == [64.0, 34.328, 22.426]
    before = html
    write_report(tmp_path, Report(formula="NaCl", candidates=TWO, walk=Walk(1, "sample 1", STATES)))
    assert (tmp_path / "report.html").read_text() == before
