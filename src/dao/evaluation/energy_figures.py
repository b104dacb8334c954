"""The figure of an evaluation of energies: parity, error by label, calibration, sparsification; eV/atom throughout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from dao.evaluation.energy_metrics import Group
from dao.evaluation.energy_uncertainty import Uncertainty, sparsification
from dao.figure_file import BLACK, BLUE, GREEN, GREY, ORANGE, figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 80
"""Of the parity histogram, on each axis."""


def write_energy_figure(
    labels: Float64[np.ndarray, " m"],
    energies: Float64[np.ndarray, " m"],
    expected: Float64[np.ndarray, " m"],
    label_groups: Sequence[Group],
    found: Uncertainty | None,
    folder: Path,
) -> tuple[str, str]:
    """Write the panels that there is something for.

    Args:
        labels: (M,) eV/atom.
        energies: (M,) the predictor's.
        expected: (M,) errors that it expects; not looked at if ``found`` is None.
        label_groups: errors by true label.
        found: calibration and sparsification, if the predictor expects errors.
        folder: made if absent.

    Returns:
        Caption, and name of the PNG in ``folder``.

    Raises:
        InputError: matplotlib is not installed.

    """
    rows = 1 if found is None else 2
    with figure_file(folder / "energies", width=11.0, height=4.4 * rows) as figure:
        panels = figure.subplots(rows, 2, squeeze=False)
        _parity(figure, panels[0, 0], labels, energies)
        _by_label(panels[0, 1], label_groups)
        if found is not None:
            _calibration(panels[1, 0], found)
            _sparsification(panels[1, 1], expected, np.abs(energies - labels))
    more = "" if found is None else ", calibration of the expected errors, and MAE of the crystals it is surest of"
    return f"Energy against label, error by label{more}", "energies.png"


def _parity(figure: Figure, axes: Axes, labels: Float64[np.ndarray, " m"], energies: Float64[np.ndarray, " m"]) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import StrMethodFormatter

    # a few wild values must not take the whole axis: they are drawn at its ends
    both = np.concatenate([labels, energies])
    low, high = np.percentile(both, 0.1, method="lower"), np.percentile(both, 99.9, method="higher")
    margin = 0.02 * max(high - low, 0.1)
    low, high = low - margin, high + margin
    beyond = int(((np.minimum(labels, energies) < low) | (np.maximum(labels, energies) > high)).sum())
    edges = np.linspace(low, high, BINS + 1)
    counts, _, _ = np.histogram2d(labels.clip(low, high), energies.clip(low, high), [edges, edges])
    norm = LogNorm(1, max(2.0, counts.max()))
    drawn = axes.pcolormesh(edges, edges, np.where(counts > 0, counts, np.nan).T, norm=norm, cmap="viridis")
    axes.plot([low, high], [low, high], color=BLACK, linewidth=0.8, linestyle="--")
    bar = figure.colorbar(drawn, ax=axes, pad=0.02, label="Crystals")
    bar.ax.minorticks_off()
    bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    bar.outline.set_visible(False)
    axes.set_aspect("equal")
    axes.grid(visible=True, axis="both")
    axes.set_xlabel("Label (eV/atom)")
    axes.set_ylabel("Energy (eV/atom)")
    axes.set_title("Energy against label" + (f" ({beyond:,} beyond, drawn at the end)" if beyond else ""), fontsize=11)


def _by_label(axes: Axes, label_groups: Sequence[Group]) -> None:
    for shift, colour, name in ((-0.2, BLUE, "MAE"), (0.2, ORANGE, "bias")):
        for place, group in enumerate(label_groups):
            one = group.mae if name == "MAE" else group.bias
            if one is not None:
                axes.bar(place + shift, one.value, 0.4, color=colour)
                # a percentile interval of few crystals may leave the value out
                ends = [[max(0.0, one.value - one.low)], [max(0.0, one.high - one.value)]]
                axes.errorbar(place + shift, one.value, ends, color=BLACK, linewidth=1.0, capsize=2.5)
        axes.bar(0, 0, color=colour, label=name)
    axes.axhline(0, color=BLACK, linewidth=0.8)
    names = [f"{group.name.replace(' to ', '–')}\n{group.crystals:,}" for group in label_groups]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="x", length=0, labelsize=9)
    axes.set_xlabel("Label (eV/atom; below: number of crystals)")
    axes.set_ylabel("Error (eV/atom)")
    axes.set_title("Error by label", fontsize=11)
    axes.legend()


def _calibration(axes: Axes, found: Uncertainty) -> None:
    expected = np.array([one.expected for one in found.bins])
    values = np.array([one.observed.value for one in found.bins])
    ends = [
        [max(0.0, one.observed.value - one.observed.low) for one in found.bins],
        [max(0.0, one.observed.high - one.observed.value) for one in found.bins],
    ]
    top = 1.06 * max(expected.max(), *(one.observed.high for one in found.bins), 1e-6)
    axes.plot([0, top], [0, top], color=BLACK, linewidth=0.8, linestyle="--", label="calibrated")
    axes.errorbar(expected, values, ends, fmt="o-", color=BLUE, markersize=4, linewidth=1.4, capsize=2.5)
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_aspect("equal")
    axes.grid(visible=True, axis="both")
    axes.set_xlabel("Expected error (eV/atom)")
    axes.set_ylabel("Mean actual error (eV/atom)")
    axes.set_title("Calibration, bins of equal count", fontsize=11)
    axes.legend(loc="upper left")


def _sparsification(axes: Axes, expected: Float64[np.ndarray, " m"], actual: Float64[np.ndarray, " m"]) -> None:
    shares = 100 * np.arange(1, len(actual) + 1) / len(actual)
    axes.axhline(actual.mean(), color=GREY, linewidth=1.4, linestyle=":", label="random order")
    axes.plot(shares, sparsification(expected, actual), color=BLUE, linewidth=1.8, label="by expected error")
    axes.plot(shares, sparsification(actual, actual), color=GREEN, linewidth=1.4, linestyle="--", label="oracle")
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Surest crystals (%)")
    axes.set_ylabel("MAE (eV/atom)")
    axes.set_title("MAE of the surest crystals", fontsize=11)
    axes.legend()
