"""Build CrysDB: ask each source page by page, sift, and write what is left as shards.

Pages are kept in ``OUT/.work`` as they come, each on the disk before the journal says so. A run that was killed, or
that a provider left waiting, goes on with the page after the last; the shards follow from the pages alone, so they come
out the same however often that happened. The work folder goes when every source has been read to its end.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dao.data.crysdb.filters import EXAMPLES, Filters, sift
from dao.data.shards import shard_files, table_of, write_shards, write_table
from dao.data.sources.failures import reading
from dao.data.sources.pages import PagedSource, ProviderError
from dao.errors import InputError
from dao.jsonl import JsonLines
from dao.progress import CountProgress

SHARD_ROWS = 50_000

REPORT, FAILURES, WORK = "crysdb.json", "failures.json", ".work"


@dataclass
class SourceReport:
    """What came of one source.

    Attributes:
        name: what the user called it.
        received: entries that it gave.
        stated: entries that it said it would give; None where it does not say.
        kept: crystals in the shards.
        dropped: entries by reason (:data:`~dao.data.crysdb.filters.REASONS`); together with ``kept`` all received.
        examples: the first few dropped of each reason.
        complete: whether it was read to its end.

    """

    name: str
    received: int = 0
    stated: int | None = None
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    complete: bool = False


@dataclass
class Report:
    """What came of all sources.

    Attributes:
        settings: what the shards were made by.
        rows: crystals in all shards.
        shards: name and rows of each.
        sources: in their order.
        failures: sources that could not be read to their end, each with the page and the error; not in the report's
            file but in one of its own.

    """

    settings: dict[str, Any]
    rows: int
    shards: list[dict[str, str | int]]
    sources: list[SourceReport]
    failures: list[dict[str, str | int]] = field(default_factory=list)


@dataclass(frozen=True)
class _Line:
    """What the journal says of a page."""

    rows: int
    following: str | None
    total: int | None
    dropped: dict[str, int]
    examples: dict[str, list[str]]


def _line(value: Any) -> _Line:  # noqa: ANN401 -- what JSON holds
    return _Line(
        int(value["rows"]), value["following"], value["total"], dict(value["dropped"]), dict(value["examples"])
    )


class _Pages:
    """The pages of one source that are on the disk."""

    def __init__(self, source: PagedSource, number: int, work: Path, settings: dict[str, Any]) -> None:
        slug = re.sub(r"[^A-Za-z0-9]+", "-", source.name).strip("-")[-40:]
        self.source = source
        self.folder = work / f"{number:02d}-{slug}"
        self._journal = JsonLines(self.folder / "pages.jsonl", settings, "pages")
        self.lines = self._journal.read(_line)

    @property
    def complete(self) -> bool:
        return bool(self.lines) and self.lines[-1].following is None

    def fetch_rest(self, filters: Filters, *, progress: bool) -> None:
        """Ask for every page that is not here yet; :class:`ProviderError` leaves those before it."""
        if self.complete:
            return
        done = sum(line.rows + sum(line.dropped.values()) for line in self.lines)
        total = self.lines[-1].total if self.lines else None
        with CountProgress(total, done, enabled=progress, what=self.source.name, of="crystals") as bar:
            while not self.complete:
                page = self.source.fetch(self.lines[-1].following if self.lines else None)
                sifted = sift(page.items, filters)
                if sifted.kept:
                    write_table(table_of(sifted.kept), self._file(len(self.lines)))
                line = _Line(len(sifted.kept), page.following, page.total, sifted.dropped, sifted.examples)
                self._journal.append([asdict(line)])
                self.lines.append(line)
                bar.advance(len(page.items))

    def tables(self) -> Iterator[pa.Table]:
        """The crystals of all pages, in their order."""
        for number, line in enumerate(self.lines):
            if line.rows:
                file = self._file(number)
                with reading(str(file)):
                    yield pq.read_table(file)

    def _file(self, number: int) -> Path:
        return self.folder / f"page-{number:06d}.parquet"


def build(
    sources: Sequence[PagedSource],
    out: Path,
    filters: Filters,
    *,
    shard_rows: int = SHARD_ROWS,
    progress: bool = False,
) -> Report:
    """Fetch, sift and write; what an earlier run fetched for the same settings is not asked for again.

    Args:
        sources: in the order of the shards; of crystals with the same id the first is kept.
        out: folder of the shards, of the report (``crysdb.json``) and, if a provider failed, of ``failures.json``.
        filters: which crystals are kept.
        shard_rows: crystals in a shard.
        progress: show a bar for each source.

    Returns:
        The report; its failures say which sources could not be read to their end. The shards then hold what there is.

    Raises:
        InputError: the folder holds a CrysDB of other settings, or a local source cannot be read.

    """
    settings: dict[str, Any] = json.loads(
        json.dumps(
            {
                "sources": {source.name: source.made_by() for source in sources},
                "filters": asdict(filters),
                "shard_rows": shard_rows,
            }
        )
    )
    before = _standing(out, settings)
    work = out / WORK
    if before is not None:
        _clear(work)
        return before
    pages = [_Pages(source, number, work, settings) for number, source in enumerate(sources)]
    failures: list[dict[str, str | int]] = []
    for one in pages:
        try:
            one.fetch_rest(filters, progress=progress)
        except ProviderError as error:
            failures.append({"source": one.source.name, "page": len(one.lines), "error": str(error)})
    repeated: list[Counter[str]] = [Counter() for _ in pages]
    examples: list[list[str]] = [[] for _ in pages]
    shards = write_shards(_without_repeats(pages, repeated, examples), out, shard_rows)
    reports = [_report(one, count, ids) for one, count, ids in zip(pages, repeated, examples, strict=True)]
    report = Report(settings, sum(int(shard["rows"]) for shard in shards), shards, reports, failures)
    _write(out, report)
    if not failures:
        _clear(work)
    return report


def _clear(work: Path) -> None:
    """Remove the pages; by another name first, so that a kill amidst it leaves no half of them to go on from."""
    done = work.with_name(f"{work.name}.done")
    shutil.rmtree(done, ignore_errors=True)
    if work.exists():
        work.replace(done)
    shutil.rmtree(done, ignore_errors=True)


def _standing(out: Path, settings: dict[str, Any]) -> Report | None:
    """The report of a folder that is complete; None where there is something left to do."""
    file = out / REPORT
    if not file.exists():
        # with pages beside them the shards are those of a run that was killed before it wrote the report
        if shard_files(out) and not (out / WORK).exists():
            raise InputError(f"{out}: holds shards but no {REPORT}: choose another --out")
        return None
    with reading(str(file)):
        content = json.loads(file.read_text(encoding="utf-8"))
        sources = [SourceReport(**source) for source in content.pop("sources")]
        report = Report(**content, sources=sources)
    if report.settings != settings:
        differing = [key for key in settings if report.settings.get(key) != settings[key]]
        raise InputError(f"{out} holds a CrysDB made with other {' and '.join(differing)}: choose another --out")
    complete = all(source.complete for source in report.sources) and not (out / WORK).exists()
    return report if complete and all((out / str(shard["file"])).exists() for shard in report.shards) else None


def _without_repeats(
    pages: Sequence[_Pages], repeated: Sequence[Counter[str]], examples: Sequence[list[str]]
) -> Iterator[pa.Table]:
    """Crystals of all sources; those with an id that came before are counted instead."""
    seen: set[str] = set()
    for one, counts, ids in zip(pages, repeated, examples, strict=True):
        for table in one.tables():
            keep = []
            for name in table["material_id"].to_pylist():
                keep.append(name not in seen)
                seen.add(name)
                if not keep[-1]:
                    counts["repeated_id"] += 1
                    if len(ids) < EXAMPLES:
                        ids.append(name)
            yield table.filter(pa.array(keep, pa.bool_()))


def _report(pages: _Pages, repeated: Counter[str], ids: list[str]) -> SourceReport:
    dropped: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for line in pages.lines:
        dropped.update(line.dropped)
        for reason, some in line.examples.items():
            examples[reason] = [*examples.get(reason, []), *some][:EXAMPLES]
    rows = sum(line.rows for line in pages.lines)
    return SourceReport(
        name=pages.source.name,
        received=rows + dropped.total(),
        stated=next((line.total for line in pages.lines if line.total is not None), None),
        kept=rows - repeated.total(),
        dropped=dict(sorted((dropped + repeated).items())),
        examples=dict(sorted((examples | ({"repeated_id": ids} if ids else {})).items())),
        complete=pages.complete,
    )


def _write(out: Path, report: Report) -> None:
    content = asdict(report)
    failures = content.pop("failures")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, value in ((REPORT, content), (FAILURES, failures)):
            if not value:
                (out / name).unlink(missing_ok=True)
                continue
            part = out / f".{name}.part"
            part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            part.replace(out / name)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
