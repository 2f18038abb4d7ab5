"""The meta RM: a scalar model that scores judgements, so that voting can leave out the bad ones.

A meta RM sees the judgement as the judge wrote it, with the completions in the order the judge saw.

Source: DeepSeek-GRM (arXiv:2504.02495), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from spct_plugin.types import Judgement, JudgeTask


class MetaRM(Protocol):
    """What the reward model needs of a meta RM."""

    async def score(self, task: JudgeTask, judgements: Sequence[Judgement]) -> list[float | None]:
        """Score valid judgements of one task; higher is better.

        Returns:
            One number per judgement, in order; None where there is none, never a made-up value.
        """
        ...


class NoMetaRM:
    """Scores nothing, so that every valid judgement is voted."""

    async def score(self, task: JudgeTask, judgements: Sequence[Judgement]) -> list[float | None]:
        """Return None for every judgement."""
        return [None] * len(judgements)
