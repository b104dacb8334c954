"""Crystals from the CIFs in a ZIP archive (what MatterGen writes), read in memory: nothing is unpacked to the disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from dao.crystal import Crystal
from dao.data.sources.cif import parse_cif
from dao.data.sources.failures import OnError, existing_file, one_line, reading
from dao.data.sources.items import Item, crystals_of, only
from dao.errors import InputError

_LARGEST_MEMBER = 20_000_000
"""Bytes of one CIF, as for CIFs on the disk."""

_LARGEST_ARCHIVE = 4_000_000_000
"""Bytes of all CIFs together; they are read one by one, so this bounds time rather than memory."""


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts ``gen_2`` before ``gen_10``, as whoever numbered the files meant it."""
    parts: list[str | int] = [*re.split(r"([0-9]+)", name)]
    # text and numbers alternate, so equal places compare alike; the name itself parts gen_1 from gen_01
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, name


def read_zip(path: Path | str, *, on_error: OnError | None = None) -> Iterator[Crystal]:
    """Crystals of a ZIP archive's ``*.cif`` members in natural order of their names, each named after its member.

    Args:
        path: the archive.
        on_error: called for an unreadable member, which is then skipped; without it such a member raises.

    Raises:
        InputError: at once for a missing file, one that is no ZIP, or one without a CIF; while iterating for a member
            that is malformed, encrypted, larger than 20 MB or of an unsafe name, and for more than 4 GB in all.

    """
    return crystals_of(zip_items(path), on_error)


def zip_items(path: Path | str) -> Iterator[Item]:
    """See :func:`read_zip`; an unreadable member keeps its place.

    Raises:
        InputError: as there, but not for one member.

    """
    file = existing_file(path)
    with reading(str(file)), ZipFile(file) as archive:
        members = [member for member in archive.infolist() if _is_cif(member)]
    if not members:
        raise InputError(f"{file}: no *.cif in the archive")
    return _items(file, sorted(members, key=lambda member: natural_order(member.filename)))


def _path(member: ZipInfo) -> PurePosixPath:
    return PurePosixPath(member.filename.replace("\\", "/"))


def _is_cif(member: ZipInfo) -> bool:
    name = _path(member).name
    # macOS adds a ._x.cif of its own for each x.cif
    return not member.is_dir() and name.lower().endswith(".cif") and not name.startswith(".")


def _items(file: Path, members: list[ZipInfo]) -> Iterator[Item]:
    left = _LARGEST_ARCHIVE
    with reading(str(file)):
        archive = ZipFile(file)
    with archive:
        for member in members:
            where, name = f"{file}, {one_line(member.filename)}", _path(member).stem
            try:
                with reading(where, name):
                    data = _bytes(archive, member)
                    left -= len(data)
                    crystal = only(parse_cif(_text(data), where, name)) if left >= 0 else None
            except InputError as error:
                yield Item.unreadable(where, name, error)
                continue
            if left < 0:
                raise InputError(f"{file}: holds more than {_LARGEST_ARCHIVE / 1e9:g} GB of CIFs")
            yield Item(where, name, crystal)


def _bytes(archive: ZipFile, member: ZipInfo) -> bytes:
    path = _path(member)
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise InputError("unsafe name: absolute or with '..'")
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise InputError("compressed by another method than deflate")
    # the size that the archive states may be false
    with archive.open(member) as stream:
        data = stream.read(_LARGEST_MEMBER + 1)
    if len(data) > _LARGEST_MEMBER:
        raise InputError(f"larger than {_LARGEST_MEMBER / 1e6:g} MB")
    return data


def _text(data: bytes) -> str:
    if not data:
        raise InputError("is empty")
    if any(byte in data for byte in (*range(9), *range(14, 27))):
        raise InputError("is no text file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
