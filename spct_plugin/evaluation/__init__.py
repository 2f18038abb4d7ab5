"""How right a judge is on labelled tasks, as a function of the votes it takes. Pure.

    evaluation = evaluate(tasks, ks=(1, 2, 4, 8))
    evaluation.groups[0].plain[-1].value     # accuracy at k = 8

Every k is computed from the same K judgements of a task, cut into blocks of k votes; nothing is
judged here. A block without any valid vote says nothing: it counts as a guess and is counted apart.
Tasks with one completion have no winner; there the measure is the area under the ROC curve.

Source: DeepSeek-GRM (arXiv:2504.02495), section 5.1 and App. D: tied winners are picked at random.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from spct_plugin.errors import TaskError
from spct_plugin.evaluation.blocks import (
    JudgedTask,
    Outcomes,
    average_credits,
    average_wins,
    credit,
    vote_blocks,
)
from spct_plugin.evaluation.quality import Quality, describe_judgements
from spct_plugin.intervals import Floats, bootstrap_aucs, bootstrap_means
from spct_plugin.voting import Vote, tally


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % bootstrap interval over tasks; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Point(Estimate):
    """How right one way of voting is.

    Attributes:
        k: Votes in a block.
        k_meta: Votes of them that the meta RM kept; None = all valid ones.
        blocks: Blocks in all tasks.
        unjudged: Blocks without any valid vote; each counts as a guess.
        over_plain: With a meta RM: the paired difference to all votes of the same blocks.
    """

    k: int
    k_meta: int | None
    blocks: int
    unjudged: int
    over_plain: Estimate | None


@dataclass(frozen=True, slots=True)
class Group:
    """The tasks of one size.

    Attributes:
        n: Completions per task; "all" = every size from 2 together.
        measure: Accuracy, or for n = 1 the area under the ROC curve of the voted mean.
        tasks: How many.
        plain: One point per k, ascending; meta scores are ignored.
        meta: The same with the better half of the votes; empty without a meta RM.
        k_meta_sweep: The largest k with different k_meta; empty without a meta RM.
        greedy: One judgement at temperature 0.
        gain: Paired difference of the largest and the smallest k.
        quality: What the sampled judgements are like.
    """

    n: int | Literal["all"]
    measure: Literal["accuracy", "auc"]
    tasks: int
    plain: tuple[Point, ...]
    meta: tuple[Point, ...]
    k_meta_sweep: tuple[Point, ...]
    greedy: Point
    gain: Estimate
    quality: Quality


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found.

    Attributes:
        votes: Sampled votes per task, K.
        groups: By n ascending; then "all" where several sizes from 2 are present.
    """

    votes: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class _Way:
    """One way of voting."""

    k: int
    k_meta: int | None = None
    greedy: bool = False


_GREEDY = _Way(1, greedy=True)
_Results = dict[_Way, list[Outcomes]]
_Compared = _Way | tuple[_Way, _Way]
"""One way, or two: the difference of the first to the second."""


def evaluate(
    tasks: Sequence[JudgedTask],
    ks: Sequence[int],
    k_metas: Sequence[int] = (),
    *,
    vote: Vote = tally,
) -> Evaluation:
    """Compare votes with labels.

    Args:
        tasks: At least one, each with at least max(ks) sampled votes.
        ks: Votes per block.
        k_metas: Votes to keep of the largest k; empty = no meta RM.
        vote: How scores become means.

    Raises:
        TaskError: A task has too few votes.
    """
    ks = sorted(set(ks))
    votes = _shared_votes(tasks, ks[-1])
    meta = [_Way(k, max(1, k // 2)) for k in ks] if k_metas else []
    sweep = [_Way(ks[-1], k_meta) for k_meta in sorted(set(k_metas))]
    plan = ([_Way(k) for k in ks], meta, sweep)
    ways = dict.fromkeys([*(way for part in plan for way in part), _GREEDY])
    results = {way: [_outcomes(task, way, votes, vote) for task in tasks] for way in ways}
    groups: list[Group] = []
    for n in _sizes(tasks):
        chosen = [i for i, task in enumerate(tasks) if task.n == n or (n == "all" and task.n > 1)]
        own = {way: [outcomes[i] for i in chosen] for way, outcomes in results.items()}
        groups.append(_group(n, [tasks[i] for i in chosen], plan, own))
    return Evaluation(votes, tuple(groups))


def _shared_votes(tasks: Sequence[JudgedTask], needed: int) -> int:
    """Find how many votes every task has."""
    counts = {task.id: 1 + max((j.vote for j in task.judgements), default=-1) for task in tasks}
    fewest = min(counts, key=lambda task: counts[task])
    if counts[fewest] < needed:
        raise TaskError(f"expected {needed} votes of task {fewest!r}, found {counts[fewest]}")
    return counts[fewest]


def _outcomes(task: JudgedTask, way: _Way, votes: int, vote: Vote) -> Outcomes:
    judgements, votes = (task.greedy, 1) if way.greedy else (task.judgements, votes)
    blocks = vote_blocks(judgements, task.n, votes, way.k, way.k_meta, vote)
    return [means[0] if task.n == 1 else credit(means, task.label) for means in blocks]


def _sizes(tasks: Iterable[JudgedTask]) -> list[int | Literal["all"]]:
    sizes = sorted({task.n for task in tasks})
    return [*sizes, "all"] if sum(n > 1 for n in sizes) > 1 else [*sizes]


def _group(
    n: int | Literal["all"],
    tasks: Sequence[JudgedTask],
    plan: tuple[list[_Way], list[_Way], list[_Way]],
    results: _Results,
) -> Group:
    plain, meta, sweep = plan
    gauge = average_wins if n == 1 else average_credits
    arrays = {way: gauge(tasks, outcomes) for way, outcomes in results.items()}
    gain = (plain[-1], plain[0])
    pairs = [gain, *((way, _Way(way.k)) for way in [*meta, *sweep])]
    differences = {(one, other): arrays[one] - arrays[other] for one, other in pairs}
    found = _estimates({**arrays, **differences})

    def points(ways: Iterable[_Way]) -> tuple[Point, ...]:
        return tuple(_point(way, found, results[way]) for way in ways)

    return Group(
        n=n,
        measure="auc" if n == 1 else "accuracy",
        tasks=len(tasks),
        plain=points(plain),
        meta=points(meta),
        k_meta_sweep=points(sweep),
        greedy=points([_GREEDY])[0],
        gain=found[gain],
        quality=describe_judgements([(t.n, t.label, t.judgements) for t in tasks]),
    )


def _point(way: _Way, found: Mapping[_Compared, Estimate], outcomes: Iterable[Outcomes]) -> Point:
    blocks = [outcome for own in outcomes for outcome in own]
    own = found[way]
    over_plain = None if way.k_meta is None else found[way, _Way(way.k)]
    counts = (len(blocks), blocks.count(None))
    return Point(own.value, own.low, own.high, way.k, way.k_meta, *counts, over_plain)


def _estimates(series: Mapping[_Compared, Floats]) -> dict[_Compared, Estimate]:
    arrays = list(series.values())
    if not arrays[0].size:
        return dict.fromkeys(series, Estimate(None, None, None))
    found = bootstrap_aucs(arrays) if arrays[0].ndim == 2 else bootstrap_means(arrays)
    estimates = [Estimate(value, low, high) for value, (low, high) in found]
    return dict(zip(series, estimates, strict=True))
