"""Runs take turns; whoever leaves takes no turn along."""

import asyncio
from random import Random

import pytest
from serving import call, group, until

from spct_plugin.server.turns import Turns


class Floor:
    """Groups that take turns and hold them until a test lets them go; `seen` is their order."""

    def __init__(self, at_once):
        self.turns = Turns(at_once)
        self.seen = []
        self._ends = []

    def come(self, *names, deadline=None):
        return [asyncio.create_task(self._one(name, deadline)) for name in names]

    async def _one(self, name, deadline):
        async with self.turns.turn(name[0], deadline):
            self.seen.append(name)
            end = asyncio.Event()
            self._ends.append(end)
            await end.wait()

    async def finish_all(self):
        await settle()
        while self._ends:
            self._ends.pop(0).set()
            await settle()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def assert_free(turns, at_once):
    """All turns can be had at once, and not one more."""
    floor = Floor(at_once)
    floor.turns = turns
    names = [f"z{i}" for i in range(at_once + 1)]
    tasks = floor.come(*names)
    await settle()
    assert floor.seen == names[:at_once]
    await floor.finish_all()
    await asyncio.gather(*tasks)


async def test_runs_take_turns_and_the_groups_of_a_run_keep_their_order():
    floor = Floor(1)
    floor.come("a0", "a1", "a2", "a3")
    await settle()
    floor.come("b0", "c0", "b1")
    await floor.finish_all()
    assert floor.seen == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]
    await assert_free(floor.turns, 1)


async def test_no_more_than_so_many_at_once():
    floor = Floor(3)
    floor.come(*(f"a{i}" for i in range(5)), "b0")
    await settle()
    assert (floor.seen, floor.turns.judging) == (["a0", "a1", "a2"], 3)
    await floor.finish_all()
    assert floor.seen == ["a0", "a1", "a2", "a3", "b0", "a4"]
    assert floor.turns.judging == 0


async def test_a_group_whose_deadline_passes_goes_on_without_a_turn():
    floor = Floor(1)
    floor.come("a0")
    await settle()
    floor.come("b0", deadline=asyncio.get_running_loop().time() + 0.01)
    await until(lambda: floor.seen == ["a0", "b0"])
    assert floor.turns.judging == 2
    await floor.finish_all()
    await assert_free(floor.turns, 1)


@pytest.mark.parametrize("given", [False, True])
async def test_who_leaves_while_it_waits_takes_no_turn_along(given):
    floor = Floor(1)
    floor.come("a0")
    await settle()
    leaving, _ = floor.come("b0", "c0")
    await settle()
    if given:
        # The turn is b0's, which has not noticed it yet.
        floor._ends.pop(0).set()
        await asyncio.sleep(0)
    leaving.cancel()
    await settle()
    assert "b" not in floor.turns._waiting
    await floor.finish_all()
    assert floor.seen == ["a0", "c0"]
    await assert_free(floor.turns, 1)
    assert floor.turns._waiting == {}


async def test_whatever_comes_and_goes_no_turn_is_lost():
    for seed in range(200):
        random = Random(seed)
        floor = Floor(2)
        tasks = []
        for i in range(30):
            deadline = asyncio.get_running_loop().time() if random.random() < 0.2 else None
            tasks += floor.come(f"{random.choice('abc')}{i}", deadline=deadline)
            for _ in range(random.randrange(3)):
                await asyncio.sleep(0)
            if random.random() < 0.4:
                random.choice(tasks).cancel()
            if floor._ends and random.random() < 0.5:
                floor._ends.pop(0).set()
        await floor.finish_all()
        assert all(task.done() for task in tasks), seed
        await assert_free(floor.turns, 2)
        assert (floor.turns.judging, floor.turns._waiting) == (0, {}), seed


async def test_a_run_with_few_groups_does_not_wait_for_one_with_many(serve, judge):
    server = await serve(serve={"at_once": 1})
    judge.may_answer.clear()
    url = f"{server.url}/v1/rewards"
    many = {"groups": [group(f"many {i}") for i in range(20)], "run": "sweep"}
    sweep = asyncio.create_task(call(url, many))
    await until(lambda: judge.asked)
    trainer = asyncio.create_task(call(url, {"groups": [group("few")], "run": "trainer"}))
    await until(lambda: server.desk.unfinished == 21)
    judge.may_answer.set()
    assert [(await one)[0] for one in (trainer, sweep)] == [200, 200]
    assert ("few",) in list(judge.asked)[:3]
    assert len(judge.asked) == 21
