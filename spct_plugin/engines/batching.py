"""Work for a model in this process: what arrives together is done together, in one thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

# Seconds to gather requests that belong together; chosen by us, nothing next to one generation.
GATHER_S = 0.005

R = TypeVar("R")


@dataclass(slots=True)
class Waiting(Generic[R]):
    """Something to do, and where its result goes."""

    done: concurrent.futures.Future[R] = field(
        default_factory=concurrent.futures.Future[R], kw_only=True
    )


W = TypeVar("W", bound=Waiting[Any])


class Batcher(Generic[W]):
    """Lines up what is waiting in batches, and does one batch after the other.

    Args:
        name: Of the thread.
        plan: Sorts what is waiting and cuts it into batches; must not fail.
        work: From a batch to one result for each; what it raises goes to all of the batch.
    """

    def __init__(
        self,
        name: str,
        plan: Callable[[list[W]], Iterable[list[W]]],
        work: Callable[[list[W]], Sequence[Any]],
    ) -> None:
        self._plan = plan
        self._work = work
        self._thread = concurrent.futures.ThreadPoolExecutor(1, name)
        self._queue: queue.SimpleQueue[W] = queue.SimpleQueue()

    async def ask(self, entry: W) -> Any:
        """Wait for an entry's result; who no longer waits costs nothing."""
        self._queue.put(entry)
        self._thread.submit(self._line_up)
        return await asyncio.wrap_future(entry.done)

    def _line_up(self) -> None:
        if self._queue.empty():
            return
        time.sleep(GATHER_S)
        waiting: list[W] = []
        while not self._queue.empty():
            waiting.append(self._queue.get())
        for batch in self._plan(waiting):
            done = self._thread.submit(self._work_wanted, batch)
            done.add_done_callback(functools.partial(_deliver_failure, batch))

    def _work_wanted(self, batch: Sequence[W]) -> None:
        """Do what somebody still waits for, and hand out the results."""
        wanted = [entry for entry in batch if entry.done.set_running_or_notify_cancel()]
        if wanted:
            for entry, result in zip(wanted, self._work(wanted), strict=True):
                entry.done.set_result(result)


def _deliver_failure(
    batch: Sequence[Waiting[Any]], finished: concurrent.futures.Future[None]
) -> None:
    """Hand a batch's exception to all who wait for it, so that nobody waits for ever."""
    error = finished.exception()
    for entry in batch:
        if error is not None and not entry.done.done():
            entry.done.set_exception(error)
