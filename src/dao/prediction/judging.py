"""The predictor's two parts in a prediction: it guides the samples, and it ranks the candidates by energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dao.errors import InputError
from dao.models import Predictor
from dao.objectives import property_guidance
from dao.prediction.energies import load_predictor, predict_energies
from dao.prediction.ranking import Candidate, rank_by_energy, with_energies
from dao.processes.guidance import Guidance
from dao.weights import resolve_predictor

Rank = Literal["energy", "recurrence"]

ENERGY = "e_above_hull"
"""The label of predictors that can rank."""


@dataclass(frozen=True)
class Judge:
    """What a predictor is used for; for nothing where there is none.

    Attributes:
        guidance: of the samples.
        ranker: predictor whose energies candidates are shown with.
        by_energy: candidates are ranked by them, not by recurrence.

    """

    guidance: Guidance | None = None
    ranker: Predictor | None = None
    by_energy: bool = False

    def rank(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates of one composition, ranked by recurrence, with their energies and perhaps in another order."""
        if self.ranker is None or not candidates:
            return list(candidates)
        known = with_energies(candidates, predict_energies(self.ranker, [one.crystal for one in candidates]))
        return rank_by_energy(known) if self.by_energy else known


def load_judge(
    predictor: Path | str | None,
    device: str,
    *,
    guidance: float = 0.0,
    target: float | None = None,
    rank: Rank | None = None,
) -> Judge:
    """Load a predictor, by default the shipped one, for whatever it can be used.

    Args:
        predictor: shipped name, folder, or Hugging Face Hub id.
        device: where it runs.
        guidance: strength.
        target: value of the predictor's property to guide to, instead of downwards.
        rank: None is by energy where there are energies.

    Raises:
        InputError: guidance or ranking by energy is asked for without weights that can do it.

    """
    needed_by = None
    if guidance != 0 or target is not None:
        needed_by = "guidance"
    elif rank == "energy":
        needed_by = "ranking by energy"
    source = predictor if isinstance(predictor, Path) else resolve_predictor(predictor, needed_by=needed_by)
    if source is None:
        return Judge()
    model = load_predictor(source, device)
    guiding = property_guidance(model, guidance, target)
    if model.config.label == ENERGY:
        return Judge(guiding, model, rank != "recurrence")
    if rank == "energy":
        raise InputError(f"{source}: predicts {model.config.label}, and ranking by energy needs {ENERGY}")
    return Judge(guiding)
