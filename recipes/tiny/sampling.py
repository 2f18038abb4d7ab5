"""Sample many short answers from a tiny model, in batches of similar length."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BATCH = 256


@dataclass
class Samples:
    """Answers in the order of their prompts, and what they cost."""

    texts: list[str]
    tokens: int
    seconds: float


@torch.no_grad()
def sample(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> Samples:
    """Answer every prompt once; each is one user message. Temperature 0 is greedy."""
    torch.manual_seed(seed)
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in prompts
    ]
    by_length = sorted(range(len(chats)), key=lambda i: len(chats[i]))
    texts, tokens, started = [""] * len(chats), 0, time.perf_counter()
    for start in range(0, len(chats), BATCH):
        rows = by_length[start : start + BATCH]
        answers = _generate(model, tokenizer, [chats[i] for i in rows], max_tokens, temperature)
        tokens += int((answers != tokenizer.pad_token_id).sum())
        decoded = tokenizer.batch_decode(answers, skip_special_tokens=True)
        for i, text in zip(rows, decoded, strict=True):
            texts[i] = text
    return Samples(texts, tokens, time.perf_counter() - started)


def _generate(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    chats: list[str],
    max_tokens: int,
    temperature: float,
) -> torch.Tensor:
    """Continue one batch: token ids of the answers, (batch, <= max_tokens)."""
    inputs = tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False)
    how = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    ids = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_tokens,
        do_sample=temperature > 0,
        cache_implementation="static",
        **how,
    )
    return ids[:, inputs["input_ids"].shape[1] :]
