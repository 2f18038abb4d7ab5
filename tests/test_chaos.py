"""Chaos: servers that drop, delay, truncate, lie, reset, hang and fail, and are killed meanwhile.

Every completion gets exactly one outcome of a known type; none is invented, lost, or late for ever,
and nothing is judged twice but what was in flight when its server was killed or given up.
"""

import asyncio
import contextlib
import json
import time
from collections import Counter

import pytest
from server_process import CHAOS, ServerProcess, start_all

from spct_plugin import JudgeTask, RewardModel, SPCTConfig
from spct_plugin.engines import http, pool, watch
from spct_plugin.failures import FAILURES

N, K, IN_FLIGHT = 4, 2, 64


@pytest.fixture
def servers(tmp_path):
    """Start three servers, each noting in a file what it answered whole."""
    started = [ServerProcess(tmp_path / f"answers{i}.jsonl") for i in range(3)]
    start_all(started)
    yield started
    for server in started:
        if server.alive():
            server.kill()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Keep the order of things and shrink their seconds."""
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(pool, "OPEN_S", 0.3)
    monkeypatch.setattr(watch, "CHECK_EVERY_S", 0.3)


def model_for(servers, **options):
    engine = {
        "kind": "openai", "url": [server.url for server in servers], "model": "grm",
        "max_in_flight": IN_FLIGHT, "request_timeout_s": 2, **options,
    }  # fmt: skip
    config = {"engine": engine, "template": {"name": "default"}, "vote": {"k": K}}
    return RewardModel(SPCTConfig.model_validate(config))


def tasks(groups):
    """Give groups of four, each with its own prompt; the completions say what they deserve."""
    for i in range(groups):
        scores = [1 + (i // 10**j + j) % 10 for j in range(N)]
        yield JudgeTask(f"Count to {i}.", [f"say {score}" for score in scores])


def deserved(task):
    return tuple(int(text.split()[1]) for text in task.completions)


async def kill_and_restart(servers, every_s):
    """Kill one server after the other with -9, each back on its port a moment later."""
    kills = 0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(every_s)
            server = servers[kills % len(servers)]
            server.kill()
            kills += 1
            await asyncio.sleep(every_s / 4)
            await asyncio.to_thread(start_all, [server])
            server.behave(chaos=100 + kills)
    return kills


async def judge_in_chaos(servers, groups, kill_every_s=None, **options):
    """Judge so many groups; give them, the kills, and what the pool counted."""
    for seed, server in enumerate(servers):
        server.behave(chaos=seed)
    killer = asyncio.create_task(kill_and_restart(servers, kill_every_s)) if kill_every_s else None
    judged = []
    async with contextlib.aclosing(model_for(servers, **options)) as model:
        # A fifth of what two busy cores do; nothing may be waited for for ever.
        async with asyncio.timeout(60 + groups / 20):
            stream = model.stream(tasks(groups), window=1000, keep_judgements=True)
            judged = [group async for group in stream]
        states = model.endpoints()
    kills = 0
    if killer is not None:
        killer.cancel()
        kills = await killer
    assert [(state.requests, state.tokens) for state in states] == [(0, 0)] * 3
    return judged, kills, states


def check_outcomes(judged, groups):
    """Every vote is accounted for once, by the scores its completions deserve or by a reason."""
    assert len(judged) == groups
    failures = Counter()
    texts = Counter()
    for task, group in zip(tasks(groups), judged, strict=True):
        truth = deserved(task)
        assert [j.vote for j in group.judgements] == list(range(K))
        for judgement in group.judgements:
            assert (judgement.scores is None) == (judgement.failure in FAILURES)
            assert judgement.scores in (None, truth)
            texts[judgement.text.partition("\n")[0]] += bool(judgement.text)
        valid = sum(j.scores is not None for j in group.judgements)
        assert valid + sum(group.failures.values()) == K == group.k_used
        assert group.votes == (valid,) * N
        assert group.rewards == (truth if valid else (None,) * N)
        failures.update(group.failures)
    # No answer was used for two judgements.
    assert set(texts.values()) <= {0, 1}
    return failures


def check_payments(servers, judged, lost_in_flight):
    """What a server answered whole and well was used; nothing was asked for again but what died."""
    lines = [
        json.loads(line)
        for server in servers
        for line in server._log.read_text().splitlines()
    ]  # fmt: skip
    whole = Counter(key for key, usable, _ in lines if usable)
    again = sum(count - 1 for count in whole.values())
    assert again <= lost_in_flight
    written = {text for _, _, texts in lines for text in texts}
    used = {j.text for group in judged for j in group.judgements if j.text}
    assert used <= written
    return again


async def run(servers, groups, kill_every_s, **options):
    start = time.monotonic()
    judged, kills, states = await judge_in_chaos(servers, groups, kill_every_s, **options)
    failures = check_outcomes(judged, groups)
    failed = sum(state.failures for state in states)
    again = check_payments(servers, judged, kills * IN_FLIGHT)
    print(  # noqa: T201 for the log of long runs
        f"{groups * N} completions in {time.monotonic() - start:.1f} s: {dict(failures)}, "
        f"{failed} tries failed, {kills} kills, {again} judged again"
    )
    return failures, kills, states


async def test_chaos_over_ten_thousand_completions(servers):
    failures, kills, states = await run(servers, 2500, kill_every_s=1.0)
    assert kills >= 2
    assert sum(state.failures for state in states) > 2500 * 2 * CHAOS["error"]
    # What a server does wrong is mended elsewhere; what the judge writes wrong is what it is.
    assert set(failures) <= {"no_scores", "wrong_count", "engine_error"}
    assert failures["engine_error"] <= 5
    assert 50 < failures["no_scores"] < 250
    assert 50 < failures["wrong_count"] < 250


async def test_without_retries_what_fails_is_named_and_never_a_number(servers):
    failures, _, _ = await run(servers, 500, kill_every_s=None, retries=0)
    assert failures["engine_error"] > 0
    assert set(failures) <= {"no_scores", "wrong_count", "engine_error"}


@pytest.mark.slow
async def test_chaos_over_a_hundred_thousand_completions(servers):
    failures, kills, _ = await run(servers, 25_000, kill_every_s=2.0)
    assert kills >= 10
    assert set(failures) <= {"no_scores", "wrong_count", "engine_error"}
