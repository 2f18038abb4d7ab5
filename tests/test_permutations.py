"""Orders: every vote once, every position once per square, the same plan for the same seed."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spct_plugin.permutations import Ask, plan_wave, wave_size

seeds = st.binary(min_size=1, max_size=32)
sizes = st.integers(1, 17)
counts = st.integers(1, 40)


def orders_by_vote(asks):
    return {vote: ask.order for ask in asks for vote in ask.votes}


@given(sizes, counts, st.integers(0, 100), seeds)
def test_every_vote_appears_exactly_once(n, votes, first, seed):
    asks = plan_wave(n, range(first, first + votes), seed)
    assert sorted(v for ask in asks for v in ask.votes) == list(range(first, first + votes))
    assert all(sorted(ask.order) == list(range(n)) for ask in asks)
    assert all(ask.votes for ask in asks)


@given(sizes, st.integers(1, 4), st.integers(0, 100), seeds)
def test_a_whole_square_puts_every_completion_at_every_position_once(n, squares, first, seed):
    asks = plan_wave(n, range(first, first + squares * n), seed)
    seen = Counter(
        (position, completion)
        for ask in asks
        for position, completion in enumerate(ask.order)
        for _ in ask.votes
    )
    assert seen == {(p, c): squares for p in range(n) for c in range(n)}


@given(sizes, counts, seeds)
def test_votes_of_one_order_share_a_request(n, votes, seed):
    asks = plan_wave(n, range(votes), seed)
    assert len({ask.order for ask in asks}) == len(asks) == min(n, votes)
    shares = [len(ask.votes) for ask in asks]
    assert max(shares) - min(shares) <= 1


@given(sizes, counts, counts, seeds)
def test_a_vote_has_the_same_order_for_every_k(n, few, more, seed):
    small = orders_by_vote(plan_wave(n, range(few), seed))
    large = orders_by_vote(plan_wave(n, range(few + more), seed))
    assert small.items() <= large.items()


@given(sizes, counts, seeds, st.none() | sizes)
def test_the_same_seed_gives_the_same_plan(n, votes, seed, list_size):
    first, again = (plan_wave(n, range(votes), seed, list_size=list_size) for _ in range(2))
    assert first == again


def test_the_plan_is_the_same_in_every_process_and_leaves_the_global_generator_alone():
    random.seed(1)
    before = random.getstate()
    assert plan_wave(4, range(5), b"seed") == [
        Ask((0, 3, 1, 2), (0, 4)),
        Ask((3, 1, 2, 0), (1,)),
        Ask((1, 2, 0, 3), (2,)),
        Ask((2, 0, 3, 1), (3,)),
    ]
    assert random.getstate() == before


def test_seeds_and_waves_get_different_shuffles():
    orders = {plan_wave(8, range(1), bytes([i]))[0].order for i in range(20)}
    assert len(orders) > 15
    waves = {plan_wave(8, range(first, first + 8), b"s")[0].order for first in range(0, 80, 8)}
    assert len(waves) > 7


def test_every_completion_comes_first_about_equally_often():
    firsts = Counter(plan_wave(4, range(1), b"%d" % i)[0].order[0] for i in range(2000))
    assert all(abs(firsts[i] - 500) < 100 for i in range(4))


def test_no_votes_need_no_requests():
    assert plan_wave(4, range(0), b"seed") == []


@given(st.integers(2, 17), counts, st.integers(1, 16), seeds)
def test_lists_partition_the_group_for_each_vote(n, votes, list_size, seed):
    asks = plan_wave(n, range(votes), seed, list_size=list_size)
    if list_size >= n:
        assert asks == plan_wave(n, range(votes), seed)
        return
    for vote in range(votes):
        lists = [ask.order for ask in asks if vote in ask.votes]
        assert sorted(i for order in lists for i in order) == list(range(n))
        lengths = sorted(len(order) for order in lists)
        assert lengths[-1] <= list_size
        assert lengths[-1] - lengths[0] <= 1
        assert len(lists) == -(-n // list_size)


@given(st.integers(3, 17), st.integers(2, 16), seeds, counts, counts)
def test_a_vote_is_split_alike_for_every_k(n, list_size, seed, few, more):
    small = plan_wave(n, range(few), seed, list_size=min(list_size, n - 1))
    large = plan_wave(n, range(few + more), seed, list_size=min(list_size, n - 1))
    orders = {ask.order: set(ask.votes) for ask in large}
    assert all(orders[ask.order] & set(range(few)) == set(ask.votes) for ask in small)


def test_votes_are_split_differently():
    asks = plan_wave(8, range(20), b"seed", list_size=4)
    splits = {frozenset(map(frozenset, (a.order, b.order))) for a, b in pairwise(asks[:2] + asks)}
    assert len(splits) > 10


@pytest.mark.parametrize(
    ("n", "at_least", "size"), [(1, 4, 4), (2, 4, 4), (3, 4, 6), (4, 4, 4), (5, 4, 5), (16, 1, 16)]
)
def test_waves_are_whole_squares(n, at_least, size):
    assert wave_size(n, at_least) == size
