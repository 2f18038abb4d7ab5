"""Answers from a model in this process, by transformers' own `generate`.

For tests, small judges and machines without a server; a large judge belongs behind vLLM. Requests
that arrive together are sorted by length and generated together, in a thread of their own. The
choices of one prompt share its prefill: computed once, copied into the static cache of all.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import hashlib
import os
import queue
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    StaticCache,
)

from spct_plugin.engines import Choice, Request
from spct_plugin.engines.builtin import TransformersConfig
from spct_plugin.errors import ConfigError, EngineError
from spct_plugin.tiny import MODELS

# Seconds to gather requests that belong together; chosen by us, nothing next to one generation.
GATHER_S = 0.005


@dataclass(slots=True)
class _Waiting:
    """A request, its prompt as token ids, and who waits for the choices."""

    request: Request
    ids: list[int]
    done: concurrent.futures.Future[list[Choice]]


class TransformersEngine:
    """Generates with a causal LM; the weights are loaded by the first request.

    Args:
        config: Which model, and how.

    Raises:
        ConfigError: There is no such model, or its tokenizer has no chat template.
    """

    def __init__(self, config: TransformersConfig) -> None:
        self.config = config
        self._path = str(MODELS / "grm") if config.model == "tiny" else config.model
        source = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        try:
            model_config = AutoConfig.from_pretrained(self._path, **source)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                self._path, padding_side="left", **source
            )
        except (OSError, ValueError) as error:
            raise _cannot_load(config.model, error) from None
        if not self._tokenizer.chat_template:
            raise ConfigError(
                f"engine.model: the tokenizer of {config.model!r} has no chat template"
            )
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self.context: int | None = getattr(
            model_config.get_text_config(), "max_position_embeddings", None
        )
        self.identity = f"{config.model}@{config.revision or _fingerprint(Path(self._path))}"
        self._device = _device(config.device)
        self._special = _any_of(self._tokenizer.get_added_vocab())
        self._encode = functools.lru_cache(maxsize=1024)(self._encode_prompt)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "spct-generate")
        self._waiting: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        self._model: Any = None
        self._end_ids: list[int] = []

    async def generate(self, request: Request) -> list[Choice]:
        """Generate one choice per vote, in one batch with what else is waiting.

        Raises:
            EngineError: The device ran out of memory.
        """
        entry = _Waiting(request, self._encode(request.prompt), concurrent.futures.Future())
        self._waiting.put(entry)
        self._thread.submit(self._plan)
        return await asyncio.wrap_future(entry.done)

    def fits(self, prompt: str, max_tokens: int) -> bool:
        """Count the prompt's tokens; true for models that state no limit."""
        if self.context is None:
            return True
        return len(self._encode(prompt)) + max_tokens <= self.context

    async def aclose(self) -> None:
        """Let go of the weights; a later request loads them again."""
        self._model = None

    def _plan(self) -> None:
        """Take what is waiting and line it up in batches, shortest prompts first."""
        if self._waiting.empty():
            return
        time.sleep(GATHER_S)
        waiting: list[_Waiting] = []
        while not self._waiting.empty():
            waiting.append(self._waiting.get())
        waiting.sort(key=lambda entry: len(entry.ids))
        for batch in _batches(waiting, self.config.batch_size):
            generated = self._thread.submit(self._generate_wanted, batch)
            generated.add_done_callback(functools.partial(_deliver_failure, batch))

    def _generate_wanted(self, batch: Sequence[_Waiting]) -> None:
        """Generate for those who still wait, and hand out the choices."""
        wanted = [entry for entry in batch if entry.done.set_running_or_notify_cancel()]
        if wanted:
            for entry, choices in zip(wanted, self._generate_batch(wanted), strict=True):
                entry.done.set_result(choices)

    def _generate_batch(self, batch: Sequence[_Waiting]) -> list[list[Choice]]:
        model = self._load()
        sampling = batch[0].request.sampling
        counts = torch.tensor([len(entry.request.votes) for entry in batch])
        padded = self._tokenizer.pad(
            {"input_ids": [entry.ids for entry in batch]}, return_tensors="pt"
        ).to(model.device)
        # The trainer's own random numbers must not depend on how much was judged.
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices):
            torch.manual_seed(batch[0].request.seed)
            output = model.generate(
                **_expanded(model, padded, counts, sampling.max_tokens),
                max_new_tokens=sampling.max_tokens,
                do_sample=sampling.temperature > 0,
                temperature=sampling.temperature or None,
                top_p=sampling.top_p if sampling.temperature > 0 else None,
                top_k=0 if sampling.temperature > 0 else None,
                pad_token_id=self._tokenizer.pad_token_id,
                disable_compile=True,
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
            tiny = self.config.model == "tiny"
            dtype = "float32" if tiny and self.config.dtype == "auto" else self.config.dtype
            try:
                model: Any = AutoModelForCausalLM.from_pretrained(
                    self._path,
                    dtype=dtype,
                    revision=self.config.revision,
                    trust_remote_code=self.config.trust_remote_code,
                )
            except (OSError, ValueError, SafetensorError) as error:
                raise _cannot_load(self.config.model, error) from None
            self._model = model.to(self._device).eval()
            end = self._model.generation_config.eos_token_id or self._tokenizer.eos_token_id
            self._end_ids = [end] if isinstance(end, int) else list(end)
        return self._model

    def _encode_prompt(self, prompt: str) -> list[int]:
        """Render one user message; no text in it becomes one of this tokenizer's special tokens."""
        safe = self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", prompt)
        ids: Any = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": safe}],
            add_generation_prompt=True,
            return_dict=False,
            # What is too long is a failure with a name, and no warning of the tokenizer's.
            tokenizer_kwargs={"verbose": False},
        )
        return list(ids)


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


def _deliver_failure(batch: Sequence[_Waiting], generated: concurrent.futures.Future[None]) -> None:
    """Hand a batch's exception to all who wait for it, so that nobody waits for ever."""
    error = generated.exception()
    if isinstance(error, torch.OutOfMemoryError):
        error = EngineError(f"out of memory, lower engine.batch_size: {error}")
    for entry in batch:
        if error is not None and not entry.done.done():
            entry.done.set_exception(error)


def _any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    """Match any special token that could be spelt inside a text."""
    spelt = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spelt)) or r"(?!)")


def _cannot_load(model: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:300]
    return ConfigError(f"engine.model: cannot load {model!r}: {reason}")


def _device(name: str) -> str:
    """Choose the device; under a launcher every rank has its own GPU.

    Raises:
        ConfigError: There is no such device here.
    """
    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).split("\n")[0]
            raise ConfigError(
                f"engine.device: expected a device of this machine, found {name!r} ({reason})"
            ) from None
        return name
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def _fingerprint(folder: Path) -> str:
    """Tell local weights apart by size, first and last megabyte; "main" for a hub id."""
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(2**20))
            file.seek(max(0, size - 2**20))
            digest.update(file.read())
    return digest.hexdigest()[:12] if files else "main"
