"""How probable is a candidate's symmetry? What the generator's symmetry prior says of crystals that anyone proposed.

The prior gives p(space group, Wyckoff positions | composition), whatever the geometry (:mod:`dao.networks.symmetry`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dao.data.labels import LABEL_SYMPREC
from dao.data.symmetry_batch import SymmetryLabel, symmetry_batch, symmetry_sequence
from dao.data.symmetry_memory import SymmetryMemory
from dao.errors import InputError
from dao.geometry.symmetrized import symmetrized
from dao.geometry.wyckoff_equivalents import canonical_orbits
from dao.models import Generator
from dao.networks.symmetry import SymmetryPrior
from dao.prediction.ranking import Candidate


@dataclass(frozen=True)
class SymmetryOdds:
    """A generator's prior with its memory.

    Attributes:
        prior: in evaluation mode.
        memory: of known assignments.
        fingerprint: of the generator's weights.

    """

    prior: SymmetryPrior
    memory: SymmetryMemory
    fingerprint: str

    @classmethod
    def load(cls, generator: Path | str) -> SymmetryOdds | None:
        """Those of a generator, on the CPU; None of one that has no prior.

        Args:
            generator: shipped name, folder, or Hugging Face Hub id.

        Raises:
            InputError: no such weights.

        """
        model = Generator.load(generator)
        if model.symmetry_prior is None or model.symmetry_memory is None:
            return None
        return cls(model.symmetry_prior.eval(), model.symmetry_memory, model.fingerprint)

    @torch.no_grad()
    def log_probabilities(self, candidates: Sequence[Candidate]) -> list[float]:
        """Log p(space group, Wyckoff positions | composition of its primitive cell) of each candidate.

        As where samples get their symmetry, a mixture: of the prior that looks similar compositions up, and of the same
        without. NaN of a crystal that the tables of Wyckoff positions do not describe.
        """
        labels = [_label(one) for one in candidates]
        known = [i for i, label in enumerate(labels) if label is not None]
        said = [math.nan] * len(candidates)
        if not known:
            return said
        batch = symmetry_batch(
            [
                symmetry_sequence(label, self.memory.neighbours(label.composition()))
                for label in labels
                if label is not None
            ]
        )
        hidden = torch.ones(len(batch), dtype=torch.bool)
        share = self.prior.config.unaided_share
        mixed = torch.zeros(len(batch), dtype=torch.float64)
        for part, weight in ((batch, 1.0 - share), (batch.without_neighbours(hidden), share)):
            if weight > 0.0:
                group, positions = self.prior.log_probability(part)
                mixed += weight * (group + positions).double().exp()
        for place, value in zip(known, mixed.tolist(), strict=True):
            said[place] = math.log(value) if value > 0.0 else -math.inf
        return said


def _label(candidate: Candidate) -> SymmetryLabel | None:
    """At the tolerance of the prior's own training set, in the description that stands for all its equals."""
    try:
        one = symmetrized(candidate.crystal, LABEL_SYMPREC)
    except InputError:
        return None
    return SymmetryLabel(one.space_group, canonical_orbits(one.space_group, one.orbits))
