"""Rejective fine-tuning and rule-based RL of a judge, on TRL's SFTTrainer and GRPOTrainer.

Source: DeepSeek-GRM (arXiv:2504.02495), section 3 and App. C.
"""

# TRL exports its names lazily and annotates more narrowly than it accepts.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false
from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from datasets import concatenate_datasets
from transformers import AutoConfig
from trl import (
    DatasetMixtureConfig,
    GRPOConfig,
    GRPOTrainer,
    ModelConfig,
    ScriptArguments,
    SFTConfig,
    SFTTrainer,
    get_peft_config,
    get_quantization_config,
)

from spct_plugin.engines.tokenizer import ChatTokenizer
from spct_plugin.errors import ConfigError
from spct_plugin.training.chat import Chat
from spct_trl_outcome import OutcomeReward
from spct_trl_rows import (
    general_rows,
    read_splits,
    with_labels,
    without_long,
    without_long_prompts,
)
from spct_trl_run import digest_of, model_name, run


@dataclass
class RFTArguments(ScriptArguments):
    """What rejective fine-tuning asks for beside TRL's own keys."""

    general_data: str | None = field(
        default=None, metadata={"help": "JSONL of prompt and completion, or messages, to mix in."}
    )
    general_ratio: float = field(
        # 1070K general rows to 186K rejective ones: DeepSeek-GRM (arXiv:2504.02495), App. C.
        default=5.75,
        metadata={"help": "Rows of general_data per rejective row."},
    )


@dataclass
class RLArguments(ScriptArguments):
    """What rule-based RL asks for beside TRL's own keys."""

    reward_funcs: list[str] = field(
        default_factory=lambda: ["spct_trl_outcome.outcome_reward"],
        metadata={"help": "The outcome reward; named so that the file suits trl grpo too."},
    )


def train_rft(
    script: RFTArguments, args: SFTConfig, model: ModelConfig, mixture: DatasetMixtureConfig
) -> None:
    """Fine-tune on what `spct reject` kept."""
    chat = Chat(args.chat_template_path or model_name(model))
    train_rows, eval_rows = read_splits(script, mixture, args)
    train_rows = without_long(train_rows, chat, args.max_length)
    if eval_rows is not None:
        eval_rows = without_long(eval_rows, chat, args.max_length)
    if script.general_data is not None:
        count = round(script.general_ratio * len(train_rows))
        general = general_rows(script.general_data, chat, args.max_length, count, args.seed)
        train_rows = concatenate_datasets([train_rows, general]).shuffle(seed=args.seed)
    trainer = SFTTrainer(
        model=model_name(model),
        args=_with_model(args, model),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
    )
    run(trainer, {"model": model_name(model), "data": digest_of(train_rows)})


def train_rl(
    script: RLArguments, args: GRPOConfig, model: ModelConfig, mixture: DatasetMixtureConfig
) -> None:
    """Reinforce judgements that pick the labelled best."""
    if script.reward_funcs != ["spct_trl_outcome.outcome_reward"]:
        raise ConfigError(
            "reward_funcs: expected [spct_trl_outcome.outcome_reward], found "
            f"{script.reward_funcs}; other rewards are for trl grpo"
        )
    train_rows, eval_rows = read_splits(script, mixture, args)
    tokenizer = ChatTokenizer(model_name(model), revision=model.model_revision).tokenizer
    room = prompt_room(args, model)
    train_rows = without_long_prompts(with_labels(train_rows), tokenizer, room)
    if eval_rows is not None:
        eval_rows = without_long_prompts(with_labels(eval_rows), tokenizer, room)
    trainer = GRPOTrainer(
        model=model_name(model),
        reward_funcs=OutcomeReward(os.environ.get("SPCT_CONFIG") or None),
        args=_with_model(args, model),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
    )
    run(trainer, {"model": model_name(model), "data": digest_of(train_rows)})


def prompt_room(args: GRPOConfig, model: ModelConfig) -> int | None:
    """Find how many tokens a prompt may have beside a judgement; None where no limit is known."""
    config = AutoConfig.from_pretrained(model_name(model), revision=model.model_revision)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (args.vllm_max_model_length, context) if limit is not None]
    return min(limits) - (args.max_completion_length or 0) if limits else None


def _with_model(args: Any, model: ModelConfig) -> Any:
    """Hand the model's keys to the trainer, as TRL's own scripts do."""
    owner = args if hasattr(args, "trust_remote_code") else model
    keys = {
        "revision": model.model_revision,
        "trust_remote_code": owner.trust_remote_code,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
    }
    args.model_init_kwargs = keys | (args.model_init_kwargs or {})
    return args
