"""The values that travel through the package: a task to judge, a judgement of it, a group's reward.

    task = JudgeTask(prompt="Name a prime.", completions=["7", "8"])

Everything is checked once, here, when it comes in; afterwards these are plain frozen values.
No image ever gets in: the judge reads text, so an image part is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from spct_plugin.errors import TaskError
from spct_plugin.failures import Failure


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: "system", "user", "assistant", "tool", or what the chat template of the policy knows.
        content: The text of the turn; may be empty for a turn that only calls tools.
        name: Who speaks, where the format says so (the tool's name in a tool turn).
        tool_calls: Each call as JSON text, in order.
    """

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[str, ...] = ()

    @classmethod
    def of(cls, value: Message | Mapping[str, Any]) -> Message:
        """Read one message in the OpenAI or TRL form.

        Raises:
            TaskError: `value` has no role, or a part that is not text.
        """
        if isinstance(value, Message):
            return value
        if not is_mapping(value) or not isinstance(value.get("role"), str):
            raise TaskError(
                f"expected a message {{'role': ..., 'content': ...}}, found {_shorten(value)}"
            )
        calls = value.get("tool_calls") or ()
        if not is_list(calls):
            raise TaskError(f"tool_calls: expected a list, found {_shorten(calls)}")
        return cls(
            role=value["role"],
            content=_text_of(value.get("content"), value["role"]),
            name=_optional_text(value.get("name"), "name"),
            tool_calls=tuple(json.dumps(call, sort_keys=True, default=str) for call in calls),
        )

    def as_dict(self) -> dict[str, Any]:
        """Give the message back as a plain mapping; `Message.of` reads it again."""
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            row["name"] = self.name
        if self.tool_calls:
            row["tool_calls"] = [json.loads(call) for call in self.tool_calls]
        return row


@dataclass(frozen=True, slots=True)
class Principle:
    """One criterion a completion is judged by.

    Attributes:
        text: The criterion.
        weight: The weight as the judge wrote it ("30%", "4"); text only, nothing is computed with
            it. None where none was written.
    """

    text: str
    weight: str | None = None

    def __str__(self) -> str:
        """Spell it as a judge reads it: with its weight in brackets."""
        return self.text if self.weight is None else f"{self.text} ({self.weight})"


@dataclass(frozen=True, slots=True, init=False)
class JudgeTask:
    """A prompt and the n >= 1 completions to judge for it.

    Attributes:
        prompt: The conversation so far; a string given becomes one user turn.
        completions: What the policy answered, n of them; each a text or the turns it consists of.
        reference: A known good answer that the judge may compare with, or None.
        principles: Criteria given to the judge (paper Eq. 8); empty: the judge writes its own.
        metadata: Anything else that belongs to the task; the judge never sees it.
    """

    prompt: tuple[Message, ...]
    completions: tuple[str | tuple[Message, ...], ...]
    reference: str | None = None
    principles: tuple[Principle, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)

    def __init__(
        self,
        prompt: str | Sequence[Message | Mapping[str, Any]],
        completions: Sequence[str | Sequence[Message | Mapping[str, Any]]],
        *,
        reference: str | None = None,
        principles: Sequence[Principle | str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Check and freeze the parts.

        Raises:
            TaskError: No prompt text, no completion, or a part that is not text.
        """
        turns = (Message("user", prompt),) if isinstance(prompt, str) else _turns(prompt, "prompt")
        if not any(turn.content.strip() or turn.tool_calls for turn in turns):
            raise TaskError("expected a prompt with text, found an empty one")
        if not is_list(completions) or not completions:
            raise TaskError(
                f"expected a list of at least 1 completion, found {_shorten(completions)}"
            )
        set_field = object.__setattr__
        set_field(self, "prompt", turns)
        set_field(self, "completions", tuple(_completion(c, i) for i, c in enumerate(completions)))
        set_field(self, "reference", _optional_text(reference, "reference"))
        if not is_list(principles):
            raise TaskError(f"principles: expected a list of texts, found {_shorten(principles)}")
        set_field(self, "principles", tuple(_principle(p) for p in principles))
        set_field(self, "metadata", dict(metadata or {}))

    def as_dict(self) -> dict[str, Any]:
        """Give what the judge may see as a plain mapping (no metadata)."""
        row: dict[str, Any] = {
            "prompt": [turn.as_dict() for turn in self.prompt],
            "completions": [
                c if isinstance(c, str) else [turn.as_dict() for turn in c]
                for c in self.completions
            ],
        }
        if self.reference is not None:
            row["reference"] = self.reference
        if self.principles:
            row["principles"] = [str(p) for p in self.principles]
        return row

    def digest(self) -> bytes:
        """Identify the task by content: 32 bytes, the same in every process and run."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True, slots=True)
class Judgement:
    """One sampled judgement: principles, critique and a score for every completion it saw.

    Attributes:
        indices: Which completions were judged, in the caller's numbering, ascending.
        order: The same numbers in the order the judge saw them.
        scores: One score per entry of `indices`, within the template's scale; None on failure.
        failure: Why there are no scores; None when there are.
        principles: What the judge said it would judge by; empty when not found in the text.
        critique: The analysis, without principles and scores; "" when not found.
        text: The judge's whole answer; "" when none came.
        finish_reason: How the engine says the answer ended; None when none came.
        detail: One line on the failure, for people; "" without one.
        meta_score: The meta RM's number for this judgement; None when none was asked.
        tokens: Tokens the judge wrote.
        seconds: Wall time of the request that brought it; 0.0 from the store.
        vote: Index of the vote this judgement belongs to, 0 <= vote < k.
        version: What made it: engine identity, template, configuration hash.
        key: Its key in the store, 64 hex digits; "" without a store.
    """

    indices: tuple[int, ...]
    order: tuple[int, ...]
    scores: tuple[int, ...] | None
    failure: Failure | None = None
    principles: tuple[Principle, ...] = ()
    critique: str = ""
    text: str = ""
    finish_reason: str | None = None
    detail: str = ""
    meta_score: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    vote: int = 0
    version: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class GroupReward:
    """What a group of n completions gets. All tuples have length n, in the caller's order.

    Attributes:
        rewards: What the trainer receives; None where `on_failure` abstains.
        means: Mean score over the votes that counted, in the template's scale; None without a vote.
        sums: Mean x k (paper Eq. 14 when all votes count); None without a vote.
        votes: How many votes counted for each completion.
        spread: Standard deviation (population) of each completion's scores over those votes.
        k: Votes asked for.
        k_used: Votes really taken, failed ones included.
        failures: Failed judgements by kind; kinds that did not occur are left out.
        tokens: Tokens the judge wrote for this group.
        seconds: Wall time from asking to voted.
        version: What made the reward: engine identity, template, configuration hash.
        task: Digest of the task as it was judged, 64 hex digits.
        judgements: All judgements by vote, failed ones too, when asked for; else None.
    """

    rewards: tuple[float | None, ...]
    means: tuple[float | None, ...]
    sums: tuple[float | None, ...]
    votes: tuple[int, ...]
    spread: tuple[float | None, ...]
    k: int
    k_used: int
    failures: Mapping[Failure, int]
    tokens: int
    seconds: float
    version: str
    task: str
    judgements: tuple[Judgement, ...] | None = None


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether an untyped value, as read from JSON or YAML, has keys."""
    return isinstance(value, Mapping)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Tell whether an untyped value is a sequence of things; a text is one thing."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _turns(value: object, where: str) -> tuple[Message, ...]:
    if not is_list(value):
        raise TaskError(f"{where}: expected a text or a list of messages, found {_shorten(value)}")
    try:
        return tuple(Message.of(turn) for turn in value)
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from None


def _completion(value: object, index: int) -> str | tuple[Message, ...]:
    return value if isinstance(value, str) else _turns(value, f"completion {index}")


def _principle(value: Principle | str) -> Principle:
    if isinstance(value, Principle):
        return value
    text = _optional_text(value, "principle")
    if not text or not text.strip():
        raise TaskError("principle: expected a text, found an empty one")
    return Principle(text)


def _optional_text(value: object, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TaskError(f"{where}: expected a text, found {_shorten(value)}")


def _text_of(content: object, role: str) -> str:
    """Join a message's text parts; None (a turn that only calls tools) is the empty text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not is_list(content):
        raise TaskError(f"expected text content in a {role!r} message, found {_shorten(content)}")
    return "".join(_text_of_part(part, role) for part in content)


def _text_of_part(part: object, role: str) -> str:
    kind = part.get("type") if is_mapping(part) else None
    if kind != "text" or not is_mapping(part) or not isinstance(part.get("text"), str):
        raise TaskError(
            f"expected text parts in a {role!r} message, found a part of type {kind!r}; "
            "the judge reads text only: leave the part out or describe it in words"
        )
    return part["text"]


def _shorten(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
