"""What should decide the order of candidates: how often they came, their predicted energy, or both.

Run: python benchmarks/ranking.py EVALUATION --predictor predictor [--out FILE.json]

EVALUATION is the folder of a ``dao evaluate csp`` of generated samples on a **validation** split. Candidates of every
target are made, judged and compared with the truth once (appended to EVALUATION/candidates-FINGERPRINT.jsonl; a killed
run goes on). The share of targets whose first candidate matches is printed for recurrence, for energy, and for the
free energy E - T log(count) at several T (eV/atom): energies weigh how often a generator proposes a crystal as a
Boltzmann factor weighs states.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dao.evaluation.matching import match_pairs
from dao.evaluation.stored import stored_samples
from dao.jsonl import JsonLines
from dao.models import Predictor
from dao.prediction.energies import load_predictor
from dao.prediction.judging import Judge
from dao.prediction.ranking import rank_by_recurrence
from dao.weights import resolve

TEMPERATURES = (0.003, 0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Candidates:
    """Of one target, in order of recurrence."""

    counts: list[int]
    energies: list[float]
    matches: list[bool]

    def first_matches(self, temperature: float) -> bool:
        """Whether the candidate of least E - T log(count) is the true crystal; T = inf: recurrence."""
        if not self.counts:
            return False
        if math.isinf(temperature):
            return self.matches[0]
        free = [e - temperature * math.log(n) for e, n in zip(self.energies, self.counts, strict=True)]
        return self.matches[int(np.argmin(free))]
