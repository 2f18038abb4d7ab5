"""How rewards and judgements are laid out in files and in the store. Unknown is null."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spct_plugin.errors import TaskError
from spct_plugin.failures import FAILURES
from spct_plugin.types import GroupReward, Judgement, is_list, is_mapping


def reward_record(reward: GroupReward, judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Lay out what a group got, with the judgements behind it."""
    return {
        "rewards": reward.rewards,
        "means": reward.means,
        "spread": reward.spread,
        "k": reward.k,
        "k_used": reward.k_used,
        "failures": reward.failures,
        "judgements": [judgement_record(judgement) for judgement in judgements],
        "task": reward.task,
        "version": reward.version,
    }


def judgement_record(judgement: Judgement) -> dict[str, Any]:
    """Lay out one judgement."""
    return {
        "vote": judgement.vote,
        "indices": judgement.indices,
        "order": judgement.order,
        "scores": judgement.scores,
        "failure": judgement.failure,
        "detail": judgement.detail,
        "meta_score": judgement.meta_score,
        "tokens": judgement.tokens,
        "finish_reason": judgement.finish_reason,
        "text": judgement.text,
    }


def read_judgement(record: object, n: int) -> Judgement:
    """Read what `judgement_record` laid out; only what a reader of files needs.

    Args:
        record: One of a row's "judgements".
        n: Completions of the task.

    Raises:
        TaskError: It is none.
    """
    if not is_mapping(record):
        raise TaskError(f"judgements: expected objects, found {record!r:.40}")
    indices, order = _whole(record.get("indices")), _whole(record.get("order"))
    if not indices or sorted(order) != list(indices) or not set(indices) <= set(range(n)):
        raise TaskError(
            f"judgements: expected indices and order of {n} completions, found "
            f"{record.get('indices')!r:.40} and {record.get('order')!r:.40}"
        )
    failure, scores = record.get("failure"), record.get("scores")
    if (scores is None) == (failure not in FAILURES):
        raise TaskError(
            f"judgements: expected scores or a failure, found {scores!r} and {failure!r}"
        )
    if scores is not None and len(_whole(scores)) != len(indices):
        raise TaskError(f"judgements: expected {len(indices)} scores, found {scores!r:.40}")
    return Judgement(
        indices,
        order,
        None if scores is None else _whole(scores),
        failure=failure,
        text=_text(record),
        finish_reason=record.get("finish_reason"),
        meta_score=_meta_score(record),
        tokens=_count(record, "tokens"),
        vote=_count(record, "vote"),
    )


def _text(record: Mapping[str, Any]) -> str:
    value = record.get("text", "")
    if not isinstance(value, str):
        raise TaskError(f"judgements: text: expected a text, found {value!r:.40}")
    return value


def _meta_score(record: Mapping[str, Any]) -> float | None:
    value = record.get("meta_score")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TaskError(f"judgements: meta_score: expected a number, found {value!r:.40}")
    return float(value)


def _count(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key) or 0
    if type(value) is not int or value < 0:
        raise TaskError(f"judgements: {key}: expected a whole number, found {value!r:.40}")
    return value


def _whole(value: object) -> tuple[int, ...]:
    """Read a list of whole numbers; empty for anything else."""
    if not is_list(value) or not all(type(number) is int for number in value):
        return ()
    return tuple(value)
