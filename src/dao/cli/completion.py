"""What the shell completes: names of weights, recipes, tables and data sets. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Iterable


def weights(incomplete: str) -> list[str]:
    """Weights that ship."""
    from dao.weights import shipped

    return _beginning(shipped(), incomplete)


def tables(incomplete: str) -> list[str]:
    """Tables of prototypes that ship."""
    from dao.prediction.sources import shipped_tables

    return _beginning(shipped_tables(), incomplete)


def recipes(incomplete: str) -> list[str]:
    """Recipes that ship."""
    from dao.recipes import shipped

    return _beginning(shipped(), incomplete)


def data_sets(incomplete: str) -> list[str]:
    """Data sets of ``$DAO_DATA``; without any, the shell completes names of files."""
    from dao.data.locate import data_folder

    try:
        found = sorted(path.stem for path in data_folder().glob("*.parquet"))
    except OSError:
        found = []
    return _beginning(found, incomplete)


def file_formats(incomplete: str) -> list[str]:
    """The next of some formats with commas between."""
    from dao.prediction.formats import FORMATS

    before, comma, last = incomplete.rpartition(",")
    chosen = before.split(",")
    return [before + comma + name for name in FORMATS if name.startswith(last) and name not in chosen]


def formats(incomplete: str) -> list[str]:
    """What results can be printed as, and files."""
    return [*_beginning(("table", "json"), incomplete), *(one for one in file_formats(incomplete) if one != "json")]


def sources(incomplete: str) -> list[str]:
    """What proposes crystals."""
    return _beginning(("generator", "prototypes", "generator,prototypes"), incomplete)


def devices(incomplete: str) -> list[str]:
    """Where to compute; which CUDA devices there are would take torch to say."""
    return _beginning(("auto", "cpu", "cuda"), incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
