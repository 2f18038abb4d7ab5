"""From means to rewards: scales, rules, failure policies, the breaker; None is never a number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spct_plugin import RewardError
from spct_plugin.failures import FAILURES, INFRASTRUCTURE_FAILURES, JUDGE_FAILURES
from spct_plugin.shaping import add_rules, apply_on_failure, check_breaker, scale_rewards

SCALES = {
    "mean": ("mean", [2.5, None, 10.0], [2.5, None, 10.0]),
    "sum": ("sum", [2.5, None, 10.0], [20.0, None, 80.0]),
    "unit": ("unit", [1.0, None, 5.5, 10.0], [0.0, None, 0.5, 1.0]),
    "rank": ("rank", [3.0, 9.0, 5.0], [0.0, 1.0, 0.5]),
    "rank with a tie": ("rank", [3.0, 9.0, 9.0], [0.0, 0.75, 0.75]),
    "rank, all tied": ("rank", [4.0, 4.0, 4.0], [0.5, 0.5, 0.5]),
    "rank of one": ("rank", [4.0], [0.5]),
    "rank of one known": ("rank", [None, 4.0, None], [None, 0.5, None]),
    "rank among the known": ("rank", [None, 4.0, 2.0], [None, 1.0, 0.0]),
    "rank of none": ("rank", [None, None], [None, None]),
}


@pytest.mark.parametrize(("scale", "means", "rewards"), SCALES.values(), ids=SCALES.keys())
def test_means_are_mapped_to_the_scale(scale, means, rewards):
    assert scale_rewards(means, scale, 8, (1, 10)) == rewards


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 10), (-5, 5)])
def test_unit_spans_0_to_1_on_every_scale(low, high):
    assert scale_rewards([low, high], "unit", 1, (low, high)) == [0.0, 1.0]


means = st.lists(st.none() | st.floats(1, 10), min_size=1, max_size=8)
policies = st.sampled_from(["abstain", "group_mean", "drop_group"])


@given(means, st.sampled_from(["mean", "sum", "unit", "rank"]), st.integers(1, 64))
def test_no_scale_makes_a_number_of_none_or_changes_the_order(values, scale, k):
    rewards = scale_rewards(values, scale, k, (1, 10))
    assert [r is None for r in rewards] == [v is None for v in values]
    known = sorted((v, r) for v, r in zip(values, rewards, strict=True) if v is not None)
    assert [r for _, r in known] == sorted(r for _, r in known)
    if scale in ("unit", "rank"):
        assert all(0 <= r <= 1 for _, r in known)


POLICIES = {
    "nothing missing": ([1.0, 2.0], {p: [1.0, 2.0] for p in ("abstain", "group_mean", "stop")}),
    "one missing": (
        [1.0, None, 2.0],
        {
            "abstain": [1.0, None, 2.0],
            "group_mean": [1.0, 1.5, 2.0],
            "drop_group": [None, None, None],
        },
    ),
    "all missing": (
        [None, None],
        {p: [None, None] for p in ("abstain", "group_mean", "drop_group")},
    ),
}


@pytest.mark.parametrize(
    ("rewards", "policy", "expected"),
    [(rewards, p, e) for rewards, by_policy in POLICIES.values() for p, e in by_policy.items()],
)
def test_every_policy(rewards, policy, expected):
    assert apply_on_failure(rewards, policy) == expected


def test_stop_raises_and_says_how_many_are_missing():
    with pytest.raises(RewardError, match=r"2 of 3 completions .*'stop'.*abstain, group_mean"):
        apply_on_failure([None, 1.0, None], "stop")


@given(means, policies)
def test_only_group_mean_makes_a_number_of_none_and_it_is_the_known_mean(rewards, policy):
    shaped = apply_on_failure(rewards, policy)
    known = [reward for reward in rewards if reward is not None]
    for before, after in zip(rewards, shaped, strict=True):
        if before is None and after is not None:
            assert policy == "group_mean"
            assert after == pytest.approx(sum(known) / len(known))
        if before is not None and policy != "drop_group":
            assert after == before


def test_rules_are_added_to_the_weighted_judge_and_never_to_nothing():
    assert add_rules([2.0, None, 0.0], 0.5, [1.0, 1.0, -1.0]) == [2.0, None, -1.0]


def test_rules_and_rewards_have_one_entry_each():
    with pytest.raises(ValueError, match="zip"):
        add_rules([1.0], 1.0, [1.0, 2.0])


BREAKER = {
    "nothing asked": ({}, 0, None),
    "nothing failed": ({}, 10, None),
    "infrastructure at its limit": ({"engine_error": 3, "deadline": 1, "too_long": 1}, 10, None),
    "infrastructure over it": ({"engine_error": 3, "deadline": 2, "too_long": 1}, 10, "infra"),
    "judge at its limit": ({"no_scores": 5, "wrong_count": 3}, 10, None),
    "judge over it": ({"no_scores": 5, "wrong_count": 2, "truncated": 2}, 10, "judge"),
    "judge over it among what came": ({"engine_error": 5, "refused": 5}, 10, "judge"),
    "judge at its limit among what came": ({"engine_error": 5, "refused": 4}, 10, None),
    "both at half": ({"engine_error": 5, "out_of_range": 2}, 10, None),
    "all lost": ({"engine_error": 10}, 10, "infra"),
}


@pytest.mark.parametrize(("failures", "judgements", "stops"), BREAKER.values(), ids=BREAKER.keys())
def test_infrastructure_and_judge_are_counted_apart(failures, judgements, stops):
    if stops is None:
        check_breaker(failures, judgements, 0.5, 0.8)
        return
    with pytest.raises(RewardError, match=f"stopped: .*breaker.{stops}"):
        check_breaker(failures, judgements, 0.5, 0.8)


@pytest.mark.parametrize("kind", FAILURES)
def test_every_kind_of_failure_counts_in_its_family(kind):
    limits = (0.0, 1.0) if kind in INFRASTRUCTURE_FAILURES else (1.0, 0.0)
    assert kind in INFRASTRUCTURE_FAILURES + JUDGE_FAILURES
    check_breaker({kind: 1}, 10, *reversed(limits))
    with pytest.raises(RewardError, match=f"1 of 10 .*{kind}: 1"):
        check_breaker({kind: 1}, 10, *limits)


@given(st.dictionaries(st.sampled_from(FAILURES), st.integers(0, 9)))
def test_limits_of_one_never_stop(failures):
    check_breaker(failures, sum(failures.values()), 1.0, 1.0)


def test_the_message_says_what_a_failure_said():
    details = {"engine_error": "http://x answered 401"}
    with pytest.raises(RewardError, match=r"; engine_error: http://x answered 401$"):
        check_breaker({"engine_error": 4}, 4, 0.5, 0.5, details)


def test_the_message_names_the_kinds_that_occurred():
    with pytest.raises(RewardError, match=r"6 of 8 .*\(deadline: 2, engine_error: 4\)"):
        check_breaker({"engine_error": 4, "deadline": 2, "refused": 0}, 8, 0.5, 0.5)
