"""`spct judge` killed with -9 again and again: nothing is lost, nothing is paid for twice."""

import asyncio
import json
import random
import signal
import sys
from collections import Counter

import pytest
import yaml

from spct_plugin.testing import FakeServer, Reply

IN_FLIGHT = 8


def answer(body):
    """Judge by the length of the prompt, slowly enough that kills hit requests in flight."""
    score = len(body["messages"][0]["content"]) % 10 + 1
    return Reply([f"Scores: \\boxed{{{score}, 5}}"] * body["n"], delay_s=0.02)


def write_run(folder, url, rows):
    """Write tasks and a configuration with a store; give the command."""
    tasks = folder / "tasks.jsonl"
    tasks.write_text(
        "".join(
            json.dumps(
                {"id": str(i), "prompt": f"q {'x' * (i % 7)}", "completions": [f"a{i}", "b"]}
            )
            + "\n"
            for i in range(rows)
        )
    )
    config = {
        "engine": {"kind": "openai", "url": url, "model": "fake", "max_in_flight": IN_FLIGHT},
        "vote": {"k": 4},
        "store": {"path": str(folder / "store")},
    }
    (folder / "judge.yaml").write_text(yaml.safe_dump(config))
    out = str(folder / "out.jsonl")
    code = "from spct_plugin.cli import main; main()"
    return [sys.executable, "-c", code, "judge", str(tasks), "-o", out, "-c",
            str(folder / "judge.yaml")]  # fmt: skip


async def run_killing(command, seconds, rng):
    """Run the command, killing it after each of the given seconds; give the number of kills."""
    kills = 0
    for wait in seconds:
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        try:
            await asyncio.wait_for(process.wait(), wait + rng.uniform(0, 0.15))
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if await process.wait() == 0:
            return kills
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0
    return kills


async def check(folder, rows, kill_after):
    async with FakeServer(answer) as server:
        command = write_run(folder, server.url, rows)
        kills = await run_killing(command, kill_after, random.Random(0))
        paid = Counter((body["messages"][0]["content"], body["seed"]) for body in server.bodies)
    written = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert sorted(int(row["id"]) for row in written) == list(range(rows))
    assert all(row["k_used"] == 4 and not row["failures"] for row in written)
    assert len(paid) == rows * 2  # two orders a group, two choices each
    paid_again = sum(count - 1 for count in paid.values())
    # What is in flight when the kill comes, or was answered in the moment before and not yet kept.
    assert paid_again <= kills * 2 * IN_FLIGHT
    return kills, paid_again


async def test_killed_at_any_moment_and_run_again(tmp_path):
    kills, _ = await check(tmp_path, rows=400, kill_after=[0.9, 1.0, 1.1, 1.2])
    assert kills >= 2


@pytest.mark.slow
async def test_killed_forty_times(tmp_path):
    kills, _ = await check(tmp_path, rows=4000, kill_after=[1.0] * 40)
    assert kills >= 20
