"""Where candidates come from: the generator, prototypes, or both; found before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dao.errors import InputError

GENERATOR, PROTOTYPES = "generator", "prototypes"

TABLES = Path(__file__).parent.parent / "weights" / "prototypes"
"""Folder of the tables that ship."""

DEFAULT_TABLE = "pool"
"""The shipped table that is used unless told otherwise; it holds no test crystal of the benchmarks."""

SUPPLEMENTS = ("held-out", "mp20", "aflow")
"""Shipped tables that come in addition to it where nothing is scored: what the benchmarks hold out, the train split of
one, and textbook structures, are test crystals of another."""

PROPOSALS = 20
"""Prototype proposals a composition, over all cell sizes."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What proposes.

    Attributes:
        generator: whether the generator does.
        table: file of the prototypes, None: they do not.
        also: files of more prototypes.
        proposals: most proposals of the prototypes for a composition.
        exclude_same_composition: prototypes do as if crystals of this very composition had not been seen.

    """

    generator: bool = True
    table: Path | None = None
    also: tuple[Path, ...] = ()
    proposals: int = PROPOSALS
    exclude_same_composition: bool = False

    @property
    def names(self) -> str:
        """``generator,prototypes``, or one of them."""
        return ",".join([GENERATOR] * self.generator + [PROTOTYPES] * (self.table is not None))


def shipped_tables() -> dict[str, Path]:
    """Tables of prototypes inside this package by name, the default first."""
    found = {path.stem: path for path in TABLES.glob("*.safetensors")}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != DEFAULT_TABLE, name))}


def resolve_table(table: Path | str | None) -> Path:
    """A shipped name or a file as its path; None is the default one.

    Raises:
        InputError: neither; the message lists the shipped names.

    """
    known = shipped_tables()
    name = DEFAULT_TABLE if table is None else str(table)
    if name in known:
        return known[name]
    if table is not None and Path(table).is_file():
        return Path(table)
    raise InputError(f"table {name!r}: neither a shipped table of prototypes ({', '.join(known) or 'none'}) nor a file")


def choose_sources(
    sources: str | None,
    table: Path | str | None = None,
    *,
    supplement: bool = True,
    exclude_same_composition: bool = False,
) -> Sources:
    """The sources named, by default both, or the generator alone where no table of prototypes ships and none is given.

    Args:
        sources: ``generator``, ``prototypes``, or both with a comma.
        table: shipped name or file of the prototypes, or several with commas.
        supplement: whether :data:`SUPPLEMENTS` come with the default table; not where crystals are scored.
        exclude_same_composition: see :class:`Sources`.

    Raises:
        InputError: another source, none, no such table, or one that is given and not used.

    """
    if sources is None:
        use_table = table is not None or DEFAULT_TABLE in shipped_tables()
        names = {GENERATOR, PROTOTYPES} if use_table else {GENERATOR}
    else:
        names = {name.strip() for name in sources.split(",")}
    if not names <= {GENERATOR, PROTOTYPES}:
        raise InputError(f"sources {sources!r}: write {GENERATOR}, {PROTOTYPES}, or {GENERATOR},{PROTOTYPES}")
    if PROTOTYPES not in names:
        if table is not None or exclude_same_composition:
            raise InputError(f"sources {sources!r}: a table of prototypes is given but not among them")
        return Sources()
    if table is None:
        first, *more = [resolve_table(None)] + [
            path for name, path in shipped_tables().items() if supplement and name in SUPPLEMENTS
        ]
    else:
        first, *more = [resolve_table(table)] if Path(table).is_file() else map(resolve_table, str(table).split(","))
    return Sources(
        generator=GENERATOR in names,
        table=first,
        also=tuple(more),
        exclude_same_composition=exclude_same_composition,
    )
