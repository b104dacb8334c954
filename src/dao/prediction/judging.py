"""The predictor's two parts in a prediction: it guides the samples, and it ranks the candidates by energy.

Nothing heavy is imported before a predictor is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dao.errors import InputError
from dao.weights import resolve_predictor, shipped_ranker

if TYPE_CHECKING:
    from dao.models import Generator, Predictor
    from dao.prediction.ranker import Ranker
    from dao.prediction.ranking import Candidate
    from dao.prediction.symmetry_odds import SymmetryOdds
    from dao.processes.guidance import Guidance
    from dao.property_model import PropertyPredictor

Rank = Literal["learned", "both", "energy", "recurrence"]
"""By the learned ranker, which weighs all that is known; by predicted energy, by how often a candidate was found, or by
both as :func:`dao.prediction.ranking.rank_by_energy` weighs them."""

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
        generator: weights, or what was loaded from them, whose symmetry prior, if they have one, says how probable
            symmetries are, where a ranker ranks that asks for it; None: nothing does.
        rank: candidates as :data:`Rank` says; None: by the learned ranker where it ships, else by both where there is
            a predictor.

    """

    predictor: Path | str | None = None
    guidance: float = 0.0
    target: float | None = None
    generator: Path | str | Generator | None = None
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
        learned = self._ranker()
        judge = Judge()
        if learned is not None:
            from dao.prediction.plausibility import shipped_network

            judge = Judge(
                order="learned",
                learned=learned,
                plausibility=shipped_network(device),
                symmetry=self._symmetry() if learned.asks_symmetry else None,
            )
        if source is None:
            return judge
        from dao.objectives import property_guidance
        from dao.prediction.energies import load_predictor

        model = load_predictor(source, device)
        judge = replace(judge, guidance=property_guidance(model, self.guidance, self.target))
        if model.config.label == ENERGY:
            return replace(judge, ranker=model, order=self.rank or ("both" if learned is None else "learned"))
        if self.rank in ("energy", "both"):
            raise InputError(f"{source}: predicts {model.config.label}, and ranking by energy needs {ENERGY}")
        return judge

    def _symmetry(self) -> SymmetryOdds | None:
        """The generator's prior, if any.

        Raises:
            InputError: no such weights.

        """
        if self.generator is None:
            return None
        from dao.prediction.symmetry_odds import SymmetryOdds

        if isinstance(self.generator, Path | str):
            return SymmetryOdds.load(self.generator)
        return SymmetryOdds.of(self.generator)

    def _ranker(self) -> Ranker | None:
        """The learned ranker, where it is what ranks.

        Raises:
            InputError: it is asked for and none ships, or its file is broken.

        """
        if self.rank not in (None, "learned"):
            return None
        path = shipped_ranker()
        if path is None:
            if self.rank == "learned":
                raise InputError("ranking by what is learned needs a ranker, and none ships with this installation")
            return None
        from dao.prediction.ranker import Ranker

        return Ranker.load(path)

    def ranking(self) -> Judging | None:
        """The same for ranking alone; None where candidates are ranked by recurrence.

        Raises:
            InputError: as :meth:`load`.

        """
        alone = replace(self, guidance=0.0, target=None)
        order = replace(alone, generator=None).load("cpu").order
        return None if order == "recurrence" else replace(alone, rank=order)


@dataclass(frozen=True)
class Judge:
    """A loaded predictor in its parts; none of them where there is no predictor.

    Attributes:
        guidance: of the samples.
        ranker: predictor whose energies candidates are shown with.
        order: what candidates are ranked by.
        learned: what ranks in the order "learned", with or without energies.
        plausibility: network that it asks of structures, if any.
        symmetry: what it asks of their symmetries, if anything.

    """

    guidance: Guidance | None = None
    ranker: Predictor | None = None
    order: Rank = "recurrence"
    learned: Ranker | None = None
    plausibility: PropertyPredictor | None = None
    symmetry: SymmetryOdds | None = None

    def rank(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates of one composition, ranked by recurrence, with their energies and perhaps in another order."""
        known = list(candidates)
        if not known:
            return known
        if self.ranker is not None:
            from dao.prediction.energies import predict_with_errors
            from dao.prediction.ranking import with_energies

            said = predict_with_errors(self.ranker, [one.crystal for one in known])
            known = with_energies(known, [one.energy for one in said], [one.error for one in said])
        if self.plausibility is not None:
            from dao.prediction.plausibility import log_odds
            from dao.prediction.ranking import scaled, with_plausibilities

            crystals = [scaled(one.crystal, one.judged_volume or one.volume_per_atom) for one in known]
            known = with_plausibilities(known, log_odds(self.plausibility, crystals))
        if self.symmetry is not None:
            from dao.prediction.ranking import with_symmetries

            known = with_symmetries(known, self.symmetry.log_probabilities(known))
        if self.learned is not None:
            return self.learned.rank(known)
        if self.ranker is None or self.order == "recurrence":
            return known
        from dao.prediction.ranking import COUNT_WEIGHT, rank_by_energy

        return rank_by_energy(known, COUNT_WEIGHT if self.order == "both" else 0.0)

    def note(self) -> str:
        """What ranks, in words."""
        if self.learned is not None:
            energies = (
                "" if self.ranker is None else f", energies of {self.ranker.config.name} ({self.ranker.fingerprint})"
            )
            if self.plausibility is not None:
                energies += f", plausibility ({self.plausibility.fingerprint})"
            if self.symmetry is not None:
                energies += f", symmetry prior ({self.symmetry.fingerprint})"
            return f"learned ranker ({self.learned.fingerprint}){energies}"
        if self.ranker is None or self.order == "recurrence":
            return "recurrence"
        energy = f"energy above the hull of {self.ranker.config.name} ({self.ranker.fingerprint})"
        return f"recurrence and {energy}" if self.order == "both" else energy
