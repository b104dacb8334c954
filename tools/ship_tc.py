"""Put an ensemble for critical temperatures on the shelf: the chosen weights of a run of ``dao superconductors train``.

Run: python tools/ship_tc.py RUN --grouped GROUPED_RUN [--out FOLDER] [--bits 8|16]

Writes src/dao/weights/tc/member-K, the first member of each fold's chosen setting, and ensemble.json with the errors of
such single members in cross-validation, over all and by family, at random folds and at folds by chemical system (of the
run --grouped, which does not ship). Needs the data ($DAO_DATA). Matrices are kept in 8 bits with a scale a row (or as
bfloat16): five members of 4.6 M parameters are 23 MB. The model card beside them is written by hand. With --check, the
run's test crystals are predicted again by what was written, each by its own fold's member.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dao.data.properties.superconductors import FOLDS, GROUPED, RANDOM, property_data
from dao.errors import InputError
from dao.models import CrystalModel
from dao.property_model import PropertyPredictor
from dao.superconductors.cross_validation import chosen_members, first_member_errors, read_chosen
from dao.superconductors.tc import ENSEMBLE
from dao.training.property_task import predict_packed
from dao.weight_files import WEIGHTS, in_eight_bits, write_weights
from dao.weights import TC

SHELF = Path(__file__).resolve().parents[1] / "src" / "dao" / "weights"


def write_small(model: CrystalModel, folder: Path, *, bits: int) -> None:
    """Write a model's weights in 8 or 16 bits; scalers stay as they are."""
    parameters = {name: value.detach().cpu() for name, value in model.named_parameters()}
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    small = {name: value.to(torch.bfloat16) for name, value in parameters.items()}
    if bits == 8:
        exact = in_eight_bits(parameters)
        small = {
            name: value.to(torch.bfloat16) if name in parameters and value.is_floating_point() else value
            for name, value in exact.items()
        }
    config = {**asdict(model.config), "parameters": model.parameters_count}
    write_weights(folder, state | small, config)


def measured(run: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A finished run and the errors of its first members.

    Raises:
        InputError: of other folds, or not finished.

    """
    chosen = read_chosen(run)
    if chosen["data"] != name:
        raise InputError(f"{run}: is of {chosen['data']}, and {name} is needed")
    if not chosen["complete"] or len(chosen["folds"]) != FOLDS:
        raise InputError(f"{run}: is not finished on {FOLDS} folds")
    return chosen, first_member_errors(run, property_data(name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert, and say how large the result is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--grouped", type=Path, help="the same training on folds by chemical system")
    parser.add_argument("--out", type=Path, default=SHELF / TC)
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8)
    parser.add_argument("--check", action="store_true", help="predict the test crystals again")
    options = parser.parse_args(arguments)
    chosen, errors = measured(options.run, RANDOM)
    grouped = None if options.grouped is None else measured(options.grouped, GROUPED)[1]
    for old in options.out.glob("member-*"):
        shutil.rmtree(old)
    folders = []
    for number, (source, *_) in enumerate(chosen_members(options.run)):
        model = PropertyPredictor.load(source)
        model.config = replace(model.config, name=f"{TC}-{number}")
        folders.append(options.out / f"member-{number}")
        write_small(model, folders[-1], bits=options.bits)
    figures = {key: chosen[key] for key in ("data", "notes", "settings", "constant_mae")}
    figures |= {"random": errors, "grouped": grouped}
    (options.out / ENSEMBLE).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    size = sum((folder / WEIGHTS).stat().st_size for folder in folders)
    print(f"{options.out}: {len(folders)} members, {size / 1e6:.1f} MB")
    if options.check:
        check(options.run, folders)


def check(run: Path, folders: list[Path]) -> None:
    """Print the error on each fold's test crystals of its first member, as it was trained and as it ships."""
    chosen = read_chosen(run)
    data = property_data(chosen["data"])
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    for fold, (source, *_), small in zip(chosen["folds"], chosen_members(run), folders, strict=True):
        rows = next(one.test for one in data.folds if one.name == fold["name"])
        crystals = data.crystals.select(rows)
        labels = crystals.labels[data.label].double()
        for said, folder in ((before, source), (after, small)):
            said.append(predict_packed(PropertyPredictor.load(folder), crystals) - labels)
    trained, shipped = torch.cat(before), torch.cat(after)
    print(f"MAE of ln Tc of one member {trained.abs().mean():.4f} as trained, {shipped.abs().mean():.4f} as shipped")
    print(f"mean difference of their predictions {(shipped - trained).abs().mean():.4f}")


if __name__ == "__main__":
    main()
