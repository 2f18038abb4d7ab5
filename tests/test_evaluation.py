"""Accuracy over votes: tables worked out by hand, and what must hold of any votes."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spct_plugin import Judgement, TaskError
from spct_plugin.evaluation import evaluate
from spct_plugin.evaluation.blocks import JudgedTask, credit, vote_blocks
from spct_plugin.evaluation.quality import auc, describe_judgements
from spct_plugin.intervals import bootstrap_aucs, bootstrap_mean, bootstrap_means
from spct_plugin.voting import tally


def judgement(vote, scores, *, order=None, meta=None, indices=None, tokens=10):
    """Make a judgement; scores None = failed."""
    seen = tuple(indices or range(len(scores or (0, 0))))
    return Judgement(
        seen,
        tuple(order or seen),
        None if scores is None else tuple(scores),
        failure="no_scores" if scores is None else None,
        meta_score=meta,
        tokens=tokens,
        vote=vote,
    )


def task(name, label, *scores, greedy=None, metas=None):
    """Make a task of as many votes as score lists."""
    metas = metas or [None] * len(scores)
    n = next((len(s) for s in (*scores, greedy) if s is not None), 2)
    judgements = [
        judgement(v, s, meta=m, indices=range(n))
        for v, (s, m) in enumerate(zip(scores, metas, strict=True))
    ]
    return JudgedTask(name, n, label, tuple(judgements), (judgement(0, greedy or scores[0]),))


CREDITS = [
    ([7, 3], 0, 1),
    ([7, 3], 1, 0),
    ([5, 5], 0, 0.5),
    ([5, 5, 5], 2, 1 / 3),
    ([5, 5, 2], 1, 0.5),
    ([5, 5, 2], 2, 0),
    ([None, 2], 1, 1),
    ([None, 2], 0, 0),
    ([None, None], 0, None),
]


@pytest.mark.parametrize(("means", "label", "expected"), CREDITS)
def test_credit_is_what_a_random_pick_among_the_best_earns(means, label, expected):
    assert credit(means, label) == expected


def test_blocks_are_disjoint_consecutive_and_whole():
    scores = [(v, 10 - v) for v in range(7)]
    judgements = [judgement(v, s) for v, s in enumerate(scores)]
    blocks = vote_blocks(judgements, 2, 7, 3, None, tally)
    assert blocks == [(1, 9), (4, 6)]
    assert vote_blocks(judgements, 2, 7, 7, None, tally) == [(3, 7)]
    assert len(vote_blocks(judgements, 2, 7, 1, None, tally)) == 7


def test_accuracy_of_two_tasks_by_hand():
    tasks = [
        # k = 1: right, tie, wrong, unreadable = (1 + 1/2 + 0 + 1/2) / 4; k = 2: 14:10, 2:5; k = 4.
        task("a", 0, (9, 5), (5, 5), (2, 5), None, greedy=(9, 1)),
        # k = 1: 4 x right; k = 2 and 4 too.
        task("b", 1, (1, 2), (1, 2), (1, 2), (1, 2), greedy=(2, 2)),
    ]
    found = evaluate(tasks, [1, 2, 4])
    [group] = found.groups
    assert (found.votes, group.n, group.measure, group.tasks) == (4, 2, "accuracy", 2)
    assert [p.value for p in group.plain] == [(0.5 + 1) / 2, (0.5 + 1) / 2, (1 + 1) / 2]
    assert [(p.k, p.blocks, p.unjudged) for p in group.plain] == [(1, 8, 1), (2, 4, 0), (4, 2, 0)]
    assert (group.greedy.value, group.greedy.blocks) == (0.75, 2)
    assert group.gain.value == 0.25
    assert (group.gain.low, group.gain.high) == (0, 0.5)
    assert (group.meta, group.k_meta_sweep) == ((), ())


def test_the_meta_rm_keeps_the_better_half_and_plain_voting_does_not_look_at_it():
    votes = [(1, 9), (9, 8), (1, 9), (9, 8)]
    by_hand = task("a", 0, *votes, metas=[0.1, 0.9, 0.2, 0.8])
    [group] = evaluate([by_hand], [1, 2, 4], [1, 2, 4]).groups
    assert [p.value for p in group.plain] == [0.5, 0, 0]
    assert [(p.k, p.k_meta, p.value) for p in group.meta] == [(1, 1, 0.5), (2, 1, 1), (4, 2, 1)]
    assert [p.over_plain.value for p in group.meta] == [0, 1, 1]
    sweep = [(p.k, p.k_meta, p.value) for p in group.k_meta_sweep]
    assert sweep == [(4, 1, 1), (4, 2, 1), (4, 4, 0)]
    assert group.k_meta_sweep[-1].over_plain.value == 0


def test_paired_differences_have_the_interval_of_the_differences():
    tasks = [
        task(f"t{i}", 0, (9, 1), (1, 9) if i % 3 else (9, 1), metas=[0.9, 0.1]) for i in range(30)
    ]
    [group] = evaluate(tasks, [1, 2], [1]).groups
    over = group.meta[-1].over_plain
    # Two thirds of the tasks tie at k = 2, and the meta RM keeps the right one.
    expected, (low, high) = bootstrap_mean([0.5 if i % 3 else 0 for i in range(30)])
    assert (over.value, over.low, over.high) == pytest.approx((expected, low, high))


def test_sizes_are_reported_apart_and_together_without_single_completions():
    tasks = [
        task("a", 0, (9, 1)),
        task("b", 2, (9, 1, 1)),
        task("c", 1, (7,)),
        task("d", 0, (3,)),
    ]
    groups = evaluate(tasks, [1]).groups
    assert [(g.n, g.measure, g.tasks) for g in groups] == [
        (1, "auc", 2),
        (2, "accuracy", 1),
        (3, "accuracy", 1),
        ("all", "accuracy", 2),
    ]
    assert [g.plain[0].value for g in groups] == [1, 1, 0, 0.5]
    assert [g.n for g in evaluate(tasks[:1], [1]).groups] == [2]


def test_one_completion_is_measured_by_the_area_under_the_curve():
    tasks = [
        task("a", 1, (9,), (5,)),
        task("b", 1, (4,), None),
        task("c", 0, (4,), (4,)),
        task("d", 0, (6,), (2,)),
    ]
    [group] = evaluate(tasks, [1, 2]).groups
    # Block 1: 9 beats 4 and 6; 4 ties with 4, loses to 6: 2.5 of 4. Block 2: 5 beats 4 and 2; the
    # failed one is a guess against both: 3 of 4. k = 2: 7 beats 4 and 4; 4 ties with both.
    assert [p.value for p in group.plain] == [(2.5 + 3) / 8, 3 / 4]
    assert [p.unjudged for p in group.plain] == [1, 0]
    assert group.plain[0].low <= group.plain[0].value <= group.plain[0].high


def test_one_class_alone_has_no_area():
    [group] = evaluate([task("a", 1, (9,)), task("b", 1, (3,))], [1]).groups
    assert group.plain[0].value is None
    assert (group.gain.value, group.greedy.low) == (None, None)


def test_too_few_votes_are_refused():
    with pytest.raises(TaskError, match="expected 4 votes of task 'b', found 1"):
        evaluate([task("a", 0, *[(9, 1)] * 4), task("b", 0, (9, 1))], [1, 4])


def test_the_result_is_plain_json():
    found = json.loads(json.dumps(asdict(evaluate([task("a", 0, (9, 1), None)], [1, 2], [1]))))
    assert set(found) == {"votes", "groups"}
    [group] = found["groups"]
    assert set(group) == {
        *("n", "measure", "tasks", "plain", "meta", "k_meta_sweep", "greedy", "gain", "quality")
    }
    assert group["quality"]["failures"] == {"no_scores": 1}


def test_judgements_are_described():
    own = [
        judgement(0, (9, 1), order=(1, 0), meta=0.8),
        judgement(1, (1, 9), order=(1, 0), meta=0.2),
        judgement(2, (5, 5), meta=0.5),
        judgement(3, None, tokens=30),
        judgement(4, (7,), indices=[0], meta=0.9),
    ]
    quality = describe_judgements([(2, 0, own)])
    assert (quality.judgements, quality.valid, quality.parse_rate) == (5, 4, 0.8)
    assert quality.failures == {"no_scores": 1}
    # The one that saw a part has a unique best, but no place among all, and no part in Eq. 10.
    assert quality.tie_rate == 0.25
    assert quality.winner_positions == (0.5, 0.5)
    assert quality.meta_auc == 1
    assert quality.meta_scored == 4
    assert quality.tokens_per_judgement == 14


def test_what_infrastructure_lost_is_counted_apart():
    lost = [replace(judgement(v, None), failure="engine_error") for v in (2, 3)]
    quality = describe_judgements([(2, 0, [judgement(0, (9, 1)), judgement(1, None), *lost])])
    assert (quality.judgements, quality.valid, quality.parse_rate) == (4, 1, 0.5)
    assert quality.failures == {"no_scores": 1, "engine_error": 2}
    assert describe_judgements([(2, 0, lost)]).parse_rate is None


def test_nothing_valid_is_no_share():
    quality = describe_judgements([(2, 0, [judgement(0, None)])])
    assert (quality.tie_rate, quality.winner_positions, quality.meta_auc) == (None, None, None)
    assert describe_judgements([]).parse_rate is None
    assert describe_judgements([(1, 1, [judgement(0, (4,), meta=0.1)])]).meta_auc is None


@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(0, 5), max_size=8))
def test_the_area_is_the_share_of_pairs_won(good, bad):
    pairs = [(g > b) + 0.5 * (g == b) for g in good for b in bad]
    assert auc(good, bad) == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)


def test_series_are_drawn_together_and_as_one_alone():
    rng = np.random.default_rng(0)
    one, other = rng.random(20), rng.random(20)
    mean, interval = bootstrap_means([other, one], seed=5)[1]
    alone, alone_interval = bootstrap_mean(list(one), seed=5)
    assert mean == pytest.approx(alone)
    assert interval == pytest.approx(alone_interval)
    [(area, (low, high))] = bootstrap_aucs([np.ones((3, 4))])
    assert (area, low, high) == (1, 1, 1)


SCORES = st.none() | st.tuples(*[st.integers(1, 10)] * 3)
VOTES = st.lists(SCORES, min_size=4, max_size=4)


def credits_of(votes, label=0, k=2):
    judgements = [judgement(v, s, indices=range(3)) for v, s in enumerate(votes)]
    return [credit(m, label) for m in vote_blocks(judgements, 3, len(votes), k, None, tally)]


@given(VOTES, st.permutations(range(3)), st.integers(0, 2))
def test_renaming_the_completions_changes_nothing(votes, names, label):
    renamed = [None if s is None else tuple(s[names.index(i)] for i in range(3)) for s in votes]
    assert credits_of(renamed, names[label]) == credits_of(votes, label)


@given(VOTES)
def test_credits_over_all_labels_sum_to_one(votes):
    for shares in zip(*(credits_of(votes, label) for label in range(3)), strict=True):
        assert None in shares or sum(shares) == pytest.approx(1)


@given(VOTES)
def test_a_failure_is_never_a_score(votes):
    valid = [s for s in votes if s is not None]
    [with_failures], without = credits_of(votes, k=4), credits_of(valid, k=max(1, len(valid)))
    assert [with_failures] == (without or [None])
    assert (with_failures is None) is (not valid)


@given(VOTES, st.randoms(use_true_random=False))
def test_the_order_of_judgements_in_a_file_does_not_matter(votes, rng):
    judgements = [judgement(v, s, indices=range(3)) for v, s in enumerate(votes)]
    mixed = rng.sample(judgements, 4)
    assert vote_blocks(mixed, 3, 4, 2, None, tally) == vote_blocks(judgements, 3, 4, 2, None, tally)
