from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dao.errors import InputError
from dao.evaluation.figures import _chosen, curve_figure, polymorph_figure, rms_figure, size_figure, write_figures
from dao.evaluation.polymorphs import coverage, polymorphs
from dao.evaluation.published import Published
from dao.evaluation.scores import Scores

matplotlib = pytest.importorskip("matplotlib", reason="figures need matplotlib")

nan = float("nan")
LISTED = polymorphs({"TiO2": np.array([[0.1], [nan]]), "C": np.full((3, 2), 0.1), "B": np.full((6, 1), nan)})


def run(targets: int = 30, samples: int = 3, rate: float = 0.5) -> Scores:
    rng = np.random.default_rng(0)
    shape = (targets, samples)
    rms = np.where(rng.random(shape) < rate, rng.uniform(0, 0.5, shape), nan)
    valid = rng.random(shape) < 0.9
    return Scores(
        ids=tuple(map(str, range(targets))),
        formulas=("X",) * targets,
        num_atoms=rng.integers(1, 60, targets),
        num_elements=rng.integers(1, 5, targets),
        rms=rms,
        strict=rms,
        target_valid=np.ones(targets, dtype=bool),
        sample_valid=valid,
    )


def row(method: str, **changes: Any) -> Published:
    fields: dict[str, Any] = {
        "dataset": "MP-20",
        "match_rate": 51.49,
        "filter": "filtered",
        "source": "paper",
        "grade": "A",
    }
    return Published(**{"method": method} | fields | changes)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in the header of a PNG, which must be a whole file."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])


def test_every_figure_is_written_whole_as_png_and_svg(tmp_path: Path) -> None:
    # points that would overlap, a k beyond the samples, no match rate
    published = [row(f"method {i} | x", k=k, match_rate=50 + i / 2 + k) for i in range(12) for k in (1, 3)]
    published += [row("far", k=20), row("none", match_rate=None), row("one", filter="unknown")]
    folder = tmp_path / "new" / "figures"
    figures = write_figures(run(), folder, published=published, listed=LISTED, distinct=LISTED[:1])
    stems = ["match_rate_by_atoms", "match_rate_within_k", "polymorph_coverage", "rms_distances"]
    assert names(folder) == [f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")]
    assert sorted(figures.values()) == [f"{stem}.png" for stem in stems]
    for stem in stems:
        width, height = size_of(folder / f"{stem}.png")
        assert width >= 1000
        assert height >= 600
        assert (folder / f"{stem}.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")


def test_best_published_curves_and_single_points_are_drawn() -> None:
    published = [row(f"curve {i}", k=k, match_rate=40.0 + i) for i in range(9) for k in (1, 3)]
    published += [row(f"single {i}", match_rate=60.0 + i) for i in range(5)]
    published += [row("far", k=20), row("none", match_rate=None), row("far curve", k=1), row("far curve", k=20)]
    published += [row("both filters", filter="filtered", match_rate=80.0), row("both filters", filter="unfiltered")]
    chosen = [(points[0].method, [point.k for point in points]) for points in _chosen(published, samples=3)]
    curves = [(f"curve {i}", [1, 3]) for i in (8, 7, 6, 5, 4, 3)]
    assert chosen == [*curves, ("both filters", [1]), ("single 4", [1]), ("single 3", [1])]


def test_figures_without_anything_to_show_are_left_out(tmp_path: Path) -> None:
    single = write_figures(run(samples=1), tmp_path / "single")
    assert set(single.values()) == {"match_rate_by_atoms.png", "rms_distances.png"}
    assert write_figures(run(targets=0), tmp_path / "none") == {}
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_nothing_and_everything_matched_are_drawn(tmp_path: Path, rate: float) -> None:
    one = run(targets=3, samples=12, rate=rate)
    for path in (size_figure(one, tmp_path), rms_figure(one, tmp_path), curve_figure(one, tmp_path)):
        size_of(path)


def test_polymorphs_of_one_count_are_drawn(tmp_path: Path) -> None:
    size_of(polymorph_figure(coverage(LISTED), [], tmp_path))
    size_of(polymorph_figure([], coverage(LISTED), tmp_path))


def test_same_run_gives_the_same_files_and_leaves_no_state(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    for folder in ("one", "two"):
        rms_figure(run(), tmp_path / folder)
    assert dict(matplotlib.rcParams) == before
    for name in ("rms_distances.png", "rms_distances.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_histogram_holds_every_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn = []
    original = Axes.stairs

    def spy(self: Axes, values: Any, edges: Any, **others: Any) -> Any:
        drawn.append(float(np.sum(values)))
        return original(self, values, edges, **others)

    monkeypatch.setattr(Axes, "stairs", spy)
    one = run(targets=4, samples=2)
    one.rms[:] = [[0.0, nan], [0.5, 1e-9], [nan, nan], [nan, 0.2]]
    rms_figure(one, tmp_path)
    # each is drawn twice, as area and as line; together the bars are the match rate in percent
    assert drawn == pytest.approx([75, 75, 50, 50])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    path = rms_figure(run(), tmp_path)
    old = path.read_bytes()

    def broken(_: Figure, target: Path, **__: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        rms_figure(run(targets=5), tmp_path)
    assert path.read_bytes() == old


def test_matplotlib_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (lambda: write_figures(run(), tmp_path), lambda: curve_figure(run(), tmp_path)):
        with pytest.raises(InputError, match="pip install matplotlib"):
            draw()
    assert names(tmp_path) == []
