"""A meta RM in this process: a transformers classifier with one label, its raw logit the score.

Judgements of many groups that arrive together are sorted by length and scored together, in a thread
of their own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from spct_plugin.engines.batching import Batcher, Waiting
from spct_plugin.engines.checkpoint import Checkpoint
from spct_plugin.errors import ConfigError
from spct_plugin.meta_rm import Unscored, meta_identity, meta_messages
from spct_plugin.meta_rm.builtin import TransformersMetaConfig
from spct_plugin.templates import Template
from spct_plugin.types import Judgement, JudgeTask


@dataclass(slots=True)
class _Waiting(Waiting[float | None]):
    """A judgement as a chat of two turns."""

    messages: list[dict[str, str]]

    @property
    def length(self) -> int:
        """Characters, which go with tokens."""
        return sum(len(message["content"]) for message in self.messages)


class TransformersMetaRM:
    """Scores with a sequence classifier; the weights are loaded by the first request.

    Args:
        config: Which model, and how.
        template: Shows the task.

    Raises:
        ConfigError: There is no such model, or it is no scalar classifier that can be padded.
    """

    def __init__(self, config: TransformersMetaConfig, template: Template) -> None:
        self._unscored = Unscored()
        self._config = config
        self._template = template
        self._checkpoint = Checkpoint(
            config, section="meta_rm", bundled="meta_rm", padding_side="right"
        )
        self.identity = meta_identity(self._checkpoint.identity, template)
        self._check_labels()
        self._checkpoint.chats.check_padding()
        self._batcher: Batcher[_Waiting] = Batcher("spct-meta-rm", self._plan, self._score)
        self._model: Any = None

    async def score(self, task: JudgeTask, judgements: Sequence[Judgement]) -> list[float | None]:
        """Give each judgement's logit; None where it is too long or no number comes out.

        Raises:
            ConfigError: The weights cannot be loaded.
        """
        waiting = [
            _Waiting(meta_messages(self._template, task, judgement.order, judgement.text))
            for judgement in judgements
        ]
        return await asyncio.gather(*(self._batcher.ask(entry) for entry in waiting))

    async def aclose(self) -> None:
        """Let go of the weights; a later request loads them again."""
        self._model = None

    def _check_labels(self) -> None:
        config = self._checkpoint.config
        if config.architectures == ["RewardModel"]:
            # OpenRLHF's train_rm saves one label and does not say so.
            config.num_labels = 1
        labels = config.num_labels
        if labels != 1:
            raise ConfigError(
                f"meta_rm.model: expected a classifier with 1 label, found {labels} in "
                f"{self._config.model!r}; train one with num_labels=1"
            )

    def _plan(self, waiting: list[_Waiting]) -> Iterator[list[_Waiting]]:
        """Line up in batches, shortest first, so that little is padding."""
        waiting.sort(key=lambda entry: entry.length)
        size = self._config.batch_size
        for start in range(0, len(waiting), size):
            yield waiting[start : start + size]

    def _score(self, batch: Sequence[_Waiting]) -> list[float | None]:
        """Score what fits the context."""
        rows = [
            self._checkpoint.encode(entry.messages, add_generation_prompt=False) for entry in batch
        ]
        fitting = [place for place, ids in enumerate(rows) if self._fits(ids)]
        scores: list[float | None] = [None] * len(rows)
        if fitting:
            logits = self._logits([rows[place] for place in fitting])
            for place, logit in zip(fitting, logits, strict=True):
                scores[place] = logit
        return scores

    def _logits(self, rows: Sequence[list[int]]) -> list[float | None]:
        model = self._load()
        padded = self._checkpoint.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        try:
            with torch.inference_mode():
                logits = model(**padded.to(model.device)).logits
        except torch.OutOfMemoryError as error:
            for _ in rows:
                self._unscored.note("engine_error", f"lower meta_rm.batch_size: {error}")
            return [None] * len(rows)
        return [self._finite(logit) for logit in logits[:, 0].float().tolist()]

    def _fits(self, ids: Sequence[int]) -> bool:
        """Tell whether the context holds a row, and take note of one that it does not."""
        limit = self._checkpoint.context
        if limit is None or len(ids) <= limit:
            return True
        self._unscored.note("too_long", f"{len(ids)} tokens for a context of {limit}")
        return False

    def _finite(self, logit: float) -> float | None:
        if math.isfinite(logit):
            return logit
        self._unscored.note("no_scores", f"expected a number, found {logit}")
        return None

    def _load(self) -> Any:
        if self._model is None:
            model = self._checkpoint.load(AutoModelForSequenceClassification)
            # transformers takes the logit of the last token that is not this one.
            padding = self._checkpoint.tokenizer.pad_token_id
            model.config.get_text_config().pad_token_id = padding
            self._model = model
        return self._model
