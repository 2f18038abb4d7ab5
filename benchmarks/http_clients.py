"""Which HTTP client for the judge? POSTs of 1.5 kB answers, 512 in flight, one server process.

    pip install aiohttp httpx niquests
    python benchmarks/http_clients.py

Prints requests per second, median of several rounds in turn; the figures stand in docs/adr/0004.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection

IN_FLIGHT, REQUESTS, ROUNDS = 512, 4000, 5
TEXT = "Analysis: " + "lorem ipsum dolor " * 80 + "\nScores: \\boxed{8, 7}"
BODY = json.dumps({"messages": [{"role": "user", "content": TEXT}], "n": 1})


def serve(pipe: Connection) -> None:
    from spct_plugin.testing import FakeServer, Reply

    async def run() -> None:
        async with FakeServer(lambda body: Reply([TEXT] * body["n"])) as server:
            pipe.send(server.url)
            await asyncio.sleep(3600)

    asyncio.run(run())


async def flood(post: Callable[[], Awaitable[object]]) -> float:
    """Send all requests, at most IN_FLIGHT at once; give requests per second."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one() -> None:
        async with slots:
            await post()

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(REQUESTS)))
    return REQUESTS / (time.perf_counter() - start)


async def with_aiohttp(url: str) -> float:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def post() -> None:
            async with session.post(url, data=BODY) as response:
                json.loads(await response.text())

        return await flood(post)


async def with_httpx(url: str) -> float:
    import httpx

    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def post() -> None:
            (await client.post(url, content=BODY)).json()

        return await flood(post)


async def with_niquests(url: str) -> float:
    import niquests

    async with niquests.AsyncSession(pool_connections=1, pool_maxsize=IN_FLIGHT) as session:

        async def post() -> None:
            (await session.post(url, data=BODY)).json()

        return await flood(post)


def main() -> int:
    mine, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = f"{mine.recv()}/chat/completions"
    clients = {"aiohttp": with_aiohttp, "httpx": with_httpx, "niquests": with_niquests}
    rates: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(ROUNDS):
        for name, client in clients.items():
            rates[name].append(asyncio.run(client(url)))
    server.kill()
    for name, values in rates.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name:10} {middle:7.0f} requests/s  ({low:.0f} to {high:.0f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
