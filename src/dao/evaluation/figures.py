"""Figures of an evaluation, as PNG and SVG: match rate by size, RMS distances, match rate within k, polymorphs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dao.constants import MATCHER_STOL
from dao.evaluation.metrics import by_size, rows
from dao.evaluation.polymorphs import PAPER_ALL_HIT, Coverage, Polymorph, coverage
from dao.evaluation.published import Published
from dao.evaluation.scores import EVERY, Interval, Scores
from dao.figure_file import BLACK, BLUE, GREY, ORANGE, figure_file, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALLEST_RMS = 1e-3
"""RMS distances below are drawn in the leftmost bar: on the log axis they have no end."""

MOST_CURVES, MOST_SINGLE = 6, 3
"""Published methods drawn beside the k curve: with figures at several k, and at k = 1 only. The table has all."""


def write_figures(
    scores: Scores,
    folder: Path,
    *,
    published: Sequence[Published] = (),
    listed: Sequence[Polymorph] = (),
    distinct: Sequence[Polymorph] = (),
) -> dict[str, str]:
    """Write every figure that has something to show.

    Args:
        scores: of the run.
        folder: made if absent.
        published: rows of the same data set, drawn beside the k curve.
        listed: polymorphs counted as listed.
        distinct: the same with matching references merged.

    Returns:
        Caption -> name of the PNG file in ``folder``, as :func:`dao.evaluation.tables.report` takes them.

    Raises:
        InputError: matplotlib is not installed.

    """
    require_matplotlib()
    figures: dict[str, str] = {}
    if scores.ids:
        figures["Match rate against the number of atoms, with 95 % bootstrap intervals"] = size_figure(
            scores, folder
        ).name
        figures["Smallest RMS distance of each matched test crystal"] = rms_figure(scores, folder).name
    if scores.ids and scores.samples > 1:
        figures["Match rate within k samples, with 95 % bootstrap intervals"] = curve_figure(
            scores, folder, published
        ).name
    if listed or distinct:
        figures["Polymorph coverage, with 95 % intervals"] = polymorph_figure(
            coverage(listed), coverage(distinct), folder
        ).name
    return figures


def size_figure(scores: Scores, folder: Path) -> Path:
    """Unfiltered match rate against atoms in the cell, at k = 1 and at every sample; returns the PNG's path.

    Raises:
        InputError: matplotlib is not installed.

    """
    with figure_file(folder / "match_rate_by_atoms", width=7.5) as figure:
        axes = figure.subplots()
        ks = sorted({1, scores.samples})
        width = 0.8 / len(ks)
        for place, (k, colour) in enumerate(zip(ks, (BLUE, ORANGE), strict=False)):
            groups = by_size(scores, k)
            at = np.arange(len(groups)) + (place - (len(ks) - 1) / 2) * width
            _bars(axes, at, [row.unfiltered for _, row in groups], width, colour, f"k = {k}")
        labels = [f"{label}\n{row.crystals:,}" for label, row in groups]
        axes.set_xticks(np.arange(len(groups)), labels)
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("Atoms in the cell (below: number of test crystals)")
        _percent_axis(axes, "Match rate, unfiltered (%)")
        _legend_above(axes)
    return folder / "match_rate_by_atoms.png"


def rms_figure(scores: Scores, folder: Path) -> Path:
    """Histogram of the smallest RMS distance of each match, at k = 1 and at every sample; returns the PNG's path.

    Bars are shares of all test crystals: together they are the unfiltered match rate.

    Raises:
        InputError: matplotlib is not installed.

    """
    with figure_file(folder / "rms_distances", width=7.0) as figure:
        axes = figure.subplots()
        edges = np.geomspace(SMALLEST_RMS, MATCHER_STOL, 28)
        # the largest k lies behind: it is the taller one
        for k, colour in reversed(list(zip(sorted({1, scores.samples}), (BLUE, ORANGE), strict=False))):
            best = scores.best(k)
            matched = best[~np.isnan(best)]
            counts, _ = np.histogram(np.clip(matched, SMALLEST_RMS, MATCHER_STOL), edges)
            height = 100 * counts / max(1, best.size)
            mean = f", RMSE {matched.mean():.3f}" if matched.size else ""
            label = f"k = {k}: {matched.size:,} of {best.size:,}{mean}"
            axes.stairs(height, edges, fill=True, color=colour, alpha=0.35)
            axes.stairs(height, edges, color=colour, linewidth=1.8, label=label)
        axes.set_xscale("log")
        axes.set_xlim(SMALLEST_RMS, MATCHER_STOL)
        ticks = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5]
        axes.set_xticks(ticks, ["≤ 0.001", *(f"{tick:g}" for tick in ticks[1:])])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("RMS distance (dimensionless)")
        axes.set_ylabel("Share of test crystals (%)")
        _legend_above(axes, reverse=True)
    return folder / "rms_distances.png"


def curve_figure(scores: Scores, folder: Path, published: Sequence[Published] = ()) -> Path:
    """Match rate within k samples, unfiltered and filtered, published rates beside; returns the PNG's path.

    Args:
        scores: of the run.
        folder: made if absent.
        published: rows of the same data set; the best few are drawn, those within the samples of this run.

    Raises:
        InputError: matplotlib is not installed.

    """
    ks = np.arange(1, scores.samples + 1)
    lines = rows(scores, ks.tolist(), [EVERY])
    chosen = _chosen(published, scores.samples)
    with figure_file(folder / "match_rate_within_k", width=8.5 if chosen else 6.5) as figure:
        axes = figure.subplots()
        for label, intervals, colour in (
            ("unfiltered", [line.unfiltered for line in lines], BLUE),
            ("filtered", [line.filtered for line in lines], ORANGE),
        ):
            value, low, high = (100 * np.array(part) for part in zip(*map(_numbers, intervals), strict=True))
            axes.plot(ks, value, "o-", color=colour, markersize=4, linewidth=1.8, label=f"this run, {label}")
            axes.fill_between(ks, low, high, color=colour, alpha=0.2, linewidth=0)
        _published_points(axes, figure, chosen)
        axes.set_xticks(sorted({1, *ks[4::5].tolist()} if scores.samples > 10 else set(ks.tolist())))
        margin = max(0.5, 0.06 * scores.samples)
        axes.set_xlim(1 - margin, scores.samples + margin)
        axes.set_xlabel("Samples for each test crystal, k")
        _percent_axis(axes, "Match rate within k (%)")
        if chosen:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        else:
            _legend_above(axes)
    return folder / "match_rate_within_k.png"


def polymorph_figure(listed: Sequence[Coverage], distinct: Sequence[Coverage], folder: Path) -> Path:
    """Polymorph coverage by number of conformations, all hit and mean share; returns the PNG's path.

    Raises:
        InputError: matplotlib is not installed.

    """
    counts = [(name, lines, colour) for name, lines, colour in _counts(listed, distinct) if lines]
    labels = list(dict.fromkeys(line.label for line in sorted([*listed, *distinct], key=_order)))
    width = 0.8 / max(1, len(counts))
    with figure_file(folder / "polymorph_coverage", width=9.0) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for place, (name, lines, colour) in enumerate(counts):
            at = np.array([labels.index(line.label) for line in lines]) + (place - (len(counts) - 1) / 2) * width
            _bars(left, at, [line.all_hit for line in lines], width, colour, name)
            _bars(right, at, [line.mean_share for line in lines], width, colour, name)
            if name == "as listed":
                paper = [(x, PAPER_ALL_HIT.get(line.conformations or 0)) for x, line in zip(at, lines, strict=True)]
                points = [(x, 100 * share) for x, share in paper if share is not None]
                if points:
                    xs, shares = zip(*points, strict=True)
                    left.plot(
                        xs, shares, "D", color=BLACK, markerfacecolor="white", label="DAO-G (paper, selected groups)"
                    )
        for axes, title in ((left, "All conformations hit"), (right, "Mean share of conformations hit")):
            groups = [_group_counts(label, counts) for label in labels]
            axes.set_xticks(np.arange(len(labels)), [f"{label}\n{n}" for label, n in zip(labels, groups, strict=True)])
            axes.tick_params(axis="x", length=0)
            axes.set_title(title, fontsize=11)
        _percent_axis(left, "Share (%)")
        below = " / ".join(name for name, _, _ in counts)
        figure.supxlabel(f"Conformations of a composition (below: number of compositions, {below})", fontsize=11)
        handles, names = left.get_legend_handles_labels()
        # the paper's points last
        order = sorted(range(len(names)), key=lambda place: names[place] not in {name for name, _, _ in counts})
        chosen = [handles[place] for place in order], [names[place] for place in order]
        figure.legend(*chosen, loc="outside upper center", ncols=max(1, len(names)))
    return folder / "polymorph_coverage.png"


def _counts(listed: Sequence[Coverage], distinct: Sequence[Coverage]) -> list[tuple[str, Sequence[Coverage], str]]:
    return [("distinct", distinct, BLUE), ("as listed", listed, ORANGE)]


def _order(line: Coverage) -> int:
    return line.conformations or 1_000_000


def _group_counts(label: str, counts: Sequence[tuple[str, Sequence[Coverage], str]]) -> str:
    return " / ".join(str(sum(line.groups for line in lines if line.label == label)) for _, lines, _ in counts)


def _numbers(one: Interval) -> tuple[float, float, float]:
    return one.value, one.low, one.high


def _bars(axes: Axes, at: Any, intervals: Sequence[Interval], width: float, colour: str, label: str) -> None:  # noqa: ANN401 - any array
    """Bars in percent with their intervals."""
    value, low, high = (100 * np.array(part) for part in zip(*map(_numbers, intervals), strict=True))
    axes.bar(at, value, 0.92 * width, color=colour, label=label)
    # a mean may leave its interval by a rounding error, which matplotlib refuses
    ends = np.maximum([value - low, high - value], 0.0)
    axes.errorbar(at, value, ends, fmt="none", ecolor=BLACK, capsize=3, linewidth=1.2)


def _chosen(published: Sequence[Published], samples: int) -> list[list[Published]]:
    """Published points worth a marker: curves (methods with several k), best last point first, then the best k = 1."""
    methods: defaultdict[tuple[str, str], list[Published]] = defaultdict(list)
    for row in published:
        if row.match_rate is not None and row.k <= samples:
            methods[row.method, row.filter].append(row)
    curves = [sorted(rows, key=lambda row: row.k) for rows in methods.values() if len({row.k for row in rows}) > 1]
    single = [[row] for rows in methods.values() if len(rows) == 1 for row in rows if row.k == 1]
    return [
        points
        for group, most in ((curves, MOST_CURVES), (single, MOST_SINGLE))
        for points in sorted(group, key=lambda points: points[-1].match_rate or 0.0, reverse=True)[:most]
    ]


def _published_points(axes: Axes, figure: Figure, chosen: Sequence[Sequence[Published]]) -> None:
    """A marker a method; filled = filtered, open = unfiltered or unknown."""
    from matplotlib.transforms import ScaledTranslation

    placed: list[tuple[int, float, int]] = []
    for points, marker in zip(chosen, "Ds^vP*XpdH", strict=False):
        for row in points:
            rate = row.match_rate or 0.0
            # points that would overlap step aside, by so many points of print
            taken = {shift for k, other, shift in placed if k == row.k and abs(other - rate) < 3.2}
            shift = next((one for one in (0, 10, -10, 20, -20) if one not in taken), 0)
            placed.append((row.k, rate, shift))
            axes.plot(
                [row.k],
                [rate],
                marker,
                color=BLACK,
                markerfacecolor=GREY if row.filter == "filtered" else "white",
                markeredgewidth=0.8,
                markersize=7,
                zorder=3,
                label=row.method if row is points[0] else None,
                transform=axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans),
            )
    if chosen:
        axes.plot([], [], "o", color=BLACK, markerfacecolor=GREY, label="filled: filtered")
        axes.plot([], [], "o", color=BLACK, markerfacecolor="white", label="open: unfiltered or unknown")


def _percent_axis(axes: Axes, label: str) -> None:
    # above 100: markers and the caps of intervals stay whole
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel(label)


def _legend_above(axes: Axes, *, reverse: bool = False) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2, reverse=reverse)
