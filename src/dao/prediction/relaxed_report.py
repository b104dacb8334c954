"""What the relaxation of a data set did: figures by energy above the hull, and their plot (paper Figure 3c).

The paper plots normalised energies; here they are meV/atom. All energies are the predictor's own, which is no
independent judge of what it lowered itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dao.constants import STABLE_E_ABOVE_HULL
from dao.evaluation.tables import NONE, table
from dao.figure_file import BLACK, BLUE, ORANGE, figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STEP = 0.1
"""Bins of energy above the hull end at multiples of this, eV/atom, and where the selection does."""


@dataclass(frozen=True, kw_only=True)
class RelaxedRow:
    """A relaxed crystal of a data set; energies in eV/atom."""

    row: int
    """In the source, from 0."""
    e_above_hull: float
    """Its label, of the crystal before."""
    before: float
    after: float
    displacement: float
    """RMS, A."""
    volume_change: float
    same_space_group: bool
    """At the tolerance of labels."""
    new_cell: bool
    """Whether the relaxed cell was no Niggli cell any more, so that it is written in another."""
    outcome: str
    """Of the relaxation, or ``not lower``: its energy in the cell that would be written, so that it is as before."""
    atomic_numbers: list[int]
    frac_coords: list[float]
    """3N, row by row."""
    lattice: list[float]


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Relaxed crystals with ``low`` < e_above_hull <= ``high`` (eV/atom); all else is None where there is none.

    Attributes:
        low: eV/atom.
        high: eV/atom.
        crystals: how many.
        mean_fall: of the predicted energy, eV/atom.
        quartiles: of the fall: 25 %, median, 75 %.
        mae: mean absolute difference of prediction, before, and label, eV/atom.
        stable_before: share that is predicted at most 0.08 eV/atom above the hull before.
        stable: the same after.
        displacement: median of the RMS displacements, A.
        volume_change: median of the absolute relative changes of the volume.
        same_space_group: share whose space group is the same after.

    """

    low: float
    high: float
    crystals: int
    mean_fall: float | None = None
    quartiles: tuple[float, float, float] | None = None
    mae: float | None = None
    stable_before: float | None = None
    stable: float | None = None
    displacement: float | None = None
    volume_change: float | None = None
    same_space_group: float | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was done to a data set.

    Attributes:
        settings: what it was done with.
        rows_in: of the source.
        selected: to be relaxed.
        relaxed: of these; the rest could not be.
        rows_out: written.
        new_cells: relaxed crystals that are written in another Niggli cell than the one they were relaxed in.
        outcomes: how many relaxations ended how.
        bins: by energy above the hull.
        every: of all relaxed crystals.

    """

    settings: dict[str, Any]
    rows_in: int
    selected: int
    relaxed: int
    rows_out: int
    new_cells: int
    outcomes: dict[str, int]
    bins: list[Bin]
    every: Bin


def report_of(
    rows: Sequence[RelaxedRow],
    *,
    settings: dict[str, Any],
    limits: tuple[float, float],
    rows_in: int,
    selected: int,
    rows_out: int,
) -> Report:
    """Count and average; ``limits`` are those of the selection, eV/atom."""
    edges = bin_edges(*limits)
    return Report(
        settings=settings,
        rows_in=rows_in,
        selected=selected,
        relaxed=len(rows),
        rows_out=rows_out,
        new_cells=sum(one.new_cell for one in rows),
        outcomes=dict(sorted(Counter(one.outcome for one in rows).items())),
        bins=[_bin(rows, low, high) for low, high in pairwise(edges)],
        every=_bin(rows, *limits),
    )


def bin_edges(above: float, up_to: float) -> list[float]:
    """Where the bins end: the paper's are 0.08, 0.1, 0.2, 0.3, 0.4 and 0.5 eV/atom."""
    steps = [round(_STEP * i, 6) for i in range(int(above / _STEP) - 1, int(up_to / _STEP) + 2)]
    return [above, *(edge for edge in steps if above < edge < up_to), up_to]


def _bin(everyone: Sequence[RelaxedRow], low: float, high: float) -> Bin:
    rows = [one for one in everyone if low < round(one.e_above_hull, 6) <= high]
    if not rows:
        return Bin(low=low, high=high, crystals=0)
    before, after = np.array([one.before for one in rows]), np.array([one.after for one in rows])
    fall = before - after
    first, median, third = np.quantile(fall, [0.25, 0.5, 0.75]).tolist()
    return Bin(
        low=low,
        high=high,
        crystals=len(rows),
        mean_fall=float(fall.mean()),
        quartiles=(first, median, third),
        mae=float(np.abs(before - [one.e_above_hull for one in rows]).mean()),
        stable_before=float((before <= STABLE_E_ABOVE_HULL).mean()),
        stable=float((after <= STABLE_E_ABOVE_HULL).mean()),
        displacement=float(np.median([one.displacement for one in rows])),
        volume_change=float(np.median([abs(one.volume_change) for one in rows])),
        same_space_group=float(np.mean([one.same_space_group for one in rows])),
    )


HEADINGS = (
    "E above hull (eV/atom)",
    "Crystals",
    "Mean fall (meV/atom)",
    "Quartiles of the fall",
    "MAE before (meV/atom)",
    f"Predicted ≤ {STABLE_E_ABOVE_HULL:g} before (%)",
    "after (%)",
    "RMS displacement (Å)",
    "Volume change (%)",
    "Same space group (%)",
)
"""Of the table of a report; displacement and volume change are medians, the latter of absolute values."""


def lines(report: Report) -> list[list[str]]:
    """Cells of the table under :data:`HEADINGS`, a line a bin, and one of all if there are several."""
    bins = [(f"{one.low:g}-{one.high:g}", one) for one in report.bins]
    if len(bins) > 1:
        bins.append(("all", report.every))
    return [
        [
            name,
            f"{one.crystals:,}",
            _number(one.mean_fall, 1000.0, 1),
            NONE if one.quartiles is None else ", ".join(f"{1000 * value:.1f}" for value in one.quartiles),
            _number(one.mae, 1000.0, 1),
            _number(one.stable_before, 100.0, 1),
            _number(one.stable, 100.0, 1),
            _number(one.displacement, 1.0, 4),
            _number(one.volume_change, 100.0, 2),
            _number(one.same_space_group, 100.0, 1),
        ]
        for name, one in bins
    ]


def _number(value: float | None, scale: float, digits: int) -> str:
    return NONE if value is None else f"{scale * value:.{digits}f}"


def markdown(report: Report) -> str:
    """The report as a page."""
    outcomes = ", ".join(f"{name} {count:,}" for name, count in report.outcomes.items())
    return (
        f"{report.relaxed:,} of {report.selected:,} selected crystals were relaxed by {report.settings['weights']}, "
        f"and {report.rows_out:,} of {report.rows_in:,} rows written. How relaxations ended: {outcomes or NONE}. "
        f"Written in another Niggli cell than they were relaxed in: {report.new_cells:,}. Energies are the "
        "predictor's own; labels are those of the crystals before. Displacement and volume change are medians.\n\n"
        f"{table(HEADINGS, lines(report))}\n"
    )


def draw(report: Report, path: Path) -> None:
    """Plot the fall of the predicted energy by energy above the hull, as ``path`` (a PNG) and the same as SVG.

    Raises:
        InputError: matplotlib is not installed.

    """
    with figure_file(path.with_suffix(""), width=7.0) as figure:
        axes = figure.subplots()
        places = [place for place, one in enumerate(report.bins) if one.quartiles is not None]
        first, median, third = (
            [1000 * one.quartiles[i] for one in report.bins if one.quartiles is not None] for i in range(3)
        )
        heights = [high - low for low, high in zip(first, third, strict=True)]
        axes.bar(places, heights, 0.6, bottom=first, color=BLUE, alpha=0.35, label="quartiles")
        axes.hlines(median, [p - 0.3 for p in places], [p + 0.3 for p in places], color=BLUE, lw=2.2, label="median")
        means = [1000 * one.mean_fall for one in report.bins if one.mean_fall is not None]
        axes.plot(places, means, "o-", color=ORANGE, markersize=6, label="mean")
        _mark(axes, report)


def _mark(axes: Axes, report: Report) -> None:
    names = [f"{one.low:g}-{one.high:g}\n{one.crystals:,}" for one in report.bins]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_color(BLACK)
    axes.set_xlabel("Energy above hull before (eV/atom; below: number of crystals)")
    axes.set_ylabel("Fall of the predicted energy (meV/atom)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
