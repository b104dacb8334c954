"""How probable is a candidate's symmetry? What the generator's symmetry prior says of crystals that anyone proposed.

The prior gives p(space group, Wyckoff positions | composition), whatever the geometry (:mod:`dao.networks.symmetry`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from dao.data.labels import LABEL_SYMPREC
from dao.data.symmetry_batch import NO_NEIGHBOURS, Neighbours, SymmetryLabel, symmetry_batch, symmetry_sequence
from dao.data.symmetry_memory import SymmetryMemory
from dao.device import on_cpu
from dao.errors import InputError
from dao.geometry.symmetrized import symmetrized
from dao.geometry.wyckoff_equivalents import canonical_orbits
from dao.models import Generator
from dao.networks.symmetry import SymmetryPrior
from dao.networks.symmetry_search import shares_of
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
        return _loaded(generator)

    @classmethod
    def of(cls, model: Generator) -> SymmetryOdds | None:
        """Those of a loaded generator; None of one that has no prior."""
        if model.symmetry_prior is None or model.symmetry_memory is None:
            return None
        return cls(on_cpu(model.symmetry_prior).eval(), model.symmetry_memory, model.fingerprint)

    @torch.no_grad()
    def log_probabilities(self, candidates: Sequence[Candidate]) -> list[float]:
        """Log p(space group, Wyckoff positions | composition of its primitive cell) of each candidate.

        Of the mixture by which samples get their symmetry. NaN of a crystal that the tables of Wyckoff positions do not
        describe.
        """
        labels = [_label(one) for one in candidates]
        known = [(place, label) for place, label in enumerate(labels) if label is not None]
        said = [math.nan] * len(candidates)
        if not known:
            return said
        mixed = torch.zeros(len(known), dtype=torch.float64)
        for share, memory in shares_of(self.prior, self.memory):
            near: dict[tuple[tuple[int, int], ...], Neighbours] = {}
            sequences = []
            for _, label in known:
                composition = label.composition()
                # candidates of one cell size share a composition, and looking it up is a quarter of the work
                key = tuple(composition.items())
                if key not in near:
                    near[key] = NO_NEIGHBOURS if memory is None else memory.neighbours(composition)
                sequences.append(symmetry_sequence(label, near[key]))
            group, positions = self.prior.log_probability(symmetry_batch(sequences))
            mixed += share * (group + positions).double().exp()
        for (place, _), value in zip(known, mixed.tolist(), strict=True):
            said[place] = math.log(value) if value > 0.0 else -math.inf
        return said


@lru_cache(maxsize=2)
def _loaded(generator: Path | str) -> SymmetryOdds | None:
    """Once a process: several judges are loaded in an evaluation."""
    return SymmetryOdds.of(Generator.load(generator))


def _label(candidate: Candidate) -> SymmetryLabel | None:
    """At the tolerance of the prior's own training set, in the description that stands for all its equals."""
    try:
        one = symmetrized(candidate.crystal, LABEL_SYMPREC)
    except InputError:
        return None
    return SymmetryLabel(one.space_group, canonical_orbits(one.space_group, one.orbits))
