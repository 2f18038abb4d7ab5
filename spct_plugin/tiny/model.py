"""The tiny models: their tokenizer, their shape, and how to load one.

    model, tokenizer = load_model(spct_plugin.tiny.MODELS / "grm")

Trained by `recipes/tiny/` on the offline world; they know nothing else. This module knows nothing
of the world: whoever builds a tokenizer brings the texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
CONTEXT = 1024
"""Tokens of prompt and answer together; a group of four takes about 200."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}"
    "<|assistant|>{% generation %}{{ message.content }}<|end|>{% endgeneration %}"
    "{%- else -%}<|user|>{{ message.content }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)

# A number "[2.1]", every other digit and most marks stand alone. Lower-case words in a row may be
# one token, so that a whole phrase is one; a colon may join the words after it, so that a finding
# directly follows what was looked for. Whatever matches nothing stays in one piece, in bytes.
_UNITS = r" ?\[[0-9]+\.[0-9]+\]| ?[0-9]|:? ?[A-Z]?[a-z]+(?: [a-z]+)*| ?[A-Z]| ?[^\sA-Za-z0-9\[\]]+"


def build_tokenizer(texts: Iterable[str], vocabulary: int = 1536) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: any text can be fed, and decodes to itself."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_UNITS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=10,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    """Make an untrained Llama of about a million parameters (float32, CPU)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=tokenizer.get_vocab()[END],
        pad_token_id=tokenizer.get_vocab()[PAD],
    )
    return LlamaForCausalLM(config)


def load_model(path: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load a tiny model and its tokenizer, float32 on the CPU, ready to generate."""
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(path)
