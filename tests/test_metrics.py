"""What the trainer's log shows of the judge."""

import math

import pytest
from judging_helpers import box, by_content, numbered, reward_model, said

from spct_plugin import EngineError, JudgeTask
from spct_plugin.failures import FAILURES
from spct_plugin.metrics import shown_scores, step_metrics
from spct_plugin.testing import ScriptedEngine
from spct_plugin.types import Judgement


async def metrics(answer, tasks, **sections):
    model = reward_model(ScriptedEngine(answer), **sections)
    votes = await model.vote(tasks)
    rows = sum(len(task.completions) for task in tasks)
    return step_metrics(tasks, votes, model.shape(votes, [0.0] * rows))


async def test_a_step_in_which_all_goes_well():
    found = await metrics(by_content(said), [numbered(4), numbered(2)], vote={"k": 4})
    assert found["votes"] == 4
    assert found["parse_rate"] == 1
    assert found["spread"] == found["ties"] == found["groups_without_spread"] == 0
    assert found["position_bias"] == pytest.approx(0)
    assert found["tokens"] > 0
    assert all(found[f"failed/{kind}"] == 0 for kind in FAILURES)


async def test_names_are_the_same_whatever_happens():
    good = await metrics(by_content(said), [numbered(2)])
    bad = await metrics([EngineError("out")], [numbered(2)])
    assert list(good) == list(bad)
    assert list(step_metrics([], [], [])) == list(good)


async def test_failures_are_shares_of_all_and_parse_rate_of_those_that_came():
    # Two orders of one group, two votes each: one request is lost, one holds no box.
    script = [EngineError("out"), "no box", box(4, 5)]
    found = await metrics(script, [numbered(2)], vote={"k": 4})
    assert found["failed/engine_error"] == 0.5
    assert found["failed/no_scores"] == 0.25
    assert found["parse_rate"] == 0.5


async def test_a_judge_that_prefers_the_first_shows_as_position_bias():
    found = await metrics([box(9, 3)], [numbered(2)], vote={"k": 4})
    assert found["position_bias"] == 6
    assert found["groups_without_spread"] == 1  # the cyclic orders cancel it


async def test_ties_and_groups_without_spread():
    found = await metrics([box(5, 5)], [numbered(2)])
    assert found["ties"] == found["groups_without_spread"] == 1


async def test_a_group_with_one_known_reward_has_no_spread():
    found = await metrics([box(5), "no box"], [numbered(2)], vote={"k": 1, "list_size": 1})
    assert found["groups_without_spread"] == 1


async def test_a_judge_that_rewards_length_shows_as_correlation():
    task = JudgeTask("q", ["a" * n for n in (1, 3, 9)])
    longer = await metrics(by_content(len), [task], vote={"k": 3})
    assert longer["length_correlation"] == pytest.approx(1)
    even = await metrics([box(5, 5, 5)], [task], vote={"k": 3})
    assert math.isnan(even["length_correlation"])


async def test_nothing_that_is_unknown_becomes_a_number():
    found = await metrics([EngineError("out")], [numbered(2)])
    for name in ("parse_rate", "spread", "ties", "position_bias", "length_correlation"):
        assert math.isnan(found[name]), name


def test_scores_as_shown():
    assert shown_scores(Judgement((0, 1, 2), (2, 0, 1), (7, 8, 9))) == [9, 7, 8]
    assert shown_scores(Judgement((0, 1), (1, 0), None)) == []
