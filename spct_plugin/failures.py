"""Why a judgement has no scores: the closed list of reasons, in two families counted apart."""

from collections.abc import Iterable
from typing import Literal, get_args

JudgeFailure = Literal["no_scores", "wrong_count", "out_of_range", "truncated", "refused"]
"""The judge's doing: it answered, and the answer holds no usable scores."""

InfrastructureFailure = Literal["engine_error", "deadline", "too_long"]
"""Not the judge's doing: no whole answer ever came, or the request could not be asked."""

Failure = JudgeFailure | InfrastructureFailure

JUDGE_FAILURES: tuple[JudgeFailure, ...] = get_args(JudgeFailure)
INFRASTRUCTURE_FAILURES: tuple[InfrastructureFailure, ...] = get_args(InfrastructureFailure)
LOST: tuple[InfrastructureFailure, ...] = ("engine_error", "deadline")
"""What another run may mend; a judgement that is too long stays so."""
FAILURES: tuple[Failure, ...] = (*JUDGE_FAILURES, *INFRASTRUCTURE_FAILURES)


def parse_rate(failures: Iterable[Failure | None]) -> float | None:
    """Give the share of judgements with scores among those that came.

    Args:
        failures: One per judgement; None = it has scores.

    Returns:
        In [0, 1]; None when none came: what infrastructure lost is no doing of the judge's.
    """
    came = [failure for failure in failures if failure not in INFRASTRUCTURE_FAILURES]
    return came.count(None) / len(came) if came else None
