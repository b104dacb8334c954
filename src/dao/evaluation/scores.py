"""What the matcher found for a crystal structure prediction run, and the row of metrics that a table prints of it.

M targets (test crystals), K samples each. RMS distances are pymatgen's, dimensionless, in units of (V/N)^(1/3); nan
means no match. :mod:`dao.evaluation.metrics` turns the first into the second and says which convention each follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float64

from dao.errors import InputError

EVERY = "all"
"""Name of the subset that holds every target."""

UNSEEN = "unseen"
"""Name of the subset that is not in the training data, neither by id nor by structure."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % percentile bootstrap interval over targets; nan where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """Metrics of one subset of the targets within k samples; defined in :mod:`dao.evaluation.metrics`.

    Attributes:
        subset: its name.
        k: samples a target.
        crystals: targets in the subset.
        unfiltered: match rate in [0, 1], benchmark tolerances.
        filtered: the same, valid targets and samples only; all targets in the denominator.
        strict: the unfiltered rate at pymatgen's default tolerances.
        rmse: over matched targets, unfiltered.
        rmse_filtered: over matched targets, filtered.
        crmse: over all targets, unfiltered.
        metre: rate in [0, 1], None where samples were not matched across targets.
        metre_crmse: cRMSE of METRe, likewise.

    """

    subset: str
    k: int
    crystals: int
    unfiltered: Interval
    filtered: Interval
    strict: Interval
    rmse: Interval
    rmse_filtered: Interval
    crmse: Interval
    metre: Interval | None = None
    metre_crmse: Interval | None = None


@dataclass(frozen=True, eq=False)
class Scores:
    """What the matcher found for M targets and K samples each; rows in the order of the targets.

    Attributes:
        ids: material ids.
        formulas: reduced formulas.
        num_atoms: (M,) atoms in the cell.
        num_elements: (M,) different elements.
        rms: (M, K) RMS distance at the benchmark's tolerances, nan = no match; no filter applied.
        strict: (M, K) the same at pymatgen's default tolerances.
        target_valid: (M,) passes the SMACT composition check and has no two atoms within 0.5 A.
        sample_valid: (M, K) the same of the samples; False for a sample that is missing.
        ranked: (M,) RMS distance of the candidate that our ranking puts first, nan = no match; None if none was ranked.
        everyone: k -> (M,) smallest RMS distance of a target to any of the first k samples of all targets of the same
            reduced formula, nan = no match.
        subsets: name -> (M,) members.
        timeouts: pairs that took the matcher too long, counted as no match.

    Raises:
        InputError: a shape that does not fit, a negative or infinite RMS distance, or the subset name "all".

    """

    ids: tuple[str, ...]
    formulas: tuple[str, ...]
    num_atoms: npt.NDArray[np.int64]
    num_elements: npt.NDArray[np.int64]
    rms: npt.NDArray[np.float64]
    strict: npt.NDArray[np.float64]
    target_valid: npt.NDArray[np.bool_]
    sample_valid: npt.NDArray[np.bool_]
    ranked: npt.NDArray[np.float64] | None = None
    everyone: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)
    subsets: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    timeouts: int = 0

    def __post_init__(self) -> None:
        """Check shapes against ``ids`` and ``rms``, and that no RMS distance is negative or infinite."""
        targets = (len(self.ids),)
        if self.rms.ndim != 2 or self.rms.shape[1] == 0:
            raise InputError(f"scores: rms must have shape (M, K) with K >= 1, got {self.rms.shape}")
        pairs = (*targets, self.rms.shape[1])
        distances = {"rms": self.rms, "strict": self.strict}
        distances |= {f"everyone within {k}": values for k, values in self.everyone.items()}
        if self.ranked is not None:
            distances["ranked"] = self.ranked
        fields: dict[str, npt.NDArray[Any]] = {
            "num_atoms": self.num_atoms,
            "num_elements": self.num_elements,
            "target_valid": self.target_valid,
            "sample_valid": self.sample_valid,
            **distances,
            **{f"subset {name!r}": members for name, members in self.subsets.items()},
        }
        if len(self.formulas) != len(self.ids):
            raise InputError(f"scores: {len(self.ids)} ids but {len(self.formulas)} formulas")
        for name, values in fields.items():
            wanted = pairs if name in {"rms", "strict", "sample_valid"} else targets
            if values.shape != wanted:
                raise InputError(f"scores: {name} has shape {values.shape}, not {wanted}")
        for name, values in distances.items():
            if np.any(values < 0) or np.isinf(values).any():
                raise InputError(f"scores: {name} has a negative or infinite RMS distance")
        if EVERY in self.subsets:
            raise InputError(f"scores: {EVERY!r} is the name of all targets, not of a subset")

    @property
    def samples(self) -> int:
        """Samples a target, K."""
        return int(self.rms.shape[1])

    def members(self, subset: str) -> Bool[np.ndarray, " m"]:
        """(M,) which targets a subset holds; "all" holds each.

        Raises:
            InputError: no such subset.

        """
        if subset == EVERY:
            return np.ones(len(self.ids), dtype=bool)
        if subset not in self.subsets:
            raise InputError(f"scores: no subset {subset!r}; there are: {', '.join([EVERY, *self.subsets])}")
        return self.subsets[subset]

    def allowed(self) -> Float64[np.ndarray, "m k"]:
        """(M, K) RMS distances after the filter: nan too where target or sample is not valid."""
        return np.where(self.sample_valid & self.target_valid[:, None], self.rms, np.nan)

    def best(self, k: int, *, filtered: bool = False, strict: bool = False) -> Float64[np.ndarray, " m"]:
        """(M,) smallest RMS distance among the first k samples, nan = none matches.

        Args:
            k: samples a target.
            filtered: count valid samples of valid targets only.
            strict: at pymatgen's default tolerances (not filtered).

        Raises:
            InputError: k outside 1 to K.

        """
        if not 1 <= k <= self.samples:
            raise InputError(f"scores: k = {k} is outside 1 to {self.samples}, the samples a target has")
        distances = self.strict if strict else self.allowed() if filtered else self.rms
        # fmin, unlike nanmin, is silent about a row of nothing but nan
        return np.fmin.reduce(distances[:, :k], axis=1)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON (lists, numbers, strings; nan becomes null); :meth:`from_json` reads it back exactly."""
        return {
            "ids": list(self.ids),
            "formulas": list(self.formulas),
            "num_atoms": self.num_atoms.tolist(),
            "num_elements": self.num_elements.tolist(),
            "rms": _to_lists(self.rms),
            "strict": _to_lists(self.strict),
            "target_valid": self.target_valid.tolist(),
            "sample_valid": self.sample_valid.tolist(),
            "ranked": None if self.ranked is None else _to_lists(self.ranked),
            "everyone": {str(k): _to_lists(values) for k, values in self.everyone.items()},
            "subsets": {name: members.tolist() for name, members in self.subsets.items()},
            "timeouts": self.timeouts,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Scores:
        """Scores from what :meth:`to_json` made.

        Raises:
            InputError: a field that is missing, of the wrong kind or of the wrong shape.

        """
        try:
            return cls(
                ids=tuple(str(one) for one in record["ids"]),
                formulas=tuple(str(one) for one in record["formulas"]),
                num_atoms=np.array(record["num_atoms"], dtype=np.int64),
                num_elements=np.array(record["num_elements"], dtype=np.int64),
                rms=_pairs(record["rms"], np.float64),
                strict=_pairs(record["strict"], np.float64),
                target_valid=np.array(record["target_valid"], dtype=bool),
                sample_valid=_pairs(record["sample_valid"], np.bool_),
                ranked=None if record["ranked"] is None else _from_lists(record["ranked"]),
                everyone={int(k): _from_lists(values) for k, values in record["everyone"].items()},
                subsets={name: np.array(members, dtype=bool) for name, members in record["subsets"].items()},
                timeouts=int(record["timeouts"]),
            )
        except InputError:
            raise
        except KeyError as error:
            raise InputError(f"scores: no field {error.args[0]!r}") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"scores: not what to_json writes ({' '.join(str(error).split())})") from error


def _to_lists(values: npt.NDArray[np.float64]) -> list[Any]:
    plain = values.astype(object)
    plain[np.isnan(values)] = None
    return list(plain.tolist())


def _from_lists(values: list[Any], dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
    return np.array(values, dtype=dtype)  # NumPy takes None, JSON's null, for nan


def _pairs(values: list[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    # without a target, K is lost in JSON: any does
    return _from_lists(values, dtype) if values else np.empty((0, 1), dtype)


def plain(value: Any) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """The same with null for NaN, which JSON lacks."""
    if isinstance(value, float) and np.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value
