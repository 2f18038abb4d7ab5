"""Whether a judgement was right, and what rule-based RL pays for it. Pure.

    is_correct((3, 8, 5), label=1)      # True
    outcome_reward((8, 8, 5), label=1)  # -1.0: a tie is wrong in training

Source: DeepSeek-GRM (arXiv:2504.02495), Eq. 10 and 11. No format reward: a larger KL coefficient
does that job (the paper, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from spct_plugin.parsing import ParsedJudgement
from spct_plugin.voting import is_tied

RIGHT, WRONG = 1.0, -1.0


def is_correct(scores: Sequence[int], label: int) -> bool:
    """Compare one judgement with the ground truth (Eq. 10).

    Args:
        scores: One per completion, in the order that the label counts in; n >= 1.
        label: n >= 2: index of the best completion. n = 1: the right score itself, 1 for a correct
            answer and 0 for a wrong one in the single-response template.

    Returns:
        n >= 2: the best one has the highest score, shared with nobody. n = 1: the score is right.
    """
    if len(scores) == 1:
        return scores[0] == label
    return all(scores[label] > score for i, score in enumerate(scores) if i != label)


def outcome_reward(scores: Sequence[int] | None, label: int) -> float:
    """Pay one judgement of the RL stage (Eq. 11).

    A judgement without scores is wrong, truncated ones too: the paper says "otherwise". This is the
    one reward in which a failure is a number: here the judge is what is trained.

    Args:
        scores: As in `is_correct`; None when the judgement could not be read.
        label: As in `is_correct`.

    Returns:
        +1 or -1.
    """
    return RIGHT if scores is not None and is_correct(scores, label) else WRONG


def outcome_metrics(
    judgements: Sequence[ParsedJudgement], labels: Sequence[int]
) -> dict[str, float]:
    """Describe the judgements of one step of the RL stage.

    Args:
        judgements: As read; scores in the order shown.
        labels: As in `is_correct`, in the order shown.

    Returns:
        accuracy: right ones, as a share of all. parse_rate: those with scores. ties: of those on
        two or more completions, the share whose best score is shared. first_wins: of those with one
        winner, the share in which the completion shown first wins, minus the share in which it is
        the best; 0 without position bias. principles: number stated. critique_length: characters.
        NaN where there is nothing to take a mean of.
    """
    read = [(j.scores, label) for j, label in zip(judgements, labels, strict=True) if j.scores]
    several = [(scores, label) for scores, label in read if len(scores) > 1]
    decided = [(scores, label) for scores, label in several if not is_tied(scores)]
    return {
        "accuracy": sum(is_correct(scores, label) for scores, label in read)
        / max(1, len(judgements)),
        "parse_rate": len(read) / max(1, len(judgements)),
        "ties": _mean([is_tied(scores) for scores, _ in several]),
        "first_wins": _mean([(s[0] == max(s)) - (label == 0) for s, label in decided]),
        "principles": _mean([len(judgement.principles) for judgement in judgements]),
        "critique_length": _mean([len(judgement.critique) for judgement in judgements]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
