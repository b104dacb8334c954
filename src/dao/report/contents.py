"""What a report says: candidates, settings, the walk of the best, and warnings in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dao.constants import STABLE_E_ABOVE_HULL
from dao.prediction.ranking import Candidate
from dao.trajectory import Trajectory

RARE = 0.15
"""Where the best candidate is less than this share of the samples, none stands out."""

PROPOSALS = (
    "Every structure here is a proposal of a statistical model. None has been relaxed or checked by first-principles "
    "calculation or experiment."
)


@dataclass(frozen=True, eq=False)
class Walk:
    """How a candidate came out of noise.

    Attributes:
        rank: of the candidate.
        sample: which of its samples is shown, in words.
        states: the states.
        symmetric: the generator keeps the space group on the way.

    """

    rank: int
    sample: str
    states: Trajectory
    symmetric: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Everything that is written down about a formula's prediction.

    Attributes:
        formula: reduced formula.
        candidates: the best first.
        settings: what the prediction was made with: name and value, for people.
        ranked_by: what decides the order, in words.
        trained_atoms: atoms in the largest cell that the generator was trained on; None where it does not say.
        doubts: what the predictor says against its own energy, by rank.
        discarded: samples that were no crystals.
        walk: of one candidate, None where there is none.

    """

    formula: str
    candidates: Sequence[Candidate]
    settings: Mapping[str, str] = field(default_factory=dict)
    ranked_by: str = "recurrence"
    trained_atoms: int | None = None
    doubts: Mapping[int, str] = field(default_factory=dict)
    discarded: int = 0
    walk: Walk | None = None


def significant(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, never in powers of ten below a million: 3.905 is 3.91, 159.3 is 159."""
    if not math.isfinite(value):
        return "n/a"
    if value == 0.0:
        return "0"
    # rounded first: 9.996 has another number of decimals than 10.0
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{max(0, decimals)}f}".replace("-", "\u2212")


def energy_text(candidate: Candidate) -> str:
    """Energy above the hull, eV/atom, with its expected error; empty where no predictor was asked."""
    if candidate.e_above_hull is None:
        return ""
    if math.isnan(candidate.e_above_hull):
        return "none"
    # a thousandth of an eV/atom is below what any predictor can tell
    text = f"{candidate.e_above_hull:.3f}".replace("-", "\u2212")
    return text if candidate.e_above_hull_error is None else f"{text} \u00b1 {candidate.e_above_hull_error:.3f}"


CONFIDENCE = (
    "estimated probability that the candidate matches the known crystal of this composition (pymatgen's "
    "StructureMatcher, stol 0.5), learned from Materials Project crystals that no model had seen and whose cell size "
    "was given. Several candidates can match one crystal, and where no such compound exists it means nothing."
)
"""What a candidate's confidence means."""


def confidence_text(candidate: Candidate) -> str:
    """In per cent, no more certain than can be known; empty where the learned ranker did not rank."""
    if candidate.confidence is None:
        return ""
    percent = round(100 * candidate.confidence)
    return "< 1" if percent < 1 else "> 99" if percent > 99 else str(percent)


def has_energies(candidates: Sequence[Candidate]) -> bool:
    """Whether any candidate has an energy that is a number."""
    return any(one.e_above_hull is not None and math.isfinite(one.e_above_hull) for one in candidates)


def general_warnings(report: Report) -> list[str]:
    """What a reader should know before trusting any of the candidates."""
    found = [PROPOSALS]
    if not report.candidates:
        return [*found, "Nothing was found that is a crystal: there is nothing to show."]
    best = report.candidates[0]
    if not has_energies(report.candidates) and best.energy is None:
        found.append("No energies: the order says what is likely from known crystals and samples, not what is stable.")
    sampled = [one.count for one in report.candidates if one.source != "prototype"]
    if sampled and max(sampled) < max(2.0, RARE * best.samples):
        found.append(
            f"No structure stands out: the most frequent was found in {max(sampled)} of {best.samples} samples. "
            "Take the order with caution, and try more samples."
        )
    close = _indistinguishable(report.candidates)
    if close > 1:
        found.append(
            f"The energies of the first {close} candidates differ by less than their expected error: "
            "their order is not settled."
        )
    if report.discarded:
        total = best.samples
        found.append(f"{report.discarded} of {total} samples were no crystals (atoms too close, collapsed cell).")
    return found


def _indistinguishable(candidates: Sequence[Candidate]) -> int:
    """How many candidates from the first on have energies within the first's expected error of it."""
    best = candidates[0]
    if best.e_above_hull is None or best.e_above_hull_error is None or math.isnan(best.e_above_hull):
        return 0
    reach = best.e_above_hull + best.e_above_hull_error
    energies = [one.e_above_hull for one in candidates]
    beyond = (i for i, one in enumerate(energies) if one is None or math.isnan(one) or one > reach)
    return next(beyond, len(energies))


def warnings_of(report: Report, candidate: Candidate) -> list[str]:
    """What speaks against this candidate."""
    found = []
    of_generator = candidate.source != "prototype"
    if of_generator and report.trained_atoms is not None and candidate.num_atoms > report.trained_atoms:
        found.append(
            f"Its primitive cell has {candidate.num_atoms} atoms; the generator was trained on cells of at most "
            f"{report.trained_atoms}."
        )
    if candidate.symprec is None:
        found.append("No symmetry was found; the cell is shown as sampled.")
    if candidate.e_above_hull is not None:
        if math.isnan(candidate.e_above_hull):
            found.append("The predictor gives no energy for it.")
        elif candidate.e_above_hull > STABLE_E_ABOVE_HULL:
            found.append(
                f"Predicted {energy_text(candidate)} eV/atom above the hull: crystals count as stable here up to "
                f"{STABLE_E_ABOVE_HULL:g} eV/atom."
            )
    doubt = report.doubts.get(candidate.rank)
    if doubt:
        found.append(f"The predictor doubts its energy: {doubt}.")
    return found
