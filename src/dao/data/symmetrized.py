"""A training set in the standard settings of its space groups, each atom on its Wyckoff position.

Shapes: M crystals, A atoms of all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dao.crystal import Crystal
from dao.data.labels import LABEL_SYMPREC
from dao.data.store import PackedCrystals, joined
from dao.errors import InputError
from dao.geometry.subgroups import in_subgroup, small_subgroups
from dao.geometry.symmetrized import SymmetricCrystal, symmetrized
from dao.geometry.wyckoff import orbit_sites, primitive_cell

SPACE_GROUP = "space_group"

CACHE_VERSION = 1
"""Raised when the same crystals would be described otherwise: files written before are not read."""

_TENSORS = ("atomic_numbers", "frac_coords", "lattice", "offsets", "sites")


def symmetrized_set(
    crystals: PackedCrystals, cache: Path | None = None, note: Callable[[str], None] | None = None
) -> PackedCrystals:
    """The same crystals, symmetrised and primitive, with ``sites`` and the label ``space_group`` (3 ms each).

    A crystal for which moyo finds nothing that fits the tables keeps its cell in space group 1.

    Args:
        crystals: the training set.
        cache: file to keep the result in; one that belongs to the same crystals is read instead.
        note: told, in one line, how many crystals are left without symmetry.

    """

    def describe() -> list[SymmetricCrystal]:
        described: list[SymmetricCrystal] = []
        failed = 0
        for i in range(len(crystals)):
            crystal = crystals.crystal(i)
            try:
                described.append(symmetrized(crystal, LABEL_SYMPREC))
            except InputError:
                failed += 1
                described.append(without_symmetry(crystal))
        if failed and note is not None:
            note(f"{failed} crystals have no space group at {LABEL_SYMPREC} A and are trained on without symmetry")
        return described

    return _described(crystals, describe, cache, _digest(crystals))


def without_symmetry(crystal: Crystal) -> SymmetricCrystal:
    """Every atom on the general position of space group 1."""
    order = np.argsort(crystal.atomic_numbers, kind="stable")
    orbits = tuple((int(number), "a") for number in crystal.atomic_numbers[order])
    return SymmetricCrystal(1, orbits, crystal.frac_coords[order], crystal.lattice)


def with_freed(symmetric: PackedCrystals, crystals: PackedCrystals) -> PackedCrystals:
    """The symmetrised set, followed by the same crystals as they stood, every atom free in space group 1.

    Args:
        symmetric: of :func:`symmetrized_set`.
        crystals: that it was made of.

    """
    site = int(orbit_sites(1, ["a"])[0])
    free = replace(
        crystals,
        labels={**crystals.labels, SPACE_GROUP: torch.ones_like(symmetric.labels[SPACE_GROUP])},
        sites=torch.full_like(crystals.atomic_numbers, site, dtype=torch.int32),
    )
    return joined(symmetric, free)


def subgroup_sets(
    symmetric: PackedCrystals, count: int, folder: Path, note: Callable[[str], None]
) -> list[PackedCrystals]:
    """The first ``count`` draws of :func:`in_subgroups`, kept in a folder; ``note`` is told before and after."""
    if count == 0:
        return []
    note(f"{folder}: describes crystals in {count} subgroups each (4 ms a description), kept in this folder")
    drawn = [in_subgroups(symmetric, draw, folder / f"subgroups-{draw}.safetensors") for draw in range(count)]
    groups = torch.stack([one.labels[SPACE_GROUP] for one in drawn])
    having = torch.tensor([bool(small_subgroups(group)) for group in symmetric.labels[SPACE_GROUP].tolist()])
    if failed := int((groups[:, having] == 1).sum()):
        note(f"{failed} descriptions in subgroups were not found: these crystals are shown without symmetry")
    return drawn


def in_subgroups(symmetric: PackedCrystals, seed: int, cache: Path | None = None) -> PackedCrystals:
    """Each crystal of the symmetrised set described in one of its small subgroups, drawn at random (4 ms each).

    First the kind of space group is drawn from those that its subgroups are of, then one of that kind. Crystals that
    have no small subgroup but space group 1 are described in that.

    Args:
        symmetric: of :func:`symmetrized_set`.
        seed: of the draw.
        cache: as of :func:`symmetrized_set`.

    """
    groups = symmetric.labels[SPACE_GROUP].tolist()

    def describe() -> list[SymmetricCrystal]:
        random = np.random.default_rng(seed)
        return [_in_one_subgroup(symmetric.crystal(i), group, random) for i, group in enumerate(groups)]

    return _described(symmetric, describe, cache, _digest(symmetric, f" subgroups {seed} {groups}"))


def _in_one_subgroup(crystal: Crystal, space_group: int, random: np.random.Generator) -> SymmetricCrystal:
    subgroups = small_subgroups(space_group)
    for kind in random.permutation(list(subgroups)).tolist():
        alike = subgroups[kind]
        with suppress(InputError):
            return in_subgroup(crystal, space_group, alike[int(random.integers(len(alike)))])
    return without_symmetry(crystal)


def pack_symmetric(described: Iterable[SymmetricCrystal], crystals: PackedCrystals) -> PackedCrystals:
    """Pack descriptions of ``crystals``, whose names and columns they keep.

    Fractional coordinates are those of the Wyckoff maps, not reduced to the cell, so that free coordinates can be told
    from them.
    """
    numbers, sites, coords, lattices, groups, counts = [], [], [], [], [], []
    for one in described:
        for (element, _), position, free in zip(one.orbits, one.positions(), one.free_coords, strict=True):
            numbers += [element] * position.multiplicity
            coords.append(position.expand(free))
        sites.append(orbit_sites(one.space_group, [letter for _, letter in one.orbits]))
        counts.append(len(sites[-1]))
        groups.append(one.space_group)
        lattices.append(primitive_cell(one.space_group) @ one.lattice)
    return PackedCrystals(
        atomic_numbers=torch.tensor(numbers, dtype=torch.uint8),
        frac_coords=torch.from_numpy(np.concatenate(coords).astype(np.float32)),
        lattice=torch.from_numpy(np.stack(lattices).astype(np.float32)),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
        ids=crystals.ids,
        columns=crystals.columns,
        labels={**crystals.labels, SPACE_GROUP: torch.tensor(groups)},
        sites=torch.from_numpy(np.concatenate(sites).astype(np.int32)),
    )


def _digest(crystals: PackedCrystals, more: str = "") -> str:
    digest = hashlib.sha256(f"{CACHE_VERSION} {LABEL_SYMPREC}{more}".encode())
    for name in ("atomic_numbers", "frac_coords", "lattice", "offsets"):
        digest.update(getattr(crystals, name).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _described(
    crystals: PackedCrystals, describe: Callable[[], list[SymmetricCrystal]], cache: Path | None, digest: str
) -> PackedCrystals:
    """Descriptions of ``crystals``, packed: read from the cache where it holds those of the digest, else kept there."""
    if cache is None:
        return pack_symmetric(describe(), crystals)
    if (found := _cached(cache, digest, crystals)) is not None:
        return found
    packed = pack_symmetric(describe(), crystals)
    cache.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: getattr(packed, name) for name in _TENSORS} | {SPACE_GROUP: packed.labels[SPACE_GROUP]}
    temporary = cache.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, {"digest": digest})
    temporary.replace(cache)
    return packed


def _cached(cache: Path, digest: str, crystals: PackedCrystals) -> PackedCrystals | None:
    from safetensors import safe_open

    try:
        with safe_open(cache, "pt") as file:
            if (file.metadata() or {}).get("digest") != digest:
                return None
        tensors = load_file(cache)
        return replace(
            crystals,
            atomic_numbers=tensors["atomic_numbers"],
            frac_coords=tensors["frac_coords"],
            lattice=tensors["lattice"],
            offsets=tensors["offsets"],
            sites=tensors["sites"],
            labels={**crystals.labels, SPACE_GROUP: tensors[SPACE_GROUP]},
        )
    except (OSError, SafetensorError, KeyError):
        return None
