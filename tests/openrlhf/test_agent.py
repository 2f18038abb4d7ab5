"""The group agent on OpenRLHF's own executor: sizes, order, labels, failures."""

import asyncio
import math
import random
import time

import pytest

pytest.importorskip("openrlhf.cli", reason="needs the extra `openrlhf`")

from executing import Engine, generate_responses, sampling_params
from scripted_plugin import content_score

from spct_openrlhf import GroupScorer
from spct_openrlhf_agent import AgentExecutor
from spct_plugin import RewardError, RewardModel, SPCTConfig, TaskError
from spct_plugin.store import read_groups
from spct_plugin.testing import ScriptedEngine

TEXTS = ["one park", "two parks", "three notes", "four cakes"]
LOGS = {
    "spct_failed",
    "spct_votes",
    "spct_k_used",
    "spct_lost_votes",
    "spct_unusable_votes",
    "spct_tokens",
    "spct_seconds",
}


@pytest.fixture
def agent(config_file, monkeypatch):
    """Make the agent as OpenRLHF does, without arguments."""

    def make(**sections):
        sections.setdefault("openrlhf", {"fallback": "group_mean"})
        monkeypatch.setenv("SPCT_CONFIG", str(config_file(**sections)))
        return AgentExecutor()

    return make


def rollout(executor, engine, prompt, n=4, label="", **arguments):
    return asyncio.run(generate_responses(executor, engine, prompt, label, n, **arguments))


def rewards(outputs):
    return [output["reward"] for output in outputs]


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_a_group_is_judged_once_and_everyone_gets_its_own_reward(
    n, agent, tokenizer, prompt, shown
):
    texts = [f"{text} {i}" for i, text in enumerate((TEXTS * 2)[:n])]
    delays = [random.Random(n).random() / 50 for _ in texts]
    outputs = rollout(agent(vote={"k": 1}), Engine(texts, tokenizer, delays), prompt, n)
    assert rewards(outputs) == [content_score(text) for text in texts]
    assert [sorted(group) for group in shown()] == [sorted(texts)]
    for output in outputs:
        assert set(output["extra_logs"]) == LOGS
        assert all(isinstance(value, float) for value in output["extra_logs"].values())
        assert output["scores"] == pytest.approx((output["reward"] - 1) / 9)


def test_a_finished_group_does_not_wait_for_the_generation_of_others(
    agent, tokenizer, prompt, shown
):
    executor = agent(vote={"k": 1})
    slow = Engine(TEXTS, tokenizer, delays=[0, 0, 0, 0.4])
    fast = Engine([f"{text} too" for text in TEXTS], tokenizer)
    judged = []

    async def both():
        first = asyncio.ensure_future(generate_responses(executor, slow, prompt, "", 4))
        await generate_responses(executor, fast, prompt, "", 4)
        judged.append(len(shown()))
        await first

    asyncio.run(both())
    assert judged == [1]
    assert len(shown()) == 2


def test_prompts_that_share_one_sampling_params_are_different_groups(
    agent, tokenizer, prompt, shown
):
    executor, params = agent(vote={"k": 1}), sampling_params()
    other = prompt.replace("note", "song")

    async def both():
        await asyncio.gather(
            generate_responses(executor, Engine(TEXTS, tokenizer), prompt, "", 4, params),
            generate_responses(executor, Engine(TEXTS, tokenizer), other, "", 4, params),
        )

    asyncio.run(both())
    assert [sorted(group) for group in shown()] == [sorted(TEXTS)] * 2


def test_many_groups_of_the_same_prompt_never_mix(agent, tokenizer, prompt, shown):
    executor = agent(vote={"k": 1})
    count = 200
    seen = random.Random(0)

    async def one(group):
        texts = [f"group {group} text {i}" for i in range(3)]
        delays = [seen.random() / 100 for _ in texts]
        outputs = await generate_responses(
            executor, Engine(texts, tokenizer, delays), prompt, "", 3
        )
        return rewards(outputs) == [content_score(text) for text in texts]

    async def several():
        return await asyncio.gather(*(one(group) for group in range(count)))

    assert all(asyncio.run(several()))
    assert len(shown()) == count
    assert executor._groups == {}


def test_what_openrlhf_generated_is_handed_on(agent, tokenizer, prompt):
    params = sampling_params(logprobs=1)
    [output] = rollout(agent(), Engine(["a note"], tokenizer), prompt, 1, params=params)
    [(start, end)] = output["action_ranges"]
    assert tokenizer.decode(output["observation_tokens"][:start]) == prompt
    assert output["rollout_log_probs"][start:] == [-0.5] * (end - start)
    assert (output["prompt"], output["label"], output["truncated"]) == (prompt, "", False)


def test_a_failed_generation_ends_all_siblings_waiting(agent, tokenizer, prompt):
    executor = agent()
    texts = [*TEXTS[:3], RuntimeError("the engine is gone")]
    delays = [0, 0, 0.1, 0.05]

    async def all_of_them():
        params = sampling_params()
        engine = Engine(texts, tokenizer, delays)
        executions = [executor.execute(prompt, "", params, 512, tokenizer, engine) for _ in texts]
        return await asyncio.wait_for(
            asyncio.gather(*executions, return_exceptions=True), timeout=10
        )

    outcomes = asyncio.run(all_of_them())
    assert [str(outcome) for outcome in outcomes] == ["the engine is gone"] * 4
    assert executor._groups == {}


@pytest.mark.parametrize(
    ("fallback", "expected"), [("group_mean", [4, 8, 6, 6]), ("drop_group", [5.5] * 4)]
)
def test_a_failure_gets_what_the_fallback_says_and_is_logged(fallback, expected, tokenizer, prompt):
    outputs = rollout(executor_of([4, 8, None, None], fallback), Engine("abcd", tokenizer), prompt)
    assert rewards(outputs) == expected
    assert [output["extra_logs"]["spct_failed"] for output in outputs] == [0, 0, 1, 1]
    assert [output["extra_logs"]["spct_unusable_votes"] for output in outputs] == [0.5] * 4


def executor_of(scores, policy="group_mean", **sections):
    """Make an agent whose judge sees each completion alone and gives it its place's score."""
    config = SPCTConfig.model_validate(
        {
            "template": {"name": "default", "nonce": False},
            "vote": {"k": 1, "list_size": 1},
            "reward": {"on_failure": policy, "scale": sections.pop("scale", "mean")},
            **sections,
        }
    )

    def answer(request):
        score = scores[request.order[0]]
        return "no box" if score is None else f"\\boxed{{{score}}}"

    model = RewardModel(config, engine=ScriptedEngine(answer))
    return AgentExecutor(GroupScorer(config, model))


@pytest.mark.parametrize(
    ("scale", "middle"), [("mean", 5.5), ("sum", 5.5), ("unit", 0.5), ("rank", 0.5)]
)
@pytest.mark.parametrize("fallback", ["group_mean", "drop_group"])
def test_where_nothing_is_known_all_get_the_same_finite_number(
    fallback, scale, middle, tokenizer, prompt
):
    executor = executor_of([None] * 4, fallback, scale=scale)
    outputs = rollout(executor, Engine("abcd", tokenizer), prompt)
    assert rewards(outputs) == [middle] * 4
    assert [output["scores"] for output in outputs] == [0.5] * 4


def test_the_breaker_ends_the_run_with_what_was_wrong(agent, tokenizer, prompt):
    executor = agent(fails="all", vote={"k": 2}, openrlhf={"fallback": "drop_group"})

    def group():
        return rollout(executor, Engine(TEXTS, tokenizer), prompt)

    for _ in range(7):
        assert rewards(group()) == [5.5] * 4
    message = "16 of 16 judgements .* failed in infrastructure .* engine_error: the judge is out"
    with pytest.raises(RewardError, match=message):
        group()


def test_stop_ends_the_run(tokenizer, prompt):
    executor = executor_of([1, 2, None, 4], "stop")
    with pytest.raises(RewardError, match="1 of 4 completions of a group have no valid judgement"):
        rollout(executor, Engine("abcd", tokenizer), prompt)


def test_images_are_refused(agent, tokenizer, prompt):
    executor = agent()
    execution = executor.execute(
        prompt, "", sampling_params(), 512, tokenizer, Engine("a", tokenizer), images=["x.png"]
    )
    with pytest.raises(TaskError, match="the judge reads text only"):
        asyncio.run(execution)


class Judge(ScriptedEngine):
    """Remembers what it was asked."""

    def __init__(self):
        super().__init__(lambda request: "\\boxed{" + ", ".join("5" for _ in request.order) + "}")


def asked(label, prompt, tokenizer, **sections):
    """Have one group judged: what the judge was asked, and the outputs."""
    config = SPCTConfig.model_validate(
        {"template": {"name": "default"}, "vote": {"k": 1}, **sections}
    )
    judge = Judge()
    executor = AgentExecutor(GroupScorer(config, RewardModel(config, engine=judge)))
    outputs = rollout(executor, Engine(TEXTS, tokenizer), prompt, label=label)
    return judge.requests[0].prompt, outputs


def test_the_prompt_is_read_back_from_its_rendered_form(tokenizer):
    turns = [
        {"role": "user", "content": "write a note"},
        {"role": "assistant", "content": "to whom"},
        {"role": "user", "content": "to anna"},
    ]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    text, _ = asked("", prompt, tokenizer)
    assert all(turn["content"] in text for turn in turns)
    assert "<|" not in text


def test_the_label_may_carry_the_messages_a_reference_and_criteria(tokenizer):
    label = {
        "messages": [{"role": "user", "content": "sing a song"}],
        "reference": "la la la",
        "principles": ["loudness"],
        "source": None,
    }
    text, _ = asked(label, "whatever was rendered", tokenizer)
    assert "sing a song" in text
    assert "la la la" in text
    assert "loudness" in text
    assert "whatever" not in text


@pytest.mark.parametrize(("label", "reference"), [("42 cakes", "42 cakes"), (42, "42")])
def test_any_other_label_is_the_reference(label, reference, tokenizer, prompt):
    assert reference in asked(label, prompt, tokenizer)[0]


def test_an_empty_label_is_no_reference(tokenizer, prompt):
    plain = {"template": {"name": "default", "nonce": False}}
    without, _ = asked("", prompt, tokenizer, **plain)
    assert without == asked(None, prompt, tokenizer, **plain)[0]
    assert without != asked("42", prompt, tokenizer, **plain)[0]


def test_what_a_table_fills_up_with_nothing_is_not_there(tokenizer, prompt):
    label = {"messages": None, "reference": None, "principles": None, "source": "web"}
    assert "write a note" in asked(label, prompt, tokenizer)[0]


def test_an_empty_reference_is_none_and_a_number_is_one(tokenizer, prompt):
    plain = {"template": {"name": "default", "nonce": False}}
    without, _ = asked("", prompt, tokenizer, **plain)
    assert asked({"reference": ""}, prompt, tokenizer, **plain)[0] == without
    bare, _ = asked(42, prompt, tokenizer, **plain)
    assert asked({"reference": 42}, prompt, tokenizer, **plain)[0] == bare


def test_a_label_of_ones_own_is_judged_whatever_its_keys(tokenizer, prompt):
    for label in ({"label": "positive", "n": 3, "source": "web"}, {"label": 1, "n": 2}):
        assert "write a note" in asked(label, prompt, tokenizer)[0]
    nothing = {"label": None, "n": None, "template": None, "reference": "42 cakes"}
    assert "42 cakes" in asked(nothing, prompt, tokenizer)[0]


def test_a_list_as_label_is_one_clear_line(tokenizer, prompt):
    with pytest.raises(TaskError, match="label: expected a text or"):
        asked(["a"], prompt, tokenizer)


def test_plain_prompts_are_judged_as_they_are(tokenizer):
    text, _ = asked("", "2 + 2 = ", tokenizer, openrlhf={"prompts": "text"})
    assert "2 + 2 = " in text
    with pytest.raises(TaskError, match=r"openrlhf\.prompts: text"):
        asked("", "2 + 2 = ", tokenizer)


RULE = """
def rule(prompts, completions, completion_ids, label, source, reference, **_):
    assert len({len(prompts), len(completions), len(completion_ids), len(label)}) == 1
    assert source == ["web"] * len(prompts) and reference == ["42"] * len(prompts)
    assert prompts[0] == [{"role": "user", "content": "write a note"}]
    return [float(len(ids)) for ids in completion_ids]
"""


def test_rules_beside_the_judge_get_trls_keywords(tokenizer, prompt, tmp_path):
    (tmp_path / "rules.py").write_text(RULE)
    reward = {"rewards": [{"grm": {}}, {"path": f"{tmp_path / 'rules.py'}:rule", "weight": 0.5}]}
    label = {"source": "web", "reference": "42"}
    _, outputs = asked(label, prompt, tokenizer, reward=reward)
    lengths = [end - start for output in outputs for start, end in output["action_ranges"]]
    assert rewards(outputs) == [5 + 0.5 * length for length in lengths]


def test_the_store_keeps_every_group(tokenizer, prompt, tmp_path):
    _, outputs = asked("", prompt, tokenizer, store={"path": str(tmp_path / "store")})
    deadline = time.monotonic() + 10
    while not (groups := list(read_groups(tmp_path / "store"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    [group] = groups
    assert group["completions"] == TEXTS
    assert group["rewards"] == rewards(outputs)


def test_a_slow_rule_does_not_stop_the_generation_of_others(tokenizer, prompt, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "def rule(completions, **_):\n"
        "    time.sleep(1)\n"
        "    return [0.0] * len(completions)\n"
    )
    reward = {"rewards": [{"grm": {}}, {"path": f"{tmp_path / 'slow.py'}:rule"}]}
    config = SPCTConfig.model_validate({"template": {"name": "default"}, "reward": reward})
    executor = AgentExecutor(GroupScorer(config, RewardModel(config, engine=Judge())))

    async def beside():
        first = asyncio.ensure_future(
            generate_responses(executor, Engine(TEXTS, tokenizer), prompt, "", 4)
        )
        start = time.monotonic()
        engine = Engine(["a"], tokenizer, delays=[0.2])
        await engine.generate([], sampling_params())
        waited = time.monotonic() - start
        await first
        return waited

    assert asyncio.run(beside()) < 0.8


OUTCOME = {"label": 1, "n": 2, "template": "default"}


def test_a_judge_in_training_is_paid_by_the_outcome(tokenizer, prompt):
    texts = ["\\boxed{3, 8}", "\\boxed{8, 3}", "no box", "\\boxed{3, 8}"]
    engine = Engine(texts, tokenizer, cut=[3])
    executor = AgentExecutor(GroupScorer(SPCTConfig.model_validate({})))
    outputs = rollout(executor, engine, prompt, label=OUTCOME)
    assert rewards(outputs) == [1, -1, -1, -1]
    assert [output["scores"] for output in outputs] == [1, 0, 0, 0]
    assert [o["extra_logs"]["spct_parsed"] for o in outputs] == [1, 1, 0, 0]
    assert len({tuple(output["extra_logs"]) for output in outputs}) == 1


def test_the_outcome_is_read_by_the_labels_template(tokenizer, prompt):
    executor = AgentExecutor(GroupScorer(SPCTConfig.model_validate({})))
    texts = ["\\boxed{1}", "\\boxed{9}"]
    label = {"label": 1, "n": 1, "template": "single"}
    outputs = rollout(executor, Engine(texts, tokenizer), prompt, 2, label)
    assert rewards(outputs) == [1, -1]
    assert outputs[0]["extra_logs"]["spct_critique_length"] >= 0


def test_one_failed_completion_has_its_siblings_score(tokenizer, prompt):
    outputs = rollout(executor_of([1, 10, None, 10]), Engine("abcd", tokenizer), prompt)
    assert [output["scores"] for output in outputs] == [0, 1, pytest.approx(2 / 3), 1]


def test_spread_is_the_same_for_all_and_nothing_without_differences(tokenizer, prompt):
    spread = {"openrlhf": {"scores": "spread"}}
    for scores, expected in [
        ([1, 1, 10, 10], 0.5),
        ([5, 5, 5, 5], 0.0),
        ([None, 1, 10, None], 0.5),
        ([None, 5, None, None], 0.0),
        ([None] * 4, 0.0),
    ]:
        outputs = rollout(executor_of(scores, **spread), Engine("abcd", tokenizer), prompt)
        assert [output["scores"] for output in outputs] == [expected] * 4


def test_nothing_that_openrlhf_gets_is_missing_or_no_number(agent, tokenizer, prompt):
    executor = agent(fails="some", reward={"breaker": {"infrastructure": 1, "judge": 1}})
    found = []
    for group in range(40):
        texts = [f"group {group} {text}" for text in TEXTS]
        found += rollout(executor, Engine(texts, tokenizer), prompt)
    numbers = [n for o in found for n in (o["reward"], o["scores"], *o["extra_logs"].values())]
    assert all(math.isfinite(number) for number in numbers)
    assert {o["extra_logs"]["spct_failed"] for o in found} == {0.0, 1.0}
    assert len({tuple(o["extra_logs"]) for o in found}) == 1
