"""Killed and started again, ended gracefully, reloaded; ready only when a judge judges."""

import asyncio
import json
import random
import signal
import socket
import stat

import aiohttp
import pytest
import yaml
from scripted_plugin import content_score
from serving import BEARER, TOKEN, Process, call, connect, group, metric, post, until, write_config

from spct_plugin import JudgeTask, RewardModel, SPCTConfig
from spct_plugin.testing import Reply

SECRET = {"SPCT_TEST_TOKEN": TOKEN}


async def start(path, *arguments, **keywords):
    return await asyncio.to_thread(Process, path, *arguments, **keywords)


@pytest.fixture
def port(unused_tcp_port):
    return unused_tcp_port


@pytest.mark.parametrize(
    ("groups", "kills"), [(120, 3), pytest.param(5000, 12, marks=pytest.mark.slow)]
)
async def test_killed_again_and_again_under_load_every_group_is_answered_once(
    groups, kills, judge, tmp_path, port
):
    votes = 4
    store = {"path": str(tmp_path / "store")}
    path = write_config(
        tmp_path, judge, vote={"k": votes}, store=store, serve={"port": port, "at_once": 8}
    )
    judge.delay_s = 0.03
    process = await start(path)
    # Longer than an unlucky group may wait for several restarts on a busy machine.
    remote = {"url": process.url, "patience_s": 300, "max_in_flight": 16}
    model = RewardModel(SPCTConfig.model_validate({"server": remote}))
    tasks = [JudgeTask(f"Prompt {i}.", [f"a{i}", f"b{i}"]) for i in range(groups)]
    scoring = asyncio.create_task(model.score(tasks))
    rng = random.Random(7)
    try:
        for _ in range(kills):
            before = len(judge.asked)
            wanted = before + rng.randrange(4, groups // (kills + 2))
            await until(lambda wanted=wanted: len(judge.asked) > wanted, seconds=120)
            await asyncio.to_thread(process.kill)
            assert not scoring.done()
            process = await start(path)
        rewards = await asyncio.wait_for(scoring, 600)
    finally:
        scoring.cancel()
        process.close()
        await model.aclose()
    for task, found in zip(tasks, rewards, strict=True):
        assert (found.k_used, found.failures) == (votes, {})
        assert found.rewards == tuple(float(content_score(text)) for text in task.completions)
    # Each vote once, but for those that were in flight when the server was killed.
    extra = sum(judge.asked.values()) - groups * votes
    assert 0 <= extra <= kills * 8 * votes
    assert all(count >= votes for count in judge.asked.values())


async def raw(url, body):
    """Ask a server once, for the bytes of its answer."""
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        assert response.status == 200
        return await response.read()


async def repeated(server):
    """Tell how many answers a server gave that it, or another one, had given before."""
    _, _, page = await call(f"{server.url}/metrics")
    return metric(page, "spct_answers_repeated_total")


async def test_an_answer_that_was_received_is_the_same_after_a_kill(judge, serve, tmp_path):
    store = {"path": str(tmp_path / "store")}
    judge.delay_s = 0.05
    process = await start(write_config(tmp_path, judge, store=store))
    body = {"groups": [group("a", "b")], "request_id": "kept", "judgements": True}
    try:
        first = await raw(f"{process.url}/v1/rewards", body)
        await asyncio.to_thread(process.kill)
    finally:
        process.close()
    asked = judge.asked.copy()
    server = await serve(store=store)
    assert await raw(f"{server.url}/v1/rewards", body) == first
    assert (await repeated(server), judge.asked) == (1, asked)


async def test_after_sigterm_accepted_groups_are_finished_and_new_ones_refused(judge, tmp_path):
    path = write_config(tmp_path, judge)
    process = await start(path)
    url = f"{process.url}/v1/rewards"
    try:
        judge.may_answer.clear()
        bodies = [{"groups": [group(f"a{i}", "b")]} for i in range(4)]
        accepted = [asyncio.create_task(call(url, body)) for body in bodies]
        await until(lambda: len(judge.asked) == 4, seconds=60)
        process.kill(signal.SIGTERM)
        line = await asyncio.to_thread(process.wait_for, "draining")
        assert (line["groups"], line["at_most_s"]) == (4, 600)
        assert (await call(f"{process.url}/healthz"))[2]["status"] == "draining"
        status, headers, answer = await call(url, {"groups": [group("late")]})
        assert (status, headers["Retry-After"]) == (503, "5")
        assert "accepts nothing more" in answer["detail"]
        assert (await call(f"{process.url}/readyz"))[0] == 503
        status, _, health = await call(f"{process.url}/healthz")
        assert (status, health["status"]) == (200, "draining")
        assert not any(asking.done() for asking in accepted)
        judge.may_answer.set()
        for status, _, answer in await asyncio.gather(*accepted):
            assert status == 200
            assert None not in answer["groups"][0]["rewards"]
        assert await asyncio.to_thread(process.wait) == 0
    finally:
        process.close()
    assert ("late",) not in judge.asked


async def test_after_sigterm_a_group_whose_client_is_gone_is_finished_and_kept(
    judge, serve, tmp_path
):
    store = {"path": str(tmp_path / "store")}
    process = await start(write_config(tmp_path, judge, store=store))
    body = {"groups": [group("gone")], "request_id": "gone"}
    try:
        judge.may_answer.clear()
        asking = asyncio.create_task(call(f"{process.url}/v1/rewards", body))
        await until(lambda: judge.asked, seconds=60)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        process.kill(signal.SIGTERM)
        while (await call(f"{process.url}/healthz"))[2]["status"] != "draining":
            await asyncio.sleep(0.01)
        judge.may_answer.set()
        assert await asyncio.to_thread(process.wait) == 0
    finally:
        process.close()
    asked = judge.asked.copy()
    server = await serve(store=store)
    _, _, answer = await call(f"{server.url}/v1/rewards", body)
    assert answer["groups"][0]["rewards"] == [content_score("gone")]
    assert (await repeated(server), judge.asked) == (1, asked)


async def test_an_idle_server_ends_at_once(judge, tmp_path):
    process = await start(write_config(tmp_path, judge))
    try:
        start_s = asyncio.get_running_loop().time()
        process.kill(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
        assert asyncio.get_running_loop().time() - start_s < 5
    finally:
        process.close()


async def test_draining_has_an_end(serve, judge):
    server = await serve(serve={"drain_s": 0.3})
    judge.delay_s = 60
    asking = asyncio.create_task(call(f"{server.url}/v1/rewards", {"groups": [group("a")]}))
    await until(lambda: judge.asked)
    start_s = asyncio.get_running_loop().time()
    await server.stop()
    assert 0.3 <= asyncio.get_running_loop().time() - start_s < 10
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def ask_and_read_nothing(judge, process):
    judge.answer = judge.ramble
    asking = connect(process.url)
    asking.sendall(post({"groups": [group("unread")], "judgements": True}))
    await asyncio.to_thread(asking.recv, 1, socket.MSG_PEEK)
    return asking


async def send_half_a_body(judge, process):
    asking = connect(process.url)
    asking.sendall(post({}, length=1000))
    return asking


async def occupy_a_thread(judge, process):
    asking = connect(process.url)
    asking.sendall(post({"groups": [group("rule")]}))
    await asyncio.to_thread(process.wait_for, "the rule sleeps")
    return asking


def with_a_slow_rule(tmp_path, judge, **serve):
    rule = tmp_path / "slow.py"
    rule.write_text(
        "import logging, time\n"
        "def rule(completions, **_):\n"
        "    if 'rule' in completions:\n"
        "        logging.getLogger().error('the rule sleeps')\n"
        "        time.sleep(30)\n"
        "    return [0.0] * len(completions)\n"
    )
    rewards = [{"grm": {}}, {"path": f"{rule}:rule"}]
    return write_config(tmp_path, judge, reward={"rewards": rewards}, serve=serve)


OBSTACLES = [ask_and_read_nothing, send_half_a_body, occupy_a_thread]


async def end_by(process, signals, seconds):
    start_s = asyncio.get_running_loop().time()
    for _ in range(signals):
        process.kill(signal.SIGTERM)
        # Two at the same time may be one.
        await asyncio.sleep(0.2)
    code = await asyncio.to_thread(process.wait)
    assert asyncio.get_running_loop().time() - start_s < seconds
    return code


async def test_what_is_given_up_is_logged_as_that_and_not_as_a_mistake(judge, tmp_path):
    process = await start(write_config(tmp_path, judge, serve={"drain_s": 0.3}))
    url = f"{process.url}/v1/rewards"
    try:
        judge.may_answer.clear()
        bodies = ({"groups": [group("a")], "request_id": "named"}, {"groups": [group("b")]})
        asking = [asyncio.create_task(call(url, body)) for body in bodies]
        await until(lambda: len(judge.asked) == 2)
        assert await end_by(process, 1, 20) == 128 + signal.SIGTERM
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(one, aiohttp.ClientError) for one in found)
    finally:
        judge.may_answer.set()
        process.close()
    assert not [line for line in process.lines if "traceback" in line or "time" not in line]
    assert not [line for line in process.lines if "Traceback" in line["message"]]
    errors = [line["message"] for line in process.lines if line["level"] == "error"]
    # On a busy machine also that it ended at once.
    assert errors[0] == "ending with groups or connections in work: serve.drain_s has passed"
    requests = [line for line in process.lines if line["message"] == "request"]
    assert [line["status"] for line in requests] == [None, None]
    assert all("given up" in line["detail"] for line in requests)
    assert "named" in [line["request_id"] for line in requests]


@pytest.mark.parametrize("obstacle", OBSTACLES)
async def test_whatever_holds_it_a_server_ends_when_draining_does(obstacle, judge, tmp_path):
    process = await start(with_a_slow_rule(tmp_path, judge, drain_s=0.5))
    asking = None
    try:
        asking = await obstacle(judge, process)
        assert await end_by(process, 1, 20) == 128 + signal.SIGTERM
    finally:
        process.close()
        if asking is not None:
            asking.close()
    assert any("serve.drain_s has passed" in line["message"] for line in process.lines)


async def test_whatever_holds_it_a_second_signal_ends_a_server_at_once(judge, tmp_path):
    process = await start(with_a_slow_rule(tmp_path, judge))
    held = []
    try:
        for obstacle in OBSTACLES:
            held.append(await obstacle(judge, process))
        assert await end_by(process, 2, 20) == 128 + signal.SIGTERM
    finally:
        process.close()
        for asking in held:
            asking.close()
    assert "ending at once: a second signal" in [line["message"] for line in process.lines]


async def test_an_answer_that_is_read_late_is_delivered_whole(judge, tmp_path):
    process = await start(write_config(tmp_path, judge))
    asking = None
    try:
        asking = await ask_and_read_nothing(judge, process)
        process.kill(signal.SIGTERM)
        await asyncio.to_thread(process.wait_for, "Shutting down")
        reader, writer = await asyncio.open_connection(sock=asking)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert json.loads(body)["groups"][0]["rewards"] == [5.0]
        writer.close()
        assert await asyncio.to_thread(process.wait) == 0
    finally:
        process.close()


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
async def test_a_host_of_the_command_line_is_a_text(judge, tmp_path):
    path = write_config(tmp_path, judge, serve={"token_env": "SPCT_TEST_TOKEN"})
    process = await start(path, "--host", "::", env=SECRET)
    try:
        port = process.url.removeprefix("http://[::]:")
        assert (await call(f"http://[::1]:{port}/healthz"))[0] == 200
    finally:
        process.close()


async def test_every_line_of_the_log_is_json_and_names_the_request(judge, tmp_path):
    rule = tmp_path / "loud.py"
    rule.write_text(
        "import logging, warnings\n"
        "def rule(completions, **_):\n"
        "    warnings.warn('a warning')\n"
        "    try:\n"
        "        1 / 0\n"
        "    except ZeroDivisionError:\n"
        "        logging.getLogger('theirs').exception('two\\nlines')\n"
        "    return [0.0] * len(completions)\n"
    )
    rewards = [{"grm": {}}, {"path": f"{rule}:rule"}]
    process = await start(write_config(tmp_path, judge, reward={"rewards": rewards}))
    try:
        body = {"groups": [group("a", "b")], "request_id": "find-me", "run": "seven"}
        await call(f"{process.url}/v1/rewards", body)
        await call(f"{process.url}/v1/rewards", {"groups": []})
        process.kill(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
    finally:
        process.close()
    # What is no JSON is a line of nothing but a message.
    for line in process.lines:
        assert {"time", "level", "logger", "message"} <= set(line), line
    found = {line["logger"]: line for line in process.lines if line.get("request_id") == "find-me"}
    assert set(found) == {"spct_plugin.server", "theirs", "py.warnings"}
    line = found["spct_plugin.server"]
    expected = {"status": 200, "run": "seven", "groups": 1, "completions": 2, "repeated": False}
    assert line == line | expected
    assert found["theirs"]["message"] == "two\nlines"
    assert "ZeroDivisionError" in found["theirs"]["traceback"]
    assert "a warning" in found["py.warnings"]["message"]
    [refused] = [line for line in process.lines if line.get("status") == 422]
    assert "groups" in refused["detail"]


async def test_a_log_that_nobody_reads_stops_no_answer(judge, tmp_path):
    process = await start(write_config(tmp_path, judge))
    try:
        body = {"groups": [], "x" * 40: 1}
        for _ in range(20):
            # A pipe holds 64 KiB.
            posts = [call(f"{process.url}/v1/rewards", body) for _ in range(25)]
            statuses = [found[0] for found in await asyncio.wait_for(asyncio.gather(*posts), 60)]
            assert statuses == [422] * 25
        process.kill(signal.SIGTERM)
        await until(lambda: process.process.poll() is not None, seconds=60)
        assert process.process.returncode == 0
        lines = process.process.stderr.read().splitlines()
        assert sum(map(len, lines)) > 60_000
    finally:
        process.close()


async def test_ready_only_when_a_judgement_succeeded_and_not_while_the_last_ones_fail(serve, judge):
    judge.answer = lambda body: Reply(status=500)
    server = await serve()
    status, _, health = await call(f"{server.url}/readyz")
    assert (status, health["status"]) == (503, "not ready")
    assert (await call(f"{server.url}/healthz"))[0] == 200
    judge.answer = judge.judge
    await until(lambda: server.desk.is_ready)
    assert (await call(f"{server.url}/readyz"))[0] == 200
    judge.answer = lambda body: Reply(["nonsense"] * body["n"])
    for i in range(3):
        assert server.desk.is_ready
        await call(f"{server.url}/v1/rewards", {"groups": [group(f"a{i}")]})
    status, _, health = await call(f"{server.url}/readyz")
    assert status == 503
    assert "no_scores: 2" in health["detail"]
    judge.answer = judge.judge
    await until(lambda: server.desk.is_ready)


async def test_groups_in_a_hurry_do_not_make_the_judge_bad(serve, judge):
    server = await serve()
    await until(lambda: server.desk.is_ready)
    judge.delay_s = 0.2
    for i in range(4):
        body = {"groups": [group(f"a{i}")], "deadline_s": 0.02}
        await call(f"{server.url}/v1/rewards", body)
    assert server.desk.is_ready


def change(path, **sections):
    data = yaml.safe_load(path.read_text())
    for name, section in sections.items():
        data[name] = {**data.get(name, {}), **section} if isinstance(section, dict) else section
    path.write_text(yaml.safe_dump(data))


async def test_a_reload_changes_the_judge_and_the_version_but_not_inside_a_group(
    serve, judge, token, tmp_path
):
    server = await serve(serve=token)
    url = f"{server.url}/v1/rewards"
    before = server.desk.version
    judge.delay_s = 0.5
    waiting = asyncio.create_task(call(url, {"groups": [group("a", "b")]}, **BEARER))
    await until(lambda: judge.asked)
    judge.delay_s = 0
    change(tmp_path / "judge.yaml", vote={"k": 4})
    status, _, answer = await call(f"{server.url}/admin/reload", method="POST", **BEARER)
    assert (status, answer["before"]) == (200, before)
    assert answer["version"] == server.desk.version != before
    _, _, new = await call(url, {"groups": [group("a", "b")]}, **BEARER)
    _, _, old = await waiting
    assert (old["groups"][0]["k_used"], old["groups"][0]["version"]) == (2, before)
    assert (new["groups"][0]["k_used"], new["groups"][0]["version"]) == (4, answer["version"])


async def test_a_judge_that_does_not_judge_does_not_take_over(serve, judge, token, tmp_path):
    server = await serve(serve=token)
    before = server.desk.version
    change(tmp_path / "judge.yaml", engine={"url": "http://127.0.0.1:9/v1"}, vote={"k": 3})
    status, _, answer = await call(f"{server.url}/admin/reload", method="POST", **BEARER)
    assert status == 503
    assert "the old judge stays" in answer["detail"]
    assert server.desk.version == before
    url = f"{server.url}/v1/rewards"
    assert (await call(url, {"groups": [group("a", "b")]}, **BEARER))[0] == 200


@pytest.mark.parametrize(
    ("name", "section", "why"),
    [
        ("plugins", ["evil.py"], "needs a restart: a reload loads no new code"),
        ("serve", {"groups": 1}, "serve: changed; it is read at the start only"),
        ("store", {"path": "elsewhere"}, "store: changed; it is read at the start only"),
        ("reward", {"rewards": [{"grm": {}}, {"path": "evil.py:run"}]}, "loads no new code"),
    ],
)
async def test_a_reload_loads_no_code(name, section, why, serve, token, tmp_path):
    server = await serve(serve=token)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef run(**_): pass")
    change(tmp_path / "judge.yaml", **{name: section})
    status, _, answer = await call(f"{server.url}/admin/reload", method="POST", **BEARER)
    assert status == 400
    assert why in answer["detail"]
    assert not (tmp_path / "ran").exists()


async def test_a_file_that_is_wrong_changes_nothing(serve, token, tmp_path):
    server = await serve(serve=token)
    change(tmp_path / "judge.yaml", vote={"k": 0})
    status, _, answer = await call(f"{server.url}/admin/reload", method="POST", **BEARER)
    assert status == 400
    assert "vote.k" in answer["detail"]


async def test_an_answer_outlives_a_reload(serve, judge, token, tmp_path):
    server = await serve(serve=token)
    body = {"groups": [group("a", "b")], "request_id": "before"}
    first = await call(f"{server.url}/v1/rewards", body, **BEARER)
    change(tmp_path / "judge.yaml", sampling={"seed": 5})
    assert (await call(f"{server.url}/admin/reload", method="POST", **BEARER))[0] == 200
    assert (await call(f"{server.url}/v1/rewards", body, **BEARER))[2] == first[2]


async def test_answers_are_for_one_user_and_go_with_time(serve, tmp_path):
    store = tmp_path / "store"
    server = await serve(store={"path": str(store)}, serve={"keep_answers_s": 0.2})
    url = f"{server.url}/v1/rewards"
    await call(url, {"groups": [group("a")], "request_id": "old"})
    [file] = store.glob("*.answers")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await server.stop()
    await asyncio.sleep(0.3)
    server = await serve(store={"path": str(store)}, serve={"keep_answers_s": 0.2})
    assert not list(store.glob("*.answers*"))
    # The id is anybody's again.
    body = {"groups": [group("b")], "request_id": "old"}
    assert (await call(f"{server.url}/v1/rewards", body))[0] == 200
