"""From judgements to votes: which judgements count, their mean, and when no more are needed. Pure.

Counting starts from valid judgements only; a failed one is in no mean, and a completion that no
valid judgement saw has None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spct_plugin.types import Judgement

# Scores are whole numbers, so a mean carries at least the variance of rounding, 1/12, per vote.
ROUNDING_VARIANCE = 1 / 12


@dataclass(frozen=True, slots=True)
class Tally:
    """What the counted votes say about each of the n completions, in the caller's order.

    Attributes:
        means: Mean score; None without a vote.
        votes: How many votes counted.
        spread: Standard deviation (population) over those votes; None without a vote.
    """

    means: tuple[float | None, ...]
    votes: tuple[int, ...]
    spread: tuple[float | None, ...]


Vote = Callable[[Sequence[Sequence[int | None]], int], Tally]
"""From a votes x completions matrix (None = not seen) and n to a `Tally`."""


def keep_top(judgements: Sequence[Judgement], k_meta: int | None = None) -> list[Judgement]:
    """Keep the k_meta valid judgements with the highest meta score.

    Args:
        judgements: In vote order; failed ones are never kept.
        k_meta: How many to keep; None = max(1, half of all votes, failed ones too), the paper's
            k/2.

    Returns:
        The kept judgements in vote order. All valid ones when none has a meta score. One that the
        meta RM could not score ranks after all that it scored; equal scores go to the earlier vote.

    Source: DeepSeek-GRM (arXiv:2504.02495), section 4, meta RM guided voting.
    """
    valid = [j for j in judgements if j.scores is not None]
    if all(j.meta_score is None for j in valid):
        return valid
    lists: dict[int, list[Judgement]] = {}
    for j in valid:
        lists.setdefault(j.vote, []).append(j)
    keep = max(1, len({j.vote for j in judgements}) // 2) if k_meta is None else k_meta
    ranked = sorted(lists, key=lambda vote: _vote_meta(lists[vote]), reverse=True)
    return [j for vote in sorted(ranked[:keep]) for j in lists[vote]]


def _vote_meta(judgements: Sequence[Judgement]) -> float:
    known = [m for j in judgements if (m := j.meta_score) is not None and not math.isnan(m)]
    return sum(known) / len(known) if known else -math.inf


def scores_matrix(judgements: Sequence[Judgement], n: int) -> list[list[int | None]]:
    """Lay valid judgements out as votes x completions, None where a vote did not see a completion.

    Lists of one vote that were judged apart share a row. Votes without a valid judgement have none.
    """
    rows: dict[int, list[int | None]] = {}
    for judgement in judgements:
        if judgement.scores is not None:
            row = rows.setdefault(judgement.vote, [None] * n)
            for index, score in zip(judgement.indices, judgement.scores, strict=True):
                row[index] = score
    return list(rows.values())


def tally(scores_K_N: Sequence[Sequence[int | None]], n: int) -> Tally:
    """Take each completion's mean over the votes that saw it.

    The sum vote of the paper's Eq. 14 is this mean x k: a completion that fewer votes saw is not
    punished for it.

    Source: DeepSeek-GRM (arXiv:2504.02495), Eq. 14.
    """
    means: list[float | None] = []
    votes: list[int] = []
    spread: list[float | None] = []
    for i in range(n):
        seen = [score for row in scores_K_N if (score := row[i]) is not None]
        mean = sum(seen) / len(seen) if seen else None
        votes.append(len(seen))
        means.append(mean)
        spread.append(None if mean is None else math.sqrt(_variance(seen, mean)))
    return Tally(tuple(means), tuple(votes), tuple(spread))


def is_tied(scores: Sequence[int]) -> bool:
    """Tell whether the best of at least one score is shared."""
    return scores.count(max(scores)) > 1


def is_settled(
    scores_K_N: Sequence[Sequence[int | None]], tolerance: float, min_spread: float
) -> bool:
    """Tell whether more votes would not change the advantages that a trainer computes.

    An advantage is a completion's mean minus the group's. Its standard error comes from the votes'
    own deviations (a vote's severity, shared by all its scores, cancels), pooled over the group
    because single variances of few votes are unreliable. Settled: that error is at most
    `tolerance` x the group's spread; or, by twice the error, the spread stays under `min_spread`.
    A completion alone has no advantage: settled when its error is at most `min_spread`.

    Args:
        scores_K_N: The votes that count; those that did not see every completion are left out.
        tolerance: Largest error, as a share of the spread.
        min_spread: Standard deviation in score points under which a group has nothing to tell.
    """
    complete = [[s for s in row if s is not None] for row in scores_K_N if None not in row]
    if len(complete) < 2:
        return False
    if len(complete[0]) == 1:
        return _error(complete) <= min_spread
    deviations = [[score - sum(row) / len(row) for score in row] for row in complete]
    advantages = [sum(column) / len(complete) for column in zip(*deviations, strict=True)]
    error, spread = _error(deviations), math.sqrt(_variance(advantages, 0.0))
    return error <= tolerance * spread or spread + 2 * error <= min_spread


def is_decided(
    scores_K_N: Sequence[Sequence[int | None]], votes_left: int, scale: tuple[int, int]
) -> bool:
    """Tell whether no later vote can change which completion is best.

    Holds for votes on the whole group and without a meta RM: each later vote can close the gap
    between the best and the next by at most the width of the scale.
    """
    complete = [[s for s in row if s is not None] for row in scores_K_N if None not in row]
    if not complete or len(complete) < len(scores_K_N) or len(complete[0]) == 1:
        return False
    second, best = sorted(sum(column) for column in zip(*complete, strict=True))[-2:]
    return best - second > votes_left * (scale[1] - scale[0])


def _variance(values: Sequence[float], mean: float) -> float:
    return sum((value - mean) ** 2 for value in values) / len(values)


def _error(rows: Sequence[Sequence[float]]) -> float:
    """Give the standard error of a column's mean, the variance pooled over the columns."""
    k = len(rows)
    columns = list(zip(*rows, strict=True))
    pooled = sum(_variance(column, sum(column) / k) for column in columns) / len(columns)
    return math.sqrt(max(pooled * k / (k - 1), ROUNDING_VARIANCE) / k)
