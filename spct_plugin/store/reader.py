"""Looking keys up in all files of a store's directory."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from spct_plugin.errors import StoreError
from spct_plugin.store.files import named, open_for_reading, paths, reading

Table = Literal["votes", "meta_scores"]
COLUMNS: dict[Table, str] = {"votes": "text, finish_reason, tokens", "meta_scores": "score"}

# Other files that stay open, three descriptors each; further ones are opened for every look-up.
# 100: chosen by us, below a third of the usual limit of 1,024 descriptors.
MAX_OPEN = 100
# Keys in one query. 1000: chosen by us, far below SQLite's limit of 32,766.
KEYS = 1000


class Reader:
    """Reads the files that other processes had written at the first look-up, and an own one.

    Args:
        directory: Where the files are.
        own: This process's file, which grows.
    """

    def __init__(self, directory: Path, own: Path) -> None:
        self._directory, self._own = directory, own
        self._others: list[Path] | None = None
        self._open: dict[Path, sqlite3.Connection] = {}

    def read(self, table: Table, keys: Sequence[bytes]) -> dict[bytes, tuple[Any, ...]]:
        """Give the rows of these keys; the first file that has one wins.

        Args:
            table: Which table, of those in `COLUMNS`.
            keys: Any number of them.

        Raises:
            StoreError: A file is damaged.
        """
        found: dict[bytes, tuple[Any, ...]] = {}
        for path in self._paths():
            with self._opened(path) as connection:
                for start in range(0, len(keys), KEYS):
                    some = keys[start : start + KEYS]
                    for key, *row in connection.execute(_query(table, len(some)), some):
                        found.setdefault(key, tuple(row))
        return found

    def close(self) -> None:
        """Close the files."""
        for connection in self._open.values():
            connection.close()

    def _paths(self) -> Iterator[Path]:
        if self._others is None:
            self._others = [path for path in paths(self._directory) if path != self._own]
        yield from self._others
        if self._own in self._open or self._own.exists():
            yield self._own

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Generator[sqlite3.Connection]:
        try:
            if path not in self._open and (path == self._own or len(self._open) < MAX_OPEN):
                self._open[path] = open_for_reading(path)
            if path in self._open:
                with named(path):
                    yield self._open[path]
            else:
                with reading(path) as connection:
                    yield connection
        except StoreError:
            # It may be moved out of the directory, as the error says.
            self._others = None
            raise


def _query(table: Table, count: int) -> str:
    marks = ",".join("?" * count)
    return f"SELECT key, {COLUMNS[table]} FROM {table} WHERE key IN ({marks})"
