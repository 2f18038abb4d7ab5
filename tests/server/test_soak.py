"""Load for a long time: memory and descriptors of the server stay flat, every group is answered."""

import asyncio
import itertools
import os
import statistics
import time
from pathlib import Path

import pytest
from scripted_plugin import content_score
from serving import Process, judging, write_config

from spct_plugin import JudgeTask, RewardModel, SPCTConfig

# About 50 groups a second, so that the machine can do other things meanwhile.
CLIENTS, PAUSE_S = 16, 0.3


class Load:
    """Clients that ask until the time is over, and what the server needs for them.

    Attributes:
        answered: Groups so far.
        memory: MiB, 60 times in all.
        descriptors: Likewise.
    """

    def __init__(self, process, seconds):
        self.process, self.seconds = process, seconds
        self.answered, self.memory, self.descriptors = 0, [], []
        self._end = time.monotonic() + seconds
        self._numbers = itertools.count()

    async def run(self, model):
        asking = [self._ask(model) for _ in range(CLIENTS)]
        await asyncio.gather(self._watch(), self._read_log(), *asking)

    def _goes_on(self):
        return time.monotonic() < self._end

    async def _ask(self, model):
        while self._goes_on():
            number = next(self._numbers)
            task = JudgeTask(f"Prompt {number}.", [f"a{number}", f"b{number}"])
            [found] = await model.score([task])
            assert found.rewards == tuple(float(content_score(text)) for text in task.completions)
            self.answered += 1
            await asyncio.sleep(PAUSE_S)

    async def _watch(self):
        while self._goes_on():
            pid = self.process.pid
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            self.memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
            self.descriptors.append(len(os.listdir(f"/proc/{pid}/fd")))
            await asyncio.sleep(self.seconds / 60)

    async def _read_log(self):
        """Empty the pipe, or the server would stop when it is full."""
        os.set_blocking(self.process.stderr.fileno(), False)
        while self._goes_on():
            while self.process.stderr.read(2**16):
                pass
            await asyncio.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("seconds", [10, pytest.param(1800, marks=pytest.mark.slow)])
async def test_memory_and_descriptors_stay_flat_and_all_groups_are_answered(seconds, tmp_path):
    async with judging() as judge:
        # Kept answers are memory; they may go when no client asks again.
        serve = {"keep_answers_s": seconds / 10}
        path = write_config(tmp_path, judge, store={"path": str(tmp_path / "s")}, serve=serve)
        server = await asyncio.to_thread(Process, path)
        model = RewardModel(SPCTConfig.model_validate({"server": {"url": server.url}}))
        load = Load(server.process, seconds)
        try:
            await load.run(model)
        finally:
            server.close()
            await model.aclose()
    memory, descriptors = load.memory, load.descriptors
    # Shown with -s, and kept with the log of the long run.
    print(load.answered, [round(m) for m in memory[::6]], descriptors[::6])  # noqa: T201
    assert load.answered > 5 * seconds
    # The first third warms up: caches, connections, kept answers.
    early, late = statistics.median(memory[20:30]), statistics.median(memory[-10:])
    assert late < 1.1 * early + 5
    assert max(descriptors[-10:]) <= max(descriptors[20:30]) + 4
