"""Crystals made in a space group of one's choice, and a symmetric generator too small to be good."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pymatgen.core.structure_matcher import StructureMatcher

from dao.crystal import Crystal
from dao.data.store import PackedCrystals, pack_crystals
from dao.data.symmetrized import pack_symmetric
from dao.geometry.lattice import lattice_from_log_metric
from dao.geometry.symmetrized import SymmetricCrystal
from dao.geometry.wyckoff import operations, wyckoff_positions
from dao.model_config import GeneratorConfig
from dao.models import Generator
from dao.networks.config import CrysformerConfig
from dao.processes.config import ProcessConfig, SamplerSettings
from dao.processes.symmetry import SymmetryTable, lattice_freedom
from dao.sampling import SampleRequest

Orbits = Sequence[tuple[int, str]]

STRICT = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.05, primitive_cell=True, scale=False)


def same_structure(one: Crystal, other: Crystal) -> bool:
    return bool(STRICT.fit(one.to_structure(), other.to_structure()))


KINDS: dict[int, Orbits] = {
    1: ((8, "a"), (8, "a"), (14, "a")),
    2: ((8, "i"), (14, "a"), (14, "i")),
    4: ((8, "a"), (14, "a")),
    5: ((8, "c"), (14, "a"), (22, "b")),
    8: ((8, "a"), (8, "a"), (14, "b")),
    12: ((8, "i"), (8, "j"), (14, "a")),
    15: ((8, "f"), (14, "e")),
    19: ((8, "a"), (14, "a")),
    36: ((8, "b"), (14, "a")),
    43: ((8, "b"), (14, "a")),
    62: ((8, "c"), (8, "c"), (14, "a")),
    64: ((8, "f"), (14, "e")),
    71: ((8, "n"), (14, "a")),
    76: ((8, "a"), (14, "a")),
    88: ((8, "f"), (14, "a")),
    122: ((8, "e"), (14, "a"), (22, "c")),
    139: ((8, "e"), (14, "a"), (22, "d")),
    148: ((8, "f"), (14, "a"), (22, "c")),
    152: ((8, "c"), (14, "a")),
    160: ((8, "b"), (14, "a"), (14, "a")),
    166: ((8, "c"), (14, "a"), (22, "h")),
    186: ((8, "b"), (14, "a"), (22, "c")),
    194: ((8, "f"), (14, "a"), (22, "h")),
    198: ((8, "a"), (14, "b")),
    205: ((8, "c"), (14, "a")),
    216: ((8, "a"), (14, "e")),
    217: ((8, "c"), (14, "a")),
    225: ((8, "e"), (14, "a")),
    227: ((8, "e"), (14, "a")),
    230: ((14, "a"), (22, "c")),
}
"""Orbits (element, letter) that leave no more symmetry than the group's, for most of the kinds of groups there are."""


def conventional_lattice(space_group: int, rng: np.random.Generator, length: float = 9.0) -> np.ndarray:
    """A random lattice of the group's crystal system with axes of about ``length`` A."""
    free, fixed = lattice_freedom(space_group)
    k = free @ (0.12 * rng.normal(size=6)) + fixed
    k[:3] += np.log(length)
    return lattice_from_log_metric(torch.from_numpy(k)).numpy()


def symmetric_crystal(space_group: int, rng: np.random.Generator, orbits: Orbits | None = None) -> SymmetricCrystal:
    """Random free coordinates for ``orbits`` (default: of ``KINDS``) in a random cell."""
    orbits = KINDS[space_group] if orbits is None else orbits
    degrees = {one.letter: one.degrees for one in wyckoff_positions(space_group)}
    # a twentieth away from 0 and 1/2, where an orbit would come near to a more special position
    free = [(0.05 + 0.4 * rng.random(3)) * (np.arange(3) < degrees[letter]) for _, letter in orbits]
    return SymmetricCrystal(space_group, tuple(orbits), np.array(free), conventional_lattice(space_group, rng))


def disguised(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """The same structure turned, shifted, in another basis of its lattice, its atoms in another order."""
    basis = np.eye(3)
    for _ in range(3):
        row, column = rng.choice(3, 2, replace=False)
        step = np.eye(3)
        step[row, column] = rng.integers(-1, 2)
        basis = step @ basis
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    order = rng.permutation(crystal.num_atoms)
    coords = crystal.frac_coords @ np.linalg.inv(basis) + rng.random(3)
    return Crystal(crystal.atomic_numbers[order], coords[order], basis @ crystal.lattice @ rotation)


def symmetric_set(groups: Sequence[int], seed: int = 0) -> PackedCrystals:
    """One crystal of each group, packed with its sites."""
    rng = np.random.default_rng(seed)
    made = [symmetric_crystal(group, rng) for group in groups]
    return pack_symmetric(made, pack_crystals([one.crystal(f"group-{one.space_group}") for one in made]))


def double_table() -> SymmetryTable:
    """The table in double precision: ``SymmetryTable().double()`` has the digits of single precision only."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return SymmetryTable()
    finally:
        torch.set_default_dtype(before)


def tiny_symmetric_generator(seed: int = 0) -> Generator:
    """Untrained, with scalers of its own: conventional cells of about 9 A with axes that differ by a few percent."""
    torch.manual_seed(seed)
    model = Generator(
        GeneratorConfig(
            name="tiny-symmetric",
            network=CrysformerConfig(
                width=16,
                blocks=2,
                heads=2,
                frequencies=4,
                time_features=8,
                gram="normalized",
                conditioning="scale_shift",
                element_embedding=True,
                space_groups=True,
                wyckoff_positions=True,
            ),
            process=ProcessConfig(kind="symmetric_flow", lattice="conventional_log_metric"),
            sampler=SamplerSettings(steps=3, coordinate_velocity_scale=2.0),
        )
    )
    packed = symmetric_set((1, 2, 12, 62, 139, 166, 194, 225))
    assert model.symmetry_table is not None
    cell = model.symmetry_table.cell[packed.labels["space_group"]]
    counts = packed.element_counts() / torch.linalg.det(cell)[:, None].abs()
    model.process.representation.fit(torch.linalg.solve(cell, packed.lattice), counts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


def request(space_group: int, index: int = 0) -> SampleRequest:
    """One with the orbits of the toy crystal of that group."""
    orbits = tuple(KINDS[space_group])
    multiplicity = {one.letter: one.multiplicity for one in wyckoff_positions(space_group)}
    numbers = tuple(number for number, letter in orbits for _ in range(multiplicity[letter]))
    return SampleRequest(numbers, index, space_group, orbits=orbits)


def assert_has_operations(crystal: Crystal, space_group: int) -> None:
    """All operations of the group, to the single precision of the model's tables."""
    rotations, translations = operations(space_group)
    metric = crystal.lattice @ crystal.lattice.T
    kept = rotations.transpose(0, 2, 1) @ metric @ rotations
    np.testing.assert_allclose(kept, rotations * 0 + metric, atol=1e-6 * np.abs(metric).max())
    for rotation, translation in zip(rotations, translations, strict=True):
        difference = (crystal.frac_coords @ rotation.T + translation)[:, None] - crystal.frac_coords
        distance = np.abs(difference - difference.round()).max(-1)
        assert distance.min(1).max() < 1e-6
        assert (crystal.atomic_numbers[distance.argmin(1)] == crystal.atomic_numbers).all()
