"""Answers from an OpenAI-compatible server over HTTP: vLLM, SGLang, a hosted one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spct_plugin.engines import Choice, Request
from spct_plugin.engines.builtin import OpenAIConfig
from spct_plugin.engines.http import HTTPClient
from spct_plugin.errors import EngineError
from spct_plugin.types import is_list, is_mapping

# Bytes of UTF-8 per token for the estimate in `fits`. Chosen by us: English has about 4, Chinese
# about 3, so that it errs towards refusing in time.
BYTES_PER_TOKEN = 3


class OpenAIEngine:
    """Asks a server for chat completions, n choices in one request.

    Args:
        config: Where and how.

    Raises:
        ConfigError: The key's environment variable is not set.
    """

    def __init__(self, config: OpenAIConfig) -> None:
        self.config = config
        self.context = config.context
        self._client = HTTPClient(config, "engine")
        self.identity = self._client.identity

    async def generate(self, request: Request) -> list[Choice]:
        """Ask for one choice per vote, in one request.

        Raises:
            EngineError: No usable answer after the retries.
        """
        return await self._client.ask(
            "/chat/completions",
            self._body(request),
            lambda answer: _choices(answer, len(request.votes)),
        )

    def fits(self, prompt: str, max_tokens: int) -> bool:
        """Estimate from the text's bytes; without a configured context the server decides."""
        if self.context is None:
            return True
        return len(prompt.encode()) / BYTES_PER_TOKEN + max_tokens <= self.context

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        await self._client.aclose()

    def _body(self, request: Request) -> dict[str, Any]:
        return {
            "model": self.config.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "n": len(request.votes),
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "max_tokens": request.sampling.max_tokens,
            "seed": request.seed,
            **self.config.extra_body,
        }


def _choices(answer: object, wanted: int) -> list[Choice]:
    """Read the choices of an answer; a refusal message is a choice that was refused."""
    found = answer.get("choices") if is_mapping(answer) else None
    if not is_list(found) or not found:
        raise EngineError(
            f"expected choices in the answer, found {str(answer)[:200]}", retryable=True
        )
    usage = answer.get("usage") if is_mapping(answer) else None
    total = usage.get("completion_tokens") if is_mapping(usage) else None
    tokens = _share(total, len(found))
    return [_choice(choice, count) for choice, count in zip(found, tokens, strict=True)][:wanted]


def _choice(choice: object, tokens: int) -> Choice:
    message = choice.get("message") if is_mapping(choice) else None
    if not is_mapping(choice) or not is_mapping(message):
        raise EngineError(f"expected a message in a choice, found {str(choice)[:200]}")
    if message.get("refusal"):
        return Choice(str(message["refusal"]), "content_filter", tokens)
    return Choice(str(message.get("content") or ""), choice.get("finish_reason"), tokens)


def _share(total: object, choices: int) -> Sequence[int]:
    """Divide the answer's token count among its choices; servers count only the sum."""
    whole = total if isinstance(total, int) else 0
    return [(whole + index) // choices for index in range(choices)]
