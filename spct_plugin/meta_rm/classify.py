"""A meta RM behind HTTP: vLLM's /classify, asked for the raw logit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from spct_plugin.engines.http import HTTPClient
from spct_plugin.engines.refusals import shown
from spct_plugin.errors import EngineError
from spct_plugin.loop import gather_or_cancel
from spct_plugin.meta_rm import Unscored, meta_identity, meta_messages
from spct_plugin.meta_rm.builtin import ClassifyConfig
from spct_plugin.templates import Template, break_control
from spct_plugin.types import Judgement, JudgeTask, is_list, is_mapping


class ClassifyMetaRM(HTTPClient):
    """Asks a server for one logit per judgement.

    A judgement that the server refuses or fails to score after the retries has no score: it ranks
    after those that have one, and when none has, all are voted.

    Args:
        config: Where and how.
        template: Shows the task.

    Raises:
        ConfigError: The key's environment variable is not set, or a file of addresses is no good.
    """

    def __init__(self, config: ClassifyConfig, template: Template) -> None:
        super().__init__(config, "meta_rm")
        self._unscored = Unscored()
        self._template = template
        self.identity = meta_identity(self.identity, template)

    async def score(self, task: JudgeTask, judgements: Sequence[Judgement]) -> list[float | None]:
        """Give each judgement's logit, one request each; None where there is none."""
        group = task.digest() if judgements else b""
        return await gather_or_cancel([self._score_one(task, j, group) for j in judgements])

    async def _score_one(self, task: JudgeTask, judgement: Judgement, group: bytes) -> float | None:
        body = self._body(task, judgement)
        try:
            return await self.ask("/classify", body, _logit, group=group)
        except EngineError as error:
            self._unscored.note(error.failure, str(error))
            return None

    def _body(self, task: JudgeTask, judgement: Judgement) -> dict[str, Any]:
        # Which tokenizer reads the judgement is the server's secret: break what any could have.
        text = break_control(judgement.text)
        return {
            "model": self.config.model,
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
        raise EngineError(f"expected the logit of a classifier with 1 label, found {shown(answer)}")
    number = numbers[0]
    # Comparing, unlike converting, takes integers of any size; true is one of them.
    if type(number) not in (int, float) or not abs(number) <= sys.float_info.max:
        raise EngineError(f"expected a number, found {shown(number)}", failure="no_scores")
    return float(number)
