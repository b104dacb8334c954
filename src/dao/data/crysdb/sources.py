"""What ``--source`` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dao.data.crysdb.filters import Filters
from dao.data.shards import LABELS
from dao.data.sources.local import LocalSource
from dao.data.sources.pages import PagedSource
from dao.data.uniform import find_source
from dao.elements import ATOMIC_NUMBERS
from dao.errors import InputError


def sources_of(
    names: Sequence[str],
    filters: Filters,
    *,
    fields: Mapping[str, str],
    page_limit: int,
    timeout: float,
    attempts: int,
) -> list[PagedSource]:
    """The sources called ``mp``, ``oqmd``, ``optimade:URL``, or by the name or path of a local file or folder.

    Args:
        names: in their order.
        filters: sizes and elements that providers are asked for.
        fields: label -> property of ``optimade:`` providers.
        page_limit: crystals asked for at a time.
        timeout: seconds for an answer.
        attempts: of each request.

    Raises:
        InputError: twice the same, no such file, no http(s) address, or no client or key for ``mp``.

    """
    from dao.data.sources.materials_project import MaterialsProject
    from dao.data.sources.optimade import OQMD, Optimade

    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"--source {twice!r} is given twice")
    sources: list[PagedSource] = []
    for name in names:
        kind, _, url = name.partition(":")
        if name == "mp":
            sizes = {"min_atoms": filters.min_atoms, "max_atoms": filters.max_atoms}
            sources.append(MaterialsProject(name=name, **sizes, attempts=attempts))
        elif name == "oqmd" or kind == "optimade":
            sources.append(
                Optimade(
                    OQMD if name == "oqmd" else url,
                    name=name,
                    min_atoms=filters.min_atoms,
                    max_atoms=filters.max_atoms,
                    elements=filters.elements,
                    fields=None if name == "oqmd" else fields,
                    page_limit=page_limit,
                    timeout=timeout,
                    attempts=attempts,
                )
            )
        else:
            sources.append(LocalSource(find_source(name), name))
    return sources


def parse_elements(text: str) -> tuple[str, ...]:
    """``"Li, O"`` as sorted symbols; empty for none.

    Raises:
        InputError: no element up to plutonium.

    """
    symbols = sorted({symbol.strip() for symbol in text.split(",")} - {""})
    unknown = next((symbol for symbol in symbols if symbol not in ATOMIC_NUMBERS), None)
    if unknown is not None:
        raise InputError(f"--elements {text!r}: {unknown!r} is no element up to plutonium")
    return tuple(symbols)


def parse_fields(settings: Sequence[str]) -> dict[str, str]:
    """``["e_above_hull=_exmpl_hull"]`` as a dictionary.

    Raises:
        InputError: no ``=``, or none of our labels before it.

    """
    fields: dict[str, str] = {}
    for setting in settings:
        label, _, name = setting.partition("=")
        if label not in LABELS or not name:
            raise InputError(f"--field {setting!r}: write LABEL=PROPERTY with a label of {', '.join(LABELS)}")
        fields[label] = name
    return fields
