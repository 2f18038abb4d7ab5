"""What everything around the engine costs.

    python benchmarks/speed.py

Judgements per second with a scripted engine that answers at once (n = 2, 1.5 kB judgements, one
per request), without and with the store; over loopback HTTP with 512 requests in flight, the server
in a process of its own; and the memory of `stream()` over 100,000 completions. Medians of rounds.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from spct_plugin import JudgeTask, RewardModel, SPCTConfig
from spct_plugin.engines import Choice, Request

ROUNDS, GROUPS, STREAMED = 5, 10_000, 50_000
TEXT = (
    "Specific Criteria: Accuracy (Weight: 40%), Clarity (35%), Depth (Weight: 4).\nAnalysis: "
    + "lorem ipsum dolor " * 77
    + "\nScores: \\boxed{8, 7}"
)


class Instant:
    """An engine that costs nothing and keeps nothing."""

    identity = "instant"
    context = None

    async def generate(self, request: Request) -> list[Choice]:
        return [Choice(TEXT, "stop", 300) for _ in request.votes]

    def fits(self, prompt: str, max_tokens: int) -> bool:
        return True

    async def aclose(self) -> None:
        pass


def tasks(count: int) -> Iterator[JudgeTask]:
    return (JudgeTask(f"Name prime number {i}.", ["It is 7.", "It is 8."]) for i in range(count))


async def rate(config: dict[str, Any], count: int, engine: Instant | None = None) -> float:
    """Judge `count` groups of two, one vote each; give judgements per second of wall time."""
    settings = {"template": {"name": "default"}, "vote": {"k": 1}, **config}
    model = RewardModel(SPCTConfig.model_validate(settings), engine=engine)
    start = time.perf_counter()
    valid = 0
    async for group in model.stream(tasks(count), window=1024):
        valid += not group.failures
    seconds = time.perf_counter() - start
    await model.aclose()
    if valid != count:
        raise SystemExit(f"{count - valid} of {count} judgements failed")
    return count / seconds


def serve(pipe: Connection) -> None:
    from spct_plugin.testing import FakeServer, Reply

    async def run() -> None:
        async with FakeServer(lambda body: Reply([TEXT] * body["n"]), keep_bodies=False) as server:
            pipe.send(server.url)
            await asyncio.sleep(3600)

    asyncio.run(run())


def http_rates() -> list[float]:
    mine, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    engine = {"kind": "openai", "url": mine.recv(), "model": "fake", "max_in_flight": 512}
    rates = [asyncio.run(rate({"engine": engine}, GROUPS // 2)) for _ in range(ROUNDS)]
    server.kill()
    return rates


def stored_rates() -> list[float]:
    rates: list[float] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            rates.append(asyncio.run(rate({"store": {"path": folder}}, GROUPS, Instant())))
    return rates


def streamed_megabytes() -> float:
    """Stream in a fresh process and give its peak resident memory."""
    code = f"import speed, asyncio; asyncio.run(speed.rate({{}}, {STREAMED}, speed.Instant()))"
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=here)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def show(what: str, rates: list[float], goal: int) -> None:
    low, middle, high = min(rates), statistics.median(rates), max(rates)
    print(f"{what:44} {middle:7.0f}/s  ({low:.0f} to {high:.0f})  goal {goal}")


def main() -> int:
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    plain = [asyncio.run(rate({}, GROUPS, Instant())) for _ in range(ROUNDS)]
    show("scripted engine, trace off", plain, 5000)
    show("scripted engine, trace on", stored_rates(), 5000)
    show("loopback HTTP, 512 in flight", http_rates(), 1500)
    print(f"{'stream(), 100,000 completions':44} {streamed_megabytes():7.0f} MB peak  goal 500")
    return 0


if __name__ == "__main__":
    sys.exit(main())
