"""What a request must pass before anything reads it: host, origin, token, size of the body.

Pure ASGI, as the body is counted while it comes in. Also gives every request its id in the logs,
and one line there when it is answered.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spct_plugin.errors import ConfigError
from spct_plugin.sections import ServeConfig
from spct_plugin.server import logs
from spct_plugin.server.metrics import Metrics
from spct_plugin.server.wire import new_request_id

log = logging.getLogger("spct_plugin.server")

# Characters of a token. 16: chosen by us, as many as nobody guesses.
SHORTEST_TOKEN = 16
# Longest time for a body to come in, in seconds; chosen by us: 16 MiB at 2 Mbit/s.
BODY_S = 60.0
# Without a token: what load balancers and browsers ask for.
OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json")
DOCS_FILES = "/docs-files"
ADMIN = "/admin/"


def read_token(serve: ServeConfig) -> bytes | None:
    """Read the token from the environment.

    Raises:
        ConfigError: It is not there, or too short to be one.
    """
    if serve.token_env is None:
        return None
    token = os.environ.get(serve.token_env, "")
    if len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"serve.token_env: expected at least {SHORTEST_TOKEN} characters in the environment "
            f"variable {serve.token_env!r}, found {len(token)}; make one with: openssl rand -hex 32"
        )
    return token.encode()


class Gate:
    """Lets requests through to the routes, or refuses them.

    Args:
        app: The routes.
        serve: What is allowed.
        token: Asked for on every route but health and documentation; None = by admin calls only,
            which then are refused.
        metrics: Where requests are counted.
    """

    def __init__(
        self, app: ASGIApp, serve: ServeConfig, token: bytes | None, metrics: Metrics
    ) -> None:
        self._app = app
        self._serve = serve
        self._token = token
        self._metrics = metrics
        self._hosts = {"localhost", serve.host.lower(), socket.gethostname().lower()}
        self._hosts |= {host.lower() for host in serve.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status: int | None = 500
        facts: dict[str, object] = {}
        scope["spct"] = facts
        logs.request_id.set(new_request_id())

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                named = (b"x-request-id", logs.request_id.get().encode())
                message["headers"] = [*message.get("headers", []), named]
            await send(message)

        try:
            refused = self._refusal(scope["path"], Headers(scope=scope))
            if refused is None:
                await self._app(scope, self._counted(receive), note_status)
            else:
                facts["detail"] = refused[1][:300]
                await _answer(note_status, *refused)
        except asyncio.CancelledError:
            status = None
            facts["detail"] = "given up before the answer was made and sent"
            raise
        finally:
            self._note(scope, status, facts, time.perf_counter() - start)

    def _note(
        self, scope: Scope, status: int | None, facts: dict[str, object], seconds: float
    ) -> None:
        """Count a request, and log it."""
        # Only paths of ours become names of series: anybody can ask for any other.
        route = str(getattr(scope.get("route"), "path", "other"))
        self._metrics.requests.labels(route, str(status or "none")).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        line = {"method": scope["method"], "path": scope["path"][:200], "status": status}
        # Health checks and scrapes come every few seconds.
        is_usual = scope["method"] == "GET" and "detail" not in facts
        level = logging.DEBUG if is_usual else logging.INFO
        log.log(level, "request", extra={"spct": line | facts | {"seconds": round(seconds, 4)}})

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str] | None:
        """Give status and reason, or None for a request that may pass."""
        host = headers.get("host", "")
        if not self._is_known(host):
            return 421, (
                "expected this server's name or address as Host, found "
                f"{host.rpartition('@')[2][:100]!r}; names by which clients call it stand in "
                "serve.hosts"
            )
        origin = headers.get("origin")
        if origin is not None and not _is_page_of(host, origin):
            found = origin.rpartition("@")[2][:100]
            return 403, f"expected no other page's request, found Origin {found!r}"
        if path.startswith(ADMIN) and self._token is None:
            return 403, "admin calls need a token: set serve.token_env and start again"
        if self._token is not None and not _is_open(path) and not self._has_token(headers):
            return 401, "expected the header 'Authorization: Bearer TOKEN' with the server's token"
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._serve.body_bytes:
            return 413, self._too_long()
        return None

    def _is_known(self, host: str) -> bool:
        """Tell whether a Host header is one that no foreign name can lead to us with."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _has_token(self, headers: Mapping[str, str]) -> bool:
        assert self._token is not None
        kind, _, given = headers.get("authorization", "").partition(" ")
        found = given.strip().encode("latin-1", "replace")
        if kind.lower() == "basic":
            # http://user:TOKEN@host: all that OpenRLHF's client can be told.
            found = _password(found)
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(found, self._token)

    def _counted(self, receive: Receive) -> Receive:
        """Count the body while it comes in; it must not come too slowly either."""
        taken = 0
        whole = False
        deadline = asyncio.get_running_loop().time() + BODY_S

        async def counted() -> Message:
            nonlocal taken, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not come within {BODY_S:g} s") from None
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if taken > self._serve.body_bytes:
                raise HTTPException(413, self._too_long())
            return message

        return counted

    def _too_long(self) -> str:
        return f"expected a body of at most {self._serve.body_bytes} bytes (serve.body_bytes)"


def _is_page_of(host: str, origin: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(f"{DOCS_FILES}/")


def _password(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


async def _answer(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail, "request_id": logs.request_id.get()}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # What is left of a body that nobody will read must not be taken for a request.
        (b"connection", b"close"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="spct"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
