"""What the server accepts, how long groups wait, and what a reload may bring in."""

import asyncio
import logging
import sys

import pytest
import yaml
from server_process import ServerProcess, start_all
from serving import BEARER, call, group, until, write_config

from spct_plugin import ConfigError, JudgeTask, RewardModel, SPCTConfig, TaskError
from spct_plugin.client import RewardClient
from spct_plugin.errors import EngineError
from spct_plugin.sections import RemoteConfig, ServeConfig
from spct_plugin.server.desk import Desk
from spct_plugin.server.room import LONGEST_RETRY_S, BusyError, Room
from spct_plugin.testing import Reply, ScriptedEngine


def change(path, **sections):
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | sections))


def room(**limits):
    return Room(ServeConfig(**limits))


def test_what_never_finds_room_is_told_so_and_not_to_come_back():
    one = room(at_once=2, waiting=3, per_run=4)
    with pytest.raises(TaskError, match=r"at most 4 groups in a request .*found 5"):
        one.take("", 5)
    with pytest.raises(TaskError, match="at most 5 groups"):
        room(at_once=2, waiting=3, per_run=99).take("", 6)
    assert one.groups == 0
    one.take("", 4)


def test_what_finds_no_room_now_may_come_back():
    one = room(at_once=2, waiting=3, per_run=4)
    one.take("a", 3)
    with pytest.raises(BusyError, match="run 'a' has 3 groups in work of 4"):
        one.take("a", 2)
    one.take("b", 2)
    with pytest.raises(BusyError, match="5 groups are in work, room is for 5") as caught:
        one.take("c", 1)
    assert caught.value.retry_after_s == 1
    one.learn(7.5)
    with pytest.raises(BusyError) as caught:
        one.take("c", 1)
    assert caught.value.retry_after_s == 8
    one.learn(1e9)
    with pytest.raises(BusyError) as caught:
        one.take("c", 1)
    assert caught.value.retry_after_s == LONGEST_RETRY_S
    one.give_back("a", 3)
    one.take("c", 3)
    assert one.groups == 5


def test_probes_are_the_trainers(tmp_path):
    path = tmp_path / "judge.yaml"
    path.write_text("probes: {every: 5}")
    with pytest.raises(ConfigError, match=r"probes\.every: the trainer's side measures"):
        Desk(path)


async def test_too_many_groups_for_the_quota_are_refused_for_good(serve):
    server = await serve(serve={"per_run": 3})
    groups = [group(f"text {i}") for i in range(4)]
    status, headers, answer = await call(f"{server.url}/v1/rewards", {"groups": groups})
    assert status == 422
    assert "serve.per_run" in answer["detail"]
    assert "Retry-After" not in headers


async def test_the_servers_own_deadline_counts_from_the_arrival(serve, judge):
    """Also while a group waits for its turn: five groups, one at a time, all late at once."""
    server = await serve(serve={"at_once": 1}, vote={"deadline_s": 1})
    judge.delay_s = 30
    start = asyncio.get_running_loop().time()
    asked = [call(f"{server.url}/v1/rewards", {"groups": [group(f"{i}")]}) for i in range(5)]
    for status, _, answer in await asyncio.gather(*asked):
        assert status == 200
        assert answer["groups"][0]["failures"] == {"deadline": 2}
    assert asyncio.get_running_loop().time() - start < 3


async def test_a_server_that_is_too_slow_for_its_own_deadline_is_not_ready(serve, judge):
    server = await serve(vote={"deadline_s": 0.3}, serve={"probe_s": 60})
    await until(lambda: server.desk.is_ready)
    judge.delay_s = 30
    for hurry in ({"deadline_s": 0.01}, {}):
        assert server.desk.is_ready
        for i in range(3):
            body = {"groups": [group(f"{hurry} {i}")], **hurry}
            await call(f"{server.url}/v1/rewards", body)
    assert not server.desk.is_ready


async def test_what_the_old_judge_finishes_after_a_reload_the_new_one_finds(
    serve, judge, token, tmp_path
):
    server = await serve(serve=token, store={"path": str(tmp_path / "store")})
    url = f"{server.url}/v1/rewards"
    judge.delay_s = 0.7
    body = {"groups": [group("a", "b")]}
    waiting = asyncio.create_task(call(url, body, **BEARER))
    await until(lambda: judge.asked)
    judge.delay_s = 0
    status, _, _ = await call(f"{server.url}/admin/reload", method="POST", **BEARER)
    assert status == 200
    _, _, first = await waiting
    _, _, again = await call(url, body, **BEARER)
    assert again["groups"][0]["rewards"] == first["groups"][0]["rewards"]
    assert dict(judge.asked) == {("a", "b"): 2}


async def test_a_reload_forgets_what_was_wrong_with_the_old_judge(serve, judge, token):
    server = await serve(serve={**token, "probe_s": 60})
    await until(lambda: server.desk.is_ready)
    judge.answer = lambda body: Reply(["I like them."] * body["n"])
    for i in range(3):
        await call(f"{server.url}/v1/rewards", {"groups": [group(f"{i}")]}, **BEARER)
    assert not server.desk.is_ready
    judge.answer = judge.judge
    status, _, _ = await call(f"{server.url}/admin/reload", method="POST", **BEARER)
    assert (status, server.desk.is_ready) == (200, True)


async def test_a_trial_that_ends_while_draining_says_nothing(judge, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    desk = Desk(write_config(tmp_path, judge))
    tried = asyncio.Event()

    async def try_judge(model):
        desk.draining = True
        tried.set()
        return ""

    monkeypatch.setattr("spct_plugin.server.desk.try_judge", try_judge)
    trying = asyncio.create_task(desk.keep_trying())
    await tried.wait()
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    await desk.aclose()
    assert "ready" not in caplog.messages


async def test_a_fresh_answer_is_kept_nowhere(serve, judge, tmp_path):
    server = await serve(store={"path": str(tmp_path / "store")})
    body = {"groups": [group("a", "b")], "fresh": True, "request_id": "x", "judgements": True}
    for _ in range(2):
        assert (await call(f"{server.url}/v1/rewards", body))[0] == 200
    # Asked again under its id it is the same; on disk there is nothing of it.
    assert dict(judge.asked) == {("a", "b"): 2}
    assert not list((tmp_path / "store").glob("*.answers"))


async def test_a_reload_meets_no_plugin_that_was_installed_meanwhile(
    serve, token, tmp_path, monkeypatch
):
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.delenv("SPCT_LOAD_PLUGINS", raising=False)
    server = await serve(serve=token)
    info = site / "late-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spct_plugin]\nlate = late_plugin_of_a_test\n")
    (site / "late_plugin_of_a_test.py").write_text("")
    status, _, _ = await call(f"{server.url}/admin/reload", method="POST", **BEARER)
    assert status == 200
    assert "late_plugin_of_a_test" not in sys.modules


async def test_the_judges_servers_sleep_and_wake_through_the_server(serve, token):
    """Groups wait meanwhile; the client needs the token for it."""
    vllm = ServerProcess()
    await asyncio.to_thread(start_all, [vllm])
    try:
        vllm.behave(dev=True)
        server = await serve(serve=token, engine={"url": vllm.url})
        remote = {"url": server.url, "token_env": "SPCT_TEST_TOKEN"}
        model = RewardModel(SPCTConfig.model_validate({"server": remote}))
        await model.sleep(level=2)
        waiting = asyncio.create_task(model.score([JudgeTask("Say.", ["say 7", "say 3"])]))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        assert [state.state for state in server.desk.model.endpoints()] == ["asleep"]
        await model.wake()
        [found] = await waiting
        assert found.rewards == (7.0, 3.0)
        assert [path for path, _ in vllm.seen()["sleeps"]] == ["/sleep?level=2", "/wake_up"]
        async with RewardClient(RemoteConfig(url=server.url)) as stranger:
            with pytest.raises(EngineError, match="401"):
                await stranger.sleep()
        vllm.behave(dev=False)
        with pytest.raises(EngineError, match="503"):
            await model.sleep()
        await model.aclose()
    finally:
        vllm.kill()


async def test_a_judge_in_the_process_cannot_sleep():
    model = RewardModel(engine=ScriptedEngine("Scores: \\boxed{5}"))
    with pytest.raises(ConfigError, match="expected an engine behind HTTP"):
        await model.sleep()
    await model.wake()


async def test_a_reload_runs_no_model_code(serve, token, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (model / "config.json").write_text('{"auto_map": {"AutoConfig": "evil.Config"}}')
    server = await serve(serve=token)
    engine = {"kind": "transformers", "model": str(model), "trust_remote_code": True}
    change(tmp_path / "judge.yaml", engine=engine)
    status, _, answer = await call(f"{server.url}/admin/reload", method="POST", **BEARER)
    assert status == 400
    assert "engine: changed, which needs a restart" in answer["detail"]
    assert not (tmp_path / "ran").exists()
