"""DAO-P finetuned to critical temperatures: a small grid of settings, chosen within each fold (paper appendix 2.3.1).

A setting is a run of :func:`dao.training.finetune.finetune` in its own folder. Of each fold, the setting whose error
on that fold's own validation crystals is least is the one that counts; test crystals choose nothing. The paper does not
say by what its settings were chosen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dao.data.properties.base import PropertyData
from dao.errors import InputError
from dao.prediction.files import write_text
from dao.superconductors.dataset import constant_errors
from dao.training.finetune import TEST, FinetuneSettings, finetune, read_test

CHOSEN = "chosen.json"


def setting_name(settings: FinetuneSettings) -> str:
    """Of its folder, e.g. ``rate-0.001-decay-0.01``."""
    return f"rate-{settings.learning_rate:g}-decay-{settings.weight_decay:g}"


def cross_validate(
    data: PropertyData,
    settings: FinetuneSettings,
    *,
    out: Path,
    rates: Sequence[float],
    decays: Sequence[float],
    folds: Sequence[str] | None = None,
    device: str = "auto",
    progress: bool = True,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Finetune with every setting on every fold and return what :func:`choose` finds.

    Args:
        data: superconductors and folds.
        settings: all but rate and decay.
        out: a folder of folders; the same call goes on where it was stopped.
        rates: learning rates.
        decays: weight decays.
        folds: those to do now; all if None.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        progress: show progress bars on stderr.
        note: told, in one line each, what happens out of the ordinary.

    Raises:
        InputError: no such fold or weights, or a folder in use by another run.

    """
    for rate, decay in product(rates, decays):
        one = replace(settings, learning_rate=rate, weight_decay=decay)
        folder = out / setting_name(one)
        finetune(data, one, out=folder, folds=folds, device=device, progress=progress, note=note)
        choose(out, data)
    return choose(out, data)


def choose(out: Path, data: PropertyData) -> dict[str, Any]:
    """Write ``chosen.json``: of each fold the best setting on validation, its errors, and the means over the folds.

    Raises:
        InputError: no training is finished.

    """
    runs = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*/results.json"))
    }
    folds = []
    for fold in data.folds:
        tried = {
            name: next(one for one in run["folds"] if one["name"] == fold.name)
            for name, run in runs.items()
            if any(one["name"] == fold.name for one in run["folds"])
        }
        if tried:
            best = min(tried, key=lambda name: tried[name]["validation_mae"])
            settings = runs[best]["settings"]
            folds.append(
                {
                    **tried[best],
                    "setting": best,
                    "rate": settings["learning_rate"],
                    "decay": settings["weight_decay"],
                    "tried": {name: one["validation_mae"] for name, one in tried.items()},
                }
            )
    if not folds:
        raise InputError(f"{out}: none of its trainings is finished")
    first = next(iter(runs.values()))
    chosen = {
        "data": data.name,
        "crystals": len(data.crystals),
        "notes": list(data.notes),
        "settings": {
            key: value for key, value in first["settings"].items() if key not in ("learning_rate", "weight_decay")
        },
        "complete": len(folds) == len(data.folds),
        "folds": folds,
        **{key: float(np.mean([fold[key] for fold in folds])) for key in ("mae", "rmse", "validation_mae")},
        "mae_sd": float(np.std([fold["mae"] for fold in folds])),
        "constant_mae": constant_errors(data),
        "cpu_hours": round(sum(run["cpu_hours"] for run in runs.values()), 3),
    }
    write_text(out / CHOSEN, json.dumps(chosen, indent=1) + "\n")
    return chosen


def read_chosen(out: Path) -> dict[str, Any]:
    """What :func:`choose` wrote.

    Raises:
        InputError: missing, or none.

    """
    try:
        chosen = json.loads((out / CHOSEN).read_text(encoding="utf-8"))
        if not chosen["folds"]:
            raise KeyError("folds")  # noqa: TRY301 - said below
    except FileNotFoundError:
        raise InputError(f"{out}: holds no run of dao superconductors train ({CHOSEN})") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{out / CHOSEN}: no run of dao superconductors train") from None
    return dict(chosen)


def chosen_members(out: Path) -> list[list[Path]]:
    """Folders of the weights of every fold's chosen setting, its members in order.

    Raises:
        InputError: as :func:`read_chosen`.

    """
    return [[path.with_name("best") for path in _tests(out, fold)] for fold in read_chosen(out)["folds"]]


def _tests(out: Path, fold: dict[str, Any]) -> list[Path]:
    """Files of the test crystals, one a member of that fold."""
    found = (out / fold["setting"] / f"fold-{fold['name']}").glob(f"seed-*/{TEST}")
    return sorted(found, key=lambda path: int(path.parent.name.removeprefix("seed-")))


def test_predictions(out: Path) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
    """Labels and predictions of the test crystals of all folds, by the mean of each fold's members, ln(K).

    Raises:
        InputError: as :func:`read_chosen`.

    """
    labels, said = [], []
    for fold in read_chosen(out)["folds"]:
        tests = [read_test(path) for path in _tests(out, fold)]
        labels.append(tests[0][0])
        said.append(np.mean([one for _, one in tests], axis=0))
    return np.concatenate(labels), np.concatenate(said)
