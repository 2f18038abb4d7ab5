"""The facade that every adapter calls: groups of completions in, rewards out.

    model = RewardModel(SPCTConfig.load("judge.yaml"))
    [group] = model.score_sync([JudgeTask("Name a prime.", ["7", "8"])])
    group.rewards

One async core; `score_sync` is the bridge for everybody else.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spct_plugin.budget import largest_list, view_task
from spct_plugin.config import GrmReward, RuleReward, SPCTConfig
from spct_plugin.engines import Engine
from spct_plugin.failures import INFRASTRUCTURE_FAILURES, Failure
from spct_plugin.judge import Case, Judge
from spct_plugin.loop import gather_or_cancel, run_sync
from spct_plugin.meta_rm import KeptMetaRM, MetaRM, NoMetaRM
from spct_plugin.permutations import Ask, plan_wave, wave_size
from spct_plugin.plugins import load_plugins
from spct_plugin.records import reward_record
from spct_plugin.rules import load_rule, sum_rules, task_keywords
from spct_plugin.shaping import (
    OnFailure,
    add_rules,
    apply_on_failure,
    check_breaker,
    scale_rewards,
)
from spct_plugin.store import Store
from spct_plugin.templates import JinjaTemplate, Template
from spct_plugin.types import GroupReward, Judgement, JudgeTask
from spct_plugin.voting import Tally, is_decided, is_settled, keep_top, scores_matrix

if TYPE_CHECKING:
    from spct_plugin.client import RemoteJudge
    from spct_plugin.engines.pool import EndpointState


@dataclass(frozen=True, slots=True)
class GroupVotes:
    """What voting found for one group, before it becomes a reward.

    Attributes:
        tally: Means, votes and spread per completion.
        counted: The judgements that counted: valid, and kept by the meta RM.
        judgements: All judgements by vote, failed ones too.
        task: Digest of the task as it was judged, 64 hex digits.
        k: Votes asked for.
        k_used: Votes taken.
        scale: Lowest and highest score.
        seconds: Wall time.
        version: What voted: engine identity, template, configuration hash.
    """

    tally: Tally
    counted: tuple[Judgement, ...]
    judgements: tuple[Judgement, ...]
    task: str
    k: int
    k_used: int
    scale: tuple[int, int]
    seconds: float
    version: str

    @property
    def failures(self) -> Counter[Failure]:
        """Failed judgements by kind."""
        return Counter(j.failure for j in self.judgements if j.failure is not None)

    @property
    def breaker_failures(self) -> Counter[Failure]:
        """Failures that speak against a step; late votes do only where none came in time."""
        failures = self.failures
        if self.counted:
            del failures["deadline"]
        return failures


class RewardModel:
    """Judges groups of completions, votes, and shapes the rewards.

    Args:
        config: What to do; None = the defaults, with the tiny GRM that ships with the package.
        engine: Use this engine instead of the configured one.
        template: Use this template instead of the configured one.
        meta_rm: Use this meta RM instead of the configured one, if any. The bundled GRM has the
            bundled one when the configuration does not say.

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
    ) -> None:
        self.config = config or SPCTConfig()
        path = self.config.store.path
        self._store = Store(path) if path is not None else None
        self._remote: RemoteJudge | None = None
        if engine is None and self.config.server.url is not None:
            # Imported now, as it brings an HTTP client.
            from spct_plugin.client import RemoteJudge

            self._remote = RemoteJudge(self.config.server)
        else:
            self._build_judge(engine, template, meta_rm)
        self._rules = [
            (entry.path, load_rule(entry.path), entry.weight)
            for entry in self.config.reward.rewards
            if isinstance(entry, RuleReward)
        ]
        [self._grm_weight] = [
            entry.weight for entry in self.config.reward.rewards if isinstance(entry, GrmReward)
        ]

    def _build_judge(
        self, engine: Engine | None, template: Template | None, meta_rm: MetaRM | None
    ) -> None:
        """Make what judges in this process."""
        if engine is None and meta_rm is None:
            self.config = self.config.with_bundled_meta_rm()
        registry = load_plugins(self.config.plugins)
        if meta_rm is not None:
            self.config.check_meta_rm_allowed()
        self._meta_rm = meta_rm or self.config.build_meta_rm(registry) or NoMetaRM()
        self._engine = engine or self.config.engine.build()
        configured, self._vote = self.config.template_and_vote(registry)
        self._template = template or configured
        if self._store is not None and self._meta_rm.identity:
            self._meta_rm = KeptMetaRM(self._meta_rm, self._store)
        self._secret = self._store.secret if self._store else secrets.token_bytes(32)
        self._sampling = self.config.sampling_for(configured)
        wording = configured.wording if isinstance(configured, JinjaTemplate) else ""
        digest = self.config.digest(wording)
        self._version = f"{self._engine.identity}|{self._template.name}|{digest}"
        if self._meta_rm.identity:
            self._version += f"|{self._meta_rm.identity}"
        self._judge = Judge(
            self._engine, self._template, self._sampling, self._version, self._store
        )

    @property
    def version(self) -> str:
        """What makes the rewards; behind `server:`, what made the last ones.

        Raises:
            RewardError: The server has not answered yet.
        """
        return self._remote.latest.version if self._remote else self._version

    @property
    def scale(self) -> tuple[int, int]:
        """Lowest and highest score of one judgement.

        Raises:
            RewardError: The server behind `server:` has not answered yet.
        """
        return self._remote.latest.scale if self._remote else self._template.scale

    def endpoints(self) -> list[EndpointState]:
        """Say how the servers behind the engine do; empty where it has none."""
        pool = None if self._remote else getattr(self._engine, "pool", None)
        return pool.states() if pool is not None else []

    @property
    def middle(self) -> float:
        """Reward of a mean score in the middle of the scale, rules left out.

        Raises:
            RewardError: The server behind `server:` has not answered yet.
        """
        k = self._remote.latest.k if self._remote else self.config.vote.k
        scaled = scale_rewards([sum(self.scale) / 2], self.config.reward.scale, k, self.scale)
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
        return await gather_or_cancel([self._vote_group(task, deadline) for task in tasks])

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
            written["key"] = "" if self._remote else judgement.key
            if written["key"]:
                # The text stands in the store already, under this key.
                written["text"] = ""
        self._store.keep_group(record | task.as_dict() | {"step": step})

    def close(self) -> None:
        """Do what `aclose` does, after `score_sync`."""
        run_sync(self.aclose())

    async def aclose(self) -> None:
        """Give back connections, memory and files."""
        if self._remote is not None:
            await self._remote.aclose()
        else:
            await self._engine.aclose()
            await self._meta_rm.aclose()
        if self._store is not None:
            self._store.close()

    async def _task_rule_sums(self, tasks: Sequence[JudgeTask]) -> list[float]:
        rows = sum(len(task.completions) for task in tasks)
        return await self.rule_sums(task_keywords(tasks), rows) if self._rules else [0.0] * rows

    async def _score_one(self, task: JudgeTask, keep_judgements: bool) -> GroupReward:
        group = await self._vote_group(task, deadline=None)
        rule_sums = await self._task_rule_sums([task])
        [reward] = self.shape([group], rule_sums, keep_judgements=keep_judgements)
        self.trace(task, group, reward)
        return reward

    async def _vote_group(self, task: JudgeTask, deadline: float | None) -> GroupVotes:
        """Take waves of votes until k are taken, they are enough, or the deadline has passed."""
        if self._remote is not None:
            return await self._remote.vote(task, deadline)
        start = time.perf_counter()
        vote = self.config.vote
        case = self._case(task, deadline)
        n = len(task.completions)
        fitting, list_size = self._layout(case)
        wave = vote.k if vote.stop == "never" else wave_size(n, vote.k_min)
        judgements: list[Judgement] = []
        counted: list[Judgement] = []
        scores_K_N: list[list[int | None]] = []
        for first in range(0, vote.k, wave):
            votes = range(first, min(vote.k, first + wave))
            asks = [
                Ask(tuple(fitting[i] for i in ask.order), ask.votes)
                for ask in plan_wave(len(fitting), votes, case.seed, list_size=list_size)
            ]
            asks += [Ask((i,), tuple(votes)) for i in range(n) if i not in fitting]
            if self._sampling.temperature == 0:
                # A second greedy choice of the same order would repeat the first.
                orders = {judgement.order for judgement in judgements}
                asks = [Ask(a.order, a.votes[:1]) for a in asks if a.order not in orders]
                if not asks:
                    continue
            wave_judgements = await self._judged(case, asks)
            judgements += wave_judgements
            counted = keep_top(judgements, vote.k_meta)
            scores_K_N = scores_matrix(counted, n)
            if self._is_enough(scores_K_N, wave_judgements):
                break
        return GroupVotes(
            self._vote(scores_K_N, n),
            tuple(counted),
            tuple(sorted(judgements, key=lambda j: j.vote)),
            case.digest.hex(),
            vote.k,
            len({judgement.vote for judgement in judgements}),
            self.scale,
            time.perf_counter() - start,
            self._version,
        )

    async def _judged(self, case: Case, asks: Sequence[Ask]) -> list[Judgement]:
        """Judge one wave and let the meta RM score what is valid."""
        judgements = await self._judge.judge(case, asks)
        valid = [j for j in judgements if j.scores is not None]
        meta_scores = await self._meta_scores(case, valid)
        scored = {id(j): score for j, score in zip(valid, meta_scores, strict=True)}
        return [
            j if (score := scored.get(id(j))) is None else replace(j, meta_score=score)
            for j in judgements
        ]

    async def _meta_scores(self, case: Case, valid: Sequence[Judgement]) -> list[float | None]:
        """Ask the meta RM, until the deadline: without its scores all that is valid is voted."""
        try:
            async with asyncio.timeout_at(case.deadline):
                return await self._meta_rm.score(case.task, valid)
        except TimeoutError:
            return [None] * len(valid)

    def _is_enough(
        self, scores_K_N: Sequence[Sequence[int | None]], wave: Sequence[Judgement]
    ) -> bool:
        """Tell whether to stop after this wave; also when a next one would fare no better."""
        vote = self.config.vote
        if all(j.failure in INFRASTRUCTURE_FAILURES for j in wave):
            return True
        if vote.stop == "settled":
            return is_settled(scores_K_N, vote.tolerance, vote.min_spread)
        if vote.stop == "decided":
            votes_left = vote.k - 1 - max(j.vote for j in wave)
            return is_decided(scores_K_N, votes_left, self.scale)
        return False

    def task_digest(self, task: JudgeTask) -> str:
        """Identify a task as it would be judged; what `GroupReward.task` holds."""
        return self._view(task).digest().hex()

    def _view(self, task: JudgeTask) -> JudgeTask:
        budget = self.config.budget
        return view_task(task, budget.completion_view, budget.max_completion_chars)

    def _case(self, task: JudgeTask, deadline: float | None) -> Case:
        viewed = self._view(task)
        digest = viewed.digest()
        seed = hashlib.sha256(b"%d" % self.config.sampling.seed + digest).digest()
        nonce = ""
        if self.config.template.nonce:
            nonce = hmac.digest(self._secret, digest, "sha256").hex()[:12]
        return Case(viewed, digest, seed, nonce, deadline)

    def _layout(self, case: Case) -> tuple[Sequence[int], int]:
        """Find the completions that fit the context alone, and how many share a prompt at most."""
        n = len(case.task.completions)
        limits = (n, self.config.vote.list_size, self._template.max_responses)
        size = min(limit for limit in limits if limit is not None)
        if self._engine.context is None:
            return range(n), size
        lengths = [len(str(completion)) for completion in case.task.completions]
        longest_first = sorted(range(n), key=lambda i: lengths[i], reverse=True)
        while longest_first and not self._judge.fits(case, longest_first[:1]):
            longest_first.pop(0)
        if not longest_first:
            return [], 1
        size = largest_list(size, lambda s: self._judge.fits(case, longest_first[:s]))
        return sorted(longest_first), max(1, size)

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
