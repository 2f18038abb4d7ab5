"""Which completions each vote shows to the judge, and in which order. Pure; randomness from a seed.

A judge prefers positions. So votes come in squares: the n cyclic orders of one shuffle, in which
every completion stands at every position exactly once, and the bias cancels in the mean. Votes of
the same order share one request with `n` choices, whose prompt is computed once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to the judge.

    Attributes:
        order: The completions to show, in the caller's numbering, in the order to show them.
        votes: The votes that this request's choices belong to, one choice each.
    """

    order: tuple[int, ...]
    votes: tuple[int, ...]


def plan_wave(
    n: int, votes: Sequence[int], seed: bytes, *, list_size: int | None = None
) -> list[Ask]:
    """Plan the requests for one wave of votes on a group.

    Args:
        n: Completions in the group; none, no requests.
        votes: Vote indices of this wave, ascending.
        seed: Same seed, same plan; a wave that starts at another vote gets another shuffle.
        list_size: The most completions in one request; None = all n. A larger group is split at
            random into lists of nearly equal size, differently for each vote.

    Returns:
        Requests. For a whole group the choices of the cyclic orders differ by at most one.
    """
    if not votes or not n:
        return []
    if list_size is not None and n > list_size:
        return _split(n, votes, seed, list_size)
    base = list(range(n))
    random.Random(seed + votes[0].to_bytes(4, "big")).shuffle(base)
    asks = [Ask(tuple(base[turn:] + base[:turn]), tuple(votes[turn::n])) for turn in range(n)]
    return [ask for ask in asks if ask.votes]


def wave_size(n: int, at_least: int) -> int:
    """Round `at_least` votes up to whole squares of n orders."""
    return -(-at_least // n) * n


def _split(n: int, votes: Sequence[int], seed: bytes, list_size: int) -> list[Ask]:
    """Deal a shuffled group, per vote, into the fewest lists that fit, sizes differing by one.

    Votes that happen to show the same list in the same order share its request.
    """
    lists = -(-n // list_size)
    shared: dict[tuple[int, ...], list[int]] = {}
    for vote in votes:
        shuffled = list(range(n))
        random.Random(seed + vote.to_bytes(4, "big")).shuffle(shuffled)
        for start in range(lists):
            shared.setdefault(tuple(shuffled[start::lists]), []).append(vote)
    return [Ask(order, tuple(votes)) for order, votes in shared.items()]
