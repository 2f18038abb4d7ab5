"""What crosses the network, both ways, checked at both ends: pydantic models, no web framework.

Unknown is null, never a number. Nothing is repaired: what does not fit is refused.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from spct_plugin.config_file import Section
from spct_plugin.failures import FAILURES, Failure
from spct_plugin.sections import RUN_NAME
from spct_plugin.templates import encodable
from spct_plugin.types import GroupReward, Judgement, JudgeTask, Principle, is_mapping
from spct_plugin.voter import GroupVotes
from spct_plugin.voting import Tally

T = TypeVar("T")
# The first error is enough: pydantic would make an object for each of a million, taking seconds.
Many = Annotated[list[T], Field(fail_fast=True)]
RequestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
Score = Annotated[float | None, Field(description="null = unknown")]
# Levels of a tool call, a part or a label. 100: chosen by us, far above what tools are called with,
# and far below Python's 1,000, which our own calls take from, too.
DEEPEST = 100


def new_request_id() -> str:
    """Make a request id that nobody has used."""
    return uuid.uuid4().hex


def shallow(value: T) -> T:
    """Give JSON back when all that recurses can read it.

    Raises:
        ValueError: It is nested too deeply.
    """
    level: list[Any] = [[value]]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if is_mapping(outer) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return value
    raise ValueError(f"expected at most {DEEPEST} levels of nesting, found more; flatten it")


def _encodable(text: str) -> str:
    if encodable(text) != text:
        raise ValueError("expected whole characters, found half of a surrogate pair")
    return text


def _known(failures: Any) -> Any:
    """Refuse unknown kinds at once; see `Wire`."""
    if is_mapping(failures):
        _no_other_keys(failures, FAILURES)
    return failures


def _no_other_keys(found: Mapping[str, Any], known: Collection[str]) -> None:
    for key in found:
        if key not in known:
            raise ValueError(f"expected no keys but {', '.join(known)}, found {key!r:.60}")


class Wire(BaseModel):
    """One JSON object."""

    # As strict as the configuration, and described in the same way.
    model_config = Section.model_config

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        """Refuse the first unknown key: pydantic would make an error of each of a million."""
        if is_mapping(data):
            _no_other_keys(data, cls.model_fields)
        return data


class MessageRequest(BaseModel):
    """One turn, in OpenAI's form; keys that are not listed are not looked at."""

    model_config = Section.model_config | ConfigDict(extra="ignore")

    role: str
    """"system", "user", "assistant", "tool", ..."""
    content: str | Annotated[Many[dict[str, Any]], AfterValidator(shallow)] | None = None
    """A text, or parts of type "text"; the judge reads nothing else."""
    name: str | None = None
    """Who speaks."""
    tool_calls: Annotated[Many[dict[str, Any]], AfterValidator(shallow)] | None = None
    """Calls of this turn."""


class GroupRequest(Wire):
    """A prompt and the completions to judge for it, together."""

    id: Annotated[str, AfterValidator(_encodable)] | None = Field(default=None, max_length=256)
    """Comes back with the answer."""
    prompt: str | Many[MessageRequest]
    """What the policy saw."""
    completions: Many[str | Many[MessageRequest]] = Field(min_length=1)
    """What it answered."""
    reference: str | None = None
    """A known good answer."""
    principles: Many[str] = []
    """Criteria given to the judge; empty = it writes its own."""

    def task(self) -> JudgeTask:
        """Give what is to be judged.

        Raises:
            TaskError: It cannot be judged.
        """
        group = self.model_dump(exclude_none=True)
        return JudgeTask(
            group["prompt"],
            group["completions"],
            reference=self.reference,
            principles=self.principles,
        )


class RewardsRequest(Wire):
    """Groups to judge."""

    groups: Many[GroupRequest] = Field(min_length=1)
    """Judged apart from each other."""
    request_id: RequestId | None = None
    """Asked again under the same id, the same groups get the same answer and are judged once."""
    run: Annotated[str, StringConstraints(pattern=RUN_NAME)] = ""
    """Whose share of the server this takes."""
    deadline_s: float | None = Field(default=None, gt=0)
    """Longest time from here to the answer; votes that are late are missing, never zero."""
    judgements: bool = False
    """Send the judgements too, with their texts."""
    fresh: bool = False
    """Judge past the server's store, and keep nothing there: to measure the judge as it is now."""

    def digest(self) -> bytes:
        """Identify what is asked; a retry may have less time left."""
        text = json.dumps(self.model_dump(exclude={"request_id", "deadline_s"}))
        return hashlib.sha256(text.encode()).digest()


class PrincipleResponse(Wire):
    """One criterion that the judge names."""

    text: str
    """Its name, and what it asks for."""
    weight: str | None
    """As it wrote it: "40%"; null = none."""


class JudgementResponse(Wire):
    """One sampled judgement."""

    vote: int = Field(ge=0)
    """The vote it belongs to."""
    indices: Many[int]
    """Which completions were judged, ascending."""
    order: Many[int]
    """The same in the order the judge saw them."""
    scores: Many[int] | None
    """One per index; null on failure."""
    failure: Failure | None
    """Why there are none."""
    detail: str
    """One line on the failure."""
    counted: bool
    """Valid, and kept by the meta RM."""
    meta_score: Score
    """The meta RM's number."""
    tokens: int = Field(ge=0)
    """Tokens the judge wrote."""
    seconds: float = Field(ge=0)
    """Wall time of its request; 0 from the store."""
    finish_reason: str | None
    """How the engine says it ended."""
    key: str
    """Its key in the server's store."""
    principles: Many[PrincipleResponse]
    """What the judge said it would judge by."""
    critique: str
    """The analysis."""
    text: str
    """The whole judgement."""

    @classmethod
    def of(cls, judgement: Judgement, *, counted: bool) -> Self:
        """Lay out a judgement."""
        return cls(
            vote=judgement.vote,
            indices=list(judgement.indices),
            order=list(judgement.order),
            scores=None if judgement.scores is None else list(judgement.scores),
            failure=judgement.failure,
            detail=encodable(judgement.detail),
            counted=counted,
            meta_score=judgement.meta_score,
            tokens=judgement.tokens,
            seconds=judgement.seconds,
            finish_reason=judgement.finish_reason and encodable(judgement.finish_reason),
            key=judgement.key,
            principles=[
                PrincipleResponse(text=encodable(p.text), weight=p.weight and encodable(p.weight))
                for p in judgement.principles
            ],
            critique=encodable(judgement.critique),
            text=encodable(judgement.text),
        )

    def judgement(self, version: str) -> Judgement:
        """Read it back, without the key, which opens the server's store only."""
        return Judgement(
            tuple(self.indices),
            tuple(self.order),
            None if self.scores is None else tuple(self.scores),
            failure=self.failure,
            principles=tuple(Principle(p.text, p.weight) for p in self.principles),
            critique=self.critique,
            text=self.text,
            finish_reason=self.finish_reason,
            detail=self.detail,
            meta_score=self.meta_score,
            tokens=self.tokens,
            seconds=self.seconds,
            vote=self.vote,
            version=version,
        )


class GroupResponse(Wire):
    """What a group gets; lists are in the order of its completions."""

    id: str | None
    """The group's, as it came."""
    rewards: Many[Score]
    """By the server's own `reward` section; null where it abstains (or would stop a run)."""
    means: Many[Score]
    """Mean score over the votes that counted."""
    sums: Many[Score]
    """Mean x k."""
    votes: Many[Annotated[int, Field(ge=0)]]
    """How many votes counted for each completion."""
    spread: Many[Annotated[float, Field(ge=0)] | None]
    """Standard deviation of its scores over those votes."""
    k: int = Field(ge=1)
    """Votes asked for."""
    k_used: int = Field(ge=0)
    """Votes really asked for, failed ones too: fewer when adaptive stopping found them enough or
    lost all of a wave, or when, at temperature 0, the same prompt would be asked twice."""
    failures: Annotated[dict[Failure, int], BeforeValidator(_known)]
    """Failed judgements by kind."""
    tokens: int = Field(ge=0)
    """Tokens the judge wrote."""
    seconds: float = Field(ge=0)
    """Wall time of judging."""
    scale: tuple[int, int]
    """Lowest and highest score."""
    version: str
    """What made it: engine, template, configuration, meta RM."""
    task: str
    """Digest of the task as it was judged."""
    judgements: Many[JudgementResponse] | None
    """When asked for: by vote, failed ones too."""

    @classmethod
    def of(cls, name: str | None, votes: GroupVotes, reward: GroupReward, *, whole: bool) -> Self:
        """Lay out a group; `whole` = with its judgements."""
        counted = {id(judgement) for judgement in votes.counted}
        judgements = [JudgementResponse.of(j, counted=id(j) in counted) for j in votes.judgements]
        return cls(
            id=name,
            rewards=list(reward.rewards),
            means=list(reward.means),
            sums=list(reward.sums),
            votes=list(reward.votes),
            spread=list(reward.spread),
            k=reward.k,
            k_used=reward.k_used,
            failures=dict(reward.failures),
            tokens=reward.tokens,
            seconds=reward.seconds,
            scale=votes.scale,
            version=reward.version,
            task=reward.task,
            judgements=judgements if whole else None,
        )

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        """Refuse what no judging can give."""
        low, high = self.scale
        n = len(self.means)
        lengths = {len(column) for column in (self.rewards, self.sums, self.votes, self.spread)}
        if lengths != {n}:
            raise ValueError(f"expected {n} of each, found {sorted(lengths)}")
        if not all(mean is None or low <= mean <= high for mean in self.means):
            raise ValueError(f"expected means in {low}..{high}, found {self.means}")
        if [mean is None for mean in self.means] != [votes == 0 for votes in self.votes]:
            raise ValueError(f"expected a mean wherever there are votes, found {self.means}")
        for judgement in self.judgements or ():
            _check_judgement(judgement, n, low, high)
        return self

    def group_votes(self) -> GroupVotes:
        """Read the votes back; judgements only where they were asked for."""
        pairs = [(j.judgement(self.version), j.counted) for j in self.judgements or ()]
        return GroupVotes(
            Tally(tuple(self.means), tuple(self.votes), tuple(self.spread)),
            tuple(judgement for judgement, counted in pairs if counted),
            tuple(judgement for judgement, _ in pairs),
            self.task,
            self.k,
            self.k_used,
            self.scale,
            self.seconds,
            self.version,
        )


class RewardsResponse(Wire):
    """The answer, groups in the order they were asked for."""

    request_id: str
    """As it came, or made by the server."""
    groups: Many[GroupResponse]
    """One for each that was asked for."""


class Problem(Wire):
    """Why there is no answer."""

    detail: str
    """Expected, found, remedy."""
    request_id: str | None = None
    """The request's, where it has one."""


class Health(Wire):
    """How the server is."""

    status: str
    """"ok", "ready", "not ready", "draining", "asleep" or "awake"."""
    detail: str = ""
    """Why it is not ready."""
    version: str = ""
    """What judges now."""


class Reloaded(Wire):
    """What judges after a reload, and what did before."""

    version: str
    """What judges now."""
    before: str
    """What judged before."""


def _check_judgement(judgement: JudgementResponse, n: int, low: int, high: int) -> None:
    indices, scores = judgement.indices, judgement.scores
    if sorted(judgement.order) != indices or not all(0 <= index < n for index in indices):
        raise ValueError(f"expected indices of {n} completions, found {indices}")
    if (scores is None) == (judgement.failure is None) or (judgement.counted and scores is None):
        raise ValueError(f"expected scores or a failure, found {scores} and {judgement.failure!r}")
    if scores is not None and len(scores) != len(indices):
        raise ValueError(f"expected {len(indices)} scores, found {len(scores)}")
    if scores is not None and not all(low <= score <= high for score in scores):
        raise ValueError(f"expected scores in {low}..{high}, found {scores}")
