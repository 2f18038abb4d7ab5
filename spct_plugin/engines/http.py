"""Asks servers with JSON over HTTP, and tries again where that may help.

One connection pool per event loop, for the life of the client. What may pass is tried again with
back-off: connection errors, time-outs, 408, 429 and 5xx. Everything else is final at once.
aiohttp, as it was the fastest well-kept client at 512 requests in flight (docs/adr/0004).
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import random
import re
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import aiohttp

from spct_plugin.engines.builtin import ServerConfig
from spct_plugin.errors import ConfigError, EngineError
from spct_plugin.failures import Failure

T = TypeVar("T")

RETRY_STATUS = frozenset({408, 429})
# Seconds before the first retry, doubled by each, half of it random; chosen by us: 1 + 2 + 4 + 8 +
# 16 s bridge a server's restart, the random half keeps hundreds of requests from returning at once.
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
# Seconds for which an address that failed is asked only when no other is left; chosen by us: one
# request in that time finds out whether it is back.
AVOID_S = 10.0
_TOO_LONG = re.compile(r"context[ _]length|max_model_len|maximum (?:input|context)|too long", re.I)


class _Connections:
    """What belongs to one event loop: the pool, the limit, and the load of each address."""

    def __init__(self, config: ServerConfig, headers: Mapping[str, str]) -> None:
        timeout = aiohttp.ClientTimeout(
            total=config.request_timeout_s, sock_connect=config.connect_timeout_s
        )
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=config.max_in_flight),
            timeout=timeout,
            headers=dict(headers),
        )
        self.slots = asyncio.Semaphore(config.max_in_flight)
        self.load = dict.fromkeys(config.url, 0)
        self.failed_at = dict.fromkeys(config.url, -math.inf)


class HTTPClient:
    """Asks one server, or several that answer alike.

    Args:
        config: Where and how.
        section: Of the configuration, for messages: "engine".

    Attributes:
        identity: The model and its revision.

    Raises:
        ConfigError: The key's environment variable is not set.
    """

    def __init__(self, config: ServerConfig, section: str) -> None:
        self.config = config
        self.identity = f"{config.model}@{config.revision}" if config.revision else config.model
        self.headers = {
            "Content-Type": "application/json",
            **_authorization(config.api_key_env, section),
        }
        self._section = section
        self._connections: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = (
            weakref.WeakKeyDictionary()
        )

    async def ask(self, path: str, content: Mapping[str, Any], read: Callable[[object], T]) -> T:
        """Post JSON and read the answer.

        Args:
            path: Behind the address, such as "/chat/completions".
            content: The request.
            read: From the answer's JSON to what is wanted; raises `EngineError` when it is no good.

        Raises:
            EngineError: No usable answer after the retries.
        """
        body = json.dumps(content).encode()
        connections = self._here()
        failed: set[str] = set()
        async with connections.slots:
            for attempt in range(self.config.retries + 1):
                url = _best_address(connections, failed)
                try:
                    return read(await self._post(connections, url, path, body))
                except EngineError as error:
                    if not error.retryable or attempt == self.config.retries:
                        raise
                    failed.add(url)
                    connections.failed_at[url] = time.monotonic()
                    # Another address that has not been asked may answer at once.
                    if len(failed) == len(connections.load):
                        await asyncio.sleep(_wait_s(attempt, error))
                        failed.clear()
        raise AssertionError("the last attempt returns or raises")

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        connections = self._connections.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            await connections.session.close()

    def _here(self) -> _Connections:
        loop = asyncio.get_running_loop()
        if loop not in self._connections:
            self._connections[loop] = _Connections(self.config, self.headers)
        return self._connections[loop]

    async def _post(self, connections: _Connections, url: str, path: str, body: bytes) -> object:
        """Send one try.

        Raises:
            EngineError: It failed; `retryable` says whether another try may do better.
        """
        connections.load[url] += 1
        try:
            async with connections.session.post(f"{url}{path}", data=body) as response:
                text = await response.text(errors="replace")
                if response.status != 200:
                    raise _refusal(url, response.status, text, response.headers)
                return json.loads(text)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise EngineError(f"{url}: {_reason(error, self._section)}", retryable=True) from error
        except ValueError as error:
            raise EngineError(f"{url} answered 200 without JSON", retryable=True) from error
        finally:
            connections.load[url] -= 1


def _best_address(connections: _Connections, failed: set[str]) -> str:
    """Choose the least loaded address that has not failed this request, nor anybody of late."""
    recently = time.monotonic() - AVOID_S
    return min(
        (url for url in connections.load if url not in failed),
        key=lambda url: (connections.failed_at[url] > recently, connections.load[url]),
    )


class _RetryAfterError(EngineError):
    """A refusal that names its own waiting time."""

    retry_after_s: float | None = None


def _refusal(url: str, status: int, text: str, headers: Mapping[str, str]) -> EngineError:
    too_long = status == 400 and _TOO_LONG.search(text)
    failure: Failure = "too_long" if too_long else "engine_error"
    error = _RetryAfterError(
        f"{url} answered {status}: {' '.join(text.split())[:200]}",
        failure=failure,
        status_code=status,
        retryable=status in RETRY_STATUS or status >= 500,
    )
    error.retry_after_s = _retry_after_s(headers.get("Retry-After"))
    return error


def _retry_after_s(value: str | None) -> float | None:
    """Read a Retry-After header, seconds or an HTTP date; None without a usable one."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _wait_s(attempt: int, error: EngineError) -> float:
    wait = FIRST_WAIT_S * 2**attempt
    named = error.retry_after_s if isinstance(error, _RetryAfterError) else None
    if named is not None:
        # Not all at once. A server that names more than a minute is asked early: time is short.
        return min(named, LONGEST_WAIT_S) + random.uniform(0, FIRST_WAIT_S)
    return min(random.uniform(wait / 2, wait), LONGEST_WAIT_S)


def _authorization(variable: str | None, section: str) -> dict[str, str]:
    if variable is None:
        return {}
    if not os.environ.get(variable):
        raise ConfigError(
            f"{section}.api_key_env: the environment variable {variable!r} is not set"
        )
    return {"Authorization": f"Bearer {os.environ[variable]}"}


def _reason(error: BaseException, section: str) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {section}.connect_timeout_s"
    if isinstance(error, TimeoutError):
        return f"no answer within {section}.request_timeout_s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({error.os_error.strerror or error.os_error})"
    return f"cannot connect or lost the connection ({error or type(error).__name__})"
