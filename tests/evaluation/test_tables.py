from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from dao.evaluation.metrics import UNKNOWN, SeedRow, Spread
from dao.evaluation.polymorphs import Coverage, polymorphs
from dao.evaluation.published import Published
from dao.evaluation.scores import Interval, Row, Scores
from dao.evaluation.tables import (
    group_table,
    main_table,
    polymorph_table,
    published_table,
    report,
    seed_table,
    table,
)

nan = float("nan")
RATE = Interval(0.528, 0.4971, 0.5592)
ROW = Row(
    subset="all",
    k=1,
    crystals=1000,
    unfiltered=RATE,
    filtered=Interval(0.5, 0.4, 0.6),
    strict=Interval(0.1, 0.0, 0.2),
    rmse=Interval(0.05214, 0.048, 0.0571),
    rmse_filtered=UNKNOWN,
    crmse=Interval(0.25, 0.2, 0.3),
)


def row(method: str, **changes: Any) -> Published:
    fields: dict[str, Any] = {
        "dataset": "MP-20",
        "match_rate": 51.49,
        "rmse": 0.0631,
        "filter": "filtered",
        "parameters": "12.3 M",
        "source": "paper, Table 1",
        "grade": "A",
    }
    return Published(**{"method": method} | fields | changes)


def cells(text: str) -> list[list[str]]:
    """Body and header of a Markdown table, as a reader splits it."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.split("\n")]
    assert len({len(line) for line in lines}) == 1, "ragged table"
    return [[cell.strip() for cell in line] for place, line in enumerate(lines) if place != 1]


def test_table_lines_up_and_escapes() -> None:
    text = table(["Name", "n"], [["a|b", "1"], ["long\nname", "1,234"]])
    assert text.split("\n") == [
        "| Name      |     n |",
        "| --------- | ----: |",
        "| a\\|b      |     1 |",
        "| long name | 1,234 |",
    ]


def test_table_without_lines_is_a_header() -> None:
    assert table(["A", "B"], []) == "| A   |   B |\n| --- | --: |"


def test_main_table_by_hand() -> None:
    header, line, ranked = cells(main_table([ROW], [ROW]))
    assert header[:4] == ["Subset", "k", "Crystals", "Match rate U (%)"]
    assert line == [
        "all",
        "1",
        "1,000",
        "52.8 (49.7-55.9)",
        "50.0 (40.0-60.0)",
        "10.0 (0.0-20.0)",
        "0.0521 (0.0480-0.0571)",
        "–",
        "0.2500 (0.2000-0.3000)",
    ]
    assert ranked == ["all", "ranked top-1", *line[2:]]


def test_metre_columns_appear_where_measured() -> None:
    measured = Row(**{**vars(ROW), "k": 5, "metre": RATE, "metre_crmse": RATE})
    header, first, fifth = cells(main_table([ROW, measured]))
    assert header[-2:] == ["METRe (%)", "METRe cRMSE"]
    assert first[-2:] == ["–", "–"]
    assert fifth[-2:] == ["52.8 (49.7-55.9)", "0.5280 (0.4971-0.5592)"]


def test_ranked_row_follows_its_own_subset() -> None:
    exact = Row(**{**vars(ROW), "subset": "exact"})
    lines = cells(main_table([ROW, exact], [exact, ROW]))[1:]
    assert [line[:2] for line in lines] == [
        ["all", "1"],
        ["all", "ranked top-1"],
        ["exact", "1"],
        ["exact", "ranked top-1"],
    ]


def test_group_and_seed_tables() -> None:
    header, line = cells(group_table("Atoms", [("1-4", ROW)]))
    assert header == ["Atoms", "Crystals", "Match rate U (%)", "Match rate F (%)", "Strict U (%)", "RMSE U", "cRMSE U"]
    assert line[:3] == ["1-4", "1,000", "52.8 (49.7-55.9)"]
    spread = Spread(0.528, 0.0041)
    rows = [
        SeedRow("all", 3, 2000, spread, spread, Spread(0.0521, 0.001)),
        SeedRow("exact", 1, 2000, Spread(0.5, nan), spread, Spread(nan, nan)),
    ]
    assert cells(seed_table(rows))[1:] == [
        ["all", "3", "2,000", "52.8 ± 0.4", "52.8 ± 0.4", "0.0521 ± 0.0010"],
        ["exact", "1", "2,000", "50.0", "52.8 ± 0.4", "–"],
    ]


def test_polymorph_table_sets_the_paper_beside_as_listed_only() -> None:
    lines = [Coverage(2, 18, RATE, RATE), Coverage(None, 20, RATE, RATE)]
    _, distinct, _, listed, every = cells(polymorph_table(lines, lines))
    assert distinct == ["distinct", "2", "18", "52.8 (49.7-55.9)", "52.8 (49.7-55.9)", "–"]
    assert listed == ["as listed", "2", "18", "52.8 (49.7-55.9)", "52.8 (49.7-55.9)", "72.2"]
    assert every[-1] == "–"


def test_published_rows_fall_by_rate_below_ours() -> None:
    published = [
        row("low", match_rate=33.9, rmse_sd=0.001, pretraining=""),
        row("none", match_rate=None, rmse=None, metre=74.78, crmse=0.174),
        row("high", match_rate=74.17, match_rate_sd=0.3, filter="unknown", network_evaluations="2000"),
        row("wide|pipe", k=20),
    ]
    measured = Row(**{**vars(ROW), "metre": RATE})
    lines = cells(published_table(published, [measured], {"Parameters": "8.1 M", "Data": "mp20"}))[1:]
    this = "**this run**, 1,000 crystals"
    assert [line[0] for line in lines] == [this, this, "high", "low", "none", "wide\\|pipe"]
    rate = "52.8 (49.7-55.9)"
    figures = [f"**{rate}**", "0.0521 (0.0480-0.0571)", "0.2500 (0.2000-0.3000)", rate]
    assert lines[0][1:] == ["unfiltered", "1", *figures, "8.1 M", "–", "–", "–"]
    assert lines[1][1:] == ["filtered", "1", "**50.0 (40.0-60.0)**", "–", "–", "–", "8.1 M", "–", "–", "–"]
    source = "paper, Table 1 [A]"
    assert lines[2][1:] == ["unknown", "1", "74.17 ± 0.30", "0.0631", "–", "–", "12.3 M", "2000", "none", source]
    assert lines[3][1:] == ["filtered", "1", "33.90", "0.0631 ± 0.0010", "–", "–", "12.3 M", "–", "–", source]
    assert lines[4][3:7] == ["–", "–", "0.174", "74.78"]


def run(targets: int = 6) -> Scores:
    rng = np.random.default_rng(0)
    rms = np.where(rng.random((targets, 5)) < 0.5, rng.uniform(0, 0.5, (targets, 5)), nan)
    members = {"exact": np.arange(targets) < 4, "nobody": np.zeros(targets, dtype=bool)}
    return Scores(
        ids=tuple(map(str, range(targets))),
        formulas=("X",) * targets,
        num_atoms=np.arange(2, targets + 2),
        num_elements=np.full(targets, 2),
        rms=rms,
        strict=rms,
        target_valid=np.ones(targets, dtype=bool),
        sample_valid=np.ones((targets, 5), dtype=bool),
        ranked=rms[:, 0],
        subsets=members,
        timeouts=1234,
    )


def test_report_holds_every_section() -> None:
    found = polymorphs({"TiO2": np.array([[0.1], [nan]])})
    page = report(
        "MP-20 |\n test",
        {"Data": "mp20 | test", "Steps": "50"},
        run(),
        seeds=[run(), run()],
        published=[row("DiffCSP")],
        listed=found,
        distinct=found,
        figures={"Match rate": "rate.png"},
    )
    assert [line for line in page.split("\n") if line.startswith("#")] == [
        "# MP-20 | test",
        "## Settings",
        "## Match rates",
        "### First try over seeds",
        "### By number of atoms in the cell, k = 1",
        "### By number of elements, k = 1",
        "### By number of atoms in the cell, k = 5",
        "### By number of elements, k = 5",
        "## Polymorphs",
        "## Published results",
        "## Figures",
    ]
    assert "mp20 \\| test" in page
    assert "1,234" in page
    assert "![Match rate](rate.png)" in page
    assert "nobody" not in page
    assert page.count("**this run**") == 4
    assert page.endswith("(rate.png)\n")
    assert "nan" not in page
    assert not re.search(r"[ \t]+$", page, flags=re.MULTILINE)
    for block in page.split("\n\n"):
        if block.startswith("|"):
            cells(block.rstrip("\n"))


def test_report_of_little_leaves_sections_out() -> None:
    page = report("Little", {}, run(), ks=(1,))
    headings = [line for line in page.split("\n") if line.startswith("## ")]
    assert headings == ["## Settings", "## Match rates"]
    assert page.count("### By number of atoms") == 1
    none = report("None", {}, run(0))
    assert "### By" not in none


def test_unseen_rows_stand_beside_published_ones() -> None:
    scores = replace(run(), subsets={"unseen": np.arange(6) < 4, "exact": np.arange(6) < 3})
    page = report("x", {}, scores, ks=(1,), published=[row("A", k=1, match_rate=50.0)])
    ours = [line.split("|")[1].strip() for line in page.splitlines() if "**this run**" in line]
    assert ours == ["**this run**, 6 crystals"] * 2 + ["**this run**, 4 unseen crystals"] * 2
