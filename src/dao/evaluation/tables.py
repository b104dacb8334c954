"""Markdown tables of an evaluation, and the page that holds them all.

Match rates are printed in percent with their 95 % interval, ``52.8 (49.7-55.9)``; RMS distances, dimensionless, with
four decimals. What was not measured, or is not defined, is a dash. U = unfiltered, F = filtered;
:mod:`dao.evaluation.metrics` defines every column.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from dao.evaluation.metrics import SeedRow, Spread, by_elements, by_size, over_seeds, ranked_row, rows
from dao.evaluation.polymorphs import PAPER_ALL_HIT, Coverage, Polymorph, coverage
from dao.evaluation.published import Published
from dao.evaluation.scores import EVERY, UNSEEN, Interval, Row, Scores

NONE = "–"
"""Printed for what was not measured or is not defined."""

LEGEND = """\
Match rates are shares of all test crystals that any of the first k samples matches, by pymatgen's StructureMatcher
(stol 0.5, ltol 0.3, angle_tol 10); strict is the same at pymatgen's defaults (0.3, 0.2, 5). U = unfiltered. F =
filtered: test crystal and sample must both pass SMACT's composition check and have no two atoms within 0.5 Å. RMSE is
the mean over matched crystals of the smallest RMS distance, which is dimensionless, in units of (V/N)^(1/3); cRMSE
counts a miss as 0.5. METRe lets any sample of the same composition match. For k > 1 the truth picks the sample:
coverage, not ranking; in "ranked top-1" our own ranking picks. In brackets, 95 % bootstrap intervals over test
crystals."""
"""What the columns mean, for the reader of a page."""


def table(header: Sequence[str], lines: Sequence[Sequence[str]], words: Collection[int] = (0,)) -> str:
    """A Markdown table whose columns line up in plain text too; ends without a line break.

    Args:
        header: of each column.
        lines: cells; pipes and line breaks in them are escaped.
        words: which columns are flush left; the rest, figures, are flush right.

    """
    cells = [[_escape(cell) for cell in line] for line in [header, *lines]]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width if place in words else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    padded = [
        [
            cell.ljust(width) if place in words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in cells
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def main_table(lines: Sequence[Row], ranked: Sequence[Row] = ()) -> str:
    """One line a subset and k; rows of ``ranked`` follow those of their subset, as "ranked top-1"."""
    everyone = any(row.metre is not None for row in lines)
    header = ["Subset", "k", "Crystals", *_RATES, "RMSE U", "RMSE F", "cRMSE U"]
    header += ["METRe (%)", "METRe cRMSE"] if everyone else []
    body = []
    for subset in dict.fromkeys(row.subset for row in [*lines, *ranked]):
        named = [(str(row.k), row) for row in lines if row.subset == subset]
        named += [("ranked top-1", row) for row in ranked if row.subset == subset]
        for k, row in named:
            line = [subset, k, f"{row.crystals:,}", *_rates(row), _distance(row.rmse), _distance(row.rmse_filtered)]
            line += [_distance(row.crmse)]
            body.append(line + ([_percent(row.metre), _distance(row.metre_crmse)] if everyone else []))
    return table(header, body)


def group_table(title: str, groups: Sequence[tuple[str, Row]]) -> str:
    """One line a group of crystals, as :func:`dao.evaluation.metrics.by_size` and ``by_elements`` make them.

    Args:
        title: header of the first column.
        groups: label and metrics.

    """
    body = [
        [label, f"{row.crystals:,}", *_rates(row), _distance(row.rmse), _distance(row.crmse)] for label, row in groups
    ]
    return table([title, "Crystals", *_RATES, "RMSE U", "cRMSE U"], body)


def seed_table(lines: Sequence[SeedRow]) -> str:
    """First-try metrics as mean ± standard deviation over seeds, one line a subset."""
    body = [
        [
            row.subset,
            str(row.seeds),
            f"{row.crystals:,}",
            _spread(row.unfiltered, 100.0, 1),
            _spread(row.filtered, 100.0, 1),
            _spread(row.rmse, 1.0, 4),
        ]
        for row in lines
    ]
    return table(["Subset", "Seeds", "Crystals", "Match rate U (%)", "Match rate F (%)", "RMSE U"], body)


def polymorph_table(listed: Sequence[Coverage], distinct: Sequence[Coverage] = ()) -> str:
    """Polymorph coverage by number of conformations, distinct first, the paper's share beside "as listed"."""
    body = [
        [
            count,
            line.label,
            f"{line.groups:,}",
            _percent(line.all_hit),
            _percent(line.mean_share),
            f"{100 * PAPER_ALL_HIT[line.conformations]:.1f}"
            if count == "as listed" and line.conformations in PAPER_ALL_HIT
            else NONE,
        ]
        for count, lines in (("distinct", distinct), ("as listed", listed))
        for line in lines
    ]
    header = ["Count", "Conformations", "Compositions", "All hit (%)", "Mean share hit (%)", "All hit, DAO-G paper (%)"]
    return table(header, body)


def published_table(
    published: Sequence[Published], ours: Sequence[Row] = (), settings: Mapping[str, str] | None = None
) -> str:
    """Published figures beside ours, by k; ours come first and in bold, unfiltered and filtered.

    Args:
        published: all of one data set; match rates in percent. Printed by falling match rate.
        ours: rows of all targets, and of the subsets that belong beside published figures.
        settings: of our run; "Parameters", "Network evaluations" and "Pretraining" are printed where given.

    """
    known = settings or {}
    own = [known.get(name, NONE) for name in ("Parameters", "Network evaluations", "Pretraining")]
    body = []
    for k in sorted({*(row.k for row in published), *(row.k for row in ours)}):
        for row in (row for row in ours if row.k == k):
            which = "" if row.subset == EVERY else f" {row.subset}"
            name = f"**this run**, {row.crystals:,}{which} crystals"
            unfiltered = [
                f"**{_percent(row.unfiltered)}**",
                *map(_distance, (row.rmse, row.crmse)),
                _percent(row.metre),
            ]
            filtered = [f"**{_percent(row.filtered)}**", _distance(row.rmse_filtered), NONE, NONE]
            body.append([name, "unfiltered", str(k), *unfiltered, *own, NONE])
            body.append([name, "filtered", str(k), *filtered, *own, NONE])
        theirs = [row for row in published if row.k == k]
        body += [
            [
                row.method,
                row.filter,
                str(k),
                _plus_minus(row.match_rate, row.match_rate_sd, 2),
                _plus_minus(row.rmse, row.rmse_sd, 4),
                _plus_minus(row.crmse, None, 3),
                _plus_minus(row.metre, None, 2),
                *(text or NONE for text in (row.parameters, row.network_evaluations, row.pretraining)),
                f"{row.source} [{row.grade}]",
            ]
            for row in sorted(theirs, key=lambda row: row.match_rate or 0.0, reverse=True)
        ]
    header = ["Method", "Filter", "k", "Match rate (%)", "RMSE", "cRMSE", "METRe (%)"]
    return table([*header, "Parameters", "Network evaluations", "Pretraining", "Source"], body, words=(0, 1, 9, 10))


def report(
    title: str,
    settings: Mapping[str, str],
    scores: Scores,
    *,
    ks: Sequence[int] = (1, 5, 20),
    seeds: Sequence[Scores] = (),
    published: Sequence[Published] = (),
    listed: Sequence[Polymorph] = (),
    distinct: Sequence[Polymorph] = (),
    figures: Mapping[str, str] | None = None,
    sections: Mapping[str, str] | None = None,
) -> str:
    """A complete Markdown page of an evaluation; sections without anything to show are left out.

    Args:
        title: heading of the page.
        settings: what was run, printed as it is: data, counts, seeds, steps, network evaluations, parameters, training
            record. Three of them go beside the published rows, see :func:`published_table`.
        scores: of the run.
        ks: samples a target; those above the number of samples are left out.
        seeds: runs of several seeds on the same targets, ``scores`` among them, for the table over seeds.
        published: rows of the same data set.
        listed: polymorphs counted as listed, of any k.
        distinct: the same with matching references merged.
        figures: caption -> path of an image, relative to the page.
        sections: heading -> Markdown, printed before the published rows.

    Returns:
        The page, ending in one line break.

    Raises:
        InputError: a k below 1, or seeds that differ in their targets.

    """
    lines = rows(scores, ks)
    subsets = [name for name in (EVERY, *scores.subsets) if scores.members(name).any()]
    ranked = [row for row in (ranked_row(scores, subset) for subset in subsets) if row is not None]
    known = {**settings, "Pairs that ran out of time (counted as no match)": f"{scores.timeouts:,}"}
    page = [
        f"# {_one_line(title)}",
        "## Settings",
        table(["Setting", "Value"], list(known.items()), words=(0, 1)),
        "## Match rates",
        LEGEND,
        main_table(lines, ranked),
    ]
    if seeds:
        page += ["### First try over seeds", "Mean ± standard deviation between seeds, same test crystals."]
        page += [seed_table([over_seeds(seeds, subset) for subset in subsets])]
    shown = sorted({row.k for row in lines})
    for k in dict.fromkeys([*shown[:1], *shown[-1:]]) if lines else ():
        page += [f"### By number of atoms in the cell, k = {k}", group_table("Atoms", by_size(scores, k))]
        page += [f"### By number of elements, k = {k}", group_table("Elements", by_elements(scores, k))]
    if listed or distinct:
        page += ["## Polymorphs", _POLYMORPHS, polymorph_table(coverage(listed), coverage(distinct))]
    for heading, text in (sections or {}).items():
        page += [f"## {heading}", text]
    if published:
        # what a model was trained on says little of it: those rows stand alone where they are known
        ours = [row for row in lines if row.subset in {EVERY, UNSEEN}]
        page += ["## Published results", _PUBLISHED, published_table(published, ours, settings)]
    if figures:
        page += ["## Figures", *(f"![{_one_line(caption)}]({path})" for caption, path in figures.items())]
    return "\n\n".join(page) + "\n"


_RATES = ("Match rate U (%)", "Match rate F (%)", "Strict U (%)")

_POLYMORPHS = """\
Test crystals of one composition share their samples; a composition is covered when each of its conformations is matched
by some sample. "As listed" counts every test crystal as a conformation; "distinct" merges those that match each other
at the benchmark's tolerances, which no match can tell apart. Wilson intervals for "all hit", bootstrap intervals over
compositions for the mean share. The paper shows selected compositions, this table all of them."""

_PUBLISHED = """\
Filtered and unfiltered rates differ by several points: compare like with like. Data, size and pretraining differ
between rows. In square brackets the grade of the evidence: A read in the primary source, B from another paper's or a
reviewer's table, C from memory and not verified, D derived."""


def _rates(row: Row) -> list[str]:
    return [_percent(row.unfiltered), _percent(row.filtered), _percent(row.strict)]


def _percent(one: Interval | None) -> str:
    return with_interval(one, 100.0, 1)


def _distance(one: Interval | None) -> str:
    return with_interval(one, 1.0, 4)


def with_interval(one: Interval | None, scale: float, decimals: int) -> str:
    """A figure times ``scale`` and its interval, ``52.8 (49.7-55.9)``; a dash where it is not defined."""
    if one is None or math.isnan(one.value):
        return NONE
    value, low, high = (f"{scale * number:.{decimals}f}" for number in (one.value, one.low, one.high))
    return f"{value} ({low}-{high})"


def _spread(one: Spread, scale: float, decimals: int) -> str:
    return _plus_minus(scale * one.mean, scale * one.deviation, decimals)


def _plus_minus(mean: float | None, deviation: float | None, decimals: int) -> str:
    if mean is None or math.isnan(mean):
        return NONE
    text = f"{mean:.{decimals}f}"
    return text if deviation is None or math.isnan(deviation) else f"{text} ± {deviation:.{decimals}f}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escape(cell: str) -> str:
    return _one_line(cell).replace("|", "\\|")
