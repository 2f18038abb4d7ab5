"""Votes, meta scores and groups on disk: a restart pays for nothing finished, runs can be read.

A store is a directory that all processes of a run share. Every process writes a SQLite file of its
own (WAL, mode 0600), by one thread, never on the event loop; reading takes all files together.
A vote is finished when its transaction is committed: `keep` returns only then, so a process killed
with -9 has lost at most the requests that were in flight.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import logging
import os
import queue
import secrets
import socket
import sqlite3
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from spct_plugin.engines import Choice
from spct_plugin.errors import StoreError

SCHEMA = """
CREATE TABLE IF NOT EXISTS votes (
    key BLOB PRIMARY KEY, text TEXT, finish_reason TEXT, tokens INTEGER
);
CREATE TABLE IF NOT EXISTS groups (created REAL, record TEXT);
CREATE TABLE IF NOT EXISTS meta_scores (key BLOB PRIMARY KEY, score REAL);
"""
HAS_SCORES = "SELECT 1 FROM sqlite_master WHERE name = 'meta_scores'"
log = logging.getLogger(__name__)

# Rows in one transaction. 4096: chosen by us, some MB of text, far above what arrives meanwhile.
BATCH = 4096
# Seconds to gather writes for one transaction; chosen by us: nothing next to a judgement, and a
# third more judgements/s through the store than without, as the threads change places less often.
GATHER_S = 0.005


@dataclass(frozen=True, slots=True)
class _Write:
    """Rows for the writer thread, and whom to tell when they are committed."""

    votes: tuple[tuple[bytes, bytes, str | None, int], ...] = ()
    scores: tuple[tuple[bytes, float], ...] = ()
    group: str | None = None
    loop: asyncio.AbstractEventLoop | None = None
    done: asyncio.Future[None] | None = None
    stop: bool = False


class Store:
    """Finished votes by key, and the groups they were voted for.

    Args:
        directory: Made when it is not there. Nothing is opened before the first use.

    Attributes:
        secret: 32 random bytes that stay the same for every run in this directory, so that a
            restart renders the same prompts.

    Raises:
        StoreError: The directory cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.secret = _run_secret(directory / "secret")
        except OSError as error:
            raise StoreError(f"store.path: cannot use {str(directory)!r}: {error}") from None
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Write] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spct-store-reader")
        self._connections: dict[Path, sqlite3.Connection] = {}
        self._where: dict[bytes, Path] | None = None
        self._scores: dict[bytes, float] = {}
        self._indexing: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, asyncio.Future[dict[bytes, Path]]
        ] = weakref.WeakKeyDictionary()
        self._file = directory / f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.sqlite"

    async def find(self, keys: Mapping[int, bytes]) -> dict[int, Choice]:
        """Look up finished votes.

        Args:
            keys: Vote index to key.

        Returns:
            Vote index to choice, for those that some process has finished: before this store's
            first use, or in this process since.
        """
        where = await self._known()
        known = {vote: key for vote, key in keys.items() if key in where}
        if not known:
            return {}
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, self._read, known)

    async def keep(self, choices: Mapping[bytes, Choice]) -> None:
        """Write finished votes; returns when they would survive a kill.

        Raises:
            StoreError: They cannot be written.
        """
        if not choices:
            return
        rows = tuple(
            (key, c.text.encode("utf-8", "surrogatepass"), c.finish_reason, c.tokens)
            for key, c in choices.items()
        )
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._put(_Write(votes=rows, loop=loop, done=done))
        await done
        if self._where is not None:
            self._where.update(dict.fromkeys(choices, self._file))

    async def find_scores(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """Look up the meta RM's scores by key: those kept before the first use or here since."""
        await self._known()
        return {key: self._scores[key] for key in keys if key in self._scores}

    def keep_scores(self, scores: Mapping[bytes, float]) -> None:
        """Write the meta RM's scores, without waiting for the disk: a lost one is soon computed."""
        self._put(_Write(scores=tuple(scores.items())))
        self._scores.update(scores)

    def keep_group(self, record: Mapping[str, Any]) -> None:
        """Write what a group got, without waiting for the disk."""
        self._put(_Write(group=json.dumps(record, default=str)))

    def close(self) -> None:
        """Write what is queued and close the files."""
        atexit.unregister(self.close)
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                self._queue.put(_Write(stop=True))
                # Whoever writes again meanwhile starts a writer and a queue of his own.
                self._queue = queue.SimpleQueue()
        if writer is not None:
            writer.join()
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._indexing.clear()
        self._where = None

    def _put(self, write: _Write) -> None:
        with self._lock:
            if self._writer is None:
                self._writer = threading.Thread(
                    target=self._write_forever,
                    args=(self._queue,),
                    name="spct-store-writer",
                    daemon=True,
                )
                self._writer.start()
                atexit.register(self.close)
            self._queue.put(write)

    def _write_forever(self, writes: queue.SimpleQueue[_Write]) -> None:
        connection: sqlite3.Connection | None = None
        stop = False
        while not stop:
            batch = _next_batch(writes)
            error: StoreError | None = None
            try:
                connection = connection or _create(self._file)
                _commit(connection, batch)
            except (sqlite3.Error, OSError, ValueError, TypeError, OverflowError) as problem:
                error = StoreError(f"store: cannot write {str(self._file)!r}: {problem}")
                log.warning("%s", error)
            _tell(batch, error)
            stop = any(write.stop for write in batch)
        if connection is not None:
            connection.close()

    async def _known(self) -> dict[bytes, Path]:
        """Tell which file holds which finished vote; the first use reads the directory."""
        if self._where is None:
            # Set here and not by the reader: who asked first goes on first, so that the groups of
            # a file are finished in its order.
            where = await self._indexed()
            self._where = where if self._where is None else self._where
        return self._where

    async def _indexed(self) -> dict[bytes, Path]:
        """Index once, however many wait for it; again when it failed."""
        loop = asyncio.get_running_loop()
        indexing = self._indexing.get(loop)
        if indexing is None or (indexing.done() and indexing.exception() is not None):
            indexing = self._indexing[loop] = loop.run_in_executor(self._reader, self._index)
        # Who gives up waiting must not take it away from the others.
        return await asyncio.shield(indexing)

    def _index(self) -> dict[bytes, Path]:
        """Learn which file holds which finished vote, and read the meta RM's scores."""
        where: dict[bytes, Path] = {}
        for path in _files(self.directory):
            with _reading(path) as connection:
                where.update((key, path) for (key,) in connection.execute("SELECT key FROM votes"))
                # Stores made before there were meta RMs have no such table.
                if connection.execute(HAS_SCORES).fetchone():
                    self._scores.update(connection.execute("SELECT key, score FROM meta_scores"))
        return where

    def _read(self, keys: Mapping[int, bytes]) -> dict[int, Choice]:
        found: dict[int, Choice] = {}
        for vote, key in keys.items():
            path = (self._where or {})[key]
            if path not in self._connections:
                self._connections[path] = _open(path)
            with _named(path):
                row = self._connections[path].execute(
                    "SELECT text, finish_reason, tokens FROM votes WHERE key = ?", (key,)
                )
                text, finish_reason, tokens = row.fetchone()
            found[vote] = Choice(text.decode("utf-8", "surrogatepass"), finish_reason, tokens)
        return found


def _next_batch(writes: queue.SimpleQueue[_Write]) -> list[_Write]:
    """Wait for a write and take what else has gathered: they share one transaction."""
    batch = [writes.get()]
    time.sleep(GATHER_S)
    while len(batch) < BATCH:
        try:
            batch.append(writes.get_nowait())
        except queue.Empty:
            break
    return batch


def read_groups(directory: Path) -> Iterator[dict[str, Any]]:
    """Give all groups that any process kept in a directory, by time, with their judgements' texts.

    Raises:
        StoreError: A file is damaged.
    """
    records: list[tuple[float, str]] = []
    texts: dict[str, str] = {}
    for path in _files(directory):
        with _reading(path) as connection:
            records += connection.execute("SELECT created, record FROM groups").fetchall()
            for key, text in connection.execute("SELECT key, text FROM votes"):
                texts[key.hex()] = text.decode("utf-8", "surrogatepass")
    for created, text in sorted(records, key=itemgetter(0)):
        record = json.loads(text)
        for judgement in record["judgements"]:
            judgement["text"] = texts.get(judgement["key"], judgement.get("text", ""))
        yield record | {"created": created}


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.sqlite"))


def _create(path: Path) -> sqlite3.Connection:
    """Open this process's own file for writing, readable by nobody else."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    # A commit must survive a killed process, not a power cut: NORMAL leaves fsync to checkpoints.
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.executescript(SCHEMA)
    return connection


def _commit(connection: sqlite3.Connection, batch: list[_Write]) -> None:
    votes = [row for write in batch for row in write.votes]
    scores = [row for write in batch for row in write.scores]
    now = time.time()
    groups = [(now, write.group) for write in batch if write.group is not None]
    connection.execute("BEGIN")
    try:
        connection.executemany("INSERT OR IGNORE INTO votes VALUES (?, ?, ?, ?)", votes)
        connection.executemany("INSERT OR IGNORE INTO meta_scores VALUES (?, ?)", scores)
        connection.executemany("INSERT INTO groups VALUES (?, ?)", groups)
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _tell(batch: list[_Write], error: StoreError | None) -> None:
    """Wake all who wait for this batch, one wake-up per event loop."""
    waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for write in batch:
        if write.loop is not None and write.done is not None:
            waiting.setdefault(write.loop, []).append(write.done)
    for loop, futures in waiting.items():
        # A loop that was closed meanwhile has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, futures, error)


def _resolve(futures: list[asyncio.Future[None]], error: StoreError | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


@contextlib.contextmanager
def _named(path: Path) -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"store: {str(path)!r} cannot be read ({error}); move it out of the directory"
        ) from None


def _open(path: Path) -> sqlite3.Connection:
    """Open another process's file; one that has no tables yet is being made: give an empty one."""
    with _named(path):
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables < 2:
            connection.close()
            connection = sqlite3.connect(":memory:", check_same_thread=False)
            connection.executescript(SCHEMA)
        connection.execute("SELECT key FROM votes LIMIT 1")
    return connection


@contextlib.contextmanager
def _reading(path: Path) -> Generator[sqlite3.Connection]:
    connection = _open(path)
    try:
        with _named(path):
            yield connection
    finally:
        connection.close()


def _run_secret(path: Path) -> bytes:
    """Read the directory's secret, or make it; two processes at once agree on one."""
    if not path.exists():
        draft = path.with_name(f"{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    secret = path.read_bytes()
    if len(secret) != 32:
        raise OSError(f"{path.name} is damaged: expected 32 bytes, found {len(secret)}")
    return secret
