"""Every number of /metrics, against what was made to happen."""

import asyncio
import time

import pytest
from serving import call, group, metric, until

from spct_plugin.failures import FAILURES
from spct_plugin.testing import FakeServer, Reply

NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture
def ready(serve):
    """Start servers whose trial judgement is over."""

    async def start(**sections):
        server = await serve(**sections)
        await until(lambda: server.desk.is_ready)
        return server

    return start


async def ask(server, *groups, **keys):
    status, _, answer = await call(f"{server.url}/v1/rewards", {"groups": [*groups], **keys})
    assert status == 200, answer
    return answer["groups"]


async def page_of(server):
    return (await call(f"{server.url}/metrics"))[2]


def of_endpoint(page, section, url):
    """Read what is shown of one server of engine or meta RM."""
    return {
        name: metric(page, f'spct_endpoint_{name}{{section="{section}",url="{url}"}}')
        for name in ("up", "requests", "tokens", "failures")
    }


IDLE = {"up": 1, "requests": 0, "tokens": 0, "failures": 0}


async def test_metrics_count_what_happened(ready, judge):
    server = await ready(vote={"k": 4})
    await ask(server, group("a", "b"), group("c", "d"))
    judge.answer = lambda body: Reply(status=400)
    await ask(server, group("e", "f"))
    assert (await call(f"{server.url}/v1/rewards", {"groups": []}))[0] == 422
    page = await page_of(server)
    assert metric(page, 'spct_groups_total{outcome="judged"}') == 2
    assert metric(page, 'spct_groups_total{outcome="lost"}') == 1
    assert metric(page, "spct_votes_total") == 12
    assert metric(page, "spct_judgements_total") == 12
    assert metric(page, 'spct_requests_total{route="/v1/rewards",status="200"}') == 2
    assert metric(page, 'spct_requests_total{route="/v1/rewards",status="422"}') == 1
    assert metric(page, "spct_ready") == 1
    assert metric(page, "spct_breaker_tripped") == 0
    for i in range(3):
        await ask(server, group(f"{i}"))
    page = await page_of(server)
    assert metric(page, "spct_breaker_tripped") == 1
    assert metric(page, "spct_ready") == 0


async def test_times_are_those_of_judging_and_of_answering(ready, judge):
    server = await ready(serve={"at_once": 1})
    judge.delay_s = 0.4
    start_s = time.perf_counter()
    await ask(server, group("a", "b"), group("c", "d"))
    page = await page_of(server)
    took_s = time.perf_counter() - start_s
    # One after the other: the groups' times add up to the request's, as waiting is not judging.
    assert 0.8 <= metric(page, "spct_group_seconds_sum") <= took_s
    assert 0.8 <= metric(page, 'spct_request_seconds_sum{route="/v1/rewards"}') <= took_s
    for name, route, count in (("group", "", 2), ("request", ',route="/v1/rewards"', 1)):
        assert metric(page, f'spct_{name}_seconds_bucket{{le="0.3"{route}}}') == 0
        assert metric(page, f'spct_{name}_seconds_bucket{{le="600.0"{route}}}') == count


async def test_the_queue_is_shown_while_it_waits(ready, judge):
    server = await ready(serve={"at_once": 1})
    judge.may_answer.clear()
    asking = asyncio.create_task(ask(server, *(group(text) for text in "abc")))
    await until(lambda: judge.asked)
    page = await page_of(server)
    assert metric(page, "spct_groups_judging") == 1
    assert metric(page, "spct_groups_waiting") == 2
    held = of_endpoint(page, "engine", judge.url)
    # The votes of one completion have the same prompt: one request.
    assert (held["up"], held["requests"], held["failures"]) == (1, 1, 0)
    assert held["tokens"] > 100
    judge.may_answer.set()
    await asking
    page = await page_of(server)
    assert metric(page, "spct_groups_judging") == metric(page, "spct_groups_waiting") == 0
    assert of_endpoint(page, "engine", judge.url) == IDLE


async def test_failures_are_counted_by_kind(ready, judge):
    server = await ready()
    judge.answer = lambda body: Reply(["It is fine."] * body["n"])
    await ask(server, group("a"))
    judge.answer = lambda body: Reply(status=400)
    await ask(server, group("b"), group("c"))
    judge.answer = judge.judge
    judge.may_answer.clear()
    await ask(server, *(group(text) for text in "def"), deadline_s=0.3)
    judge.may_answer.set()
    page = await page_of(server)
    found = {
        kind: metric(page, f'spct_judgements_failed_total{{failure="{kind}"}}') for kind in FAILURES
    }
    happened = {"no_scores": 2, "engine_error": 4, "deadline": 6}
    assert found == dict.fromkeys(FAILURES, 0) | happened
    assert metric(page, "spct_judgements_total") == 12


async def test_tokens_and_spread_are_the_judges(ready, judge):
    server = await ready(vote={"k": 4})
    # Four words each.
    texts = [f"Fine.\nScores: it \\boxed{{{score}}}" for score in (2, 6, 2, 6)]
    judge.answer = lambda body: Reply(texts[: body["n"]])
    await ask(server, group("a"), group("b"))
    page = await page_of(server)
    assert metric(page, "spct_judge_tokens_total") == 2 * 4 * 4
    assert metric(page, "spct_spread_count") == 2
    assert metric(page, "spct_spread_sum") == 2 * 2
    assert metric(page, 'spct_spread_bucket{le="1.5"}') == 0
    assert metric(page, 'spct_spread_bucket{le="2.0"}') == 2


async def test_what_was_not_judged_again_is_told_apart(ready, tmp_path):
    server = await ready(store={"path": str(tmp_path / "store")})
    for name in ("first", "first", "second"):
        await ask(server, group("a", "b"), request_id=name)
        if name == "first":
            tokens = metric(await page_of(server), "spct_judge_tokens_total")
            assert tokens > 0
    page = await page_of(server)
    assert metric(page, "spct_answers_repeated_total") == 1
    assert metric(page, "spct_judgements_total") == 4
    assert metric(page, "spct_judgements_from_store_total") == 2
    assert metric(page, "spct_judge_tokens_total") == tokens


async def test_a_dead_server_of_the_engine_is_told_from_a_live_one(ready, judge):
    server = await ready(engine={"url": [judge.url, NOBODY]})
    # At the same time, or the first would always be the least loaded one.
    await ask(server, *(group(f"a{i}") for i in range(8)))
    page = await page_of(server)
    dead = of_endpoint(page, "engine", NOBODY)
    assert dead["failures"] > 0
    assert dead == IDLE | {"up": 0, "failures": dead["failures"]}
    assert of_endpoint(page, "engine", judge.url) == IDLE
    assert metric(page, "spct_judgements_total") == 16
    assert metric(page, 'spct_groups_total{outcome="lost"}') == 0


async def test_the_meta_rms_servers_are_shown_beside_the_engines(ready, judge):
    async with FakeServer(lambda body: Reply(logit=1.0)) as live:
        config = {"kind": "classify", "model": "meta", "url": [live.url, NOBODY], "retries": 0}
        server = await ready(meta_rm=config)
        await ask(server, *(group(f"a{i}") for i in range(8)))
        assert live.bodies
    page = await page_of(server)
    # As they are asked, beside /v1.
    urls = [url.removesuffix("/v1") for url in (live.url, NOBODY)]
    up, dead = (of_endpoint(page, "meta_rm", url) for url in urls)
    assert up == IDLE
    assert dead["failures"] > 0
    assert dead == IDLE | {"up": 0, "failures": dead["failures"]}
    assert of_endpoint(page, "engine", judge.url) == IDLE
