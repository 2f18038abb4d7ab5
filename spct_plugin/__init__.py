"""Generative reward models for RLHF: judge groups of completions, vote, reward, train the judge.

    from spct_plugin import JudgeTask, RewardModel

    [group] = RewardModel().score_sync([JudgeTask("Name a prime.", ["7", "8"])])
    group.rewards

Public names are those listed in `__all__`; importing them pulls in neither torch nor a trainer.
"""

from spct_plugin.config import SPCTConfig
from spct_plugin.errors import (
    ConfigError,
    EngineError,
    PluginError,
    RewardError,
    SPCTError,
    StoreError,
    TaskError,
)
from spct_plugin.hookspecs import hookimpl
from spct_plugin.parsing import ParsedJudgement, parse_judgement
from spct_plugin.reward_model import RewardModel
from spct_plugin.types import GroupReward, Judgement, JudgeTask, Message, Principle

__all__ = [
    "ConfigError",
    "EngineError",
    "GroupReward",
    "JudgeTask",
    "Judgement",
    "Message",
    "ParsedJudgement",
    "PluginError",
    "Principle",
    "RewardError",
    "RewardModel",
    "SPCTConfig",
    "SPCTError",
    "StoreError",
    "TaskError",
    "hookimpl",
    "parse_judgement",
]
