"""The outcome reward that trains a judge: +1 when a judgement picks the labelled best, else -1.

    trl grpo --config rl.yaml --reward_funcs spct_trl_outcome.outcome_reward
    GRPOTrainer(reward_funcs=spct_trl_outcome.OutcomeReward("judge.yaml"), ...)

The data set has the columns `label` and `n`, as `spct reject --stage rl` writes them. The template
that reads a judgement is the row's (column `template`), else that of the configuration which
SPCT_CONFIG names.

Source: DeepSeek-GRM (arXiv:2504.02495), Eq. 11.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spct_plugin import ConfigError, SPCTConfig
from spct_plugin.plugins import load_plugins
from spct_plugin.training import outcome

__all__ = ["OutcomeReward", "outcome_reward"]

outcome_reward: OutcomeReward
"""For `--reward_funcs spct_trl_outcome.outcome_reward`; SPCT_CONFIG names its configuration."""


class OutcomeReward:
    """A reward function for `GRPOTrainer` and `RLOOTrainer`; picklable.

    Args:
        config: A configuration, the path of one, or None for the bundled tiny GRM's; its template
            reads the judgements.
        name: What TRL calls the reward in its logs.
    """

    def __init__(
        self, config: SPCTConfig | str | Path | None = None, name: str = "outcome_reward"
    ) -> None:
        self.__name__ = name
        loaded = config if isinstance(config, SPCTConfig) else SPCTConfig.load(config)
        self._config = loaded
        registry = load_plugins(loaded.plugins)
        self._template, _ = loaded.template_and_vote(registry)
        self._templates = registry.templates

    def __reduce__(self) -> tuple[type[OutcomeReward], tuple[Any, ...]]:
        """Travel as configuration: a compiled template does not."""
        return (OutcomeReward, (self._config, self.__name__))

    def __call__(
        self,
        *,
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Read and pay this rank's judgements.

        Args:
            completions: Judgements, texts or messages.
            completion_ids: Their tokens; with the trainer behind `log_metric` they tell which were
                cut off, and a judgement that was cut off is wrong.
            log_metric: TRL's.
            columns: Everything else TRL hands over: `label`, `n`, ...

        Returns:
            +1 or -1 per judgement; never None: here a failure is the judge's, which is trained.

        Raises:
            ConfigError: The data set lacks `label` or `n`.
        """
        _check_columns(columns)
        ends = _end_tokens(log_metric)
        rows = len(completions)
        judgements = [
            self._templates.get(name, self._template).parse(
                _text(completion), n, _finish_reason(ids, ends)
            )
            for completion, n, ids, name in zip(
                completions,
                columns["n"],
                completion_ids or [()] * rows,
                columns.get("template") or [""] * rows,
                strict=True,
            )
        ]
        labels = columns["label"]
        if log_metric is not None:
            for name, value in outcome.outcome_metrics(judgements, labels).items():
                log_metric(f"{self.__name__}/{name}", value)
        return [
            outcome.outcome_reward(judgement.scores, label)
            for judgement, label in zip(judgements, labels, strict=True)
        ]


def _check_columns(columns: dict[str, Any]) -> None:
    if not {"label", "n"} <= set(columns):
        known = sorted(key for key, value in columns.items() if isinstance(value, list))
        raise ConfigError(
            "expected the columns label and n, as spct reject --stage rl writes them, found "
            f"{known}"
        )


def __getattr__(name: str) -> OutcomeReward:
    """Make `outcome_reward` when it is asked for, from the file that SPCT_CONFIG names."""
    if name != "outcome_reward":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    reward = globals()["outcome_reward"] = OutcomeReward(os.environ.get("SPCT_CONFIG") or None)
    return reward


def _end_tokens(log_metric: object) -> frozenset[int]:
    """Ask the trainer behind the bound `log_metric` which tokens end a completion."""
    trainer = getattr(log_metric, "__self__", None)
    own = getattr(getattr(trainer, "processing_class", None), "eos_token_id", None)
    ends = getattr(trainer, "eos_token_ids", () if own is None else (own,))
    return frozenset(ends)


def _finish_reason(ids: Sequence[int], ends: frozenset[int]) -> str:
    return "length" if ids and ends and ids[-1] not in ends else "stop"


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]
