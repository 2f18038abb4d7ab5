"""What is judged, when, and by whom: the one place of the server that knows a judge.

Groups are accepted or refused at once; accepted ones wait for their turn, are judged and finished,
whatever becomes of who asked. A reload changes the judge between groups, never inside one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import secrets
from collections import Counter, deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spct_plugin.config import RuleReward, SPCTConfig
from spct_plugin.config_file import override, read_file
from spct_plugin.errors import ConfigError, RewardError, SPCTError
from spct_plugin.loop import gather_or_cancel
from spct_plugin.reward_model import RewardModel
from spct_plugin.rules import task_keywords
from spct_plugin.server.answers import Answers
from spct_plugin.server.metrics import Metrics
from spct_plugin.server.wire import GroupResponse, OpenRLHFResponse, RewardsRequest, RewardsResponse
from spct_plugin.types import GroupReward, JudgeTask, is_list
from spct_plugin.voter import GroupVotes

if TYPE_CHECKING:
    from spct_plugin.server.openrlhf import OpenRLHFRoute

log = logging.getLogger(__name__)

# Groups in a row without a valid judgement, after which the server is not ready until a trial
# succeeds. 3: chosen by us; one may be a group that no judge could judge.
FAILED_IN_A_ROW = 3
# Longest time for a trial, in seconds. 120: chosen by us, 4,096 tokens at 34 tokens/s.
TRIAL_S = 120.0
# Longest Retry-After, and the one before anything was judged, in seconds; chosen by us.
LONGEST_RETRY_S, FIRST_RETRY_S = 60, 1
# Sections that are read when the server starts and not again.
FIXED = ("plugins", "serve", "server", "store")


class BusyError(SPCTError):
    """No room for these groups now.

    Attributes:
        retry_after_s: When to ask again.
    """

    def __init__(self, message: str = "", retry_after_s: int = FIRST_RETRY_S) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DrainingError(SPCTError):
    """The server finishes what it has accepted, and ends."""


@dataclass
class _Bench:
    """One judge, and how many groups it has at hand."""

    model: RewardModel
    openrlhf: OpenRLHFRoute | None
    groups: int = 0
    retired: bool = False


class Desk:
    """Accepts, judges and answers groups.

    Args:
        path: The configuration file, read again by a reload; None = all defaults.
        overrides: As on the command line.

    Attributes:
        config: What the server was started with.
        draining: Accept nothing more.
        metrics: What is counted.

    Raises:
        ConfigError: The configuration cannot be used by a server.
    """

    def __init__(self, path: Path | None = None, overrides: Sequence[str] = ()) -> None:
        self._path, self._overrides = path, tuple(overrides)
        self.config = SPCTConfig.load(path, overrides)
        if self.config.server.url is not None:
            raise ConfigError(
                "server.url: a server judges itself; expected the judge's own configuration, "
                "found that of a client"
            )
        self._serve = self.config.serve
        self.answers = Answers(self.config.store.path, self._serve.keep_answers_s)
        self._turns = asyncio.Semaphore(self._serve.at_once)
        self._accepted: Counter[str] = Counter()
        self._judging = 0
        self._recent: deque[GroupVotes] = deque(maxlen=self.config.openrlhf.breaker_window)
        self._mean_s: float | None = None
        self._failed_in_a_row = FAILED_IN_A_ROW
        self._why_not_ready = "nothing was judged yet"
        self._reloading = asyncio.Lock()
        self.draining = False
        self._bench = self._build(self.config)
        self.metrics = Metrics(
            lambda: self._accepted.total() - self._judging,
            lambda: self._judging,
            lambda: float(self.is_ready),
            lambda: float(self._tripped()),
        )

    @property
    def model(self) -> RewardModel:
        """What judges now."""
        return self._bench.model

    @property
    def version(self) -> str:
        """What judges now, as stamped on rewards."""
        return self._bench.model.version

    @property
    def is_ready(self) -> bool:
        """Whether a real judgement succeeded, and the last ones did not all fail."""
        return not self.draining and self._failed_in_a_row < FAILED_IN_A_ROW

    @property
    def why_not_ready(self) -> str:
        """What is wrong, for people."""
        return "draining" if self.draining else self._why_not_ready

    @property
    def is_idle(self) -> bool:
        """Whether all accepted groups are finished."""
        return not self._accepted.total()

    async def rewards(
        self, asked: RewardsRequest, tasks: Sequence[JudgeTask], request_id: str
    ) -> bytes:
        """Judge the groups of a request.

        Args:
            asked: The request.
            tasks: Its groups, read.
            request_id: Its id, or the one made for it.

        Returns:
            The answer, as JSON.

        Raises:
            SPCTError: There is none.
        """
        deadline_s = asked.deadline_s
        arrived = asyncio.get_running_loop().time()
        deadline = None if deadline_s is None else arrived + deadline_s
        bench = self._accept(asked.run, len(tasks))
        model = bench.model.measuring() if asked.fresh else bench.model
        try:
            judged = await gather_or_cancel([self._reward(model, task, deadline) for task in tasks])
        finally:
            await self._release(bench, asked.run, len(tasks))
        groups = [
            GroupResponse.of(group.id, votes, reward, whole=asked.judgements)
            for group, (votes, reward) in zip(asked.groups, judged, strict=True)
        ]
        return RewardsResponse(request_id=request_id, groups=groups).model_dump_json().encode()

    async def openrlhf(self, query: str, prompt: str, label: Any) -> bytes:
        """Judge one completion of OpenRLHF's wire, alone.

        The same completion asked for again shares the judgement: that client sends no request id,
        and asks again after 180 s.

        Raises:
            SPCTError: There is no reward.
        """
        asked = json.dumps([self.version, query, prompt, label], sort_keys=True).encode()
        digest = hashlib.sha256(asked).digest()

        async def work() -> bytes:
            bench = self._accept("", 1)
            try:
                return await self._openrlhf(bench, query, prompt, label)
            finally:
                await self._release(bench, "", 1)

        return await self.answers.once(
            f"openrlhf:{digest.hex()}", digest, work, is_kept=_is_whole, on_disk=False
        )

    def check_openrlhf(self) -> None:
        """Tell whether OpenRLHF's wire is spoken here.

        Raises:
            ConfigError: The configuration does not say enough for it.
        """
        if self._bench.openrlhf is None:
            raise _no_openrlhf()

    async def reload(self) -> tuple[str, str]:
        """Read the file again and let its judge take over, if it can judge.

        Returns:
            The versions now and before.

        Raises:
            ConfigError: The file cannot be used, or asks for what needs a restart.
            RewardError: The new judge does not judge; the old one stays.
        """
        async with self._reloading:
            config = self._read_again()
            bench = await asyncio.to_thread(self._build, config)
            problem = await self._trial(bench)
            if problem:
                await bench.model.aclose()
                raise RewardError(f"the old judge stays, as the new one fails: {problem}")
            old, self._bench = self._bench, bench
            old.retired = True
            before = old.model.version
            log.info("reloaded", extra={"spct": {"version": self.version, "before": before}})
            await self._close_if_done(old)
            return self.version, before

    async def keep_trying(self) -> None:
        """Judge a trial group now and then while the server is not ready."""
        while True:
            if not self.is_ready and not self.draining:
                await self._try()
            await asyncio.sleep(self._serve.probe_s)

    async def aclose(self) -> None:
        """Give back connections, memory and files."""
        self.answers.close()
        await self._bench.model.aclose()

    def _accept(self, run: str, groups: int) -> _Bench:
        """Take groups in, or refuse them at once.

        Raises:
            BusyError: There is no room.
            DrainingError: There never will be.
        """
        if self.draining:
            raise DrainingError("the server is ending and accepts nothing more")
        room = self._serve.at_once + self._serve.waiting
        if self._accepted.total() + groups > room:
            found = f"{self._accepted.total()} groups are in work, room is for {room}"
            raise BusyError(f"{found}; serve.waiting", self._retry_after_s())
        if self._accepted[run] + groups > self._serve.per_run:
            found = f"run {run!r} has {self._accepted[run]} groups in work of {self._serve.per_run}"
            raise BusyError(f"{found}; serve.per_run", self._retry_after_s())
        self._accepted[run] += groups
        self._bench.groups += groups
        return self._bench

    async def _release(self, bench: _Bench, run: str, groups: int) -> None:
        self._accepted[run] -= groups
        if not self._accepted[run]:
            del self._accepted[run]
        bench.groups -= groups
        await self._close_if_done(bench)

    async def _close_if_done(self, bench: _Bench) -> None:
        if bench.retired and not bench.groups:
            await bench.model.aclose()

    async def _reward(
        self, model: RewardModel, task: JudgeTask, deadline: float | None
    ) -> tuple[GroupVotes, GroupReward]:
        # A server has no run to stop.
        policy = model.config.reward.on_failure
        shaping = model.under("abstain") if policy == "stop" else model
        votes = await self._vote(model, task, deadline)
        rule_sums = await model.rule_sums(task_keywords([task]), len(task.completions))
        [reward] = shaping.shape([votes], rule_sums)
        model.trace(task, votes, reward)
        return votes, reward

    async def _vote(
        self, model: RewardModel, task: JudgeTask, deadline: float | None = None
    ) -> GroupVotes:
        """Judge one group when its turn comes, and learn from it how the judge is."""
        async with self._turn(deadline):
            left = None if deadline is None else deadline - asyncio.get_running_loop().time()
            [votes] = await model.vote([task], left)
        self._judged(votes, asked_less=deadline is not None)
        return votes

    async def _openrlhf(self, bench: _Bench, query: str, prompt: str, label: Any) -> bytes:
        if bench.openrlhf is None:
            raise _no_openrlhf()
        result = await bench.openrlhf.score(query, prompt, label)
        # Checked to be finite; the app puts the results of a request together.
        OpenRLHFResponse.of([result])
        return json.dumps(result).encode()

    @contextlib.asynccontextmanager
    async def _turn(self, deadline: float | None) -> AsyncGenerator[None]:
        """Wait for a group's turn, but not past its deadline: its votes may lie in the store."""
        has_turn = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                has_turn = await self._turns.acquire()
        self._judging += 1
        try:
            yield
        finally:
            self._judging -= 1
            if has_turn:
                self._turns.release()

    def _judged(self, votes: GroupVotes, *, asked_less: bool) -> None:
        """Learn from a group how the judge is."""
        self.metrics.count_group(votes)
        self._recent.append(votes)
        self._mean_s = (
            votes.seconds if self._mean_s is None else (0.9 * self._mean_s + 0.1 * votes.seconds)
        )
        kinds = set(votes.failures)
        if votes.counted:
            self._note("")
        elif not (kinds <= {"too_long"} or (asked_less and kinds <= {"too_long", "deadline"})):
            # Neither a group too long for the context nor one in a hurry tells of the judge.
            self._note(_why(votes))

    def _build(self, config: SPCTConfig) -> _Bench:
        model = RewardModel(config)
        if config.openrlhf.tokenizer is None:
            return _Bench(model, None)
        # Brings the policy's tokenizer, so imported only where it is wanted.
        from spct_plugin.server.openrlhf import OpenRLHFRoute

        return _Bench(model, OpenRLHFRoute(model, self._vote))

    def _note(self, problem: str) -> None:
        self._failed_in_a_row = self._failed_in_a_row + 1 if problem else 0
        self._why_not_ready = problem

    async def _try(self) -> None:
        """Find out whether the judge judges, and say so."""
        bench = self._bench
        bench.groups += 1
        try:
            problem = await self._trial(bench)
        finally:
            bench.groups -= 1
            await self._close_if_done(bench)
        if bench.retired:
            return
        self._note(problem)
        if problem:
            log.warning("not ready: %s", problem)
        else:
            log.info("ready", extra={"spct": {"version": self.version}})

    async def _trial(self, bench: _Bench) -> str:
        """Judge a small group that nobody has judged; give what went wrong."""
        # Words that the bundled toy judge knows, too; the number keeps the store out of it.
        number = secrets.randbelow(10**6)
        task = JudgeTask(
            f"Write a note to Anna about the park. Use the number {number}.",
            [f"Dear Anna, I like the park. {number}.", "I like tea."],
        )
        try:
            [votes] = await bench.model.vote([task], TRIAL_S)
        # Boundary, the server's task root: an engine of a plugin may raise anything, and the
        # server must go on trying.
        except Exception as error:
            log.exception("a trial judgement failed")
            return f"{type(error).__name__}: {error}"
        return "" if votes.counted else _why(votes)

    def _tripped(self) -> bool:
        try:
            self._bench.model.check_step(self._recent)
        except RewardError:
            return True
        return False

    def _retry_after_s(self) -> int:
        """Guess when there is room: when about one group's time has passed."""
        if self._mean_s is None:
            return FIRST_RETRY_S
        return min(LONGEST_RETRY_S, max(FIRST_RETRY_S, math.ceil(self._mean_s)))

    def _read_again(self) -> SPCTConfig:
        """Read the file, but load no code that was not loaded at the start.

        Raises:
            ConfigError: It asks for that, or for what needs a restart.
        """
        data = read_file(self._path) if self._path is not None else {}
        for setting in self._overrides:
            override(data, setting)
        home = self._path.parent if self._path is not None else Path()
        plugins: Any = data.get("plugins") or []
        named = [str(home / str(file)) for file in plugins] if is_list(plugins) else None
        if named != [str(file) for file in self.config.plugins]:
            raise _restart("plugins")
        config = SPCTConfig.load(self._path, self._overrides)
        for section in FIXED:
            if getattr(config, section) != getattr(self.config, section):
                raise _restart(section)
        if _rules(config) - _rules(self.config):
            raise _restart("reward.rewards")
        return config


def _rules(config: SPCTConfig) -> set[str]:
    return {entry.path for entry in config.reward.rewards if isinstance(entry, RuleReward)}


def _restart(section: str) -> ConfigError:
    return ConfigError(f"{section}: changed, which needs a restart: a reload loads no new code")


def _no_openrlhf() -> ConfigError:
    return ConfigError(
        "openrlhf.tokenizer: expected the policy's tokenizer, a folder or a hub id, as this wire "
        "carries only texts; set it, with openrlhf.fallback, and start again"
    )


def _why(votes: GroupVotes) -> str:
    """Say what a group without a valid judgement failed of."""
    kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(votes.failures.items()))
    detail = next((j.detail for j in votes.judgements if j.detail), "")
    return f"{len(votes.judgements)} judgements failed ({kinds}){': ' if detail else ''}{detail}"


def _is_whole(body: bytes) -> bool:
    """Tell whether a result of OpenRLHF's wire lost nothing to infrastructure."""
    return not json.loads(body)["extra_logs"].get("spct_lost_votes")
