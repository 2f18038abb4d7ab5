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
    """What was asked, the answer's bytes, and when it was given (seconds since 1970)."""

    digest: bytes
    body: bytes
    created: float


class Answers:
    """Answers by request id.

    Args:
        directory: Where they are kept; None = in memory only.
        keep_s: For how long.

    Raises:
        StoreError: The directory holds an answers' file that is none.
    """

    def __init__(self, directory: Path | None, keep_s: float) -> None:
        self._directory = directory
        self._keep_s = keep_s
        self._running: dict[str, tuple[bytes, asyncio.Task[bytes]]] = {}
        self._recent: OrderedDict[str, _Answer] = OrderedDict()
        self._bytes = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spct-answers")
        file = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}{SUFFIX}"
        self._path = (directory or Path()) / file
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
        if on_disk and request_id not in self._running and self._known(request_id) is None:
            await self._look_on_disk(request_id)
        # Only now: what was answered decides whose question is the right one, not who came first.
        found = self._known(request_id)
        if found is not None:
            _check_same(request_id, found.digest, digest)
            return found.body
        running = self._running.get(request_id)
        if running is None:
            task = asyncio.create_task(self._work(request_id, digest, work, is_kept, on_disk))
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

    async def _work(
        self,
        request_id: str,
        digest: bytes,
        work: Callable[[], Coroutine[Any, Any, bytes]],
        is_kept: Callable[[bytes], bool],
        on_disk: bool,
    ) -> bytes:
        answer = _Answer(digest, await work(), time.time())
        if is_kept(answer.body):
            if on_disk and self._directory is not None:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._thread, self._write, request_id, answer)
            self._remember(request_id, answer)
        return answer.body

    async def _look_on_disk(self, request_id: str) -> None:
        """Remember what is kept there, if anything is."""
        if request_id in self._earlier or self._connection is not None:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._thread, self._read, request_id)
            if found is not None:
                self._remember(request_id, found)

    def _known(self, request_id: str) -> _Answer | None:
        """Give what is in memory and not too old."""
        found = self._recent.get(request_id)
        return None if found is None or found.created <= self._oldest() else found

    def _oldest(self) -> float:
        return time.time() - self._keep_s

    def _remember(self, request_id: str, answer: _Answer) -> None:
        """Keep an answer in memory, and let go of others: too old ones, or the first."""
        self._forget(request_id)
        self._recent[request_id] = answer
        self._bytes += len(answer.body)
        oldest = self._oldest()
        while len(self._recent) > 1:
            name, first = next(iter(self._recent.items()))
            if self._bytes <= IN_MEMORY and first.created > oldest:
                break
            self._forget(name)

    def _forget(self, request_id: str) -> None:
        known = self._recent.pop(request_id, None)
        self._bytes -= 0 if known is None else len(known.body)

    def _index(self, directory: Path) -> None:
        """Learn what other processes have answered; files of which nothing is left go."""
        oldest = self._oldest()
        for path in sorted(directory.glob(f"*{SUFFIX}")):
            with _reading(path) as connection:
                if connection is None:
                    continue
                rows = connection.execute("SELECT id FROM answers WHERE created > ?", (oldest,))
                known = {name: path for (name,) in rows}
                self._earlier |= known
                if not known and _is_left(connection):
                    path.unlink(missing_ok=True)

    def _read(self, request_id: str) -> _Answer | None:
        if self._connection is not None:
            with _named(self._path):
                found = self._select(self._connection, request_id)
            if found is not None:
                return found
        path = self._earlier.get(request_id)
        if path is None:
            return None
        with _reading(path) as connection:
            return None if connection is None else self._select(connection, request_id)

    def _select(self, connection: sqlite3.Connection, request_id: str) -> _Answer | None:
        row = connection.execute(
            "SELECT digest, body, created FROM answers WHERE id = ? AND created > ?",
            (request_id, self._oldest()),
        ).fetchone()
        return None if row is None else _Answer(row[0], zlib.decompress(row[1]), row[2])

    def _write(self, request_id: str, answer: _Answer) -> None:
        row = (request_id, answer.digest, zlib.compress(answer.body, 1), answer.created)
        with _named(self._path, "give it room, and the right to be written"):
            if self._connection is None:
                self._connection = _create(self._path)
            with self._connection as connection:
                connection.execute("DELETE FROM answers WHERE created < ?", (self._oldest(),))
                connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", row)


def _create(path: Path) -> sqlite3.Connection:
    """Make this process's own file; it stays open, which shows others that it is in use."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, check_same_thread=False)
    # As in the store: survives a killed process, not a power cut.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.executescript(SCHEMA)
    return connection


@contextlib.contextmanager
def _reading(path: Path) -> Generator[sqlite3.Connection | None]:
    """Open another process's file; None = it is just being made, or has just been deleted.

    Raises:
        StoreError: It is damaged, or none of ours.
    """
    with _named(path):
        try:
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)
        except sqlite3.OperationalError:
            if path.exists():
                raise
            yield None
            return
        with contextlib.closing(connection):
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if tables and "answers" not in tables:
                raise sqlite3.DatabaseError(f"expected a table 'answers', found {sorted(tables)}")
            yield connection if tables else None


def _is_left(connection: sqlite3.Connection) -> bool:
    """Tell whether no other process has the file open: only then can it leave WAL mode.

    SQLite's own locks say so, on Linux and macOS; they end with their process, however it ends.
    """
    # A file system without shared memory knows no WAL mode, and such locks are not held.
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        return False
    try:
        connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.OperationalError:
        return False
    return True


@contextlib.contextmanager
def _named(path: Path, remedy: str = "move it out of the directory") -> Generator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, zlib.error) as error:
        raise StoreError(f"store: cannot use {str(path)!r}: {error}; {remedy}") from None


def _check_same(request_id: str, known: bytes, digest: bytes) -> None:
    if known != digest:
        raise ConflictError(
            f"request_id {request_id!r} was used for another request; expected a new one"
        )
