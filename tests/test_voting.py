"""Votes: means over what was seen, the meta RM's choice, and when to stop."""

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spct_plugin import Judgement
from spct_plugin.voting import is_decided, is_settled, keep_top, scores_matrix, tally


def judgement(vote, *scores, meta=None, indices=None):
    indices = tuple(indices) if indices is not None else tuple(range(len(scores)))
    failure = None if scores else "no_scores"
    return Judgement(indices, indices, scores or None, failure=failure, meta_score=meta, vote=vote)


def paired(samples, metas):
    return enumerate(zip(samples, metas, strict=True))


FIGURE_3 = [(1, 5), (5, 6), (4, 8), (7, 6)]
TABLE_17 = [(8, 8), (5, 9), (7, 10)]


def test_figure_3_sums_over_all_samples():
    """Source: arXiv 2504.02495, Fig. 3: 17/40 and 25/40."""
    found = tally(FIGURE_3, 2)
    assert [mean * 4 for mean in found.means] == [17, 25]
    assert found.votes == (4, 4)


def test_figure_3_sums_over_what_the_meta_rm_keeps():
    """Source: arXiv 2504.02495, Fig. 3: samples 1 and 3 give 5/20 and 13/20."""
    metas = [0.9, 0.2, 0.8, 0.1]
    judgements = [judgement(i, *s, meta=m) for i, (s, m) in paired(FIGURE_3, metas)]
    kept = keep_top(judgements)
    assert [j.vote for j in kept] == [0, 2]
    assert [mean * 2 for mean in tally(scores_matrix(kept, 2), 2).means] == [5, 13]


def test_table_17_sums_and_its_meta_logits():
    """Source: arXiv 2504.02495, Table 17: 20 and 27; the two best logits keep samples 2 and 3."""
    assert [mean * 3 for mean in tally(TABLE_17, 2).means] == [20, 27]
    logits = [-15.7781, 1.3126, 1.6739]
    judgements = [judgement(i, *s, meta=m) for i, (s, m) in paired(TABLE_17, logits)]
    kept = keep_top(judgements, 2)
    assert [j.vote for j in kept] == [1, 2]
    assert [mean * 2 for mean in tally(scores_matrix(kept, 2), 2).means] == [12, 19]


scores = st.none() | st.integers(1, 10)


@st.composite
def matrices(draw, cells=scores, min_rows=0):
    n = draw(st.integers(1, 5))
    return draw(st.lists(st.lists(cells, min_size=n, max_size=n), min_size=min_rows, max_size=8)), n


@given(matrices())
def test_a_mean_is_over_the_votes_that_saw_the_completion(matrix):
    rows, n = matrix
    found = tally(rows, n)
    for i in range(n):
        seen = [row[i] for row in rows if row[i] is not None]
        assert found.votes[i] == len(seen)
        if not seen:
            assert found.means[i] is None
            assert found.spread[i] is None
            continue
        mean = Fraction(sum(seen), len(seen))
        variance = sum((score - mean) ** 2 for score in seen) / len(seen)
        assert found.means[i] == pytest.approx(float(mean))
        assert found.spread[i] == pytest.approx(math.sqrt(variance), abs=1e-9)
        assert min(seen) <= found.means[i] <= max(seen)


@given(matrices(), st.randoms(use_true_random=False))
def test_the_order_of_votes_changes_nothing(matrix, generator):
    rows, n = matrix
    shuffled = list(rows)
    generator.shuffle(shuffled)
    one, other = tally(rows, n), tally(shuffled, n)
    assert (one.means, one.votes) == (other.means, other.votes)
    assert is_settled(rows, 0.25, 0.5) == is_settled(shuffled, 0.25, 0.5)
    assert is_decided(rows, 3, (1, 10)) == is_decided(shuffled, 3, (1, 10))


@given(matrices(), st.data())
def test_renumbering_completions_renumbers_their_means(matrix, data):
    rows, n = matrix
    order = data.draw(st.permutations(range(n)))
    moved = tally([[row[i] for i in order] for row in rows], n)
    assert moved.means == tuple(tally(rows, n).means[i] for i in order)
    assert moved.votes == tuple(tally(rows, n).votes[i] for i in order)


def test_a_completion_that_fewer_votes_saw_is_not_punished():
    found = tally([[7, 7], [7, None], [7, None]], 2)
    assert found.means == (7.0, 7.0)
    assert found.votes == (3, 1)


def test_no_votes_are_no_number():
    assert tally([], 2).means == (None, None)
    assert tally([], 2).votes == (0, 0)


def test_lists_of_one_vote_share_a_row():
    judged = [
        judgement(0, 7, 3, indices=(0, 3)),
        judgement(0, 5, 4, indices=(1, 2)),
        judgement(1, 6, 2, indices=(1, 3)),
        judgement(1),
        judgement(2),
    ]
    assert scores_matrix(judged, 4) == [[7, 5, 4, 3], [None, 6, None, 2]]


def test_failed_judgements_have_no_row():
    assert scores_matrix([judgement(0), judgement(1)], 2) == []


KEEP = {
    "half of four": ([4, 1, 3, 2], None, [0, 2]),
    "half of five is two": ([5, 1, 4, 2, 3], None, [0, 2]),
    "half of one is one": ([-3], None, [0]),
    "half of three is one": ([1, 3, 2], None, [1]),
    "as many as asked": ([1, 3, 2, 4], 3, [1, 2, 3]),
    "more than there are": ([1, 2], 9, [0, 1]),
    "ties go to the earlier vote": ([1, 2, 2, 2], 2, [1, 2]),
    "all equal": ([1, 1, 1, 1], None, [0, 1]),
    "unknown ranks last": ([None, -9, None, -8], 2, [1, 3]),
    "unknown fills up, earlier first": ([None, None, -8], 2, [0, 2]),
    "all unknown: no meta RM": ([None, None, None], 1, [0, 1, 2]),
    "logits": ([-15.7781, 1.3126, 1.6739], 2, [1, 2]),
    "infinite": ([-math.inf, 0, math.inf], 2, [1, 2]),
    "none at all": ([], 3, []),
}


@pytest.mark.parametrize(("metas", "k_meta", "kept"), KEEP.values(), ids=KEEP.keys())
def test_the_best_judgements_are_kept_in_vote_order(metas, k_meta, kept):
    judgements = [judgement(i, 5, meta=meta) for i, meta in enumerate(metas)]
    assert [j.vote for j in keep_top(judgements, k_meta)] == kept


def test_half_of_all_votes_is_kept_of_the_valid_ones():
    judged = [judgement(i, 5, meta=i) for i in range(4)] + [judgement(i) for i in range(4, 10)]
    assert [j.vote for j in keep_top(judged)] == [0, 1, 2, 3]
    assert [j.vote for j in keep_top(judged[:6])] == [1, 2, 3]


def test_failed_judgements_are_never_kept_even_with_a_high_meta_score():
    judged = [judgement(0, meta=9.0), judgement(1, 5, meta=-9.0)]
    assert [j.vote for j in keep_top(judged, 2)] == [1]


def test_a_meta_score_that_is_no_number_ranks_last():
    metas = [3.0, math.nan, 1.0, 2.0, math.nan, 4.0]
    judged = [judgement(i, 5, meta=meta) for i, meta in enumerate(metas)]
    assert [j.vote for j in keep_top(judged, 4)] == [0, 2, 3, 5]


def test_a_split_group_loses_no_completion_to_the_meta_rm():
    judged = [
        judgement(0, 9, 8, meta=5.0, indices=(0, 1)),
        judgement(0, 2, 1, meta=0.0, indices=(2, 3)),
        judgement(1, 7, 6, meta=4.0, indices=(0, 1)),
        judgement(1, 4, 3, meta=1.0, indices=(2, 3)),
    ]
    assert min(tally(scores_matrix(keep_top(judged), 4), 4).votes) >= 1


@given(st.lists(st.none() | st.integers(-3, 3), max_size=10), st.none() | st.integers(1, 12))
def test_what_is_kept_is_never_worse_than_what_is_dropped(metas, k_meta):
    judged = [judgement(i, 5, meta=meta) for i, meta in enumerate(metas)]
    kept = keep_top(judged, k_meta)
    dropped = [j for j in judged if j not in kept]
    rank = [-math.inf if j.meta_score is None else j.meta_score for j in kept]
    lost = [-math.inf if j.meta_score is None else j.meta_score for j in dropped]
    assert [j.vote for j in kept] == sorted(j.vote for j in kept)
    assert not lost or min(rank) >= max(lost)


SETTLED = {
    "no votes": ([], False),
    "one vote": ([[9, 1]], False),
    "clear and constant": ([[9, 1]] * 4, True),
    "severity differs, advantages do not": ([[9, 5], [8, 4], [5, 1], [7, 3]], True),
    "order flips every vote": ([[9, 1], [1, 9], [9, 1], [1, 9]], False),
    "nothing to tell, four votes": ([[5, 5]] * 4, True),
    "nothing to tell, two votes": ([[5, 5]] * 2, True),
    "small steady difference": ([[6, 5]] * 2, False),
    "incomplete votes do not count": ([[9, 1], [9, None], [None, 1]], False),
    "alone and constant": ([[7]] * 4, True),
    "alone, one vote": ([[7]], False),
    "alone and wild": ([[1], [10], [1], [10]], False),
}


@pytest.mark.parametrize(("rows", "settled"), SETTLED.values(), ids=SETTLED.keys())
def test_settled_when_more_votes_would_not_change_the_advantages(rows, settled):
    assert is_settled(rows, tolerance=0.25, min_spread=0.5) is settled


@given(matrices(st.integers(1, 10), min_rows=2), st.integers(-3, 3))
def test_severity_shared_by_a_votes_scores_does_not_matter(matrix, shift):
    rows, n = matrix
    if n > 1:
        moved = [[score + shift * i for score in row] for i, row in enumerate(rows)]
        assert is_settled(rows, 0.25, 0.5) == is_settled(moved, 0.25, 0.5)


@given(matrices(min_rows=1), st.floats(0.01, 1), st.floats(0.01, 1))
def test_more_tolerance_settles_no_later(matrix, one, other):
    rows, _ = matrix
    strict, loose = sorted([one, other])
    assert not is_settled(rows, strict, 0.5) or is_settled(rows, loose, 0.5)


def test_noise_alone_settles_at_last_and_a_signal_sooner():
    generator = random.Random(7)

    def votes_needed(gap):
        rows = []
        while not is_settled(rows, 0.25, 0.5):
            rows.append([5 + gap + generator.choice([-1, 0, 1]), 5 + generator.choice([-1, 0, 1])])
        return len(rows)

    assert votes_needed(3) <= 8
    assert votes_needed(0) <= 64


@given(
    matrices(st.integers(1, 3), min_rows=1).filter(lambda matrix: matrix[1] <= 3),
    st.integers(0, 2),
)
def test_decided_is_never_contradicted_by_the_votes_left(matrix, votes_left):
    rows, n = matrix
    if not is_decided(rows, votes_left, (1, 3)):
        return
    sums = [sum(column) for column in zip(*rows, strict=True)]
    best = sums.index(max(sums))
    for later in itertools.product(range(1, 4), repeat=votes_left * n):
        final = [total + sum(later[i::n]) for i, total in enumerate(sums)]
        assert all(final[best] > final[i] for i in range(n) if i != best)


@given(matrices(st.integers(1, 3), min_rows=1).filter(lambda matrix: 1 < matrix[1] <= 3))
def test_undecided_means_that_the_votes_left_could_change_it(matrix):
    rows, n = matrix
    if is_decided(rows, 2, (1, 3)):
        return
    sums = [sum(column) for column in zip(*rows, strict=True)]
    best = sums.index(max(sums))
    worst = [total + (2 if i == best else 6) for i, total in enumerate(sums)]
    assert any(worst[i] >= worst[best] for i in range(n) if i != best)


DECIDED = {
    "no votes": ([], 4, False),
    "alone": ([[9]], 0, False),
    "too close": ([[9, 1], [9, 1]], 2, False),
    "just not": ([[10, 1]], 1, False),
    "just": ([[10, 1], [2, 1]], 1, True),
    "nothing left, a tie": ([[5, 5]], 0, False),
    "nothing left, a winner": ([[5, 4]], 0, True),
    "an incomplete vote": ([[10, 1], [10, None]], 0, False),
    "the third does not matter": ([[10, 1, 1], [9, 2, 1]], 1, True),
}


@pytest.mark.parametrize(("rows", "votes_left", "decided"), DECIDED.values(), ids=DECIDED.keys())
def test_decided_when_no_later_vote_can_change_the_best(rows, votes_left, decided):
    assert is_decided(rows, votes_left, (1, 10)) is decided
