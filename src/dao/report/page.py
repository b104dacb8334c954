"""The report as one HTML file: table, structures that turn, charts and the walk, with everything they need inside.

The browser draws with plotly.js, which is packed into the file (gzip, base64: 2 MB instead of 4.8). The page may load
nothing: its content-security policy allows the two scripts in it by their hashes and forbids every request.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from dao.crystal import Crystal
from dao.elements import SYMBOLS
from dao.prediction.files import cif_name
from dao.prediction.novelty import Novelty
from dao.prediction.ranking import Candidate
from dao.report.contents import (
    CONFIDENCE,
    Report,
    confidence_text,
    energy_text,
    general_warnings,
    has_energies,
    significant,
    warnings_of,
)
from dao.report.diffraction import TWO_THETA, WAVELENGTH, Peak
from dao.report.scenes import Scene, element_colour, element_radius, scene
from dao.report.text import formula_parts, pretty_space_group
from dao.trajectory import Trajectory

PEAKS_LISTED = 10
"""Strongest peaks of a pattern that the page also gives as a table."""


def render(
    report: Report,
    cifs: dict[int, str],
    cells: dict[int, Crystal],
    patterns: dict[int, list[Peak]],
    walk: list[Scene],
    *,
    figures: bool = True,
) -> str:
    """The page.

    Args:
        report: what it says.
        cifs: text of each candidate's CIF by rank.
        cells: conventional cell of each candidate by rank, as it is drawn.
        patterns: powder patterns of some candidates by rank.
        walk: the scenes of ``report.walk``; empty where there is none.
        figures: whether the same figures lie beside it, for browsers that cannot draw them.

    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_asset("page.html.j2"))
    script, library = _asset("page.js"), _plotly()
    return template.render(
        report=report,
        figures=figures,
        formula=formula_parts(report.formula),
        policy=_policy(script, library),
        # these three are this package's own files, and plotly.js
        style=Markup(_asset("page.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        library=base64.b64encode(gzip.compress(library.encode(), 9, mtime=0)).decode(),
        data=Markup(json_for_html(_data(report, cells, patterns, walk))),  # noqa: S704
        rows=[_row(report, one, cells[one.rank], cifs[one.rank]) for one in report.candidates],
        warnings=general_warnings(report),
        confidences=any(one.confidence is not None for one in report.candidates),
        confidence_means=CONFIDENCE,
        known=any(one.novelty is not None for one in report.candidates),
        energies=has_energies(report.candidates),
        errors=any(one.e_above_hull_error is not None for one in report.candidates),
        peaks=[(_title(one), _strongest(patterns[one.rank])) for one in report.candidates if one.rank in patterns],
        significant=significant,
        wavelength=f"{WAVELENGTH:.4f}",
        two_theta=TWO_THETA,
    )


def json_for_html(value: Any) -> str:  # noqa: ANN401 -- whatever JSON can hold
    """JSON that no HTML parser mistakes for markup, whatever text it holds."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _asset(name: str) -> str:
    return files("dao.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _policy(*scripts: str) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    # plotly.js styles its elements inline and draws its PNG download by way of an image
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _title(candidate: Candidate) -> str:
    return f"{candidate.rank} \u00b7 {pretty_space_group(candidate.space_group)}"


def _row(report: Report, candidate: Candidate, cell: Crystal, cif: str) -> dict[str, Any]:
    lengths, angles = _parameters(cell)
    return {
        "rank": candidate.rank,
        "title": _title(candidate),
        "space_group": pretty_space_group(candidate.space_group),
        "number": candidate.space_group_number,
        "formula_units": candidate.formula_units,
        "num_atoms": candidate.num_atoms,
        "volume": significant(candidate.volume_per_atom),
        "confidence": confidence_text(candidate),
        "energy": energy_text(candidate) or "none",
        "found": f"{candidate.count} of {candidate.samples}",
        "source": candidate.source,
        "known": "" if candidate.novelty is None else _known(candidate.novelty),
        "lengths": ", ".join(map(significant, lengths)),
        "angles": ", ".join(map(significant, angles)),
        "cif_name": cif_name(candidate),
        "cif": base64.b64encode(cif.encode()).decode(),
        "warnings": warnings_of(report, candidate),
    }


def _known(novelty: Novelty) -> str:
    """How new it is, and what known crystal is nearest."""
    if novelty.like is None:
        return f"{novelty.reading.capitalize()}, no known crystal has these counts of atoms"
    return f"{novelty.reading.capitalize()}, nearest {novelty.like} (difference {novelty.distance:.2f})"


def _parameters(crystal: Crystal) -> tuple[list[float], list[float]]:
    """Lengths in A and angles in degrees of a cell."""
    values = crystal.to_structure().lattice.parameters
    return list(values[:3]), list(values[3:])


def _strongest(peaks: list[Peak]) -> list[Peak]:
    chosen = sorted(peaks, key=lambda peak: -peak.intensity)[:PEAKS_LISTED]
    return sorted(chosen, key=lambda peak: peak.two_theta)


def _data(
    report: Report, cells: dict[int, Crystal], patterns: dict[int, list[Peak]], walk: list[Scene]
) -> dict[str, Any]:
    drawn = {rank: scene(cell) for rank, cell in cells.items()}
    numbers = sorted({int(number) for one in (*drawn.values(), *walk) for number in one.atomic_numbers})
    energies = has_energies(report.candidates)
    candidates = []
    for one in report.candidates:
        lengths, angles = _parameters(cells[one.rank])
        energy = one.e_above_hull if one.e_above_hull is not None and math.isfinite(one.e_above_hull) else None
        candidates.append(
            {
                "rank": one.rank,
                "title": _title(one),
                "cell": f"Conventional cell: a, b, c = {', '.join(map(significant, lengths))} \u00c5; "
                f"\u03b1, \u03b2, \u03b3 = {', '.join(map(significant, angles))}\u00b0; "
                f"{cells[one.rank].num_atoms} atoms",
                "warnings": warnings_of(report, one),
                "scene": _scene_data(drawn[one.rank]),
                "volume": _short(one.volume_per_atom),
                "energy": None if energy is None else _short(energy),
                "error": None if one.e_above_hull_error is None else _short(one.e_above_hull_error),
                "count": one.count,
            }
        )
    return {
        "elements": {
            str(number): {"symbol": SYMBOLS[number], "colour": _hex(number), "radius": _short(element_radius(number))}
            for number in numbers
        },
        "energies": energies,
        "candidates": candidates,
        "patterns": [
            {
                "title": _title(one),
                "angles": [_short(peak.two_theta) for peak in patterns[one.rank]],
                "heights": [_short(peak.intensity) for peak in patterns[one.rank]],
                "labels": [f"{peak.hkl}, d = {significant(peak.spacing)} \u00c5" for peak in patterns[one.rank]],
            }
            for one in report.candidates
            if one.rank in patterns
        ],
        "twoTheta": TWO_THETA,
        "walk": None if report.walk is None else _walk_data(report.walk.states, walk),
    }


def _walk_data(states: Trajectory, walk: list[Scene]) -> dict[str, Any]:
    return {
        "times": [_short(time) for time in states.times],
        "volumes": [_short(crystal.volume_per_atom) for crystal in states.crystals],
        "numbers": walk[-1].atomic_numbers.tolist(),
        "bonds": walk[-1].bonds.tolist(),
        "frames": [{"places": _rounded(one.places), "lattice": _rounded(one.lattice)} for one in walk],
    }


def _scene_data(one: Scene) -> dict[str, Any]:
    return {
        "numbers": one.atomic_numbers.tolist(),
        "places": _rounded(one.places),
        "lattice": _rounded(one.lattice),
        "bonds": one.bonds.tolist(),
    }


def _rounded(values: npt.NDArray[np.float64]) -> Any:  # noqa: ANN401 -- nested lists
    # thousandths of an Angstrom are finer than a pixel; adding zero makes -0 a 0
    return (np.round(values, 3) + 0.0).tolist()


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _hex(number: int) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in element_colour(number))
