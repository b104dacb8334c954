"""The figure of a CrysDB: its counterpart in the paper is Figure 2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dao.constants import STABLE_E_ABOVE_HULL
from dao.data.crysdb.stats import Histogram, Stats
from dao.elements import ATOMIC_NUMBERS
from dao.figure_file import BLUE, GREY, ORANGE, figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FIRST = (1, 3, 11, 19, 37, 55, 87, 119)
"""Where each period starts."""

_MOST_SOURCES = 8
"""Bars; smaller sources share the last."""


def place(number: int) -> tuple[float, int]:
    """Row and column of an element in the periodic table; lanthanides and actinides below, half a row apart."""
    period = next(row for row in range(1, 8) if number < _FIRST[row])
    step = number - _FIRST[period - 1]
    if period == 1:
        return 1.0, 1 if step == 0 else 18
    if step < 2:
        return float(period), step + 1
    if period <= 3:
        return float(period), step + 11
    if period <= 5:
        return float(period), step + 1
    if step < 17:
        return period + 2.5, step + 1
    return float(period), step - 13


def write_figure(stats: Stats, folder: Path) -> Path:
    """Draw ``crysdb.png`` and ``.svg``: sources, energies, volumes, sizes, and a periodic table of the elements.

    Returns:
        Path of the PNG.

    Raises:
        InputError: matplotlib is not installed.

    """
    with figure_file(folder / "crysdb", width=13.0, height=10.0) as figure:
        # halves of their own, so that neither decides the other's margins
        halves = figure.add_gridspec(2, 1, height_ratios=[1.0, 1.15])
        upper, lower = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
        (sources, energies), (volumes, sizes) = upper.subplots(2, 2)
        _sources(sources, stats)
        _histogram(energies, stats.e_above_hull, "Energy above hull (eV/atom)")
        energies.axvline(STABLE_E_ABOVE_HULL, color="black", linestyle=":", linewidth=1.2)
        limit = f"stable: ≤ {STABLE_E_ABOVE_HULL:g}"
        energies.text(STABLE_E_ABOVE_HULL + 0.01, energies.get_ylim()[1] * 0.6, limit, va="top", fontsize=10)
        _histogram(volumes, stats.volume, "Volume of the cell (Å³)")
        sizes.bar(list(stats.num_atoms), list(stats.num_atoms.values()), width=0.85, color=BLUE)
        sizes.set_xlabel("Atoms in the cell")
        _count_axis(sizes)
        _periodic_table(lower.subplots(), stats)
    return folder / "crysdb.png"


def _sources(axes: Axes, stats: Stats) -> None:
    """A bar a source: stable, less stable, unknown; the share beside it."""
    largest = stats.sources[:_MOST_SOURCES]
    rest = stats.sources[_MOST_SOURCES:]
    bars = [(one.source, one.crystals, one.known, one.stable) for one in largest]
    if rest:
        sums = (sum(one.crystals for one in rest), sum(one.known for one in rest), sum(one.stable for one in rest))
        bars.append((f"{len(rest)} others", *sums))
    names = [name if len(name) <= 18 else f"{name[:17]}…" for name, *_ in bars]
    at = list(range(len(bars)))
    parts = {
        f"≤ {STABLE_E_ABOVE_HULL:g} eV/atom": ([stable for *_, stable in bars], BLUE),
        "above": ([known - stable for _, _, known, stable in bars], ORANGE),
        "unknown": ([crystals - known for _, crystals, known, _ in bars], GREY),
    }
    left = [0] * len(bars)
    for label, (widths, colour) in parts.items():
        if any(widths):
            axes.barh(at, widths, 0.7, left=left, color=colour, label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    most = max(left)
    for row, (_, crystals, known, stable) in enumerate(bars):
        of = "" if known == crystals else f" of {known:,}"
        share = f", {100 * stable / known:.0f} %{of} stable" if known else ""
        axes.text(crystals + 0.01 * most, row, f"{crystals:,}{share}", va="center", fontsize=10)
    axes.set_yticks(at, names)
    axes.set_ylim(len(bars) - 0.4 + max(0, 2 - len(bars)), -0.6 - max(0, 2 - len(bars)))
    axes.set_xlim(0, 1.45 * most)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.set_xlabel("Crystals")
    _thousands(axes, "x")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.2, columnspacing=1.2)


def _histogram(axes: Axes, histogram: Histogram, label: str) -> None:
    if not any(histogram.counts):
        axes.text(0.5, 0.5, "none known", transform=axes.transAxes, ha="center", va="center")
        axes.set_xlabel(label)
        axes.set_yticks([])
        return
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=BLUE)
    axes.set_xlim(histogram.edges[0], histogram.edges[-1])
    beyond = histogram.largest is not None and histogram.largest > histogram.edges[-1]
    axes.set_xlabel(f"{label}; last bar: all above, to {histogram.largest:,.4g}" if beyond else label)
    _count_axis(axes)


def _count_axis(axes: Axes) -> None:
    """Logarithmic: counts fall by orders of magnitude."""
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.8)
    axes.set_ylabel("Crystals")
    axes.minorticks_off()


def _thousands(axes: Axes, which: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _periodic_table(axes: Axes, stats: Stats) -> None:
    """A box an element, coloured by how many crystals have it."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    # from a pale, not a white start: absent elements are white
    colours = colormaps["YlGnBu"]
    scale = ScalarMappable(LogNorm(1, max(2, *stats.elements.values())), colours)
    for symbol, number in ATOMIC_NUMBERS.items():
        row, column = place(number)
        count = stats.elements.get(symbol, 0)
        face = scale.to_rgba(np.array([count]))[0] if count else (1.0, 1.0, 1.0, 1.0)
        # perceived brightness: ITU-R BT.601
        dark = 0.299 * face[0] + 0.587 * face[1] + 0.114 * face[2] < 0.5
        ink = "white" if dark else "black" if count else "#999999"
        axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, facecolor=face, edgecolor="#BBBBBB", lw=0.6))
        axes.text(column, row - 0.08, symbol, ha="center", va="center", fontsize=11, fontweight="bold", color=ink)
        if count:
            axes.text(column, row + 0.29, f"{count:,}", ha="center", va="center", fontsize=6.5, color=ink)
    axes.set_xlim(0.4, 18.6)
    axes.set_ylim(10.1, 0.4)
    axes.set_axis_off()
    bar = axes.figure.colorbar(scale, ax=axes, shrink=0.75, pad=0.01, aspect=18)
    bar.set_label("Crystals with the element")
    absent = sum(1 for symbol in ATOMIC_NUMBERS if symbol not in stats.elements)
    axes.set_title(f"{len(stats.elements)} elements; {absent} up to plutonium are in no crystal", fontsize=11)
