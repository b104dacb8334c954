"""How figures look and are written: PNG and SVG, each whole or not at all.

matplotlib is imported when a figure is drawn, through its object interface: no window, no global state. Colours are
those of Okabe and Ito, told apart by colour-blind readers too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, BLACK, GREY = "#0072B2", "#E69F00", "#009E73", "#000000", "#6E6E6E"

# Any: matplotlib's own type lists every key there is
_STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 10,
    # the same figure gives the same file
    "svg.hashsalt": "dao",
}


def require_matplotlib() -> None:
    """Refuse to go on without matplotlib.

    Raises:
        InputError: it is not installed.

    """
    if find_spec("matplotlib") is None:
        raise InputError("figures need matplotlib: pip install matplotlib")


@contextmanager
def figure_file(path: Path, width: float, height: float = 4.2) -> Iterator[Figure]:
    """A blank figure of that size in inches; on leaving, written to ``path``.png and .svg.

    Raises:
        InputError: matplotlib is not installed.

    """
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix, metadata in (("png", {}), ("svg", {"Date": None})):
            part = path.with_name(f".{path.name}.{suffix}.part")
            figure.savefig(part, format=suffix, dpi=160, metadata=metadata)
            part.replace(path.with_name(f"{path.name}.{suffix}"))
