"""Sources that answer a page at a time: what a page is, and how often to ask a provider that fails.

A cursor names a page, so that a killed run asks for the page after the last that it kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from dao.data.sources.items import Item

T = TypeVar("T")

FIRST_WAIT = 1.0
"""Seconds before the second attempt; doubled before each further one."""

LONGEST_WAIT = 120.0
"""Seconds: no wait is longer, whatever a provider asks for."""


class ProviderError(Exception):
    """A provider cannot be read (any further) for now; the message says why."""


class TemporaryError(Exception):
    """Worth another attempt.

    Attributes:
        wait: seconds that the provider asks for; 0 where it does not.

    """

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Page:
    """One answer.

    Attributes:
        items: its entries, those that cannot be read included; labels are in the ``info`` of their crystals.
        following: cursor of the next page; None after the last.
        total: entries of all pages together, where the provider says so.

    """

    items: list[Item]
    following: str | None
    total: int | None = None


@runtime_checkable
class PagedSource(Protocol):
    """Crystals page by page, always in the same order."""

    @property
    def name(self) -> str:
        """What the user called it."""
        ...

    def made_by(self) -> dict[str, object]:
        """All that its pages depend on, as JSON: pages of another source or query must not be mixed with these."""
        ...

    def fetch(self, cursor: str | None) -> Page:
        """The page at a cursor; None is the first.

        Raises:
            ProviderError: no answer that could be used, after all attempts.
            InputError: a local file that cannot be read.

        """
        ...


def attempt(call: Callable[[], T], attempts: int) -> T:
    """Result of ``call``, tried again after waits that double while it raises :class:`TemporaryError`.

    Raises:
        ProviderError: the last attempt failed too.

    """
    for number in range(1, attempts + 1):
        try:
            return call()
        except TemporaryError as error:
            if number == attempts:
                raise ProviderError(f"{error} (attempt {number} of {attempts})") from error
            time.sleep(min(LONGEST_WAIT, max(error.wait, FIRST_WAIT * 2 ** (number - 1))))
    raise AssertionError("no attempts")
