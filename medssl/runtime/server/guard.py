"""Who gets in: tokens, their rate, the names the server is called by, and what browsers may do with the answers."""

import hashlib
import hmac
import json
import re
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from medssl.imaging.errors import ConfigError
from medssl.runtime.server.options import HttpOptions

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_OPEN = re.compile(r"/(health|ready|static/.*|favicon\.ico)?")
"""What is answered without a token: nothing of a patient, and the page that asks for the token."""

_FAILURES = parse("20/minute")
"""Wrong tokens from one address that are answered and written down; a right one is let in all the same."""

_HEADERS = {
    b"content-security-policy": b"default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:; "
    b"worker-src 'self' blob:; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    b"connect-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
}


def read_tokens(path: Path) -> dict[str, str]:
    """Names and SHA-256 hashes of a token file, one or more.

    Raises:
        ConfigError: Lines that are no `NAME SHA256`, or none.
    """
    tokens = listed_tokens(path)
    if not tokens:
        raise ConfigError([f"{path} holds no token: medssl token NAME --file {path} makes one"])
    return tokens


def listed_tokens(path: Path) -> dict[str, str]:
    """Names and SHA-256 hashes of a token file, which may be empty yet.

    Raises:
        ConfigError: Lines that are no `NAME SHA256`.
    """
    tokens, problems = {}, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, digest = line.strip().partition(" ")
        if not re.fullmatch(r"[0-9a-f]{64}", digest.strip()) or name in tokens:
            problems.append(f"{path}, line {number}: a new NAME and 64 hexadecimal digits are due")
        tokens[name] = digest.strip()
    if problems:
        raise ConfigError(problems)
    return tokens


class Guard:
    """ASGI middleware around everything.

    Args:
        app: What it protects.
        http: Options.
        tokens: Names and hashes; empty lets everybody in, which the options allow on loopback alone.
        on_refusal: Told the name or address, and the reason, of everything refused.
    """

    def __init__(
        self, app: App, http: HttpOptions, tokens: dict[str, str], on_refusal: Callable[[str, str], None]
    ) -> None:
        self._app, self._tokens, self._on_refusal = app, tokens, on_refusal
        self._names = {"localhost", "127.0.0.1", "::1", http.host.lower(), *(name.lower() for name in http.names)}
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._rate = parse(f"{http.requests_per_minute}/minute")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, or pass on to the application with the name of the token in `scope["state"]["who"]`."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no web sockets

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(k, v) for k, v in message.get("headers", []) if k.lower() not in (b"server",)]
                extra = dict(_HEADERS)
                if not scope["path"].startswith("/static/"):
                    extra[b"cache-control"] = b"no-store"
                message["headers"] = [*kept, *extra.items()]
            await send(message)

        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        address = (scope.get("client") or ("unknown", 0))[0]
        who, status, reason, message = self._admit(scope["path"], headers, address)
        if status:
            self._on_refusal(who, reason)
            await _refuse(sealed, status, reason, message)
            return
        scope.setdefault("state", {})["who"] = who
        await self._app(scope, receive, sealed)

    def _admit(self, path: str, headers: dict[bytes, str], address: str) -> tuple[str, int, str, str]:
        """Name, and where refused the HTTP status, reason and message."""
        host, origin = headers.get(b"host", ""), headers.get(b"origin", "")
        if self._host(host) not in self._names:
            return address, 421, "host", "the server is not called so; its operator adds names in http.names"
        if origin and urllib.parse.urlsplit(origin).netloc.lower() != host.lower():
            return address, 403, "origin", "web pages of other servers may not use this one"
        if not self._tokens or _OPEN.fullmatch(path):
            return self._within(f"address:{address}", "open" if self._tokens else "local")
        name = self._who(headers.get(b"authorization", ""))  # one address may be that of many: a proxy, a gateway
        if name:
            return self._within(f"token:{name}", name)
        if self._limiter.hit(_FAILURES, address):
            return address, 401, "token", "show a token: Authorization: Bearer TOKEN"
        return address, 429, "rate", "too many wrong tokens: wait a minute"

    def _within(self, key: str, name: str) -> tuple[str, int, str, str]:
        if self._limiter.hit(self._rate, key):
            return name, 0, "", ""
        return name, 429, "rate", "too many requests: wait a minute (http.requests_per_minute)"

    def _who(self, authorization: str) -> str:
        """Name of a token; every known token is compared, whatever the answer, in the same time."""
        scheme, _, token = authorization.partition(" ")
        digest = hashlib.sha256(token.strip().encode()).hexdigest()
        found = [name for name, known in self._tokens.items() if hmac.compare_digest(known, digest)]
        return found[0] if found and scheme.lower() == "bearer" else ""

    @staticmethod
    def _host(header: str) -> str:
        try:
            return (urllib.parse.urlsplit(f"//{header}").hostname or "").lower()
        except ValueError:
            return ""


async def _refuse(send: Send, status: int, reason: str, message: str) -> None:
    body = json.dumps({"reason": reason, "message": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 429:
        headers.append((b"retry-after", b"60"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
