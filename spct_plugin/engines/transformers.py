"""Answers from a model in this process, by transformers' own `generate`.

For tests, small judges and machines without a server; a large judge belongs behind vLLM. Requests
that arrive together are sorted by length and generated together, in a thread of their own; judges
of one process take turns. The choices of one prompt share its prefill: computed once, copied into
the static cache of all.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from spct_plugin.engines import Choice, Request
from spct_plugin.engines.batching import Batcher, Waiting
from spct_plugin.engines.builtin import TransformersConfig
from spct_plugin.engines.checkpoint import PROCESS_LOCK, Checkpoint
from spct_plugin.errors import EngineError

# Batches' worth of requests that are sorted together: more, and nothing is finished before all is.
# 2: chosen by us; on 200 tasks of the tiny world it cost 3 % more CPU time than to sort all (4 cost
# 2 %), and half of the rows and more were finished after 75 % of the run instead of 7 %.
STRETCH = 2


@dataclass(slots=True)
class _Waiting(Waiting[list[Choice]]):
    """A request, and its prompt as token ids."""

    request: Request
    ids: list[int]


class TransformersEngine:
    """Generates with a causal LM; the weights are loaded by the first request.

    Args:
        config: Which model, and how.

    Raises:
        ConfigError: There is no such model, or its tokenizer has no chat template.
    """

    def __init__(self, config: TransformersConfig) -> None:
        self.config = config
        self._checkpoint = Checkpoint(config, section="engine", bundled="grm", padding_side="left")
        self._tokenizer = self._checkpoint.tokenizer
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self.context = self._checkpoint.context
        self.identity = self._checkpoint.identity
        self._encode = functools.lru_cache(maxsize=1024)(self._encode_prompt)
        self._batcher: Batcher[_Waiting] = Batcher("spct-generate", self._plan, self._generate)
        self._model: Any = None
        self._end_ids: list[int] = []

    async def generate(self, request: Request) -> list[Choice]:
        """Generate one choice per vote, in one batch with what else is waiting.

        Raises:
            EngineError: The device ran out of memory.
        """
        return await self._batcher.ask(_Waiting(request, self._encode(request.prompt)))

    def fits(self, prompt: str, max_tokens: int) -> bool:
        """Count the prompt's tokens; true for models that state no limit."""
        if self.context is None:
            return True
        return len(self._encode(prompt)) + max_tokens <= self.context

    async def aclose(self) -> None:
        """Let go of the weights; a later request loads them again."""
        self._model = None

    def _plan(self, waiting: list[_Waiting]) -> Iterator[list[_Waiting]]:
        """Line up in batches, in the order of arrival but for the sorting within a stretch."""
        size = self.config.batch_size
        return _batches(_by_length(waiting, STRETCH * size), size)

    def _generate(self, batch: Sequence[_Waiting]) -> list[list[Choice]]:
        try:
            return self._generate_batch(batch)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of memory, lower engine.batch_size: {error}") from error

    def _generate_batch(self, batch: Sequence[_Waiting]) -> list[list[Choice]]:
        model = self._load()
        sampling = batch[0].request.sampling
        counts = torch.tensor([len(entry.request.votes) for entry in batch])
        padded = self._tokenizer.pad(
            {"input_ids": [entry.ids for entry in batch]}, return_tensors="pt"
        ).to(model.device)
        # The trainer's own random numbers must not depend on how much was judged.
        devices = [model.device] if model.device.type == "cuda" else []
        with PROCESS_LOCK, torch.inference_mode(), torch.random.fork_rng(devices):
            _seed(model.device, batch[0].request.seed)
            output = model.generate(
                **_expanded(model, padded, counts, sampling.max_tokens),
                max_new_tokens=sampling.max_tokens,
                do_sample=sampling.temperature > 0,
                temperature=sampling.temperature or None,
                top_p=sampling.top_p if sampling.temperature > 0 else None,
                top_k=0 if sampling.temperature > 0 else None,
                pad_token_id=self._tokenizer.pad_token_id,
                disable_compile=True,
                # A checkpoint may say otherwise, as one does that was saved while it was trained.
                use_cache=True,
            )
        written = output[:, padded["input_ids"].shape[1] :].cpu()
        choices = iter([self._choice(row, sampling.max_tokens) for row in written])
        return [[next(choices) for _ in entry.request.votes] for entry in batch]

    def _choice(self, ids: torch.Tensor, max_tokens: int) -> Choice:
        """Cut one row at its end token; without one the answer is not finished."""
        ends = torch.isin(ids, torch.tensor(self._end_ids)).nonzero()
        length = int(ends[0]) if len(ends) else len(ids)
        text = self._tokenizer.decode(ids[:length], skip_special_tokens=True)
        finished = bool(len(ends)) or length < max_tokens
        return Choice(text, "stop" if finished else "length", length)

    def _load(self) -> Any:
        if self._model is None:
            self._model = self._checkpoint.load(AutoModelForCausalLM)
            end = self._model.generation_config.eos_token_id or self._tokenizer.eos_token_id
            self._end_ids = [end] if isinstance(end, int) else list(end)
        return self._model

    def _encode_prompt(self, prompt: str) -> list[int]:
        return self._checkpoint.encode(
            [{"role": "user", "content": prompt}], add_generation_prompt=True
        )


def _seed(device: torch.device, seed: int) -> None:
    """Seed the one generator that is drawn from; `torch.manual_seed` seeds those of all GPUs."""
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    elif device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _expanded(model: Any, padded: Any, counts: torch.Tensor, max_tokens: int) -> dict[str, Any]:
    """Repeat every prompt for its choices; where one has several, compute the prefill only once.

    A window of attention would need the cache cut as the model cuts it, so such models do without.
    """
    ids, mask = padded["input_ids"], padded["attention_mask"]
    repeats = counts.to(ids.device)
    inputs = {
        "input_ids": ids.repeat_interleave(repeats, 0),
        "attention_mask": mask.repeat_interleave(repeats, 0),
    }
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    if int(counts.max()) == 1 or kinds != {"full_attention"} or ids.shape[1] < 2:
        return inputs | {"cache_implementation": "static"}
    prefill: Any = DynamicCache(config=model.config)
    model(
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, :-1],
        past_key_values=prefill,
        use_cache=True,
        logits_to_keep=1,
    )
    length = ids.shape[1]
    cache = StaticCache(config=model.config, max_cache_len=length + max_tokens)
    places = {"cache_position": torch.arange(length - 1, device=ids.device)}
    for index, layer in enumerate(prefill.layers):
        cache.update(
            layer.keys.repeat_interleave(repeats, 0),
            layer.values.repeat_interleave(repeats, 0),
            index,
            places,
        )
    return inputs | {"past_key_values": cache}


def _by_length(waiting: Sequence[_Waiting], size: int) -> list[_Waiting]:
    """Sort by length within stretches of `size` choices, which keep the order of arrival."""
    asked = itertools.accumulate(len(entry.request.votes) for entry in waiting)
    placed = zip(((choices - 1) // size for choices in asked), waiting, strict=True)
    return [entry for _, entry in sorted(placed, key=lambda at: (at[0], len(at[1].ids)))]


def _batches(waiting: Sequence[_Waiting], size: int) -> Iterator[list[_Waiting]]:
    """Cut into batches of at most `size` choices (one request at least) with the same sampling."""
    batch: list[_Waiting] = []
    choices = 0
    for entry in waiting:
        more = len(entry.request.votes)
        same = not batch or entry.request.sampling == batch[0].request.sampling
        if batch and (choices + more > size or not same):
            yield batch
            batch, choices = [], 0
        batch.append(entry)
        choices += more
    if batch:
        yield batch
