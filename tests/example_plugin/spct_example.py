"""An example plugin: an engine, a meta RM, a template, a vote, a source, attacks and a command.

    engine: {kind: keyword, word: please}
    template: {name: lines}
    vote: {how: median}
    meta_rm: {kind: short}

Once it is installed, `spct plugins` lists it and any configuration may use these names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Annotated, Literal

import typer

from spct_plugin import Judgement, JudgeTask, ParsedJudgement, hookimpl, parse_judgement
from spct_plugin.data.sources import Example, Row, Source, text
from spct_plugin.engines import Choice, Engine, EngineConfig, Request
from spct_plugin.meta_rm import MetaRM, MetaRMConfig
from spct_plugin.redteam import Attempt, Family, Scene
from spct_plugin.templates import Template
from spct_plugin.voting import Tally, Vote, tally


class KeywordConfig(EngineConfig):
    """A judge without a model: a completion with the word gets 10, any other 1."""

    kind: Literal["keyword"] = "keyword"
    """This engine."""
    word: str
    """The word to look for."""

    @property
    def native_template(self) -> str:
        """The engine reads only its own template."""
        return "lines"

    def build(self) -> Engine:
        """Make the engine."""
        return KeywordEngine(self.word)


class KeywordEngine:
    """Answers for every line of the prompt whether the word is in it."""

    context = None

    def __init__(self, word: str) -> None:
        self.identity = f"keyword:{word}"
        self._word = word

    async def generate(self, request: Request) -> list[Choice]:
        """Score the lines; all choices of a request are the same."""
        scores = [10 if self._word in line else 1 for line in request.prompt.splitlines()]
        text = f"Scores: \\boxed{{{', '.join(map(str, scores))}}}"
        return [Choice(text, "stop", len(scores))] * len(request.votes)

    def fits(self, prompt: str, max_tokens: int) -> bool:
        """Say yes to every length."""
        return True

    async def aclose(self) -> None:
        """Do nothing: there is nothing to give back."""


class ShortConfig(MetaRMConfig):
    """A meta RM without a model: the shorter a judgement, the better."""

    kind: Literal["short"] = "short"
    """This meta RM."""

    def build(self, template: Template) -> MetaRM:
        """Make the meta RM; it looks at judgements only and needs no template."""
        return ShortMetaRM()


class ShortMetaRM:
    """Scores a judgement by its length."""

    identity = "short"

    async def score(self, task: JudgeTask, judgements: Sequence[Judgement]) -> list[float | None]:
        """Give minus the number of characters."""
        return [-float(len(judgement.text)) for judgement in judgements]

    async def aclose(self) -> None:
        """Do nothing: there is nothing to give back."""


class LinesTemplate:
    """One JSON text per completion and line, without any instruction."""

    name = "lines"
    scale = (1, 10)
    max_responses = None

    def render(self, task: JudgeTask, order: Sequence[int], nonce: str = "") -> str:
        """Write the completions, one per line."""
        completions = task.as_dict()["completions"]
        return "\n".join(json.dumps(completions[index]) for index in order)

    def parse(self, text: str, n: int, finish_reason: str | None) -> ParsedJudgement:
        """Read the answer like any other."""
        return parse_judgement(text, n, finish_reason, self.scale)


def vote_median(scores_K_N: Sequence[Sequence[int | None]], n: int) -> Tally:
    """Take the median instead of the mean, so that one wild judgement changes little."""
    counted = tally(scores_K_N, n)
    columns = [[row[i] for row in scores_K_N] for i in range(n)]
    seen = [[score for score in column if score is not None] for column in columns]
    medians = tuple(float(median(scores)) if scores else None for scores in seen)
    return Tally(medians, counted.votes, counted.spread)


def read_good_bad(row: Row) -> Iterator[Example]:
    """Read {"ask": ..., "good": ..., "bad": ...}."""
    yield Example(text(row, "ask"), [text(row, "good"), text(row, "bad")], best=0)


def shout(scene: Scene) -> Iterator[Attempt]:
    """Shout the weak answer; its twin is the weak answer."""
    yield scene.dressed("capitals", scene.weak.upper(), where="instead")
    yield scene.dressed("exclamation", "I can please everybody!!!")


def count_words(
    text: Annotated[str, typer.Argument(help="Any text.")],
) -> None:
    """Count the words of a text."""
    typer.echo(len(text.split()))


@hookimpl
def spct_register_engines(register: Callable[[str, type[EngineConfig]], None]) -> None:
    """Add the engine."""
    register("keyword", KeywordConfig)


@hookimpl
def spct_register_meta_rms(register: Callable[[str, type[MetaRMConfig]], None]) -> None:
    """Add the meta RM."""
    register("short", ShortConfig)


@hookimpl
def spct_register_templates(register: Callable[[str, LinesTemplate], None]) -> None:
    """Add the template."""
    register("lines", LinesTemplate())


@hookimpl
def spct_register_votes(register: Callable[[str, Vote], None]) -> None:
    """Add the vote."""
    register("median", vote_median)


@hookimpl
def spct_register_sources(register: Callable[[str, Source], None]) -> None:
    """Add the source."""
    register("good-bad", Source(read_good_bad))


@hookimpl
def spct_register_attacks(register: Callable[[str, Family], None]) -> None:
    """Add the attacks."""
    register("shouting", Family(shout, "The same, only louder"))


@hookimpl
def spct_register_commands(register: Callable[[str, Callable[..., None]], None]) -> None:
    """Add the command `spct count-words`."""
    register("count-words", count_words)
