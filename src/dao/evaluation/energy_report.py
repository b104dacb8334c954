"""The Markdown page of an evaluation of energies; energies in eV/atom, 95 % intervals in brackets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dao.constants import STABLE_E_ABOVE_HULL
from dao.evaluation.scores import Interval
from dao.evaluation.tables import NONE, table

if TYPE_CHECKING:
    from dao.evaluation.energies import EnergyFigures, Method
    from dao.evaluation.energy_metrics import Group
    from dao.evaluation.energy_uncertainty import Uncertainty

_ERRORS = """\
Energies and errors in eV/atom; bias is energy less label. In brackets, 95 % bootstrap intervals over crystals."""

_STABLE = f"""\
Stable: at most {STABLE_E_ABOVE_HULL:g} eV/atom above the hull. AUC is the share of pairs of a stable crystal and
another in which the stable one's energy is lower; 0.5 for a constant, not defined where all crystals are stable. The
baseline 0 calls all stable."""

_SUREST = """\
MAE of a share of the crystals: in the order of expected errors, in random order, and in the order of the actual errors,
which nobody knows (oracle)."""


def energy_report(title: str, settings: Mapping[str, str], figures: EnergyFigures, drawn: Mapping[str, str]) -> str:
    """A complete page.

    Args:
        title: its heading.
        settings: what was run.
        figures: what came out.
        drawn: caption -> path of an image, relative to the page.

    """
    page = [
        f"# {title}",
        "## Settings",
        table(["Setting", "Value"], list(settings.items()), words=(0, 1)),
        "## Errors",
        _ERRORS,
        _agreement_table(figures.methods),
        "## Stable or not",
        _STABLE,
        _stability_table(figures.methods),
        "## The predictor's errors by true label",
        _group_table("Label (eV/atom)", figures.label_groups),
        "## By number of atoms in the primitive cell",
        _group_table("Atoms", figures.atom_groups),
        "## By what the predictor itself says",
        "Doubts: an element, a size or a volume that it was not trained on (`dao energy` prints which).",
        _group_table("The predictor has", figures.doubt_groups),
    ]
    if figures.uncertainty is not None:
        page += ["## Expected errors", *_uncertainty(figures.uncertainty)]
    if drawn:
        page += ["## Figures", *(f"![{caption}]({path})" for caption, path in drawn.items())]
    return "\n\n".join(page) + "\n"


def interval_text(one: Interval | None, decimals: int = 4) -> str:
    """``0.0260 (0.0241 to 0.0280)``; a dash for what is not defined."""
    if one is None or math.isnan(one.value):
        return NONE
    value, low, high = (_number(number, decimals) for number in (one.value, one.low, one.high))
    return f"{value} ({low} to {high})"


def _agreement_table(methods: Sequence[Method]) -> str:
    body = []
    for method in methods:
        one = method.agreement
        errors = [interval_text(figure) for figure in (one.mae, one.rmse, one.bias)]
        body.append([method.name, *errors, interval_text(one.spearman, 3), interval_text(one.r2, 3)])
    return table(["Method", "MAE", "RMSE", "Bias", "Spearman", "R²"], body)


def _stability_table(methods: Sequence[Method]) -> str:
    body = [
        [method.name, *(interval_text(one, 3) for one in (own.precision, own.recall, own.f1, own.auc))]
        for method in methods
        for own in (method.stability,)
    ]
    return table(["Method", "Precision", "Recall", "F1", "AUC"], body)


def _group_table(title: str, groups: Sequence[Group]) -> str:
    body = [[one.name, f"{one.crystals:,}", interval_text(one.mae), interval_text(one.bias)] for one in groups]
    return table([title, "Crystals", "MAE", "Bias"], body)


def _uncertainty(found: Uncertainty) -> list[str]:
    bins = [[f"{one.crystals:,}", f"{one.expected:.4f}", interval_text(one.observed)] for one in found.bins]
    surest = [
        [f"{100 * one.share:.0f} %", interval_text(one.mae), f"{one.random:.4f}", f"{one.oracle:.4f}"]
        for one in found.surest
    ]
    gain = NONE if math.isnan(found.gain) else f"{100 * found.gain:.0f} %"
    overall = (
        f"The predictor expects an absolute error of each energy. Actual over expected error, overall:"
        f" {interval_text(found.factor, 3)} (1: calibrated; above: too sure). Rank correlation of the two:"
        f" {interval_text(found.spearman, 3)}."
    )
    area = (
        f"Area under the sparsification curve (eV/atom): {found.area:.4f}; random {found.area_random:.4f}, oracle"
        f" {found.area_oracle:.4f}. Of what an oracle gains over random order, the predictor gains {gain}."
    )
    return [
        overall,
        "### Calibration",
        "Bins of equal count by expected error; MAE is the mean actual error.",
        table(["Crystals", "Mean expected error", "MAE"], bins, words=()),
        "### The crystals it is surest of",
        _SUREST,
        table(["Share", "MAE", "Random", "Oracle"], surest, words=()),
        area,
    ]


def _number(value: float, decimals: int) -> str:
    # no minus sign before what is printed as zero
    return f"{value + 0.0:.{decimals}f}" if round(value, decimals) else f"{0:.{decimals}f}"
