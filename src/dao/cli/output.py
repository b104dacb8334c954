"""Results on standard output: an aligned table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Print ``value`` as indented JSON; NaN and infinity, which JSON lacks, are an error."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print ``rows`` under the headings ``columns`` (key -> heading), never cut to the terminal's width.

    Numbers are aligned to the right, floats have two decimals, and missing values are a dash.
    """
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns.values(), *cells, strict=True)]
    right = [all(isinstance(row.get(key), int | float | None) for row in rows) for key in columns]
    for line in ([*columns.values()], ["-" * width for width in widths], *cells):
        padded = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
