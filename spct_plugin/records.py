"""How rewards and judgements are laid out in files and in the store. Unknown is null."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spct_plugin.types import GroupReward, Judgement


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
