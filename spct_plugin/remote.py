"""The voter of a reward model behind `server:`: a reward server judges each group."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from spct_plugin.client import RewardClient
from spct_plugin.errors import EngineError, RewardError
from spct_plugin.failures import Failure
from spct_plugin.sections import RemoteConfig
from spct_plugin.server.wire import GroupRequest
from spct_plugin.templates import encodable
from spct_plugin.types import Judgement, JudgeTask
from spct_plugin.voter import GroupVotes
from spct_plugin.voting import Tally

if TYPE_CHECKING:
    from spct_plugin.engines.pool import EndpointState

# Seconds that an answer may be late at the deadline; chosen by us: the server ends its judging by
# it, and what it has must still travel.
TRAVEL_S = 5.0


@dataclass(frozen=True)
class Seen:
    """What the server's last answer said of its judge: votes asked for, scale and version."""

    k: int
    scale: tuple[int, int]
    version: str


class RemoteVoter:
    """Has groups judged by a server: the voter of a reward model behind `server:`.

    Args:
        config: Where and how.
    """

    def __init__(self, config: RemoteConfig) -> None:
        self._client = RewardClient(config)
        self._seen: Seen | None = None
        self._fresh = False

    @property
    def version(self) -> str:
        """What judged last.

        Raises:
            RewardError: Nothing was judged yet; also by `scale` and `k`.
        """
        return self._latest().version

    @property
    def scale(self) -> tuple[int, int]:
        """Lowest and highest score of what judged last."""
        return self._latest().scale

    @property
    def k(self) -> int:
        """Votes that were asked for last."""
        return self._latest().k

    async def vote(self, task: JudgeTask, deadline: float | None) -> GroupVotes:
        """Have one group judged; when no answer comes, its votes are lost to infrastructure."""
        start = time.perf_counter()
        late = None if deadline is None else deadline + TRAVEL_S
        try:
            async with asyncio.timeout_at(late):
                answer = await self._client.rewards(
                    [_group(task)], deadline=deadline, judgements=True, fresh=self._fresh
                )
        except EngineError as error:
            return self._lost(task, start, error.failure, str(error))
        except TimeoutError:
            return self._lost(task, start, "deadline", "the server did not answer in time")
        [found] = answer.groups
        self._seen = Seen(found.k, found.scale, found.version)
        return found.group_votes()

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        await self._client.aclose()

    def endpoints(self) -> list[EndpointState]:
        """Return nothing: they are the server's."""
        return []

    async def sleep(self, level: int) -> None:
        """Have the server send its servers to sleep; needs the token."""
        await self._client.sleep(level)

    async def wake(self) -> None:
        """Undo `sleep`."""
        await self._client.wake()

    def past_store(self) -> RemoteVoter:
        """Give the same server, asked to judge past its store."""
        other = copy.copy(self)
        other._fresh = True
        return other

    def _latest(self) -> Seen:
        if self._seen is None:
            raise RewardError(
                f"server.url: {self._client.config.url} has not judged anything yet, so nothing is "
                "known of its scale and version; is it up? `spct judge` and `spct eval` need the "
                "judge's own configuration instead of `server:`"
            )
        return self._seen

    def _lost(self, task: JudgeTask, start: float, failure: Failure, detail: str) -> GroupVotes:
        """Make what a group without an answer has: as many lost votes as the others have votes."""
        n = len(task.completions)
        seen = self._seen or Seen(1, (0, 0), "")
        every = tuple(range(n))
        seconds = time.perf_counter() - start
        lost = tuple(
            Judgement(every, every, None, failure, detail=detail, seconds=seconds, vote=vote)
            for vote in range(seen.k)
        )
        nothing = Tally((None,) * n, (0,) * n, (None,) * n)
        digest = task.digest().hex()
        return GroupVotes(
            nothing, (), lost, digest, seen.k, seen.k, seen.scale, seconds, seen.version
        )


def _group(task: JudgeTask) -> GroupRequest:
    """Lay a task out; lone surrogates, which nothing can encode, are replaced as in prompts.

    Raises:
        EngineError: It is more than can be sent.
    """
    text = encodable(json.dumps(task.as_dict(), ensure_ascii=False))
    try:
        return GroupRequest.model_validate_json(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise EngineError(f"cannot be sent: {reason:.300}", failure="too_long") from None
