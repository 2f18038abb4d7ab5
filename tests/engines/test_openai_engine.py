"""The HTTP engine against a real server on loopback."""

import asyncio
import contextlib
import gzip
import itertools
import json
import time
from email.utils import formatdate

import pytest

from spct_plugin import ConfigError, EngineError, SPCTConfig
from spct_plugin.engines import Request, Sampling, http, refusals
from spct_plugin.engines.builtin import OpenAIConfig
from spct_plugin.engines.openai import OpenAIEngine, _choices
from spct_plugin.testing import FakeServer, Reply


def request(votes=(0,), **changes):
    sampling = Sampling(temperature=0.5, top_p=1.0, max_tokens=64)
    return Request("judge this", tuple(votes), sampling, seed=7, **changes)


def engine_for(*servers, **options):
    urls = tuple(server if isinstance(server, str) else server.url for server in servers)
    return OpenAIEngine(OpenAIConfig(url=urls, model="grm", **options))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Keep the shape of the back-off and shrink its seconds."""
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.01)


async def ask(reply, votes=(0,), **options):
    """Ask a server that answers by `reply` once; give the choices and the server."""
    async with FakeServer(reply) as server:
        engine = engine_for(server, **options)
        try:
            return await engine.generate(request(votes)), server
        finally:
            await engine.aclose()


def echo(body):
    return Reply([f"answer {index} of {body['n']}" for index in range(body["n"])])


async def test_votes_share_one_request():
    choices, server = await ask(echo, votes=(0, 2, 4))
    assert [choice.text for choice in choices] == [f"answer {i} of 3" for i in range(3)]
    assert sum(choice.tokens for choice in choices) == 12
    assert server.bodies == [
        {
            "model": "grm", "messages": [{"role": "user", "content": "judge this"}], "n": 3,
            "temperature": 0.5, "top_p": 1.0, "max_tokens": 64, "seed": 7,
        }
    ]  # fmt: skip


async def test_extra_body_is_sent_along():
    _, server = await ask(echo, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}


async def test_more_choices_than_asked_are_cut():
    choices, _ = await ask(lambda body: Reply(["a", "b", "c"]), votes=(0, 1))
    assert [choice.text for choice in choices] == ["a", "b"]


async def test_finish_reason_and_refusal_are_kept():
    choices, _ = await ask(lambda body: Reply(["cut"], finish_reason="length"))
    assert choices[0].finish_reason == "length"
    body = '{"choices": [{"message": {"refusal": "I will not"}, "finish_reason": "stop"}]}'
    choices, _ = await ask(lambda _: Reply(body=body))
    assert (choices[0].text, choices[0].finish_reason) == ("I will not", "content_filter")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_what_may_pass_is_tried_again(status):
    replies = itertools.chain([Reply(status=status), Reply(status=status)], itertools.repeat(None))
    choices, server = await ask(lambda body: next(replies) or echo(body))
    assert choices[0].text == "answer 0 of 1"
    assert len(server.bodies) == 3


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 422])
async def test_other_refusals_are_final_at_once(status):
    calls = []

    def refuse(body):
        calls.append(body)
        return Reply(status=status, body="no such model\nreally")

    with pytest.raises(EngineError, match=f"answered {status}: no such model really") as raised:
        await ask(refuse)
    assert raised.value.status_code == status
    assert not raised.value.retryable
    assert len(calls) == 1


async def test_retries_end():
    calls = []

    def refuse(body):
        calls.append(body)
        return Reply(status=500)

    with pytest.raises(EngineError, match="answered 500"):
        await ask(refuse, retries=2)
    assert len(calls) == 3


@pytest.mark.parametrize("body", ["not json", "{}", '{"choices": []}', "[1]", "null"])
async def test_an_answer_without_choices_is_tried_again(body):
    replies = itertools.chain([Reply(body=body)], itertools.repeat(None))
    choices, server = await ask(lambda sent: next(replies) or echo(sent))
    assert choices[0].text == "answer 0 of 1"
    assert len(server.bodies) == 2


async def test_a_dropped_connection_is_tried_again():
    replies = itertools.chain([Reply(drop=True)], itertools.repeat(None))
    choices, server = await ask(lambda body: next(replies) or echo(body))
    assert choices[0].text == "answer 0 of 1"
    assert len(server.bodies) == 2


@pytest.mark.parametrize("header", ["1", "date"])
async def test_retry_after_is_waited_for(header):
    value = formatdate(time.time() + 2, usegmt=True) if header == "date" else header
    limited = Reply(status=429, headers={"Retry-After": value})
    replies = itertools.chain([limited], itertools.repeat(None))
    start = time.monotonic()
    await ask(lambda body: next(replies) or echo(body))
    assert time.monotonic() - start >= 0.9


@pytest.mark.parametrize("value", ["soon", "²", "Mon, 01 Jan 0001 00:00:00 GMT", "-1", ""])
async def test_a_retry_after_that_makes_no_sense_is_not_waited_for(value):
    limited = Reply(status=429, headers={"Retry-After": value})
    replies = itertools.chain([limited], itertools.repeat(None))
    start = time.monotonic()
    await ask(lambda body: next(replies) or echo(body))
    assert time.monotonic() - start < 5


async def test_a_slow_answer_ends_in_time():
    with pytest.raises(EngineError, match=r"no answer within engine\.request_timeout_s"):
        await ask(lambda body: Reply(["late"], delay_s=30), request_timeout_s=0.2, retries=0)


async def test_nobody_listening():
    engine = engine_for("http://127.0.0.1:9/v1", retries=1)
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9/v1: cannot connect"):
        await engine.generate(request())
    await engine.aclose()


async def test_a_prompt_too_long_for_the_server_is_named_so():
    text = "This model's maximum context length is 4096 tokens"
    with pytest.raises(EngineError) as raised:
        await ask(lambda body: Reply(status=400, body=text))
    assert raised.value.failure == "too_long"


async def test_no_more_than_max_in_flight():
    running, most = 0, 0

    async def scenario():
        nonlocal running, most

        class Counting(FakeServer):
            async def _complete(self, http_request):
                nonlocal running, most
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.01)
                running -= 1
                return await super()._complete(http_request)

        async with Counting(echo) as server:
            engine = engine_for(server, max_in_flight=4)
            await asyncio.gather(*(engine.generate(request()) for _ in range(40)))
            await engine.aclose()

    await scenario()
    assert most == 4


async def test_requests_are_spread_over_addresses_by_load():
    async with FakeServer(echo) as first, FakeServer(echo) as second:
        engine = engine_for(first, second)
        await asyncio.gather(*(engine.generate(request()) for _ in range(40)))
        await engine.aclose()
        assert 10 <= len(first.bodies) <= 30
        assert len(first.bodies) + len(second.bodies) == 40


async def test_a_dead_address_is_left_by_the_retry():
    async with FakeServer(echo) as alive:
        engine = engine_for("http://127.0.0.1:9/v1", alive)
        answers = await asyncio.gather(*(engine.generate(request()) for _ in range(20)))
        await engine.aclose()
    assert len(answers) == 20


async def test_a_dead_address_costs_no_waiting_and_is_left_alone_for_a_while(monkeypatch):
    monkeypatch.setattr(http, "FIRST_WAIT_S", 60.0)
    tried = []
    post = http.HTTPClient._post

    async def counted(self, here, use, path, body):
        tried.append(use.endpoint.url)
        return await post(self, here, use, path, body)

    monkeypatch.setattr(http.HTTPClient, "_post", counted)
    async with FakeServer(echo) as alive:
        engine = engine_for("http://127.0.0.1:9/v1", alive)
        for _ in range(5):
            await asyncio.wait_for(engine.generate(request()), timeout=5)
        await engine.aclose()
    assert tried.count("http://127.0.0.1:9/v1") == 1


async def test_a_connection_that_does_not_come_about_is_named_so():
    error = http.aiohttp.ConnectionTimeoutError()
    assert refusals.reason(error, "engine") == "no connection within engine.connect_timeout_s"


def test_every_event_loop_has_its_own_connections():
    async def once(server_url):
        engine = engines.setdefault("one", engine_for(server_url))
        choices = await engine.generate(request())
        await engine.aclose()
        return choices

    async def serve_and_ask():
        async with FakeServer(echo) as server:
            return await once(server.url), server

    engines = {}
    asyncio.run(serve_and_ask())
    engines.clear()
    asyncio.run(serve_and_ask())
    assert engines["one"].identity == "grm"


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    engine = engine_for("http://a/v1", api_key_env="JUDGE_KEY")
    assert engine._headers["Authorization"] == "Bearer secret"
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match="the environment variable 'JUDGE_KEY' is not set"):
        engine_for("http://a/v1", api_key_env="JUDGE_KEY")


def test_identity_is_the_model_and_not_the_address():
    assert engine_for("http://a/v1").identity == engine_for("http://b/v1").identity == "grm"
    assert engine_for("http://a/v1", revision="v2").identity == "grm@v2"


def test_the_context_is_estimated_from_bytes():
    engine = engine_for("http://a/v1", context=200)
    assert engine.fits("x" * 300, 100)
    assert not engine.fits("x" * 301, 100)
    assert engine_for("http://a/v1").fits("x" * 10**6, 10**6)


async def test_what_was_broken_off_is_asked_for_again():
    body = (
        '{"choices": [{"message": {"content": "half"}, "finish_reason": "abort"},'
        ' {"message": {"content": "whole"}, "finish_reason": "stop"}]}'
    )
    choices, _ = await ask(lambda _: Reply(body=body), votes=(0, 1))
    assert [choice.text for choice in choices] == ["whole"]
    replies = itertools.chain([Reply(["half"], finish_reason="abort")], itertools.repeat(None))
    choices, server = await ask(lambda sent: next(replies) or echo(sent))
    assert (choices[0].text, len(server.bodies)) == ("answer 0 of 1", 2)


COUNT = '{"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": %s}}'
REASON = '{"choices": [{"message": {"content": "x"}, "finish_reason": %s}]}'
ODD = {
    "a count below zero": COUNT % "-9",
    "a count as text": COUNT % '"9"',
    "a count with a point": COUNT % "9.0",
    "a count that is true": COUNT % "true",
    "a count that is no number": COUNT % "NaN",
    "a count no database holds": COUNT % 2**70,
    "a count nobody writes": COUNT % 10**9,
    "a list as usage": '{"choices": [{"message": {"content": "x"}}], "usage": [9]}',
    "a reason that is no text": REASON % '{"type": 1}',
    "zero as reason": REASON % "0",
    "half a character as reason": REASON % r'"\ud800"',
    "a book as reason": REASON % f'"{"stop" * 10_000}"',
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD.keys())
async def test_what_a_server_says_beside_the_text_is_not_trusted(body):
    [choice], _ = await ask(lambda _: Reply(body=body))
    assert (choice.text, choice.tokens) == ("x", 0)
    assert choice.finish_reason is None or len(choice.finish_reason.encode()) <= 64


async def test_a_text_is_kept_as_it_came():
    [choice], _ = await ask(lambda _: Reply(["half \ud800"]))
    assert choice.text == "half \ud800"


def nested(depth=100_000):
    """Nest lists deeper than anything may follow them."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


NO_CHOICES = {
    "half a character": "\ud800",
    "a deep answer": nested(),
    "a deep choice": {"choices": nested()},
    "a deep message": {"choices": [{"message": {"content": nested()}}]},
    "a number as text": {"choices": [{"message": {"content": 7}}]},
    "a refusal in parts": {"choices": [{"message": {"refusal": ["I will not"]}}]},
}


@pytest.mark.parametrize("answer", NO_CHOICES.values(), ids=NO_CHOICES.keys())
def test_what_is_no_choice_is_named_shortly(answer):
    with pytest.raises(EngineError, match=r"^expected .*, found ") as raised:
        _choices(answer, 1)
    assert raised.value.retryable
    assert len(str(raised.value).encode()) < 300


async def test_no_redirect_is_followed():
    async with FakeServer(echo) as other:
        to = Reply(status=307, headers={"Location": f"{other.url}/chat/completions"})
        with pytest.raises(EngineError, match=f"answered 307: it points to {other.url}") as raised:
            await ask(lambda body: to)
        assert not raised.value.retryable
        assert raised.value.status_code == 307
        async with FakeServer(lambda body: to) as pointing:
            engine = engine_for(pointing, other)
            answers = [await engine.generate(request()) for _ in range(4)]
            await engine.aclose()
        assert [choices[0].text for choices in answers] == ["answer 0 of 1"] * 4
        # Asked once for each question, and never by way of the server that points to it.
        assert len(other.bodies) == 4


@pytest.mark.parametrize(
    ("status", "said", "tries"), [(200, "expected .* at most 16 MiB", 1), (503, "answered 503", 2)]
)
async def test_an_answer_without_end_is_not_read(status, said, tries):
    """64 MiB of nothing, packed; a judgement has some kB."""
    bomb = gzip.compress(bytes(64 * 2**20), 1)
    head = f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Encoding: gzip\r\n\r\n".encode()
    asked = []

    async def serve(reader, writer):
        asked.append(await reader.readuntil(b"\r\n"))
        with contextlib.suppress(ConnectionError):
            writer.write(head + bomb)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        engine = engine_for(url, retries=1)
        try:
            with pytest.raises(EngineError, match=f"{url}.*{said}"):
                await engine.generate(request())
        finally:
            await engine.aclose()
    assert len([line for line in asked if line.startswith(b"POST")]) == tries


ADDRESSES = {
    "http://": "found 'http://'",
    "http:///v1": "found 'http:///v1'",
    "http://[": r"found 'http://\['",
    "http://[::zz]/v1": "found",
    "http://a b/v1": "found 'http://a b/v1'",
    "http://a\u00a0b/v1": "found",
    "http://a..b/v1": "found",
    f"http://{'a' * 64}/v1": "found",
    "http://a:port/v1": "found 'http://a:port/v1'",
    "http://a:99999/v1": "found 'http://a:99999/v1'",
    "http://a/v1?key=hunter2": "found one with .* a query; .* api_key_env",
    "http://a/v1#top": "found",
    "a:8000/v1": "found 'a:8000/v1'",
    "http://me:hunter2@a/v1": "found one with a user, a password",
    "http://me:hunter2@a b/v1": "found one with a user, a password",
}


@pytest.mark.parametrize(("address", "why"), ADDRESSES.items(), ids=ADDRESSES.keys())
def test_what_is_no_address_is_refused_in_the_configuration(address, why, tmp_path):
    sections = {"engine": {"kind": "openai", "model": "grm", "url": address}}
    (tmp_path / "judge.yaml").write_text(json.dumps(sections))
    with pytest.raises(ConfigError, match=rf"url: expected http://host:port/v1, {why}") as raised:
        SPCTConfig.load(tmp_path / "judge.yaml")
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_every_usual_address_is_taken():
    for url in (
        "http://a/v1", "https://judge.example.org/v1", "http://127.0.0.1:8000/v1",
        "http://[::1]:8000/v1", "http://judge_1:8000/proxy/v1", "https://bücher.example/v1",
    ):  # fmt: skip
        assert OpenAIConfig(url=f"{url}/", model="grm").url == (url,)


async def test_a_choice_without_a_message_is_tried_again():
    replies = itertools.chain([Reply(body='{"choices": [7]}')], itertools.repeat(None))
    choices, server = await ask(lambda body: next(replies) or echo(body))
    assert (choices[0].text, len(server.bodies)) == ("answer 0 of 1", 2)
