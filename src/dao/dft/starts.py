"""Where a relaxation by DFT starts: the structure itself, the structure perturbed, or a random one of its composition.

The paper (its appendix 2.3.2) starts at random, then from the true structure with "10% lattice lengths perturbation,
10-degree angles perturbation, and 0.1 fractional coordinates deviation", then with 5 %, 3 degrees and a standard
deviation of 0.05. It does not say how these are drawn; here lengths and angles are uniform within those bounds, and
each coordinate has Gaussian noise of that standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt

from dao.crystal import Crystal
from dao.errors import InputError

StartName = Literal["given", "perturbed", "random"]

TRIES = 100
"""Draws before giving up on finding a crystal (:meth:`dao.crystal.Crystal.validate`)."""

PLACES = 20
"""Places drawn for an atom of a random start, of which the one farthest from the atoms before it is taken."""

_IMAGES = np.array(list(product((-1.0, 0.0, 1.0), repeat=3)))


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a start is drawn.

    Attributes:
        kind: ``given``, ``perturbed`` or ``random``.
        lengths: largest relative change of each cell length, for a perturbed start.
        angles: likewise of each cell angle, degrees.
        coordinates: standard deviation of the change of each fractional coordinate.
        seed: of everything random.

    """

    kind: StartName = "given"
    lengths: float = 0.1
    angles: float = 10.0
    coordinates: float = 0.1
    seed: int = 0


def make_start(crystal: Crystal, start: Start) -> Crystal:
    """The crystal itself, perturbed, or random atoms of its composition in a random cell of its volume.

    A random start is kinder than the paper's: it is told the volume, and atoms keep off each other.

    Raises:
        InputError: no draw was a crystal, or the given one is none.

    """
    if start.kind == "given":
        crystal.validate()
        return crystal
    draw = _perturbed if start.kind == "perturbed" else _random
    generator = np.random.default_rng(start.seed)
    for _ in range(TRIES):
        made = draw(crystal, start, generator)
        try:
            made.validate()
        except InputError:
            continue
        return made
    raise InputError(f"{crystal.name}: none of {TRIES} {start.kind} starts was a crystal; perturb it less?")


def _perturbed(crystal: Crystal, start: Start, generator: np.random.Generator) -> Crystal:
    from ase.cell import Cell

    parameters = Cell(crystal.lattice).cellpar()  # type: ignore[no-untyped-call]
    parameters[:3] *= 1.0 + generator.uniform(-start.lengths, start.lengths, 3)
    parameters[3:] += generator.uniform(-start.angles, start.angles, 3)
    noise = generator.normal(0.0, start.coordinates, (crystal.num_atoms, 3))
    return _with(crystal, crystal.frac_coords + noise, _cell(parameters))


def _random(crystal: Crystal, start: Start, generator: np.random.Generator) -> Crystal:
    del start
    cell = _cell(np.concatenate([generator.uniform(0.75, 1.25, 3), generator.uniform(60.0, 120.0, 3)]))
    volume = abs(float(np.linalg.det(cell)))
    if not volume > 0.1:  # no such cell, or a flat one
        return _with(crystal, crystal.frac_coords, np.zeros((3, 3)))
    cell *= (crystal.volume / volume) ** (1.0 / 3.0)
    placed = generator.uniform(size=(1, 3))
    while len(placed) < crystal.num_atoms:
        places = generator.uniform(size=(PLACES, 3))
        apart = places[:, None] - placed
        images = (apart - np.rint(apart))[:, :, None] + _IMAGES
        nearest = np.linalg.norm(images @ cell, axis=-1).min((1, 2))
        placed = np.concatenate([placed, places[[int(nearest.argmax())]]])
    return _with(crystal, generator.permutation(placed), cell)


def _cell(parameters: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Row vectors of three lengths (A) and three angles (degrees); not finite where there is no such cell."""
    from ase.geometry import cellpar_to_cell

    with np.errstate(invalid="ignore"):
        try:
            return np.asarray(cellpar_to_cell(parameters), dtype=np.float64)  # type: ignore[no-untyped-call]
        except AssertionError:  # ASE's word for angles that no cell has
            return np.zeros((3, 3))


def _with(crystal: Crystal, frac_coords: npt.NDArray[np.float64], lattice: npt.NDArray[np.float64]) -> Crystal:
    cell = np.nan_to_num(lattice)
    return Crystal(crystal.atomic_numbers, frac_coords, cell, material_id=crystal.material_id)
