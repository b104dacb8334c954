"""Properties of structures in files by finetuned predictors, one or an ensemble: what ``dao property`` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from dao.batching import said_of
from dao.crystal import Crystal, CrystalBatch
from dao.device import choose_device
from dao.errors import InputError
from dao.geometry.cells import reduced
from dao.prediction.energies import Structures, csv_text, doubts
from dao.prediction.files import write_failures, write_text
from dao.progress import CountProgress
from dao.property_model import PropertyPredictor
from dao.training.finetune import TEST
from dao.weights import resolve


@dataclass(frozen=True)
class PropertyEnsemble:
    """Predictors of one property, whose mean is the prediction.

    Attributes:
        source: where they are from, for messages.
        members: at least one.

    """

    source: str
    members: tuple[PropertyPredictor, ...]

    @torch.no_grad()
    def predict(self, crystals: Sequence[Crystal], *, batch_size: int | None = None) -> Float64[Tensor, "e m"]:
        """Property in its unit of crystals in whatever cell they are given, by each of E members."""

        def say(batch: CrystalBatch) -> list[Tensor]:
            return list(torch.stack([member.predict(batch) for member in self.members], dim=1).double().cpu())

        said = said_of(crystals, say, self.members[0].label_mean, batch_size=batch_size)
        return torch.stack(said, dim=1) if said else torch.empty(len(self.members), 0, dtype=torch.float64)


def load_ensemble(source: str, device: str) -> PropertyEnsemble:
    """Weights of a property: one folder or Hub id, or the folder of a run of ``dao finetune property``.

    Of a run, every finished training is a member.

    Raises:
        InputError: no such weights or device, weights of another kind, or of different properties.

    """
    found = sorted(Path(source).glob(f"fold-*/seed-*/{TEST}"))
    places: list[Path | str] = [path.with_name("best") for path in found] or [resolve(source)]
    members = tuple(PropertyPredictor.load(place, device=choose_device(device)) for place in places)
    for member in members[1:]:
        if (member.config.label, member.config.unit) != (members[0].config.label, members[0].config.unit):
            raise InputError(f"{source}: holds predictors of {members[0].config.label} and {member.config.label}")
    return PropertyEnsemble(source, members)


def property_records(
    ensembles: Sequence[PropertyEnsemble],
    structures: Structures,
    *,
    batch_size: int | None = None,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """One record a structure and property: ``value`` and ``spread`` in ``unit``.

    The spread is the standard deviation over the members of an ensemble, None of a single one. It says how far they
    disagree, which is less than how far they can be wrong.
    """
    records: list[dict[str, Any]] = []
    crystals = structures.crystals
    with CountProgress(len(ensembles), 0, enabled=progress, what="predicting", of="properties") as bar:
        for ensemble in ensembles:
            values = ensemble.predict(crystals, batch_size=batch_size)
            config = ensemble.members[0].config
            means, spreads = values.mean(0).tolist(), values.std(0, correction=0).tolist()
            for crystal, file, mean, spread in zip(crystals, structures.files, means, spreads, strict=True):
                records.append(
                    {
                        "file": file,
                        "id": crystal.name,
                        "formula": crystal.reduced_formula,
                        "num_atoms": crystal.num_atoms,
                        "property": config.label,
                        "value": float(f"{mean:.6g}"),
                        "spread": float(f"{spread:.3g}") if len(ensemble.members) > 1 else None,
                        "unit": config.unit,
                        "doubts": doubts(ensemble.members[0], reduced(crystal)),
                    }
                )
            bar.advance(1)
    return records


def write_properties(out: Path, records: Sequence[dict[str, Any]], failures: Sequence[dict[str, Any]]) -> None:
    """Write ``properties.csv`` and ``.json``, and ``failures.json`` where there are any.

    Raises:
        InputError: the folder cannot be written.

    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "properties.csv", csv_text(records))
        write_text(out / "properties.json", json.dumps(records, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    write_failures(out, failures)
