"""SPCT's rules: what is right, what it is worth, what is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spct_plugin.training.outcome import is_correct, outcome_reward
from spct_plugin.training.rejection import Verdict, is_too_easy, reject

CASES = {
    "the best wins": ((3, 8, 5), 1, True),
    "another wins": ((9, 8, 5), 1, False),
    "a tie is wrong": ((8, 8, 5), 1, False),
    "a tie among the others is none": ((5, 8, 5), 1, True),
    "one alone, right": ((1,), 1, True),
    "one alone, wrong": ((1,), 0, False),
}


@pytest.mark.parametrize(("scores", "label", "right"), CASES.values(), ids=CASES.keys())
def test_right_is_what_equation_10_says(scores, label, right):
    assert is_correct(scores, label) is right
    assert outcome_reward(scores, label) == (1 if right else -1)


def test_what_cannot_be_read_is_wrong():
    assert outcome_reward(None, 0) == -1


scores = st.lists(st.integers(1, 10), min_size=2, max_size=6)


@given(scores, st.randoms())
def test_the_order_of_the_others_does_not_matter(scores, rng):
    label = rng.randrange(len(scores))
    order = rng.sample(range(len(scores)), len(scores))
    shuffled = [scores[i] for i in order]
    assert is_correct(shuffled, order.index(label)) == is_correct(scores, label)


@given(scores)
def test_at_most_one_label_is_right(scores):
    assert sum(is_correct(scores, label) for label in range(len(scores))) <= 1


@pytest.mark.parametrize(
    ("correct", "hinted", "verdict"),
    [
        ([True, False, True], False, Verdict((0, 2))),
        ([True, True, True], False, Verdict((), "too_easy")),
        ([True], True, Verdict((0,))),
        ([False, False], False, Verdict((), "never_right")),
        ([False], True, Verdict((), "never_right")),
        ([], False, Verdict((), "no_samples")),
    ],
)
def test_what_is_kept(correct, hinted, verdict):
    assert reject(correct, hinted=hinted) == verdict


@given(st.lists(st.booleans()), st.booleans())
def test_nothing_wrong_is_ever_kept(correct, hinted):
    verdict = reject(correct, hinted=hinted)
    assert all(correct[i] for i in verdict.kept)
    assert bool(verdict.kept) == (verdict.reason is None)


@given(st.lists(st.booleans(), min_size=1))
def test_rl_leaves_out_what_rejection_calls_too_easy(correct):
    assert is_too_easy(correct) == (reject(correct).reason == "too_easy")
