"""Whether a meta RM's numbers mean what they say: reliability by bins, and its error. Pure.

    reliability([2.0, -1.0, 0.5], [True, False, True])

The logit of a judgement, through a sigmoid, should be the share of such judgements that are right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Judgements whose probability lies in one tenth of [0, 1].

    Attributes:
        count: How many.
        predicted: Their mean probability of being right.
        right: The share that is right.
    """

    count: int
    predicted: float
    right: float


def reliability(logits: Sequence[float], correct: Sequence[bool]) -> list[Bin]:
    """Sort judgements into ten bins of equal width by probability; empty bins are left out."""
    members: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for logit, right in zip(logits, correct, strict=True):
        probability = sigmoid(logit)
        members[min(BINS - 1, int(probability * BINS))].append((probability, right))
    return [
        Bin(len(m), sum(p for p, _ in m) / len(m), sum(right for _, right in m) / len(m))
        for m in members
        if m
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Give the mean distance of predicted and right, weighted by count; 0 is perfect.

    Source: expected calibration error, Guo et al., arXiv:1706.04599, section 2.
    """
    total = sum(one.count for one in bins)
    return sum(one.count * abs(one.predicted - one.right) for one in bins) / total


def sigmoid(logit: float) -> float:
    """Turn a logit into a probability, without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))
