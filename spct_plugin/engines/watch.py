"""Looks after servers: health checks, sleep and wake, and addresses that stand in a file.

vLLM, SGLang and most others answer GET /health; a server without that page is well when it answers
at all. A vLLM in development mode also says whether it sleeps: it then answers no request, ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from pathlib import Path

import aiohttp

from spct_plugin.engines.builtin import FROM_FILE, ServerConfig
from spct_plugin.engines.exchange import Answer, exchange
from spct_plugin.engines.pool import Endpoint, Pool
from spct_plugin.engines.refusals import LOST, one_line, refusal
from spct_plugin.errors import ConfigError, EngineError
from spct_plugin.types import is_mapping

log = logging.getLogger(__name__)

# Seconds between health checks, and for the answer to one. Chosen by us: with three that must fail
# in a row, a server that no longer answers is given up after half a minute at most, and one that is
# busy for some seconds is not.
CHECK_EVERY_S = 5.0
CHECK_TIMEOUT_S = 5.0
# Seconds between looks whether a server has finished or woken. Chosen by us: waking takes longer.
LOOK_EVERY_S = 0.2


async def check(session: aiohttp.ClientSession, pool: Pool, endpoint: Endpoint) -> None:
    """Ask a server how it is, and tell the pool."""
    since = time.monotonic()
    try:
        answer = await _get(session, endpoint, "/health")
    except (*LOST, EngineError) as error:
        reason = f"no answer to GET /health ({one_line(str(error)) or type(error).__name__})"
        pool.missed(endpoint, since, reason)
        return
    if answer.status >= 500:
        pool.missed(endpoint, since, f"GET /health answered {answer.status}")
        return
    pool.healthy(endpoint, since, await _says_it_sleeps(session, endpoint))


async def send_to_sleep(
    session: aiohttp.ClientSession, pool: Pool, endpoint: Endpoint, level: int, patience_s: float
) -> None:
    """Send nothing new to a server, wait until it has answered, and let it sleep.

    Raises:
        EngineError: It does not, and is asked as before.
    """
    asleep = False
    pool.rest(endpoint)
    try:
        async with asyncio.timeout(patience_s):
            while endpoint.uses:
                await asyncio.sleep(LOOK_EVERY_S)
            await _command(session, endpoint, f"/sleep?level={level}")
        asleep = True
    except TimeoutError:
        raise EngineError(f"{endpoint.url} was not asleep after {patience_s:g} s") from None
    finally:
        pool.told(endpoint, asleep=asleep)


async def wake(
    session: aiohttp.ClientSession, pool: Pool, endpoint: Endpoint, patience_s: float
) -> None:
    """Wake a server and ask it again.

    Raises:
        EngineError: It does not wake.
    """
    try:
        async with asyncio.timeout(patience_s):
            await _command(session, endpoint, "/wake_up")
    except TimeoutError:
        raise EngineError(f"{endpoint.url} was not awake after {patience_s:g} s") from None
    pool.told(endpoint, asleep=False)


class AddressFiles:
    """Keeps a pool equal to what stands in files, one address per line, # begins a comment.

    Args:
        config: Names the files, beside addresses that stand for themselves.
        pool: The servers.

    Attributes:
        paths: The files.

    Raises:
        ConfigError: A file cannot be read, or holds what is no address.
    """

    def __init__(self, config: ServerConfig, pool: Pool) -> None:
        self._config = config
        self._pool = pool
        self.paths = [Path(url[len(FROM_FILE) :]) for url in config.url if _is_file(url)]
        self._fixed = [url for url in config.url if not _is_file(url)]
        self._listed = self._read()
        self._problem = ""
        for url in (*self._listed, *self._fixed):
            pool.add(url)

    def read_again(self) -> None:
        """Add and remove what has changed; a file that is no good changes nothing."""
        try:
            listed = self._read()
        except ConfigError as error:
            if str(error) != self._problem:
                log.warning("%s; going on with the servers known", error)
            self._problem = str(error)
            return
        self._problem = ""
        for url in listed - self._listed:
            self._pool.add(url)
        for url in (self._listed - listed).difference(self._fixed):
            self._pool.remove(url)
        self._listed = listed

    def _read(self) -> set[str]:
        urls: set[str] = set()
        for path in self.paths:
            try:
                lines = _whole_lines(path.read_text(encoding="utf-8"))
                texts = [line.partition("#")[0].strip() for line in lines]
                urls.update(self._config.address(text) for text in texts if text)
            except (OSError, ValueError) as error:
                raise ConfigError(f"url: {FROM_FILE}{path}: {error}") from None
        return urls


def _whole_lines(text: str) -> list[str]:
    """Split a file that somebody may be writing.

    Raises:
        ValueError: Its last line may be half of one.
    """
    lines = text.splitlines()
    if lines and not text.endswith("\n"):
        raise ValueError(
            f"expected a newline at the end, found {lines[-1]!r:.60}; end it with one, as what is "
            "half written is not read"
        )
    return lines


def _is_file(url: str) -> bool:
    return url.startswith(FROM_FILE)


async def _says_it_sleeps(session: aiohttp.ClientSession, endpoint: Endpoint) -> bool | None:
    with suppress(*LOST, EngineError, ValueError, RecursionError):
        answer = await _get(session, endpoint, "/is_sleeping")
        said: object = json.loads(answer.text) if answer.status == 200 else None
        found = said.get("is_sleeping") if is_mapping(said) else None
        return found if isinstance(found, bool) else None
    return None


async def _get(session: aiohttp.ClientSession, endpoint: Endpoint, path: str) -> Answer:
    timeout = aiohttp.ClientTimeout(total=CHECK_TIMEOUT_S)
    return await exchange(session, "GET", f"{_root(endpoint)}{path}", timeout=timeout)


async def _command(session: aiohttp.ClientSession, endpoint: Endpoint, path: str) -> None:
    """Post a command of vLLM's development mode.

    Raises:
        EngineError: It was not obeyed.
    """
    url = f"{_root(endpoint)}{path}"
    try:
        answer = await exchange(session, "POST", url)
    except TimeoutError:
        raise
    except LOST as error:
        raise EngineError(f"POST {url}: {one_line(str(error)) or type(error).__name__}") from error
    if answer.status == 404:
        raise EngineError(
            f"POST {url} answered 404; start vLLM with --enable-sleep-mode and "
            "VLLM_SERVER_DEV_MODE=1 in its environment",
            status_code=404,
        )
    if answer.status != 200:
        raise refusal(f"POST {url}", answer)


def _root(endpoint: Endpoint) -> str:
    return endpoint.url.removesuffix("/v1")
