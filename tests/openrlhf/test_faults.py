"""A judge that is down, slow, or talks nonsense: what the trainer gets, and what the log says.

docs/openrlhf.md has the same as a table.
"""

import asyncio
import json
import logging
import re
import time

import pytest

# Not "openrlhf", which would be found: it is the name of this folder, too.
pytest.importorskip("openrlhf.cli", reason="needs the extra `openrlhf`")

from cpu_runs import run_cli
from executing import Engine, generate_responses
from judge_server import JudgeServer, completions, judged
from openrlhf.utils.agent import SingleTurnAgentExecutor
from ppo_runs import AGENT, ASYNC, GROUPS_PER_STEP, GRPO, PPO_RAY, REWARD_FILE, chats, write_rows
from scripted_plugin import content_score

from spct_openrlhf_agent import AgentExecutor
from spct_plugin import RewardError
from spct_plugin.engines import http
from spct_plugin.loop import run_sync
from spct_plugin.testing import Reply
from spct_plugin.tiny import MODELS

N, K = 4, 4  # so that every vote is a request of its own, and shows another completion first
MIDDLE = 5.5
SLOW = Reply(["too late"], delay_s=60)
# A hanging test ends with this, not with the patience of whoever waits for it.
LONGEST_S = 120


@pytest.fixture(autouse=True)
def short_waits(request, monkeypatch):
    """Keep the shape of the back-off and shrink its 31 seconds to a third of one."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(http, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def judge():
    server = JudgeServer()
    yield server
    server.close()


@pytest.fixture
def configured(config_file, monkeypatch, judge, policy):
    """Write the configuration that SPCT_CONFIG names: a judge behind HTTP."""

    def write(engine=(), **sections):
        path = config_file(
            engine={"kind": "openai", "url": judge.url, "model": "grm", **dict(engine)},
            openrlhf={"fallback": "group_mean", "tokenizer": str(policy)},
            **{"vote": {"k": K}, **sections},
        )
        monkeypatch.setenv("SPCT_CONFIG", str(path))

    return write


@pytest.fixture
async def agent(configured, tokenizer, prompt):
    """Make the agent as OpenRLHF does; give what rolls groups out together, as a step does.

    For each group it gives the outputs, or what was raised.
    """
    made = []

    def make(**sections):
        configured(**sections)
        executor = AgentExecutor()
        made.append(executor)

        async def roll(*groups):
            rollouts = [
                generate_responses(executor, Engine(texts(group), tokenizer), prompt, "", N)
                for group in groups
            ]
            async with asyncio.timeout(LONGEST_S):
                return await asyncio.gather(*rollouts, return_exceptions=True)

        return roll

    yield make
    for executor in made:
        await executor._scorer._model.aclose()


@pytest.fixture
async def reward_file(configured, tokenizer, prompt, spct):
    """Load the reward file as OpenRLHF does; give what rolls out completions of one prompt."""
    made = []

    def make(**sections):
        configured(**sections)
        executor = SingleTurnAgentExecutor([spct("path", "openrlhf-reward")[1].strip()])
        made.append(executor)

        async def roll(texts):
            engine = Engine(texts, tokenizer)
            async with asyncio.timeout(LONGEST_S):
                return await generate_responses(executor, engine, prompt, "", len(texts))

        return roll

    yield make
    for executor in made:
        run_sync(executor.reward_func._scorer._model.aclose())


@pytest.fixture
def log(caplog):
    """Read what was logged so far by the adapters, and by OpenRLHF where it asks for rewards."""
    theirs = logging.getLogger("openrlhf.utils.agent")
    # OpenRLHF loads the reward file under the name "reward_func".
    names = {"spct_openrlhf", "reward_func", theirs.name}
    theirs.addHandler(caplog.handler)
    yield lambda: [r.getMessage() for r in caplog.records if r.name in names]
    theirs.removeHandler(caplog.handler)


def texts(group):
    return [f"group {group} text {i}" for i in range(N)]


def honest(group):
    return [content_score(text) for text in texts(group)]


def assert_seen(outputs, rewards, *, failed=(0,) * N, votes=(K,) * N, lost=0, unusable=0):
    """Check all that OpenRLHF gets of a group, but for what it cost."""
    assert [output["reward"] for output in outputs] == rewards
    assert [output["scores"] for output in outputs] == pytest.approx([(r - 1) / 9 for r in rewards])
    for output, own_failed, own_votes in zip(outputs, failed, votes, strict=True):
        logs = dict(output["extra_logs"])
        del logs["spct_tokens"], logs["spct_seconds"]
        assert logs == {
            "spct_failed": own_failed,
            "spct_votes": own_votes,
            "spct_k_used": K,
            "spct_lost_votes": lost,
            "spct_unusable_votes": unusable,
        }


def assert_given_up(outputs, *, lost=0, unusable=0):
    """Check that nothing of a group is known, and that all get the same."""
    nobody = {"failed": (1,) * N, "votes": (0,) * N}
    assert_seen(outputs, [MIDDLE] * N, **nobody, lost=lost, unusable=unusable)


def raised(found):
    """Give the messages of what ends the run; nothing but RewardError may."""
    errors = [group for group in found if isinstance(group, BaseException)]
    assert all(type(error) is RewardError for error in errors), errors
    return sorted(map(str, errors))


def seen(found):
    return [group for group in found if not isinstance(group, BaseException)]


def assert_warned(log, times, reason, missing=N):
    line = f"no valid judgement for {missing} of {N} completions: {reason}"
    assert [found[: len(line)] for found in log()] == [line] * times


async def assert_ends_at_the_eighth_group(roll, log, message, **given_up):
    found = await roll(*range(8))
    [said] = raised(found)
    assert said.startswith(message)
    assert len(said.splitlines()) == 1
    for outputs in seen(found):
        assert_given_up(outputs, **given_up)
    # Its last part says why, and so does a line per group before.
    assert_warned(log, 8, message.partition(" allows; ")[2])


# --- The group agent ---------------------------------------------------------------------------


async def test_down_at_start(agent, judge, log):
    message = (
        "stopped: 32 of 32 judgements of this step failed in infrastructure (engine_error: 32), "
        "more than breaker.infrastructure = 0.5 allows; "
        f"engine_error: {judge.url}: cannot connect ("
    )
    await assert_ends_at_the_eighth_group(agent(), log, message, lost=1)


async def test_down_mid_run_for_shorter_than_the_retries(agent, judge, log):
    roll = agent()
    judge.start()
    await roll(0, 1)
    judge.stop()
    step = asyncio.create_task(roll(2, 3))
    await asyncio.sleep(0.05)
    judge.start()
    for group, outputs in zip((2, 3), await step, strict=True):
        assert_seen(outputs, honest(group))
    assert log() == []


async def test_stopped_while_it_answers(agent, judge):
    roll = agent()
    judge.answer = lambda body: SLOW
    judge.start()
    step = asyncio.create_task(roll(0))
    while len(judge.asked) < K:
        await asyncio.sleep(0.01)
    judge.stop()
    judge.answer = judged
    judge.start()
    [outputs] = await step
    assert_seen(outputs, honest(0))


async def test_down_mid_run_for_longer_than_the_retries(agent, judge, log):
    roll = agent()
    judge.start()
    before = await roll(0, 1, 2, 3)
    judge.stop()
    during = await roll(4, 5, 6, 7)
    judge.start()
    after = await roll(8, 9)
    assert raised(before + during + after) == []
    for outputs in during:
        assert_given_up(outputs, lost=1)
    for group, outputs in zip((0, 1, 2, 3, 8, 9), before + after, strict=True):
        assert_seen(outputs, honest(group))
    assert_warned(log, 4, f"engine_error: {judge.url}: cannot connect (")


@pytest.mark.slow
@pytest.mark.parametrize("retries", [5, 6])
async def test_down_mid_run_for_30_seconds(retries, agent, judge):
    roll = agent(engine={"retries": retries})
    judge.start()
    before = await roll(0, 1, 2, 3)
    judge.stop()
    start = time.monotonic()
    at_once = asyncio.create_task(roll(4, 5, 6, 7))
    await asyncio.sleep(16)
    in_the_middle = asyncio.create_task(roll(8, 9))
    await asyncio.sleep(30 - (time.monotonic() - start))
    judge.start()
    during = await at_once
    for group, outputs in zip(range(4, 8), during, strict=True):
        # The waits of 5 retries add up to 15.5 to 31 s, those of 6 to 31.5 to 63.
        if retries == 6:
            assert_seen(outputs, honest(group))
        else:
            assert_given_up(outputs, lost=1)
            assert 15.5 <= outputs[0]["extra_logs"]["spct_seconds"] < 35
    known = before + await in_the_middle + await roll(10, 11)
    for group, outputs in zip((0, 1, 2, 3, 8, 9, 10, 11), known, strict=True):
        assert_seen(outputs, honest(group))


async def test_down_for_good_mid_run(agent, judge, log):
    roll = agent()
    judge.start()
    for group, outputs in enumerate(await roll(*range(8))):
        assert_seen(outputs, honest(group))
    judge.stop()
    found = await roll(*range(8, 16))
    assert len(seen(found)) == 4
    for outputs in seen(found):
        assert_given_up(outputs, lost=1)
    first, *_ = raised(found)
    assert first.startswith(
        "stopped: 20 of 32 judgements of this step failed in infrastructure (engine_error: 20), "
        "more than breaker.infrastructure = 0.5 allows; "
        f"engine_error: {judge.url}: cannot connect ("
    )
    assert_warned(log, 8, f"engine_error: {judge.url}: cannot connect (")


async def test_slower_than_the_deadline(agent, judge, log):
    roll = agent(vote={"k": K, "deadline_s": 0.2})
    judge.answer = lambda body: SLOW
    judge.start()
    message = (
        "stopped: 32 of 32 judgements of this step failed in infrastructure (deadline: 32), more "
        "than breaker.infrastructure = 0.5 allows; deadline: not finished within vote.deadline_s"
    )
    await assert_ends_at_the_eighth_group(roll, log, message, lost=1)


async def test_some_votes_slower_than_the_deadline(agent, judge, log):
    roll = agent(vote={"k": K, "deadline_s": 1.5})
    judge.answer = lambda body: SLOW if completions(body)[0].endswith("0") else judged(body)
    judge.start()
    found = await roll(*range(10))
    for group, outputs in enumerate(found):
        assert_seen(outputs, honest(group), votes=(K - 1,) * N, lost=1 / K)
    assert log() == []


async def test_slower_than_the_request_timeout(agent, judge, log):
    roll = agent(engine={"request_timeout_s": 1, "retries": 2})
    judge.answer = lambda body: SLOW
    judge.start()
    message = (
        "stopped: 32 of 32 judgements of this step failed in infrastructure (engine_error: 32), "
        "more than breaker.infrastructure = 0.5 allows; "
        f"engine_error: {judge.url}: no answer within engine.request_timeout_s"
    )
    start = time.monotonic()
    await assert_ends_at_the_eighth_group(roll, log, message, lost=1)
    # On a busy machine a request is given up before the judge has read it.
    assert 8 * K * 2 < len(judge.asked) <= 8 * K * 3
    assert time.monotonic() - start < 30


async def test_slower_than_the_request_timeout_once(agent, judge):
    roll = agent(engine={"request_timeout_s": 1})
    judge.answer = lambda body: SLOW if len(judge.asked) <= K else judged(body)
    judge.start()
    [outputs] = await roll(0)
    assert_seen(outputs, honest(0))


@pytest.mark.parametrize(
    ("reply", "said", "tries"),
    [
        (Reply(status=503, body="overloaded"), " answered 503: overloaded", 7),
        (Reply(status=404, body="no such model"), " answered 404: no such model", 1),
        (Reply(body="<html>"), " answered 200 without JSON", 7),
        (Reply(body='{"error": "out"}'), "expected choices in the answer, found {'error'", 7),
        (Reply(drop=True), ": cannot connect or lost the connection (Server disconnected)", 7),
    ],
)
async def test_no_answer_of_a_judge(reply, said, tries, agent, judge):
    roll = agent()
    judge.answer = lambda body: reply
    judge.start()
    found = await roll(*range(8))
    [message] = raised(found)
    assert "(engine_error: 32), more than breaker.infrastructure = 0.5 allows; " in message
    assert said in message
    assert len(judge.asked) == 8 * K * tries


async def test_garbage_for_one_completion(agent, judge, log):
    roll = agent(vote={"k": K, "list_size": 1})
    third = texts(0)[2]
    judge.answer = lambda body: (
        Reply(["I like it."] * body["n"]) if completions(body) == [third] else judged(body)
    )
    judge.start()
    [outputs] = await roll(0)
    known = [score for score, text in zip(honest(0), texts(0), strict=True) if text != third]
    rewards = [*known[:2], sum(known) / 3, *known[2:]]
    assert_seen(outputs, rewards, failed=(0, 0, 1, 0), votes=(K, K, 0, K), unusable=1 / N)
    assert_warned(log, 1, "no_scores: no closed \\boxed{...} in the answer", missing=1)


async def test_garbage_for_one_vote(agent, judge, log):
    roll = agent()
    judge.answer = lambda body: (
        Reply(["I like them."]) if completions(body)[0].endswith("0") else judged(body)
    )
    judge.start()
    found = await roll(*range(10))
    for group, outputs in enumerate(found):
        assert_seen(outputs, honest(group), votes=(K - 1,) * N, unusable=1 / K)
    assert log() == []


async def test_nothing_but_garbage(agent, judge, log):
    roll = agent()
    judge.answer = lambda body: Reply(["I like them."] * body["n"])
    judge.start()
    message = (
        "stopped: 32 of 32 judgements of this step have no usable scores (no_scores: 32), more "
        "than breaker.judge = 0.9 allows; no_scores: no closed \\boxed{...} in the answer"
    )
    await assert_ends_at_the_eighth_group(roll, log, message, unusable=1)


async def test_stop_ends_the_run_at_the_first_group(agent, judge, log):
    found = await agent(reward={"on_failure": "stop"})(0)
    [message] = raised(found)
    assert message.startswith("4 of 4 completions of a group have no valid judgement and reward.on")
    assert_warned(log, 1, f"engine_error: {judge.url}: cannot connect (")


# --- The reward file: each completion judged alone ------------------------------------------------


async def test_reward_file_down_at_start(reward_file, judge, log):
    message = (
        "RewardError: stopped: 32 of 32 judgements of this step failed in infrastructure "
        "(engine_error: 32), more than breaker.infrastructure = 0.5 allows; "
        f"engine_error: {judge.url}: cannot connect ("
    )
    # No Exception, which OpenRLHF would swallow.
    with pytest.raises(BaseException, match=re.escape(message)) as raised:
        await reward_file()([f"text {i}" for i in range(8)])
    assert not isinstance(raised.value, Exception)
    why = f"no valid judgement for 1 of 1 completions: engine_error: {judge.url}: cannot connect ("
    assert sum(line.startswith(why) for line in log()) == 8


async def test_reward_file_down_mid_run(reward_file, judge):
    roll = reward_file()
    judge.start()
    await roll(texts(0))
    judge.stop()
    step = asyncio.create_task(roll(texts(1)))
    await asyncio.sleep(0.05)
    judge.start()
    assert [output["reward"] for output in await step] == honest(1)


async def test_reward_file_slower_than_the_deadline(reward_file, judge):
    roll = reward_file(vote={"k": K, "deadline_s": 0.5})
    third = texts(0)[2]
    judge.answer = lambda body: SLOW if completions(body) == [third] else judged(body)
    judge.start()
    outputs = await roll(texts(0))
    expected = honest(0)
    expected[2] = MIDDLE
    assert [output["reward"] for output in outputs] == expected
    assert [output["extra_logs"]["spct_lost_votes"] for output in outputs] == [0, 0, 1, 0]


async def test_reward_file_garbage_for_one_completion(reward_file, judge):
    roll = reward_file()
    third = texts(0)[2]
    judge.answer = lambda body: (
        Reply(["I like it."] * body["n"]) if completions(body) == [third] else judged(body)
    )
    judge.start()
    outputs = await roll(texts(0))
    expected = honest(0)
    expected[2] = MIDDLE
    assert [output["reward"] for output in outputs] == expected
    assert [output["extra_logs"]["spct_failed"] for output in outputs] == [0, 0, 1, 0]
    assert [output["extra_logs"]["spct_unusable_votes"] for output in outputs] == [0, 0, 1, 0]


# --- Whole runs of OpenRLHF's train_ppo_ray: two groups per step, two steps ----------------------


@pytest.fixture
def train(tmp_path, judge):
    """Run OpenRLHF with a judge behind HTTP, one vote per group, to its end."""

    def run(flags, **openrlhf):
        config = {
            "engine": {"kind": "openai", "url": judge.url, "model": "grm", "retries": 0},
            "vote": {"k": 1},
            "openrlhf": {"fallback": "group_mean", **openrlhf},
        }
        (tmp_path / "judge.yaml").write_text(json.dumps(config))
        rows = write_rows(tmp_path / "rows.jsonl", chats(range(2 * GROUPS_PER_STEP)))
        flags = PPO_RAY | GRPO | flags | {"--data.prompt_dataset": rows}
        return run_cli("train_ppo_ray", tmp_path, flags, SPCT_CONFIG=str(tmp_path / "judge.yaml"))

    return run


@pytest.mark.slow
@pytest.mark.parametrize("mode", [{}, ASYNC], ids=["sync", "async"])
def test_a_run_whose_judge_is_down_at_start(mode, train, judge):
    run = train(AGENT | mode, breaker_window=GROUPS_PER_STEP)
    assert run.exit_code != 0
    assert (
        "RewardError: stopped: 2 of 2 judgements of this step failed in infrastructure "
        "(engine_error: 2), more than breaker.infrastructure = 0.5 allows; "
        f"engine_error: {judge.url}: cannot connect ("
    ) in run.log
    assert "train/actor_grad_norm" not in run.scalars


@pytest.mark.slow
def test_a_run_whose_judge_goes_down_for_good(train, judge):
    judge.life = GROUPS_PER_STEP + 1
    judge.start()
    run = train(AGENT, breaker_window=GROUPS_PER_STEP)
    assert run.exit_code != 0
    assert (
        "RewardError: stopped: 2 of 2 judgements of this step failed in infrastructure "
        "(engine_error: 2), more than breaker.infrastructure = 0.5 allows; "
        f"engine_error: {judge.url}: cannot connect "
    ) in run.log
    assert run.scalars["train/spct_failed"] == {1: 0}


@pytest.mark.slow
def test_a_run_whose_judge_fails_for_some_groups(train, judge):
    replies = [Reply(["I like them."]), None, Reply(status=503), None]
    judge.answer = lambda body: replies[len(judge.asked) - 1] or judged(body)
    judge.start()
    run = train(AGENT)
    assert run.exit_code == 0, run.log[-5000:]
    assert run.scalars["train/spct_failed"] == {1: 0.5, 2: 0.5}
    assert run.scalars["train/spct_unusable_votes"] == {1: 0.5, 2: 0}
    assert run.scalars["train/spct_lost_votes"] == {1: 0, 2: 0.5}
    assert all(norm > 0 for norm in run.scalars["train/actor_grad_norm"].values())
    no_judgement = "no valid judgement for 4 of 4 completions"
    assert f"{no_judgement}: no_scores: no closed \\boxed{{...}} in the answer" in run.log
    assert f"{no_judgement}: engine_error: {judge.url} answered 503" in run.log


@pytest.mark.slow
def test_a_run_with_the_reward_file_whose_judge_is_down(train, judge):
    run = train(REWARD_FILE, tokenizer=str(MODELS / "policy"))
    assert run.exit_code != 0
    assert (
        "EndRun: RewardError: stopped: 8 of 8 judgements of this step failed in infrastructure "
        "(engine_error: 8), more than breaker.infrastructure = 0.5 allows; "
        f"engine_error: {judge.url}: cannot connect ("
    ) in run.log
    assert "train/actor_grad_norm" not in run.scalars


@pytest.mark.slow
def test_a_run_whose_configuration_is_refused(train):
    run = train(AGENT, fallback=None)
    assert run.exit_code != 0
    assert "ConfigError: reward.on_failure: 'abstain' leaves completions without" in run.log
    # OpenRLHF waits a minute for its engines before it ends, with an error of its own.
    assert "torch.distributed.DistStoreError: Timed out" in run.log
