"""The one loop around an engine: prompt, ask, parse, put scores back into the caller's order.

Nothing here votes, and nothing raises for a failed judgement: it comes back with its `failure`.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spct_plugin.engines import Choice, Engine, Request, Sampling
from spct_plugin.errors import EngineError
from spct_plugin.failures import Failure
from spct_plugin.loop import gather_or_cancel
from spct_plugin.permutations import Ask
from spct_plugin.store import Store
from spct_plugin.templates import Template
from spct_plugin.types import Judgement, JudgeTask


@dataclass(frozen=True, slots=True)
class Case:
    """A task as the judge meets it.

    Attributes:
        task: What to judge, already reduced to what the judge may read.
        digest: Identifies the task by content.
        seed: Seeds orders and sampling of this task; 32 bytes.
        nonce: Code for the delimiters; "" when off.
        deadline: Event loop time after which judgements are late; None = never.
    """

    task: JudgeTask
    digest: bytes
    seed: bytes
    nonce: str = ""
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What asking brought: choices by vote, and why the other votes have none."""

    choices: Mapping[int, Choice]
    keys: Mapping[int, bytes] = field(default_factory=dict[int, bytes])
    failure: Failure = "engine_error"
    detail: str = ""
    seconds: float = 0.0


class Judge:
    """Asks an engine for judgements by one template.

    Args:
        engine: What answers.
        template: Writes the prompt and reads the answer.
        sampling: How answers are drawn.
        version: Stamped on every judgement.
        store: Where finished judgements are looked up and kept; None = nowhere.
    """

    def __init__(
        self,
        engine: Engine,
        template: Template,
        sampling: Sampling,
        version: str,
        store: Store | None = None,
    ) -> None:
        self._engine = engine
        self._template = template
        self._sampling = sampling
        self._version = version
        self._store = store
        self._identity = f"{engine.identity}\0{sampling}\0".encode()

    async def judge(self, case: Case, asks: Sequence[Ask]) -> list[Judgement]:
        """Get one judgement per vote of every request, in the order of `asks`.

        With a store, judgements are on disk when this returns.
        """
        if len(asks) == 1:
            return await self._ask(case, asks[0])
        answered = await gather_or_cancel([self._ask(case, ask) for ask in asks])
        return [judgement for judgements in answered for judgement in judgements]

    def fits(self, case: Case, order: Sequence[int]) -> bool:
        """Tell whether a prompt with these completions fits the engine's context."""
        prompt = self._template.render(case.task, order, case.nonce)
        return self._engine.fits(prompt, self._sampling.max_tokens)

    async def _ask(self, case: Case, ask: Ask) -> list[Judgement]:
        prompt = self._template.render(case.task, ask.order, case.nonce)
        if not self._engine.fits(prompt, self._sampling.max_tokens):
            detail = f"prompt and {self._sampling.max_tokens} tokens of answer exceed the context"
            outcome = _Outcome({}, failure="too_long", detail=detail)
        elif self._store is None:
            outcome = await self._generate(case, ask, prompt, ask.votes)
        else:
            outcome = await self._generate_missing(case, ask, prompt, self._store)
        return [self._judgement(ask, vote, outcome) for vote in ask.votes]

    async def _generate_missing(self, case: Case, ask: Ask, prompt: str, store: Store) -> _Outcome:
        """Take finished votes from the store, pay for the others, and keep those."""
        base = hashlib.sha256(self._identity + case.seed + prompt.encode())
        keys = {vote: _vote_key(base, vote) for vote in ask.votes}
        known = await store.find(keys)
        missing = tuple(vote for vote in ask.votes if vote not in known)
        if not missing:
            return _Outcome(known, keys)
        outcome = await self._generate(case, ask, prompt, missing)
        await store.keep({keys[vote]: choice for vote, choice in outcome.choices.items()})
        choices = {**known, **outcome.choices} if known else outcome.choices
        return _Outcome(choices, keys, outcome.failure, outcome.detail, outcome.seconds)

    async def _generate(
        self, case: Case, ask: Ask, prompt: str, votes: tuple[int, ...]
    ) -> _Outcome:
        """Ask for one choice per vote; a server that returns fewer is asked for the rest."""
        choices: list[Choice] = []
        failure: Failure = "engine_error"
        detail = ""
        start = time.perf_counter()
        try:
            async with asyncio.timeout_at(case.deadline):
                while len(choices) < len(votes):
                    more = await self._engine.generate(
                        Request(
                            prompt=prompt,
                            votes=votes[len(choices) :],
                            sampling=self._sampling,
                            seed=_request_seed(case.seed, votes[len(choices)], ask.order),
                            task=case.digest,
                            order=ask.order,
                        )
                    )
                    if not more:
                        raise EngineError("the engine gave no choice at all")
                    choices += more
        except EngineError as error:
            failure, detail = error.failure, str(error)
        except TimeoutError:
            failure, detail = "deadline", "not finished within vote.deadline_s"
        found = dict(zip(votes, choices, strict=False))
        return _Outcome(found, {}, failure, detail, time.perf_counter() - start)

    def _judgement(self, ask: Ask, vote: int, outcome: _Outcome) -> Judgement:
        indices = tuple(sorted(ask.order))
        choice = outcome.choices.get(vote)
        if choice is None:
            return Judgement(
                indices,
                ask.order,
                None,
                failure=outcome.failure,
                detail=outcome.detail,
                seconds=outcome.seconds,
                vote=vote,
                version=self._version,
            )
        parsed = self._template.parse(choice.text, len(indices), choice.finish_reason)
        scores = parsed.scores
        if scores is not None:
            scores = tuple(score for _, score in sorted(zip(ask.order, scores, strict=True)))
        return Judgement(
            indices,
            ask.order,
            scores,
            failure=parsed.failure,
            principles=parsed.principles,
            critique=parsed.critique,
            text=choice.text,
            finish_reason=choice.finish_reason,
            detail=parsed.detail,
            tokens=choice.tokens,
            seconds=outcome.seconds,
            vote=vote,
            version=self._version,
            key=key.hex() if (key := outcome.keys.get(vote)) else "",
        )


def _vote_key(base: Any, vote: int) -> bytes:
    key = base.copy()
    key.update(b"%d" % vote)
    return key.digest()


def _request_seed(seed: bytes, vote: int, order: Sequence[int]) -> int:
    """Give a request its own seed in 0..2**31 - 1, the range every server takes."""
    text = seed + f"{vote}{tuple(order)}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") % 2**31
