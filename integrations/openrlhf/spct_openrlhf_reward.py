"""A reward function for OpenRLHF that has each completion judged alone.

    python -m openrlhf.cli.train_ppo_ray --reward.remote_url "$(spct path openrlhf-reward)" ...

SPCT_CONFIG names the configuration, in every Ray worker; its openrlhf.tokenizer is the policy's.
OpenRLHF shows one sample at a time here: prefer the group agent for judging, and use this for the
outcome reward, where a judge is trained, or where another agent is in the way.
"""

from __future__ import annotations

from typing import Any

from spct_openrlhf import Completion, GroupScorer, Result, load_config
from spct_plugin import ConfigError, SPCTConfig
from spct_plugin.engines.tokenizer import load_tokenizer
from spct_plugin.loop import run_sync

__all__ = ["EndRun", "Reward", "reward_func"]


class EndRun(BaseException):
    """Why no reward can be given.

    OpenRLHF swallows an Exception, goes on with the reward None, and fails on that after the whole
    rollout, saying nothing of the reason (utils/agent.py:303). This one ends the run at once.
    """


class Reward:
    """Rewards one sample per call, from any number of threads.

    Args:
        config: As `load_config` gives it.
        scorer: Reward with this instead of what the configuration names.

    Raises:
        ConfigError: No tokenizer is named.
    """

    def __init__(self, config: SPCTConfig, scorer: GroupScorer | None = None) -> None:
        if config.openrlhf.tokenizer is None:
            raise ConfigError(
                "openrlhf.tokenizer: expected the policy's tokenizer, a folder or a hub id, as the "
                "reward file sees only texts; the group agent needs none"
            )
        if config.reward.scale == "rank" or config.openrlhf.scores == "spread":
            raise ConfigError(
                "reward.scale: rank and openrlhf.scores: spread compare siblings, of which the "
                "reward file sees none; use the group agent"
            )
        self._tokenizer = load_tokenizer(config.openrlhf.tokenizer)
        self._scorer = scorer or GroupScorer(config)
        self._reader = self._scorer.reader(self._tokenizer)

    def __call__(self, queries: list[str], prompts: list[str], labels: list[Any]) -> Result:
        """Reward a sample.

        Args:
            queries: One: prompt and completion as decoded, special tokens included.
            prompts: One: as OpenRLHF gave it to the policy.
            labels: One.

        Raises:
            EndRun: No reward: the breaker, `on_failure: stop`, or what cannot be judged.
        """
        [query], [prompt], [label] = queries, prompts, labels
        try:
            text, is_whole = self._reader.completion(query, prompt)
            completion = Completion(text, is_whole=is_whole)
            [result] = run_sync(self._scorer.score(prompt, label, [completion], self._tokenizer))
        except Exception as error:
            raise EndRun(f"{type(error).__name__}: {error}") from error
        return result


reward_func = Reward(load_config())
