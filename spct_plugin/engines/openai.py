"""Answers from an OpenAI-compatible server over HTTP: vLLM, SGLang, a hosted one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spct_plugin.engines import Choice, Request
from spct_plugin.engines.builtin import OpenAIConfig
from spct_plugin.engines.http import BYTES_PER_TOKEN, HTTPClient
from spct_plugin.engines.refusals import shown
from spct_plugin.errors import EngineError
from spct_plugin.templates import encodable
from spct_plugin.types import is_list, is_mapping

# Tokens of one choice above which a count is not believed. 2**24: chosen by us, more than any
# model's context holds (10 million), and every sum of such counts fits a database's integers.
MOST_TOKENS = 2**24
# Characters kept of a finish reason. 64: chosen by us; the longest in use has 14.
REASON_CHARS = 64


class OpenAIEngine(HTTPClient):
    """Asks a server for chat completions, n choices in one request.

    Args:
        config: Where and how.

    Attributes:
        context: Tokens of prompt and answer it can hold; None = the server decides.

    Raises:
        ConfigError: The key's environment variable is not set, or a file of addresses is no good.
    """

    def __init__(self, config: OpenAIConfig) -> None:
        super().__init__(config, "engine")
        self.context = config.context
        self._extra_body = config.extra_body

    async def generate(self, request: Request) -> list[Choice]:
        """Ask for one choice per vote, in one request.

        Raises:
            EngineError: No usable answer after the retries.
        """
        return await self.ask(
            "/chat/completions",
            self._body(request),
            lambda answer: _choices(answer, len(request.votes)),
            group=request.task,
            answer_tokens=len(request.votes) * request.sampling.max_tokens,
        )

    def fits(self, prompt: str, max_tokens: int) -> bool:
        """Estimate from the text's bytes; without a configured context the server decides."""
        if self.context is None:
            return True
        return len(prompt.encode()) / BYTES_PER_TOKEN + max_tokens <= self.context

    def _body(self, request: Request) -> dict[str, Any]:
        return {
            "model": self.config.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "n": len(request.votes),
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "max_tokens": request.sampling.max_tokens,
            "seed": request.seed,
            **self._extra_body,
        }


def _choices(answer: object, wanted: int) -> list[Choice]:
    """Read the choices of an answer; a refusal message is a choice that was refused."""
    found = answer.get("choices") if is_mapping(answer) else None
    if not is_list(found) or not found:
        raise EngineError(f"expected choices in the answer, found {shown(answer)}", retryable=True)
    usage = answer.get("usage") if is_mapping(answer) else None
    total = usage.get("completion_tokens") if is_mapping(usage) else None
    tokens = _share(total, len(found))
    choices = [_choice(choice, count) for choice, count in zip(found, tokens, strict=True)]
    # What vLLM and SGLang had written when they were sent to sleep, or stopped, is no judgement.
    whole = [choice for choice in choices if choice.finish_reason != "abort"]
    if not whole:
        raise EngineError("the server broke off every choice (abort)", retryable=True)
    return whole[:wanted]


def _choice(choice: object, tokens: int) -> Choice:
    message = choice.get("message") if is_mapping(choice) else None
    if not is_mapping(choice) or not is_mapping(message):
        raise EngineError(f"expected a message in a choice, found {shown(choice)}", retryable=True)
    refusal, reason = message.get("refusal"), choice.get("finish_reason")
    text = refusal or message.get("content") or ""
    if not isinstance(text, str):
        raise EngineError(f"expected a text in a message, found {shown(text)}", retryable=True)
    if refusal:
        return Choice(text, "content_filter", tokens)
    known = encodable(reason[:REASON_CHARS]) if isinstance(reason, str) else None
    return Choice(text, known, tokens)


def _share(total: object, choices: int) -> Sequence[int]:
    """Divide the answer's token count among its choices; servers count only the sum."""
    # No isinstance: JSON's true is an int, too.
    whole = total if type(total) is int and 0 <= total <= MOST_TOKENS * choices else 0
    return [(whole + index) // choices for index in range(choices)]
