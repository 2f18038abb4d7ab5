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
import yaml
from server_process import CHAOS, ServerProcess, start_all
from serving import Process

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


def notes(servers):
    """Read what the servers noted: fault, digest of the question, whether of use, texts."""
    return [
        json.loads(line)
        for server in servers
        for line in server._log.read_text().splitlines()
    ]  # fmt: skip


def check_payments(servers, judged, lost_in_flight):
    """What a server answered whole and well was used; nothing was asked for again but what died."""
    lines = notes(servers)
    whole = Counter(asked for _, asked, usable, _ in lines if usable)
    again = sum(count - 1 for count in whole.values())
    assert again <= lost_in_flight
    written = {text for *_, texts in lines for text in texts}
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
    assert set(CHAOS) <= {fault for fault, *_ in notes(servers)}
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
    failures, _, _ = await run(servers, 1000, kill_every_s=None, retries=0)
    assert failures["engine_error"] > 0
    assert set(failures) <= {"no_scores", "wrong_count", "engine_error"}


QUICK = """
from spct_plugin.engines import http, pool, watch

http.FIRST_WAIT_S, pool.OPEN_S, watch.CHECK_EVERY_S = 0.02, 0.3, 0.3
"""


def write_server(folder, servers, port):
    """Write the configuration of a reward server in front of the judge's servers."""
    (folder / "quick.py").write_text(QUICK)
    own = {"serve": {"port": port, "at_once": IN_FLIGHT}, "store": {"path": str(folder / "store")}}
    parts = {"engine", "template", "vote"}
    judge = model_for(servers).config.model_dump(mode="json", include=parts)
    path = folder / "judge.yaml"
    path.write_text(yaml.safe_dump({**judge, **own, "plugins": ["quick.py"]}))
    return path


async def judge_and_kill(path, port, groups, kills):
    """Have groups judged by a reward server that is killed and started again meanwhile."""
    process = await asyncio.to_thread(Process, path)
    remote = {"url": f"http://127.0.0.1:{port}", "patience_s": 120, "max_in_flight": IN_FLIGHT}
    model = RewardModel(SPCTConfig.model_validate({"server": remote}))
    judged, left = [], kills
    try:
        async for group in model.stream(tasks(groups), window=1000, keep_judgements=True):
            judged.append(group)
            if left and len(judged) % (groups // (kills + 1)) == 0:
                left -= 1
                await asyncio.to_thread(process.kill)
                process = await asyncio.to_thread(Process, path)
    finally:
        await model.aclose()
        await asyncio.to_thread(process.close)
    assert left == 0
    return judged


@pytest.mark.parametrize(
    ("groups", "kills"), [(2500, 4), pytest.param(25_000, 20, marks=pytest.mark.slow)]
)
async def test_chaos_behind_a_reward_server_that_is_killed_too(
    servers, groups, kills, tmp_path, unused_tcp_port
):
    """`spct serve` between the trainer and the judge's servers: both sides die under load."""
    for seed, server in enumerate(servers):
        server.behave(chaos=seed)
    path = write_server(tmp_path, servers, unused_tcp_port)
    start = time.monotonic()
    killer = asyncio.create_task(kill_and_restart(servers, 2.0))
    try:
        async with asyncio.timeout(120 + groups / 20):
            judged = await judge_and_kill(path, unused_tcp_port, groups, kills)
    finally:
        killer.cancel()
        others = await killer
    failures = check_outcomes(judged, groups)
    assert set(CHAOS) <= {fault for fault, *_ in notes(servers)}
    again = check_payments(servers, judged, (others + kills) * IN_FLIGHT)
    print(  # noqa: T201 for the log of long runs
        f"{groups * N} completions in {time.monotonic() - start:.1f} s: {dict(failures)}, "
        f"{others} kills of judges, {kills} of the server, {again} judged again"
    )
    assert others >= 2
    assert set(failures) <= {"no_scores", "wrong_count", "engine_error"}
    assert failures["engine_error"] <= groups / 500


@pytest.mark.slow
async def test_chaos_over_a_hundred_thousand_completions(servers):
    failures, kills, _ = await run(servers, 25_000, kill_every_s=2.0)
    assert kills >= 10
    assert set(failures) <= {"no_scores", "wrong_count", "engine_error"}
