"""The SQLite files of a store's directory: made privately, read by everybody, named in errors."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
from collections.abc import Generator, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from spct_plugin.errors import StoreError

SCHEMA = """
CREATE TABLE IF NOT EXISTS votes (
    key BLOB PRIMARY KEY, text TEXT, finish_reason TEXT, tokens INTEGER
);
CREATE TABLE IF NOT EXISTS groups (created REAL, record TEXT);
CREATE TABLE IF NOT EXISTS meta_scores (key BLOB PRIMARY KEY, score REAL);
"""


def paths(directory: Path) -> list[Path]:
    """Give every process's file."""
    return sorted(directory.glob("*.sqlite"))


def create(path: Path) -> sqlite3.Connection:
    """Open this process's own file for writing, readable by nobody else."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    # A commit must survive a killed process, not a power cut: NORMAL leaves fsync to checkpoints.
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.executescript(SCHEMA)
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a file, another process's perhaps.

    One without tables is just being made: an empty one is given. One made before there were meta
    RMs gets a table for their scores in memory, so that all files look alike.

    Raises:
        StoreError: It is damaged, or is no longer there.
    """
    with named(path):
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not {"votes", "groups"} <= tables:
            connection.close()
            connection = sqlite3.connect(":memory:", check_same_thread=False)
            connection.executescript(SCHEMA)
        elif "meta_scores" not in tables:
            connection.execute("CREATE TEMP TABLE meta_scores (key BLOB PRIMARY KEY, score REAL)")
        connection.execute("SELECT key FROM votes LIMIT 1")
    return connection


@contextlib.contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection]:
    """Open a file and close it again; errors name it."""
    connection = open_for_reading(path)
    try:
        with named(path):
            yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def named(path: Path) -> Generator[None]:
    """Turn SQLite's errors into one that names the file and says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"store: {str(path)!r} cannot be read ({error}); move it out of the directory"
        ) from None


def read_groups(directory: Path) -> Iterator[dict[str, Any]]:
    """Give all groups that any process kept in a directory, by time, with their judgements' texts.

    Raises:
        StoreError: A file is damaged.
    """
    records: list[tuple[float, str]] = []
    texts: dict[str, str] = {}
    for path in paths(directory):
        with reading(path) as connection:
            records += connection.execute("SELECT created, record FROM groups").fetchall()
            for key, text in connection.execute("SELECT key, text FROM votes"):
                texts[key.hex()] = text.decode("utf-8", "surrogatepass")
    for created, text in sorted(records, key=itemgetter(0)):
        record = json.loads(text)
        for judgement in record["judgements"]:
            judgement["text"] = texts.get(judgement["key"], judgement.get("text", ""))
        yield record | {"created": created}


def run_secret(path: Path) -> bytes:
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
