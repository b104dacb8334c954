"""What a file holds, place by place: an item that cannot be read keeps its place and, where it has one, its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dao.crystal import Crystal
from dao.data.sources.failures import OnError
from dao.errors import InputError


@dataclass(frozen=True)
class Item:
    """One structure of a file.

    Attributes:
        where: file and row, frame or member, for messages.
        material_id: what the file calls it; None where it does not say (then ``crystal`` has a made-up name).
        crystal: None where it could not be read.
        reason: why not, else empty.

    """

    where: str
    material_id: str | None
    crystal: Crystal | None
    reason: str = ""

    @classmethod
    def unreadable(cls, where: str, material_id: str | None, error: InputError) -> Item:
        """Keep the place of an item whose reading raised ``error``; what the message repeats of ``where`` is cut."""
        reason = str(error).removeprefix(where).removeprefix(f" ({material_id})").removeprefix(": ")
        return cls(where, material_id, None, reason)


def crystals_of(items: Iterable[Item], on_error: OnError | None) -> Iterator[Crystal]:
    """Crystals of the items; ``on_error`` is called for an unreadable one.

    Raises:
        InputError: an unreadable item, without ``on_error``.

    """
    for item in items:
        if item.crystal is not None:
            yield item.crystal
            continue
        error = InputError(f"{item.where}: {item.reason}")
        if on_error is None:
            raise error
        on_error(error)


def only(crystals: Sequence[Crystal]) -> Crystal:
    """Return the one crystal of what must be one, such as a CIF among many.

    Raises:
        InputError: more than one, or none.

    """
    if len(crystals) != 1:
        raise InputError(f"holds {len(crystals)} structures instead of one")
    return crystals[0]
