"""Which of several walks of a sample is kept: the most plausible, and the one that the others come nearest to.

Where a symmetry leaves many coordinates free, walks from other noise end in other crystals, of which some are right.
What is right recurs, and a network can tell it from what is not (:mod:`dao.prediction.plausibility`): together they
pick better than either alone (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dao.crystal import Crystal
from dao.prediction.ranking import neighbourhoods
from dao.sampling import CHOICE_FREEDOM

if TYPE_CHECKING:
    from dao.processes.config import SamplerSettings
    from dao.property_model import PropertyPredictor

ALIKE = 0.15
"""Difference of two neighbourhoods (0 to 1) at which one walk counts 1/e for the other."""

AGREEMENT = 3.0
"""What another walk that ends in the very same crystal weighs, in units of log odds."""


@dataclass(frozen=True)
class WalkChooser:
    """Picks the likeliest crystal of each list of walks.

    Attributes:
        network: says log odds of structures of one composition.

    """

    network: PropertyPredictor

    @property
    def record(self) -> str:
        """All that a choice depends on."""
        return (
            f"{self.network.fingerprint}, agreement {AGREEMENT:g} within {ALIKE:g}, from {CHOICE_FREEDOM} coordinates"
        )

    def __call__(self, walks: Sequence[Sequence[Crystal]]) -> list[int]:
        """Place of the likeliest crystal in each list, whose crystals are of one composition."""
        from dao.prediction.plausibility import log_odds

        odds = np.nan_to_num(log_odds(self.network, [one for own in walks for one in own]), nan=-np.inf)
        ends = np.cumsum([len(own) for own in walks], dtype=int)
        return [
            int((odds[end - len(own) : end] + AGREEMENT * agreement(own)).argmax())
            for own, end in zip(walks, ends.tolist(), strict=True)
        ]


def agreement(crystals: Sequence[Crystal]) -> npt.NDArray[np.float64]:
    """(C,) how many of the crystals, all of one composition, each one is like; itself counts 1."""
    marks = neighbourhoods(crystals)
    differences = 0.5 * np.abs(marks[:, None] - marks).sum(-1)
    # of a cell too flat to have neighbourhoods nothing is known
    return np.nansum(np.exp(-differences / ALIKE), axis=1)


def with_chooser(settings: SamplerSettings, device: str) -> tuple[SamplerSettings, WalkChooser | None]:
    """The settings with what chooses among the walks of samples; one walk and None where no network for it ships.

    Raises:
        InputError: no such device, or broken weights.

    """
    from dao.prediction.plausibility import shipped_network

    network = None if settings.walks == 1 else shipped_network(device)
    return (settings.updated(walks=1), None) if network is None else (settings, WalkChooser(network))
