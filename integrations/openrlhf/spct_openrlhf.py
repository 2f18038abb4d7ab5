"""What both OpenRLHF adapters share: the configuration, the label, rewards in OpenRLHF's form.

The adapters are files that OpenRLHF loads by their path:

    --train.agent_func_path "$(spct path openrlhf-agent)"      # whole groups; preferred
    --reward.remote_url "$(spct path openrlhf-reward)"         # each completion alone

OpenRLHF ends the run when a reward is missing and skips the update when one is NaN, so neither
ever gets there: what has no reward gets what the configuration names.
Source: OpenRLHF 0.11.2, utils/agent.py and trainer/ppo_utils/samples_generator.py.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from spct_openrlhf_prompts import ChatReader
from spct_plugin import ConfigError, JudgeTask, RewardModel, SPCTConfig, TaskError
from spct_plugin.failures import INFRASTRUCTURE_FAILURES, JUDGE_FAILURES
from spct_plugin.plugins import load_plugins
from spct_plugin.probes import Probes
from spct_plugin.rules import task_keywords
from spct_plugin.shaping import apply_on_failure
from spct_plugin.training import outcome
from spct_plugin.types import GroupReward, is_mapping
from spct_plugin.voter import GroupVotes

__all__ = ["Completion", "GroupScorer", "Result", "load_config", "with_fallback"]

log = logging.getLogger(__name__)

Result = dict[str, Any]
"""What OpenRLHF wants for one completion: `rewards`, `scores` in [0, 1], and `extra_logs`, numbers
under the same names for every completion of a run."""

# The keys of a label that asks for the outcome reward, and no others.
OUTCOME = {"label", "n", "template"}

# What the tests run against; flags and call shapes change between minor versions.
TESTED = ">=0.11.2,<0.12"


@dataclass(frozen=True)
class Completion:
    """One completion of a prompt.

    Attributes:
        text: Without special tokens.
        ids: Its tokens; empty where they are not known.
        is_whole: It ended by itself, not at the longest length.
    """

    text: str
    ids: Sequence[int] = ()
    is_whole: bool = True


def load_config() -> SPCTConfig:
    """Read the file that SPCT_CONFIG names, and settle what OpenRLHF cannot do.

    Raises:
        ConfigError: There is none, or it leaves completions without a reward.
    """
    _check_version()
    path = os.environ.get("SPCT_CONFIG")
    if not path:
        raise ConfigError(
            "expected the environment variable SPCT_CONFIG to name the configuration, found none "
            "in this process; set it before Ray starts, or in ray job submit --runtime-env-json "
            '\'{"env_vars": {"SPCT_CONFIG": "/shared/judge.yaml"}}\''
        )
    return with_fallback(SPCTConfig.load(path))


def with_fallback(config: SPCTConfig) -> SPCTConfig:
    """Put the fallback in the place of `abstain`.

    Raises:
        ConfigError: There is none.
    """
    if config.reward.on_failure != "abstain":
        return config
    if config.openrlhf.fallback is None:
        raise ConfigError(
            "reward.on_failure: 'abstain' leaves completions without a reward, which ends an "
            "OpenRLHF run; set openrlhf.fallback to group_mean or drop_group"
        )
    reward = config.reward.model_copy(update={"on_failure": config.openrlhf.fallback})
    return config.model_copy(update={"reward": reward})


class GroupScorer:
    """Rewards for the completions of one prompt, in OpenRLHF's form.

    Judges them, or, where the label is that of a judge's training, pays the outcome reward.

    Args:
        config: As `load_config` gives it.
        model: Judge with this instead of what the configuration names.
    """

    def __init__(self, config: SPCTConfig, model: RewardModel | None = None) -> None:
        self._config = config
        self._model = model
        self._recent: deque[GroupVotes] = deque(maxlen=config.openrlhf.breaker_window)
        registry = load_plugins(config.plugins)
        self._template, _ = config.template_and_vote(registry)
        self._templates = registry.templates
        self._reader: ChatReader | None = None
        self._probes = None if config.probes.every is None else Probes(config)
        self._measuring: asyncio.Future[dict[str, float]] | None = None

    async def score(
        self, prompt: str, label: Any, completions: Sequence[Completion], tokenizer: Any
    ) -> list[Result]:
        """Reward the completions of one prompt.

        Args:
            prompt: As OpenRLHF hands it over.
            label: Likewise: "" or None; a reference; or {"messages", "reference", "principles",
                ...}; or {"label", "n", "template"}, which asks for the outcome reward.
            completions: In order.
            tokenizer: The policy's.

        Returns:
            One result per completion, in order.

        Raises:
            RewardError: The breaker, `on_failure: stop` or `probes.stop`: the run must end.
            TaskError: The prompt cannot be read.
        """
        if is_mapping(label) and {k for k, v in label.items() if v is not None} == OUTCOME:
            return [self._outcome(completion, label) for completion in completions]
        task = self._task(prompt, label, completions, tokenizer)
        # Built when the first group is to be judged: the outcome reward needs no judge.
        model = self._model = self._model or RewardModel(self._config)
        [votes] = await model.vote([task])
        _warn(votes)
        keywords = task_keywords([task]) | {"completion_ids": [list(c.ids) for c in completions]}
        rule_sums = await model.rule_sums(keywords, len(completions))
        [reward] = model.shape([votes], rule_sums)
        model.trace(task, votes, reward)
        self._recent.append(votes)
        if len(self._recent) == self._recent.maxlen:
            model.check_step(self._recent)
        probed = await self._probe(model)
        scores = self._scores(reward.means, model.scale)
        return _results(votes, reward, model.middle, scores, probed)

    def reader(self, tokenizer: Any) -> ChatReader:
        """Give the reader of what a tokenizer rendered; it stays the same in a run."""
        if self._reader is None:
            self._reader = ChatReader(tokenizer)
        return self._reader

    async def _probe(self, model: RewardModel) -> dict[str, float]:
        """Judge the probes when they are due, and give what they found last.

        Groups that come meanwhile wait, so that none is answered without the first measurement.
        """
        if self._probes is None:
            return {}
        if self._probes.are_due():
            self._measuring = asyncio.ensure_future(self._probes.measure(model))
        if self._measuring is not None:
            await asyncio.shield(self._measuring)
        latest = self._probes.latest
        return {f"spct_{name.replace('/', '_')}": value for name, value in latest.items()}

    def _task(
        self, prompt: str, label: Any, completions: Sequence[Completion], tokenizer: Any
    ) -> JudgeTask:
        columns = dict(label) if is_mapping(label) else {"reference": label}
        turns: Any = columns.pop("messages", None)
        if turns is None:
            is_chat = self._config.openrlhf.prompts == "chat"
            turns = self.reader(tokenizer).messages(prompt) if is_chat else prompt
        return JudgeTask(
            turns,
            [completion.text for completion in completions],
            reference=_reference(columns.pop("reference", None)),
            principles=columns.pop("principles", None) or (),
            metadata={**columns, "label": label},
        )

    def _scores(self, means: Sequence[float | None], scale: tuple[int, int]) -> list[float]:
        """Map a group's voted scores to what dynamic filtering looks at, each in [0, 1]."""
        low, high = scale
        unit = [None if mean is None else (mean - low) / (high - low) for mean in means]
        known = [value for value in unit if value is not None]
        if self._config.openrlhf.scores == "spread":
            return [statistics.pstdev(known) if known else 0.0] * len(means)
        filled = apply_on_failure(unit, "group_mean")
        return [0.5 if value is None else value for value in filled]

    def _outcome(self, completion: Completion, label: Mapping[str, Any]) -> Result:
        """Pay one judgement of a judge in training (paper Eq. 11)."""
        template = self._templates.get(label.get("template") or "", self._template)
        finish: Literal["stop", "length"] = "stop" if completion.is_whole else "length"
        judgement = template.parse(completion.text, label["n"], finish)
        reward = outcome.outcome_reward(judgement.scores, label["label"])
        right = float(reward == outcome.RIGHT)
        return {
            "rewards": reward,
            # Their mean is the share of right ones in a group: all or none of them tells nothing.
            "scores": right,
            "extra_logs": {
                "spct_correct": right,
                "spct_parsed": float(judgement.scores is not None),
                "spct_critique_length": float(len(judgement.critique)),
            },
        }


def _warn(votes: GroupVotes) -> None:
    """Say why completions get a made-up reward; the numbers in `extra_logs` only count them."""
    means = votes.tally.means
    unknown = sum(mean is None for mean in means)
    if unknown:
        details = {j.failure: j.detail for j in votes.judgements if j.failure is not None}
        said = "; ".join(f"{kind}: {detail}" for kind, detail in sorted(details.items()))
        log.warning("no valid judgement for %d of %d completions: %s", unknown, len(means), said)


def _results(
    votes: GroupVotes,
    reward: GroupReward,
    middle: float,
    scores: Sequence[float],
    probed: Mapping[str, float],
) -> list[Result]:
    """Put a group's rewards into OpenRLHF's form; `middle` where nothing of the group is known."""
    failures = votes.failures
    taken = max(1, len(votes.judgements))
    group = {
        "spct_k_used": float(votes.k_used),
        "spct_lost_votes": sum(failures[kind] for kind in INFRASTRUCTURE_FAILURES) / taken,
        "spct_unusable_votes": sum(failures[kind] for kind in JUDGE_FAILURES) / taken,
        "spct_tokens": float(reward.tokens),
        "spct_seconds": votes.seconds,
        **probed,
    }
    return [
        {
            "rewards": middle if value is None else value,
            "scores": score,
            "extra_logs": {"spct_failed": float(mean is None), "spct_votes": count, **group},
        }
        for value, score, mean, count in zip(
            reward.rewards, scores, reward.means, map(float, reward.votes), strict=True
        )
    ]


def _reference(label: Any) -> str | None:
    """Read a label that is no mapping: a known good answer, or none."""
    if isinstance(label, list | tuple):
        raise TaskError(
            f"label: expected a text or {{'messages', 'reference', ...}}, found {label!r:.60}"
        )
    return None if label in ("", None) else str(label)


def _check_version() -> None:
    # OpenRLHF brings it.
    from packaging.specifiers import SpecifierSet

    try:
        found = importlib.metadata.version("openrlhf")
    except importlib.metadata.PackageNotFoundError:  # a clone on PYTHONPATH
        found = "0"
    if found not in SpecifierSet(TESTED):
        log.warning(
            "spct-plugin is tested with openrlhf%s, found %s: flags and rewards may have changed",
            TESTED,
            found,
        )
