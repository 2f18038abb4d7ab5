"""The loop around an engine: prompts, parsing, un-permutation, failures as data."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging_helpers import Engine, box, by_content, numbered, said

from spct_plugin import EngineError, JudgeTask
from spct_plugin.engines import Choice, Sampling
from spct_plugin.judge import Case, Judge
from spct_plugin.permutations import Ask
from spct_plugin.store import Store
from spct_plugin.templates import load_template
from spct_plugin.testing import ScriptedEngine
from spct_plugin.voting import scores_matrix, tally

SAMPLING = Sampling(0.5, 1.0, 100)
TASK = JudgeTask("Count.", ["say 1", "say 2", "say 3"])


def case(task=TASK, **changes):
    return Case(task, task.digest(), b"\0\0\0\x05" + bytes(28), **changes)


def judge(engine, store=None):
    return Judge(engine, load_template("default"), SAMPLING, "v1", store)


async def test_table_17_scores_come_back_in_the_callers_order():
    """Source: arXiv 2504.02495, Table 17: 8,8 in order, 9,5 and 10,7 reversed: 20 and 27."""
    reversed_answers = iter([box(9, 5), box(10, 7)])
    engine = ScriptedEngine(
        lambda request: box(8, 8) if request.order == (0, 1) else next(reversed_answers)
    )
    asks = [Ask((0, 1), (0,)), Ask((1, 0), (1, 2))]
    judged = await judge(engine).judge(case(JudgeTask("x", ["a", "b"])), asks)
    assert [j.scores for j in judged] == [(8, 8), (5, 9), (7, 10)]
    assert [mean * 3 for mean in tally(scores_matrix(judged, 2), 2).means] == [20, 27]


@given(st.integers(1, 9).flatmap(lambda n: st.permutations(range(n))), st.data())
def test_scores_are_put_back_whatever_the_order_and_the_list(order, data):
    seen = tuple(order[: data.draw(st.integers(1, len(order)))])
    engine = ScriptedEngine(by_content(said))
    [found] = asyncio.run(judge(engine).judge(case(numbered(len(order))), [Ask(seen, (0,))]))
    assert found.indices == tuple(sorted(seen))
    assert found.order == seen
    assert found.scores == tuple(i + 1 for i in sorted(seen))


async def test_a_judgement_carries_all_that_is_known_of_it():
    text = "Specific Criteria: fit (60%)\nAnalysis: fits.\nScores: \\boxed{7, 3, 5}"
    engine = ScriptedEngine([Choice(text, "stop", 17)])
    [found] = await judge(engine).judge(case(), [Ask((2, 0, 1), (4,))])
    assert (found.scores, found.vote, found.version) == ((3, 5, 7), 4, "v1")
    assert (found.text, found.finish_reason, found.tokens) == (text, "stop", 17)
    assert ([p.text for p in found.principles], found.critique) == (["fit"], "fits.")
    assert (found.failure, found.detail, found.key, found.meta_score) == (None, "", "", None)
    assert found.seconds >= 0


async def test_a_request_says_what_is_asked():
    engine = ScriptedEngine([box(1, 2, 3)])
    await judge(engine).judge(case(nonce="c0de"), [Ask((1, 0, 2), (3, 6))])
    [request] = engine.requests
    assert (request.votes, request.sampling, request.order) == ((3, 6), SAMPLING, (1, 0, 2))
    assert request.task == TASK.digest()
    assert 0 <= request.seed < 2**31
    assert "[The Begin of Response 1 c0de]\nsay 2\n" in request.prompt


async def test_requests_of_a_group_have_their_own_seeds():
    engine = ScriptedEngine([box(1, 2, 3)])
    asks = [Ask((0, 1, 2), (0, 3)), Ask((1, 2, 0), (1, 4)), Ask((2, 0, 1), (2, 5))]
    await judge(engine).judge(case(), asks)
    assert len({request.seed for request in engine.requests}) == 3
    assert all(0 <= request.seed < 2**31 for request in engine.requests)


async def test_lists_of_one_vote_have_their_own_seeds():
    engine = ScriptedEngine([box(1)])
    await judge(engine).judge(case(), [Ask((i,), (0,)) for i in range(3)])
    assert len({request.seed for request in engine.requests}) == 3


async def test_judgements_come_in_the_order_of_the_asks():
    engine = ScriptedEngine([box(1, 2, 3)])
    asks = [Ask((0, 1, 2), (0, 3)), Ask((1, 2, 0), (1,))]
    assert [j.vote for j in await judge(engine).judge(case(), asks)] == [0, 3, 1]


JUDGE_FAILURES = {
    "no_scores": Choice("no box"),
    "wrong_count": Choice(box(1, 2)),
    "out_of_range": Choice(box(1, 2, 11)),
    "truncated": Choice(box(1, 2, 3), "length"),
    "refused": Choice("", "content_filter"),
}


@pytest.mark.parametrize(("failure", "choice"), JUDGE_FAILURES.items())
async def test_an_answer_without_scores_is_data(failure, choice):
    [found] = await judge(ScriptedEngine([choice])).judge(case(), [Ask((0, 1, 2), (0,))])
    assert (found.scores, found.failure, found.text) == (None, failure, choice.text)
    assert found.detail
    assert found.finish_reason == choice.finish_reason


@pytest.mark.parametrize("failure", ["engine_error", "too_long", "refused"])
async def test_an_engine_error_is_data_with_the_failure_it_names(failure):
    engine = ScriptedEngine([EngineError("server said no", failure=failure)])
    found = await judge(engine).judge(case(), [Ask((0, 1, 2), (0, 3))])
    assert [(j.scores, j.failure, j.detail, j.text) for j in found] == [
        (None, failure, "server said no", "")
    ] * 2
    assert [j.finish_reason for j in found] == [None, None]


async def test_one_failed_request_leaves_the_others_alone():
    def script(request):
        return EngineError("no") if request.order[0] == 1 else by_content(said)(request)

    asks = [Ask((0, 1, 2), (0,)), Ask((1, 2, 0), (1,)), Ask((2, 0, 1), (2,))]
    found = await judge(ScriptedEngine(script)).judge(case(), asks)
    assert [j.scores for j in found] == [(1, 2, 3), None, (1, 2, 3)]


async def test_a_prompt_that_does_not_fit_is_never_sent():
    engine = Engine(None, max_chars=10)
    [found] = await judge(engine).judge(case(), [Ask((0, 1, 2), (0,))])
    assert (found.failure, engine.requests) == ("too_long", [])
    assert "100 tokens of answer exceed the context" in found.detail


async def test_a_server_that_returns_fewer_choices_is_asked_for_the_rest():
    numbers = iter(range(1, 10))

    async def two_at_most(request):
        return [box(*[next(numbers)] * 3) for _ in request.votes[:2]]

    engine = Engine(two_at_most)
    found = await judge(engine).judge(case(), [Ask((0, 1, 2), (0, 3, 6, 9, 12))])
    assert [request.votes for request in engine.requests] == [
        (0, 3, 6, 9, 12),
        (6, 9, 12),
        (12,),
    ]
    assert len({request.seed for request in engine.requests}) == 3
    assert [(j.vote, j.scores[0]) for j in found] == [(0, 1), (3, 2), (6, 3), (9, 4), (12, 5)]


async def test_a_server_that_returns_more_choices_is_cut_to_what_was_asked():
    async def ten(request):
        return [box(i + 1, 1, 1) for i in range(10)]

    engine = Engine(ten)
    found = await judge(engine).judge(case(), [Ask((0, 1, 2), (0, 3))])
    assert [j.scores[0] for j in found] == [1, 2]
    assert len(engine.requests) == 1


async def test_choices_that_came_before_an_error_are_kept():
    async def one_then_none(request):
        if request.votes[0] != 0:
            raise EngineError("gone")
        return [box(1, 2, 3)]

    found = await judge(Engine(one_then_none)).judge(case(), [Ask((0, 1, 2), (0, 3, 6))])
    assert [(j.scores, j.failure) for j in found] == [
        ((1, 2, 3), None),
        (None, "engine_error"),
        (None, "engine_error"),
    ]


async def test_an_engine_that_returns_nothing_is_a_failure_and_not_asked_for_ever():
    async def nothing(request):
        await asyncio.sleep(0)
        return []

    asking = judge(Engine(nothing)).judge(case(), [Ask((0, 1, 2), (0,))])
    [found] = await asyncio.wait_for(asking, timeout=1)
    assert found.failure == "engine_error"


async def test_what_is_late_is_missing_and_what_came_is_kept():
    async def slow_for_the_second(request):
        await asyncio.sleep(0 if request.votes[0] == 0 else 60)
        return [box(1, 2, 3)]

    deadline = asyncio.get_running_loop().time() + 0.5
    found = await judge(Engine(slow_for_the_second)).judge(
        case(deadline=deadline), [Ask((0, 1, 2), (0, 3)), Ask((1, 2, 0), (1,))]
    )
    assert [(j.vote, j.failure) for j in found] == [(0, None), (3, "deadline"), (1, "deadline")]
    assert found[1].scores is None
    assert "vote.deadline_s" in found[1].detail


async def test_a_mistake_in_an_engine_is_not_hidden():
    async def broken(request):
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        await judge(Engine(broken)).judge(case(), [Ask((0, 1, 2), (0,))])


async def test_finished_votes_come_from_the_store(tmp_path):
    asks = [Ask((0, 1, 2), (0, 3))]
    for run, engine in enumerate([ScriptedEngine(by_content(said)), ScriptedEngine([])]):
        store = Store(tmp_path)
        found = await judge(engine, store).judge(case(), asks)
        store.close()
        assert [j.scores for j in found] == [(1, 2, 3)] * 2
        assert len({j.key for j in found}) == 2
        assert all(len(bytes.fromhex(j.key)) == 32 for j in found)
        assert len(engine.requests) == 1 - run
        assert all(j.tokens > 0 for j in found)


async def test_only_missing_votes_are_paid_for(tmp_path):
    store = Store(tmp_path)
    await judge(ScriptedEngine([box(1, 1, 1)]), store).judge(case(), [Ask((0, 1, 2), (0, 3))])
    engine = ScriptedEngine([box(2, 2, 2)])
    found = await judge(engine, store).judge(case(), [Ask((0, 1, 2), (0, 3, 6, 9))])
    assert [request.votes for request in engine.requests] == [(6, 9)]
    assert [j.scores[0] for j in found] == [1, 1, 2, 2]
    store.close()


async def test_failed_requests_are_not_stored_but_bad_answers_are(tmp_path):
    store = Store(tmp_path)
    ask = [Ask((0, 1, 2), (0,))]
    await judge(ScriptedEngine([EngineError("no")]), store).judge(case(), ask)
    bad = ScriptedEngine(["no box"])
    await judge(bad, store).judge(case(), ask)
    [found] = await judge(ScriptedEngine([]), store).judge(case(), ask)
    assert (len(bad.requests), found.failure, found.text) == (1, "no_scores", "no box")
    store.close()


class Renamed(ScriptedEngine):
    def __init__(self, script, identity):
        super().__init__(script)
        self.identity = identity


async def test_another_model_sampling_prompt_or_vote_is_another_key(tmp_path):
    store = Store(tmp_path)
    template = load_template("default")
    ask = [Ask((0, 1, 2), (0,))]
    other_task = JudgeTask("Count!", TASK.completions)
    keys = set()
    for identity, sampling, task, nonce, asks in [
        ("m@1", SAMPLING, TASK, "", ask),
        ("m@2", SAMPLING, TASK, "", ask),
        ("m@1", Sampling(0.6, 1.0, 100), TASK, "", ask),
        ("m@1", Sampling(0.5, 0.9, 100), TASK, "", ask),
        ("m@1", Sampling(0.5, 1.0, 101), TASK, "", ask),
        ("m@1", SAMPLING, other_task, "", ask),
        ("m@1", SAMPLING, TASK, "c0de", ask),
        ("m@1", SAMPLING, TASK, "", [Ask((1, 0, 2), (0,))]),
        ("m@1", SAMPLING, TASK, "", [Ask((0, 1, 2), (1,))]),
    ]:
        asker = Judge(Renamed([box(1, 2, 3)], identity), template, sampling, "v", store)
        [found] = await asker.judge(case(task, nonce=nonce), asks)
        keys.add(found.key)
    assert len(keys) == 9
    store.close()


@pytest.mark.parametrize("completion", ["x" * 200_000, "a\0b", "🙂" * 1000, "", "\ud800", "\r\n"])
async def test_any_completion_can_be_judged_and_stored(tmp_path, completion):
    store = Store(tmp_path)
    engine = ScriptedEngine([box(3, 7)])
    task = JudgeTask("x", [completion, "b"])
    [found] = await judge(engine, store).judge(case(task), [Ask((1, 0), (0,))])
    assert found.scores == (7, 3)
    store.close()


async def test_fits_asks_the_engine_about_the_rendered_prompt():
    found = judge(Engine(None, max_chars=5000)).fits(case(numbered(200)), range(200))
    assert found is False
    assert judge(Engine(None, max_chars=5000)).fits(case(), (0, 1, 2)) is True


def test_orders_are_drawn_without_the_global_generator():
    random.seed(3)
    before = random.getstate()
    asyncio.run(judge(ScriptedEngine([box(1, 2, 3)])).judge(case(), [Ask((0, 1, 2), (0,))]))
    assert random.getstate() == before
