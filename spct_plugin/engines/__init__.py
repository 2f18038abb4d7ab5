"""Engines: what turns a judge's prompt into sampled answers. The one seam that tests replace.

An engine answers a `Request` with `n` choices or raises `EngineError`; it knows nothing of scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from spct_plugin.config_file import Section


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus in (0, 1]; 1 is off.
        max_tokens: The most tokens of one answer.
    """

    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to answer once per vote.

    Attributes:
        prompt: The text of the single user message.
        votes: Indices of the votes wanted, one choice each.
        sampling: How to draw them.
        seed: For engines that can draw reproducibly; differs between the requests of a group.
        task: Digest of the task that is judged, for engines that replay.
        order: Completions in the order the prompt shows them, likewise.
    """

    prompt: str
    votes: tuple[int, ...]
    sampling: Sampling
    seed: int
    task: bytes = b""
    order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer.

    Attributes:
        text: What was written.
        finish_reason: "stop", "length", "content_filter", or what else the server says.
        tokens: Tokens written; 0 where the engine does not count.
    """

    text: str
    finish_reason: str | None = "stop"
    tokens: int = 0


class Engine(Protocol):
    """What the judge needs of an engine.

    Attributes:
        identity: Which weights answer: model and revision, never an address. Part of every vote's
            key and of every reward's version.
        context: Tokens of prompt and answer it can hold; None = not known, then all seems to fit.
    """

    @property
    def identity(self) -> str: ...  # noqa: D102
    @property
    def context(self) -> int | None: ...  # noqa: D102

    async def generate(self, request: Request) -> list[Choice]:
        """Give at least one choice, at most one per vote; the judge asks again for missing ones.

        Raises:
            EngineError: No answer; its `failure` is what the judgements are recorded as.
        """
        ...

    def fits(self, prompt: str, max_tokens: int) -> bool:
        """Tell whether the prompt and so many tokens of answer fit the context."""
        ...

    async def aclose(self) -> None:
        """Give back connections and memory held for the running event loop."""
        ...


class EngineConfig(Section):
    """An engine's section of the configuration: its `kind`, its own keys, and how to build it."""

    kind: str
    """Which engine; the other keys of this section belong to it."""

    @property
    def native_template(self) -> str:
        """The template used when the configuration names none."""
        return "default"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Keys that say where and how fast the engine runs, and change no reward."""
        return ()

    def build(self) -> Engine:
        """Make the engine. Imports what it needs only now."""
        raise NotImplementedError(f"engine {self.kind!r} does not say how it is built")
