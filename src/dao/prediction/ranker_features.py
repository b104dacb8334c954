"""What the learned ranker knows of each candidate of a composition, as numbers.

Shapes: C candidates of one composition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dao.geometry.cells import min_distance
from dao.geometry.wyckoff import operations
from dao.prediction.ranking import Candidate, neighbourhoods

Floats = npt.NDArray[np.float64]

ALIKE = (0.15, 0.3, 0.6)
"""Differences of two neighbourhoods (0 to 2) at which one crystal counts 1/e for the other."""

NEAR = (0.02, 0.06)
"""Distances of elements beyond the nearest prototype's at which a prototype counts 1/e."""

LOG_ATOMS = "log atoms"
"""The feature of the cell's size, the same for all candidates of a list."""

OF_ALL = (
    *(LOG_ATOMS, "elements", "log candidates"),
    *("largest share", "disorder", "least element distance", "most votes"),
)
"""Features of the list, the same for all of its candidates: they change no order, but how sure one can be."""

OF_SYMMETRY = frozenset({"symmetry probability", "log share of symmetry probability"})
"""Features that a generator's symmetry prior is asked for."""

TINY = 1e-10
"""Probability of a symmetry below which it does not matter how small it is."""


def _column(candidates: Sequence[Candidate], read: Callable[[Candidate], float | None]) -> Floats:
    """(C,) a number of each candidate, nan where it has none."""
    return np.array([math.nan if (value := read(one)) is None else value for one in candidates], dtype=float)


def _lowest(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.min()) if len(known) else math.nan


def _highest(values: Floats) -> float:
    return -_lowest(-values)


def _log_share(values: Floats, floor: float) -> Floats:
    """(C,) log of each one's share of the sum of the exponentials of ``values``, at least ``floor``."""
    below = values - _highest(values)
    return np.clip(below - np.log(np.nansum(np.exp(below)) or 1.0), floor, 0.0)


def _places(values: Floats) -> Floats:
    """(C,) place of each value, the smallest 0, nan where it is unknown."""
    places = np.full(len(values), math.nan)
    order = [i for i in np.argsort(values, kind="stable").tolist() if math.isfinite(values[i])]
    places[order] = np.arange(len(order))
    return places


def asked_size(candidate: Candidate) -> int:
    """Atoms of the cell in which a candidate was asked for."""
    return candidate.asked_atoms or candidate.num_atoms


def features(candidates: Sequence[Candidate], atomic_volumes: Floats) -> dict[str, Floats]:
    """(C,) values of each feature by name, nan where unknown.

    Args:
        candidates: C of one composition, of any source, at least one.
        atomic_volumes: (E,) A^3 per element, by atomic number.

    """
    marks = neighbourhoods([one.crystal for one in candidates])
    apart = np.abs(marks[:, None] - marks[None]).sum(-1)
    alike = {reach: np.nan_to_num(np.exp(-apart / reach)) for reach in ALIKE}
    energy = _column(candidates, lambda one: one.e_above_hull)
    volume = np.log(
        _column(candidates, lambda one: one.crystal.volume / float(atomic_volumes[one.crystal.atomic_numbers].sum()))
    )
    samples, kinds = _of_samples(candidates, alike), _of_prototypes(candidates, alike)
    weights = np.nan_to_num(np.exp(samples["log share of samples"])) + np.nan_to_num(
        np.exp(kinds[f"log nearness {NEAR[0]:g}"])
    )
    usual = float(weights @ volume / weights.sum()) if weights.sum() > 0 else float(np.median(volume))
    plausibility = _column(candidates, lambda one: one.plausibility)
    odds = plausibility - _highest(plausibility)
    symmetry = np.maximum(_column(candidates, lambda one: one.log_symmetry), math.log(TINY))
    own = {
        "plausibility below highest": np.clip(odds, -20.0, 0.0),
        "log share of plausibility": _log_share(plausibility, -20.0),
        "most plausible": np.where(np.isfinite(odds), odds == 0.0, math.nan),
        "symmetry probability": np.exp(symmetry),
        "log share of symmetry probability": _log_share(symmetry, math.log(TINY)),
        "in both": kinds["proposed"] * samples["found"],
        "log votes for space group": np.log(_column(candidates, lambda one: one.space_group_share) + 1e-3),
        "energy": np.clip(energy, -0.2, 1.0),
        "energy over lowest": np.clip(energy - _lowest(energy), 0.0, 1.0),
        "expected error": np.clip(_column(candidates, lambda one: one.e_above_hull_error), 0.0, 0.5),
        "volume": np.clip(np.abs(volume), 0.0, 1.0),
        "volume off the usual": np.clip(np.abs(volume - usual), 0.0, 1.0),
        "log symmetry": np.log(_column(candidates, lambda one: len(operations(one.space_group_number)[0]))),
        "no symmetry": _column(candidates, lambda one: one.space_group_number <= 2),
        # among several cell sizes a smaller one may have found it too; the weights were fitted to lists of one size
        "smaller than asked for": np.log(
            _column(candidates, lambda one: max(one.asked_atoms or 0, one.num_atoms) / one.num_atoms)
        ),
        "closest contact": _column(candidates, lambda one: _contact(one, atomic_volumes)),
    }
    of_all = {
        LOG_ATOMS: math.log(max(map(asked_size, candidates))),
        "elements": float(len(candidates[0].crystal.counts)),
        "log candidates": math.log(len(candidates)),
    }
    return samples | kinds | own | {name: np.full(len(candidates), value) for name, value in of_all.items()}


def _of_samples(candidates: Sequence[Candidate], alike: Mapping[float, Floats]) -> dict[str, Floats]:
    """What the generator says; all unknown without samples."""
    total = max(one.samples for one in candidates)
    share = _column(candidates, lambda one: one.count / total if total else None)
    known = np.full(len(candidates), 1.0 if total else math.nan)
    return {
        "found": (share > 0) * known,
        "log share of samples": np.log(share + 0.5 / max(total, 1)),
        "share over largest": share / max(_highest(share), 1e-9),
        "most often found": (share == _highest(share)) * known,
        **{f"like the samples {reach:g}": np.log(near @ share + 0.02) for reach, near in alike.items()},
        "largest share": _highest(share) * known,
        "disorder": -np.sum(share * np.log(np.maximum(share, 1e-9))) * known,
    }


def _of_prototypes(candidates: Sequence[Candidate], alike: Mapping[float, Floats]) -> dict[str, Floats]:
    """What known crystals of like elements say; all unknown where none was proposed."""
    distance = _column(candidates, lambda one: one.prototype_distance)
    votes = _column(candidates, lambda one: one.prototype_share)
    proposed = np.isfinite(distance)
    known = np.full(len(candidates), 1.0 if proposed.any() else math.nan)
    shares = {reach: np.nan_to_num(np.exp(-(distance - _lowest(distance)) / reach)) * known for reach in NEAR}
    shares = {reach: share / share.sum() for reach, share in shares.items()}
    of_near = {f"log nearness {reach:g}": np.log(share + 0.01) for reach, share in shares.items()}
    for width, near in alike.items():
        of_near |= {
            f"like the nearest {reach:g} {width:g}": np.log(near @ share + 0.01) for reach, share in shares.items()
        }
        of_near[f"like the votes {width:g}"] = np.log(near @ (np.nan_to_num(votes) * known) + 1e-3)
    places = _places(distance)
    return of_near | {
        "proposed": proposed * known,
        "nearest": (places == 0) * known,
        "log place": np.log1p(places),
        "element distance": distance,
        "log element distance": np.log(distance + 0.01),
        "log element distance over least": np.log((distance + 0.01) / (_lowest(distance) + 0.01)),
        "log members": np.log(_column(candidates, lambda one: one.prototype_members)),
        "log votes": np.log(votes + 1e-4),
        "least element distance": _lowest(distance) * known,
        "most votes": _highest(votes) * known,
    }


def _contact(one: Candidate, atomic_volumes: Floats) -> float:
    """Shortest distance in units of the mean atom's size, at most 1.5."""
    size = float(np.cbrt(atomic_volumes[one.crystal.atomic_numbers].mean()))
    return min(min_distance(one.crystal) / size, 1.5)
