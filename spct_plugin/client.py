"""Asks a reward server (`spct serve`): a typed client.

    async with RewardClient(RemoteConfig(url="http://judge:8700")) as client:
        group = GroupRequest(prompt="Name a prime.", completions=["7", "8"])
        answer = await client.rewards([group])

What may pass is asked again under the same request id, so that the server judges it once:
connection errors, time-outs, 408, 429 and more than 500. What comes back is checked before it is
believed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import weakref
from collections.abc import Sequence
from typing import Any, Self

import aiohttp
from pydantic import ValidationError

from spct_plugin.engines.exchange import Answer, authorization, exchange
from spct_plugin.engines.refusals import (
    RETRY_STATUS,
    RetryAfterError,
    one_line,
    reason,
    retry_after_s,
    wait_s,
)
from spct_plugin.errors import ConfigError, EngineError
from spct_plugin.sections import RemoteConfig
from spct_plugin.server.wire import GroupRequest, RewardsRequest, RewardsResponse, new_request_id
from spct_plugin.types import is_mapping

log = logging.getLogger(__name__)

# Seconds before the first retry, doubled by each up to the longest, half of it random; chosen by
# us: a restart is noticed soon, and hundreds of groups do not return at once.
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
# Bytes of an answer. 256 MiB: chosen by us, four times 64 groups of 32 judgements with their texts
# (4,096 tokens of 4 characters, twice); what is longer is none, and would take the memory.
LONGEST_ANSWER = 256 * 2**20


class _Connections:
    """What belongs to one event loop."""

    def __init__(self, config: RemoteConfig, headers: dict[str, str]) -> None:
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=config.max_in_flight),
            timeout=aiohttp.ClientTimeout(
                total=config.request_timeout_s, sock_connect=config.connect_timeout_s
            ),
            headers=headers,
        )
        self.slots = asyncio.Semaphore(config.max_in_flight)


class RewardClient:
    """Asks one server.

    Args:
        config: Where and how.

    Raises:
        ConfigError: No address, or the token's environment variable is not set.
    """

    def __init__(self, config: RemoteConfig) -> None:
        if config.url is None:
            raise ConfigError("server.url: expected the server's address, found none")
        self.config = config
        self._is_waiting = False
        self._headers = {
            "Content-Type": "application/json",
            **authorization(config.token_env, "server.token_env"),
        }
        self._connections: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = (
            weakref.WeakKeyDictionary()
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        connections = self._connections.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            await connections.session.close()

    async def rewards(
        self,
        groups: Sequence[GroupRequest],
        *,
        request_id: str | None = None,
        deadline: float | None = None,
        judgements: bool = False,
        fresh: bool = False,
    ) -> RewardsResponse:
        """Have groups judged.

        Args:
            groups: At least one.
            request_id: To ask for the same answer again later; None = a new one.
            deadline: Event loop time by which the server is to answer with what it has.
            judgements: Get the judgements too.
            fresh: Past the server's store.

        Returns:
            One answer per group, in order, checked.

        Raises:
            EngineError: No usable answer, after all tries.
        """
        asked = RewardsRequest(
            groups=list(groups),
            request_id=request_id or new_request_id(),
            run=self.config.run,
            judgements=judgements,
            fresh=fresh,
        )
        loop = asyncio.get_running_loop()
        here = self._here()
        async with here.slots:
            give_up = loop.time() + self.config.patience_s
            attempt = 0
            while True:
                body = _body(asked, deadline)
                try:
                    answer = await self._post(here.session, "/v1/rewards", body, give_up)
                except EngineError as error:
                    wait = wait_s(attempt, error, FIRST_WAIT_S, LONGEST_WAIT_S)
                    if not error.retryable or loop.time() + wait > give_up:
                        raise
                    self._note(str(error))
                else:
                    self._note("")
                    return _checked(asked, answer)
                await asyncio.sleep(wait)
                attempt += 1

    def _note(self, problem: str) -> None:
        """Say once that nothing goes on, and once that it does again: a trainer would only wait."""
        if bool(problem) != self._is_waiting:
            self._is_waiting = bool(problem)
            patience = f"trying again, each group for {self.config.patience_s:g} s"
            log.warning("server: %s", f"{problem}; {patience}" if problem else "it answers again")

    async def sleep(self, level: int = 1) -> None:
        """Let the judge's vLLM servers free their GPUs; see `RewardModel.sleep`.

        Raises:
            EngineError: They did not, or the server refused.
        """
        await self._tell(f"/admin/sleep?level={level}")

    async def wake(self) -> None:
        """Undo `sleep`.

        Raises:
            EngineError: They did not wake, or the server refused.
        """
        await self._tell("/admin/wake")

    async def _tell(self, path: str) -> None:
        give_up = asyncio.get_running_loop().time() + self.config.patience_s
        await self._post(self._here().session, path, b"", give_up)

    def _here(self) -> _Connections:
        loop = asyncio.get_running_loop()
        if loop not in self._connections:
            self._connections[loop] = _Connections(self.config, self._headers)
        return self._connections[loop]

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: bytes, give_up: float
    ) -> str:
        """Send one try, which ends with the patience if not before.

        Raises:
            EngineError: It failed; `retryable` says whether another try may do better.
        """
        url = f"{self.config.url}{path}"
        try:
            async with asyncio.timeout_at(give_up):
                answer = await exchange(session, "POST", url, most=LONGEST_ANSWER, data=body)
        except TimeoutError as error:
            raise EngineError(f"{url}: no answer in time", retryable=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(f"{url}: {reason(error, 'server')}", retryable=True) from error
        if answer.status != 200:
            raise _refusal(url, answer, self.config.token_env)
        return answer.text


def _body(asked: RewardsRequest, deadline: float | None) -> bytes:
    """Write a try; what is left of the time goes with it."""
    if deadline is not None:
        left = max(0.001, deadline - asyncio.get_running_loop().time())
        asked = asked.model_copy(update={"deadline_s": left})
    return asked.model_dump_json(exclude_none=True).encode()


def _checked(asked: RewardsRequest, content: str) -> RewardsResponse:
    """Read an answer and believe only what can be one to this question.

    Raises:
        EngineError: It cannot; asked again it would be the same.
    """
    try:
        answer = RewardsResponse.model_validate_json(content)
    except ValidationError as error:
        said = "; ".join(str(details["msg"]) for details in error.errors()[:3])
        raise EngineError(f"the server's answer is none: {said:.300}") from None
    if answer.request_id != asked.request_id:
        raise EngineError(
            f"expected the answer to {asked.request_id!r}, found that to {answer.request_id!r}"
        )
    wanted = [(group.id, len(group.completions)) for group in asked.groups]
    found = [(group.id, len(group.means)) for group in answer.groups]
    if wanted != found:
        raise EngineError(f"expected ids and completions {wanted}, found {found}"[:300])
    if asked.judgements and any(group.judgements is None for group in answer.groups):
        raise EngineError("expected the judgements with the answer, found none")
    return answer


def _refusal(url: str, answer: Answer, token_env: str | None) -> EngineError:
    error = RetryAfterError(
        f"{url} answered {answer.status}: {_said(answer, token_env)}",
        failure="too_long" if answer.status == 413 else "engine_error",
        status_code=answer.status,
        # 500 is the server's own mistake, and would be again.
        retryable=answer.status in RETRY_STATUS or answer.status > 500,
    )
    error.retry_after_s = retry_after_s(answer.headers.get("Retry-After"))
    return error


def _said(answer: Answer, token_env: str | None) -> str:
    """Give what our server, or a proxy before it, said; of a token, what to do about it here."""
    if answer.status == 401 and token_env is None:
        return "it wants a token; name the environment variable that holds it in server.token_env"
    if answer.status == 401:
        return f"the token in {token_env!r} (server.token_env) is not the server's"
    try:
        said = json.loads(answer.text)
    except (ValueError, RecursionError):
        said = None
    detail: Any = said.get("detail") if is_mapping(said) else None
    return one_line(detail if isinstance(detail, str) else answer.text)
