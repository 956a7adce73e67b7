"""Who may ask, and what a browser may do with the answer: the outermost layer of the server.

- Host: only names of this server, so that a page elsewhere cannot reach it under a name of its own (DNS rebinding).
- Token: needed where the server is bound to more than this machine; it comes once in the address, then as a cookie.
- Requests that change something need a header and an origin that no other page can send.
- Content-security policy: scripts, styles and pictures of this server only; nothing inline; no other host.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil

COOKIE, HEADER, MAX_BODY = "winnow_token", b"x-winnow", 1_000_000
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """ASGI middleware. hosts: names that may stand in the Host header, without port. token: None: none is needed."""

    def __init__(self, app: Any, *, hosts: Iterable[str], token: str | None) -> None:
        self.app, self.hosts, self.token = app, {host.lower() for host in hosts}, token

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal:
            status, text, extra = refusal
            await _answer(send, status, text, extra)
            return

        async def guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                added = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in there]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, guarded)

    def _refusal(self, scope: dict, headers: dict[bytes, bytes]) -> tuple[int, str, dict[str, str]] | None:
        """(status, text, headers) of an answer in place of the app's, or None."""
        host = headers.get(b"host", b"").decode("latin-1")
        if _name(host) not in self.hosts:
            return 400, "winnow: this server does not go by that name", {}
        if headers.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none") and scope["path"] != "/":
            return 403, "winnow: only the inspector's own page may ask", {}
        if self.token is not None and not self._known(headers):
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if (
                scope["method"] == "GET"
                and scope["path"] == "/"
                and hmac.compare_digest(given.encode(), self.token.encode())
            ):
                cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
                return 303, "", {"location": "/", "set-cookie": cookie}
            return 401, "winnow: open the address that `winnow inspect` printed: it holds the token", {}
        if scope["method"] not in ("GET", "HEAD"):
            if scope["method"] != "POST":
                return 405, "winnow: no such request", {}
            origin = headers.get(b"origin")
            if HEADER not in headers or (origin is not None and urlsplit(origin.decode("latin-1")).netloc != host):
                return 403, "winnow: only the inspector's own page may change something", {}
            if not headers.get(b"content-type", b"").startswith(b"application/json"):
                return 415, "winnow: JSON only", {}
            length = headers.get(b"content-length", b"")
            if not length.isdigit() or int(length) > MAX_BODY:
                return 413, "winnow: too long a request", {}
        return None

    def _known(self, headers: dict[bytes, bytes]) -> bool:
        try:
            cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            return False
        given = cookies[COOKIE].value if COOKIE in cookies else ""
        return hmac.compare_digest(given.encode(), self.token.encode())


def loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_of(host: str) -> set[str]:
    """Names that a server bound to this address may be asked for by."""
    names = {"localhost", "127.0.0.1", "::1"}
    if loopback(host):
        return names | {host}
    names |= {host, socket.gethostname(), socket.getfqdn()}
    for addresses in psutil.net_if_addrs().values():
        names |= {item.address.split("%")[0] for item in addresses if item.family in (socket.AF_INET, socket.AF_INET6)}
    return names - {"0.0.0.0", "::"}


def new_token() -> str:
    return secrets.token_urlsafe(24)


def _name(host: str) -> str:
    """A Host header without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rsplit(":", 1)[0] if host.count(":") == 1 else host


async def _answer(send: Any, status: int, text: str, extra: dict[str, str]) -> None:
    headers = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store", **HEADERS, **extra}
    body = text.encode()
    headers["content-length"] = str(len(body))
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})
