"""Who may ask, for how much, and how often."""

import asyncio
import base64
import contextlib
import json
import logging
import resource
import socket

import pytest
from serving import BEARER, TOKEN, Process, Running, call, connect, group, post, until, write_config

from spct_plugin import ConfigError, SPCTConfig
from spct_plugin.server.logs import JSONLines

ONE = {"groups": [group("a", "b")]}


async def test_other_addresses_need_a_token(judge, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="can be reached from other machines: expected token_env"):
        SPCTConfig.load(overrides=["serve.host=0.0.0.0"])
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert SPCTConfig.load(overrides=[f"serve.host='{host}'"])
    path = write_config(tmp_path, judge, serve={"host": "0.0.0.0", "token_env": "SPCT_TEST_TOKEN"})
    for value in ("", "short"):
        monkeypatch.setenv("SPCT_TEST_TOKEN", value)
        with pytest.raises(ConfigError, match="expected at least 16 characters"):
            Running(path)


async def test_the_token_is_asked_for_everywhere_but_for_health(serve, token):
    server = await serve(serve=token)
    for path, body in (("/v1/rewards", ONE), ("/get_reward", {}), ("/metrics", None), ("/x", None)):
        for given in (
            None,
            "Bearer wrong",
            f"Bearer {TOKEN}x",
            f"Digest {TOKEN}",
            "Basic !",
            "Bearer",
        ):
            headers = {} if given is None else {"Authorization": given}
            status, found, _ = await call(f"{server.url}{path}", body, **headers)
            assert (status, found["WWW-Authenticate"]) == (401, 'Bearer realm="spct"')
    for path in ("/healthz", "/docs", "/openapi.json"):
        assert (await call(f"{server.url}{path}"))[0] == 200
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    for given in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
        assert (await call(f"{server.url}/v1/rewards", ONE, Authorization=given))[0] == 200
    # All that OpenRLHF's client can be told is an address.
    address = server.url.replace("//", f"//spct:{TOKEN.replace(' ', '%20')}@")
    assert (await call(f"{address}/v1/rewards", ONE))[0] == 200


async def test_tokens_are_compared_in_constant_time(serve, token, monkeypatch):
    compared = []
    monkeypatch.setattr(
        "spct_plugin.server.gate.hmac.compare_digest", lambda a, b: compared.append((a, b)) or True
    )
    server = await serve(serve=token)
    assert (await call(f"{server.url}/metrics", Authorization="Bearer other"))[0] == 200
    assert compared == [(b"other", TOKEN.encode())]


async def test_admin_calls_always_need_a_token(serve):
    server = await serve()
    status, _, answer = await call(f"{server.url}/admin/reload", method="POST")
    assert status == 403
    assert "serve.token_env" in answer["detail"]


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("127.0.0.1", True), ("127.0.0.1:8700", True), ("localhost", True), ("LOCALHOST:1", True),
        ("[::1]:8700", True), ("10.1.2.3", True), (socket.gethostname(), True),
        ("judge.example.org", True), ("evil.example", False), ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False), ("", False), ("[", False), ("a b", False),
    ],
)  # fmt: skip
async def test_only_names_of_ours_lead_here(host, passes, serve):
    server = await serve(serve={"hosts": ["judge.example.org"]})
    status, _, _ = await call(f"{server.url}/healthz", Host=host)
    assert status == (200 if passes else 421)


async def test_pages_of_others_cannot_ask(serve):
    server = await serve()
    for origin in ("http://evil.example", "null", "http://localhost:1", "http://[", "http://[::1"):
        status, _, _ = await call(f"{server.url}/v1/rewards", ONE, Origin=origin)
        assert status == 403
    assert (await call(f"{server.url}/v1/rewards", ONE, Origin=server.url))[0] == 200


@pytest.fixture
def logged(caplog):
    """What is logged, as the server writes it: one JSON object per line."""
    caplog.set_level(logging.INFO)
    caplog.handler.setFormatter(JSONLines())

    def lines(request_id):
        written = map(json.loads, caplog.text.splitlines())
        return [line for line in written if line.get("request_id") == request_id]

    return lines


async def test_a_refusal_is_logged_with_its_reason_and_one_id(serve, token, logged, caplog):
    server = await serve(serve={**token, "body_bytes": 2000})
    # As a client would send them that has the token in its address.
    host, origin = f"spct:{TOKEN}@evil.example", f"http://spct:{TOKEN}@evil.example"
    refusals = (
        (401, "/v1/rewards", {"Authorization": f"Bearer {TOKEN}x"}),
        (401, "/metrics", {"Authorization": f"Bearer {TOKEN}x", "method": "GET"}),
        (403, "/v1/rewards", {**BEARER, "Origin": origin}),
        (421, "/v1/rewards", {**BEARER, "Host": host}),
        (421, "/v1/rewards", {**BEARER, "Host": "evil.example" * 20}),
        (413, "/v1/rewards", {**BEARER, "data": b" " * 3000}),
    )
    for expected, path, asked in refusals:
        status, headers, answer = await call(f"{server.url}{path}", **({"body": ONE} | asked))
        # It comes after the answer.
        await until(lambda named=answer["request_id"]: logged(named))
        [line] = logged(answer["request_id"])
        assert status == line["status"] == expected
        assert answer["request_id"] == headers["X-Request-ID"]
        assert line["detail"] == answer["detail"]
        assert len(line["detail"]) < 300
    assert TOKEN not in caplog.text


async def test_an_error_of_the_servers_own_has_the_same_id_everywhere(serve, monkeypatch, logged):
    server = await serve()
    monkeypatch.setattr("spct_plugin.server.app._rows", None)
    status, headers, answer = await call(f"{server.url}/get_reward", {"query": "a"})
    assert (status, headers["X-Request-ID"]) == (500, answer["request_id"])
    await until(lambda: len(logged(answer["request_id"])) == 2)
    request, mistake = logged(answer["request_id"])
    assert (request["message"], request["status"]) == ("request", 500)
    assert mistake["traceback"]


async def test_texts_and_groups_are_limited(serve):
    limits = {"groups": 2, "completions": 3, "text_chars": 100}
    server = await serve(serve=limits)
    url = f"{server.url}/v1/rewards"
    assert (await call(url, {"groups": [group("a" * 100, "b", "c")] * 2}))[0] == 200
    calls = [{"role": "assistant", "content": "", "tool_calls": [{"a": "b" * 100}]}]
    for groups, named in (
        ([group("a")] * 3, "serve.groups"),
        ([group(*"abcd")], "serve.completions"),
        ([group("a" * 101)], "serve.text_chars"),
        ([group("a", prompt="a" * 101)], "serve.text_chars"),
        ([group("a", reference="a" * 101)], "serve.text_chars"),
        ([group("a", principles=["a" * 101])], "serve.text_chars"),
        ([group(calls)], "serve.text_chars"),
    ):
        status, _, answer = await call(url, {"groups": groups})
        assert status == 413
        assert named in answer["detail"]


@pytest.fixture
def serve_wire(serve, policy):
    """Start servers that speak OpenRLHF's wire."""

    async def start(**sections):
        pytest.importorskip("transformers", reason="needs the extra `trl`")
        openrlhf = {"tokenizer": str(policy), "fallback": "group_mean", "prompts": "text"}
        return await serve(openrlhf=openrlhf, **sections)

    return start


def queries(*texts):
    return {"query": [f"Say: {text}" for text in texts], "prompts": ["Say: "] * len(texts)}


async def test_openrlhfs_queries_are_limited(serve_wire):
    server = await serve_wire(serve={"groups": 2, "completions": 3, "text_chars": 100})
    url = f"{server.url}/get_reward"
    # A query holds a prompt and a completion.
    assert (await call(url, queries(*["a" * 195] * 6)))[0] == 200
    for texts, named in (
        ("a" * 7, "at most 6 queries (serve.groups * serve.completions)"),
        (["a", "a" * 196], "serve.text_chars"),
    ):
        status, _, answer = await call(url, queries(*texts))
        assert status == 413
        assert named in answer["detail"]


async def test_a_body_that_says_it_is_too_long_is_refused(serve):
    server = await serve(serve={"body_bytes": 2000})
    body = b'{"groups": [' + b" " * 3000
    status, headers, answer = await call(f"{server.url}/v1/rewards", data=body, method="POST")
    assert status == 413, answer
    assert "serve.body_bytes" in answer["detail"]
    assert headers["Connection"] == "close"


async def test_a_body_that_does_not_say_how_long_it_is_is_refused(serve):
    server = await serve(serve={"body_bytes": 2000})
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "POST /v1/rewards HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    chunks = f"64\r\n{' ' * 100}\r\n" * 21
    # All at once: the server closes the connection, and a client that still writes sees only that.
    writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n{chunks}".encode())
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"serve.body_bytes" in answer
    writer.close()


async def test_a_body_that_never_ends_is_given_up(serve, monkeypatch):
    monkeypatch.setattr("spct_plugin.server.gate.BODY_S", 0.2)
    server = await serve()
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "POST /v1/rewards HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408")
    writer.close()


async def is_closed(connected, seconds):
    """Tell whether the other side closes a connection in time, whatever it says before."""
    loop = asyncio.get_running_loop()
    connected.setblocking(False)
    try:
        async with asyncio.timeout(seconds):
            while await loop.sock_recv(connected, 65536):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


async def test_who_sends_no_whole_head_is_closed(serve, judge, monkeypatch):
    monkeypatch.setattr("spct_plugin.server.run.HEAD_S", 0.8)
    server = await serve()
    loop = asyncio.get_running_loop()
    silent, half, dripping, second, idle, asking = (connect(server.url) for _ in range(6))
    health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    # A request that is under way has its head.
    judge.delay_s = 2.5
    asking.sendall(post({"groups": [group("a", "b")]}))
    half.sendall(health[:20])
    for connected in (second, idle):
        connected.sendall(health)
        await asyncio.to_thread(connected.recv, 65536)
    second.sendall(health[:20])

    async def drip():
        with contextlib.suppress(ConnectionError):
            for place in range(len(health)):
                await loop.sock_sendall(dripping, health[place : place + 1])
                await asyncio.sleep(0.2)

    drops = asyncio.create_task(drip())
    waiting = (silent, half, dripping, second)
    assert all(await asyncio.gather(*(is_closed(connected, 6) for connected in waiting)))
    assert not await is_closed(idle, 0.1)
    answer = await asyncio.to_thread(asking.recv, 65536)
    assert answer.startswith(b"HTTP/1.1 200")
    await drops
    for connected in (*waiting, idle, asking):
        connected.close()


async def test_silent_connections_keep_nobody_out(judge, tmp_path):
    process = await asyncio.to_thread(Process, write_config(tmp_path, judge))
    resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, (128, 128))
    held = []
    try:
        for _ in range(200):
            held.append(connect(process.url))
            held[-1].send(b"POST /v1/rewards HTT")
        async with asyncio.timeout(30):
            assert (await call(f"{process.url}/healthz"))[0] == 200
            assert (await call(f"{process.url}/v1/rewards", ONE))[0] == 200
    finally:
        process.close()
        for connected in held:
            connected.close()


async def test_who_does_not_read_its_answer_is_closed(serve, judge, monkeypatch):
    monkeypatch.setattr("spct_plugin.server.run.UNREAD_S", 0.5)
    server = await serve()
    judge.answer = judge.ramble
    with connect(server.url) as asking:
        asking.sendall(post({"groups": [group("a")], "judgements": True}))
        await until(lambda: server.server.server_state.connections)
        await until(lambda: not server.server.server_state.connections)
        assert server.desk.is_idle


async def test_no_queue_grows_beyond_its_limit(serve, judge):
    server = await serve(serve={"at_once": 2, "waiting": 3})
    judge.may_answer.clear()
    url = f"{server.url}/v1/rewards"
    asked = [asyncio.create_task(call(url, {"groups": [group(f"a{i}")]})) for i in range(12)]
    await until(lambda: sum(one.done() for one in asked) == 7)
    judge.may_answer.set()
    answers = await asyncio.gather(*asked)
    assert sorted(status for status, _, _ in answers) == [200] * 5 + [429] * 7
    for status, headers, answer in answers:
        if status == 429:
            assert 1 <= int(headers["Retry-After"]) <= 60
            assert "serve.waiting" in answer["detail"]
    assert sum(judge.asked.values()) == 10
    assert server.desk.is_idle


async def test_one_run_leaves_room_for_another(serve, judge):
    server = await serve(serve={"per_run": 3})
    judge.may_answer.clear()
    url = f"{server.url}/v1/rewards"

    async def ask(run, count):
        groups = [group(f"{run}{i}") for i in range(count)]
        return (await call(url, {"groups": groups, "run": run}))[0]

    first = asyncio.create_task(ask("greedy", 2))
    await until(lambda: judge.asked)
    assert await ask("greedy", 2) == 429
    others = [asyncio.create_task(ask("greedy", 1)), asyncio.create_task(ask("other", 3))]
    await until(lambda: sum(judge.asked.values()) == 12)
    judge.may_answer.set()
    assert await asyncio.gather(first, *others) == [200, 200, 200]
    assert await ask("greedy", 3) == 200


async def test_openrlhfs_queries_share_the_room_of_who_names_no_run(serve_wire, judge):
    server = await serve_wire(serve={"per_run": 3})
    judge.may_answer.clear()
    url = f"{server.url}/v1/rewards"
    asking = [asyncio.create_task(call(url, {"groups": [group("a"), group("b")]}))]
    await until(lambda: len(judge.asked) == 2)
    async with asyncio.timeout(10):
        status, headers, answer = await call(f"{server.url}/get_reward", queries("a", "b"))
    assert status == 429
    assert "serve.per_run" in answer["detail"]
    assert headers["Retry-After"] == "1"
    asking.append(asyncio.create_task(call(url, {"groups": [group("c")] * 3, "run": "other"})))
    await until(lambda: ("c",) in judge.asked)
    judge.may_answer.set()
    assert [found[0] for found in await asyncio.gather(*asking)] == [200, 200]
    assert (await call(f"{server.url}/get_reward", queries("a", "b")))[0] == 200


async def test_a_refused_group_is_judged_when_it_comes_again(serve, judge):
    server = await serve(serve={"at_once": 1, "waiting": 0})
    judge.may_answer.clear()
    url = f"{server.url}/v1/rewards"
    bodies = [{"groups": [group(f"a{i}")], "request_id": f"r{i}"} for i in range(2)]
    asked = [asyncio.create_task(call(url, body)) for body in bodies]
    await until(lambda: any(one.done() for one in asked))
    judge.may_answer.set()
    assert sorted(found[0] for found in await asyncio.gather(*asked)) == [200, 429]
    assert [(await call(url, body))[0] for body in bodies] == [200, 200]
    assert sum(judge.asked.values()) == 4
