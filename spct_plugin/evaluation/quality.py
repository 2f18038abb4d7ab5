"""What judgements of labelled tasks are like: readable, tied, biased. Pure.

describe_judgements([(n, label, judgements)]).parse_rate
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spct_plugin.failures import Failure, parse_rate
from spct_plugin.training.outcome import is_correct
from spct_plugin.types import Judgement
from spct_plugin.voting import is_tied, scores_matrix

Labelled = tuple[int, int, Sequence[Judgement]]
"""A task's number of completions, its label, and its judgements."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What judgements are like. A share of nothing is None.

    Attributes:
        judgements: All of them.
        valid: Those with scores.
        parse_rate: Valid ones, as a share of those that came; what infrastructure lost did not.
        failures: Failed judgements by kind; kinds that did not occur are left out.
        tie_rate: Share of single votes whose best score is shared; None for n = 1.
        winner_positions: Share of the unique winners that the judge was shown first, second, ...;
            None for n = 1 and for tasks of several sizes.
        meta_scored: Valid judgements with a meta score.
        meta_auc: Area under the ROC curve of the meta score against Eq. 10 correctness, n >= 2,
            over the judgements that saw all completions.
        tokens_per_judgement: Mean of what the judge wrote.
    """

    judgements: int
    valid: int
    parse_rate: float | None
    failures: Mapping[Failure, int]
    tie_rate: float | None
    winner_positions: tuple[float, ...] | None
    meta_scored: int
    meta_auc: float | None
    tokens_per_judgement: float | None


def describe_judgements(tasks: Sequence[Labelled]) -> Quality:
    """Count and compare the judgements of labelled tasks."""
    judgements = [judgement for _, _, own in tasks for judgement in own]
    valid = [judgement for judgement in judgements if judgement.scores is not None]
    several = [task for task in tasks if task[0] > 1]
    return Quality(
        judgements=len(judgements),
        valid=len(valid),
        parse_rate=parse_rate(judgement.failure for judgement in judgements),
        failures=dict(Counter(j.failure for j in judgements if j.failure is not None)),
        tie_rate=_tie_rate(several),
        winner_positions=_winner_positions(several),
        meta_scored=sum(judgement.meta_score is not None for judgement in valid),
        meta_auc=_meta_auc(several),
        tokens_per_judgement=_share(sum(j.tokens for j in judgements), len(judgements)),
    )


def auc(good: Sequence[float], bad: Sequence[float]) -> float | None:
    """Give the chance that a good one is higher than a bad one, ties half (ROC-AUC).

    Returns:
        In [0, 1]; None when one side is empty.
    """
    if not good or not bad:
        return None
    ordered = np.sort(np.asarray(bad, dtype=np.float64))
    lower = np.searchsorted(ordered, good, side="left")
    not_higher = np.searchsorted(ordered, good, side="right")
    return float((lower + not_higher).mean() / (2 * len(bad)))


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _tie_rate(tasks: Iterable[Labelled]) -> float | None:
    tied = [
        is_tied([score for score in vote if score is not None])
        for n, _, judgements in tasks
        for vote in scores_matrix(judgements, n)
    ]
    return _share(sum(tied), len(tied))


def _complete(tasks: Iterable[Labelled]) -> Iterable[tuple[Judgement, tuple[int, ...], int]]:
    """Give valid judgements that saw all completions, with their scores and the label."""
    for n, label, judgements in tasks:
        for judgement in judgements:
            if judgement.scores is not None and len(judgement.indices) == n:
                yield judgement, judgement.scores, label


def _winner_positions(tasks: Sequence[Labelled]) -> tuple[float, ...] | None:
    if len({n for n, _, _ in tasks}) != 1:
        return None
    won = Counter(
        judgement.order.index(scores.index(max(scores)))
        for judgement, scores, _ in _complete(tasks)
        if not is_tied(scores)
    )
    winners = won.total()
    return tuple(won[at] / winners for at in range(tasks[0][0])) if winners else None


def _meta_auc(tasks: Iterable[Labelled]) -> float | None:
    rated: dict[bool, list[float]] = {True: [], False: []}
    for judgement, scores, label in _complete(tasks):
        if judgement.meta_score is not None and not math.isnan(judgement.meta_score):
            rated[is_correct(scores, label)].append(judgement.meta_score)
    return auc(rated[True], rated[False])
