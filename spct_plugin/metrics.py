"""What a trainer's log shows of the judge: numbers per step, always under the same names. Pure.

NaN means "no such number in this step" (TRL leaves it out of its averages); it is never a reward.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from spct_plugin.failures import FAILURES, Failure, parse_rate
from spct_plugin.types import GroupReward, Judgement, JudgeTask, Message
from spct_plugin.voter import GroupVotes
from spct_plugin.voting import is_tied


def step_metrics(
    tasks: Sequence[JudgeTask], groups: Sequence[GroupVotes], rewards: Sequence[GroupReward]
) -> dict[str, float]:
    """Describe one step's judging.

    Args:
        tasks: The groups of the step.
        groups: The votes on each.
        rewards: What each got.

    Returns:
        votes: Votes taken per group. parse_rate: valid judgements, as a share of those that came.
        failed/KIND: failed judgements of each kind, as a share of all. spread: standard deviation
        of a completion's scores over its votes. ties: share of valid judgements of two or more
        whose best score is shared. groups_without_spread: share of groups whose rewards are all
        equal or unknown. position_bias: mean score of the first minus the last completion shown.
        length_correlation: Pearson's r of length and reward inside groups. tokens: written by the
        judge. seconds: of the slowest group.
    """
    judgements = [judgement for group in groups for judgement in group.judgements]
    counted = [judgement for group in groups for judgement in group.counted]
    failures = sum((group.failures for group in groups), Counter[Failure]())
    parsed = parse_rate(judgement.failure for judgement in judgements)
    several = [scores for j in counted if (scores := shown_scores(j)) and len(scores) > 1]
    spreads = [value for group in groups for value in group.tally.spread if value is not None]
    return {
        "votes": _mean([group.k_used for group in groups]),
        "parse_rate": math.nan if parsed is None else parsed,
        **{
            f"failed/{kind}": failures[kind] / len(judgements) if judgements else math.nan
            for kind in FAILURES
        },
        "spread": _mean(spreads),
        "ties": _mean([is_tied(scores) for scores in several]),
        "groups_without_spread": _mean(
            [len(set(group.rewards) - {None}) <= 1 for group in rewards]
        ),
        "position_bias": _mean([scores[0] - scores[-1] for scores in several]),
        "length_correlation": _length_correlation(tasks, rewards),
        "tokens": float(sum(judgement.tokens for judgement in judgements)),
        "seconds": max((group.seconds for group in groups), default=math.nan),
    }


def shown_scores(judgement: Judgement) -> list[int]:
    """Give a judgement's scores in the order the judge saw the completions; empty on failure."""
    if judgement.scores is None:
        return []
    by_index = dict(zip(judgement.indices, judgement.scores, strict=True))
    return [by_index[index] for index in judgement.order]


def _length_correlation(tasks: Sequence[JudgeTask], rewards: Sequence[GroupReward]) -> float:
    pairs: list[tuple[float, float]] = []
    for task, group in zip(tasks, rewards, strict=True):
        known = [
            (_length(completion), reward)
            for completion, reward in zip(task.completions, group.rewards, strict=True)
            if reward is not None
        ]
        mean_length = _mean([length for length, _ in known])
        mean_reward = _mean([reward for _, reward in known])
        pairs += [(length - mean_length, reward - mean_reward) for length, reward in known]
    square_x = sum(x * x for x, _ in pairs)
    square_y = sum(y * y for _, y in pairs)
    if square_x == 0 or square_y == 0:
        return math.nan
    return sum(x * y for x, y in pairs) / math.sqrt(square_x * square_y)


def _length(completion: str | tuple[Message, ...]) -> int:
    """Count a completion's characters."""
    if isinstance(completion, str):
        return len(completion)
    return sum(len(turn.content) for turn in completion)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
