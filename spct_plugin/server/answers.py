"""Each request id is answered once: while it is worked on, afterwards, and after a restart.

    body = await answers.once(request_id, digest, work)

Finished answers are kept in memory, and with a store in its directory, one SQLite file per process;
`once` returns when they would survive a kill. Work goes on when who asked has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spct_plugin.errors import SPCTError, StoreError

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY, digest BLOB, body BLOB, created REAL);
CREATE INDEX IF NOT EXISTS ages ON answers (created);
"""
SUFFIX = ".answers"
# Bytes of answers in memory. 64 MiB: chosen by us, a few hundred with long judgements. Without a
# store, what falls out is judged again when it is asked for again.
IN_MEMORY = 64 * 2**20


class ConflictError(SPCTError):
    """A request id that was used for another question."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was asked, and the answer's bytes."""

    digest: bytes
    body: bytes


class Answers:
    """Answers by request id.

    Args:
        directory: Where they are kept; None = in memory only.
        keep_s: For how long.

    Raises:
        StoreError: The directory cannot be read.
    """

    def __init__(self, directory: Path | None, keep_s: float) -> None:
        self._directory = directory
        self._keep_s = keep_s
        self._running: dict[str, tuple[bytes, asyncio.Task[bytes]]] = {}
        self._recent: OrderedDict[str, tuple[float, _Answer]] = OrderedDict()
        self._bytes = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spct-answers")
        self._file = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}{SUFFIX}"
        self._connection: sqlite3.Connection | None = None
        self._earlier: dict[str, Path] = {}
        if directory is not None:
            self._index(directory)

    async def once(
        self,
        request_id: str,
        digest: bytes,
        work: Callable[[], Coroutine[Any, Any, bytes]],
        *,
        is_kept: Callable[[bytes], bool] = lambda _: True,
        on_disk: bool = True,
    ) -> bytes:
        """Give the answer to a request id, working it out unless that is done or being done.

        Args:
            request_id: Names the question.
            digest: Identifies the question.
            work: Works the answer out; what it raises is raised to all who wait, and not kept.
            is_kept: Whether an answer is worth keeping.
            on_disk: Whether it is worth a restart.

        Raises:
            ConflictError: The id was used for another question.
            StoreError: The answer cannot be kept or read.
        """
        running = self._running.get(request_id)
        if running is None:
            task = asyncio.create_task(
                self._find_or_work(request_id, digest, work, is_kept, on_disk)
            )
            running = self._running[request_id] = (digest, task)
            task.add_done_callback(lambda done: self._ended(request_id, done))
        _check_same(request_id, running[0], digest)
        # Who goes away must not take it from the others.
        return await asyncio.shield(running[1])

    def close(self) -> None:
        """Write what is queued and close the file."""
        self._thread.shutdown(wait=True)
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ended(self, request_id: str, task: asyncio.Task[bytes]) -> None:
        del self._running[request_id]
        # Whoever waited has seen it; asyncio must not complain when nobody did.
        if not task.cancelled():
            task.exception()

    async def _find_or_work(
        self,
        request_id: str,
        digest: bytes,
        work: Callable[[], Coroutine[Any, Any, bytes]],
        is_kept: Callable[[bytes], bool],
        on_disk: bool,
    ) -> bytes:
        _, found = self._recent.get(request_id, (0.0, None))
        loop = asyncio.get_running_loop()
        if found is None and (request_id in self._earlier or self._connection is not None):
            found = await loop.run_in_executor(self._thread, self._read, request_id)
        if found is not None:
            _check_same(request_id, found.digest, digest)
            return found.body
        answer = _Answer(digest, await work())
        if is_kept(answer.body):
            if on_disk and self._directory is not None:
                await loop.run_in_executor(self._thread, self._write, request_id, answer)
            self._remember(request_id, answer)
        return answer.body

    def _remember(self, request_id: str, answer: _Answer) -> None:
        now = time.monotonic()
        self._recent[request_id] = (now, answer)
        self._bytes += len(answer.body)
        while self._recent:
            since, oldest = next(iter(self._recent.values()))
            if self._bytes <= IN_MEMORY and now - since <= self._keep_s:
                break
            self._recent.popitem(last=False)
            self._bytes -= len(oldest.body)

    def _index(self, directory: Path) -> None:
        """Learn what earlier processes have answered; files of which nothing is left go."""
        oldest = time.time() - self._keep_s
        for path in sorted(directory.glob(f"*{SUFFIX}")):
            with _named(path), contextlib.closing(_open(path)) as connection:
                rows = connection.execute("SELECT id FROM answers WHERE created > ?", (oldest,))
                known = {name: path for (name,) in rows}
            self._earlier |= known
            if not known and path.stat().st_mtime < oldest:
                for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                    file.unlink(missing_ok=True)

    def _read(self, request_id: str) -> _Answer | None:
        path = self._earlier.get(request_id)
        if self._connection is not None:
            found = _select(self._connection, request_id)
            if found is not None or path is None:
                return found
        if path is None or not path.exists():
            return None
        with _named(path), contextlib.closing(_open(path)) as connection:
            return _select(connection, request_id)

    def _write(self, request_id: str, answer: _Answer) -> None:
        assert self._directory is not None
        path = self._directory / self._file
        now = time.time()
        row = (request_id, answer.digest, zlib.compress(answer.body, 1), now)
        with _named(path):
            if self._connection is None:
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
                self._connection = _open(path)
            with self._connection as connection:
                connection.execute("DELETE FROM answers WHERE created < ?", (now - self._keep_s,))
                connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", row)


def _select(connection: sqlite3.Connection, request_id: str) -> _Answer | None:
    row = connection.execute(
        "SELECT digest, body FROM answers WHERE id = ?", (request_id,)
    ).fetchone()
    return None if row is None else _Answer(row[0], zlib.decompress(row[1]))


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    # As in the store: survives a killed process, not a power cut.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.executescript(SCHEMA)
    return connection


@contextlib.contextmanager
def _named(path: Path) -> Generator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"store: cannot use {str(path)!r}: {error}") from None


def _check_same(request_id: str, known: bytes, digest: bytes) -> None:
    if known != digest:
        raise ConflictError(
            f"request_id {request_id!r} was used for another request; expected a new one"
        )
