"""The facade: judged, voted, shaped; every failure a None until one named policy says otherwise."""

import asyncio
import random
import re
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judging_helpers import Engine, MetaRM, box, by_content, numbered, reward_model, said, shown

from spct_plugin import ConfigError, EngineError, JudgeTask, RewardError, RewardModel
from spct_plugin.engines import Choice
from spct_plugin.plugins import load_plugins
from spct_plugin.testing import ScriptedEngine


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 10), min_size=1, max_size=9),
    st.integers(1, 12),
    st.none() | st.integers(1, 9),
    st.integers(0, 1000),
)
def test_rewards_belong_to_their_completions_for_any_n_k_split_and_seed(deserved, k, size, seed):
    model = reward_model(
        ScriptedEngine(by_content(said)),
        vote={"k": k, "list_size": size},
        sampling={"seed": seed},
    )
    task = JudgeTask("x", [f"say {score}" for score in deserved])
    [group] = asyncio.run(model.score([task]))
    assert group.rewards == tuple(deserved)
    assert group.means == tuple(deserved)
    assert group.sums == tuple(k * score for score in deserved)
    assert group.votes == (k,) * len(deserved)
    assert group.spread == (0.0,) * len(deserved)
    assert (group.k, group.k_used, group.failures) == (k, k, {})


async def test_figure_3_end_to_end():
    """Source: arXiv 2504.02495, Fig. 3: four samples; the meta RM keeps the first and third."""
    samples = iter([(1, 5), (5, 6), (4, 8), (7, 6)])
    votes = {}

    def script(request):
        scores = next(samples)
        return box(*(scores[i] for i in request.order))

    engine = ScriptedEngine(script)
    [plain] = await reward_model(engine, vote={"k": 4}).score([numbered(2)], keep_judgements=True)
    assert plain.sums == (17, 25)
    votes = {j.scores: j.vote for j in plain.judgements}
    samples = iter([(1, 5), (5, 6), (4, 8), (7, 6)])
    good = {votes[1, 5], votes[4, 8]}
    meta = MetaRM(lambda judgement: 0.9 if judgement.vote in good else 0.1)
    model = reward_model(ScriptedEngine(script), meta_rm=meta, vote={"k": 4})
    [kept] = await model.score([numbered(2)])
    assert [mean * 2 for mean in kept.means] == [5, 13]
    assert kept.votes == (2, 2)


async def test_groups_are_judged_together_and_come_back_in_order():
    model = reward_model(ScriptedEngine(by_content(said)))
    groups = await model.score([numbered(n, start=n) for n in (1, 4, 2, 5)])
    assert [group.rewards for group in groups] == [
        (1,),
        (4, 5, 6, 7),
        (2, 3),
        (5, 6, 7, 8, 9),
    ]


async def test_no_groups_give_no_rewards():
    assert await reward_model(ScriptedEngine([])).score([]) == []


async def test_every_completion_is_shown_in_every_position():
    engine = ScriptedEngine(by_content(said))
    await reward_model(engine, vote={"k": 8}).score([numbered(4)])
    positions = [tuple(map(said, shown(request.prompt))) for request in engine.requests]
    assert [sorted(column) for column in zip(*positions, strict=True)] == [[1, 2, 3, 4]] * 4
    assert sorted(len(request.votes) for request in engine.requests) == [2, 2, 2, 2]


async def test_position_bias_cancels():
    def first_is_best(request):
        return box(*(min(10, said(t) + 3 * (i == 0)) for i, t in enumerate(shown(request.prompt))))

    [group] = await reward_model(ScriptedEngine(first_is_best), vote={"k": 8}).score([numbered(4)])
    assert group.means == (1.75, 2.75, 3.75, 4.75)


JUDGE_FAILURES = {
    "no_scores": "no box",
    "wrong_count": box(1),
    "out_of_range": box(0, 11),
    "truncated": Choice(box(1, 2), "length"),
    "refused": Choice("", "content_filter"),
    "engine_error": EngineError("no"),
    "too_long": EngineError("no", failure="too_long"),
}


@pytest.mark.parametrize(("failure", "answer"), JUDGE_FAILURES.items())
async def test_a_group_without_a_valid_vote_has_no_reward(failure, answer):
    model = reward_model(
        ScriptedEngine([answer]),
        vote={"k": 4},
        reward={"breaker": {"infrastructure": 1, "judge": 1}},
    )
    [group] = await model.score([numbered(2)])
    assert (group.rewards, group.means, group.sums, group.spread) == ((None, None),) * 4
    assert group.votes == (0, 0)
    assert (group.failures, group.k_used) == ({failure: 4}, 4)


@pytest.mark.parametrize(("failure", "answer"), JUDGE_FAILURES.items())
async def test_a_failed_vote_is_in_no_mean(failure, answer):
    def script(request):
        return answer if request.votes[0] == 1 else by_content(said)(request)

    model = reward_model(ScriptedEngine(script), vote={"k": 4})
    [group] = await model.score([numbered(2)], keep_judgements=True)
    assert group.rewards == (1, 2)
    assert group.votes == (2, 2)
    assert group.failures == {failure: 2}
    assert [j.failure for j in group.judgements] == [None, failure, None, failure]
    assert [j.vote for j in group.judgements] == [0, 1, 2, 3]


ON_FAILURE = {
    "abstain": (1.0, 2.0, None, 4.0),
    "group_mean": (1.0, 2.0, pytest.approx(7 / 3), 4.0),
    "drop_group": (None, None, None, None),
}


def loses_the_third(request):
    return EngineError("no") if shown(request.prompt) == ["say 3"] else by_content(said)(request)


@pytest.mark.parametrize(("policy", "rewards"), ON_FAILURE.items())
async def test_one_completion_without_a_vote(policy, rewards):
    model = reward_model(
        ScriptedEngine(loses_the_third),
        vote={"k": 2, "list_size": 1},
        reward={"on_failure": policy},
    )
    [group] = await model.score([numbered(4)])
    assert group.rewards == rewards
    assert group.means == (1.0, 2.0, None, 4.0)
    assert group.votes == (2, 2, 0, 2)


async def test_stop_ends_the_run():
    model = reward_model(
        ScriptedEngine(loses_the_third),
        vote={"k": 2, "list_size": 1},
        reward={"on_failure": "stop"},
    )
    assert (await model.score([numbered(2)]))[0].rewards == (1, 2)
    with pytest.raises(RewardError, match="1 of 4 completions"):
        await model.score([numbered(2), numbered(4)])


async def test_the_breaker_stops_a_step_that_lost_too_much():
    fine, lost = numbered(2), JudgeTask("Count.", ["bad 1", "bad 2"])

    def script(request):
        return EngineError("no") if "bad" in request.prompt else box(1, 2)

    model = reward_model(ScriptedEngine(script), vote={"k": 2})
    assert len(await model.score([fine, lost])) == 2
    with pytest.raises(RewardError, match=r"4 of 6 judgements .*infrastructure"):
        await model.score([fine, lost, lost])
    with pytest.raises(RewardError, match=r"8 of 8 judgements .*no usable scores"):
        await reward_model(ScriptedEngine(["?"])).score([fine])


async def test_the_breaker_can_be_left_out_when_shaping():
    model = reward_model(ScriptedEngine([EngineError("no")]))
    votes = await model.vote([numbered(2)])
    [group] = model.shape(votes, [0.0, 0.0])
    assert group.rewards == (None, None)


async def test_a_server_that_returns_fewer_choices_still_gives_k_votes():
    async def one_at_a_time(request):
        return [by_content(said)(request)]

    engine = Engine(one_at_a_time)
    [group] = await reward_model(engine, vote={"k": 8}).score([numbered(2)])
    assert (group.rewards, group.votes) == ((1, 2), (8, 8))
    assert len(engine.requests) == 8


async def test_after_the_deadline_there_are_fewer_votes_and_never_zeros():
    async def slow_in_one_order(request):
        await asyncio.sleep(60 if request.order[0] == 0 else 0)
        return [by_content(said)(request)] * len(request.votes)

    model = reward_model(Engine(slow_in_one_order), vote={"k": 8, "deadline_s": 0.1})
    [group] = await model.score([numbered(4)])
    assert group.rewards == (1, 2, 3, 4)
    assert group.votes == (6, 6, 6, 6)
    assert group.failures == {"deadline": 2}


async def test_a_deadline_nobody_meets_leaves_no_reward():
    async def never(request):
        await asyncio.sleep(60)

    model = reward_model(
        Engine(never),
        vote={"k": 8, "deadline_s": 0.05, "stop": "settled"},
        reward={"breaker": {"infrastructure": 1}},
    )
    [group] = await model.score([numbered(2)])
    assert group.rewards == (None, None)
    assert group.k_used == 4
    assert group.seconds < 5


async def test_settled_stops_early_and_never_takes_every_vote():
    task = JudgeTask("x", ["say 1", "say 3", "say 2", "say 10"])
    for stop, used in (("settled", 4), ("decided", 12), ("never", 16)):
        model = reward_model(
            ScriptedEngine(by_content(said)),
            vote={"k": 16, "stop": stop},
            reward={"scale": "sum"},
        )
        [group] = await model.score([task])
        assert (group.k, group.k_used) == (16, used), stop
        assert group.votes == (used,) * 4
        assert group.rewards == group.sums == (16, 48, 32, 160)


async def test_noise_is_judged_longer_than_a_clear_case():
    generator = random.Random(1)
    noisy = ScriptedEngine(lambda request: box(*(generator.randint(1, 10) for _ in request.order)))
    [group] = await reward_model(noisy, vote={"k": 16, "stop": "settled"}).score([numbered(4)])
    assert group.k_used > 4


async def test_waves_are_whole_squares_cut_off_at_k():
    generator = random.Random(1)
    engine = ScriptedEngine(lambda request: box(*(generator.randint(1, 10) for _ in request.order)))
    [group] = await reward_model(
        engine, vote={"k": 8, "k_min": 4, "stop": "settled", "tolerance": 1e-6, "min_spread": 0}
    ).score([numbered(3)], keep_judgements=True)
    assert [j.vote for j in group.judgements] == list(range(8))
    assert group.votes == (8, 8, 8)


async def test_an_outage_is_not_asked_again_and_again():
    model = reward_model(
        ScriptedEngine([EngineError("down")]),
        vote={"k": 64, "stop": "settled"},
        reward={"breaker": {"infrastructure": 1}},
    )
    [group] = await model.score([numbered(4)])
    assert group.k_used == 4


async def test_a_judge_out_of_form_is_asked_up_to_k():
    model = reward_model(
        ScriptedEngine(["?"]), vote={"k": 8, "stop": "settled"}, reward={"breaker": {"judge": 1}}
    )
    [group] = await model.score([numbered(4)])
    assert (group.k_used, group.failures) == (8, {"no_scores": 8})


async def test_the_meta_rm_sees_valid_judgements_as_written_and_keeps_the_best():
    numbers = iter(range(100))

    def script(request):
        number = next(numbers)
        if number % 4 == 3:
            return "no box"
        return f"judgement {number}. " + by_content(lambda text: said(text) + number % 4)(request)

    meta = MetaRM(lambda judgement: -judgement.scores[0])
    model = reward_model(ScriptedEngine(script), meta_rm=meta, vote={"k": 8})
    task = numbered(4)
    [group] = await model.score([task], keep_judgements=True)
    [(asked_task, asked)] = meta.asked
    assert asked_task.completions == task.completions
    assert len(asked) == 6
    assert all(j.scores is not None and j.text.startswith("judgement") for j in asked)
    assert {len(j.order) for j in asked} == {4}
    assert group.votes == (4, 4, 4, 4)
    assert sorted(j.meta_score for j in group.judgements if j.scores) == [-3, -3, -2, -2, -1, -1]
    assert [j.meta_score for j in group.judgements if j.scores is None] == [None, None]
    assert group.means[0] == pytest.approx((1 + 1 + 2 + 2) / 4)


async def test_k_meta_says_how_many_are_kept():
    meta = MetaRM(lambda judgement: float(judgement.vote))
    model = reward_model(ScriptedEngine(by_content(said)), meta_rm=meta, vote={"k": 8, "k_meta": 1})
    [group] = await model.score([numbered(2)])
    assert group.votes == (1, 1)


async def test_a_meta_rm_that_scores_nothing_drops_nothing():
    model = reward_model(
        ScriptedEngine(by_content(said)), meta_rm=MetaRM(lambda judgement: None), vote={"k": 4}
    )
    [group] = await model.score([numbered(2)])
    assert group.votes == (4, 4)


async def test_no_completion_of_a_split_group_loses_all_votes_to_the_meta_rm():
    meta = MetaRM(lambda judgement: float(0 in judgement.indices))
    model = reward_model(
        ScriptedEngine(by_content(said)), meta_rm=meta, vote={"k": 4, "list_size": 2}
    )
    [group] = await model.score([numbered(4)])
    assert group.rewards == (1, 2, 3, 4)


def test_decided_and_a_meta_rm_do_not_go_together():
    with pytest.raises(ConfigError, match="use 'settled'"):
        reward_model(ScriptedEngine([]), meta_rm=MetaRM(float), vote={"stop": "decided"})


def test_a_vote_nobody_registered_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"vote.how: expected one of \['mean'\], found 'median'"):
        reward_model(ScriptedEngine([]), vote={"how": "median"})


async def test_a_greedy_judge_is_asked_once_per_order():
    engine = ScriptedEngine(by_content(said))
    model = reward_model(engine, vote={"k": 16}, sampling={"temperature": 0})
    [group] = await model.score([numbered(4)])
    assert (group.rewards, group.votes, group.k_used) == ((1, 2, 3, 4), (4, 4, 4, 4), 4)
    assert [len(request.votes) for request in engine.requests] == [1, 1, 1, 1]


@pytest.mark.parametrize("n", [1, 2])
async def test_a_greedy_judge_never_answers_one_prompt_twice_however_many_waves(n):
    engine = ScriptedEngine(by_content(lambda text: 5 + said(text)))
    model = reward_model(
        engine,
        vote={"k": 16, "stop": "settled", "tolerance": 1e-6, "min_spread": 0},
        sampling={"temperature": 0},
    )
    await model.score([numbered(n)])
    prompts = [request.prompt for request in engine.requests for _ in request.votes]
    assert len(prompts) == len(set(prompts))


async def test_a_greedy_judge_never_answers_one_prompt_twice_when_a_group_is_split():
    engine = ScriptedEngine(by_content(said))
    model = reward_model(engine, vote={"k": 4, "list_size": 1}, sampling={"temperature": 0})
    await model.score([numbered(3)])
    prompts = [request.prompt for request in engine.requests for _ in request.votes]
    assert len(prompts) == len(set(prompts))


async def test_a_long_group_is_split_differently_per_vote():
    engine = ScriptedEngine(by_content(said))
    [group] = await reward_model(engine, vote={"k": 4, "list_size": 4}).score([numbered(8)])
    assert group.rewards == tuple(range(1, 9))
    assert {len(request.order) for request in engine.requests} == {4}
    assert len({frozenset(request.order) for request in engine.requests}) > 2
    assert (group.votes, group.k_used) == ((4,) * 8, 4)


async def test_the_single_template_judges_every_completion_alone():
    engine = ScriptedEngine(by_content(lambda text: said(text) % 2))
    model = reward_model(engine, template={"name": "single"}, vote={"k": 2})
    [group] = await model.score([numbered(3)])
    assert group.rewards == (1, 0, 1)
    assert model.scale == (0, 1)
    assert {len(request.order) for request in engine.requests} == {1}


async def test_a_small_context_splits_the_group():
    async def score(request):
        return [by_content(said)(request)] * len(request.votes)

    task = JudgeTask("Count.", [f"{'x' * 1000} {i + 1}" for i in range(8)])
    engine = Engine(score, max_chars=6000)
    [group] = await reward_model(engine, vote={"k": 3}).score([task])
    assert group.rewards == tuple(range(1, 9))
    assert {len(request.order) for request in engine.requests} == {2}
    assert all(len(request.prompt) <= 6000 for request in engine.requests)


async def test_the_longest_completions_decide_how_a_group_is_split():
    async def score(request):
        return [by_content(said)(request)] * len(request.votes)

    lengths = (10, 2000, 10, 2000)
    task = JudgeTask("Count.", [f"{'x' * length} {i + 1}" for i, length in enumerate(lengths)])
    engine = Engine(score, max_chars=6000)
    [group] = await reward_model(engine, vote={"k": 4}).score([task])
    assert (group.rewards, group.failures) == ((1, 2, 3, 4), {})
    assert {len(request.order) for request in engine.requests} == {1}


async def test_a_completion_that_fits_no_context_is_too_long_and_the_others_are_judged():
    async def score(request):
        return [by_content(said)(request)] * len(request.votes)

    task = JudgeTask("Count.", ["say 1", "x" * 20_000 + " 9", "say 3"])
    engine = Engine(score, max_chars=6000)
    [group] = await reward_model(engine, vote={"k": 2}).score([task], keep_judgements=True)
    assert group.rewards == (1, None, 3)
    assert group.failures == {"too_long": 2}
    # The others are still compared with each other, in one prompt.
    assert {j.indices for j in group.judgements} == {(0, 2), (1,)}


async def test_long_completions_may_be_cut_to_fit():
    async def score(request):
        return [box(*(5 for _ in request.order))] * len(request.votes)

    task = JudgeTask("Count.", ["x" * 20_000, "y"])
    model = reward_model(
        Engine(score, max_chars=6000), vote={"k": 2}, budget={"max_completion_chars": 1000}
    )
    [group] = await model.score([task])
    assert group.rewards == (5, 5)


async def test_thoughts_of_the_policy_are_not_judged_unless_asked_for():
    task = JudgeTask("x", ["<think>secret</think>say 1"])
    for view, seen in (("answer", False), ("full", True)):
        engine = ScriptedEngine([box(1)])
        await reward_model(engine, budget={"completion_view": view}, vote={"k": 1}).score([task])
        assert ("secret" in engine.requests[0].prompt) is seen


SCALES = {"mean": (1, 4, 10), "sum": (4, 16, 40), "unit": (0, 1 / 3, 1), "rank": (0, 0.5, 1)}


@pytest.mark.parametrize(("scale", "rewards"), SCALES.items())
async def test_every_scale_end_to_end(scale, rewards):
    task = JudgeTask("x", ["say 1", "say 4", "say 10"])
    model = reward_model(ScriptedEngine(by_content(said)), vote={"k": 4}, reward={"scale": scale})
    [group] = await model.score([task])
    assert group.rewards == pytest.approx(rewards)
    assert (group.means, group.sums) == ((1, 4, 10), (4, 16, 40))


RULES = """
async def length(completions, prompts, **columns):
    return [float(len(completion)) for completion in completions]

def level(level, **columns):
    return [None if value is None else value * 10.0 for value in level]
"""


async def test_rules_are_added_to_the_judge(tmp_path):
    path = tmp_path / "rules.py"
    path.write_text(RULES, encoding="utf-8")
    rewards = [
        {"path": f"{path}:length", "weight": 0.5},
        {"grm": {}, "weight": 2},
        {"path": f"{path}:level"},
    ]
    model = reward_model(
        ScriptedEngine(by_content(said)), vote={"k": 2}, reward={"rewards": rewards}
    )
    tasks = [
        JudgeTask("x", ["say 1", "say 10"], metadata={"level": 1}),
        JudgeTask("x", ["say 7"]),
    ]
    groups = await model.score(tasks)
    assert [group.rewards for group in groups] == [
        (2 + 2.5 + 10, 20 + 3.0 + 10),
        (14 + 2.5,),
    ]
    assert groups[0].means == (1, 10)


async def test_a_rule_does_not_stand_in_for_the_judge(tmp_path):
    path = tmp_path / "rules.py"
    path.write_text(RULES, encoding="utf-8")
    model = reward_model(
        ScriptedEngine(loses_the_third),
        vote={"k": 1, "list_size": 1},
        reward={"rewards": [{"grm": {}}, {"path": f"{path}:length"}]},
    )
    [group] = await model.score([numbered(4)])
    assert group.rewards == (6, 7, None, 9)


async def test_keep_judgements_returns_them_and_otherwise_not():
    model = reward_model(ScriptedEngine(by_content(said)), vote={"k": 4})
    [group] = await model.score([numbered(2)])
    assert group.judgements is None
    [group] = await model.score([numbered(2)], keep_judgements=True)
    assert [(j.vote, j.scores) for j in group.judgements] == [(i, (1, 2)) for i in range(4)]
    assert group.tokens == sum(j.tokens for j in group.judgements) > 0
    assert {j.version for j in group.judgements} == {group.version} == {model.version}


async def test_the_version_names_engine_template_and_configuration():
    model = reward_model(ScriptedEngine([box(1)]))
    assert re.fullmatch(r"scripted\|default\|[0-9a-f]{8}", model.version)
    assert reward_model(ScriptedEngine([])).version == model.version
    for change in (
        {"vote": {"k": 4}},
        {"sampling": {"temperature": 0.6}},
        {"reward": {"scale": "rank"}},
        {"template": {"name": "default", "nonce": False}},
        {"budget": {"completion_view": "full"}},
    ):
        assert reward_model(ScriptedEngine([]), **change).version != model.version


async def test_a_changed_template_file_changes_the_version(tmp_path):
    path = tmp_path / "mine.jinja"
    versions = set()
    for wording in ("Judge: {{ responses[0] }}", "Judge strictly: {{ responses[0] }}"):
        path.write_text(wording, encoding="utf-8")
        versions.add(reward_model(ScriptedEngine([]), template={"name": str(path)}).version)
    assert len(versions) == 2


async def test_the_task_digest_is_of_what_was_judged():
    model = reward_model(ScriptedEngine([box(1)]), vote={"k": 1})
    [group] = await model.score([JudgeTask("x", ["<think>hm</think>a"])])
    assert group.task == JudgeTask("x", ["a"]).digest().hex()


def nonces(engine):
    return {
        match[1]
        for request in engine.requests
        for match in re.finditer(r"\[The \w+ of Response \d+ ([0-9a-f]{12})\]", request.prompt)
    }


async def test_the_nonce_differs_per_task_and_is_stable_per_secret(tmp_path):
    tasks = [numbered(2), numbered(3)]
    found = []
    for run, folder in enumerate(["a", "a", "b"]):
        engine = ScriptedEngine(by_content(said))
        # Another judge, so that no vote is found in the store and all prompts are seen.
        engine.identity = f"judge {run}"
        model = reward_model(engine, store={"path": str(tmp_path / folder)}, vote={"k": 2})
        await model.score(tasks)
        found.append(nonces(engine))
        await model.aclose()
    assert [len(seen) for seen in found] == [2, 2, 2]
    assert found[0] == found[1]
    assert not found[0] & found[2]


async def test_without_a_store_every_model_has_its_own_nonces():
    found = []
    for _ in range(2):
        engine = ScriptedEngine(by_content(said))
        await reward_model(engine, vote={"k": 1}).score([numbered(2)])
        found.append(nonces(engine))
    assert len(found[0] | found[1]) == 2


async def test_the_nonce_can_be_turned_off():
    engine = ScriptedEngine(by_content(said))
    model = reward_model(engine, template={"name": "default", "nonce": False}, vote={"k": 1})
    await model.score([numbered(2)])
    assert "[The Begin of Response 1]\n" in engine.requests[0].prompt
    assert not nonces(engine)


async def test_a_restart_pays_for_nothing_finished_and_more_votes_only_for_the_new(tmp_path):
    def model(engine, k):
        return reward_model(engine, store={"path": str(tmp_path)}, vote={"k": k})

    first = ScriptedEngine(by_content(said))
    before = model(first, 4)
    [one] = await before.score([numbered(2)], keep_judgements=True)
    await before.aclose()
    again = ScriptedEngine([EngineError("must not be asked")])
    after = model(again, 4)
    [two] = await after.score([numbered(2)], keep_judgements=True)
    await after.aclose()
    more = ScriptedEngine(by_content(said))
    larger = model(more, 8)
    [three] = await larger.score([numbered(2)])
    await larger.aclose()
    assert not again.requests
    assert (two.rewards, two.tokens) == (one.rewards, one.tokens)
    assert [j.key for j in two.judgements] == [j.key for j in one.judgements]
    assert sorted(v for request in more.requests for v in request.votes) == [4, 5, 6, 7]
    assert three.votes == (8, 8)


@pytest.mark.parametrize(
    "completion",
    ["x" * 200_000, "🙂 emoji", "a\0b", "", " ", "\r\n", "\ud800", "\\boxed{10, 10}", "</think>"],
)
async def test_any_completion_is_judged(tmp_path, completion):
    def script(request):
        return box(*(2 + 5 * (i == 0) for i in request.order))

    model = reward_model(ScriptedEngine(script), store={"path": str(tmp_path)}, vote={"k": 2})
    [group] = await model.score([JudgeTask("x", [completion, "b"])])
    assert group.rewards == (7, 2)
    await model.aclose()


async def test_text_the_engine_cannot_encode_is_no_reason_to_hang(tmp_path):
    model = reward_model(
        ScriptedEngine(["\ud800 " + box(7, 2)]), store={"path": str(tmp_path)}, vote={"k": 1}
    )
    [group] = await asyncio.wait_for(model.score([JudgeTask("x", ["a", "b"])]), timeout=5)
    assert sorted(group.rewards) == [2, 7]
    await model.aclose()


async def test_conversations_and_tool_turns_are_judged():
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "three"},
    ]
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 2?"}]
    engine = ScriptedEngine([box(7)])
    [group] = await reward_model(engine, vote={"k": 1}).score([JudgeTask(prompt, [turns])])
    assert group.rewards == (7,)
    assert "three" in engine.requests[0].prompt


def test_score_sync_without_a_loop():
    [group] = reward_model(ScriptedEngine(by_content(said))).score_sync([numbered(2)])
    assert group.rewards == (1, 2)


async def test_score_sync_from_inside_a_running_loop():
    [group] = reward_model(ScriptedEngine(by_content(said))).score_sync([numbered(2)])
    assert group.rewards == (1, 2)


def test_score_sync_from_many_threads_shares_one_background_loop():
    model = reward_model(ScriptedEngine(by_content(said)))
    rewards = {}

    def run(n):
        rewards[n] = model.score_sync([numbered(n)], keep_judgements=n == 1)[0].rewards

    threads = [threading.Thread(target=run, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rewards == {n: tuple(range(1, n + 1)) for n in range(1, 9)}
    assert sum(thread.name == "spct-loop" for thread in threading.enumerate()) == 1


def test_score_sync_raises_what_score_raises():
    with pytest.raises(RewardError):
        reward_model(ScriptedEngine(["?"])).score_sync([numbered(2)])


def test_one_model_serves_several_event_loops(tmp_path):
    model = reward_model(ScriptedEngine(by_content(said)), store={"path": str(tmp_path)})
    for n in (1, 2, 2):
        [group] = asyncio.run(model.score([numbered(n)]))
        assert group.rewards == tuple(range(1, n + 1))
    assert model.score_sync([numbered(3)])[0].rewards == (1, 2, 3)
    asyncio.run(model.aclose())


def tracked_engine(delay=0.001):
    async def score(request):
        engine.running += 1
        engine.peak = max(engine.peak, engine.running)
        try:
            await asyncio.sleep(delay * random.Random(request.seed).uniform(0.5, 1))
            return [by_content(said)(request)] * len(request.votes)
        finally:
            engine.running -= 1

    engine = Engine(score)
    engine.running = engine.peak = 0
    return engine


async def test_a_stream_comes_in_order_through_a_bounded_window():
    engine = tracked_engine()
    model = reward_model(engine, vote={"k": 1})
    read = []

    def tasks():
        for i in range(40):
            read.append(i)
            yield JudgeTask(f"prompt {i}", [f"say {i % 10 + 1}"])

    got = []
    async for group in model.stream(tasks(), window=5):
        got.append(group.rewards[0])
        assert len(read) - len(got) < 5
    assert got == [i % 10 + 1 for i in range(40)]
    assert 2 <= engine.peak <= 5


@pytest.mark.parametrize("window", [1, 3, 100])
async def test_a_stream_is_whole_for_every_window(window):
    model = reward_model(tracked_engine(), vote={"k": 1})
    tasks = [numbered(1, start=i) for i in range(1, 8)]
    got = [group.rewards async for group in model.stream(tasks, window=window)]
    assert got == [(i,) for i in range(1, 8)]


async def test_a_stream_of_nothing_is_empty():
    assert [group async for group in reward_model(ScriptedEngine([])).stream([])] == []


async def test_a_stream_that_is_left_cancels_what_is_running():
    engine = tracked_engine(delay=30)
    engine_sleeps = asyncio.all_tasks()
    stream = reward_model(engine, vote={"k": 1}).stream([numbered(1)] * 50, window=8)
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0.05)
    assert engine.running == 8
    waiting.cancel()
    await asyncio.wait({waiting}, timeout=1)
    assert waiting.cancelled()
    await asyncio.wait_for(stream.aclose(), timeout=1)
    assert engine.running == 0
    assert asyncio.all_tasks() == engine_sleeps


async def test_a_mistake_in_a_stream_cancels_the_rest():
    engine = tracked_engine(delay=30)
    score = engine.answer

    async def broken_once(request):
        if "say 2" in request.prompt:
            raise KeyError("bug")
        return await score(request)

    engine.answer = broken_once
    stream = reward_model(engine, vote={"k": 1}).stream([numbered(1, 2), numbered(1)], window=2)
    with pytest.raises(KeyError, match="bug"):
        await asyncio.wait_for(anext(stream), timeout=1)
    assert engine.running == 0


async def test_a_mistake_in_a_step_leaves_nothing_running():
    engine = tracked_engine(delay=30)
    score = engine.answer

    async def broken_once(request):
        if "say 2" in request.prompt:
            raise KeyError("bug")
        return await score(request)

    engine.answer = broken_once
    before = asyncio.all_tasks()
    with pytest.raises(KeyError, match="bug"):
        await reward_model(engine, vote={"k": 1}).score([numbered(1), numbered(1, 2)])
    await asyncio.sleep(0.01)
    assert engine.running == 0
    assert asyncio.all_tasks() == before


async def test_a_stream_has_no_breaker_and_keeps_judgements_when_asked():
    model = reward_model(ScriptedEngine(["?"]), vote={"k": 2})
    [group] = [g async for g in model.stream([numbered(2)], keep_judgements=True)]
    assert group.rewards == (None, None)
    assert len(group.judgements) == 2


async def test_a_cancelled_step_leaves_nothing_running():
    engine = tracked_engine(delay=30)
    step = asyncio.create_task(reward_model(engine, vote={"k": 2}).score([numbered(2)] * 4))
    await asyncio.sleep(0.02)
    assert engine.running == 8
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert engine.running == 0


async def test_without_a_store_closing_closes_the_engine():
    engine = tracked_engine()
    await reward_model(engine).aclose()
    assert engine.closed == 1


async def test_closing_closes_the_engine_and_the_store(tmp_path):
    engine = tracked_engine()
    model = reward_model(engine, store={"path": str(tmp_path)}, vote={"k": 1})
    await model.score([numbered(1)])
    await model.aclose()
    assert engine.closed == 1
    assert not [t for t in threading.enumerate() if t.name == "spct-store-writer"]


def test_the_default_model_needs_no_configuration():
    model = RewardModel(engine=ScriptedEngine([box(7, 3)]))
    assert model.version.startswith("scripted|tiny|")
    assert model.scale == (1, 10)
    [group] = model.score_sync([JudgeTask("Name a prime.", ["7", "8"])])
    assert sum(group.rewards) == 10
    assert load_plugins().votes.keys() == {"mean"}
