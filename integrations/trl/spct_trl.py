"""The judge as a reward function of TRL's trainers.

    trl grpo --config grpo.yaml --reward_funcs spct_trl.grm_reward      # env: {SPCT_CONFIG: ...}
    GRPOTrainer(reward_funcs=spct_trl.make_reward("judge.yaml"), ...)

Whole groups are judged together, also where a group straddles ranks; a completion whose judging
failed gets None under `abstain`, which TRL leaves out of the group's baseline. Combine rules with
the judge in the configuration (`reward.rewards`): given to TRL as a second function, a None of
ours would count as 0 in its sum.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from spct_plugin import ConfigError, GroupReward, JudgeTask, RewardError, RewardModel, SPCTConfig
from spct_plugin.metrics import step_metrics
from spct_plugin.probes import Probes
from spct_plugin.voter import GroupVotes
from spct_trl_groups import Row, group_sizes, rows_of, task_of, trainer_group_size
from spct_trl_ranks import Ranks, first_error, world_size

__all__ = ["GRMReward", "make_reward"]

T = TypeVar("T")

log = logging.getLogger(__name__)

# Longest wait for closing connections at the end of the process; chosen by us.
CLOSE_S = 5.0

grm_reward: GRMReward
"""For `--reward_funcs spct_trl.grm_reward`: configured by the file that SPCT_CONFIG names."""


@dataclass(frozen=True)
class _Step:
    """One call of the trainer, seen from above: all groups of all ranks.

    Attributes:
        tasks: The groups, in global order.
        owners: The rank that judges each: the one that holds its first row.
        rows: Where this rank's rows stand among all.
        rank: This rank.
        training: Whether this is no evaluation.
    """

    tasks: Sequence[JudgeTask]
    owners: Sequence[int]
    rows: slice
    rank: int
    training: bool

    def owned(self, groups: Iterable[T]) -> list[T]:
        """Give those of one value per group that belong to the groups this rank judges."""
        return [g for g, owner in zip(groups, self.owners, strict=True) if owner == self.rank]


@dataclass(frozen=True)
class _Share:
    """What a rank contributes: votes on its groups, rules on its rows, the first one's probes."""

    votes: Sequence[GroupVotes] = ()
    rule_sums: Sequence[float] = ()
    probes: Mapping[str, float] = field(default_factory=dict[str, float])
    error: str | None = None


class GRMReward:
    """A reward function that judges with a generative reward model.

    Picklable: only the configuration travels; the judge is built by the first call.

    Args:
        config: A configuration, the path of one, or None for the bundled tiny GRM.
        name: What TRL calls the reward in its logs.
    """

    def __init__(
        self, config: SPCTConfig | str | Path | None = None, name: str = "grm_reward"
    ) -> None:
        self.__name__ = name
        if not isinstance(config, SPCTConfig | str | Path | None):
            raise ConfigError(
                f"expected an SPCTConfig or a path, found {type(config).__name__}; make one with "
                "SPCTConfig.model_validate"
            )
        self._source = Path(config).resolve() if isinstance(config, str) else config
        self.config = config if isinstance(config, SPCTConfig) else SPCTConfig.load(config)
        self._model: RewardModel | None = None
        self._ranks: Ranks | None = None
        self._probes = None if self.config.probes.every is None else Probes(self.config)

    def __reduce__(self) -> tuple[type[GRMReward], tuple[Any, ...]]:
        """Travel as configuration."""
        return (GRMReward, (self._source, self.__name__))

    async def __call__(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Judge this rank's completions.

        Args:
            prompts: One per completion, texts or messages, groups in consecutive rows.
            completions: Texts or messages.
            log_metric: TRL's; also tells the trainer and with it the group size.
            log_extra: TRL's.
            columns: Everything else TRL hands over: columns of the data set, `trainer_state`, ...

        Returns:
            One reward per row of this rank; None where the judge has none.

        Raises:
            RewardError: The breaker, `on_failure: stop` or `probes.stop`, on every rank alike.
        """
        step = self._lay_out(
            rows_of(prompts, completions, columns, self.config.trl.columns),
            log_metric,
            lockstep="trainer_state" in columns,
        )
        keywords = {"prompts": prompts, "completions": completions, **columns}
        keywords |= {"log_metric": log_metric, "log_extra": log_extra}
        judged = await self._judge(step, keywords)
        votes, model = judged.votes, self._build()
        rewards = model.shape(votes, judged.rule_sums)
        for task, group, reward in step.owned(zip(step.tasks, votes, rewards, strict=True)):
            model.trace(task, group, reward, step=_global_step(columns))
        model.check_step(votes)
        if log_metric is not None:
            metrics = {**step_metrics(step.tasks, votes, rewards), **judged.probes}
            for name, value in metrics.items():
                log_metric(f"{self.__name__}/{name}", value)
        if log_extra is not None:
            for name, values in _row_columns(votes, rewards).items():
                log_extra(f"{self.__name__}/{name}", values[step.rows])
        return [value for group in rewards for value in group.rewards][step.rows]

    def _lay_out(self, rows: Sequence[Row], log_metric: object, *, lockstep: bool) -> _Step:
        """Learn the rows of all ranks and find the groups in them.

        Runs before anything is awaited, so that several reward functions meet their peers on the
        other ranks in the same order. Without lockstep (AsyncGRPOTrainer) a rank is alone.
        """
        if self._ranks is None and lockstep and world_size() > 1:
            self._ranks = Ranks(self.config.trl.gather_timeout_s)
        by_rank = self._ranks.gather(rows) if self._ranks else [rows]
        rank = self._ranks.rank if self._ranks else 0
        every_row = [row for part in by_rank for row in part]
        holders = [holder for holder, part in enumerate(by_rank) for _ in part]
        size, training = trainer_group_size(log_metric)
        tasks: list[JudgeTask] = []
        owners: list[int] = []
        start = 0
        for length in group_sizes(every_row, self._group_size(size, training), training=training):
            tasks.append(task_of(every_row[start : start + length]))
            owners.append(holders[start])
            start += length
        first = sum(len(part) for part in by_rank[:rank])
        return _Step(tasks, owners, slice(first, first + len(rows)), rank, training)

    async def _judge(self, step: _Step, keywords: dict[str, Any]) -> _Share:
        """Get the votes on all groups, the rules of all rows, and what probes found.

        Raises:
            RewardError: The judging of some rank raised; on every rank alike.
        """
        if self._ranks is None:
            return await self._share(step, keywords)
        # Whatever this rank's judging raised, it enters the gather, or the others would wait.
        [outcome] = await asyncio.gather(self._share(step, keywords), return_exceptions=True)
        if isinstance(outcome, BaseException):
            log.error("judging on rank %d failed", step.rank, exc_info=outcome)
            outcome = _Share(error=f"{type(outcome).__name__}: {outcome}")
        shares = await self._ranks.gather_later(_without_texts(outcome))
        error = first_error([share.error for share in shares])
        if error is not None:
            raise RewardError(f"stopped on every rank: {error}")
        left = [iter(share.votes) for share in shares]
        votes = [next(left[owner]) for owner in step.owners]
        rule_sums = [value for share in shares for value in share.rule_sums]
        return _Share(votes, rule_sums, shares[0].probes)

    async def _share(self, step: _Step, keywords: dict[str, Any]) -> _Share:
        model = self._build()
        votes = await model.vote(step.owned(step.tasks))
        rows = step.rows.stop - step.rows.start
        rule_sums = await model.rule_sums(keywords, rows)
        return _Share(votes, rule_sums, await self._probe(model, step, _global_step(keywords)))

    async def _probe(
        self, model: RewardModel, step: _Step, global_step: int | None
    ) -> dict[str, float]:
        """Judge the probes when they are due, on the first rank only."""
        if self._probes is None or step.rank != 0 or not step.training:
            return {}
        return await self._probes.measure(model) if self._probes.are_due(global_step) else {}

    def _group_size(self, trainer_size: int | None, training: bool) -> int | None:
        """Choose between the configuration and the trainer; loud when they differ."""
        configured = self.config.trl.group_size if training else None
        if configured is not None and trainer_size is not None and configured != trainer_size:
            raise ConfigError(
                f"trl.group_size: expected the trainer's num_generations {trainer_size}, found "
                f"{configured}; leave it out to follow the trainer"
            )
        return configured or trainer_size

    def _build(self) -> RewardModel:
        if self._model is None:
            self._model = RewardModel(self.config)
            loop = asyncio.get_running_loop()
            atexit.register(_close, self._model, loop)
            named = "model" in self.config.engine.model_fields_set
            if self.config.is_bundled and not named:
                log.warning(
                    "the configuration names no engine.model: rewards come from the bundled tiny "
                    "GRM, a toy judge that knows only its own toy world"
                )
        return self._model


def make_reward(
    config: SPCTConfig | str | Path | None = None, name: str = "grm_reward"
) -> GRMReward:
    """Make a reward function for `GRPOTrainer`, `RLOOTrainer` or `AsyncGRPOTrainer`.

    Args:
        config: A configuration, the path of one, or None for the bundled tiny GRM.
        name: What TRL calls the reward in its logs; two functions need two names.

    Raises:
        ConfigError: The configuration is wrong; it is checked now, before anything is generated.
    """
    return GRMReward(config, name)


def __getattr__(name: str) -> GRMReward:
    """Make `grm_reward` when it is asked for, from the file that SPCT_CONFIG names.

    Raises:
        ConfigError: The variable is not set, or the file cannot be used.
    """
    if name != "grm_reward":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    path = os.environ.get("SPCT_CONFIG")
    if not path:
        # A variable that was lost on the way to a node must not train a policy on a toy.
        raise ConfigError(
            "expected the environment variable SPCT_CONFIG to name the configuration, found none; "
            "say env: {SPCT_CONFIG: judge.yaml} in the trainer's YAML (an empty judge.yaml = the "
            "bundled toy judge)"
        )
    reward = globals()["grm_reward"] = GRMReward(path)
    return reward


def _global_step(columns: dict[str, Any]) -> int | None:
    return getattr(columns.get("trainer_state"), "global_step", None)


def _row_columns(
    votes: Sequence[GroupVotes], rewards: Sequence[GroupReward]
) -> dict[str, list[Any]]:
    """Give what TRL's table of completions shows of the judge, one value per completion."""
    columns: dict[str, list[Any]] = {"votes": [], "spread": [], "judgement": []}
    for group, reward in zip(votes, rewards, strict=True):
        columns["votes"] += reward.votes
        columns["spread"] += reward.spread
        text = group.counted[0].text if group.counted else ""
        columns["judgement"] += [text] * len(reward.rewards)
    return columns


def _without_texts(share: _Share) -> _Share:
    """Leave out the texts of judgements, but for the one per group that is shown in tables."""
    slim = [
        replace(
            group,
            judgements=tuple(replace(j, text="", critique="") for j in group.judgements),
            counted=tuple(
                replace(j, text=j.text if position == 0 else "", critique="")
                for position, j in enumerate(group.counted)
            ),
        )
        for group in share.votes
    ]
    return replace(share, votes=slim)


def _close(model: RewardModel, loop: asyncio.AbstractEventLoop) -> None:
    """Close connections before the trainer's loop ends with the process."""
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(model.aclose(), loop).result(timeout=CLOSE_S)
