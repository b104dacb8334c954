"""Published figures of crystal structure prediction, to print beside ours.

Two match rates are in circulation, and only rows of the same ``filter`` compare: "filtered" counts a pair as unmatched
if either crystal fails :func:`dao.evaluation.validity.valid`, "unfiltered" does not. None of these figures was measured
by this project.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Dataset = Literal["MP-20", "MPTS-52", "MP-20-ps"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published figure: a method on the test split of a data set, with k samples a crystal.

    Attributes:
        method: as its source names it.
        dataset: "MP-20-ps" is MP-20 split so that polymorphs stay together (arXiv 2509.12178).
        k: samples a test crystal; the best of them counts.
        match_rate: % of the test crystals.
        match_rate_sd: its standard deviation over runs, in the same unit.
        rmse: mean over the matches of the RMS distance in units of (V/N)^(1/3), dimensionless.
        rmse_sd: its standard deviation over runs.
        metre: % of the test crystals that any sample of the same composition matches.
        crmse: as ``rmse``, with the matcher's tolerance 0.5 for every crystal without a match.
        filter: whether the figure leaves out what SMACT and the 0.5 A rule refuse.
        parameters: of the network, in words where the source has no number.
        network_evaluations: for one sample, likewise.
        pretraining: data beyond the benchmark's own training split, or "none".
        source: where the figure is from.
        grade: of the evidence. A: read in the primary source. B: from another paper's or a reviewer's table. C: from
            memory, not verified. D: derived.

    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    method: str
    dataset: Dataset
    k: int = 1
    match_rate: float | None = None
    match_rate_sd: float | None = None
    rmse: float | None = None
    rmse_sd: float | None = None
    metre: float | None = None
    crmse: float | None = None
    filter: Literal["filtered", "unfiltered", "likely unfiltered", "unknown"]
    parameters: str = ""
    network_evaluations: str = ""
    pretraining: str = "none"
    source: str
    grade: Literal["A", "B", "C", "D"]


@cache
def _table() -> tuple[Published, ...]:
    from pydantic import TypeAdapter

    groups = tomllib.loads((files("dao.evaluation") / "published.toml").read_text(encoding="utf-8"))["group"]
    rows = [group | figure for group in groups for figure in group.pop("figures")]
    return tuple(TypeAdapter(list[Published]).validate_python(rows))


def published(dataset: str | None = None, k: int | None = None) -> list[Published]:
    """The figures in the order of ``published.toml``, of one data set or number of samples where given."""
    return [row for row in _table() if dataset in {None, row.dataset} and k in {None, row.k}]
