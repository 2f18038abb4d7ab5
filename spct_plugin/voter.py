"""k judgements of one group, filtered by the meta RM and voted: what makes a number of a task.

    voter = LocalVoter(config, store, engine=engine)
    votes = await voter.vote(task, deadline=None)

`RewardModel` asks a voter for each group; the other kind asks a server (`remote.RemoteVoter`).
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from spct_plugin.budget import largest_list, view_task
from spct_plugin.config import SPCTConfig
from spct_plugin.engines import Engine
from spct_plugin.errors import ConfigError
from spct_plugin.failures import INFRASTRUCTURE_FAILURES, Failure
from spct_plugin.judge import Case, Judge
from spct_plugin.loop import gather_or_cancel
from spct_plugin.meta_rm import KeptMetaRM, MetaRM, NoMetaRM
from spct_plugin.permutations import Ask, plan_wave, wave_size
from spct_plugin.plugins import load_plugins
from spct_plugin.store import Store
from spct_plugin.templates import JinjaTemplate, Template
from spct_plugin.types import Judgement, JudgeTask
from spct_plugin.voting import Tally, is_decided, is_settled, keep_top, scores_matrix

if TYPE_CHECKING:
    from spct_plugin.engines.pool import EndpointState, Pool


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


class Voter(Protocol):
    """What the reward model needs of those who judge.

    Attributes:
        version: What judges; where that is elsewhere, what judged last.
        scale: Lowest and highest score of one judgement.
        k: Votes asked for.

    Raises:
        RewardError: By the attributes, when they are not known before something was judged.
    """

    @property
    def version(self) -> str: ...  # noqa: D102

    @property
    def scale(self) -> tuple[int, int]: ...  # noqa: D102

    @property
    def k(self) -> int: ...  # noqa: D102

    async def vote(self, task: JudgeTask, deadline: float | None) -> GroupVotes:
        """Judge one group and vote; what fails is in the result, nothing is raised for it.

        Args:
            task: The group.
            deadline: Event loop time after which judgements are late; None = never.
        """
        ...

    def endpoints(self) -> list[EndpointState]:
        """Say how the servers of engine and meta RM do; empty where they have none."""
        ...

    async def sleep(self, level: int) -> None:
        """Free the GPUs of these servers; see `RewardModel.sleep`."""
        ...

    async def wake(self) -> None:
        """Undo `sleep`."""
        ...

    def past_store(self) -> Voter:
        """Give the same judge without its store: nothing is looked up, nothing kept."""
        ...

    async def aclose(self) -> None:
        """Give back connections and memory."""
        ...


@runtime_checkable
class _Served(Protocol):
    """An engine or meta RM behind HTTP."""

    pool: Pool

    async def sleep(self, *urls: str, level: int = 1) -> None: ...

    async def wake(self, *urls: str) -> None: ...


class LocalVoter:
    """Judges in this process.

    Args:
        config: How to judge and vote.
        store: Where finished judgements are looked up and kept; None = nowhere.
        engine: Use this engine instead of the configured one.
        template: Use this template instead of the configured one.
        meta_rm: Use this meta RM instead of the configured one, if any.

    Raises:
        ConfigError: The parts do not fit together.
    """

    def __init__(
        self,
        config: SPCTConfig,
        store: Store | None = None,
        *,
        engine: Engine | None = None,
        template: Template | None = None,
        meta_rm: MetaRM | None = None,
    ) -> None:
        self._config = config
        registry = load_plugins(config.plugins)
        if meta_rm is not None:
            config.check_meta_rm_allowed()
        self._meta_rm = meta_rm or config.build_meta_rm(registry) or NoMetaRM()
        self._engine = engine or config.engine.build()
        configured, self._tally = config.template_and_vote(registry)
        self._template = template or configured
        self._secret = store.secret if store else secrets.token_bytes(32)
        self._sampling = config.sampling_for(configured)
        wording = configured.wording if isinstance(configured, JinjaTemplate) else ""
        self.version = f"{self._engine.identity}|{self._template.name}|{config.digest(wording)}"
        if self._meta_rm.identity:
            self.version += f"|{self._meta_rm.identity}"
        self.scale = self._template.scale
        self.k = config.vote.k
        self._use(store)

    def _use(self, store: Store | None) -> None:
        self._judge = Judge(self._engine, self._template, self._sampling, self.version, store)
        self._scorer = self._meta_rm
        if store is not None and self._meta_rm.identity:
            self._scorer = KeptMetaRM(self._meta_rm, store)

    def past_store(self) -> LocalVoter:
        """Give the same judge without its store: nothing is looked up, nothing kept."""
        other = copy.copy(self)
        other._use(None)
        return other

    def endpoints(self) -> list[EndpointState]:
        """Say how the servers of engine and meta RM do; empty where they have none."""
        return [state for part in self._served() for state in part.pool.states()]

    async def sleep(self, level: int) -> None:
        """Free the GPUs of these servers; see `RewardModel.sleep`."""
        served = self._served()
        if not served:
            raise ConfigError("sleep: expected an engine behind HTTP, found one in this process")
        await gather_or_cancel([part.sleep(level=level) for part in served])

    async def wake(self) -> None:
        """Undo `sleep`."""
        await gather_or_cancel([part.wake() for part in self._served()])

    def _served(self) -> list[_Served]:
        return [part for part in (self._engine, self._meta_rm) if isinstance(part, _Served)]

    async def aclose(self) -> None:
        """Give back connections and memory; the store is closed by its owner."""
        await self._engine.aclose()
        await self._meta_rm.aclose()

    async def vote(self, task: JudgeTask, deadline: float | None) -> GroupVotes:
        """Take waves of votes until k are taken, they are enough, or the deadline has passed."""
        start = time.perf_counter()
        vote = self._config.vote
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
            self._tally(scores_K_N, n),
            tuple(counted),
            tuple(sorted(judgements, key=lambda j: j.vote)),
            case.digest.hex(),
            vote.k,
            len({judgement.vote for judgement in judgements}),
            self.scale,
            time.perf_counter() - start,
            self.version,
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
                return await self._scorer.score(case.task, valid)
        except TimeoutError:
            return [None] * len(valid)

    def _is_enough(
        self, scores_K_N: Sequence[Sequence[int | None]], wave: Sequence[Judgement]
    ) -> bool:
        """Tell whether to stop after this wave; also when a next one would fare no better."""
        vote = self._config.vote
        if all(j.failure in INFRASTRUCTURE_FAILURES for j in wave):
            return True
        if vote.stop == "settled":
            return is_settled(scores_K_N, vote.tolerance, vote.min_spread)
        if vote.stop == "decided":
            votes_left = vote.k - 1 - max(j.vote for j in wave)
            return is_decided(scores_K_N, votes_left, self.scale)
        return False

    def _case(self, task: JudgeTask, deadline: float | None) -> Case:
        budget = self._config.budget
        viewed = view_task(task, budget.completion_view, budget.max_completion_chars)
        digest = viewed.digest()
        seed = hashlib.sha256(b"%d" % self._config.sampling.seed + digest).digest()
        nonce = ""
        if self._config.template.nonce:
            nonce = hmac.digest(self._secret, digest, "sha256").hex()[:12]
        return Case(viewed, digest, seed, nonce, deadline)

    def _layout(self, case: Case) -> tuple[Sequence[int], int]:
        """Find the completions that fit the context alone, and how many share a prompt at most."""
        n = len(case.task.completions)
        limits = (n, self._config.vote.list_size, self._template.max_responses)
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
