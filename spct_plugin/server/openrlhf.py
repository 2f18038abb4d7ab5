"""OpenRLHF's wire: one completion, cut out of rendered text, judged alone.

The work is the OpenRLHF adapter's own (integrations/openrlhf), as for its reward file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from spct_openrlhf import Completion, GroupScorer, Result, with_fallback
from spct_plugin.engines.tokenizer import load_tokenizer
from spct_plugin.reward_model import RewardModel
from spct_plugin.types import JudgeTask
from spct_plugin.voter import GroupVotes

Voting = Callable[[RewardModel, JudgeTask], Awaitable[GroupVotes]]


class OpenRLHFRoute:
    """Rewards completions in OpenRLHF's form.

    Args:
        model: The judge; its configuration names the policy's tokenizer and the fallback.
        vote: Has a group judged by it.

    Raises:
        ConfigError: The tokenizer cannot be loaded, or rewards could be missing.
    """

    def __init__(self, model: RewardModel, vote: Voting) -> None:
        config = with_fallback(model.config)
        assert config.openrlhf.tokenizer is not None
        model = model.under(config.reward.on_failure)
        self._tokenizer = load_tokenizer(config.openrlhf.tokenizer)
        self._scorer = GroupScorer(config, cast(RewardModel, _Judge(model, vote)))
        self._reader = self._scorer.reader(self._tokenizer)

    async def score(self, query: str, prompt: str, label: Any) -> Result:
        """Reward one completion.

        Raises:
            TaskError: It cannot be told from its prompt, or the prompt cannot be read.
            RewardError: The breaker, or `on_failure: stop`.
        """
        text, is_whole = self._reader.completion(query, prompt)
        completion = Completion(text, is_whole=is_whole)
        [result] = await self._scorer.score(prompt, label, [completion], self._tokenizer)
        return result


class _Judge:
    """The judge as the adapter knows it, but that groups wait for their turn."""

    def __init__(self, model: RewardModel, vote: Voting) -> None:
        self._model = model
        self._wait_and_vote = vote

    async def vote(self, tasks: Sequence[JudgeTask]) -> list[GroupVotes]:
        return [await self._wait_and_vote(self._model, task) for task in tasks]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
