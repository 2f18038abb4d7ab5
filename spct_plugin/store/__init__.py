"""Votes, meta scores and groups on disk: a restart pays for nothing finished, runs can be read.

A store is a directory that all processes of a run share. Every process writes a SQLite file of its
own (WAL, mode 0600), by a thread, never on the event loop; reading takes all files together.
A vote is finished when its transaction is committed: `keep` returns only then, so a process killed
with -9 has lost at most the requests that were in flight. Nothing kept is held in memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from spct_plugin.engines import Choice
from spct_plugin.errors import StoreError
from spct_plugin.store.files import read_groups, run_secret
from spct_plugin.store.reader import Table
from spct_plugin.store.thread import LookUp, Rows, StoreThread, Write

__all__ = ["Store", "read_groups"]


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
            self.secret = run_secret(directory / "secret")
        except OSError as error:
            raise StoreError(f"store.path: cannot use {str(directory)!r}: {error}") from None
        name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.sqlite"
        self._thread = StoreThread(directory, own=directory / name)

    async def find(self, keys: Mapping[int, bytes]) -> dict[int, Choice]:
        """Look up finished votes.

        Args:
            keys: Vote index to key.

        Returns:
            Vote index to choice: at least those that some process had finished before this store's
            first use, or this process since.

        Raises:
            StoreError: A file is damaged.
        """
        rows = await self._look_up("votes", keys.values())
        choices = {
            key: Choice(text.decode("utf-8", "surrogatepass"), finish_reason, tokens)
            for key, (text, finish_reason, tokens) in rows.items()
        }
        return {vote: choices[key] for vote, key in keys.items() if key in choices}

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
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._thread.put(Write(votes=rows, done=done))
        await done

    async def find_scores(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """Look up the meta RM's scores by key, as far as they have reached the disk."""
        rows = await self._look_up("meta_scores", keys)
        return {key: score for key, (score,) in rows.items()}

    def keep_scores(self, scores: Mapping[bytes, float]) -> None:
        """Write the meta RM's scores, without waiting for the disk: a lost one is soon computed."""
        self._thread.put(Write(scores=tuple(scores.items())))

    def keep_group(self, record: Mapping[str, Any]) -> None:
        """Write what a group got, without waiting for the disk."""
        self._thread.put(Write(group=json.dumps(record, default=str)))

    def close(self) -> None:
        """Write what is queued and close the files; the next use opens them again."""
        self._thread.close()

    async def _look_up(self, table: Table, keys: Collection[bytes]) -> Rows:
        done: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self._thread.put(LookUp(table, tuple(keys), done))
        return await done
