"""The two nouns that travel between rooms: one crystal (NumPy) and a batch of crystals (padded torch tensors).

Conventions: lattices are three **row** vectors in Angstrom, so cartesian = frac_coords @ lattice; fractional
coordinates lie in [0, 1). Shapes: B crystals, N atoms (of one crystal, or padded to the largest of a batch).

Importing this module imports neither torch, pymatgen nor ASE; the methods that need them do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Float64, Int, Int64

from dao.constants import MAX_ATOMIC_NUMBER
from dao.errors import InputError

if TYPE_CHECKING:
    import torch
    from ase import Atoms
    from pymatgen.core import Structure
    from torch import Tensor

LAST_ELEMENT = 118
"""Largest atomic number that has a symbol; :class:`Limits` is stricter."""

LARGEST_VALUE = 1e6
"""Largest fractional coordinate and lattice component (A) accepted: no crystal comes near, and volumes stay finite."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What counts as a crystal that may enter the software.

    The defaults keep 99.4 % of 130,330 Niggli cells of the Materials Project (at most 52 atoms): they refuse 770 that
    are mostly empty, above 300 A^3/atom, and 2 with atoms 0.48 and 0.50 A apart. The lowest cell there is 0.98 A high.

    Attributes:
        max_atoms: atoms in the cell.
        max_atomic_number: heaviest element.
        min_volume_per_atom: A^3.
        max_volume_per_atom: A^3.
        min_height: smallest distance in A between opposite faces of the cell; thin or sheared cells blow up any sum
            over periodic images.
        max_aspect: longest lattice vector over the smallest such height. Niggli cells of the Materials Project (up to
            52 atoms) reach 35; for needles beyond, pymatgen's matcher takes gigabytes.
        min_distance: smallest distance in A between two atoms, or an atom and its own periodic image.

    """

    max_atoms: int = 512
    max_atomic_number: int = MAX_ATOMIC_NUMBER
    min_volume_per_atom: float = 2.0
    max_volume_per_atom: float = 300.0
    min_height: float = 0.9
    max_aspect: float = 40.0
    min_distance: float = 0.5

    def check_num_atoms(self, num_atoms: int, name: str = "crystal") -> None:
        """Refuse a number of atoms outside 1 to ``max_atoms``; costs nothing, so call it before building anything.

        Raises:
            InputError: names ``name`` and both numbers.

        """
        if not 1 <= num_atoms <= self.max_atoms:
            raise InputError(f"{name}: {num_atoms} atoms in the cell, outside 1 to {self.max_atoms}")

    def check_composition(self, counts: Mapping[int, int], name: str = "crystal") -> None:
        """Refuse a composition (atomic number -> atoms in the cell) by its count and elements, building no array.

        Raises:
            InputError: names ``name`` and what is outside the limits.

        """
        if any(count < 0 for count in counts.values()):
            raise InputError(f"{name}: negative number of atoms")
        self.check_num_atoms(sum(counts.values()), name)
        for number, count in counts.items():
            if count and not 1 <= number <= self.max_atomic_number:
                raise InputError(f"{name}: atomic number {number} is outside 1 to {self.max_atomic_number}")


DEFAULT_LIMITS = Limits()


def _integers(values: npt.ArrayLike, what: str) -> npt.NDArray[np.int64]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{what} is ragged") from error
    # beyond 2^53 a float64 no longer tells neighbouring integers apart
    if array.dtype.kind == "f" and bool(np.all((np.abs(array) < 2**53) & (array == np.rint(array)))):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise InputError(f"{what} must be integers")
    return array.astype(np.int64)


def _reals(values: npt.ArrayLike, what: str) -> npt.NDArray[np.float64]:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be numbers") from error
    if not np.isfinite(array).all():
        raise InputError(f"{what} has a value that is not finite")
    if np.abs(array).max(initial=0.0) > LARGEST_VALUE:
        raise InputError(f"{what} has a value beyond {LARGEST_VALUE:g}")
    return array


def _wrap(frac_coords: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    wrapped: npt.NDArray[np.float64] = frac_coords - np.floor(frac_coords)
    # -1e-20 rounds up to exactly 1
    wrapped[wrapped >= 1.0] = 0.0
    return wrapped


@dataclass(frozen=True, eq=False, init=False)
class Crystal:
    """One periodic crystal: N atoms in a cell. Its arrays are read-only copies.

    Attributes:
        atomic_numbers: (N,) 1 (H) to 118.
        frac_coords: (N, 3) fractional coordinates, wrapped to [0, 1).
        lattice: (3, 3) row vectors in A, of either handedness. May be degenerate: :meth:`validate` tells.
        material_id: name used in messages and file names.
        info: whatever else is known (labels, source file, parser warnings); never read by a model.

    """

    atomic_numbers: Int64[np.ndarray, " n"]
    frac_coords: Float64[np.ndarray, "n 3"]
    lattice: Float64[np.ndarray, "3 3"]
    material_id: str | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        atomic_numbers: npt.ArrayLike,
        frac_coords: npt.ArrayLike,
        lattice: npt.ArrayLike,
        material_id: str | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Coerce to int64 and float64 copies, wrap the coordinates and check shapes.

        Raises:
            InputError: wrong shape, no atoms, an atomic number outside 1 to 118, or a value not finite or beyond 1e6.

        """
        name = material_id if material_id is not None else "crystal"
        numbers = _integers(atomic_numbers, f"{name}: atomic_numbers")
        coords = _reals(frac_coords, f"{name}: frac_coords")
        cell = _reals(lattice, f"{name}: lattice")
        if numbers.ndim != 1 or numbers.size == 0:
            raise InputError(f"{name}: atomic_numbers must have shape (N,) with N >= 1, got {numbers.shape}")
        if coords.shape != (numbers.size, 3):
            raise InputError(f"{name}: frac_coords must have shape ({numbers.size}, 3), got {coords.shape}")
        if cell.shape != (3, 3):
            raise InputError(f"{name}: lattice must have shape (3, 3), got {cell.shape}")
        if numbers.min() < 1 or numbers.max() > LAST_ELEMENT:
            unknown = int(numbers[(numbers < 1) | (numbers > LAST_ELEMENT)][0])
            raise InputError(f"{name}: no element has atomic number {unknown}")
        coords = _wrap(coords)
        for array in (numbers, coords, cell):
            array.flags.writeable = False
        object.__setattr__(self, "atomic_numbers", numbers)
        object.__setattr__(self, "frac_coords", coords)
        object.__setattr__(self, "lattice", cell)
        object.__setattr__(self, "material_id", material_id)
        object.__setattr__(self, "info", dict(info or {}))

    @property
    def name(self) -> str:
        """``material_id``, or "crystal" where there is none: for messages."""
        return self.material_id if self.material_id is not None else "crystal"

    @property
    def num_atoms(self) -> int:
        """Number of atoms N in the cell."""
        return int(self.atomic_numbers.size)

    @property
    def volume(self) -> float:
        """Cell volume in A^3, never negative."""
        return float(abs(np.linalg.det(self.lattice)))

    @property
    def volume_per_atom(self) -> float:
        """Cell volume in A^3 by number of atoms."""
        return self.volume / self.num_atoms

    @property
    def cart_coords(self) -> Float64[np.ndarray, "n 3"]:
        """(N, 3) cartesian coordinates in A."""
        return np.asarray(self.frac_coords @ self.lattice, dtype=np.float64)

    @property
    def counts(self) -> dict[int, int]:
        """Atomic number -> atoms in the cell, by rising atomic number."""
        return dict(sorted(Counter(self.atomic_numbers.tolist()).items()))

    @property
    def formula(self) -> str:
        """The cell's formula as pymatgen writes it, e.g. ``Sr1 Ti1 O3``."""
        from dao.interop.pymatgen import formula_of

        return formula_of(self)

    @property
    def reduced_formula(self) -> str:
        """The reduced formula as pymatgen writes it, e.g. ``SrTiO3``."""
        from dao.interop.pymatgen import formula_of

        return formula_of(self, reduced=True)

    def validate(self, limits: Limits = DEFAULT_LIMITS) -> None:
        """Refuse what is no crystal: by count and elements first, then volume, cell heights and distances.

        Raises:
            InputError: the first limit broken, in one line.

        """
        from dao.geometry.cells import heights, min_distance

        limits.check_num_atoms(self.num_atoms, self.name)
        limits.check_composition(self.counts, self.name)
        volume = self.volume_per_atom
        if not limits.min_volume_per_atom <= volume <= limits.max_volume_per_atom:
            allowed = f"{limits.min_volume_per_atom:g} to {limits.max_volume_per_atom:g}"
            raise InputError(f"{self.name}: {volume:.4g} A^3 per atom, outside {allowed}")
        height = float(heights(self).min())
        if not height >= limits.min_height:
            raise InputError(
                f"{self.name}: cell only {height:.3g} A high (at least {limits.min_height:g} A); reduce it first?"
            )
        longest = float(np.linalg.norm(self.lattice, axis=1).max())
        if not longest <= limits.max_aspect * height:
            raise InputError(
                f"{self.name}: cell {longest:.3g} A long but {height:.3g} A high (at most {limits.max_aspect:g} times)"
            )
        distance = min_distance(self)
        if not distance >= limits.min_distance:
            raise InputError(f"{self.name}: two atoms {distance:.3g} A apart (at least {limits.min_distance:g} A)")

    @classmethod
    def from_structure(cls, structure: Structure, material_id: str | None = None) -> Crystal:
        """See :func:`dao.interop.pymatgen.from_structure`."""
        from dao.interop.pymatgen import from_structure

        return from_structure(structure, material_id)

    def to_structure(self) -> Structure:
        """See :func:`dao.interop.pymatgen.to_structure`."""
        from dao.interop.pymatgen import to_structure

        return to_structure(self)

    @classmethod
    def from_atoms(cls, atoms: Atoms, material_id: str | None = None) -> Crystal:
        """See :func:`dao.interop.ase.from_atoms`."""
        from dao.interop.ase import from_atoms

        return from_atoms(atoms, material_id)

    def to_atoms(self) -> Atoms:
        """See :func:`dao.interop.ase.to_atoms`."""
        from dao.interop.ase import to_atoms

        return to_atoms(self)


@dataclass(frozen=True, eq=False)
class CrystalBatch:
    """B crystals as dense torch tensors; atoms come first and padding (atomic number 0, coordinates 0) last.

    Attributes:
        atomic_numbers: (B, N) int64, 0 = padding.
        frac_coords: (B, N, 3) in [0, 1).
        lattice: (B, 3, 3) row vectors in A.
        num_atoms: (B,) int64.
        labels: (B,) tensors by name (``space_group``, energies), empty unless the data has them.
        sites: (B, N) row of the site table (:mod:`dao.geometry.wyckoff`) of each atom, 0 = padding. Coordinates are
            then those of the Wyckoff maps, not reduced to the cell.

    Raises:
        ValueError: shapes that do not fit together.

    """

    atomic_numbers: Int[Tensor, "b n"]
    frac_coords: Float[Tensor, "b n 3"]
    lattice: Float[Tensor, "b 3 3"]
    num_atoms: Int[Tensor, " b"]
    labels: dict[str, Tensor] = field(default_factory=dict)
    sites: Int[Tensor, "b n"] | None = None

    def __post_init__(self) -> None:
        """Check shapes (jaxtyping cannot here: torch's name is not known to this module at run time)."""
        shape = tuple(self.atomic_numbers.shape)
        wanted = {"frac_coords": (*shape, 3), "lattice": (*shape[:1], 3, 3), "num_atoms": shape[:1]}
        found = {name: tuple(getattr(self, name).shape) for name in wanted}
        if len(shape) != 2 or found != wanted:
            raise ValueError(f"batch of shapes atomic_numbers {shape}, {found}")

    def __len__(self) -> int:
        """Number of crystals B."""
        return int(self.atomic_numbers.shape[0])

    @property
    def mask(self) -> Bool[Tensor, "b n"]:
        """(B, N) True for atoms, False for padding."""
        return self.atomic_numbers > 0

    @classmethod
    def from_crystals(
        cls, crystals: Sequence[Crystal], pad_to: int | None = None, dtype: torch.dtype | None = None
    ) -> CrystalBatch:
        """Pad crystals to the largest of them, or to ``pad_to`` atoms; ``dtype`` defaults to float32.

        Raises:
            ValueError: no crystals, or one with more than ``pad_to`` atoms.

        """
        import torch

        if not crystals:
            raise ValueError("a batch needs at least one crystal")
        num_atoms = np.array([crystal.num_atoms for crystal in crystals], dtype=np.int64)
        width = int(num_atoms.max()) if pad_to is None else pad_to
        if width < num_atoms.max():
            largest = crystals[int(num_atoms.argmax())]
            raise ValueError(f"pad_to = {pad_to} is less than the {largest.num_atoms} atoms of {largest.name}")
        mask = np.arange(width) < num_atoms[:, None]
        atomic_numbers = np.zeros(mask.shape, dtype=np.int64)
        atomic_numbers[mask] = np.concatenate([crystal.atomic_numbers for crystal in crystals])
        frac_coords = np.zeros((*mask.shape, 3))
        frac_coords[mask] = np.concatenate([crystal.frac_coords for crystal in crystals])
        lattice = np.stack([crystal.lattice for crystal in crystals])
        dtype = torch.float32 if dtype is None else dtype
        coords = torch.from_numpy(frac_coords).to(dtype)
        return cls(
            atomic_numbers=torch.from_numpy(atomic_numbers),
            # a float64 just below 1 rounds to 1 in a shorter type
            frac_coords=torch.where(coords >= 1.0, torch.zeros_like(coords), coords),
            lattice=torch.from_numpy(lattice).to(dtype),
            num_atoms=torch.from_numpy(num_atoms),
        )

    def to_crystals(self) -> list[Crystal]:
        """The B crystals without their padding (names and ``info`` do not travel in a batch).

        Raises:
            InputError: a coordinate or lattice that is not finite.

        """
        numbers = self.atomic_numbers.cpu().numpy()
        coords = self.frac_coords.detach().double().cpu().numpy()
        lattices = self.lattice.detach().double().cpu().numpy()
        return [Crystal(numbers[i, :n], coords[i, :n], lattices[i]) for i, n in enumerate(self.num_atoms.tolist())]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CrystalBatch:
        """The batch on ``device``, its coordinates and lattices as ``dtype``; None leaves either as it is."""
        return CrystalBatch(
            atomic_numbers=self.atomic_numbers.to(device=device),
            frac_coords=self.frac_coords.to(device=device, dtype=dtype),
            lattice=self.lattice.to(device=device, dtype=dtype),
            num_atoms=self.num_atoms.to(device=device),
            labels={name: values.to(device=device) for name, values in self.labels.items()},
            sites=None if self.sites is None else self.sites.to(device=device),
        )
