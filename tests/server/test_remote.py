"""`server: {url}`: RewardModel and the adapters through a server, and what the client believes."""

import asyncio
import json
import math
from contextlib import suppress

import pytest
import yaml
from aiohttp import web
from scripted_plugin import content_score
from serving import TOKEN

from spct_plugin import ConfigError, EngineError, JudgeTask, RewardError, RewardModel, SPCTConfig
from spct_plugin.client import RewardClient
from spct_plugin.sections import RemoteConfig
from spct_plugin.server.wire import GroupRequest
from spct_plugin.store import read_groups
from spct_plugin.testing import Reply

TEXTS = ("one park", "two parks", "three notes")
SCORES = tuple(float(content_score(text)) for text in TEXTS)
TASK = JudgeTask("Write a note.", TEXTS)


def client_config(at, /, **sections):
    remote = {"url": at.url, **sections.pop("server", {})}
    return SPCTConfig.model_validate({"server": remote, **sections})


async def test_a_model_behind_a_server_gives_what_the_judge_gives(serve):
    server = await serve()
    here = RewardModel(server.desk.config)
    there = RewardModel(client_config(server))
    results = []
    for model in (here, there):
        [group] = await model.score([TASK], keep_judgements=True)
        results.append(group)
        await model.aclose()
    assert results[0].rewards == results[1].rewards == SCORES
    for name in ("means", "sums", "votes", "spread", "k", "k_used", "failures", "version", "task"):
        assert getattr(results[0], name) == getattr(results[1], name), name
    for one, other in zip(results[0].judgements, results[1].judgements, strict=True):
        for name in ("indices", "order", "scores", "text", "principles", "critique", "version"):
            assert getattr(one, name) == getattr(other, name), name
    assert (there.scale, there.version, there.middle) == ((1, 10), here.version, 5.5)


async def test_shape_rules_and_policy_are_the_clients(serve, judge, tmp_path):
    (tmp_path / "rules.py").write_text(
        "def long(completions, **_):\n    return [100] * len(completions)"
    )
    server = await serve(vote={"k": 4})
    rules = [{"grm": {}, "weight": 2}, {"path": f"{tmp_path / 'rules.py'}:long", "weight": 1}]
    model = RewardModel(client_config(server, reward={"scale": "sum", "rewards": rules}))
    [found] = await model.score([TASK])
    assert found.rewards == tuple(2 * 4 * score + 100 for score in SCORES)
    assert model.middle == 2 * 4 * 5.5
    judge.answer = lambda body: Reply(["nothing"] * body["n"])
    with pytest.raises(RewardError, match="4 of 4 judgements of this step have no usable scores"):
        await model.score([JudgeTask("Another.", ["a", "b"])])
    await model.aclose()


async def test_a_clients_store_holds_texts_for_its_reports(serve, tmp_path):
    server = await serve()
    model = RewardModel(client_config(server, store={"path": str(tmp_path / "client")}))
    await model.score([TASK])
    await model.aclose()
    [record] = read_groups(tmp_path / "client")
    assert all("boxed" in judgement["text"] for judgement in record["judgements"])


async def test_measuring_is_past_the_servers_store(serve, judge, tmp_path):
    server = await serve(store={"path": str(tmp_path / "server")})
    model = RewardModel(client_config(server))
    for _ in range(2):
        await model.vote([TASK])
    once = sum(judge.asked.values())
    for times in (2, 3):
        [votes] = await model.measuring().vote([TASK])
        assert sum(judge.asked.values()) == times * once
    assert votes.tally == (await model.vote([TASK]))[0].tally
    assert sum(judge.asked.values()) == 3 * once
    await model.aclose()
    # The others, unless the last one is still being written.
    assert len([*read_groups(tmp_path / "server")]) in (2, 3)


async def test_a_server_that_is_down_is_infrastructure(unused_url):
    model = RewardModel(client_config(unused_url, server={"patience_s": 0.5}))
    [votes] = await model.vote([TASK])
    assert votes.failures == {"engine_error": 1}
    assert votes.tally.means == (None,) * 3
    assert "cannot connect" in votes.judgements[0].detail
    with pytest.raises(RewardError, match="failed in infrastructure"):
        model.check_step([votes])
    with pytest.raises(RewardError, match="has not judged anything yet"):
        model.scale  # noqa: B018
    await model.aclose()


@pytest.fixture
def unused_url(unused_tcp_port):
    class Nowhere:
        url = f"http://127.0.0.1:{unused_tcp_port}"

    return Nowhere


async def test_a_deadline_crosses_and_late_votes_are_missing(serve, judge):
    server = await serve(vote={"k": 2})
    model = RewardModel(client_config(server, vote={"deadline_s": 0.5}))
    judge.delay_s = 30
    start = asyncio.get_running_loop().time()
    [votes] = await model.vote([TASK])
    assert asyncio.get_running_loop().time() - start < 4
    assert votes.failures == {"deadline": 2}
    await model.aclose()


async def test_refusals_that_may_pass_are_asked_again(serve, judge):
    server = await serve(serve={"at_once": 1, "waiting": 0})
    judge.delay_s = 0.1
    model = RewardModel(client_config(server))
    groups = await model.score([JudgeTask("Write.", [f"text {i}"]) for i in range(4)])
    assert [group.rewards for group in groups] == [(content_score(f"text {i}"),) for i in range(4)]
    assert sum(judge.asked.values()) == 8
    await model.aclose()


async def test_the_token_is_sent_and_a_wrong_one_is_final(serve, monkeypatch):
    monkeypatch.setenv("SPCT_TEST_TOKEN", TOKEN)
    server = await serve(serve={"token_env": "SPCT_TEST_TOKEN"})
    ask = [GroupRequest(prompt="a", completions=["b"])]
    async with RewardClient(RemoteConfig(url=server.url, token_env="SPCT_TEST_TOKEN")) as client:
        assert (await client.rewards(ask)).groups[0].rewards == [content_score("b")]
    async with RewardClient(RemoteConfig(url=server.url)) as client:
        with pytest.raises(EngineError, match=r"401: it wants a token; .*token_env") as caught:
            await client.rewards(ask)
    assert not caught.value.retryable
    monkeypatch.setenv("SPCT_TEST_TOKEN", "another token of 30 characters")
    async with RewardClient(RemoteConfig(url=server.url, token_env="SPCT_TEST_TOKEN")) as client:
        with pytest.raises(EngineError, match=r"401: the token in 'SPCT_TEST_TOKEN' .* is not the"):
            await client.rewards(ask)
    monkeypatch.delenv("SPCT_TEST_TOKEN")
    with pytest.raises(ConfigError, match="variable 'SPCT_TEST_TOKEN' is not set"):
        RewardClient(RemoteConfig(url=server.url, token_env="SPCT_TEST_TOKEN"))
    with pytest.raises(ConfigError, match="expected the server's address"):
        RewardClient(RemoteConfig())


class Liar:
    """A server whose answers a test makes; `replies` come first, None = the connection breaks."""

    def __init__(self, change):
        self.change = change
        self.bodies = []
        self.replies = []

    async def __aenter__(self):
        app = web.Application()
        app.router.add_post("/v1/rewards", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def _answer(self, request):
        body = await request.json()
        self.bodies.append(body)
        if self.replies:
            reply = self.replies.pop(0)
            if callable(reply):
                return await reply(request)
            if reply is None:
                request.transport.abort()
                return web.Response()
            return reply
        n = len(body["groups"][0]["completions"])
        judgement = {
            "vote": 0, "indices": list(range(n)), "order": list(range(n)), "scores": [5] * n,
            "failure": None, "detail": "", "counted": True, "meta_score": None, "tokens": 1,
            "seconds": 0.1, "finish_reason": "stop", "key": "", "principles": [], "critique": "",
            "text": "t",
        }  # fmt: skip
        found = {
            "id": None, "rewards": [5.0] * n, "means": [5.0] * n, "sums": [5.0] * n,
            "votes": [1] * n, "spread": [0.0] * n, "k": 1, "k_used": 1, "failures": {},
            "tokens": 1, "seconds": 0.1, "scale": [1, 10], "version": "v", "task": "d",
            "judgements": [judgement],
        }  # fmt: skip
        answer = {"request_id": body["request_id"], "groups": [found]}
        self.change(answer, found, judgement)
        return web.Response(text=json.dumps(answer), content_type="application/json")


LIES = {
    "another id": (lambda a, g, j: a.update(request_id="other"), "expected the answer to"),
    "NaN": (lambda a, g, j: g.update(means=[math.nan, 5.0]), "answer is none"),
    "infinity": (lambda a, g, j: g.update(rewards=[math.inf, 5.0]), "answer is none"),
    "out of range": (lambda a, g, j: g.update(means=[50.0, 5.0]), "expected means in 1..10"),
    "one too few": (lambda a, g, j: g.update(spread=[0.0]), "expected 2 of each"),
    "another n": (
        lambda a, g, j: (
            [g.update({c: g[c][:1]}) for c in ("rewards", "means", "sums", "votes", "spread")],
            j.update(indices=[0], order=[0], scores=[5]),
        ),
        "expected ids and completions",
    ),
    "no group": (lambda a, g, j: a.update(groups=[]), "expected ids and completions"),
    "a mean of no vote": (lambda a, g, j: g.update(votes=[0, 1]), "wherever there are votes"),
    "no judgements": (lambda a, g, j: g.update(judgements=None), "expected the judgements"),
    "scores of another": (lambda a, g, j: j.update(scores=[5, 11]), "expected scores in 1..10"),
    "an index of nobody": (lambda a, g, j: j.update(indices=[0, 7], order=[7, 0]), "indices"),
    "a failure and scores": (lambda a, g, j: j.update(failure="refused"), "scores or a failure"),
    "one score": (lambda a, g, j: j.update(scores=[5]), "expected 2 scores"),
    "an unknown failure": (lambda a, g, j: g.update(failures={"bored": 1}), "answer is none"),
}


@pytest.mark.parametrize("name", LIES)
async def test_what_cannot_be_is_not_believed(name):
    change, reason = LIES[name]
    async with Liar(change) as server:
        model = RewardModel(client_config(server))
        [votes] = await model.vote([JudgeTask("a", ["b", "c"])])
        await model.aclose()
    assert votes.tally.means == (None, None)
    assert votes.failures == {"engine_error": 1}
    assert reason in votes.judgements[0].detail
    assert len(server.bodies) == 1


async def test_what_may_pass_is_asked_again_under_the_same_id():
    async with Liar(lambda *_: None) as server:
        server.replies = [
            None,
            web.Response(status=503),
            web.Response(status=429, headers={"Retry-After": "0"}),
            web.Response(status=408),
        ]
        model = RewardModel(client_config(server, server={"run": "seven"}))
        [votes] = await model.vote([JudgeTask("a", ["b", "c"])])
        await model.aclose()
    assert votes.tally.means == (5.0, 5.0)
    assert len(server.bodies) == 5
    assert len({body["request_id"] for body in server.bodies}) == 1
    assert {body["run"] for body in server.bodies} == {"seven"}


@pytest.mark.parametrize(("status", "failure"), [(413, "too_long"), (422, "engine_error")])
async def test_what_cannot_pass_is_final(status, failure):
    async with Liar(lambda *_: None) as server:
        server.replies = [web.Response(status=status, text="no")]
        model = RewardModel(client_config(server))
        [votes] = await model.vote([JudgeTask("a", ["b", "c"])])
        await model.aclose()
    assert votes.failures == {failure: 1}
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("task", "limit"),
    [
        (JudgeTask("a", ["b" * 101]), "serve.text_chars"),
        (JudgeTask("a", ["b"] * 4), "serve.completions"),
        (JudgeTask("a" * 3000, ["b"]), "serve.body_bytes"),
    ],
)
async def test_what_is_larger_than_allowed_is_no_outage(task, limit, serve):
    server = await serve(serve={"text_chars": 100, "completions": 3, "body_bytes": 2000})
    model = RewardModel(client_config(server))
    [votes] = await model.vote([task])
    await model.aclose()
    assert votes.failures == {"too_long": 1}
    assert limit in votes.judgements[0].detail


async def test_what_cannot_be_sent_is_no_outage():
    deep = json.loads("[" * 150 + "]" * 150)
    turn = {"role": "assistant", "content": "", "tool_calls": [{"a": deep}]}
    async with Liar(lambda *_: None) as server:
        model = RewardModel(client_config(server))
        [votes] = await model.vote([JudgeTask("a", [[turn]])])
        await model.aclose()
    assert votes.failures == {"too_long": 1}
    assert not server.bodies


async def test_a_failed_rule_is_not_judged_again_and_again(serve, judge, tmp_path):
    (tmp_path / "rules.py").write_text("def nan(completions, **_):\n    return [float('nan')]")
    rules = [{"grm": {}}, {"path": f"{tmp_path / 'rules.py'}:nan"}]
    server = await serve(reward={"rewards": rules})
    async with RewardClient(RemoteConfig(url=server.url, patience_s=5)) as client:
        with pytest.raises(EngineError, match=r"422: .*rules\.py:nan") as caught:
            await client.rewards([GroupRequest(prompt="a", completions=["b"])])
    assert not caught.value.retryable
    assert sum(judge.asked.values()) == 2


async def test_nobody_is_sent_elsewhere_with_what_is_judged():
    async with Liar(lambda *_: None) as server:
        server.replies = [web.Response(status=307, headers={"Location": "http://127.0.0.1:9/x"})]
        async with RewardClient(RemoteConfig(url=server.url)) as client:
            with pytest.raises(EngineError, match="answered 307"):
                await client.rewards([GroupRequest(prompt="a", completions=["b"])])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"detail": "send\\nfewer", "request_id": null}', "send fewer"),
        ('{"detail": [1]}', '{"detail": [1]}'),
        ("[" * 100_000, "[" * 200),
        ("<h1>Bad gateway</h1>", "<h1>Bad gateway</h1>"),
    ],
)
async def test_a_refusal_is_one_line_of_what_was_said(body, said):
    async with Liar(lambda *_: None) as server:
        server.replies = [web.Response(status=422, text=body)]
        async with RewardClient(RemoteConfig(url=server.url)) as client:
            with pytest.raises(EngineError) as caught:
                await client.rewards([GroupRequest(prompt="a", completions=["b"])])
    assert str(caught.value) == f"{server.url}/v1/rewards answered 422: {said}"


async def test_patience_ends_a_try_too():
    async def never(_):
        await asyncio.sleep(30)

    async with Liar(lambda *_: None) as server:
        server.replies = [never]
        config = RemoteConfig(url=server.url, patience_s=0.3, request_timeout_s=4)
        start = asyncio.get_running_loop().time()
        async with RewardClient(config) as client:
            with pytest.raises(EngineError, match="no answer in time") as caught:
                await client.rewards([GroupRequest(prompt="a", completions=["b"])])
        assert asyncio.get_running_loop().time() - start < 3
    assert caught.value.retryable


@pytest.mark.parametrize("status", [200, 503])
async def test_an_answer_without_end_is_not_read(status, monkeypatch):
    monkeypatch.setattr("spct_plugin.client.LONGEST_ANSWER", 2**20)

    async def endless(request):
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b" " * 10_000)
        return response

    async with Liar(lambda *_: None) as server:
        server.replies = [endless]
        async with RewardClient(RemoteConfig(url=server.url, patience_s=5)) as client:
            asked = client.rewards([GroupRequest(prompt="a", completions=["b"])])
            if status == 503:
                # Its beginning says enough: asked again, there is an answer.
                assert (await asked).groups[0].means == [5.0]
                return
            with pytest.raises(EngineError, match="an answer of at most 1 MiB") as caught:
                await asked
    assert not caught.value.retryable


async def test_a_lost_group_weighs_as_much_as_a_judged_one(serve, judge):
    server = await serve(vote={"k": 4})
    model = RewardModel(client_config(server, server={"patience_s": 0.3}))
    await model.score([TASK])
    await server.stop()
    [lost] = await model.vote([TASK])
    assert lost.failures == {"engine_error": 4}
    await model.aclose()


async def test_half_a_character_can_be_sent(serve):
    server = await serve()
    model = RewardModel(client_config(server))
    [found] = await model.score([JudgeTask("a\ud800", ["b\udfff"])])
    assert found.rewards == (content_score("b\ufffd"),)
    await model.aclose()


@pytest.mark.parametrize(
    "section",
    [
        {"engine": {"kind": "openai", "url": "http://a/v1", "model": "m"}},
        {"meta_rm": {"model": "tiny"}},
        {"template": {"nonce": False}},
        {"sampling": {"seed": 1}},
        {"vote": {"k": 4}},
        {"budget": {"completion_view": "full"}},
    ],
)
def test_the_judge_stands_in_one_place(section):
    data = {"server": {"url": "http://a"}, **section}
    with pytest.raises(ValueError, match=f"leave out {next(iter(section))}"):
        SPCTConfig.model_validate(data)


def test_a_clients_configuration_can_be_printed_and_read_again(tmp_path):
    config = SPCTConfig.model_validate({"server": {"url": "http://a/"}, "vote": {"deadline_s": 5}})
    assert config.server.url == "http://a"
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(config.with_bundled_meta_rm().model_dump(mode="json")))
    assert SPCTConfig.load(path) == config
    with pytest.raises(ConfigError, match=r"expected http://host:port, found 'judge:8700'"):
        SPCTConfig.load(overrides=["server.url=judge:8700"])


async def test_files_are_judged_where_the_judge_stands(serve, tmp_path, spct):
    server = await serve()
    (tmp_path / "tasks.jsonl").write_text(json.dumps({"id": "a", **TASK.as_dict()}))
    (tmp_path / "client.yaml").write_text(yaml.safe_dump({"server": {"url": server.url}}))
    run = ("judge", "tasks.jsonl", "-o", "out.jsonl", "-c", "client.yaml")
    code, _, errors = await asyncio.to_thread(spct, *run)
    assert code == 2
    assert "`spct judge` and `spct eval` need the judge's own configuration" in errors


async def test_trls_reward_function_works_through_a_server(serve, judge, tmp_path):
    spct_trl = pytest.importorskip("spct_trl")
    server = await serve()
    path = tmp_path / "client.yaml"
    path.write_text(yaml.safe_dump({"server": {"url": server.url}, "trl": {"group_size": 3}}))
    reward = spct_trl.make_reward(path)
    metrics, extra = {}, {}
    rewards = await reward(
        prompts=["Write a note."] * 3 + ["Write two."] * 3,
        completions=[*TEXTS, *TEXTS[::-1]],
        log_metric=metrics.__setitem__,
        log_extra=extra.__setitem__,
    )
    assert rewards == [*SCORES, *SCORES[::-1]]
    assert metrics["grm_reward/votes"] == 2
    assert metrics["grm_reward/parse_rate"] == 1
    assert all("boxed" in text for text in extra["grm_reward/judgement"])
    judge.answer = lambda body: Reply(status=400)
    with pytest.raises(RewardError, match="failed in infrastructure"):
        await reward(prompts=["More."] * 3, completions=list(TEXTS))
    await reward._model.aclose()


async def test_openrlhfs_scorer_works_through_a_server(serve, judge):
    spct_openrlhf = pytest.importorskip("spct_openrlhf", reason="needs `packaging`")
    server = await serve()
    config = client_config(
        server, openrlhf={"prompts": "text"}, reward={"on_failure": "group_mean"}
    )
    scorer = spct_openrlhf.GroupScorer(config)
    completions = [spct_openrlhf.Completion(text) for text in TEXTS]
    results = await scorer.score("Write a note.", "", completions, None)
    assert tuple(result["rewards"] for result in results) == SCORES
    judge.answer = lambda body: Reply(["nothing"] * body["n"])
    [result] = await scorer.score("Another.", "", completions[:1], None)
    assert (result["rewards"], result["extra_logs"]["spct_failed"]) == (5.5, 1.0)
    await scorer._model.aclose()
