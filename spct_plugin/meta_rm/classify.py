"""A meta RM behind HTTP: vLLM's /classify, asked for the raw logit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from spct_plugin.engines.http import HTTPClient
from spct_plugin.engines.pool import Pool
from spct_plugin.errors import EngineError
from spct_plugin.loop import gather_or_cancel
from spct_plugin.meta_rm import Unscored, meta_identity, meta_messages
from spct_plugin.meta_rm.builtin import ClassifyConfig
from spct_plugin.templates import Template, break_control
from spct_plugin.types import Judgement, JudgeTask, is_list, is_mapping


class ClassifyMetaRM:
    """Asks a server for one logit per judgement.

    A judgement that the server refuses or fails to score after the retries has no score: it ranks
    after those that have one, and when none has, all are voted.

    Args:
        config: Where and how.
        template: Shows the task.

    Attributes:
        pool: The servers: add, remove and read them here.

    Raises:
        ConfigError: The key's environment variable is not set, or a file of addresses is no good.
    """

    def __init__(self, config: ClassifyConfig, template: Template) -> None:
        self._unscored = Unscored()
        self._template = template
        self._client = HTTPClient(config, "meta_rm")
        self.pool: Pool = self._client.pool
        self.identity = meta_identity(self._client.identity, template)

    async def score(self, task: JudgeTask, judgements: Sequence[Judgement]) -> list[float | None]:
        """Give each judgement's logit, one request each; None where there is none."""
        group = task.digest() if judgements else b""
        return await gather_or_cancel([self._score_one(task, j, group) for j in judgements])

    async def sleep(self, *urls: str, level: int = 1) -> None:
        """Do what `OpenAIEngine.sleep` does.

        Raises:
            EngineError: A server did not go to sleep, and is asked as before.
        """
        await self._client.sleep(*urls, level=level)

    async def wake(self, *urls: str) -> None:
        """Do what `OpenAIEngine.wake` does.

        Raises:
            EngineError: A server did not wake.
        """
        await self._client.wake(*urls)

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        await self._client.aclose()

    async def _score_one(self, task: JudgeTask, judgement: Judgement, group: bytes) -> float | None:
        body = self._body(task, judgement)
        try:
            return await self._client.ask("/classify", body, _logit, group=group)
        except EngineError as error:
            self._unscored.note(error.failure, str(error))
            return None

    def _body(self, task: JudgeTask, judgement: Judgement) -> dict[str, Any]:
        # Which tokenizer reads the judgement is the server's secret: break what any could have.
        text = break_control(judgement.text)
        return {
            "model": self._client.config.model,
            "messages": meta_messages(self._template, task, judgement.order, text),
            "add_generation_prompt": False,
            # vLLM's default is the sigmoid, or not, by the checkpoint's problem_type.
            "use_activation": False,
        }


def _logit(answer: object) -> float:
    """Read the one number of an answer.

    Raises:
        EngineError: There is none, or there are several: the model has another number of labels.
    """
    data = answer.get("data") if is_mapping(answer) else None
    first = data[0] if is_list(data) and data else None
    numbers = first.get("probs") if is_mapping(first) else None
    if not is_list(numbers) or len(numbers) != 1:
        raise EngineError(
            f"expected the logit of a classifier with 1 label, found {str(answer)[:200]}"
        )
    if not isinstance(numbers[0], int | float) or not math.isfinite(numbers[0]):
        raise EngineError(f"expected a number, found {numbers[0]!r}", failure="no_scores")
    return float(numbers[0])
