"""The facade that every adapter calls: groups of completions in, rewards out.

    model = RewardModel(SPCTConfig.load("judge.yaml"))
    [group] = model.score_sync([JudgeTask("Name a prime.", ["7", "8"])])
    group.rewards

One async core; `score_sync` is the bridge for everybody else.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from spct_plugin.budget import view_task
from spct_plugin.config import SPCTConfig
from spct_plugin.engines import Engine
from spct_plugin.errors import ConfigError
from spct_plugin.failures import Failure
from spct_plugin.loop import gather_or_cancel, run_sync
from spct_plugin.meta_rm import MetaRM
from spct_plugin.records import reward_record
from spct_plugin.rules import load_rule, sum_rules, task_keywords
from spct_plugin.sections import GrmReward, RuleReward
from spct_plugin.shaping import (
    OnFailure,
    add_rules,
    apply_on_failure,
    check_breaker,
    scale_rewards,
)
from spct_plugin.store import Store
from spct_plugin.templates import Template
from spct_plugin.types import GroupReward, JudgeTask
from spct_plugin.voter import GroupVotes, LocalVoter, Voter

if TYPE_CHECKING:
    from spct_plugin.engines.pool import EndpointState


class RewardModel:
    """Judges groups of completions, votes, and shapes the rewards.

    Args:
        config: What to do; None = the defaults, with the tiny GRM that ships with the package.
        engine: Use this engine instead of the configured one.
        template: Use this template instead of the configured one.
        meta_rm: Use this meta RM instead of the configured one, if any. The bundled GRM has the
            bundled one when the configuration does not say.
        store: Use this store instead of the configured one; whoever made it closes it.

    Raises:
        ConfigError: The parts do not fit together.
    """

    def __init__(
        self,
        config: SPCTConfig | None = None,
        *,
        engine: Engine | None = None,
        template: Template | None = None,
        meta_rm: MetaRM | None = None,
        store: Store | None = None,
    ) -> None:
        self.config = config or SPCTConfig()
        path = self.config.store.path
        self._owns_store = store is None
        self._store = store or (Store(path) if path is not None else None)
        self._voter = self._build_voter(engine, template, meta_rm)
        self._rules = [
            (entry.path, load_rule(entry.path), entry.weight)
            for entry in self.config.reward.rewards
            if isinstance(entry, RuleReward)
        ]
        [self._grm_weight] = [
            entry.weight for entry in self.config.reward.rewards if isinstance(entry, GrmReward)
        ]

    def _build_voter(
        self, engine: Engine | None, template: Template | None, meta_rm: MetaRM | None
    ) -> Voter:
        if engine is None and self.config.server.url is not None:
            if template is not None or meta_rm is not None:
                raise ConfigError(
                    "server.url: a server judges, by what its own file says; leave out the "
                    "arguments template and meta_rm"
                )
            # Imported now, as it brings an HTTP client.
            from spct_plugin.remote import RemoteVoter

            return RemoteVoter(self.config.server)
        if engine is None and meta_rm is None:
            self.config = self.config.with_bundled_meta_rm()
        return LocalVoter(
            self.config, self._store, engine=engine, template=template, meta_rm=meta_rm
        )

    @property
    def version(self) -> str:
        """What makes the rewards; behind `server:`, what made the last ones.

        Raises:
            RewardError: The server has not answered yet.
        """
        return self._voter.version

    @property
    def scale(self) -> tuple[int, int]:
        """Lowest and highest score of one judgement.

        Raises:
            RewardError: The server behind `server:` has not answered yet.
        """
        return self._voter.scale

    def endpoints(self) -> list[EndpointState]:
        """Say how the servers of engine and meta RM do; empty where they have none."""
        return self._voter.endpoints()

    async def sleep(self, level: int = 1) -> None:
        """Let the judge's vLLM servers free their GPUs when they have answered.

        What is asked meanwhile waits for `wake`, `request_timeout_s` at most.

        Args:
            level: vLLM's: 1 keeps the weights in the host's memory; 2 drops them, and whoever wakes
                the server must load them again.

        Raises:
            EngineError: One did not go to sleep; it is asked as before.
            ConfigError: There is no server.
        """
        await self._voter.sleep(level)

    async def wake(self) -> None:
        """Undo `sleep`.

        Raises:
            EngineError: A server did not wake.
        """
        await self._voter.wake()

    @property
    def middle(self) -> float:
        """Reward of a mean score in the middle of the scale, rules left out.

        Raises:
            RewardError: The server behind `server:` has not answered yet.
        """
        scale, k = self.scale, self._voter.k
        scaled = scale_rewards([sum(scale) / 2], self.config.reward.scale, k, scale)
        [reward] = add_rules(scaled, self._grm_weight, [0.0])
        assert reward is not None
        return reward

    async def score(
        self, tasks: Sequence[JudgeTask], *, keep_judgements: bool = False
    ) -> list[GroupReward]:
        """Judge groups concurrently: one training step.

        Args:
            tasks: The groups.
            keep_judgements: Return the judgements too.

        Returns:
            One reward group per task, in order.

        Raises:
            RewardError: The breaker, or `on_failure: stop`.
        """
        votes = await self.vote(tasks)
        rule_sums = await self._task_rule_sums(tasks)
        rewards = self.shape(votes, rule_sums, keep_judgements=keep_judgements)
        for task, group, reward in zip(tasks, votes, rewards, strict=True):
            self.trace(task, group, reward)
        self.check_step(votes)
        return rewards

    def score_sync(
        self, tasks: Sequence[JudgeTask], *, keep_judgements: bool = False
    ) -> list[GroupReward]:
        """Do what `score` does, from synchronous code."""
        return run_sync(self.score(tasks, keep_judgements=keep_judgements))

    async def stream(
        self, tasks: Iterable[JudgeTask], *, window: int = 256, keep_judgements: bool = False
    ) -> AsyncIterator[GroupReward]:
        """Judge any number of groups in bounded memory; no breaker, as there is no step.

        Args:
            tasks: The groups; read as they are needed.
            window: Most groups in memory. 256: chosen by us, enough to keep 512 requests in flight.
            keep_judgements: Return the judgements too.

        Yields:
            One reward group per task, in order.
        """
        running: deque[asyncio.Task[GroupReward]] = deque()
        try:
            for task in tasks:
                running.append(asyncio.create_task(self._score_one(task, keep_judgements)))
                if len(running) >= window:
                    yield await running.popleft()
            while running:
                yield await running.popleft()
        finally:
            for unfinished in running:
                unfinished.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def under(self, on_failure: OnFailure) -> RewardModel:
        """Give the same judge, and all that belongs to it, with another policy for failures."""
        other = copy.copy(self)
        reward = self.config.reward.model_copy(update={"on_failure": on_failure})
        other.config = self.config.model_copy(update={"reward": reward})
        return other

    def measuring(self) -> RewardModel:
        """Give the same judge without its store and without a step's deadline, to be measured.

        A kept vote would hide that the judge has changed.
        """
        other = copy.copy(self)
        vote = self.config.vote.model_copy(update={"deadline_s": None})
        other.config = self.config.model_copy(update={"vote": vote})
        other._store, other._voter = None, self._voter.past_store()
        return other

    async def vote(
        self, tasks: Sequence[JudgeTask], deadline_s: float | None = None
    ) -> list[GroupVotes]:
        """Judge groups concurrently and vote, without making rewards of it.

        Args:
            tasks: The groups.
            deadline_s: Longest time, where it is shorter than `vote.deadline_s`.
        """
        waits = [wait for wait in (deadline_s, self.config.vote.deadline_s) if wait is not None]
        deadline = asyncio.get_running_loop().time() + min(waits) if waits else None
        return await gather_or_cancel([self._voter.vote(task, deadline) for task in tasks])

    async def rule_sums(self, keywords: Mapping[str, object], rows: int) -> list[float]:
        """Sum the weighted rules beside the judge, one number per completion."""
        return await sum_rules(self._rules, keywords, rows)

    def shape(
        self,
        groups: Sequence[GroupVotes],
        rule_sums: Sequence[float],
        *,
        keep_judgements: bool = False,
    ) -> list[GroupReward]:
        """Make rewards of the votes of one step. Pure.

        Args:
            groups: What `vote` returned.
            rule_sums: What the rules add, for all completions of all groups in order.
            keep_judgements: Return the judgements too.

        Raises:
            RewardError: A completion without a reward under `on_failure: stop`.
        """
        shaped: list[GroupReward] = []
        start = 0
        for group in groups:
            end = start + len(group.tally.means)
            shaped.append(self._shape_group(group, rule_sums[start:end], keep_judgements))
            start = end
        return shaped

    def check_step(self, groups: Sequence[GroupVotes]) -> None:
        """Stop the run when one step lost too many judgements: the breaker.

        Raises:
            RewardError: More failed than `reward.breaker` allows.
        """
        failures = sum((group.breaker_failures for group in groups), Counter[Failure]())
        valid = sum(j.scores is not None for group in groups for j in group.judgements)
        limits = self.config.reward.breaker
        details: dict[Failure, str] = {
            j.failure: j.detail
            for group in groups
            for j in group.judgements
            if j.failure is not None and j.failure in failures and j.detail
        }
        total = valid + failures.total()
        check_breaker(failures, total, limits.infrastructure, limits.judge, details)

    def trace(
        self, task: JudgeTask, group: GroupVotes, reward: GroupReward, step: int | None = None
    ) -> None:
        """Keep what a group got in the store, if there is one, for reports; does not wait."""
        if self._store is None:
            return
        record = reward_record(reward, group.judgements)
        for written, judgement in zip(record["judgements"], group.judgements, strict=True):
            written["key"] = judgement.key
            if written["key"]:
                # The text stands in the store already, under this key.
                written["text"] = ""
        self._store.keep_group(record | task.as_dict() | {"step": step})

    def task_digest(self, task: JudgeTask) -> str:
        """Identify a task as it would be judged; what `GroupReward.task` holds."""
        budget = self.config.budget
        viewed = view_task(task, budget.completion_view, budget.max_completion_chars)
        return viewed.digest().hex()

    def close(self) -> None:
        """Do what `aclose` does, after `score_sync`."""
        run_sync(self.aclose())

    async def aclose(self) -> None:
        """Give back connections, memory and files."""
        await self._voter.aclose()
        if self._store is not None and self._owns_store:
            # Not in a thread of the executor, which is gone when a trainer's process ends.
            self._store.close()

    async def _task_rule_sums(self, tasks: Sequence[JudgeTask]) -> list[float]:
        rows = sum(len(task.completions) for task in tasks)
        return await self.rule_sums(task_keywords(tasks), rows) if self._rules else [0.0] * rows

    async def _score_one(self, task: JudgeTask, keep_judgements: bool) -> GroupReward:
        group = await self._voter.vote(task, deadline=None)
        rule_sums = await self._task_rule_sums([task])
        [reward] = self.shape([group], rule_sums, keep_judgements=keep_judgements)
        self.trace(task, group, reward)
        return reward

    def _shape_group(
        self, group: GroupVotes, rule_sums: Sequence[float], keep_judgements: bool
    ) -> GroupReward:
        reward, k = self.config.reward, group.k
        means = group.tally.means
        scaled = scale_rewards(means, reward.scale, k, group.scale)
        rewards = apply_on_failure(
            add_rules(scaled, self._grm_weight, rule_sums), reward.on_failure
        )
        return GroupReward(
            rewards=tuple(rewards),
            means=means,
            sums=tuple(None if mean is None else mean * k for mean in means),
            votes=group.tally.votes,
            spread=group.tally.spread,
            k=k,
            k_used=group.k_used,
            failures=dict(group.failures),
            tokens=sum(judgement.tokens for judgement in group.judgements),
            seconds=group.seconds,
            version=group.version,
            task=group.task,
            judgements=group.judgements if keep_judgements else None,
        )
