"""Which sampled judgements a judge is fine-tuned on: rejective fine-tuning. Pure.

    reject([True, False, True])         # Verdict(kept=(0, 2), reason=None)
    reject([True, True, True])          # Verdict(kept=(), reason="too_easy")

Source: DeepSeek-GRM (arXiv:2504.02495), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

N_RFT = 3
"""Judgements sampled per task (the paper, App. C)."""

Reason = Literal["too_easy", "never_right", "no_samples"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one task's samples.

    Attributes:
        kept: Indices of the samples to learn from, ascending.
        reason: Why none was kept; None when some were.
    """

    kept: tuple[int, ...]
    reason: Reason | None = None


def reject(correct: Sequence[bool], *, hinted: bool = False) -> Verdict:
    """Keep a task's right judgements, unless all are right and nothing is to be learnt.

    Args:
        correct: Whether each of the N_RFT samples was right (Eq. 10); an unreadable one was not.
        hinted: The judge was told the answer: then a task is never too easy.
    """
    kept = tuple(i for i, right in enumerate(correct) if right)
    if not correct:
        return Verdict((), "no_samples")
    if not kept:
        return Verdict((), "never_right")
    if len(kept) == len(correct) and not hinted:
        return Verdict((), "too_easy")
    return Verdict(kept)


def is_too_easy(correct: Sequence[bool]) -> bool:
    """Tell whether the RL stage leaves a task out: its start model is right every time."""
    return bool(correct) and all(correct)
