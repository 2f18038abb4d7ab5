"""The one thread of a store: it writes and looks up what has gathered, many at a time.

Threads change places slowly beside a busy event loop, so one wake-up serves all who wait: the
writes that have gathered share a transaction, the look-ups a query.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spct_plugin.errors import StoreError
from spct_plugin.store import files
from spct_plugin.store.reader import COLUMNS, Reader, Table

log = logging.getLogger(__name__)

# Jobs done at once. 4096: chosen by us, some MB of text, far above what arrives meanwhile.
BATCH = 4096
# Seconds to gather; chosen by us: nothing next to a judgement, and a third more judgements/s
# through the store than without, as the threads change places less often.
GATHER_S = 0.005

Rows = dict[bytes, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Write:
    """Rows of each table; whoever waits gets None once they are committed."""

    votes: Sequence[tuple[bytes, bytes, str | None, int]] = ()
    scores: Sequence[tuple[bytes, float]] = ()
    group: str | None = None
    done: asyncio.Future[None] | None = None


@dataclass(frozen=True, slots=True)
class LookUp:
    """Keys; whoever waits gets the rows of those that are there."""

    table: Table
    keys: Sequence[bytes]
    done: asyncio.Future[Rows]


STOP = Write()
Told = tuple[asyncio.Future[Any] | None, Rows | StoreError | None]


class StoreThread:
    """Does jobs in order; starts with the first and ends with `close`.

    Args:
        directory: Where all files are.
        own: This process's own file, made by the first write.
    """

    def __init__(self, directory: Path, own: Path) -> None:
        self._directory, self._own = directory, own
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Write | LookUp] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, job: Write | LookUp) -> None:
        """Queue a job; returns at once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, args=(self._jobs,), name="spct-store", daemon=True
                )
                self._thread.start()
                atexit.register(self.close)
            self._jobs.put(job)

    def close(self) -> None:
        """Do what is queued and close the files; the next job opens them again."""
        atexit.unregister(self.close)
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._jobs.put(STOP)
                # Whoever comes meanwhile starts a thread and a queue of his own.
                self._jobs = queue.SimpleQueue()
        if thread is not None:
            thread.join()

    def _work(self, jobs: queue.SimpleQueue[Write | LookUp]) -> None:
        with contextlib.ExitStack() as opened:
            writer = opened.enter_context(contextlib.closing(_Writer(self._own)))
            reader = opened.enter_context(contextlib.closing(Reader(self._directory, self._own)))
            stop = False
            while not stop:
                batch = _next_batch(jobs)
                writes = [job for job in batch if isinstance(job, Write) and job is not STOP]
                look_ups = [job for job in batch if isinstance(job, LookUp)]
                # First what was written: a look-up of the same batch may already find it.
                _tell(writer.write(writes))
                _tell(_look_up(reader, look_ups))
                stop = any(job is STOP for job in batch)


class _Writer:
    """Writes the own file, which it makes when there is something to write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def write(self, writes: Sequence[Write]) -> list[Told]:
        if not writes:
            return []
        error = self._try(writes)
        if error is None:
            return [(write.done, None) for write in writes]
        log.warning("%s", error)
        # What one of them cannot write must not take the others with it.
        return [(write.done, self._try([write])) for write in writes]

    def _try(self, writes: Sequence[Write]) -> StoreError | None:
        try:
            self._connection = self._connection or files.create(self._path)
            _commit(self._connection, writes)
        except (sqlite3.Error, OSError, ValueError, TypeError, OverflowError) as problem:
            return StoreError(f"store: cannot write {str(self._path)!r}: {problem}")
        return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _next_batch(jobs: queue.SimpleQueue[Write | LookUp]) -> list[Write | LookUp]:
    """Wait for a job and take what else has gathered."""
    batch = [jobs.get()]
    time.sleep(GATHER_S)
    while len(batch) < BATCH:
        try:
            batch.append(jobs.get_nowait())
        except queue.Empty:
            break
    return batch


def _commit(connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
    votes = [row for write in writes for row in write.votes]
    scores = [row for write in writes for row in write.scores]
    now = time.time()
    groups = [(now, write.group) for write in writes if write.group is not None]
    # Commits at the end, rolls back whatever is raised.
    with connection:
        connection.execute("BEGIN")
        connection.executemany("INSERT OR IGNORE INTO votes VALUES (?, ?, ?, ?)", votes)
        connection.executemany("INSERT OR IGNORE INTO meta_scores VALUES (?, ?)", scores)
        connection.executemany("INSERT INTO groups VALUES (?, ?)", groups)


def _look_up(reader: Reader, look_ups: Sequence[LookUp]) -> list[Told]:
    told: list[Told] = []
    for table in COLUMNS:
        asked = [job for job in look_ups if job.table == table]
        if not asked:
            continue
        keys = list({key: None for job in asked for key in job.keys})
        try:
            rows = reader.read(table, keys)
        # What a shared file system raises must not end the thread that all wait for.
        except (StoreError, OSError) as problem:
            error = StoreError(f"store: cannot read: {problem}")
            error = problem if isinstance(problem, StoreError) else error
            told += [(job.done, error) for job in asked]
        else:
            told += [(job.done, {k: rows[k] for k in job.keys if k in rows}) for job in asked]
    return told


def _tell(told: Iterable[Told]) -> None:
    """Wake all who wait, one wake-up per event loop."""
    waiting: dict[asyncio.AbstractEventLoop, list[Told]] = {}
    for future, answer in told:
        if future is not None:
            waiting.setdefault(future.get_loop(), []).append((future, answer))
    for loop, answers in waiting.items():
        # A loop that was closed meanwhile has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, answers)


def _resolve(answers: Iterable[Told]) -> None:
    for future, answer in answers:
        if future is None or future.done():
            continue
        if isinstance(answer, StoreError):
            future.set_exception(answer)
        else:
            future.set_result(answer)
