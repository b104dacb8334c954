"""Space groups and orbits of a symmetrised training set: what the symmetry prior learns."""

from __future__ import annotations

from dao.data.store import PackedCrystals
from dao.data.symmetrized import SPACE_GROUP
from dao.data.symmetry_batch import SymmetryLabel
from dao.geometry.wyckoff import site_table, wyckoff_index, wyckoff_positions
from dao.geometry.wyckoff_equivalents import canonical_orbits


def symmetry_labels(crystals: PackedCrystals) -> list[SymmetryLabel]:
    """One label a crystal; of the equivalent descriptions of its orbits, the one that stands for all.

    Args:
        crystals: as :func:`~dao.data.symmetrized.symmetrized_set` gives them.

    Raises:
        ValueError: crystals without ``sites``.

    """
    if crystals.sites is None:
        raise ValueError("labels need symmetrised crystals")
    table = site_table()
    sites, elements = crystals.sites.numpy(), crystals.atomic_numbers.numpy()
    offsets, groups = crystals.offsets.tolist(), crystals.labels[SPACE_GROUP].tolist()
    labels = []
    for group, first, last in zip(groups, offsets[:-1], offsets[1:], strict=True):
        # the first image of each orbit stands for it
        starts = table.image[sites[first:last]] == 0
        positions = (table.position[sites[first:last]][starts] - wyckoff_index(group, "a")).tolist()
        letters = [wyckoff_positions(group)[position].letter for position in positions]
        orbits = zip(elements[first:last][starts].tolist(), letters, strict=True)
        labels.append(SymmetryLabel(group, canonical_orbits(group, orbits)))
    return labels
