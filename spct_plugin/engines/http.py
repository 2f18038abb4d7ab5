"""Asks servers with JSON over HTTP, and tries again where that may help.

Which of several servers is asked is `spct_plugin.engines.pool`'s business. A request that one
server fails is tried by all others at once; when all have failed it, again with back-off. What may
pass is tried again: connection errors, time-outs, 408, 429 and 5xx, answers that make no sense.
While requests are under way, the servers' health is looked after. One connection pool per event
loop, for the life of the client. aiohttp, as it was the fastest well-kept client at 512 requests in
flight (docs/adr/0004).
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import aiohttp

from spct_plugin.engines import watch
from spct_plugin.engines.builtin import ServerConfig
from spct_plugin.engines.exchange import authorization, exchange
from spct_plugin.engines.pool import Endpoint, Pool, Use
from spct_plugin.engines.refusals import (
    LOST,
    NOBODY_THERE,
    is_servers_fault,
    reason,
    refusal,
    wait_s,
)
from spct_plugin.errors import EngineError

T = TypeVar("T")

# Seconds before the first retry, doubled by each, half of it random; chosen by us: 1 + 2 + 4 + 8 +
# 16 + 32 s bridge a server's restart, and the random half keeps hundreds of requests from coming
# back at once.
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
# Bytes of UTF-8 per token for estimates. Chosen by us: English has about 4, Chinese about 3, so
# that what is to fit a context errs towards refusing in time.
BYTES_PER_TOKEN = 3


class _Connections:
    """What belongs to one event loop: its connections, its limit, and who looks after servers."""

    def __init__(self, config: ServerConfig, headers: Mapping[str, str]) -> None:
        self.session = aiohttp.ClientSession(
            # `slots` is the limit; health checks must not wait behind requests.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout_s),
            headers=dict(headers),
        )
        self.slots = asyncio.Semaphore(config.max_in_flight)
        self.under_way = 0
        self.watcher: asyncio.Task[None] | None = None


class HTTPClient:
    """Asks one server, or several that answer alike: the base of engines and meta RMs behind HTTP.

    Args:
        config: Where and how.
        section: Of the configuration, for messages: "engine".

    Attributes:
        config: Where and how.
        identity: The model and its revision.
        pool: The servers; add, remove and read them here.

    Raises:
        ConfigError: The key's environment variable is not set, or a file of addresses is no good.
    """

    def __init__(self, config: ServerConfig, section: str) -> None:
        self.config = config
        self.identity = f"{config.model}@{config.revision}" if config.revision else config.model
        self._headers = {
            "Content-Type": "application/json",
            **authorization(config.api_key_env, f"{section}.api_key_env"),
        }
        self._section = section
        self.pool = Pool(section)
        self._files = watch.AddressFiles(config, self.pool)
        self._connections: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = (
            weakref.WeakKeyDictionary()
        )

    async def ask(
        self,
        path: str,
        content: Mapping[str, Any],
        read: Callable[[object], T],
        *,
        group: bytes = b"",
        answer_tokens: int = 0,
    ) -> T:
        """Post JSON and read the answer.

        Args:
            path: Behind the address, such as "/chat/completions".
            content: The request.
            read: From the answer's JSON to what is wanted; raises `EngineError` when it is no good.
            group: Requests of one group go to one server where its load allows.
            answer_tokens: Most tokens of the answer, as an estimate of what it costs.

        Raises:
            EngineError: No usable answer after the retries.
        """
        body = json.dumps(content).encode()
        tokens = len(body) // BYTES_PER_TOKEN + answer_tokens
        here = self._here()

        async def send(use: Use) -> T:
            return await self._try(here, use, path, body, read)

        here.under_way += 1
        try:
            async with here.slots:
                for attempt in range(self.config.retries + 1):
                    use = self.pool.take(tokens, group) or await self._awake(tokens, group)
                    try:
                        return await self._try_everywhere(use, group, send)
                    except EngineError as error:
                        if not error.retryable or attempt == self.config.retries:
                            raise
                        await asyncio.sleep(wait_s(attempt, error, FIRST_WAIT_S, LONGEST_WAIT_S))
        finally:
            here.under_way -= 1
        raise AssertionError("the last attempt returns or raises")

    async def sleep(self, *urls: str, level: int = 1) -> None:
        """Let vLLM servers finish what they are at, then free their GPUs; `wake` undoes it.

        Requests wait meanwhile, or go to servers that are awake.

        Args:
            urls: Which servers; none = all.
            level: vLLM's: 1 keeps the weights in the host's memory; 2 drops them, and whoever wakes
                the server must load them again.

        Raises:
            EngineError: A server did not go to sleep, and is asked as before.
        """
        await self._tell(urls, watch.send_to_sleep, level)

    async def wake(self, *urls: str) -> None:
        """Wake servers that sleep: those named, or all.

        Raises:
            EngineError: A server did not wake.
        """
        await self._tell(urls, watch.wake)

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        here = self._connections.pop(asyncio.get_running_loop(), None)
        if here is None:
            return
        if here.watcher is not None:
            here.watcher.cancel()
            await asyncio.gather(here.watcher, return_exceptions=True)
        await here.session.close()

    def _here(self) -> _Connections:
        """Give the running loop's connections, with somebody looking after the servers."""
        loop = asyncio.get_running_loop()
        here = self._connections.get(loop)
        if here is None:
            here = self._connections[loop] = _Connections(self.config, self._headers)
        if here.watcher is None or here.watcher.done():
            here.watcher = loop.create_task(self._watch(here))
        return here

    async def _awake(self, tokens: int, group: bytes) -> Use:
        """Wait for a server that is awake.

        Raises:
            EngineError: None woke within the time of one try.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self.config.request_timeout_s):
                while (use := self.pool.take(tokens, group)) is None:
                    await asyncio.sleep(watch.LOOK_EVERY_S)
                return use
        raise EngineError(
            f"every server of {self._section}.url slept for {self._section}.request_timeout_s"
            if self.pool.endpoints
            else f"{self._section}.url holds no server"
        )

    async def _try_everywhere(
        self, use: Use | None, group: bytes, send: Callable[[Use], Awaitable[T]]
    ) -> T:
        """Try one server after the other, each once.

        Raises:
            EngineError: All failed; `retryable` when that may pass with any of them.
        """
        failed: set[Endpoint] = set()
        worst: EngineError | None = None
        while use is not None:
            try:
                return await send(use)
            except EngineError as error:
                if not is_servers_fault(error):
                    raise
                worst = error if worst is None or error.retryable else worst
            failed.add(use.endpoint)
            use = self.pool.take(use.tokens, group, failed)
        assert worst is not None
        raise worst

    async def _try(
        self,
        here: _Connections,
        use: Use,
        path: str,
        body: bytes,
        read: Callable[[object], T],
    ) -> T:
        """Send one try, and tell the pool what became of it.

        Raises:
            EngineError: It failed.
        """
        try:
            answer = read(await self._post(here, use, path, body))
        except EngineError as error:
            if is_servers_fault(error):
                gone = isinstance(error.__cause__, NOBODY_THERE)
                self.pool.failed(use, str(error), gone=gone)
            else:
                self.pool.answered(use)
            raise
        except BaseException:
            self.pool.cancelled(use)
            raise
        self.pool.answered(use)
        return answer

    async def _post(self, here: _Connections, use: Use, path: str, body: bytes) -> object:
        url = use.endpoint.url
        if here.session.closed:
            raise EngineError(f"{self._section} was closed while it was asked")
        try:
            async with asyncio.timeout(self.config.request_timeout_s) as use.limit:
                answer = await exchange(here.session, "POST", f"{url}{path}", data=body)
        except LOST as error:
            why = use.lost or reason(error, self._section)
            raise EngineError(f"{url}: {why}", retryable=True) from error
        if answer.status != 200:
            raise refusal(url, answer)
        try:
            return json.loads(answer.text)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"{url} answered 200 without JSON", retryable=True) from error

    async def _watch(self, here: _Connections) -> None:
        """Look after the servers for as long as requests are under way."""
        while here.under_way:
            if self._files.paths:
                await asyncio.to_thread(self._files.read_again)
            await asyncio.gather(
                *(watch.check(here.session, self.pool, e) for e in self.pool.watched)
            )
            await asyncio.sleep(watch.CHECK_EVERY_S)

    async def _tell(
        self,
        urls: Sequence[str],
        tell: Callable[..., Coroutine[Any, Any, None]],
        *arguments: object,
    ) -> None:
        """Tell several servers the same at once.

        Raises:
            EngineError: One did not obey, or is none of ours.
        """
        session, patience_s = self._here().session, self.config.request_timeout_s
        known = {endpoint.url: endpoint for endpoint in self.pool.endpoints}
        wanted = [self.config.address(url) for url in urls] or list(known)
        if unknown := set(wanted) - set(known):
            raise EngineError(f"expected some of {sorted(known)}, found {sorted(unknown)}")
        told = [tell(session, self.pool, known[url], *arguments, patience_s) for url in wanted]
        for result in await asyncio.gather(*told, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
