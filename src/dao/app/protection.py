"""What every request must get past, and what every answer carries.

The page is meant for one person's machine, but whatever other pages that person's browser has open can send requests to
it too. So: only known host names (else a foreign name could be pointed at this machine: DNS rebinding), nothing that
changes anything from a foreign page (cross-site request forgery), small bodies, and policies by which browsers neither
load nor frame anything.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 16 * 1024
"""Bytes of a request."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Content-security policy of all but reports, which carry one of their own."""

HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every answer, where it has not set them itself."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Hosts:
    """Names under which the server may be called."""

    def __init__(self, bound: str, allowed: Iterable[str] = ()) -> None:
        """Loopback's names, the address that the server is bound to, and those that its owner allows.

        Where it is bound to all of the machine's addresses, any address may stand for it: rebinding needs a name.
        """
        self._names = {name.lower() for name in (*LOOPBACK, bound, *allowed)}
        self._any_address = bound in {"", "0.0.0.0", "::"}  # noqa: S104 -- compared, not bound

    def knows(self, header: str) -> bool:
        """Whether the value of a ``Host`` header is one of them; ports do not matter."""
        name = hostname(header)
        if name in self._names:
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def hostname(header: str) -> str:
    """The name in a ``Host`` header, without port and brackets, in lower case."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def foreign(headers: Headers) -> bool:
    """Whether a browser says that a request comes from another site's page.

    Programs (curl, say) send neither of the two headers, and no foreign page can make them send anything.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site != "same-origin"
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()


class Protection:
    """The middleware that does all of this."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        """Protect ``app``, which may be called by ``hosts``."""
        self.app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            await refused(scope, receive, sending)
            return
        await self.app(scope, _capped(receive), sending)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if len(headers.getlist("host")) != 1 or not self._hosts.knows(headers["host"]):
            return JSONResponse({"error": "this server is not called by that name (see dao serve --allow-host)"}, 421)
        if scope["method"] not in {"GET", "HEAD"} and foreign(headers):
            return JSONResponse({"error": "requests from other pages are refused"}, 403)
        length = headers.get("content-length", "0")
        if not length.isdigit() or len(length) > 9 or int(length) > MAX_BODY:
            return JSONResponse({"error": f"the request is longer than {MAX_BODY} bytes"}, 413)
        return None


def _capped(receive: Receive) -> Receive:
    """The same, for bodies that do not say how long they are."""
    seen = 0

    async def receiving() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise HTTPException(413, f"the request is longer than {MAX_BODY} bytes")
        return message

    return receiving
