"""Answers from an OpenAI-compatible server over HTTP: vLLM, SGLang, a hosted one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spct_plugin.engines import Choice, Request
from spct_plugin.engines.builtin import OpenAIConfig
from spct_plugin.engines.http import BYTES_PER_TOKEN, HTTPClient
from spct_plugin.engines.pool import Pool
from spct_plugin.errors import EngineError
from spct_plugin.types import is_list, is_mapping


class OpenAIEngine:
    """Asks a server for chat completions, n choices in one request.

    Args:
        config: Where and how.

    Attributes:
        pool: The servers: add, remove and read them here.

    Raises:
        ConfigError: The key's environment variable is not set, or a file of addresses is no good.
    """

    def __init__(self, config: OpenAIConfig) -> None:
        self.config = config
        self.context = config.context
        self._client = HTTPClient(config, "engine")
        self.identity = self._client.identity
        self.pool: Pool = self._client.pool

    async def generate(self, request: Request) -> list[Choice]:
        """Ask for one choice per vote, in one request.

        Raises:
            EngineError: No usable answer after the retries.
        """
        return await self._client.ask(
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

    async def sleep(self, *urls: str, level: int = 1) -> None:
        """Free the GPUs of vLLM servers when they have answered; requests wait or go elsewhere.

        Args:
            urls: Which servers; none = all.
            level: vLLM's: 1 keeps the weights in the host's memory; 2 drops them, and whoever wakes
                the server must load them again.

        Raises:
            EngineError: A server did not go to sleep, and is asked as before.
        """
        await self._client.sleep(*urls, level=level)

    async def wake(self, *urls: str) -> None:
        """Wake servers that sleep: those named, or all.

        Raises:
            EngineError: A server did not wake.
        """
        await self._client.wake(*urls)

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
    choices = [_choice(choice, count) for choice, count in zip(found, tokens, strict=True)]
    # What vLLM and SGLang had written when they were sent to sleep, or stopped, is no judgement.
    whole = [choice for choice in choices if choice.finish_reason != "abort"]
    if not whole:
        raise EngineError("the server broke off every choice (abort)", retryable=True)
    return whole[:wanted]


def _choice(choice: object, tokens: int) -> Choice:
    message = choice.get("message") if is_mapping(choice) else None
    if not is_mapping(choice) or not is_mapping(message):
        raise EngineError(
            f"expected a message in a choice, found {str(choice)[:200]}", retryable=True
        )
    if message.get("refusal"):
        return Choice(str(message["refusal"]), "content_filter", tokens)
    reason = choice.get("finish_reason")
    return Choice(str(message.get("content") or ""), reason and str(reason), tokens)


def _share(total: object, choices: int) -> Sequence[int]:
    """Divide the answer's token count among its choices; servers count only the sum."""
    whole = max(total, 0) if isinstance(total, int) else 0
    return [(whole + index) // choices for index in range(choices)]
