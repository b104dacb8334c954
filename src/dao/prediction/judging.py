"""The predictor's two parts in a prediction: it guides the samples, and it ranks the candidates by energy.

Nothing heavy is imported before a predictor is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dao.errors import InputError
from dao.weights import resolve_predictor

if TYPE_CHECKING:
    from dao.models import Predictor
    from dao.prediction.ranking import Candidate
    from dao.processes.guidance import Guidance

Rank = Literal["both", "energy", "recurrence"]
"""By predicted energy, by how often a candidate was found, or by both as :func:`dao.prediction.ranking.rank_by_energy`
weighs them."""

ENERGY = "e_above_hull"
"""The label of predictors whose energies can be shown, ranked by and relaxed on."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Which predictor judges, and in what.

    Attributes:
        predictor: its weights: shipped name, folder, or Hugging Face Hub id; None: the shipped ones, if any.
        guidance: strength by which samples are drawn to low energy, 0: not at all. With a predictor of another property
            to low values of it, and to high ones if negative.
        target: draw samples to this value of the property instead.
        rank: candidates by predicted ``energy`` above the hull, by ``recurrence`` or by ``both``; None: by both where
            there is a predictor.

    """

    predictor: Path | str | None = None
    guidance: float = 0.0
    target: float | None = None
    rank: Rank | None = None

    def source(self) -> Path | str | None:
        """Where the predictor is, without reading it; None where there is none and none is needed.

        Raises:
            InputError: no such weights, none though guidance or ranking needs them, or numbers that make no sense.

        """
        if self.target is not None and not self.guidance > 0:
            raise InputError("a guidance target needs a positive guidance strength")
        if isinstance(self.predictor, Path):
            return self.predictor
        needed_by = (
            "guidance" if self.guidance != 0 else "ranking by energy" if self.rank in ("energy", "both") else None
        )
        return resolve_predictor(self.predictor, needed_by=needed_by)

    def load(self, device: str) -> Judge:
        """The predictor on a device, ready for whatever it is to do.

        Raises:
            InputError: as :meth:`source`, weights of no predictor, or of none that can do what is asked.

        """
        source = self.source()
        if source is None:
            return Judge()
        from dao.objectives import property_guidance
        from dao.prediction.energies import load_predictor

        model = load_predictor(source, device)
        guidance = property_guidance(model, self.guidance, self.target)
        if model.config.label == ENERGY:
            return Judge(guidance, model, self.rank or "both")
        if self.rank in ("energy", "both"):
            raise InputError(f"{source}: predicts {model.config.label}, and ranking by energy needs {ENERGY}")
        return Judge(guidance)

    def ranking(self) -> Judging | None:
        """The same for ranking alone; None where candidates are ranked by recurrence.

        Raises:
            InputError: as :meth:`load`.

        """
        alone = replace(self, guidance=0.0, target=None)
        order = alone.load("cpu").order
        return None if order == "recurrence" else replace(alone, rank=order)


@dataclass(frozen=True)
class Judge:
    """A loaded predictor in its parts; none of them where there is no predictor.

    Attributes:
        guidance: of the samples.
        ranker: predictor whose energies candidates are shown with.
        order: what candidates are ranked by.

    """

    guidance: Guidance | None = None
    ranker: Predictor | None = None
    order: Rank = "recurrence"

    def rank(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates of one composition, ranked by recurrence, with their energies and perhaps in another order."""
        if self.ranker is None or not candidates:
            return list(candidates)
        from dao.prediction.energies import predict_with_errors
        from dao.prediction.ranking import COUNT_WEIGHT, rank_by_energy, with_energies

        said = predict_with_errors(self.ranker, [one.crystal for one in candidates])
        known = with_energies(candidates, [one.energy for one in said], [one.error for one in said])
        if self.order == "recurrence":
            return known
        return rank_by_energy(known, COUNT_WEIGHT if self.order == "both" else 0.0)

    def note(self) -> str:
        """What ranks, in words."""
        if self.ranker is None or self.order == "recurrence":
            return "recurrence"
        energy = f"energy above the hull of {self.ranker.config.name} ({self.ranker.fingerprint})"
        return f"recurrence and {energy}" if self.order == "both" else energy
