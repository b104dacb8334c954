"""DAO: type a composition, get back the crystals it is likely to form.

The names below are imported when they are first used: ``import dao`` alone loads neither torch nor pymatgen, writes
nothing and reaches no network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dao.crystal import Crystal, CrystalBatch
    from dao.models import Generator
    from dao.prediction.pipeline import predict

_HOMES = {
    "Crystal": "dao.crystal",
    "CrystalBatch": "dao.crystal",
    "Generator": "dao.models",
    "predict": "dao.prediction.pipeline",
}

__all__ = ["Crystal", "CrystalBatch", "Generator", "__version__", "predict"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute can be anything
    if name == "__version__":
        from importlib.metadata import version

        return version("dao-crystal")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dao' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
