"""The votes of a labelled task, cut into blocks, voted, and compared with the label. Pure.

    blocks = vote_blocks(judgements, n=2, votes=8, k=4, k_meta=None, vote=tally)
    [credit(means, label=0) for means in blocks]    # [1.0, 0.5]

A block without any valid vote says nothing: None, until it is averaged as the guess that it is.

Source: DeepSeek-GRM (arXiv:2504.02495), section 5.1 and App. D: tied winners are picked at random.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from spct_plugin.intervals import Floats
from spct_plugin.types import Judgement
from spct_plugin.voting import Vote, keep_top, scores_matrix

Means = Sequence[float | None]
Outcomes = list[float | None]
"""One per block: the credit (n >= 2) or the voted mean (n = 1); None = no valid vote."""


@dataclass(frozen=True, slots=True)
class JudgedTask:
    """A labelled task and its judgements.

    Attributes:
        id: Its name.
        n: Completions.
        label: Index of the best completion; n = 1: 0 or 1.
        judgements: Of the sampled votes 0, 1, ..., failed ones too.
        greedy: Of the one greedy vote.
    """

    id: str
    n: int
    label: int
    judgements: tuple[Judgement, ...]
    greedy: tuple[Judgement, ...]


def vote_blocks(
    judgements: Iterable[Judgement], n: int, votes: int, k: int, k_meta: int | None, vote: Vote
) -> list[Means]:
    """Cut the first `votes` votes into disjoint consecutive blocks of k, and vote each.

    Args:
        judgements: Of one task.
        n: Completions of the task.
        votes: Votes to use; what does not fill a block is left over.
        k: Votes in a block.
        k_meta: Votes to keep of each block by meta score; None = all, meta scores are ignored.
        vote: How scores become means.

    Returns:
        Per block n means, None for a completion without a valid vote.
    """
    blocks: list[list[Judgement]] = [[] for _ in range(votes // k)]
    for judgement in judgements:
        if judgement.vote < k * len(blocks):
            blocks[judgement.vote // k].append(judgement)
    kept = blocks if k_meta is None else [keep_top(block, k_meta) for block in blocks]
    return [vote(scores_matrix(block, n), n).means for block in kept]


def credit(means: Means, label: int) -> float | None:
    """Give what a random pick among the best completions earns: 1, or a share for a tie, or 0.

    Args:
        means: Voted means; a completion without one cannot win.
        label: Index of the right completion.

    Returns:
        In [0, 1]; None when no completion has a mean.
    """
    known = [mean for mean in means if mean is not None]
    if not known:
        return None
    best = max(known)
    return (means[label] == best) / known.count(best)


def average_credits(tasks: Sequence[JudgedTask], outcomes: Sequence[Outcomes]) -> Floats:
    """Average each task's credits; a block that was not judged is a guess."""
    shares = [
        [1 / task.n if share is None else share for share in own]
        for task, own in zip(tasks, outcomes, strict=True)
    ]
    return np.array([sum(own) / len(own) for own in shares])


def average_wins(tasks: Sequence[JudgedTask], outcomes: Sequence[Outcomes]) -> Floats:
    """Compare every good completion with every bad one, block by block, and average the blocks.

    A tie is half a win; so is a comparison with a block that was not judged, where NaN stands.
    """
    labels = np.array([task.label for task in tasks])
    blocks = np.array(outcomes, dtype=np.float64).T
    wins = np.zeros((int((labels == 1).sum()), int((labels == 0).sum())))
    for values in blocks:
        good, bad = values[labels == 1][:, None], values[labels == 0]
        wins += np.where(good > bad, 1.0, np.where(good < bad, 0.0, 0.5))
    return wins / len(blocks)
