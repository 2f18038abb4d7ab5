"""Whether a judgement was right, and what rule-based RL pays for it. Pure.

    is_correct((3, 8, 5), label=1)      # True
    outcome_reward((8, 8, 5), label=1)  # -1.0: a tie is wrong in training

Source: DeepSeek-GRM (arXiv:2504.02495), Eq. 10 and 11. No format reward: a larger KL coefficient
does that job (the paper, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

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
