"""The wire of `--reward.remote_url http://...`, spoken by OpenRLHF's own client code.

    POST {"query": [text], "prompts": [text], "labels": [any]}
    200  {"rewards": [number], "scores": [number], "extra_logs": {name: [number]}}

One entry per query, none for none. What has no reward is told by an error's status.
"""

import asyncio
import json
import logging
import statistics
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
import pytest

# Not "openrlhf", which would be found: it is the name of this folder, too.
pytest.importorskip("openrlhf.cli", reason="needs the extra `openrlhf`")

from aiohttp import web
from cpu_runs import run_cli
from executing import Engine, generate_responses
from judging_helpers import by_content
from openrlhf.utils import agent as openrlhf_agent
from openrlhf.utils.agent import SingleTurnAgentExecutor
from ppo_runs import GROUPS_PER_STEP, GRPO, PPO_RAY, N, chats, write_rows
from scripted_plugin import content_score
from serving import Running, judging, write_config

from spct_openrlhf import Completion, GroupScorer
from spct_plugin import RewardModel, SPCTConfig
from spct_plugin.testing import ScriptedEngine
from spct_plugin.tiny import MODELS

TEXTS = ["one park", "two parks", "three notes", "four cakes"]


def on_wire(results):
    """Put results into the answer's form: a list of each number, in the order of the queries."""
    names = results[0]["extra_logs"] if results else ()
    return {
        "rewards": [result["rewards"] for result in results],
        "scores": [result["scores"] for result in results],
        "extra_logs": {name: [result["extra_logs"][name] for result in results] for name in names},
    }


class RewardServer:
    """Answers as a server of ours will: each query is a completion judged alone.

    Attributes:
        bodies: All that was posted so far.
        headers: With which headers.
        results: What each query got.
        replies: Answers to give first, instead.
    """

    def __init__(self, tokenizer, replies=()):
        self.bodies, self.headers, self.results = [], [], []
        self.replies = list(replies)
        config = SPCTConfig.model_validate(
            {"template": {"name": "default"}, "vote": {"k": 1}, "reward": {"on_failure": "stop"}}
        )
        engine = ScriptedEngine(by_content(content_score))
        self._scorer = GroupScorer(config, RewardModel(config, engine=engine))
        self._tokenizer = tokenizer

    async def __aenter__(self):
        app = web.Application()
        app.router.add_post("/get_reward", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/get_reward"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def _answer(self, request):
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        if self.replies:
            reply = self.replies.pop(0)
            return await reply() if callable(reply) else reply
        reader = self._scorer.reader(self._tokenizer)
        results = []
        sent = (body["query"], body["prompts"], body["labels"])
        for query, prompt, label in zip(*sent, strict=True):
            text, is_whole = reader.completion(query, prompt)
            completion = Completion(text, is_whole=is_whole)
            results += await self._scorer.score(prompt, label, [completion], self._tokenizer)
        self.results += results
        return web.json_response(on_wire(results))


class _Instead:
    """A module with some of its names replaced."""

    def __init__(self, module, **names):
        self._module = module
        vars(self).update(names)

    def __getattr__(self, name):
        return getattr(self._module, name)


@pytest.fixture
def waits(monkeypatch):
    """Let OpenRLHF's client not wait between its tries; give how long it would have."""
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr(openrlhf_agent, "asyncio", _Instead(asyncio, sleep=sleep))
    return waited


@pytest.fixture
def log(caplog):
    """Read what OpenRLHF's client logged so far."""
    logger = logging.getLogger("openrlhf.utils.agent")
    logger.addHandler(caplog.handler)
    yield lambda: [r.getMessage() for r in caplog.records if r.name == logger.name]
    logger.removeHandler(caplog.handler)


async def roll(servers, tokenizer, prompt, texts=TEXTS, label=""):
    executor = SingleTurnAgentExecutor([server.url for server in servers])
    engine = Engine(texts, tokenizer)
    return await generate_responses(executor, engine, prompt, label, len(texts))


async def test_what_crosses(tokenizer, prompt):
    label = {"reference": "a note", "source": "web", "n": None}
    async with RewardServer(tokenizer) as server:
        outputs = await roll([server], tokenizer, prompt, label=label)
    expected = [
        {"query": [prompt + text + tokenizer.eos_token], "prompts": [prompt], "labels": [label]}
        for text in TEXTS
    ]
    assert sorted(server.bodies, key=str) == sorted(expected, key=str)
    assert {headers["Content-Type"] for headers in server.headers} == {"application/json"}
    assert not any("Authorization" in headers for headers in server.headers)
    for text, output in zip(TEXTS, outputs, strict=True):
        # Lists of one, as they came; the last test here shows that the trainer can take them.
        assert output["reward"] == [content_score(text)]
        assert output["scores"] == [pytest.approx((content_score(text) - 1) / 9)]
        assert output["extra_logs"]["spct_failed"] == [0.0]
        assert len(output["extra_logs"]) == 7


async def test_scalars_are_handed_on_as_well(tokenizer, prompt):
    answer = {"rewards": 7.0, "scores": 0.5, "extra_logs": {"spct_failed": 0.0}}
    async with RewardServer(tokenizer, [web.json_response(answer)]) as server:
        [output] = await roll([server], tokenizer, prompt, TEXTS[:1])
    assert (output["reward"], output["scores"]) == (7.0, 0.5)
    assert output["extra_logs"] == {"spct_failed": 0.0}


async def test_scores_may_be_left_out_but_rewards_not(tokenizer, prompt, log):
    replies = [web.json_response({"rewards": [7.0]}), web.json_response({"detail": "no reward"})]
    async with RewardServer(tokenizer, replies) as server:
        outputs = await roll([server], tokenizer, prompt, TEXTS[:2])
    found = sorted((str(output["reward"]), str(output["scores"])) for output in outputs)
    assert found == [("None", "None"), ("[7.0]", "[7.0]")]
    # The run ends without a word on why: errors need an error's status.
    assert log() == []


async def test_a_query_of_none_is_answered_with_none(tokenizer):
    """OpenRLHF up to 0.11.1 posts empty lists to every server but the first."""
    nothing = {"query": [], "prompts": [], "labels": []}
    async with (
        RewardServer(tokenizer) as server,
        aiohttp.ClientSession() as session,
        session.post(server.url, json=nothing) as response,
    ):
        assert response.status == 200
        assert await response.json() == {"rewards": [], "scores": [], "extra_logs": {}}


async def test_several_servers_take_turns_with_one_query_each(tokenizer, prompt):
    async with RewardServer(tokenizer) as first, RewardServer(tokenizer) as second:
        outputs = await roll([first, second], tokenizer, prompt)
    assert [output["reward"] for output in outputs] == [[content_score(text)] for text in TEXTS]
    for server in (first, second):
        assert [len(body["query"]) for body in server.bodies] == [1, 1]


@pytest.mark.parametrize("status", [400, 422, 500, 503])
async def test_errors_of_every_status_are_asked_again_four_times(
    status, tokenizer, prompt, waits, log
):
    def refuse():
        return web.Response(status=status, reason="the judge is down", text="a longer text")

    async with RewardServer(tokenizer, [refuse() for _ in range(5)]) as server:
        [output] = await roll([server], tokenizer, prompt, TEXTS[:1])
    assert (output["reward"], output["scores"], output["extra_logs"]) == (None, None, {})
    assert len(server.bodies) == 5
    assert waits == [1] * 5
    *tries, last = log()
    # Of an error the client shows the status line, never the body.
    said = f"Request error, please check: {status}, message='the judge is down', url='{server.url}'"
    assert tries == [said] * 5
    assert last == (
        "[SingleTurnExecutor] Failed to fetch reward from remote RM: Request error for 5 times, "
        "returning None. Please check the API server."
    )


async def test_an_error_that_passes_costs_a_second_per_try(tokenizer, prompt, waits):
    replies = [web.Response(status=500), web.Response(status=503)]
    async with RewardServer(tokenizer, replies) as server:
        [output] = await roll([server], tokenizer, prompt, TEXTS[:1])
    assert output["reward"] == [content_score(TEXTS[0])]
    assert len(server.bodies) == 3
    assert waits == [1, 1]


async def test_no_other_server_helps_out(tokenizer, prompt, waits):
    async with RewardServer(tokenizer) as up, RewardServer(tokenizer) as down:
        down.replies = [web.Response(status=503) for _ in range(10)]
        outputs = await roll([up, down], tokenizer, prompt)
    assert sorted(output["reward"] is None for output in outputs) == [False, False, True, True]
    assert (len(up.bodies), len(down.bodies)) == (2, 10)


async def test_an_answer_must_say_that_it_is_json(tokenizer, prompt, waits, log):
    answer = json.dumps({"rewards": [7.0]})
    async with RewardServer(tokenizer, [web.Response(text=answer) for _ in range(5)]) as server:
        [output] = await roll([server], tokenizer, prompt, TEXTS[:1])
    assert output["reward"] is None
    assert "unexpected mimetype: text/plain" in log()[0]


async def test_a_slow_answer_is_asked_for_again(tokenizer, prompt, waits, monkeypatch):
    """A server must know a query again, or a slow judge judges it five times."""
    totals = []

    def shorter(total):
        totals.append(total)
        return aiohttp.ClientTimeout(total=0.3)

    async def slow():
        await asyncio.sleep(60)

    monkeypatch.setattr(openrlhf_agent, "aiohttp", _Instead(aiohttp, ClientTimeout=shorter))
    async with RewardServer(tokenizer, [slow]) as server:
        [output] = await roll([server], tokenizer, prompt, TEXTS[:1])
    assert output["reward"] == [content_score(TEXTS[0])]
    assert totals == [180]
    assert server.bodies == [server.bodies[0]] * 2


@asynccontextmanager
async def serving_at(folder, tokenizer):
    """Run `spct serve`'s server for a policy's tokenizer; give its judge and itself."""
    wire = {"tokenizer": tokenizer, "fallback": "group_mean"}
    async with judging() as judge:
        server = Running(write_config(folder, judge, vote={"k": 1}, openrlhf=wire))
        try:
            yield judge, await server.started()
        finally:
            await server.stop()


async def test_our_server_answers_openrlhfs_client(tokenizer, policy, prompt, tmp_path, log):
    async with serving_at(tmp_path, str(policy)) as (judge, server):
        address = SimpleNamespace(url=f"{server.url}/get_reward")
        outputs = await roll([address], tokenizer, prompt, label={"reference": "a note"})
    assert [output["reward"] for output in outputs] == [[content_score(text)] for text in TEXTS]
    assert [output["extra_logs"]["spct_failed"] for output in outputs] == [[0.0]] * len(TEXTS)
    assert judge.asked == {(text,): 1 for text in TEXTS}
    assert log() == []


@pytest.mark.slow
async def test_openrlhf_trains_on_what_our_server_answers(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", chats(range(2 * GROUPS_PER_STEP)))
    async with serving_at(tmp_path, str(MODELS / "policy")) as (judge, server):
        url = f"{server.url}/get_reward"
        flags = PPO_RAY | GRPO | {"--data.prompt_dataset": rows, "--reward.remote_url": url}
        run = await asyncio.to_thread(run_cli, "train_ppo_ray", tmp_path, flags)
    assert run.exit_code == 0, run.log[-5000:]
    means = run.scalars["train/rollout/reward_mean"].values()
    rewards = [content_score(text) for (text,) in judge.asked.elements()]
    assert statistics.mean(means) == pytest.approx(statistics.mean(rewards), abs=1e-6)
    assert len(rewards) == 2 * GROUPS_PER_STEP * N


@pytest.mark.slow
async def test_openrlhf_trains_on_what_is_answered(tmp_path):
    from transformers import AutoTokenizer

    rows = write_rows(tmp_path / "rows.jsonl", chats(range(2 * GROUPS_PER_STEP)))
    async with RewardServer(AutoTokenizer.from_pretrained(MODELS / "policy")) as server:
        flags = PPO_RAY | GRPO | {"--data.prompt_dataset": rows, "--reward.remote_url": server.url}
        run = await asyncio.to_thread(run_cli, "train_ppo_ray", tmp_path, flags)
    assert run.exit_code == 0, run.log[-5000:]
    size = GROUPS_PER_STEP * N
    assert len(server.results) == 2 * size
    for step in (1, 2):
        rewards = [r["rewards"] for r in server.results[(step - 1) * size : step * size]]
        mean = pytest.approx(statistics.mean(rewards), abs=1e-6)
        assert run.scalars["train/rollout/reward_mean"][step] == mean
        assert run.scalars["train/reward"][step] == mean
        assert run.scalars["train/spct_failed"][step] == 0
        assert run.scalars["train/actor_grad_norm"][step] > 0
