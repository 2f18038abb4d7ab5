"""From voted scores to what the trainer receives: scale, rules beside the judge, failure policy.

Pure. This is the one place where a failure may become a number, and only by the named policy.
The effect of every policy on the advantages of TRL's trainers is a table in docs/failures.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from spct_plugin.errors import RewardError
from spct_plugin.failures import INFRASTRUCTURE_FAILURES, JUDGE_FAILURES, Failure

Scale = Literal["mean", "sum", "unit", "rank"]
OnFailure = Literal["abstain", "group_mean", "drop_group", "stop"]


def scale_rewards(
    means: Sequence[float | None], scale: Scale, k: int, score_range: tuple[int, int]
) -> list[float | None]:
    """Map mean scores of one group to the reward scale.

    Returns:
        mean: the mean score itself. sum: mean x k (paper Eq. 14). unit: mapped to [0, 1]. rank: the
        share of siblings with a lower mean, ties counted half, in [0, 1]; 0.5 for one alone.
        None stays None and is no sibling.
    """
    if scale == "mean":
        return list(means)
    if scale == "sum":
        return [None if mean is None else mean * k for mean in means]
    if scale == "unit":
        low, high = score_range
        return [None if mean is None else (mean - low) / (high - low) for mean in means]
    known = [mean for mean in means if mean is not None]
    return [None if mean is None else _rank(mean, known) for mean in means]


def add_rules(
    rewards: Sequence[float | None], weight: float, rule_sums: Sequence[float]
) -> list[float | None]:
    """Combine the judge's rewards with the rules beside it; unknown plus anything is unknown."""
    return [
        None if reward is None else weight * reward + rule
        for reward, rule in zip(rewards, rule_sums, strict=True)
    ]


def apply_on_failure(rewards: Sequence[float | None], policy: OnFailure) -> list[float | None]:
    """Decide what a group's completions without a reward get.

    Args:
        rewards: One group, None where no judgement was valid.
        policy: abstain: None stays. group_mean: the mean of the siblings that have a reward; None
            stays where there is none. drop_group: one None makes the whole group None. stop: raise.

    Raises:
        RewardError: A None under `stop`.
    """
    missing = sum(reward is None for reward in rewards)
    if not missing or policy == "abstain":
        return list(rewards)
    if policy == "drop_group":
        return [None] * len(rewards)
    if policy == "stop":
        raise RewardError(
            f"{missing} of {len(rewards)} completions of a group have no valid judgement and "
            "reward.on_failure is 'stop'; see `failures`, or choose abstain, group_mean, drop_group"
        )
    known = [reward for reward in rewards if reward is not None]
    mean = sum(known) / len(known) if known else None
    return [mean if reward is None else reward for reward in rewards]


def check_breaker(
    failures: Mapping[Failure, int],
    judgements: int,
    max_infrastructure: float,
    max_judge: float,
    details: Mapping[Failure, str] | None = None,
) -> None:
    """Stop the run when too large a share of a step's judgements failed.

    Infrastructure and judge are counted apart: an outage says nothing about the judge, and a judge
    that never answers in form says nothing about the network.

    Args:
        failures: Failed judgements of the step, by kind.
        judgements: All judgements of the step.
        max_infrastructure: Largest share in [0, 1] lost to infrastructure; 1 never stops.
        max_judge: Largest share in [0, 1] of the judgements that came which may be unusable.
        details: What a failure of each kind said, to be shown.

    Raises:
        RewardError: One of the shares is larger.
    """
    lost = sum(failures.get(kind, 0) for kind in INFRASTRUCTURE_FAILURES)
    unusable = sum(failures.get(kind, 0) for kind in JUDGE_FAILURES)
    kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(failures.items()) if count)
    said = "".join(f"; {kind}: {detail}" for kind, detail in sorted((details or {}).items()))
    if lost > max_infrastructure * judgements:
        raise RewardError(
            f"stopped: {lost} of {judgements} judgements of this step failed in infrastructure "
            f"({kinds}), more than breaker.infrastructure = {max_infrastructure:g} allows{said}"
        )
    if unusable > max_judge * (judgements - lost):
        raise RewardError(
            f"stopped: {unusable} of {judgements - lost} judgements of this step have no usable "
            f"scores ({kinds}), more than breaker.judge = {max_judge:g} allows{said}"
        )


def _rank(mean: float, known: Sequence[float]) -> float:
    if len(known) == 1:
        return 0.5
    lower = sum(other < mean for other in known)
    equal = sum(other == mean for other in known) - 1
    return (lower + equal / 2) / (len(known) - 1)
