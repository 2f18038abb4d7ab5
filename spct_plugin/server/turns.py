"""Whose group is judged next: runs take turns, so that one with many groups holds no other up."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator


class Turns:
    """Lets so many groups be judged at once; those of a run wait in the order they came.

    Args:
        at_once: How many.

    Attributes:
        judging: Groups being judged, those whose deadline passed before their turn included.
    """

    def __init__(self, at_once: int) -> None:
        self.judging = 0
        self._free = at_once
        # The first run is the next.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, run: str, deadline: float | None) -> AsyncGenerator[None]:
        """Wait for a group's turn, but not past its deadline: its votes may lie in the store.

        Args:
            run: Whose group it is.
            deadline: On the loop's clock; None = none.
        """
        has_turn = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._take(run)
                has_turn = True
        self.judging += 1
        try:
            yield
        finally:
            self.judging -= 1
            if has_turn:
                self._give_back()

    async def _take(self, run: str) -> None:
        if self._free:
            self._free -= 1
            return
        mine = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.cancelled():
                self._leave(run, mine)
            else:
                # The turn came together with the deadline.
                self._give_back()
            raise

    def _leave(self, run: str, mine: asyncio.Future[None]) -> None:
        queue = self._waiting.get(run, deque())
        if mine in queue:
            queue.remove(mine)
        if not queue:
            self._waiting.pop(run, None)

    def _give_back(self) -> None:
        while self._waiting:
            run, queue = next(iter(self._waiting.items()))
            del self._waiting[run]
            mine = queue.popleft()
            if queue:
                # Behind all others.
                self._waiting[run] = queue
            if not mine.cancelled():
                mine.set_result(None)
                return
        self._free += 1
