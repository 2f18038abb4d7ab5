"""What is judged, when, and by whom: the one place of the server that knows a judge.

Groups are accepted or refused at once; accepted ones wait for their turn, are judged and finished,
whatever becomes of who asked. A reload changes the judge between groups, never inside one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spct_plugin.config import SPCTConfig, plugin_files
from spct_plugin.config_file import read_settings
from spct_plugin.errors import ConfigError, RewardError, SPCTError
from spct_plugin.loop import gather_or_cancel
from spct_plugin.plugins import load_plugins
from spct_plugin.reward_model import RewardModel
from spct_plugin.rules import task_keywords
from spct_plugin.sections import RuleReward
from spct_plugin.server.answers import Answers
from spct_plugin.server.metrics import Metrics
from spct_plugin.server.openrlhf_wire import OpenRLHFResponse
from spct_plugin.server.readiness import Readiness, try_judge
from spct_plugin.server.room import Room
from spct_plugin.server.turns import Turns
from spct_plugin.server.wire import GroupResponse, RewardsRequest, RewardsResponse
from spct_plugin.store import Store
from spct_plugin.types import GroupReward, JudgeTask
from spct_plugin.voter import GroupVotes

if TYPE_CHECKING:
    from spct_plugin.server.openrlhf import OpenRLHFRoute

log = logging.getLogger(__name__)

# Sections that are read when the server starts and not again; `plugins` is another.
FIXED = ("serve", "server", "store")


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
        if self.config.probes.every is not None:
            raise ConfigError(
                "probes.every: the trainer's side measures, through `server:`; leave `probes` out "
                "of the server's own file"
            )
        self._serve = self.config.serve
        self.answers = Answers(self.config.store.path, self._serve.keep_answers_s)
        self._turns = Turns(self._serve.at_once)
        self._room = Room(self._serve)
        self._readiness = Readiness()
        self._recent: deque[GroupVotes] = deque(maxlen=self.config.openrlhf.breaker_window)
        self._reloading = asyncio.Lock()
        self.draining = False
        # One for all judges that a reload brings: what one keeps, the next finds.
        kept = self.config.store.path
        self._store = Store(kept) if kept is not None else None
        self._bench = self._build(self.config)
        self.metrics = Metrics(
            lambda: self._room.groups - self._turns.judging,
            lambda: self._turns.judging,
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
        return not self.draining and self._readiness.is_ready

    @property
    def why_not_ready(self) -> str:
        """What is wrong, for people."""
        return "draining" if self.draining else self._readiness.why_not

    @property
    def unfinished(self) -> int:
        """Accepted groups that are not finished."""
        return self._room.groups

    @property
    def is_idle(self) -> bool:
        """Whether all accepted groups are finished."""
        return not self.unfinished

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
        arrived = asyncio.get_running_loop().time()
        deadline = None if asked.deadline_s is None else arrived + asked.deadline_s
        bench = self._accept(asked.run, len(tasks))
        model = bench.model.measuring() if asked.fresh else bench.model
        try:
            judged = await gather_or_cancel(
                [self._reward(model, task, deadline, asked.run) for task in tasks]
            )
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
            f"openrlhf/{digest.hex()}", digest, work, is_kept=_is_whole, on_disk=False
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
            problem = await try_judge(bench.model)
            if problem:
                await bench.model.aclose()
                raise RewardError(f"the old judge stays, as the new one fails: {problem}")
            old, self._bench = self._bench, bench
            old.retired = True
            # What was learnt of the old judge says nothing of this one, which has just judged.
            self._readiness.note("")
            self._recent.clear()
            before = old.model.version
            log.info("reloaded", extra={"spct": {"version": self.version, "before": before}})
            await self._close_if_done(old)
            return self.version, before

    async def keep_trying(self) -> None:
        """Judge a trial group now and then while the server is not ready."""
        if self.config.is_bundled:
            log.warning("the bundled judge is a toy that knows only its own toy world")
        while True:
            if not self.is_ready and not self.draining:
                await self._try()
            await asyncio.sleep(self._serve.probe_s)

    async def aclose(self) -> None:
        """Give back connections, memory and files."""
        self.answers.close()
        await self._bench.model.aclose()
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    def _accept(self, run: str, groups: int) -> _Bench:
        """Take groups in, or refuse them at once.

        Raises:
            BusyError: There is no room.
            TaskError: There never will be room for so many.
            DrainingError: Nothing more is accepted.
        """
        if self.draining:
            raise DrainingError("the server is ending and accepts nothing more")
        self._room.take(run, groups)
        self._bench.groups += groups
        return self._bench

    async def _release(self, bench: _Bench, run: str, groups: int) -> None:
        self._room.give_back(run, groups)
        bench.groups -= groups
        await self._close_if_done(bench)

    async def _close_if_done(self, bench: _Bench) -> None:
        if bench.retired and not bench.groups:
            await bench.model.aclose()

    async def _reward(
        self, model: RewardModel, task: JudgeTask, deadline: float | None, run: str
    ) -> tuple[GroupVotes, GroupReward]:
        # A server has no run to stop.
        policy = model.config.reward.on_failure
        shaping = model.under("abstain") if policy == "stop" else model
        votes = await self._vote(model, task, deadline, run)
        rule_sums = await model.rule_sums(task_keywords([task]), len(task.completions))
        [reward] = shaping.shape([votes], rule_sums)
        model.trace(task, votes, reward)
        return votes, reward

    async def _vote(
        self, model: RewardModel, task: JudgeTask, deadline: float | None = None, run: str = ""
    ) -> GroupVotes:
        """Judge one group when its turn comes, and learn from it how the judge is."""
        loop = asyncio.get_running_loop()
        own_s = model.config.vote.deadline_s
        # Waiting for the turn counts.
        ends = [deadline, None if own_s is None else loop.time() + own_s]
        end = min((end for end in ends if end is not None), default=None)
        async with self._turns.turn(run, end):
            [votes] = await model.vote([task], None if end is None else end - loop.time())
        self._judged(votes, in_a_hurry=deadline is not None)
        return votes

    async def _openrlhf(self, bench: _Bench, query: str, prompt: str, label: Any) -> bytes:
        if bench.openrlhf is None:
            raise _no_openrlhf()
        scored = await bench.openrlhf.score(query, prompt, label)
        result = {**scored, "version": bench.model.version}
        # Checked to be finite; the app puts the results of a request together.
        OpenRLHFResponse.of([result])
        return json.dumps(result).encode()

    def _judged(self, votes: GroupVotes, *, in_a_hurry: bool) -> None:
        """Learn from a group how the judge is."""
        self.metrics.count_group(votes)
        self._room.learn(votes.seconds)
        if votes.version != self.version:
            # The old judge's last groups say nothing of the new one.
            return
        self._recent.append(votes)
        self._readiness.note_group(votes, in_a_hurry=in_a_hurry)

    def _build(self, config: SPCTConfig) -> _Bench:
        model = RewardModel(config, store=self._store)
        if config.openrlhf.tokenizer is None:
            return _Bench(model, None)
        # Brings the policy's tokenizer, so imported only where it is wanted.
        from spct_plugin.server.openrlhf import OpenRLHFRoute

        return _Bench(model, OpenRLHFRoute(model, self._vote))

    async def _try(self) -> None:
        """Find out whether the judge judges, and say so."""
        bench = self._bench
        bench.groups += 1
        try:
            problem = await try_judge(bench.model)
        finally:
            bench.groups -= 1
            await self._close_if_done(bench)
        if bench.retired or self.draining:
            return
        self._readiness.note(problem)
        if problem:
            log.warning("not ready: %s", problem)
        else:
            log.info("ready", extra={"spct": {"version": self.version}})

    def _tripped(self) -> bool:
        try:
            self._bench.model.check_step(self._recent)
        except RewardError:
            return True
        return False

    def _read_again(self) -> SPCTConfig:
        """Read the file, but load no code that was not loaded at the start.

        Raises:
            ConfigError: It asks for that, or for what needs a restart.
        """
        data = read_settings(self._path, self._overrides)
        # Before anything else is believed: kinds of engines are classes of plugins.
        if plugin_files(data, self._path) != self.config.plugins:
            raise _restart("plugins")
        config = SPCTConfig.of(data, self._path, load_plugins(self.config.plugins))
        for section in FIXED:
            if getattr(config, section) != getattr(self.config, section):
                raise ConfigError(
                    f"{section}: changed; it is read at the start only, so restart the server"
                )
        if _rules(config) - _rules(self.config):
            raise _restart("reward.rewards")
        for section in ("engine", "meta_rm"):
            wanted = getattr(config, section)
            if getattr(wanted, "trust_remote_code", False) and wanted != getattr(
                self.config, section
            ):
                raise _restart(section)
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


def _is_whole(body: bytes) -> bool:
    """Tell whether a result of OpenRLHF's wire lost nothing to infrastructure."""
    return not json.loads(body)["extra_logs"].get("spct_lost_votes")
