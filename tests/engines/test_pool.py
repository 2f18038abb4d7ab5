"""Several servers, as processes that are killed, frozen, restarted, put to sleep, and that lie."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from judging_helpers import numbered
from server_process import ServerProcess, start_all

from spct_plugin import ConfigError, EngineError, Judgement, RewardModel, SPCTConfig
from spct_plugin.engines import Request, Sampling, http, pool, watch
from spct_plugin.engines.builtin import OpenAIConfig
from spct_plugin.engines.openai import OpenAIEngine
from spct_plugin.engines.pool import Pool
from spct_plugin.meta_rm.builtin import ClassifyConfig
from spct_plugin.templates import load_meta_template

SAMPLING = Sampling(temperature=0.5, top_p=1.0, max_tokens=64)


@pytest.fixture(scope="module")
def processes():
    servers = [ServerProcess() for _ in range(3)]
    yield servers
    for server in servers:
        if server.alive():
            server.kill()


@pytest.fixture
def three(processes):
    """Give three good servers, started again where a test killed them."""
    start_all(processes)
    for server in processes:
        server.behave()
    return processes


@pytest.fixture
def no_back_off(monkeypatch):
    """Make every wait between rounds so long that a test which needs one fails."""
    monkeypatch.setattr(http, "FIRST_WAIT_S", 60.0)
    monkeypatch.setattr(http, "LONGEST_WAIT_S", 60.0)


@pytest.fixture
def quick(monkeypatch):
    """Keep the order of things and shrink their seconds."""
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(pool, "OPEN_S", 0.4)
    monkeypatch.setattr(watch, "CHECK_EVERY_S", 0.1)
    monkeypatch.setattr(watch, "CHECK_TIMEOUT_S", 0.3)
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.02)


@contextlib.asynccontextmanager
async def engine_for(*servers, **options):
    urls = tuple(server if isinstance(server, str) else server.url for server in servers)
    engine = OpenAIEngine(OpenAIConfig(url=urls, model="grm", **options))
    try:
        yield engine
    finally:
        await engine.aclose()


def request(task=b"", votes=(0,), prompt="judge this"):
    return Request(prompt, tuple(votes), SAMPLING, seed=7, task=task)


async def ask(engine, count=1, within_s=20, **what):
    """Ask at once so many times, and never wait for ever; all must be answered."""
    async with asyncio.timeout(within_s):
        answers = await asyncio.gather(*(engine.generate(request(**what)) for _ in range(count)))
    assert all("boxed" in choice.text for choices in answers for choice in choices)
    return answers


async def until(holds, within_s=60):
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.02)


def asked(server):
    return len(server.seen()["requests"])


def states(engine):
    return [state.state for state in engine.pool.states()]


@contextlib.asynccontextmanager
async def judging(*servers, k=4, **options):
    """Make a model whose judge are these servers; every group of four deserves 1, 2, 3, 4."""
    engine = {"kind": "openai", "url": [s.url for s in servers], "model": "grm"}
    vote = {"k": k, "deadline_s": options.pop("deadline_s", None)}
    breaker = {"infrastructure": 1, "judge": 1}
    template = {"name": "default"}
    sections = {"engine": {**engine, **options}, "vote": vote, "template": template}
    config = SPCTConfig.model_validate({**sections, "reward": {"breaker": breaker}})
    async with contextlib.aclosing(RewardModel(config)) as model:
        yield model


async def test_one_of_three_killed_under_load_loses_no_group(three, no_back_off):
    for server in three:
        server.behave(delay_s=0.1)
    async with (
        judging(*three, max_in_flight=96) as model,
        asyncio.timeout(30),
        asyncio.TaskGroup() as running,
    ):
        step = running.create_task(model.score([numbered(4) for _ in range(150)]))
        await until(lambda: len(three[0].seen()["requests"]) > 40)
        await until(lambda: three[0].seen()["at once"] > 10)
        three[0].kill()
    groups = step.result()
    assert [group.rewards for group in groups] == [(1, 2, 3, 4)] * 150
    assert [group.failures for group in groups] == [{}] * 150


async def test_a_server_restarted_on_its_port_is_found_again(three, quick):
    async with engine_for(*three) as engine:
        three[0].kill()
        await ask(engine, 30)
        assert states(engine) == ["open", "up", "up"]
        start_all(three)
        three[0].behave()
        async with asyncio.timeout(10):
            while states(engine)[0] != "up":
                await ask(engine, 3)
                await asyncio.sleep(0.05)
        await ask(engine, 30)
        assert asked(three[0]) > 5


async def test_a_server_that_never_answers_is_left_after_one_tries_time(three, quick):
    three[0].behave(fault="hang")
    async with engine_for(*three, request_timeout_s=0.5) as engine:
        start = time.monotonic()
        await ask(engine, 30)
        assert time.monotonic() - start < 3
        assert states(engine) == ["open", "up", "up"]
        assert engine.pool.states()[0].failures >= 3
        tried = asked(three[0])
        await ask(engine, 30)
        assert asked(three[0]) <= tried + 1


async def test_requests_on_a_frozen_process_go_elsewhere_long_before_their_time_is_up(three, quick):
    for server in three:
        server.behave(delay_s=0.3)
    async with engine_for(*three, request_timeout_s=600) as engine:
        step = asyncio.create_task(ask(engine, 30))
        await asyncio.sleep(0.15)
        os.kill(three[0].pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            await step
            assert time.monotonic() - start < 6
            assert states(engine) == ["open", "up", "up"]
        finally:
            os.kill(three[0].pid, signal.SIGCONT)


async def test_the_only_server_is_waited_for_however_ill_it_looks(three, quick):
    three[0].behave(fault="ill", delay_s=1.0)
    async with engine_for(three[0], retries=0) as engine:
        await ask(engine, 5)
        assert states(engine) == ["up"]
        assert asked(three[0]) == 5


async def test_a_slow_server_gets_less(three):
    three[0].behave(delay_s=0.4)
    for server in three[1:]:
        server.behave(delay_s=0.04)
    async with engine_for(*three, max_in_flight=12) as engine:
        await ask(engine, 200)
    counts = [asked(server) for server in three]
    assert sum(counts) == 200
    assert counts[0] * 4 < min(counts[1:])


WRONGS = [
    "error", "unknown model", "reset", "drop", "not json", "no protocol", "bad gzip", "deep",
    "truncate", "truncate chunks", "truncate unframed", "no choices", "abort",
]  # fmt: skip


@pytest.mark.parametrize("fault", WRONGS)
async def test_what_one_server_does_wrong_another_does_at_once(three, fault, no_back_off):
    three[0].behave(fault=fault)
    async with engine_for(*three) as engine:
        for _ in range(4):
            await ask(engine, 9)
        assert states(engine) == ["open", "up", "up"]
        # Three in a row are enough, those that were in flight beside them come on top.
        assert 3 <= asked(three[0]) <= 9
        assert sum(asked(server) for server in three[1:]) == 36


@pytest.mark.parametrize("fault", ["few", "many", "wild"])
async def test_a_server_that_lies_about_counts_gets_its_votes_counted_right(three, fault):
    three[0].behave(fault=fault)
    async with judging(three[0], k=8) as model:
        [group] = await model.score([numbered(2)], keep_judgements=True)
    assert (group.rewards, group.votes, group.failures) == ((1, 2), (8, 8), {})
    assert sorted(j.vote for j in group.judgements) == list(range(8))
    assert len({j.text for j in group.judgements}) == 8
    assert all(j.tokens >= 0 for j in group.judgements)


async def test_half_open_lets_one_request_try(three, quick):
    three[0].behave(fault="error", delay_s=0.05)
    async with engine_for(*three) as engine:
        await ask(engine, 12)
        assert states(engine)[0] == "open"
        await asyncio.sleep(0.5)
        assert states(engine)[0] == "half_open"
        before = asked(three[0])
        await ask(engine, 40)
        assert asked(three[0]) == before + 1
        assert states(engine)[0] == "open"
        three[0].behave()
        await asyncio.sleep(0.5)
        await ask(engine, 40)
        assert states(engine)[0] == "up"
        await ask(engine, 40)
        assert asked(three[0]) > 5


async def test_a_group_stays_with_one_server_and_groups_are_spread(three):
    for server in three:
        server.behave(delay_s=0.05)
    async with engine_for(*three) as engine:
        await asyncio.gather(
            *(
                engine.generate(request(b"%d" % group, prompt=f"group {group}"))
                for group in range(30)
                for _ in range(4)
            )
        )
        # A later wave of the same groups finds them where they were.
        await asyncio.gather(
            *(engine.generate(request(b"%d" % g, prompt=f"group {g}")) for g in range(30))
        )
    seen = [Counter(prompt for prompt, _ in server.seen()["requests"]) for server in three]
    assert [sum(counts.values()) for counts in seen] == [50, 50, 50]
    assert [set(counts.values()) for counts in seen] == [{5}] * 3


async def test_a_group_leaves_its_server_when_that_has_too_much_to_do(three):
    for server in three:
        server.behave(delay_s=0.1)
    async with engine_for(*three) as engine:
        await ask(engine, 60, task=b"one group")
    counts = [asked(server) for server in three]
    assert sum(counts) == 60
    assert max(counts) - min(counts) <= pool.HOME_LEAD + 1


async def test_servers_come_and_go_while_requests_run(three, quick):
    for server in three:
        server.behave(delay_s=0.2)
    async with engine_for(three[0]) as engine:
        first = asyncio.create_task(ask(engine, 6))
        await asyncio.sleep(0.05)
        for url in (three[1].url, three[2].url, three[1].url):
            engine.pool.add(url)
        await ask(engine, 12)
        assert asked(three[1]) == asked(three[2]) == 6
        second = asyncio.create_task(ask(engine, 9))
        await asyncio.sleep(0.05)
        engine.pool.remove(three[0].url)
        before = asked(three[0])
        await ask(engine, 6)
        await asyncio.gather(first, second)
        assert asked(three[0]) == before > 6
        assert [state.url for state in engine.pool.states()] == [three[1].url, three[2].url]


async def test_without_any_server_requests_wait_for_one(three, quick):
    async with engine_for(three[0], request_timeout_s=0.3) as engine:
        engine.pool.remove(three[0].url)
        with pytest.raises(EngineError, match=r"engine\.url holds no server"):
            await ask(engine)
        waiting = asyncio.create_task(ask(engine))
        await asyncio.sleep(0.1)
        engine.pool.add(three[1].url)
        await waiting


async def test_addresses_in_a_file_are_read_again(three, quick, tmp_path, caplog):
    file = tmp_path / "endpoints.txt"
    file.write_text(f"# judges\n{three[0].url}/  # the first\n\n")
    async with engine_for(f"file:{file}", three[2].url) as engine:
        assert [s.url for s in engine.pool.states()] == [three[0].url, three[2].url]
        for server in three:
            server.behave(delay_s=0.5)
        running = asyncio.create_task(ask(engine, 4))
        file.write_text(f"{three[1].url}\n")
        await until(lambda: [s.url for s in engine.pool.states()] == [three[2].url, three[1].url])
        file.write_text("localhost:8000\n")
        await until(lambda: "found 'localhost:8000'; going on" in caplog.text)
        await running
        await ask(engine, 4)
        assert asked(three[1]) == 2
        assert len([r for r in caplog.records if "going on" in r.message]) == 1


async def test_an_address_of_the_configuration_outlives_its_line_in_a_file(tmp_path):
    file = tmp_path / "endpoints.txt"
    file.write_text("http://a:1/v1/\nhttp://b:1/v1\n")
    async with engine_for("http://a:1/v1", f"file:{file}") as engine:
        file.write_text("http://b:1/v1\n")
        engine._files.read_again()
        assert {s.url for s in engine.pool.states()} == {"http://a:1/v1", "http://b:1/v1"}
        file.write_text("")
        engine._files.read_again()
        assert [s.url for s in engine.pool.states()] == ["http://a:1/v1"]


async def test_a_file_that_is_half_written_is_not_believed(tmp_path, caplog):
    file = tmp_path / "endpoints.txt"
    file.write_text("http://a:1234/v1\n")
    async with engine_for(f"file:{file}") as engine:
        file.write_text("http://a:1234/v1\nhttp://b:1")
        engine._files.read_again()
        assert [s.url for s in engine.pool.states()] == ["http://a:1234/v1"]
        assert "expected a newline at the end, found 'http://b:1'" in caplog.text
        file.write_text("http://b:1234/v1\n")
        engine._files.read_again()
        assert [s.url for s in engine.pool.states()] == ["http://b:1234/v1"]
    file.write_text("http://a:1234/v1")
    with pytest.raises(ConfigError, match=r"endpoints\.txt: expected a newline at the end"):
        OpenAIConfig(url=f"file:{file}", model="grm").build()


def test_a_file_of_addresses_that_is_not_there_is_named_at_the_start(tmp_path):
    config = OpenAIConfig(url=f"file:{tmp_path}/none.txt", model="grm")
    with pytest.raises(ConfigError, match=r"url: file:.*none\.txt: .*No such file"):
        config.build()


async def test_sleep_waits_for_answers_and_requests_wait_for_waking(three, quick):
    three[0].behave(delay_s=0.3, dev=True)
    async with engine_for(three[0]) as engine:
        running = asyncio.create_task(ask(engine, 10))
        await asyncio.sleep(0.1)
        await engine.sleep()
        assert running.done()
        assert three[0].seen()["sleeps"] == [["/sleep?level=1", 0]]
        assert states(engine) == ["asleep"]
        waiting = asyncio.create_task(ask(engine, 10))
        await asyncio.sleep(0.5)
        assert (waiting.done(), asked(three[0])) == (False, 10)
        await engine.wake()
        await waiting
        assert (states(engine), asked(three[0])) == (["up"], 20)


async def test_while_one_server_sleeps_the_others_are_asked(three, no_back_off):
    three[0].behave(dev=True)
    async with engine_for(*three) as engine:
        await engine.sleep(three[0].url + "/", level=2)
        assert three[0].seen()["sleeps"] == [["/sleep?level=2", 0]]
        await ask(engine, 20)
        assert [asked(server) for server in three] == [0, 10, 10]
        await engine.wake(three[0].url)
        await ask(engine, 30)
        assert asked(three[0]) == 10


async def test_a_server_that_somebody_else_puts_to_sleep_loses_nothing(three, quick, no_back_off):
    """What is in flight then hangs, in vLLM, until somebody wakes it."""
    for server in three[:2]:
        server.behave(dev=True, delay_s=0.2)
    async with engine_for(*three[:2], request_timeout_s=600) as engine:
        three[0]._call("/sleep", b"")
        await ask(engine, 20)
        assert states(engine) == ["asleep", "up"]
        three[0]._call("/wake_up", b"")
        running = asyncio.create_task(ask(engine, 1))
        await until(lambda: states(engine) == ["up", "up"])
        await running
        three[0].behave()
        await ask(engine, 10)
        assert asked(three[0]) == 5


async def test_a_server_that_cannot_sleep_says_what_it_needs_and_is_asked_on(three):
    async with engine_for(three[0]) as engine:
        with pytest.raises(EngineError, match="answered 404; start vLLM with --enable-sleep-mode"):
            await engine.sleep()
        await ask(engine, 3)
        with pytest.raises(EngineError, match=r"expected some of \['http.*found \['http://b/v1'\]"):
            await engine.sleep("http://b/v1")
    async with engine_for("http://127.0.0.1:9/v1") as engine:
        with pytest.raises(EngineError, match=r"POST http://127\.0\.0\.1:9/wake_up: "):
            await engine.wake()


async def test_a_server_that_does_not_fall_asleep_is_asked_on(three):
    three[0].behave(dev="broken")
    three[1].behave(dev="stuck")
    async with engine_for(*three[:2], request_timeout_s=0.5) as engine:
        with pytest.raises(EngineError, match="answered 500: out of memory"):
            await engine.sleep(three[0].url)
        for command, what in ((engine.sleep, "asleep"), (engine.wake, "awake")):
            with pytest.raises(EngineError, match=f"was not {what} after 0.5 s"):
                await command(three[1].url)
        await ask(engine, 10)
        assert states(engine) == ["up", "up"]
        assert asked(three[1]) == 5


async def test_a_busy_server_is_not_blamed_for_the_deadline(three):
    three[0].behave(delay_s=1.0)
    async with engine_for(three[0]) as engine:
        early = asyncio.create_task(ask(engine, 5))
        await asyncio.sleep(0.5)
        late = asyncio.create_task(ask(engine, 5))
        await early
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        [books] = engine.pool.states()
        assert (books.state, books.answers, books.failures) == ("up", 5, 0)
        assert (books.requests, books.tokens) == (0, 0)


async def hurry(engine, count, within_s=0.03):
    """Ask with so little time that nobody could answer."""
    for _ in range(count):
        with contextlib.suppress(TimeoutError):
            await ask(engine, within_s=within_s)


async def test_a_slow_server_is_not_blamed_for_one_callers_short_deadline(three):
    for server in three:
        server.behave(delay_s=0.3)
    async with engine_for(*three) as engine:
        # Nothing is known of them yet, then how long they take.
        for _ in range(2):
            await hurry(engine, 12)
            assert [(s.state, s.failures) for s in engine.pool.states()] == [("up", 0)] * 3
            await ask(engine, 9)
        assert sum(s.answers for s in engine.pool.states()) == 18


async def test_who_is_in_a_hurry_does_not_keep_a_mended_server_shut(three, quick):
    three[0].behave(fault="error", delay_s=0.1)
    for server in three[1:]:
        server.behave(delay_s=0.1)
    async with engine_for(*three) as engine:
        await ask(engine, 12)
        assert states(engine) == ["open", "up", "up"]
        three[0].behave(delay_s=0.1)
        await asyncio.sleep(0.5)
        failures = engine.pool.states()[0].failures
        await hurry(engine, 5)
        assert states(engine)[0] == "half_open"
        assert engine.pool.states()[0].failures == failures
        await ask(engine, 12)
        assert states(engine) == ["up"] * 3


async def test_a_server_that_stops_answering_is_blamed_for_the_deadline(three):
    for server in three[:2]:
        server.behave(delay_s=0.02)
    async with engine_for(*three[:2]) as engine:
        await ask(engine, 12)
        three[0].behave(fault="hang")
        for _ in range(4):
            with contextlib.suppress(TimeoutError):
                await ask(engine, 2, within_s=0.5)
        assert states(engine) == ["open", "up"]


async def test_the_deadline_means_fewer_votes_and_the_next_step_none(three, quick):
    """A server that hangs costs one step a share of its votes, not every step."""
    three[0].behave(fault="hang")
    tasks = [numbered(4, start=1 + i % 5) for i in range(20)]
    async with judging(*three[:2], k=8, deadline_s=1.5) as model:
        groups = await model.score(tasks)
        again = await model.score([numbered(4, start=6 + i % 2) for i in range(20)])
    late = sum(group.failures.get("deadline", 0) for group in groups)
    assert 0 < late < 160
    for task, group in zip(tasks, groups, strict=True):
        truth = tuple(float(text.split()[1]) for text in task.completions)
        voted = 8 - group.failures.get("deadline", 0)
        assert set(group.failures) <= {"deadline"}
        assert (group.k, group.k_used, group.votes) == (8, 8, (voted,) * 4)
        assert group.rewards == (truth if voted else (None,) * 4)
    assert [group.votes for group in again] == [(8,) * 4] * 20


async def test_cancelled_requests_leave_nothing_on_the_books(three):
    for server in three:
        server.behave(delay_s=30)
    async with engine_for(*three) as engine:
        running = asyncio.create_task(ask(engine, 12))
        await asyncio.sleep(0.2)
        load = engine.pool.states()[0]
        assert (load.requests, load.tokens > 4 * 64) == (4, True)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert [(s.requests, s.tokens) for s in engine.pool.states()] == [(0, 0)] * 3


async def test_closed_while_it_is_asked_it_says_so_at_once(three):
    for server in three:
        server.behave(delay_s=30)
    async with engine_for(*three) as engine:
        running = asyncio.create_task(ask(engine, 12))
        await asyncio.sleep(0.2)
        await engine.aclose()
        with pytest.raises(EngineError, match="engine was closed while it was asked"):
            await running


async def test_what_stands_on_the_books_can_be_read(three):
    three[0].behave(fault="error")
    async with engine_for(*three) as engine:
        await ask(engine, 30)
        first, *others = engine.pool.states()
        assert (first.url, first.state, first.answers) == (three[0].url, "open", 0)
        assert first.failures == asked(three[0])
        assert [(s.state, s.failures) for s in others] == [("up", 0)] * 2
        assert sum(s.answers for s in others) == 30


async def test_the_meta_rm_has_the_same_pool(three, no_back_off):
    config = ClassifyConfig(url=tuple(s.url for s in three), model="meta")
    meta_rm = config.build(load_meta_template("meta", {}))
    for server in three:
        server.behave(delay_s=0.05, dev=True)
    task = numbered(2)
    judgements = [Judgement((0, 1), (0, 1), (7, 3), text=f"j{i}", vote=i) for i in range(60)]
    scoring = asyncio.create_task(meta_rm.score(task, judgements))
    await asyncio.sleep(0.05)
    three[0].kill()
    assert await scoring == [0.5] * 60
    assert [state.state for state in meta_rm.pool.states()] == ["open", "up", "up"]
    await meta_rm.sleep(three[1].url)
    assert meta_rm.pool.states()[1].state == "asleep"
    await meta_rm.wake(three[1].url)
    await meta_rm.aclose()


SCRIPT = """
import asyncio, sys, time
from spct_plugin.engines import Request, Sampling
from spct_plugin.engines.builtin import OpenAIConfig
from spct_plugin.loop import run_sync

engine = OpenAIConfig(url=sys.argv[1:], model="grm").build()
request = Request("judge this", (0,), Sampling(0.5, 1.0, 64), seed=7)

async def many():
    await asyncio.gather(*(engine.generate(request) for _ in range(20)))

async def closed():
    await many()
    await engine.aclose()

asyncio.run(closed())
asyncio.run(closed())
run_sync(closed())
run_sync(many())
run_sync(engine.aclose())
print(time.time())
"""


async def test_it_closes_without_a_warning_and_keeps_no_process_alive(three):
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", SCRIPT, *(s.url for s in three)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    # A health check is due every 5 s; nobody waits for the next one.
    assert time.time() - float(done.stdout) < 3


async def test_health_is_looked_after_only_while_requests_run(three, quick):
    three[0].behave(delay_s=0.5)
    async with engine_for(three[0]) as engine:
        await ask(engine)
        assert three[0].seen()["health"] >= 3
        await asyncio.sleep(0.3)
        before = three[0].seen()["health"]
        await asyncio.sleep(0.4)
        assert three[0].seen()["health"] == before


async def test_the_least_tokens_and_not_the_fewest_requests():
    books = Pool("engine")
    for url in "ab":
        books.add(url)
    long = books.take(5000, b"")
    short = [books.take(100, b"") for _ in range(9)]
    assert {use.endpoint.url for use in short} == {"b"}
    books.answered(long)
    assert books.take(100, b"").endpoint.url == "a"


async def test_only_so_many_groups_are_remembered():
    books = Pool("engine")
    books.add("a")
    for group in range(pool.HOMES + 50):
        books.answered(books.take(1, b"%d" % group))
    assert len(books._homes) == pool.HOMES
