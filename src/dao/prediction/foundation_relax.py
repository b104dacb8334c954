"""The first candidates relaxed by a potential, and ranked by its energies: one the user has installed, or DAO-P.

Only candidates of one composition are compared, and by one potential, so that energies of the atoms by themselves,
which differ from potential to potential, are the same for all. Space groups are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dao.errors import InputError
from dao.interop.foundation import FOUNDATIONS, calculator, identity

if TYPE_CHECKING:
    from dao.models import Predictor
    from dao.potential import Potential
    from dao.prediction.ranking import Candidate
    from dao.relaxation import RelaxationSettings, Relaxed

PREDICTOR = "predictor"
"""DAO-P as the potential."""

RELAX_TOP = 5
"""Candidates relaxed unless told otherwise."""

STEPS = 60
"""Evaluations of a foundation potential a candidate."""

FORCE_TOLERANCE = 0.05
"""Largest force, eV/A, at which its relaxation has converged."""

MAX_VOLUME_CHANGE = 0.25
"""Largest relative change of the volume by it; those of candidates are off by some per cent."""


@dataclass(frozen=True, kw_only=True)
class Relaxing:
    """Which potential relaxes how many of the first candidates.

    Attributes:
        potential: one of :data:`~dao.interop.foundation.FOUNDATIONS`, or ``predictor``.
        top: how many.

    """

    potential: str
    top: int = RELAX_TOP

    def check(self) -> str:
        """Name, version and model of the potential, nothing of which is imported.

        Raises:
            InputError: no such potential, its package is not installed, or ``top`` is below 1.

        """
        if self.top < 1:
            raise InputError(f"relaxing needs at least one candidate, not {self.top}")
        if self.potential == PREDICTOR:
            return PREDICTOR
        if self.potential not in FOUNDATIONS:
            raise InputError(f"relax {self.potential!r}: unknown; there are: {', '.join((*FOUNDATIONS, PREDICTOR))}")
        return identity(self.potential)

    def load(self, device: str, ranker: Predictor | None) -> Relaxer:
        """The potential, ready.

        Args:
            device: for torch.
            ranker: the predictor of energies above the hull, if there is one.

        Raises:
            InputError: as :meth:`check`, a package that does not load, or the predictor is asked for and there is none.

        """
        from dao.interop.ase_potential import AsePotential
        from dao.relaxation import RelaxationSettings

        name = self.check()
        if self.potential != PREDICTOR:
            settings = RelaxationSettings(
                iterations=STEPS, force_tolerance=FORCE_TOLERANCE, max_volume_change=MAX_VOLUME_CHANGE
            )
            return Relaxer(AsePotential(calculator(self.potential, device)), name, settings, self.top, ranker)
        if ranker is None:
            raise InputError(f"relax {PREDICTOR!r}: needs the weights of a predictor of energies above the hull")
        return Relaxer(ranker, f"{ranker.config.name} ({ranker.fingerprint})", RelaxationSettings(), self.top, ranker)


@dataclass(frozen=True, eq=False)
class Relaxer:
    """A loaded potential.

    Attributes:
        potential: to relax on.
        name: of it, for results.
        settings: of the relaxation.
        top: how many candidates are relaxed.
        ranker: what says the energies above the hull anew, if anything does.

    """

    potential: Potential
    name: str
    settings: RelaxationSettings
    top: int
    ranker: Predictor | None = None

    def __call__(self, candidates: Sequence[Candidate], *, progress: bool = False) -> list[Candidate]:
        """The same crystals, the relaxed ones first, by rising energy; the others below, in their order.

        A candidate on which the potential fails stays as it was, behind the relaxed ones. Those that have become the
        same crystal are one, with the counts of all.

        Args:
            candidates: of one composition, ranked.
            progress: show a bar on stderr.

        """
        from dao.prediction.ranking import SAME_ENERGY, same_crystals
        from dao.progress import CountProgress
        from dao.relaxation import relax

        first, rest = list(candidates[: self.top]), list(candidates[self.top :])
        if not first:
            return []
        with CountProgress(len(first), 0, enabled=progress, what="relaxing", of="candidates") as bar:
            done = relax(
                self.potential,
                [one.crystal for one in first],
                self.settings,
                batch_size=1,
                on_batch=lambda made: bar.advance(len(made)),
            )
        relaxed = self._judged([self._after(one, made) for one, made in zip(first, done, strict=True)])

        def order(one: Candidate) -> tuple[bool, float, int]:
            return one.energy is None, 0.0 if one.energy is None else round(one.energy, SAME_ENERGY), one.rank

        every = [*sorted(relaxed, key=order), *rest]
        groups = same_crystals([one.crystal for one in every])
        kept = [_joined([every[i] for i in group]) for group in sorted(groups, key=lambda group: group[0])]
        return [replace(one, rank=rank) for rank, one in enumerate(kept, start=1)]

    def _after(self, before: Candidate, made: Relaxed) -> Candidate:
        """The candidate with the relaxed crystal, whose symmetry may have risen."""
        from dao.geometry.cells import SYMPREC, niggli_reduce, space_group, symmetrize

        energy = made.energy / made.crystal.num_atoms
        if not math.isfinite(energy):
            return before
        crystal = made.crystal
        try:
            number, symbol = space_group(crystal, SYMPREC)
            crystal = niggli_reduce(symmetrize(crystal, SYMPREC))
        except InputError:
            number, symbol = before.space_group_number, before.space_group
        units = before.formula_units * crystal.num_atoms // before.num_atoms
        return replace(
            before,
            crystal=crystal,
            space_group=symbol,
            space_group_number=number,
            formula_units=units or 1,
            energy=energy,
            energy_by=self.name,
        )

    def _judged(self, relaxed: list[Candidate]) -> list[Candidate]:
        """With the energies above the hull of the relaxed crystals."""
        if self.ranker is None:
            return relaxed
        from dao.prediction.energies import predict_with_errors
        from dao.prediction.ranking import with_energies

        said = predict_with_errors(self.ranker, [one.crystal for one in relaxed])
        return with_energies(relaxed, [one.energy for one in said], [one.error for one in said])


def _joined(group: Sequence[Candidate]) -> Candidate:
    """One crystal of several candidates: the first of them, with what is known of all.

    Its prototype is its own, or the first that the others have, with what belongs to that.
    """
    first = group[0]
    sources = {one.source for one in group}
    kind = next((one for one in group if one.prototype is not None), first)
    return replace(
        first,
        count=sum(one.count for one in group),
        sample_indices=tuple(pair for one in group for pair in one.sample_indices),
        source=first.source if len(sources) == 1 else "both",
        prototype=kind.prototype,
        prototype_distance=kind.prototype_distance,
        prototype_members=kind.prototype_members,
        prototype_share=kind.prototype_share,
    )
