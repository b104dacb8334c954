"""Any local file or folder of crystals, a few thousand at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from dao.crystal import Crystal
from dao.data.shards import HULL_SOURCE, LABELS, SOURCE, shard_files
from dao.data.sources import read_crystals, read_parquet
from dao.data.sources.failures import reading
from dao.data.sources.items import Item
from dao.data.sources.pages import Page
from dao.errors import InputError

AT_ONCE = 4096
"""Crystals of a page."""


class LocalSource:
    """A file, a folder of CIF and POSCAR files, or a folder of shards."""

    def __init__(self, path: Path, name: str) -> None:
        """Open nothing yet; ``name`` is what the user called it."""
        self.name = name
        self._path = path
        self._rest: Iterator[Item] | None = None
        self._at = 0

    def made_by(self) -> dict[str, object]:
        """See :class:`~dao.data.sources.pages.PagedSource`: a hash of every byte, since cursors count crystals."""
        digest = hashlib.sha256()
        files = sorted(self._path.iterdir()) if self._path.is_dir() else [self._path]
        for file in files:
            if file.is_file():
                with reading(str(file)), file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return {"file": str(self._path), "sha256": digest.hexdigest()}

    def fetch(self, cursor: str | None) -> Page:
        """See :class:`~dao.data.sources.pages.PagedSource`; cursors are numbers of crystals.

        Raises:
            InputError: the source cannot be read at all.

        """
        start = 0 if cursor is None else int(cursor)
        if self._rest is None or self._at != start:
            self._rest = islice(self._items(), start, None)
        items = list(islice(self._rest, AT_ONCE))
        self._at = start + len(items)
        return Page(items, str(self._at) if len(items) == AT_ONCE else None, self._total())

    def _total(self) -> int | None:
        import pyarrow.parquet as pq

        files = shard_files(self._path) or [self._path]
        if any(file.suffix.lower() != ".parquet" for file in files):
            return None
        return sum(pq.read_metadata(file).num_rows for file in files)

    def _items(self) -> Iterator[Item]:
        for file in shard_files(self._path) or [self._path]:
            unreadable: list[InputError] = []
            for crystal in self._read(file, unreadable):
                # a reader reports what it skipped before the crystal that comes after
                yield from (Item.unreadable(str(file), None, error) for error in unreadable)
                unreadable.clear()
                yield Item(str(file), crystal.material_id, self._labelled(crystal, file))
            yield from (Item.unreadable(str(file), None, error) for error in unreadable)

    def _read(self, file: Path, unreadable: list[InputError]) -> Iterator[Crystal]:
        if file.suffix.lower() != ".parquet" or file.is_dir():
            return read_crystals(file, on_error=unreadable.append)
        import pyarrow.parquet as pq

        with reading(str(file)):
            names = pq.read_schema(file).names
        columns = [name for name in (*LABELS, HULL_SOURCE, SOURCE) if name in names]
        return read_parquet(file, columns=columns, on_error=unreadable.append)

    def _labelled(self, crystal: Crystal, file: Path) -> Crystal:
        info: dict[str, Any] = {name: crystal.info.get(name) for name in (*LABELS, HULL_SOURCE)}
        info[SOURCE] = crystal.info.get(SOURCE) or file.stem
        return Crystal(crystal.atomic_numbers, crystal.frac_coords, crystal.lattice, crystal.material_id, info)
