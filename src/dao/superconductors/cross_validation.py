"""DAO-P finetuned to critical temperatures: a small grid of settings, chosen within each fold (paper appendix 2.3.1).

A setting is a run of :func:`dao.training.finetune.finetune` in its own folder. Of each fold, the setting whose error
on that fold's own validation crystals is least is the one that counts; test crystals choose nothing. The paper does not
say by what its settings were chosen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from dao.data.properties.base import PropertyData
from dao.data.properties.superconductors import FAMILY
from dao.data.store import PackedCrystals
from dao.errors import InputError
from dao.prediction.files import write_text
from dao.superconductors.dataset import constant_errors
from dao.training.finetune import RESULTS, RUN, TEST, FinetuneSettings, finetune, read_run, read_test

CHOSEN = "chosen.json"

Values = npt.NDArray[np.float64]

_TRIED = ("learning_rate", "weight_decay")
"""Settings in which the trainings of one run may differ."""


class _ChosenFold(BaseModel):
    """What is read of a fold; the rest stays as it is."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(pattern=r"^\w+$")]
    setting: Annotated[str, Field(pattern=r"^rate-[\w.+-]+-decay-[\w.+-]+$")]
    rate: FiniteFloat
    decay: FiniteFloat
    train: int
    extra: int
    members: Annotated[int, Field(ge=1)]
    mae: FiniteFloat
    tried: dict[str, FiniteFloat]


class _ChosenSettings(BaseModel):
    model_config = ConfigDict(extra="allow")

    from_scratch: bool
    epochs: int
    batch_size: Annotated[int, Field(ge=1)]
    members: Annotated[int, Field(ge=1)]


class _Chosen(BaseModel):
    """What is read of ``chosen.json``."""

    model_config = ConfigDict(extra="allow")

    data: str
    crystals: int
    notes: list[str]
    settings: _ChosenSettings
    complete: bool
    folds: Annotated[list[_ChosenFold], Field(min_length=1)]
    mae: FiniteFloat
    mae_sd: FiniteFloat
    constant_mae: dict[str, FiniteFloat]
    cpu_hours: FiniteFloat


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
    grid = [replace(settings, learning_rate=rate, weight_decay=decay) for rate, decay in product(rates, decays)]
    asked = [setting_name(one) for one in grid]
    _claim(out, data, settings)
    for one, name in zip(grid, asked, strict=True):
        finetune(data, one, out=out / name, folds=folds, device=device, progress=progress, note=note)
        choose(out, data, asked)
    return choose(out, data, asked)


def _identity(run: dict[str, Any]) -> dict[str, Any]:
    """What the trainings of one run have in common, of the content of a ``run.json`` or ``results.json``."""
    common = {key: value for key, value in run["settings"].items() if key not in _TRIED}
    return {key: run.get(key) for key in ("data", "crystals", "notes")} | common


def _claim(out: Path, data: PropertyData, settings: FinetuneSettings) -> None:
    """Write ``run.json``, or refuse a folder that holds another run; without the file, its trainings say which."""
    record = {key: value for key, value in settings.record().items() if key not in _TRIED}
    mine = {
        "data": data.name,
        "crystals": len(data.crystals),
        "notes": list(data.notes),
        "extra": None if data.extra is None else _digest(data.extra),
        "settings": record,
    }
    claimed = (out / RUN).exists()
    for saved in [read_run(out)] if claimed else _trainings(out):
        there, here = _identity(saved), _identity(mine)
        if claimed:
            there["extra"], here["extra"] = saved.get("extra"), mine["extra"]
        if there != here:
            key = next(key for key in here | there if there.get(key) != here.get(key))
            raise InputError(
                f"{out} holds another run ({key} is {json.dumps(there.get(key))} there and {json.dumps(here.get(key))}"
                " here): choose another --out"
            )
    if not claimed:
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_text(out / RUN, json.dumps(mine, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror})") from None


def _digest(crystals: PackedCrystals) -> str:
    """Of the crystals and their labels."""
    digest = sha256("\n".join(crystals.ids).encode())
    tensors = (crystals.offsets, crystals.atomic_numbers, crystals.frac_coords, crystals.lattice)
    for tensor in (*tensors, *crystals.labels.values()):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def _trainings(out: Path) -> list[dict[str, Any]]:
    """``run.json`` of every setting.

    Raises:
        InputError: one is none.

    """
    return [read_run(path.parent) for path in sorted(out.glob(f"rate-*/{RUN}"))]


def _read_results(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        for one in run["folds"]:
            one |= {key: float(one[key]) for key in ("mae", "rmse", "validation_mae")}
            one |= {"name": str(one["name"]), "members": int(one["members"])}
        return {**run, "cpu_hours": float(run["cpu_hours"]), "settings": dict(run["settings"])}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path}: no results of a training") from None


def choose(out: Path, data: PropertyData, asked: Collection[str] = ()) -> dict[str, Any]:
    """Write ``chosen.json``: of each fold the best setting on validation, its errors, and the means over the folds.

    It is complete where every setting that is there or ``asked`` for has all members of every fold.

    Raises:
        InputError: no training is finished, or those that are belong to different runs.

    """
    runs = {path.parent.name: _read_results(path) for path in sorted(out.glob(f"rate-*/{RESULTS}"))}
    settled = [_identity(run) for run in runs.values()]
    if any(one != settled[0] for one in settled):
        raise InputError(f"{out}: holds trainings of different runs")
    wanted = {(name, fold.name) for name in {*runs, *asked} for fold in data.folds}
    finished = {
        (name, fold["name"])
        for name, run in runs.items()
        for fold in run["folds"]
        if fold["members"] >= run["settings"].get("members", 1)
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
        "settings": {key: value for key, value in first["settings"].items() if key not in _TRIED},
        "complete": wanted <= finished,
        "folds": folds,
        **{key: float(np.mean([fold[key] for fold in folds])) for key in ("mae", "rmse", "validation_mae")},
        "mae_sd": float(np.std([fold["mae"] for fold in folds])),
        "constant_mae": constant_errors(data),
        "cpu_hours": round(sum(run["cpu_hours"] for run in runs.values()), 3),
    }
    write_text(out / CHOSEN, json.dumps(chosen, indent=1) + "\n")
    return chosen


def read_chosen(out: Path) -> dict[str, Any]:
    """What :func:`choose` wrote, checked, and that the trainings it names are there.

    Raises:
        InputError: missing, damaged, without its trainings, or of other trainings.

    """
    try:
        text = (out / CHOSEN).read_text(encoding="utf-8")
        chosen = _Chosen.model_validate_json(text).model_dump()
    except FileNotFoundError:
        raise InputError(f"{out}: holds no run of dao superconductors train ({CHOSEN})") from None
    except (OSError, ValueError, ValidationError, RecursionError):
        raise InputError(f"{out / CHOSEN}: no run of dao superconductors train") from None
    if any(_identity(run) != _identity(chosen) for run in _trainings(out)):
        raise InputError(f"{out}: {CHOSEN} is of other trainings than the folder holds")
    for fold in chosen["folds"]:
        if len(_tests(out, fold)) < fold["members"]:
            raise InputError(f"{out}: the trainings of fold {fold['name']}, {fold['setting']}, are not there")
    return chosen


def chosen_members(out: Path) -> list[list[Path]]:
    """Folders of the weights of every fold's chosen setting, its members in order.

    Raises:
        InputError: as :func:`read_chosen`.

    """
    return [[path.with_name("best") for path in _tests(out, fold)] for fold in read_chosen(out)["folds"]]


def _tests(out: Path, fold: dict[str, Any]) -> list[Path]:
    """Files of the test crystals, one a member of that fold."""
    found = (out / fold["setting"] / f"fold-{fold['name']}").glob(f"seed-*/{TEST}")
    numbers = {path: path.parent.name.removeprefix("seed-") for path in found}
    known = [path for path, number in numbers.items() if number.isdecimal()]
    return sorted(known, key=lambda path: int(numbers[path]))[: fold["members"]]


def test_predictions(out: Path) -> tuple[Values, Values]:
    """Labels and predictions of the test crystals of all folds, by the mean of each fold's members, ln(K).

    Raises:
        InputError: as :func:`read_chosen`, or predictions of different crystals.

    """
    labels, said = zip(*_fold_predictions(out), strict=True)
    return np.concatenate(labels), np.concatenate(said)


def _fold_predictions(out: Path, *, members: int | None = None) -> list[tuple[Values, Values]]:
    """Labels and predictions of the test crystals of each fold, by the mean of its (first) members, ln(K)."""
    said = []
    for fold in read_chosen(out)["folds"]:
        tests = [read_test(path) for path in _tests(out, fold)[:members]]
        labels = tests[0][0]
        if not all(np.array_equal(one, labels) for one, _ in tests):
            raise InputError(f"{out}: members of fold {fold['name']} were tested on different crystals")
        said.append((labels, np.mean([one for _, one in tests], axis=0)))
    return said


def first_member_errors(out: Path, data: PropertyData) -> dict[str, Any]:
    """Errors on test crystals of each fold's first member alone, over all and by family: ``mae``, ``families``.

    ``bias`` is the mean of prediction less label: negative where temperatures come out too low.

    Raises:
        InputError: as :func:`test_predictions`, or it was tested on other crystals than these.

    """
    rows = {fold.name: fold.test for fold in data.folds}
    maes, families, errors = [], [], []
    for fold, (labels, said) in zip(read_chosen(out)["folds"], _fold_predictions(out, members=1), strict=True):
        tested = rows.get(fold["name"])
        if tested is None or not np.allclose(data.labels[tested].double().numpy(), labels, atol=1e-5):
            raise InputError(f"{out}: fold {fold['name']} was tested on other crystals than those of {data.file}")
        families.append(data.crystals.columns[FAMILY][tested.numpy()])
        errors.append(said - labels)
        maes.append(float(np.abs(errors[-1]).mean()))
    family, error = np.concatenate(families), np.concatenate(errors)
    return {
        "mae": float(np.mean(maes)),
        "families": {
            str(name): {
                "crystals": int((family == name).sum()),
                "mae": float(np.abs(error[family == name]).mean()),
                "bias": float(error[family == name].mean()),
            }
            for name in np.unique(family)
        },
    }
