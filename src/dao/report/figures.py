"""The report's figures as PNG and SVG, by matplotlib: for slides and papers.

Each function draws one figure from what the page shows and writes it whole or not at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dao.elements import SYMBOLS
from dao.figure_file import BLACK, BLUE, GREEN, GREY, ORANGE, figure_file
from dao.prediction.ranking import Candidate
from dao.report.contents import has_energies
from dao.report.diffraction import TWO_THETA, WAVELENGTH, Peak
from dao.report.scenes import Scene, element_colour, element_radius
from dao.report.text import pretty_space_group

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#D55E00")
"""Of the first candidates; Okabe and Ito's."""

VIEW = "-75x,20y,5z"
"""From a little above, as crystals are usually drawn."""


def volume_figure(path: Path, candidates: Sequence[Candidate]) -> None:
    """Energy above the hull (how often found, where there are no energies) over volume."""
    from matplotlib.ticker import MaxNLocator

    energies = has_energies(candidates)
    with figure_file(path, 6.4) as figure:
        axes = figure.subplots()
        for one in candidates:
            height = one.e_above_hull if energies else one.count
            if height is None or math.isnan(height):
                continue
            first = one.rank <= len(COLOURS)
            colour = COLOURS[one.rank - 1] if first else GREY
            if energies and one.e_above_hull_error is not None:
                axes.errorbar(one.volume_per_atom, height, one.e_above_hull_error, color=colour, capsize=2, lw=1)
            label = f"{one.rank}  {_printed(pretty_space_group(one.space_group))}" if first else None
            axes.plot(one.volume_per_atom, height, "o", color=colour, markersize=8 if first else 5, label=label)
            if first:
                axes.annotate(
                    str(one.rank), (one.volume_per_atom, height), (0, 6), textcoords="offset points", ha="center"
                )
        axes.margins(0.12)
        axes.set_xlabel("Volume (Å³/atom)")
        axes.set_ylabel("Predicted energy above hull (eV/atom)" if energies else "Times found")
        if not energies:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylim(bottom=0)
        figure.legend(loc="outside right upper")


def pattern_figure(path: Path, patterns: Sequence[tuple[Candidate, Sequence[Peak]]]) -> None:
    """Powder patterns of the first candidates, one above the other."""
    with figure_file(path, 7.2, 1.0 + 1.25 * len(patterns)) as figure:
        rows = figure.subplots(len(patterns), sharex=True, squeeze=False)[:, 0]
        for (candidate, peaks), axes, colour in zip(patterns, rows, COLOURS, strict=False):
            axes.vlines([one.two_theta for one in peaks], 0, [one.intensity for one in peaks], color=colour, lw=1.5)
            for one in sorted(peaks, key=lambda peak: -peak.intensity)[:4]:
                axes.annotate(
                    _printed(one.hkl.split(" (", 1)[0]),
                    (one.two_theta, one.intensity),
                    (0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
            axes.set_title(
                f"{candidate.rank}  {_printed(pretty_space_group(candidate.space_group))}",
                loc="left",
                fontsize=10,
                color=colour,
            )
            axes.set_ylim(0, 125)
            axes.set_yticks([0, 50, 100])
            axes.set_xlim(*TWO_THETA)
        rows[-1].set_xlabel(f"2θ (°), Cu Kα, λ = {WAVELENGTH:.4f} Å")
        figure.supylabel("Relative intensity (%)", fontsize=11)


def structures_figure(path: Path, drawn: Sequence[tuple[str, Scene]]) -> None:
    """The cells of the first candidates side by side, each under its title."""
    with figure_file(path, 2.9 * len(drawn), 3.4) as figure:
        rows = figure.subplots(1, len(drawn), squeeze=False)[0]
        for (title, scene), axes in zip(drawn, rows, strict=True):
            draw(axes, scene)
            axes.set_title(_printed(title), fontsize=10)
        _legend_of_elements([scene for _, scene in drawn], rows[0])


def walk_figure(path: Path, times: Sequence[float], scenes: Sequence[Scene]) -> None:
    """States of a walk from noise to crystal, left to right, at one scale."""
    with figure_file(path, 2.1 * len(scenes), 2.7) as figure:
        rows = figure.subplots(1, len(scenes), squeeze=False, sharex=True, sharey=True)[0]
        widths: list[float] = []
        heights: list[float] = []
        for time, scene, axes in zip(times, scenes, rows, strict=True):
            draw(axes, scene)
            widths.append(axes.get_xlim()[1])
            heights.append(axes.get_ylim()[1])
            axes.set_title(f"t = {time:.2f}", fontsize=10)
        # ASE gives each picture limits of its own
        rows[0].set(xlim=(0, max(widths)), ylim=(0, max(heights)))
        _legend_of_elements(scenes[-1:], rows[0])


def draw(axes: Axes, scene: Scene) -> None:
    """A scene as ASE draws it: spheres by depth, and the cell."""
    from ase import Atoms
    from ase.visualize.plot import plot_atoms

    atoms = Atoms(scene.atomic_numbers, positions=scene.places, cell=scene.lattice, pbc=True)
    colours = np.array([element_colour(int(number)) for number in scene.atomic_numbers])
    radii = [element_radius(int(number)) for number in scene.atomic_numbers]
    plot_atoms(atoms, axes, rotation=VIEW, radii=radii, colors=colours)
    axes.set_axis_off()
    axes.set_aspect("equal")


def _legend_of_elements(scenes: Sequence[Scene], axes: Axes) -> None:
    figure = axes.get_figure()
    assert figure is not None  # noqa: S101 -- axes are made on figures
    numbers = sorted({int(number) for scene in scenes for number in scene.atomic_numbers})
    marks = [
        axes.plot([], [], "o", color=element_colour(number), markeredgecolor=BLACK, label=SYMBOLS[number])[0]
        for number in numbers
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(numbers))


def _printed(text: str) -> str:
    """With overbars that matplotlib sets over the digit, not beside it."""
    return re.sub("([0-9]+)\u0305", r"$\\overline{\\mathrm{\1}}$", text)
