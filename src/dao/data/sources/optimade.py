"""Crystals of any database that speaks OPTIMADE (OQMD, Alexandria, the Materials Project, ...), over HTTP.

A client of our own: that of the package ``optimade`` (1.5.0) repeats a query only when told 429 (and then for ever),
gives a provider up at its first timeout, 5xx or answer that is no JSON, and holds all results in memory.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import numpy as np
import requests
import urllib3

from dao.crystal import Crystal
from dao.data.shards import number
from dao.data.sources.failures import one_line, reading
from dao.data.sources.items import Item
from dao.data.sources.pages import Page, ProviderError, TemporaryError, attempt
from dao.elements import ATOMIC_NUMBERS
from dao.errors import InputError

OQMD = "https://oqmd.org/optimade"

FIELDS: dict[str, dict[str, str]] = {
    "oqmd": {"formation_energy": "_oqmd_delta_e", "e_above_hull": "_oqmd_stability", "band_gap": "_oqmd_band_gap"},
    "alexandria": {
        "formation_energy": "_alexandria_formation_energy_per_atom",
        "e_above_hull": "_alexandria_hull_distance",
        "band_gap": "_alexandria_band_gap",
    },
    "mp": {
        "formation_energy": "_mp_stability.gga_gga+u.formation_energy_per_atom",
        "e_above_hull": "_mp_stability.gga_gga+u.energy_above_hull",
    },
}
"""Our labels in the words of providers, by their prefix; a dot leads into a dictionary."""

STRUCTURE = (
    "lattice_vectors",
    "cartesian_site_positions",
    "species_at_sites",
    "species",
    "dimension_types",
    "structure_features",
    "nsites",
)

_LARGEST = 512 * 2**20  # bytes of one answer
_AGAIN = (408, 425, 429)


class _RefusedError(Exception):
    """The provider will not answer this request, however often it is asked."""


class Optimade:
    """One provider.

    Requests ask for cells of the right size, and for the elements where the provider can; nothing else is left to it,
    so that what is dropped is counted here.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        min_atoms: int,
        max_atoms: int,
        elements: Sequence[str] = (),
        fields: Mapping[str, str] | None = None,
        page_limit: int = 100,
        timeout: float = 60.0,
        attempts: int = 6,
    ) -> None:
        """Ask nothing yet.

        Args:
            url: base URL of the provider, with or without ``/v1``.
            name: what the user calls it.
            min_atoms: of the cell.
            max_atoms: of the cell.
            elements: symbols; crystals may have no other. Empty for any.
            fields: label (such as e_above_hull) -> the provider's property, instead of :data:`FIELDS`.
            page_limit: crystals asked for at a time; a provider that refuses it chooses itself.
            timeout: seconds for an answer.
            attempts: of each request, with waits that double.

        Raises:
            InputError: no http(s) URL.

        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise InputError(f"--source {name!r}: {url!r} is no http(s) address")
        base = url.rstrip("/")
        self.name = name
        self._base = base if re.search(r"/v[0-9][0-9.]*$", base) else f"{base}/v1"
        self._sizes = f"nsites>={min_atoms} AND nsites<={max_atoms}"
        self._elements = tuple(elements)
        self._given = dict(fields or {})
        self._page_limit = page_limit
        self._timeout = timeout
        self._attempts = attempts
        self._asked: set[str] = set()
        self._session = requests.Session()
        self._session.headers.update({"Accept": "application/json", "User-Agent": "dao-crystal"})

    def made_by(self) -> dict[str, object]:
        """See :class:`~dao.data.sources.pages.PagedSource`; how many crystals come at a time does not matter."""
        return {"optimade": self._base, "filter": self._filters()[0], "fields": self._given}

    def fetch(self, cursor: str | None) -> Page:
        """See :class:`~dao.data.sources.pages.PagedSource`; cursors are URLs.

        Raises:
            ProviderError: errors, timeouts or rubbish at every attempt, or a next page that was read before.

        """
        if cursor is None:
            body, url = self._first()
        else:
            if cursor in self._asked:
                raise ProviderError(f"its pages go round in a circle: {cursor}")
            body, url = self._ask(cursor), cursor
        # asked for here, where a failure is the provider's: among the entries it would be theirs
        prefix = self.prefix
        self._asked.add(url)
        return self._page(body, url, prefix)

    @cached_property
    def prefix(self) -> str:
        """The provider's own name for itself, as in ``_oqmd_stability``; its host where it gives none."""
        meta = self._ask(f"{self._base}/info").get("meta")
        provider = meta.get("provider") if isinstance(meta, dict) else None
        prefix = provider.get("prefix") if isinstance(provider, dict) else None
        return prefix if isinstance(prefix, str) and prefix else urlsplit(self._base).netloc

    @property
    def _fields(self) -> dict[str, str]:
        return self._given or FIELDS.get(self.prefix, {})

    def _filters(self) -> list[str]:
        """From the tightest; providers need not know HAS ONLY."""
        only = ",".join(f'"{symbol}"' for symbol in self._elements)
        return [*([f"{self._sizes} AND elements HAS ONLY {only}"] if only else []), self._sizes]

    def _first(self) -> tuple[dict[str, Any], str]:
        properties = dict.fromkeys([*STRUCTURE, *(path.split(".")[0] for path in self._fields.values())])
        refusal = ""
        for query in self._filters():
            for limit in (self._page_limit, None):
                asked = {"filter": query, "response_fields": ",".join(properties)}
                url = f"{self._base}/structures?{urlencode(asked | ({'page_limit': limit} if limit else {}))}"
                try:
                    return self._answer(url), url
                except _RefusedError as error:
                    refusal = refusal or str(error)
        raise ProviderError(refusal)

    def _ask(self, url: str) -> dict[str, Any]:
        try:
            return self._answer(url)
        except _RefusedError as error:
            raise ProviderError(str(error)) from None

    def _answer(self, url: str) -> dict[str, Any]:
        return attempt(lambda: self._answer_once(url), self._attempts)

    def _answer_once(self, url: str) -> dict[str, Any]:
        try:
            with self._session.get(url, timeout=self._timeout, stream=True) as response:
                status = response.status_code
                if status in _AGAIN or (status >= 500 and status != 501):
                    raise TemporaryError(f"HTTP {status}", _seconds(response.headers.get("Retry-After")))
                raw = self._read(response)
        # RequestException: requests; HTTPError: urllib3, whose body is read here; ValueError: a redirection to rubbish
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError, OSError) as error:
            raise TemporaryError(f"no answer: {one_line(str(error)) or type(error).__name__}") from error
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = None
        if status != 200:
            raise _RefusedError(f"HTTP {status}{_details(body)}")
        if not isinstance(body, dict) or not isinstance(body.get("data"), list | dict):
            raise TemporaryError("the answer is not what OPTIMADE asks for")
        return body

    def _read(self, response: requests.Response) -> bytes:
        """The body, within the limits of time and size: requests bounds only the time between two bytes."""
        deadline = time.monotonic() + self._timeout
        body = bytearray()
        while chunk := response.raw.read1(65536, decode_content=True):
            body += chunk
            if time.monotonic() > deadline:
                raise TemporaryError(f"no whole answer in {self._timeout:g} s")
            if len(body) > _LARGEST:
                raise TemporaryError(f"an answer of more than {_LARGEST} bytes")
        expected = response.headers.get("Content-Length", "")
        if not response.headers.get("Content-Encoding") and expected.isdigit() and len(body) < int(expected):
            raise TemporaryError(f"the answer ends after {len(body)} of {expected} bytes")
        return bytes(body)

    def _page(self, body: Mapping[str, Any], url: str, prefix: str) -> Page:
        data, links, meta = body["data"], body.get("links") or {}, body.get("meta") or {}
        if not (isinstance(data, list) and isinstance(links, dict) and isinstance(meta, dict)):
            raise ProviderError("the answer is not what OPTIMADE asks for")
        following = links.get("next")
        following = following.get("href") if isinstance(following, dict) else following
        if following is not None and not isinstance(following, str):
            raise ProviderError("its link to the next page is none")
        if following and not data:
            raise ProviderError("an empty page that is not the last")
        total = meta.get("data_returned")
        return Page(
            [self._item(entry, f"{self.name}, {url}, entry {number}", prefix) for number, entry in enumerate(data)],
            urljoin(url, following) if following else None,
            total if isinstance(total, int) else None,
        )

    def _item(self, entry: object, where: str, prefix: str) -> Item:
        material_id = None
        try:
            with reading(where):
                stated, attributes = _parts(entry)
                material_id = stated if stated.startswith(f"{prefix}-") else f"{prefix}-{stated}"
                labels = {label: _number(attributes, path) for label, path in self._fields.items()}
                crystal = _crystal(attributes, material_id, {**labels, "source": prefix})
        except InputError as error:
            return Item.unreadable(where, material_id, error)
        return Item(where, material_id, crystal)


def _parts(entry: object) -> tuple[str, dict[str, Any]]:
    """Id and attributes."""
    if isinstance(entry, dict) and isinstance(entry.get("attributes"), dict) and entry.get("id"):
        return str(entry["id"]), entry["attributes"]
    raise InputError("is no structure")


def _crystal(attributes: Mapping[str, Any], material_id: str, info: Mapping[str, Any]) -> Crystal:
    periodic = attributes.get("dimension_types")
    if periodic is not None and list(periodic) != [1, 1, 1]:
        raise InputError(f"periodic in {sum(map(bool, periodic))} of 3 directions")
    features = attributes.get("structure_features")
    if features:
        # disorder, atoms without a site or attached to others, or sites of which some are occupied at a time
        raise InputError(f"not the sites alone: {', '.join(map(str, features))}")
    numbers = {kind["name"]: _atomic_number(kind) for kind in attributes["species"]}
    sites, lattice = attributes["species_at_sites"], np.array(attributes["lattice_vectors"], dtype=np.float64)
    positions = np.array(attributes["cartesian_site_positions"], dtype=np.float64)
    if lattice.shape != (3, 3) or not abs(np.linalg.det(lattice)) > 1e-6:
        raise InputError("no cell of a volume")
    if positions.shape != (len(sites), 3):
        raise InputError(f"{len(sites)} sites but positions of shape {positions.shape}")
    return Crystal([numbers[site] for site in sites], positions @ np.linalg.inv(lattice), lattice, material_id, info)


def _atomic_number(kind: Mapping[str, Any]) -> int:
    symbols, shares = kind["chemical_symbols"], kind.get("concentration") or [1.0]
    if len(symbols) != 1 or not math.isclose(shares[0], 1.0, abs_tol=1e-6):
        raise InputError(f"species {kind['name']!r} is disordered or partly occupied")
    if symbols[0] not in ATOMIC_NUMBERS:
        raise InputError(f"species {kind['name']!r} is no element up to plutonium")
    return ATOMIC_NUMBERS[symbols[0]]


def _number(attributes: Mapping[str, Any], path: str) -> float | None:
    """The number at a dotted path; None where there is none."""
    value: object = attributes
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return number(value)


def _seconds(text: str | None) -> float:
    """What ``Retry-After`` asks for; dates count as nothing."""
    return float(text) if text is not None and text.isdigit() else 0.0


def _details(body: object) -> str:
    errors = body.get("errors") if isinstance(body, dict) else None
    first = errors[0] if isinstance(errors, list) and errors else None
    detail = (first.get("detail") or first.get("title")) if isinstance(first, dict) else None
    return f": {one_line(str(detail))}" if detail else ""
